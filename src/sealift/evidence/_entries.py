"""Schedules re-derived: what an order, and what a block's beginning, makes of one.

Pure, and written a second time on purpose: from the rules (DESIGN §4.4, §4.5,
§12), not from the ledger's code. What both come to must be equal to the byte.
"""

from collections.abc import Callable, Collection
from typing import Literal, TypeAlias

import msgspec

from sealift.base import Epoch, Generation, Height, SealiftError
from sealift.protocol import (
    CancelOrder,
    EntryStatus,
    Order,
    PostponeOrder,
    RehearsalsOrder,
    RotationDue,
    RulesChange,
    RulesOrder,
    Schedule,
    ScheduleEntry,
    StatusOrder,
    UpgradeOrder,
)

from ._errors import ActUnprovenError

#: Entries that run, or ran and were not voided.
RAN = (EntryStatus.ACTIVE, EntryStatus.RETIRED)
_STANDING = (EntryStatus.PENDING, EntryStatus.ACTIVE)
_Why: TypeAlias = Literal["upgrade", "order", "cancel", "rescue"]


def active_entry(schedule: Schedule) -> ScheduleEntry:
    """The one that runs."""
    return next(e for e in schedule.entries if e.status is EntryStatus.ACTIVE)


def is_rescuer(entry: ScheduleEntry) -> bool:
    """Whether it came by rescue: it runs blocks from before it was made."""
    return entry.since != entry.upgrade_at


def require(holds: object, what: str, *, got: object, expected: object) -> None:
    """Return only if a rule of an act holds.

    Raises:
        ActUnprovenError: It does not.
    """
    if not holds:
        raise ActUnprovenError(what, got=got, expected=expected)


def apply_order(
    schedule: Schedule, order: Order, *, height: Height, withdrawn: bool = False
) -> Schedule:
    """The schedule after an order that was decided in block ``height``.

    1. It is for this chain and shard, under the current serial, not expired.
    2. Its kind's own rules: notice, order of generations, what never changes.

    Args:
        schedule: Before it.
        order: What was decided.
        height: When.
        withdrawn: Whether a change of rehearsals was ahead that it withdraws.

    Raises:
        ActUnprovenError: One of them fails.
    """
    require(  # 1
        (order.chain_id, order.shard) == (schedule.chain_id, schedule.shard),
        "an order of another chain or shard took effect",
        got=f"{order.chain_id} {order.shard.hex()}",
        expected=f"{schedule.chain_id} {schedule.shard.hex()}",
    )
    require(
        order.serial == schedule.serial and order.expiry >= height,
        "an order took effect out of turn",
        got=f"serial {order.serial}, expiry {order.expiry}",
        expected=f"serial {schedule.serial}, block {height} or later",
    )
    after = _apply(schedule, order, height, withdrawn=withdrawn)  # 2
    return msgspec.structs.replace(after, serial=schedule.serial + 1)


def _apply(
    schedule: Schedule, order: Order, height: Height, *, withdrawn: bool
) -> Schedule:
    match order:
        case UpgradeOrder():
            return _upgrade(schedule, order, height)
        case CancelOrder():
            return _cancel(schedule, order, height)
        case PostponeOrder():
            return _postpone(schedule, order, height)
        case StatusOrder():
            return _status(schedule, order, height)
        case RulesOrder():
            return _rules(schedule, order, height)
        case RehearsalsOrder():
            return schedule  # it says nothing of rehearsals
        case _:
            require(
                schedule.change or withdrawn,
                "nothing was withdrawn",
                got=None,
                expected="a change",
            )
            return msgspec.structs.replace(schedule, change=None)


def _upgrade(schedule: Schedule, order: UpgradeOrder, height: Height) -> Schedule:
    rules = schedule.rules
    last = max(
        (e for e in schedule.entries if e.status in _STANDING),
        key=lambda e: e.generation,
    )
    require(
        order.predecessor == last.generation and order.upgrade_at > last.upgrade_at,
        "an upgrade does not follow the last generation that stands",
        got=f"after {order.predecessor}, at {order.upgrade_at}",
        expected=f"after {last.generation}, later than {last.upgrade_at}",
    )
    require(
        not order.emergency or rules.emergency_notice,
        "an emergency upgrade where there is no such way",
        got="emergency",
        expected=f"the notice of {rules.min_notice} blocks",
    )
    notice = rules.emergency_notice if order.emergency else rules.min_notice
    require(
        height + notice <= order.release_from < order.upgrade_at,
        "an upgrade without its notice",
        got=f"recorded {height}, released {order.release_from}, "
        f"runs {order.upgrade_at}",
        expected=f"{height} + {notice} ≤ release_from < upgrade_at",
    )
    entry = ScheduleEntry(
        generation=_next_generation(schedule),
        predecessor=order.predecessor,
        config=order.config,
        order=order.digest(),
        recorded_at=height,
        release_from=order.release_from,
        upgrade_at=order.upgrade_at,
        since=order.upgrade_at,
        status=EntryStatus.PENDING,
        bundle=order.bundle,
        source=order.source,
    )
    return msgspec.structs.replace(schedule, entries=(*schedule.entries, entry))


def _pending(schedule: Schedule, generation: int) -> ScheduleEntry:
    try:
        entry = schedule.entry(generation)
    except SealiftError as error:
        raise ActUnprovenError(
            "an order names no generation of the shard", got=generation
        ) from error
    require(
        entry.status is EntryStatus.PENDING,
        "an order about a generation that is not pending took effect",
        got=f"generation {generation} {entry.status}",
        expected=EntryStatus.PENDING,
    )
    return entry


def _cancel(schedule: Schedule, order: CancelOrder, height: Height) -> Schedule:
    cancelled = _pending(schedule, order.generation)
    after = mark(schedule, {cancelled.generation}, EntryStatus.CANCELLED)
    dead: set[int] = set()
    able = {e.generation for e in after.entries if e.status in (*_STANDING, *RAN)}
    for entry in after.entries:  # whoever follows what can't run lapses
        if entry.status is EntryStatus.PENDING and entry.predecessor not in able:
            able.discard(entry.generation)
            dead.add(entry.generation)
    after = mark(after, dead, EntryStatus.LAPSED)
    gone = {cancelled.generation, *dead}
    released = [
        e for e in schedule.entries if e.generation in gone and e.release_from <= height
    ]
    if not released:
        return after
    grace = schedule.rules.grace
    active = active_entry(after).generation
    return owe(after, "cancel", generation=active, not_before=0, grace=grace)


def _postpone(schedule: Schedule, order: PostponeOrder, height: Height) -> Schedule:
    entry = _pending(schedule, order.generation)
    later = [
        e.upgrade_at
        for e in schedule.entries
        if e.status is EntryStatus.PENDING and e.generation > entry.generation
    ]
    latest = min(later, default=order.upgrade_at + 1)
    require(
        max(entry.upgrade_at, height) < order.upgrade_at < latest,
        "a generation was put off to a block that can't be",
        got=order.upgrade_at,
        expected=f"{max(entry.upgrade_at, height)} < upgrade_at < {latest}",
    )
    put_off = msgspec.structs.replace(
        entry, upgrade_at=order.upgrade_at, since=order.upgrade_at
    )
    entries = tuple(put_off if e is entry else e for e in schedule.entries)
    return msgspec.structs.replace(schedule, entries=entries)


def _status(schedule: Schedule, order: StatusOrder, height: Height) -> Schedule:
    rotate = order.rotate
    floors = max(order.status.not_before, rotate.not_before if rotate else 0)
    require(
        floors <= height,
        "a floor lies ahead of its own act",
        got=floors,
        expected=f"≤ {height}",
    )
    if schedule.status.lowers(order.status):  # whoever falls out may hold it
        schedule = msgspec.structs.replace(schedule, staged=None)
    if rotate is None:
        return schedule
    return owe(
        schedule,
        "order",
        generation=active_entry(schedule).generation,
        not_before=rotate.not_before,
        grace=rotate.grace,
    )


def _rules(schedule: Schedule, order: RulesOrder, height: Height) -> Schedule:
    old, new = schedule.rules, order.rules
    require(
        (old.genesis, old.page_bits, old.emergency_floor)
        == (new.genesis, new.page_bits, new.emergency_floor),
        "rules changed what never changes",
        got="another genesis, size of the state or floor of emergencies",
        expected="as at the shard's creation",
    )
    earliest = height + old.longest_notice
    require(
        order.effective_at >= earliest,
        "rules without their notice",
        got=order.effective_at,
        expected=f"≥ {earliest}",
    )
    change = RulesChange(
        rules=new,
        effective_at=order.effective_at,
        recorded_at=height,
        order=order.digest(),
    )
    return msgspec.structs.replace(schedule, change=change)


def next_turn(
    schedule: Schedule, *, after: int, confirmed: int | None
) -> Height | None:
    """The next block whose beginning changes a schedule by itself, if any ahead.

    A status that waits is not looked at here.
    """
    ahead: list[int] = []
    if schedule.change is not None:
        ahead.append(schedule.change.effective_at)
    for entry in schedule.entries:
        if entry.status is EntryStatus.PENDING:
            ahead.append(entry.upgrade_at)
        elif _may_be_late(entry, confirmed):
            ahead.append(entry.since + schedule.rules.rescue_after)
    return min((Height(h) for h in ahead if h > after), default=None)


def begin_block(schedule: Schedule, *, height: int, confirmed: int | None) -> Schedule:
    """The schedule as a block begins, its new status aside.

    1. Rules that are due act, and end the orders under the old ones. 2. A
    generation that never confirmed is void, its predecessor goes on. 3. A due
    entry runs if it follows the running one; else it lapses.
    """
    change = schedule.change
    if change is not None and change.effective_at <= height:  # 1
        schedule = msgspec.structs.replace(
            schedule, rules=change.rules, change=None, serial=schedule.serial + 1
        )
    schedule = _rescue(schedule, height, confirmed)  # 2
    return _promote(schedule, height)  # 3


def _may_be_late(entry: ScheduleEntry, confirmed: int | None) -> bool:
    return (
        confirmed is not None
        and entry.status in RAN
        and entry.predecessor is not None
        and not is_rescuer(entry)
        and confirmed < entry.since
    )


def _rescue(schedule: Schedule, height: int, confirmed: int | None) -> Schedule:
    after = schedule.rules.rescue_after
    late = next(
        (
            e
            for e in schedule.entries
            if _may_be_late(e, confirmed) and height >= e.since + after
        ),
        None,
    )
    if late is None or late.predecessor is None:
        return schedule
    dead = {late.generation}
    for entry in schedule.entries:
        if entry.predecessor in dead:
            dead.add(entry.generation)
    ran = {e.generation for e in schedule.entries if e.status in RAN} & dead
    waits = {
        e.generation for e in schedule.entries if e.status is EntryStatus.PENDING
    } & dead
    rescued = mark(schedule, ran, EntryStatus.VOID)
    rescued = mark(rescued, waits, EntryStatus.LAPSED)
    rescued = mark(rescued, {late.predecessor}, EntryStatus.RETIRED)
    now = Height(height)
    rescuer = ScheduleEntry(
        generation=_next_generation(schedule),
        predecessor=late.predecessor,
        config=schedule.entry(late.predecessor).config,
        order=late.order,
        recorded_at=now,
        release_from=now,
        upgrade_at=now,
        since=late.since,
        status=EntryStatus.ACTIVE,
    )
    rescued = msgspec.structs.replace(rescued, entries=(*rescued.entries, rescuer))
    return owe(
        rescued,
        "rescue",
        generation=rescuer.generation,
        not_before=0,
        grace=schedule.rules.grace,
    )


def _promote(schedule: Schedule, height: int) -> Schedule:
    promoted: Generation | None = None
    for due in schedule.entries:
        if due.status is not EntryStatus.PENDING or due.upgrade_at > height:
            continue
        running = active_entry(schedule).generation
        if due.predecessor != running:
            schedule = mark(schedule, {due.generation}, EntryStatus.LAPSED)
            continue
        schedule = mark(schedule, {running}, EntryStatus.RETIRED)
        schedule = mark(schedule, {due.generation}, EntryStatus.ACTIVE)
        promoted = due.generation
    if promoted is None or schedule.rules.handover.passes:
        return schedule
    grace = schedule.rules.grace
    return owe(schedule, "upgrade", generation=promoted, not_before=0, grace=grace)


def owe(
    schedule: Schedule, why: _Why, *, generation: int, not_before: int, grace: int
) -> Schedule:
    """The schedule in which new keys are owed; the stricter of two demands stands."""
    if not schedule.epochs:
        return schedule
    reason = why
    old = schedule.rotation
    if old is not None:
        if why == "upgrade" and old.why != "upgrade":
            reason = old.why
        generation = max(generation, old.generation)
        not_before = max(not_before, old.not_before)
        grace = min(grace, old.grace)
    due = RotationDue(
        epoch=Epoch(schedule.epochs[-1].epoch + 1),
        why=reason,
        generation=Generation(generation),
        not_before=Height(not_before),
        grace=grace,
    )
    return msgspec.structs.replace(schedule, rotation=due, staged=None)


def mark(schedule: Schedule, which: Collection[int], status: EntryStatus) -> Schedule:
    """The schedule with another status for some generations."""
    return _each(
        schedule,
        lambda e: (
            msgspec.structs.replace(e, status=status) if e.generation in which else e
        ),
    )


def _each(
    schedule: Schedule, make: Callable[[ScheduleEntry], ScheduleEntry]
) -> Schedule:
    entries = tuple(make(entry) for entry in schedule.entries)
    return msgspec.structs.replace(schedule, entries=entries)


def _next_generation(schedule: Schedule) -> Generation:
    return Generation(max(e.generation for e in schedule.entries) + 1)
