"""What orders do to a schedule. Pure (DESIGN §4.4, §4.5).

Whether they were decided is asked of :mod:`sealift.ledger._authority`.
"""

from typing import Literal, TypeAlias

import msgspec

from sealift.base import Epoch, Generation, Height, encode
from sealift.protocol import (
    CancelOrder,
    EntryStatus,
    Order,
    PostponeOrder,
    RotationDue,
    RulesChange,
    RulesOrder,
    Schedule,
    ScheduleEntry,
    ShardRules,
    ShardStatus,
    StatusOrder,
    UpgradeOrder,
)

from ._entries import (
    RAN,
    active_entry,
    changed,
    lapse_orphans,
    last_standing,
    marked,
    next_generation,
)
from ._errors import (
    CancelTooLateError,
    FloorLoweredError,
    NoChangeError,
    NoticeError,
    NotPendingError,
    OrderExpiredError,
    OrderForeignError,
    OrderSerialError,
    PostponementError,
    PredecessorError,
    RotationError,
    RulesFixedError,
    ScheduleFullError,
)
from ._rules import verify_config, verify_rules

#: Why new keys are owed.
Why: TypeAlias = Literal["upgrade", "order", "cancel", "rescue"]
#: So many entries may stand ahead at once.
MAX_PENDING = 8
#: A schedule, dead entries and all, is encoded in at most so many bytes: every
#: block reads and writes every schedule, and enclaves have it proven.
MAX_SCHEDULE_BYTES = 256 * 1024
#: Of them an upgrade leaves so many: what is owed for it (new keys), cancels, floors
#: and rotations still fit when no further upgrade does.
RESERVED_SCHEDULE_BYTES = 32 * 1024


def verify_order(schedule: Schedule, order: Order, *, height: int) -> None:
    """Return if an order is for here and now.

    1. Chain and shard.
    2. The serial is the current one (invariant 11).
    3. The expiry has not passed.

    Owed by the caller: that the authority decided it, and what it asks for.

    Raises:
        OrderForeignError: Another chain's or shard's.
        OrderSerialError: Replayed, or overtaken by another act.
        OrderExpiredError: Too late.
    """
    if (order.chain_id, order.shard) != (schedule.chain_id, schedule.shard):  # 1
        raise OrderForeignError(
            "order is not for this chain and shard",
            got=f"{order.chain_id} {order.shard.hex()}",
            expected=f"{schedule.chain_id} {schedule.shard.hex()}",
        )
    if order.serial != schedule.serial:  # 2
        raise OrderSerialError(
            "serial of the order is not the current one",
            got=order.serial,
            expected=schedule.serial,
        )
    if order.expiry < height:  # 3
        raise OrderExpiredError(
            "order has expired", got=height, expected=f"≤ {order.expiry}"
        )


def record_upgrade(
    schedule: Schedule, order: UpgradeOrder, *, height: Height
) -> Schedule:
    """The schedule with one entry more, and the serial raised.

    Raises:
        PredecessorError: Not after the last entry that stands.
        NoticeError: Too soon, or not after the entry before.
        ScheduleFullError: Too many stand ahead, or the schedule grows too large.
        ShardRulesError: No configuration to run by.
    """
    last = last_standing(schedule)
    if order.predecessor != last.generation:
        raise PredecessorError(
            "order follows another generation",
            got=order.predecessor,
            expected=last.generation,
        )
    earliest = height + _notice(schedule.rules, emergency=order.emergency)
    if not earliest <= order.release_from < order.upgrade_at:
        raise NoticeError(
            "too little notice",
            got=f"release_from {order.release_from}, upgrade_at {order.upgrade_at}",
            expected=f"{earliest} ≤ release_from < upgrade_at",
        )
    if order.upgrade_at <= last.upgrade_at:
        raise NoticeError(
            "upgrade is not after the one before",
            got=order.upgrade_at,
            expected=f"> {last.upgrade_at}",
        )
    pending = [e for e in schedule.entries if e.status is EntryStatus.PENDING]
    if len(pending) >= MAX_PENDING:
        raise ScheduleFullError(
            "too many entries stand ahead",
            got=len(pending),
            expected=f"< {MAX_PENDING}",
        )
    verify_config(order.config, schedule.rules)
    entry = ScheduleEntry(
        generation=next_generation(schedule),
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
    return _fitting(
        changed(schedule, (*schedule.entries, entry), serial=schedule.serial + 1),
        most=MAX_SCHEDULE_BYTES - RESERVED_SCHEDULE_BYTES,
    )


def record_cancel(
    schedule: Schedule, order: CancelOrder
) -> tuple[Schedule, tuple[Generation, ...]]:
    """The schedule without a pending entry, and what lapses with it.

    Block XYZ promotes as its first act, so a cancel in block XYZ finds the
    entry active: cancels count up to the state after XYZ-1.

    Raises:
        NoGenerationError: No such entry.
        CancelTooLateError: It runs or ran.
        NotPendingError: It is dead already.
    """
    entry = _pending(schedule, order.generation)
    entries = marked(schedule.entries, {entry.generation}, EntryStatus.CANCELLED)
    entries, lapsed = lapse_orphans(entries)
    return changed(schedule, entries, serial=schedule.serial + 1), lapsed


def record_status(
    schedule: Schedule, standing: ShardStatus, order: StatusOrder, *, height: int
) -> Schedule:
    """The schedule with the serial raised; the status acts from the next block.

    Args:
        schedule: As it is.
        standing: What would act from the next block without this order.
        order: The order.
        height: This block.

    Raises:
        FloorLoweredError: A floor would fall, or can be met by nobody.
        RotationError: The rotation it asks for can be made by nobody.
    """
    wanted = order.status
    if wanted.lowers(standing):
        raise FloorLoweredError(
            "floors only rise", got=_floors(wanted), expected=f"≥ {_floors(standing)}"
        )
    if wanted.not_before > height:
        raise FloorLoweredError(
            "not_before lies ahead: nobody could be attested",
            got=wanted.not_before,
            expected=f"≤ {height}",
        )
    after = changed(schedule, schedule.entries, serial=schedule.serial + 1)
    if schedule.status.lowers(wanted):  # whoever falls out may hold what is staged
        after = msgspec.structs.replace(after, staged=None)
    if order.rotate is not None:
        if order.rotate.not_before > height:
            raise RotationError(
                "a rotation can't ask for attestations from ahead",
                got=order.rotate.not_before,
                expected=f"≤ {height}",
            )
        after = owe_rotation(
            after,
            "order",
            generation=active_entry(after).generation,
            not_before=order.rotate.not_before,
            grace=order.rotate.grace,
        )
    return _fitting(after)


def record_postponement(
    schedule: Schedule, order: PostponeOrder, *, height: int
) -> Schedule:
    """The schedule in which a pending entry runs later.

    Counts up to the state after XYZ-1, as a cancel does.

    Raises:
        NoGenerationError: No such entry.
        CancelTooLateError: It runs or ran.
        NotPendingError: It is dead already.
        PostponementError: Not later, or not before the entry that follows.
    """
    entry = _pending(schedule, order.generation)
    following = [
        e.upgrade_at
        for e in schedule.entries
        if e.status is EntryStatus.PENDING and e.generation > entry.generation
    ]
    latest = min(following, default=None)
    later = max(entry.upgrade_at, height) < order.upgrade_at
    if not later or (latest is not None and order.upgrade_at >= latest):
        raise PostponementError(
            "entry can't be put off to this block",
            got=order.upgrade_at,
            expected=f"> {max(entry.upgrade_at, height)}"
            + (f" and < {latest}" if latest is not None else ""),
        )
    put_off = msgspec.structs.replace(
        entry, upgrade_at=order.upgrade_at, since=order.upgrade_at
    )
    entries = tuple(put_off if e is entry else e for e in schedule.entries)
    return changed(schedule, entries, serial=schedule.serial + 1)


def record_rules(schedule: Schedule, order: RulesOrder, *, height: Height) -> Schedule:
    """The schedule with a change of rules ahead; it replaces one that was.

    Raises:
        ShardRulesError: No shard could live by them.
        RulesFixedError: What never changes would change.
        NoticeError: Sooner than the longest notice.
    """
    old, new = schedule.rules, order.rules
    verify_rules(new, active_entry(schedule).config)
    for field in ("genesis", "page_bits", "emergency_floor"):
        if getattr(old, field) != getattr(new, field):
            raise RulesFixedError(
                f"{field} was fixed when the shard was created",
                got=getattr(new, field),
                expected=getattr(old, field),
            )
    notice = old.longest_notice
    if order.effective_at < height + notice:
        raise NoticeError(
            "too little notice for other rules",
            got=order.effective_at,
            expected=f"≥ {height + notice}",
        )
    change = RulesChange(
        rules=new,
        effective_at=order.effective_at,
        recorded_at=height,
        order=order.digest(),
    )
    after = changed(schedule, schedule.entries, serial=schedule.serial + 1)
    return _fitting(msgspec.structs.replace(after, change=change))


def record_withdrawal(schedule: Schedule) -> Schedule:
    """The schedule without the change of rules that was ahead.

    Raises:
        NoChangeError: None was.
    """
    if schedule.change is None:
        raise NoChangeError("no change of rules is pending")
    after = changed(schedule, schedule.entries, serial=schedule.serial + 1)
    return msgspec.structs.replace(after, change=None)


def apply_change(schedule: Schedule, *, height: int) -> Schedule:
    """The schedule under the rules that are due; orders under the old ones end."""
    change = schedule.change
    if change is None or change.effective_at > height:
        return schedule
    after = changed(schedule, schedule.entries, serial=schedule.serial + 1)
    return msgspec.structs.replace(after, rules=change.rules, change=None)


def owe_rotation(
    schedule: Schedule,
    why: Why,
    *,
    generation: Generation,
    not_before: int,
    grace: int,
) -> Schedule:
    """The schedule in which new keys are owed; before the birth, nothing is.

    What was staged and does not act yet is dropped: whoever is to be shut out may
    hold it. Of two demands the stricter one stands.
    """
    if not schedule.epochs:
        return schedule
    old = schedule.rotation
    stricter = old is not None and old.why != "upgrade"
    due = RotationDue(
        epoch=Epoch(schedule.epochs[-1].epoch + 1),
        why=old.why if stricter and why == "upgrade" and old is not None else why,
        generation=Generation(max(generation, old.generation if old else 0)),
        not_before=Height(max(not_before, old.not_before if old else 0)),
        grace=min(grace, old.grace) if old is not None else grace,
    )
    return msgspec.structs.replace(schedule, rotation=due, staged=None)


def _notice(rules: ShardRules, *, emergency: bool) -> int:
    if not emergency:
        return rules.min_notice
    if not rules.emergency_notice:
        raise NoticeError(
            "this shard has no emergency notice for code",
            expected=f"the ordinary notice of {rules.min_notice} blocks",
        )
    return rules.emergency_notice


def _pending(schedule: Schedule, generation: int) -> ScheduleEntry:
    entry = schedule.entry(generation)
    if entry.status in RAN:
        raise CancelTooLateError(
            "entry took effect already",
            got=f"generation {entry.generation} {entry.status}",
            expected=f"an order before block {entry.upgrade_at}",
        )
    if entry.status is not EntryStatus.PENDING:
        raise NotPendingError(
            "entry is not pending",
            got=f"generation {entry.generation} {entry.status}",
        )
    return entry


def _fitting(schedule: Schedule, *, most: int = MAX_SCHEDULE_BYTES) -> Schedule:
    size = len(encode(schedule))
    if size > most:
        raise ScheduleFullError(
            "schedule grows too large",
            got=f"{size} B",
            expected=f"≤ {most} B",
            hint="Configurations with fewer operators and advisories take less.",
        )
    return schedule


def _floors(status: ShardStatus) -> str:
    return (
        f"SVN {status.min_isv_svn}, evaluation {status.min_tcb_evaluation_number}, "
        f"not before {status.not_before}, "
        f"{len(status.rejected_advisories)} advisories, "
        f"{len(status.revoked_signers)} vendors"
    )
