"""Encrypted diffs: what one block changed, for disks and for other holders."""

import msgspec

from sealift.base import (
    Digest,
    Epoch,
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
from sealift.frame import Changes
from sealift.protocol.ecall import MAX_FRAME_BYTES

from ._epochs import check_epoch
from ._errors import (
    DiffForgedError,
    DiffOrderError,
    ForeignSnapshotError,
    StateRootMismatchError,
)
from ._keystore import KeyStore
from ._state import DiffHeader, SealedDiff, ShardState, TrailEntry, keyed_root
from ._view import ChainView

_DOMAIN = b"sealift/diff/v1\x00"
_FORMAT = 1
_SALT = 32


def seal_diff(
    keys: KeyStore,
    epoch: Epoch,
    entry: TrailEntry,
    changes: Changes,
    *,
    entropy: Entropy,
) -> bytes:
    """Seal the changes of one block under a key of their own (DESIGN §10.6)."""
    plain = DiffHeader(
        format=_FORMAT,
        chain_id=keys.chain_id,
        shard=keys.shard,
        epoch=epoch,
        entry=entry,
        salt=entropy(_SALT),
    )
    header = encode(msgspec.structs.replace(plain, own=_own_mac(keys, plain)))
    key = hkdf(keys.epoch(epoch).state_key, info=_DOMAIN + header)
    body = encode(sorted(changes.items()))
    sealed = seal(key, body, context=_DOMAIN + header, entropy=entropy)
    return encode(SealedDiff(header=header, sealed=sealed))


def apply_diff(
    keys: KeyStore, state: ShardState, data: bytes, *, view: ChainView
) -> tuple[DiffHeader, bool]:
    """Advance a state by one block that this or another holder executed.

    1. It is a diff of this shard, chain and format. 2. It follows the state:
    next height, same previous root. 3. It is made under the epoch of its height.
    4. It opens under that epoch's state key, bound to its header. 5. It leads to
    the root its header names; if not, the state is as it was.

    Returns:
        Its header, and whether this very instance made it.

    Raises:
        DecodeError: Not a sealed diff.
        ForeignSnapshotError: 1.
        DiffOrderError: 2.
        WrongEpochError: 3.
        NoKeysError: Its epoch's keys are not held.
        DiffForgedError: 4.
        StateRootMismatchError: 5.
    """
    chain_id, shard = keys.chain_id, keys.shard
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
    check_epoch(view, header.epoch, entry.height, what="diff")
    # 4.
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
    # 5.
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
    own = constant_time_equal(_own_mac(keys, header), header.own)
    return header, own and entry.maker == keys.signing_key


def _own_mac(keys: KeyStore, header: DiffHeader) -> Digest:
    plain = msgspec.structs.replace(header, own=bytes(32))
    return hmac_sha256(keys.derived("diff"), _DOMAIN + encode(plain))
