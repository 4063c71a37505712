"""Taking over a state whose layout an earlier version wrote."""

from collections.abc import Iterable

from sealift.base import Message, SealiftError

from ._calls import EmittedEvent
from ._context import CallGuard, Context
from ._errors import (
    ForeignStateError,
    MigrationCheckError,
    MigrationFailedError,
    MigrationGapError,
    StateTooNewError,
)
from ._pallet import RESERVED_PALLET, Pallet
from ._storage import StorageMap, StorageValue


class RuntimeRecord(Message, kw_only=True):
    """Which runtime wrote a state."""

    name: str
    version: int


class PalletMigration(Message, kw_only=True):
    """One pallet's passage; ``from_version`` 0 means that it is new."""

    pallet: str
    from_version: int
    to_version: int


class MigrationReport(Message, kw_only=True):
    """What a migration did. ``retired`` pallets' storage is kept untouched."""

    from_runtime: int
    to_runtime: int
    migrated: tuple[PalletMigration, ...]
    retired: tuple[str, ...]
    events: tuple[EmittedEvent, ...]


#: Storage version of every pallet, as the state was written.
STORAGE_VERSIONS = StorageMap("versions", key=str, value=int).of(RESERVED_PALLET)
#: The runtime that last wrote genesis or a migration.
RUNTIME_RECORD = StorageValue("runtime", RuntimeRecord).of(RESERVED_PALLET)


def record_runtime(ctx: Context, name: str, version: int) -> None:
    """Note in the state which runtime it belongs to."""
    RUNTIME_RECORD.put(ctx, RuntimeRecord(name=name, version=version))


def migrate_pallets(
    ctx: Context, name: str, version: int, pallets: Iterable[Pallet]
) -> MigrationReport:
    """Judge the stored versions, then migrate what is older.

    1. The state names this runtime, and no newer version of it.
    2. No stored layout is newer than the code's, none older than what the
       pallet migrates from.
    3. ``pre_upgrade`` of every pallet that migrates.
    4. ``on_runtime_upgrade`` of every pallet that migrates.
    5. ``post_upgrade`` of every pallet that migrates.
    6. New versions are recorded.

    The caller drops ``ctx``'s layer if this raises.

    Raises:
        ForeignStateError: Step 1.
        StateTooNewError: Step 1 or 2.
        MigrationGapError: Step 2.
        MigrationCheckError: Step 3 or 5.
        MigrationFailedError: Step 4.
    """
    pallets = tuple(pallets)
    # 1.
    record = RUNTIME_RECORD.find(ctx)
    if record is None or record.name != name:
        raise ForeignStateError(
            "state belongs to another runtime",
            got=None if record is None else record.name,
            expected=name,
        )
    if record.version > version:
        raise StateTooNewError(
            "state was written by a newer runtime", got=record.version, expected=version
        )
    # 2.
    steps = [(pallet, _stored_version(ctx, pallet)) for pallet in pallets]
    steps = [(pallet, old) for pallet, old in steps if old != pallet.storage_version]
    # 3.
    before = []
    for pallet, _ in steps:
        guard = CallGuard()
        with guard:
            before.append(pallet.pre_upgrade(ctx))
        _require(guard, pallet, MigrationCheckError, "pre_upgrade")
    # 4.
    for pallet, old in steps:
        guard = CallGuard()
        with guard:
            pallet.on_runtime_upgrade(ctx, old)
        _require(guard, pallet, MigrationFailedError, "on_runtime_upgrade")
    # 5.
    for (pallet, _), noted in zip(steps, before, strict=True):
        guard = CallGuard()
        with guard:
            pallet.post_upgrade(ctx, noted)
        _require(guard, pallet, MigrationCheckError, "post_upgrade")
    # 6.
    for pallet, _ in steps:
        STORAGE_VERSIONS.put(ctx, pallet.name, pallet.storage_version)
    record_runtime(ctx, name, version)
    known = {pallet.name for pallet in pallets}
    return MigrationReport(
        from_runtime=record.version,
        to_runtime=version,
        migrated=tuple(
            PalletMigration(
                pallet=pallet.name, from_version=old, to_version=pallet.storage_version
            )
            for pallet, old in steps
        ),
        retired=tuple(
            stored for stored, _ in STORAGE_VERSIONS.items(ctx) if stored not in known
        ),
        events=ctx.emitted,
    )


def _stored_version(ctx: Context, pallet: Pallet) -> int:
    """The layout the state has for a pallet; 0 if the pallet is new.

    Raises:
        StateTooNewError: Newer than the code's.
        MigrationGapError: Older than what the pallet migrates from.
    """
    stored = STORAGE_VERSIONS.find(ctx, pallet.name)
    if stored is None:
        return 0
    if stored > pallet.storage_version:
        raise StateTooNewError(
            f"storage of pallet {pallet.name} is newer than this code",
            got=stored,
            expected=pallet.storage_version,
        )
    oldest = pallet.migrates_from
    if oldest is None:
        oldest = pallet.storage_version - 1
    if stored < min(oldest, pallet.storage_version):
        raise MigrationGapError(
            f"storage of pallet {pallet.name} is too old for this code",
            got=stored,
            expected=f"≥ {oldest}",
            hint="Upgrade through the versions in between",
        )
    return stored


def _require(
    guard: CallGuard, pallet: Pallet, error: type[SealiftError], hook: str
) -> None:
    if guard.failure is not None:
        raise error(
            f"{hook} of pallet {pallet.name} failed",
            got=f"{guard.failure.code}: {guard.failure.message}",
        )
