"""How a schedule changes: orders, promotion, rescue. Pure (DESIGN §4.4, §4.5).

:func:`sealift.protocol.config_at` says who runs a block; nothing here says it a
second time.
"""

from collections.abc import Iterable
from typing import get_args

import msgspec

from sealift.attestation import TcbStatus
from sealift.base import ChainId, Digest, Generation, Height, Message, ShardId, encode
from sealift.crypto import SignatureInvalidError
from sealift.protocol import (
    PLATFORM_KINDS,
    CancelOrder,
    EntryStatus,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignedOrder,
    StatusOrder,
    UpgradeOrder,
)

from ._errors import (
    CancelTooLateError,
    FloorLoweredError,
    NoticeError,
    NotPendingError,
    OrderExpiredError,
    OrderForeignError,
    OrderSerialError,
    OrderSignatureError,
    PredecessorError,
    ScheduleFullError,
    ShardRulesError,
)

#: So many entries may stand ahead at once.
MAX_PENDING = 8
#: A schedule, dead entries and all, is encoded in at most so many bytes: every
#: block reads and writes every schedule, and enclaves have it proven.
MAX_SCHEDULE_BYTES = 256 * 1024
#: A configuration is encoded in at most so many bytes.
MAX_CONFIG_BYTES = 16 * 1024
#: No more platforms can be asked to agree on a root.
MAX_ROOT_QUORUM = 64
#: No notice and no rescue takes longer (blocks).
MAX_WAIT = 100_000_000

_KNOWN_STATUSES = frozenset(get_args(TcbStatus))
_STANDING = (EntryStatus.PENDING, EntryStatus.ACTIVE)
_RAN = (EntryStatus.ACTIVE, EntryStatus.RETIRED)


class Rescue(Message, kw_only=True):
    """What a rescue did: who is void, what lapsed, who runs instead."""

    voided: tuple[ScheduleEntry, ...]
    lapsed: tuple[Generation, ...]
    rescuer: ScheduleEntry


def verify_rules(rules: ShardRules, config: ShardConfig) -> None:
    """Return if a shard can live by these rules.

    Raises:
        ShardRulesError: It cannot.
    """
    verify_config(config, rules)
    if rules.root_quorum > MAX_ROOT_QUORUM:
        raise ShardRulesError(
            "root quorum is too large",
            got=rules.root_quorum,
            expected=f"≤ {MAX_ROOT_QUORUM}",
        )
    if max(rules.min_notice, rules.rescue_after) > MAX_WAIT:
        raise ShardRulesError(
            "min_notice or rescue_after is too long", expected=f"≤ {MAX_WAIT} blocks"
        )


def verify_config(config: ShardConfig, rules: ShardRules) -> None:
    """Return if a generation of a shard can run under this configuration.

    Raises:
        ShardRulesError: It cannot.
    """
    if not config.code or set(config.code) - set(PLATFORM_KINDS):
        raise ShardRulesError(
            "configuration names no code, or one for an unknown platform",
            got=sorted(config.code),
            expected=f"some of {sorted(PLATFORM_KINDS)}",
        )
    size = len(encode(config))
    if size > MAX_CONFIG_BYTES:
        raise ShardRulesError(
            "configuration is too large", got=size, expected=f"≤ {MAX_CONFIG_BYTES} B"
        )
    accepted = set(config.attestation.accepted_tcb_statuses)
    if not accepted or accepted - _KNOWN_STATUSES:
        raise ShardRulesError(
            "accepted TCB statuses are none or unknown",
            got=sorted(accepted),
            expected=f"some of {sorted(_KNOWN_STATUSES)}",
        )
    if 0 < config.max_instances < rules.root_quorum:
        raise ShardRulesError(
            "fewer instances than must agree on a root",
            got=config.max_instances,
            expected=f"≥ {rules.root_quorum}",
        )


def first_schedule(
    *,
    chain_id: ChainId,
    shard: ShardId,
    rules: ShardRules,
    config: ShardConfig,
    order: Digest,
    height: Height,
) -> Schedule:
    """The schedule of a shard created in block ``height``; runs from the next."""
    start = Height(height + 1)
    entry = ScheduleEntry(
        generation=Generation(0),
        predecessor=None,
        config=config,
        order=order,
        recorded_at=height,
        release_from=height,
        upgrade_at=start,
        since=start,
        status=EntryStatus.ACTIVE,
    )
    return Schedule(
        chain_id=chain_id,
        shard=shard,
        rules=rules,
        serial=0,
        entries=(entry,),
        status=ShardStatus(),
    )


def verify_order(schedule: Schedule, signed: SignedOrder, *, height: int) -> None:
    """Return if the authority decided this, here, now and not before.

    1. Chain and shard.
    2. The authority's signature.
    3. The serial is the current one (invariant 11).
    4. The expiry has not passed.

    Owed by the caller: what the order asks for.

    Raises:
        OrderForeignError: Another chain's or shard's.
        OrderSignatureError: Not by the authority.
        OrderSerialError: Replayed, or overtaken by another act.
        OrderExpiredError: Too late.
    """
    order = signed.order
    if (order.chain_id, order.shard) != (schedule.chain_id, schedule.shard):  # 1
        raise OrderForeignError(
            "order is not for this chain and shard",
            got=f"{order.chain_id} {order.shard.hex()}",
            expected=f"{schedule.chain_id} {schedule.shard.hex()}",
        )
    try:  # 2
        order.verify(schedule.rules.authority.key, signed.signature)
    except SignatureInvalidError as error:
        raise OrderSignatureError(
            "order is not signed by the shard's authority",
            expected=schedule.rules.authority.key,
        ) from error
    if order.serial != schedule.serial:  # 3
        raise OrderSerialError(
            "serial of the order is not the current one",
            got=order.serial,
            expected=schedule.serial,
        )
    if order.expiry < height:  # 4
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
    last = _last_standing(schedule)
    if order.predecessor != last.generation:
        raise PredecessorError(
            "order follows another generation",
            got=order.predecessor,
            expected=last.generation,
        )
    earliest = height + schedule.rules.min_notice
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
        generation=_next_generation(schedule),
        predecessor=order.predecessor,
        config=order.config,
        order=order.digest(),
        recorded_at=height,
        release_from=order.release_from,
        upgrade_at=order.upgrade_at,
        since=order.upgrade_at,
        status=EntryStatus.PENDING,
    )
    after = _changed(schedule, (*schedule.entries, entry), serial=schedule.serial + 1)
    size = len(encode(after))
    if size > MAX_SCHEDULE_BYTES:
        raise ScheduleFullError(
            "schedule grows too large",
            got=f"{size} B",
            expected=f"≤ {MAX_SCHEDULE_BYTES} B",
            hint="Configurations with fewer operators and advisories take less.",
        )
    return after


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
    entry = schedule.entry(order.generation)
    if entry.status in _RAN:
        raise CancelTooLateError(
            "entry took effect already",
            got=f"generation {entry.generation} {entry.status}",
            expected=f"a cancel before block {entry.upgrade_at}",
        )
    if entry.status is not EntryStatus.PENDING:
        raise NotPendingError(
            "entry is not pending",
            got=f"generation {entry.generation} {entry.status}",
        )
    entries = _marked(schedule.entries, {entry.generation}, EntryStatus.CANCELLED)
    entries, lapsed = _lapse_orphans(entries)
    return _changed(schedule, entries, serial=schedule.serial + 1), lapsed


def record_status(
    schedule: Schedule, standing: ShardStatus, order: StatusOrder
) -> Schedule:
    """The schedule with the serial raised; the status acts from the next block.

    Args:
        schedule: As it is.
        standing: What would act from the next block without this order.
        order: The order.

    Raises:
        FloorLoweredError: A floor would fall.
    """
    wanted = order.status
    if (
        wanted.min_isv_svn < standing.min_isv_svn
        or wanted.min_tcb_evaluation_number < standing.min_tcb_evaluation_number
    ):
        raise FloorLoweredError(
            "floors only rise",
            got=f"{wanted.min_isv_svn}, {wanted.min_tcb_evaluation_number}",
            expected=f"≥ {standing.min_isv_svn}, {standing.min_tcb_evaluation_number}",
        )
    return _changed(schedule, schedule.entries, serial=schedule.serial + 1)


def raise_serial(schedule: Schedule) -> Schedule:
    """The schedule after an act that no order asked for."""
    return _changed(schedule, schedule.entries, serial=schedule.serial + 1)


def promote(schedule: Schedule, *, height: int) -> tuple[Schedule, Generation | None]:
    """The schedule in which a due entry runs; ``None`` if none was due.

    A due entry whose predecessor is not the running generation lapses.
    """
    promoted: Generation | None = None
    for due in schedule.entries:
        if due.status is not EntryStatus.PENDING or due.upgrade_at > height:
            continue
        running = active_entry(schedule)
        if due.predecessor == running.generation:
            entries = _marked(
                schedule.entries, {running.generation}, EntryStatus.RETIRED
            )
            entries = _marked(entries, {due.generation}, EntryStatus.ACTIVE)
            promoted = due.generation
        else:
            entries = _marked(schedule.entries, {due.generation}, EntryStatus.LAPSED)
        schedule = _changed(schedule, entries)
    return schedule, promoted


def rescue(
    schedule: Schedule, *, height: int, confirmed: int | None
) -> tuple[Schedule, Rescue | None]:
    """Void a generation that did not come, and let its predecessor go on.

    Due when ``rescue_after`` blocks after XYZ no block from XYZ on is confirmed.
    Whatever followed the voided generation is void or lapses with it. The
    rescuer is a new generation with the predecessor's configuration; it is not
    rescued itself, because there is nobody else.

    Args:
        schedule: As it is.
        height: The block that begins.
        confirmed: The last confirmed block; ``None`` before the shard's birth,
            when nothing waits to be rescued.
    """
    late = next(
        (e for e in schedule.entries if _is_late(schedule, e, height, confirmed)), None
    )
    if late is None or late.predecessor is None:
        return schedule, None
    dead = _descendants(schedule.entries, late.generation)
    voided = tuple(
        e for e in schedule.entries if e.generation in dead and e.status in _RAN
    )
    lapsed = tuple(
        e.generation
        for e in schedule.entries
        if e.generation in dead and e.status is EntryStatus.PENDING
    )
    entries = _marked(
        schedule.entries, {e.generation for e in voided}, EntryStatus.VOID
    )
    entries = _marked(entries, set(lapsed), EntryStatus.LAPSED)
    entries = _marked(entries, {late.predecessor}, EntryStatus.RETIRED)
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
    outcome = Rescue(voided=voided, lapsed=lapsed, rescuer=rescuer)
    return _changed(schedule, (*entries, rescuer)), outcome


def with_status(schedule: Schedule, status: ShardStatus) -> Schedule:
    """The schedule under another status."""
    return msgspec.structs.replace(schedule, status=status)


def active_entry(schedule: Schedule) -> ScheduleEntry:
    """The one active entry."""
    return next(e for e in schedule.entries if e.status is EntryStatus.ACTIVE)


def is_rescuer(entry: ScheduleEntry) -> bool:
    """Whether an entry came by rescue: it runs blocks from before it was made."""
    return entry.since != entry.upgrade_at


def _is_late(
    schedule: Schedule, entry: ScheduleEntry, height: int, confirmed: int | None
) -> bool:
    return (
        confirmed is not None
        and entry.status in _RAN
        and entry.predecessor is not None
        and not is_rescuer(entry)
        and confirmed < entry.since
        and height >= entry.since + schedule.rules.rescue_after
    )


def _descendants(entries: Iterable[ScheduleEntry], root: int) -> set[int]:
    """A generation and all that name it, or each other, as predecessor."""
    found = {root}
    for entry in entries:  # ascending: a predecessor always comes before
        if entry.predecessor in found:
            found.add(entry.generation)
    return found


def _lapse_orphans(
    entries: tuple[ScheduleEntry, ...],
) -> tuple[tuple[ScheduleEntry, ...], tuple[Generation, ...]]:
    """Pending entries whose predecessor can no longer run lapse, in order."""
    able = {e.generation for e in entries if e.status in (*_STANDING, *_RAN)}
    lapsed: list[Generation] = []
    for entry in entries:
        if entry.status is EntryStatus.PENDING and entry.predecessor not in able:
            able.discard(entry.generation)
            lapsed.append(entry.generation)
    return _marked(entries, set(lapsed), EntryStatus.LAPSED), tuple(lapsed)


def _last_standing(schedule: Schedule) -> ScheduleEntry:
    return max(
        (e for e in schedule.entries if e.status in _STANDING),
        key=lambda e: e.generation,
    )


def _next_generation(schedule: Schedule) -> Generation:
    return Generation(max(e.generation for e in schedule.entries) + 1)


def _marked(
    entries: tuple[ScheduleEntry, ...],
    which: set[Generation] | set[int],
    status: EntryStatus,
) -> tuple[ScheduleEntry, ...]:
    return tuple(
        msgspec.structs.replace(e, status=status) if e.generation in which else e
        for e in entries
    )


def _changed(
    schedule: Schedule,
    entries: tuple[ScheduleEntry, ...],
    *,
    serial: int | None = None,
) -> Schedule:
    return msgspec.structs.replace(
        schedule,
        entries=entries,
        serial=schedule.serial if serial is None else serial,
    )
