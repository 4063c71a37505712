"""Encrypted diffs: what one block changed, for disks and for other holders.

The first block of a generation may have begun with record migrations. Its diff
(format 2) does not hold a million rewritten records: it says which migrations they
were, and what was changed after them.
"""

from collections.abc import Callable

import msgspec

from sealift.base import (
    Digest,
    Epoch,
    Message,
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
from sealift.frame import (
    Changes,
    MigrationRefusedError,
    PageStore,
    RecordMigrationError,
)
from sealift.protocol import EpochKeys
from sealift.protocol.ecall import MAX_FRAME_BYTES

from ._epochs import check_epoch
from ._errors import (
    DiffForgedError,
    DiffOfOtherCodeError,
    DiffOrderError,
    ForeignSnapshotError,
    StateRootMismatchError,
)
from ._keystore import KeyStore
from ._shadow import RecordsMigrated, TakenOver
from ._state import DiffHeader, SealedDiff, ShardState, TrailEntry, keyed_root
from ._view import ChainView

_DOMAIN = b"sealift/diff/v1\x00"
_FORMAT = 1
#: Of a diff whose block began with record migrations.
_FORMAT_MIGRATED = 2
_SALT = 32


class MigratedChanges(Message, kw_only=True):
    """What a diff of format 2 seals."""

    migrated: RecordsMigrated
    changes: tuple[tuple[bytes, bytes | None], ...]


def seal_diff(
    keys: KeyStore,
    epoch: Epoch,
    entry: TrailEntry,
    changes: Changes,
    *,
    entropy: Entropy,
    migrated: RecordsMigrated | None = None,
) -> bytes:
    """Seal the changes of one block under a key of their own (DESIGN §10.6).

    Args:
        keys: Of this instance.
        epoch: The block's key epoch.
        entry: What executing it left.
        changes: Changed entries; after ``migrated``, if that is given.
        entropy: For salt and nonce.
        migrated: The record migrations that the block began with.
    """
    plain = DiffHeader(
        format=_FORMAT if migrated is None else _FORMAT_MIGRATED,
        chain_id=keys.chain_id,
        shard=keys.shard,
        epoch=epoch,
        entry=entry,
        salt=entropy(_SALT),
    )
    header = encode(msgspec.structs.replace(plain, own=_own_mac(keys, plain)))
    key = hkdf(keys.epoch(epoch).state_key, info=_DOMAIN + header)
    entries = tuple(sorted(changes.items()))
    body = encode(
        entries
        if migrated is None
        else MigratedChanges(migrated=migrated, changes=entries)
    )
    sealed = seal(key, body, context=_DOMAIN + header, entropy=entropy)
    return encode(SealedDiff(header=header, sealed=sealed))


def apply_diff(
    keys: KeyStore,
    state: ShardState,
    data: bytes,
    *,
    view: ChainView,
    take_over: Callable[[], TakenOver | None],
    note: Callable[[Changes], None],
) -> tuple[DiffHeader, bool]:
    """Advance a state by one block that this or another holder executed.

    1. It is a diff of this shard, chain and format. 2. It follows the state:
    next height, same previous root. 3. It is made under the epoch of its height.
    4. It opens under that epoch's state key, bound to its header. 5. If its block
    began with record migrations, they are this code's, and are done first. 6. It
    leads to the root its header names; if not, the state is as it was.

    Args:
        keys: Of this instance.
        state: What is advanced.
        data: The sealed diff.
        view: Of the chain.
        take_over: The state with its records as this code has them.
        note: Told of what changed in the state's store, if it is still the same.

    Returns:
        Its header, and whether this very instance made it.

    Raises:
        DecodeError: Not a sealed diff.
        ForeignSnapshotError: 1.
        DiffOrderError: 2.
        WrongEpochError: 3.
        NoKeysError: Its epoch's keys are not held.
        DiffForgedError: 4.
        DiffOfOtherCodeError: 5.
        RecordMigrationError: 5: a record does not migrate.
        StateRootMismatchError: 6.
    """
    chain_id, shard = keys.chain_id, keys.shard
    outer = decode(SealedDiff, data, limit=MAX_FRAME_BYTES)
    header = canonical_decode(DiffHeader, outer.header)
    entry = header.entry
    # 1.
    known = header.format in (_FORMAT, _FORMAT_MIGRATED)
    if not known or (header.chain_id, header.shard) != (chain_id, shard):
        raise ForeignSnapshotError(
            "diff of another shard or format",
            got=f"{header.chain_id} {header.shard.hex()} v{header.format}",
            expected=f"{chain_id} {shard.hex()} v{_FORMAT} or v{_FORMAT_MIGRATED}",
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
    migrated, changes = _opened(epoch, outer, header)
    # 5.
    store = state.store
    if migrated is not None:
        store = _migrated_store(entry, migrated, take_over)
    # 6.
    before = {name: store.get(name) for name in changes}
    store.apply(changes)
    root = keyed_root(epoch, shard, entry.height, store.root())
    if root != entry.root:
        store.apply(before)
        raise StateRootMismatchError(
            f"diff of block {entry.height} leads to another root",
            got=root,
            expected=entry.root.hex(),
        )
    if migrated is None:
        note(changes)
    state.store = store
    own = constant_time_equal(_own_mac(keys, header), header.own)
    return header, own and entry.maker == keys.signing_key


def _opened(
    epoch: EpochKeys, outer: SealedDiff, header: DiffHeader
) -> tuple[RecordsMigrated | None, dict[bytes, bytes | None]]:
    key = hkdf(epoch.state_key, info=_DOMAIN + outer.header)
    try:
        body = open_sealed(
            key, outer.sealed, context=_DOMAIN + outer.header, what="the diff"
        )
        if header.format == _FORMAT_MIGRATED:
            both = decode(MigratedChanges, body, limit=MAX_FRAME_BYTES)
            return both.migrated, dict(both.changes)
        return None, dict(
            decode(list[tuple[bytes, bytes | None]], body, limit=MAX_FRAME_BYTES)
        )
    except SealiftError as error:
        raise DiffForgedError(
            f"diff of block {header.entry.height} does not open ({error.code})",
            hint="It is kept as it is; nothing was overwritten.",
        ) from error


def _migrated_store(
    entry: TrailEntry,
    migrated: RecordsMigrated,
    take_over: Callable[[], TakenOver | None],
) -> PageStore:
    """The store with the migrated records: the shadow's, if there is one.

    Versions alone are compared; other code of the same ones comes to another root.
    """
    try:
        taken = take_over()
    except RecordMigrationError:
        raise
    except MigrationRefusedError:
        taken = None
    if taken is None or taken.passage != migrated:
        mine = None if taken is None else taken.passage
        raise DiffOfOtherCodeError(
            f"block {entry.height} began with the record migrations of other code",
            got=_named(migrated),
            expected="none" if mine is None else _named(mine),
            hint="Take a snapshot after that block.",
        )
    return taken.store


def _named(passage: RecordsMigrated) -> str:
    return f"from version {passage.from_runtime} to {passage.to_runtime}"


def _own_mac(keys: KeyStore, header: DiffHeader) -> Digest:
    plain = msgspec.structs.replace(header, own=bytes(32))
    return hmac_sha256(keys.derived("diff"), _DOMAIN + encode(plain))
