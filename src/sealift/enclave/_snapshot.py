"""Snapshots: the pages of a state in chunks, each sealed under its own key.

Header and place are part of every chunk's key and associated data: a chunk of
another snapshot, another place, cut or altered, does not open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sealift.base import (
    Digest,
    SealiftError,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import (
    Entropy,
    constant_time_equal,
    hkdf,
    hmac_sha256,
    open_sealed,
    seal,
)
from sealift.frame import PageStore
from sealift.protocol.ecall import CHUNK_BYTES, MAX_FRAME_BYTES

from ._epochs import check_epoch
from ._errors import (
    ForeignSnapshotError,
    SnapshotForgedError,
    SnapshotOrderError,
    StateRootMismatchError,
)
from ._keystore import KeyStore
from ._state import (
    SealedSnapshotHeader,
    ShardState,
    SnapshotBody,
    keyed_root,
    page_key,
)
from ._view import BIRTH_EPOCH, ChainView

_DOMAIN = b"sealift/snapshot/v1\x00"
_FORMAT = 1
_SALT = 32
_MAX_CHUNKS = 1 << 22
_MAX_BITS = 22


@dataclass(slots=True, kw_only=True)
class Export:
    """A state as it was when the export was begun; later blocks don't show."""

    header: bytes
    body: SnapshotBody
    pages: Sequence[bytes]

    def chunk(self, keys: KeyStore, index: int, *, entropy: Entropy) -> bytes:
        """Seal one chunk; the same one may be asked for again.

        Raises:
            SnapshotOrderError: There is no such chunk.
        """
        starts = self.body.starts
        if not 0 <= index < len(starts):
            raise SnapshotOrderError(
                "no such chunk", got=index, expected=f"0 … {len(starts) - 1}"
            )
        first, end = _range(self.body, index)
        salt = entropy(_SALT)
        context = _context(self.header, index, salt)
        key = hkdf(keys.epoch(self.body.epoch).state_key, info=context)
        plain = encode(self.pages[first:end])
        return salt + seal(key, plain, context=context, entropy=entropy)


@dataclass(slots=True, kw_only=True)
class Import:
    """A snapshot on its way in; its header is authentic.

    ``own``: this very instance made it.
    """

    header: bytes
    body: SnapshotBody
    store: PageStore
    own: bool
    index: int = 0

    @property
    def complete(self) -> bool:
        """Whether every chunk is in."""
        return self.index == len(self.body.starts)


def begin_export(keys: KeyStore, state: ShardState, *, entropy: Entropy) -> Export:
    """Fix what is exported: the state as it is now, under its height's epoch.

    Raises:
        NoKeysError: They are not held.
    """
    pages = list(state.store.pages())
    starts = [0]
    size = 0
    for number, page in enumerate(pages):
        if size and size + len(page) > CHUNK_BYTES:
            starts.append(number)
            size = 0
        size += len(page)
    plain = SnapshotBody(
        format=_FORMAT,
        chain_id=keys.chain_id,
        shard=keys.shard,
        epoch=state.epoch,
        maker=keys.signing_key,
        height=state.height,
        root=state.root,
        root_height=state.root_height,
        time=state.time,
        page_bits=state.store.bits,
        starts=tuple(starts),
        trail=tuple(state.trail),
        trusted=state.trusted,
        salt=entropy(_SALT),
    )
    body = msgspec.structs.replace(plain, own=_own_mac(keys, plain))
    raw = encode(body)
    mac = hmac_sha256(_mac_key(keys, state.epoch), _DOMAIN + raw)
    return Export(
        header=encode(SealedSnapshotHeader(body=raw, mac=mac)), body=body, pages=pages
    )


def begin_import(keys: KeyStore, header: bytes, *, view: ChainView) -> Import:
    """Authenticate a snapshot's header.

    1. It is a header of this shard, chain and format. 2. It is made under the
    epoch of its height. 3. A holder of that epoch's state key made it. 4. Its
    chunks cover the pages.

    Raises:
        DecodeError: Not a header.
        ForeignSnapshotError: 1.
        WrongEpochError: 2.
        NoKeysError: Its epoch's keys are not held.
        SnapshotForgedError: 3 or 4.
    """
    chain_id, shard = keys.chain_id, keys.shard
    outer = canonical_decode(SealedSnapshotHeader, header, limit=MAX_FRAME_BYTES)
    body = canonical_decode(SnapshotBody, outer.body, limit=MAX_FRAME_BYTES)
    # 1.
    if (body.format, body.chain_id, body.shard) != (_FORMAT, chain_id, shard):
        raise ForeignSnapshotError(
            "snapshot of another shard or format",
            got=f"{body.chain_id} {body.shard.hex()} v{body.format}",
            expected=f"{chain_id} {shard.hex()} v{_FORMAT}",
        )
    # 2.
    check_epoch(view, body.epoch, body.height, what="snapshot")
    # 3.
    mac = hmac_sha256(_mac_key(keys, body.epoch), _DOMAIN + outer.body)
    if not constant_time_equal(mac, outer.mac):
        raise SnapshotForgedError(
            "header of the snapshot is not authentic",
            expected="made by a holder of the state key",
            hint="It is kept as it is; nothing was overwritten.",
        )
    # 4.
    pages = 1 << body.page_bits if 0 < body.page_bits <= _MAX_BITS else 0
    ascending = list(body.starts) == sorted(set(body.starts))
    covered = bool(body.starts) and body.starts[0] == 0 and body.starts[-1] < pages
    if not (ascending and covered and len(body.starts) <= _MAX_CHUNKS):
        raise SnapshotForgedError("chunks of the snapshot do not cover its pages")
    store = PageStore(bits=body.page_bits, key=page_key(keys.epoch(BIRTH_EPOCH)))
    own = body.maker == keys.signing_key and constant_time_equal(
        _own_mac(keys, body), body.own
    )
    return Import(header=header, body=body, store=store, own=own)


def take_chunk(keys: KeyStore, running: Import, index: int, data: bytes) -> None:
    """Open the next chunk and take its pages.

    1. It is the next one. 2. It opens, bound to header and place. 3. It holds
    exactly its pages.

    Raises:
        SnapshotOrderError: 1: skipped or repeated.
        SnapshotForgedError: 2 or 3.
    """
    # 1.
    if index != running.index:
        raise SnapshotOrderError(
            "not the next chunk", got=index, expected=running.index
        )
    # 2.
    salt, sealed = data[:_SALT], data[_SALT:]
    context = _context(running.header, index, salt)
    key = hkdf(keys.epoch(running.body.epoch).state_key, info=context)
    try:
        plain = open_sealed(key, sealed, context=context, what=f"chunk {index}")
        pages = decode(list[bytes], plain, limit=MAX_FRAME_BYTES)
    except SealiftError as error:
        raise SnapshotForgedError(
            f"chunk {index} does not open ({error.code})",
            hint="It is kept as it is; nothing was overwritten.",
        ) from error
    # 3.
    first, end = _range(running.body, index)
    if len(pages) != end - first:
        raise SnapshotForgedError(
            f"chunk {index} has other pages", got=len(pages), expected=end - first
        )
    running.store.put_pages(first, pages)
    running.index += 1


def finish_import(keys: KeyStore, running: Import) -> ShardState:
    """The imported state, if its pages lead to the root of the header.

    Raises:
        StateRootMismatchError: They do not.
    """
    body = running.body
    epoch = keys.epoch(body.epoch)
    root = keyed_root(epoch, body.shard, body.root_height, running.store.root())
    if root != body.root:
        raise StateRootMismatchError(
            "the snapshot leads to another root", got=root, expected=body.root.hex()
        )
    return ShardState(
        store=running.store,
        height=body.height,
        root=body.root,
        root_height=body.root_height,
        epoch=epoch.epoch,
        time=body.time,
        trail=list(body.trail),
        trusted=body.trusted and running.own,
    )


def _range(body: SnapshotBody, index: int) -> tuple[int, int]:
    after = body.starts[index + 1 : index + 2] or (1 << body.page_bits,)
    return body.starts[index], after[0]


def _mac_key(keys: KeyStore, epoch: int) -> bytes:
    return hkdf(keys.epoch(epoch).state_key, info=_DOMAIN + b"header")


def _own_mac(keys: KeyStore, body: SnapshotBody) -> Digest:
    plain = msgspec.structs.replace(body, own=bytes(32))
    return hmac_sha256(keys.derived("snapshot"), _DOMAIN + encode(plain))


def _context(header: bytes, index: int, salt: bytes) -> bytes:
    return _DOMAIN + msgspec.msgpack.encode((header, index, salt))
