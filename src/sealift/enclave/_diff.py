"""Encrypted diffs: what one block changed, for disks and for other holders."""

from sealift.base import (
    ChainId,
    SealiftError,
    ShardId,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import Entropy, hkdf, open_sealed, seal
from sealift.frame import Changes
from sealift.protocol.ecall import MAX_FRAME_BYTES

from ._errors import (
    DiffForgedError,
    DiffOrderError,
    ForeignSnapshotError,
    StateRootMismatchError,
)
from ._keystore import KeyStore
from ._state import DiffHeader, SealedDiff, ShardState, TrailEntry, keyed_root

_DOMAIN = b"sealift/diff/v1\x00"
_FORMAT = 1
_SALT = 32


def seal_diff(
    keys: KeyStore,
    epoch: int,
    entry: TrailEntry,
    changes: Changes,
    *,
    entropy: Entropy,
) -> bytes:
    """Seal the changes of one block under a key of their own (DESIGN §10.6)."""
    header = encode(
        DiffHeader(
            format=_FORMAT,
            chain_id=keys.chain_id,
            shard=keys.shard,
            epoch=epoch,
            entry=entry,
            salt=entropy(_SALT),
        )
    )
    key = hkdf(keys.epoch(epoch).state_key, info=_DOMAIN + header)
    body = encode(sorted(changes.items()))
    sealed = seal(key, body, context=_DOMAIN + header, entropy=entropy)
    return encode(SealedDiff(header=header, sealed=sealed))


def apply_diff(
    keys: KeyStore, state: ShardState, data: bytes, *, chain_id: ChainId, shard: ShardId
) -> DiffHeader:
    """Advance a state by one block that this or another holder executed.

    1. It is a diff of this shard, chain and format. 2. It follows the state:
    next height, same previous root. 3. It opens under the state key, bound to
    its header. 4. It leads to the root its header names; if not, the state is
    as it was.

    Raises:
        DecodeError: Not a sealed diff.
        ForeignSnapshotError: 1.
        DiffOrderError: 2.
        DiffForgedError: 3.
        NoKeysError: Its epoch's keys are not held.
        StateRootMismatchError: 4.
    """
    outer = decode(SealedDiff, data, limit=MAX_FRAME_BYTES)
    header = canonical_decode(DiffHeader, outer.header)
    entry = header.entry
    # 1.
    if (header.format, header.chain_id, header.shard) != (_FORMAT, chain_id, shard):
        raise ForeignSnapshotError(
            "diff of another shard or format",
            got=f"{header.chain_id} {header.shard.hex()} v{header.format}",
            expected=f"{chain_id} {shard.hex()} v{_FORMAT}",
        )
    # 2.
    if entry.height != state.height + 1 or entry.prev_root != state.root:
        raise DiffOrderError(
            "diff does not follow the state",
            got=f"block {entry.height} after {entry.prev_root.hex()}",
            expected=f"block {state.height + 1} after {state.root.hex()}",
        )
    # 3.
    epoch = keys.epoch(header.epoch)
    key = hkdf(epoch.state_key, info=_DOMAIN + outer.header)
    try:
        body = open_sealed(
            key, outer.sealed, context=_DOMAIN + outer.header, what="the diff"
        )
        changes = dict(
            decode(list[tuple[bytes, bytes | None]], body, limit=MAX_FRAME_BYTES)
        )
    except SealiftError as error:
        raise DiffForgedError(
            f"diff of block {entry.height} does not open ({error.code})",
            hint="It is kept as it is; nothing was overwritten.",
        ) from error
    # 4.
    before = {name: state.store.get(name) for name in changes}
    state.store.apply(changes)
    root = keyed_root(epoch, shard, entry.height, state.store.root())
    if root != entry.root:
        state.store.apply(before)
        raise StateRootMismatchError(
            f"diff of block {entry.height} leads to another root",
            got=root,
            expected=entry.root.hex(),
        )
    return header
