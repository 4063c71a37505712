"""Snapshots, format 2: a header, a head, and pages in chunks that stand alone.

Chunk 0 is the head: the digests of all groups of pages, which lead to the root of
the header. Every other chunk is verified against it as it comes. Each is sealed
under a key of its own, from all that names it and fresh random bytes (DESIGN
§10.6): a chunk of another snapshot, another place, cut or altered, does not open.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from sealift.base import (
    Digest,
    InvariantError,
    Message,
    SealiftError,
    decode,
    encode,
)
from sealift.crypto import (
    Entropy,
    hkdf,
    hmac_sha256,
    open_sealed,
    seal,
    sha256,
)
from sealift.frame import (
    PageStore,
    SnapshotHead,
    SnapshotPages,
    SnapshotRefusedError,
    SnapshotVerifier,
    snapshot_head,
    snapshot_pages,
    snapshot_starts,
)
from sealift.protocol.ecall import CHUNK_BYTES, MAX_FRAME_BYTES

from ._errors import (
    SnapshotForgedError,
    SnapshotOrderError,
    StateRootMismatchError,
)
from ._keystore import KeyStore
from ._state import (
    SealedSnapshotHeader,
    ShardState,
    SnapshotFacts,
    keyed_root,
    loaded_state,
)

#: The format that exports have.
FORMAT = 2
M = TypeVar("M", bound=Message)
_DOMAIN = b"sealift/snapshot/v2\x00"
_SALT = 32
_HEAD = 0


@dataclass(slots=True, kw_only=True)
class Export:
    """A state as it was when the export was begun; later blocks don't show.

    Its pages are shared with the state until that one changes them.
    """

    header: bytes
    facts: SnapshotFacts
    store: PageStore

    @property
    def chunks(self) -> int:
        """How many chunks there are, the head among them."""
        return len(self.facts.starts) + 1

    def chunk(self, keys: KeyStore, index: int, *, entropy: Entropy) -> bytes:
        """Seal one chunk; the same one may be asked for again.

        Raises:
            SnapshotOrderError: There is no such chunk.
        """
        _check_index(index, self.chunks)
        salt = entropy(_SALT)
        context = _context(self.facts, sha256(self.header), index, salt)
        key = hkdf(keys.epoch(self.facts.epoch).state_key, info=context)
        if index == _HEAD:
            plain = encode(snapshot_head(self.store))
        else:
            plain = encode(snapshot_pages(self.store, *_range(self.facts, index)))
        return salt + seal(key, plain, context=context, entropy=entropy)


@dataclass(slots=True, kw_only=True)
class ChunkedIntake:
    """A snapshot on its way in; its header is authentic.

    Attributes:
        header: What names it.
        facts: What the header says.
        own: This very instance made it.
        store: Where the pages go; ``None``: it is only checked.
    """

    header: bytes
    facts: SnapshotFacts
    own: bool
    store: PageStore | None
    _digest: Digest = field(init=False)
    _verifier: SnapshotVerifier | None = field(init=False, default=None)
    _missing: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self._digest = sha256(self.header)
        self._missing = bytearray(b"\x01" * (len(self.facts.starts) + 1))

    @property
    def chunks(self) -> int:
        """How many chunks there are, the head among them."""
        return len(self._missing)

    @property
    def missing(self) -> int:
        """How many chunks have not come."""
        return self._missing.count(1)

    @property
    def next_missing(self) -> int | None:
        """The first chunk that has not come."""
        at = self._missing.find(1)
        return None if at < 0 else at

    def take(self, keys: KeyStore, index: int, data: bytes) -> None:
        """Verify a chunk, and keep its pages; again and again, in any order.

        1. There is such a chunk, and the head has come before it. 2. It opens,
        bound to header and place. 3. The head leads to the header's root. 4. Pages
        are those that the header names for this chunk, and the head's.

        Raises:
            SnapshotOrderError: 1.
            SnapshotForgedError: 2 or 4.
            StateRootMismatchError: 3.
        """
        # 1.
        _check_index(index, self.chunks)
        verifier = self._verifier
        if index == _HEAD:
            # 2. and 3.
            head = self._open(keys, index, data, SnapshotHead)
            self._verifier = self._verified(keys, head)
        elif verifier is None:
            raise SnapshotOrderError(
                "the head of the snapshot comes first", got=index, expected=_HEAD
            )
        else:
            # 2.
            run = self._open(keys, index, data, SnapshotPages)
            # 4.
            self._take_pages(verifier, index, run)
        self._missing[index] = 0

    def check_whole(self) -> None:
        """Return: every chunk was verified when it came."""

    def state(self) -> ShardState:
        """The state that all chunks together are.

        Raises:
            InvariantError: Some are missing, or they were only checked.
        """
        if self.missing or self.store is None:
            raise InvariantError("no whole snapshot", got=f"{self.missing} missing")
        return loaded_state(self.facts, self.store, last=self.facts.last, own=self.own)

    def _open(self, keys: KeyStore, index: int, data: bytes, kind: type[M]) -> M:
        salt, sealed = data[:_SALT], data[_SALT:]
        context = _context(self.facts, self._digest, index, salt)
        key = hkdf(keys.epoch(self.facts.epoch).state_key, info=context)
        try:
            plain = open_sealed(key, sealed, context=context, what=f"chunk {index}")
            return decode(kind, plain, limit=MAX_FRAME_BYTES)
        except SealiftError as error:
            raise _forged(index, error) from error

    def _verified(self, keys: KeyStore, head: SnapshotHead) -> SnapshotVerifier:
        """3: what a head says, if it leads to the root of the header."""
        facts = self.facts
        try:
            verifier = SnapshotVerifier(head, bits=facts.page_bits)
        except SnapshotRefusedError as error:
            raise _forged(_HEAD, error) from error
        epoch = keys.epoch(facts.epoch)
        root = keyed_root(epoch, facts.shard, facts.root_height, verifier.root)
        if root != facts.root:
            raise StateRootMismatchError(
                "the head of the snapshot leads to another root",
                got=root,
                expected=facts.root.hex(),
            )
        return verifier

    def _take_pages(
        self, verifier: SnapshotVerifier, index: int, run: SnapshotPages
    ) -> None:
        """4: pages that are the head's, at the place of this chunk."""
        first, end = _range(self.facts, index)
        if (run.first, run.end) != (first, end):
            raise SnapshotForgedError(
                f"chunk {index} has other pages",
                got=f"{run.first} … {run.end - 1}",
                expected=f"{first} … {end - 1}",
            )
        try:
            digests = verifier.verify(run)
        except SnapshotRefusedError as error:
            raise _forged(index, error) from error
        if self.store is not None:
            self.store.put_pages(first, run.pages, digests)


def begin_export(keys: KeyStore, state: ShardState, *, entropy: Entropy) -> Export:
    """Fix what is exported: the state as it is now, under its height's epoch.

    Raises:
        NoKeysError: They are not held.
    """
    store = state.store.copy()
    plain = SnapshotFacts(
        format=FORMAT,
        chain_id=keys.chain_id,
        shard=keys.shard,
        epoch=state.epoch,
        maker=keys.signing_key,
        height=state.height,
        last=state.last_block(),
        root=state.root,
        root_height=state.root_height,
        time=state.time,
        page_bits=store.bits,
        starts=snapshot_starts(store, size=CHUNK_BYTES),
        trail=tuple(state.trail),
        trusted=state.trusted,
        salt=entropy(_SALT),
    )
    facts = msgspec.structs.replace(plain, own=own_mac(keys, plain))
    raw = encode(facts)
    header = SealedSnapshotHeader(body=raw, mac=header_mac(keys, facts.epoch, raw))
    return Export(header=encode(header), facts=facts, store=store)


def header_mac(keys: KeyStore, epoch: int, raw: bytes) -> Digest:
    """What only holders of the epoch's state key can put beside a header.

    Raises:
        NoKeysError: The epoch's keys are not held.
    """
    key = hkdf(keys.epoch(epoch).state_key, info=_DOMAIN + b"header")
    return hmac_sha256(key, _DOMAIN + raw)


def own_mac(keys: KeyStore, facts: SnapshotFacts) -> Digest:
    """What only this very instance can put into a header."""
    plain = msgspec.structs.replace(facts, own=bytes(32))
    return hmac_sha256(keys.derived("snapshot"), _DOMAIN + encode(plain))


def _range(facts: SnapshotFacts, index: int) -> tuple[int, int]:
    """First page of a chunk after the head, and the page after its last."""
    after = facts.starts[index : index + 1] or (1 << facts.page_bits,)
    return facts.starts[index - 1], after[0]


def _check_index(index: int, chunks: int) -> None:
    if not 0 <= index < chunks:
        raise SnapshotOrderError(
            "no such chunk", got=index, expected=f"0 … {chunks - 1}"
        )


def _context(facts: SnapshotFacts, header: Digest, index: int, salt: bytes) -> bytes:
    """All that names a chunk: key and associated data are made of it."""
    kind = "head" if index == _HEAD else "pages"
    where = (facts.chain_id, facts.shard, facts.epoch, facts.height, facts.last)
    return _DOMAIN + encode((kind, *where, facts.root, header, index, salt))


def _forged(index: int, error: SealiftError) -> SnapshotForgedError:
    return SnapshotForgedError(
        f"chunk {index} is not of this snapshot ({error.code})",
        hint="It is kept as it is; nothing was overwritten.",
    )
