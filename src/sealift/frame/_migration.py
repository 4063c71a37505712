"""Taking over a state whose layout an earlier version wrote."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec import structs

from sealift.base import Message

from ._calls import CallFailure, EmittedEvent
from ._context import CallGuard, Context
from ._errors import (
    ForeignStateError,
    MigrationCheckError,
    MigrationFailedError,
    MigrationGapError,
    MigrationRefusedError,
    MigrationUnfinishedError,
    StateTooNewError,
    StorageValueError,
)
from ._pallet import RESERVED_PALLET, Pallet, steps
from ._records import RecordPlan, plan_routes
from ._state import Overlay
from ._storage import HasStorage, StorageMap, StorageValue


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
    """What a migration did."""

    from_runtime: int
    to_runtime: int
    migrated: tuple[PalletMigration, ...]
    events: tuple[EmittedEvent, ...]


class StepRecord(Message, kw_only=True):
    """How far a pallet's stepped migration has come."""

    pallet: str
    from_version: int
    cursor: bytes | None


class StepsOutcome(Message, kw_only=True):
    """What the steps of one block did; a step that failed was rolled back alone."""

    events: tuple[EmittedEvent, ...]
    failures: tuple[tuple[str, CallFailure], ...]


#: Storage version of every pallet, as the state was written.
STORAGE_VERSIONS = StorageMap("versions", key=str, value=int).of(RESERVED_PALLET)
#: The runtime that last wrote genesis or a migration.
RUNTIME_RECORD = StorageValue("runtime", RuntimeRecord).of(RESERVED_PALLET)
#: The pallets whose stepped migration is not done.
STEPS: StorageValue[tuple[StepRecord, ...]] = StorageValue(
    "steps", tuple[StepRecord, ...], default=()
).of(RESERVED_PALLET)


def record_runtime(ctx: Context, name: str, version: int) -> None:
    """Note in the state which runtime it belongs to."""
    RUNTIME_RECORD.put(ctx, RuntimeRecord(name=name, version=version))


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPlan:
    """Which pallets migrate a state, and what becomes of its records first."""

    from_runtime: int
    to_runtime: int
    migrated: tuple[PalletMigration, ...]
    records: RecordPlan


def plan_migration(
    ctx: HasStorage, name: str, version: int, pallets: Iterable[Pallet]
) -> MigrationPlan:
    """What migrating a state would be.

    1. The state names this runtime, and no newer version of it.
    2. No stored layout is newer than the code's, none older than what the
       pallet migrates from.
    3. A stepped migration that has not come to its end is one that this code ends.

    Raises:
        ForeignStateError: Step 1.
        StateTooNewError: Step 1 or 2.
        MigrationGapError: Step 2.
        MigrationUnfinishedError: Step 3.
    """
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
    by_name = {pallet.name: pallet for pallet in pallets}
    found = tuple(
        PalletMigration(pallet=pallet.name, from_version=old, to_version=to)
        for pallet in by_name.values()
        if (old := _stored_version(ctx, pallet)) != (to := pallet.storage_version)
    )
    # 3.
    moving = {one.pallet for one in found}
    for one in STEPS.get(ctx):
        heir = by_name.get(one.pallet)
        if heir is None or one.pallet in moving or not steps(heir):
            raise MigrationUnfinishedError(
                f"the stepped migration of pallet {one.pallet} is not done",
                expected="code that goes on with it",
                hint="Upgrade once it is done",
                check=f"{one.pallet}.migrate_step",
            )
    routes = [
        route
        for passage in found
        if passage.from_version
        for route in plan_routes(
            passage.pallet,
            by_name[passage.pallet].record_migrations,
            passage.from_version,
            passage.to_version,
        )
    ]
    return MigrationPlan(
        from_runtime=record.version,
        to_runtime=version,
        migrated=found,
        records=RecordPlan(routes),
    )


def migrate_pallets(
    ctx: Context,
    name: str,
    version: int,
    pallets: Iterable[Pallet],
    *,
    before: Context,
    records: Overlay | None,
) -> MigrationReport:
    """Judge the stored versions, then migrate what is older.

    1. What is to be done is planned, or refused (:func:`plan_migration`).
    2. ``pre_upgrade`` of every pallet that migrates, on the old layout.
    3. The records, each by itself.
    4. ``on_runtime_upgrade`` of every pallet that migrates.
    5. ``post_upgrade`` of every pallet that migrates.
    6. New versions are recorded; pallets that migrate step by step begin.

    The caller drops ``ctx``'s layer if this raises, and ``before``'s in any case.

    Args:
        ctx: The upgrade's context.
        name: Name of this runtime.
        version: Its version.
        pallets: Its pallets.
        before: Over the state as the earlier version left it.
        records: Below ``ctx``; what step 3 is done in, if it is still to be done.

    Raises:
        MigrationRefusedError: Step 1.
        MigrationCheckError: Step 2 or 5.
        RecordMigrationError: Step 3.
        MigrationFailedError: Step 4.
    """
    by_name = {pallet.name: pallet for pallet in pallets}
    # 1.
    plan = plan_migration(before, name, version, by_name.values())
    moving = [(by_name[one.pallet], one.from_version) for one in plan.migrated]
    # 2.
    noted = []
    for pallet, _ in moving:
        guard = CallGuard()
        with guard:
            noted.append(pallet.pre_upgrade(before))
        _require(guard, pallet, MigrationCheckError, "pre_upgrade")
    # 3.
    if records is not None:
        plan.records.run(records)
    # 4.
    for pallet, old in moving:
        guard = CallGuard()
        with guard:
            pallet.on_runtime_upgrade(ctx, old)
        _require(guard, pallet, MigrationFailedError, "on_runtime_upgrade")
    # 5.
    for (pallet, _), note in zip(moving, noted, strict=True):
        guard = CallGuard()
        with guard:
            pallet.post_upgrade(ctx, note)
        _require(guard, pallet, MigrationCheckError, "post_upgrade")
    # 6.
    begun = []
    for pallet, old in moving:
        STORAGE_VERSIONS.put(ctx, pallet.name, pallet.storage_version)
        if old and steps(pallet):
            begun.append(StepRecord(pallet=pallet.name, from_version=old, cursor=None))
    if begun:
        STEPS.put(ctx, (*STEPS.get(ctx), *begun))
    record_runtime(ctx, name, version)
    return MigrationReport(
        from_runtime=plan.from_runtime,
        to_runtime=version,
        migrated=plan.migrated,
        events=ctx.emitted,
    )


def step_pallets(
    ctx: Context, pallets: Iterable[Pallet], enter: Callable[[], Context]
) -> StepsOutcome:
    """Run the next step of every pallet that has not come to its end.

    Args:
        ctx: The block's.
        pallets: Those that migrate step by step.
        enter: A context for one step, over a layer of its own.
    """
    waiting = STEPS.get(ctx)
    if not waiting:
        return StepsOutcome(events=(), failures=())
    by_name = {pallet.name: pallet for pallet in pallets}
    left: list[StepRecord] = []
    events: list[EmittedEvent] = []
    failures: list[tuple[str, CallFailure]] = []
    for one in waiting:
        pallet = by_name.get(one.pallet)
        if pallet is None:
            left.append(one)
            continue
        inner = enter()
        cursor: bytes | None = one.cursor
        guard = CallGuard()
        with guard:
            cursor = pallet.migrate_step(inner, one.from_version, one.cursor)
            if cursor is not None and not isinstance(cursor, bytes):
                raise StorageValueError(
                    "cursor of a step is not bytes", got=type(cursor).__name__
                )
        if guard.failure is not None:
            failures.append((one.pallet, guard.failure))
            left.append(one)
            continue
        inner.storage.commit_to(ctx.storage)
        events += inner.emitted
        if cursor is not None:
            left.append(structs.replace(one, cursor=cursor))
    if not left:
        STEPS.delete(ctx)
    elif tuple(left) != waiting:
        STEPS.put(ctx, tuple(left))
    return StepsOutcome(events=tuple(events), failures=tuple(failures))


def _stored_version(ctx: HasStorage, pallet: Pallet) -> int:
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
    guard: CallGuard, pallet: Pallet, error: type[MigrationRefusedError], hook: str
) -> None:
    if guard.failure is not None:
        raise error(
            f"{hook} of pallet {pallet.name} failed",
            got=f"{guard.failure.code}: {guard.failure.message}",
            check=f"{pallet.name}.{hook}",
        )
