"""Snapshots of format 1, as the first releases made them: only taken, not made.

All chunks hold pages and come in order; the root is looked at when the last is in.
"""

import hashlib
from dataclasses import dataclass, field

import msgspec

from sealift.base import (
    Digest,
    InvariantError,
    SealiftError,
    StateRoot,
    decode,
    encode,
)
from sealift.crypto import hkdf, hmac_sha256, open_sealed
from sealift.frame import PageStore, root_of_pages
from sealift.protocol.ecall import MAX_FRAME_BYTES

from ._errors import (
    SnapshotForgedError,
    SnapshotOrderError,
    StateRootMismatchError,
)
from ._keystore import KeyStore
from ._state import ShardState, SnapshotBody, keyed_root, loaded_state

FORMAT = 1
_DOMAIN = b"sealift/snapshot/v1\x00"
_SALT = 32


@dataclass(slots=True, kw_only=True)
class OrderedIntake:
    """A snapshot on its way in; its header is authentic.

    Attributes:
        header: What names it.
        facts: What the header says.
        own: This very instance made it.
        store: Where the pages go; ``None``: it is only checked.
    """

    header: bytes
    facts: SnapshotBody
    own: bool
    store: PageStore | None
    _index: int = field(init=False, default=0)
    _digests: list[bytes] = field(init=False, default_factory=list)
    _root: StateRoot | None = field(init=False, default=None)

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return len(self.facts.starts)

    @property
    def missing(self) -> int:
        """How many chunks have not come."""
        return self.chunks - self._index

    @property
    def next_missing(self) -> int | None:
        """The next chunk."""
        return self._index if self.missing else None

    def take(self, keys: KeyStore, index: int, data: bytes) -> None:
        """Open the next chunk and keep its pages.

        1. It is the next one. 2. It opens, bound to header and place. 3. It holds
        exactly its pages.

        Raises:
            SnapshotOrderError: 1: skipped or repeated.
            SnapshotForgedError: 2 or 3.
        """
        # 1.
        if index != self._index or not self.missing:
            raise SnapshotOrderError(
                "not the next chunk", got=index, expected=self._index
            )
        # 2.
        salt, sealed = data[:_SALT], data[_SALT:]
        context = _DOMAIN + msgspec.msgpack.encode((self.header, index, salt))
        epoch = keys.epoch(self.facts.epoch)
        key = hkdf(epoch.state_key, info=context)
        try:
            plain = open_sealed(key, sealed, context=context, what=f"chunk {index}")
            pages = decode(list[bytes], plain, limit=MAX_FRAME_BYTES)
        except SealiftError as error:
            raise SnapshotForgedError(
                f"chunk {index} does not open ({error.code})",
                hint="It is kept as it is; nothing was overwritten.",
            ) from error
        # 3.
        starts = (*self.facts.starts, 1 << self.facts.page_bits)
        first, end = starts[index], starts[index + 1]
        if len(pages) != end - first:
            raise SnapshotForgedError(
                f"chunk {index} has other pages", got=len(pages), expected=end - first
            )
        digests = [hashlib.sha256(page).digest() for page in pages]
        self._digests += digests
        if self.store is not None:
            self.store.put_pages(first, pages, digests)
        self._index += 1
        if not self.missing:
            self._root = keyed_root(
                epoch,
                self.facts.shard,
                self.facts.root_height,
                root_of_pages(self._digests),
            )

    def check_whole(self) -> None:
        """Return only if the pages of all chunks lead to the header's root.

        Raises:
            StateRootMismatchError: They do not.
        """
        if self._root != self.facts.root:
            raise StateRootMismatchError(
                "the snapshot leads to another root",
                got="none yet" if self._root is None else self._root,
                expected=self.facts.root.hex(),
            )

    def state(self) -> ShardState:
        """The state that all chunks together are.

        Raises:
            StateRootMismatchError: As :meth:`check_whole`.
            InvariantError: They were only checked.
        """
        self.check_whole()
        if self.store is None:
            raise InvariantError("a snapshot that is only checked is no state")
        state = loaded_state(self.facts, self.store, last=None, own=self.own)
        state.last = state.last_block()
        return state


def header_mac(keys: KeyStore, epoch: int, raw: bytes) -> Digest:
    """What only holders of the epoch's state key can put beside a header.

    Raises:
        NoKeysError: The epoch's keys are not held.
    """
    key = hkdf(keys.epoch(epoch).state_key, info=_DOMAIN + b"header")
    return hmac_sha256(key, _DOMAIN + raw)


def own_mac(keys: KeyStore, body: SnapshotBody) -> Digest:
    """What only the very instance that made it can put into a header."""
    plain = msgspec.structs.replace(body, own=bytes(32))
    return hmac_sha256(keys.derived("snapshot"), _DOMAIN + encode(plain))
