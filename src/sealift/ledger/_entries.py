"""Entries of a schedule: what each step of its life has to ask of them. Pure."""

import msgspec

from sealift.base import ChainId, Digest, Generation, Height, ShardId
from sealift.protocol import (
    EntryStatus,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
)

STANDING = (EntryStatus.PENDING, EntryStatus.ACTIVE)
RAN = (EntryStatus.ACTIVE, EntryStatus.RETIRED)


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


def active_entry(schedule: Schedule) -> ScheduleEntry:
    """The one active entry."""
    return next(e for e in schedule.entries if e.status is EntryStatus.ACTIVE)


def is_rescuer(entry: ScheduleEntry) -> bool:
    """Whether an entry came by rescue: it runs blocks from before it was made."""
    return entry.since != entry.upgrade_at


def lapse_orphans(
    entries: tuple[ScheduleEntry, ...],
) -> tuple[tuple[ScheduleEntry, ...], tuple[Generation, ...]]:
    """Pending entries whose predecessor can no longer run lapse, in order."""
    able = {e.generation for e in entries if e.status in (*STANDING, *RAN)}
    lapsed: list[Generation] = []
    for entry in entries:
        if entry.status is EntryStatus.PENDING and entry.predecessor not in able:
            able.discard(entry.generation)
            lapsed.append(entry.generation)
    return marked(entries, set(lapsed), EntryStatus.LAPSED), tuple(lapsed)


def last_standing(schedule: Schedule) -> ScheduleEntry:
    return max(
        (e for e in schedule.entries if e.status in STANDING),
        key=lambda e: e.generation,
    )


def next_generation(schedule: Schedule) -> Generation:
    return Generation(max(e.generation for e in schedule.entries) + 1)


def marked(
    entries: tuple[ScheduleEntry, ...],
    which: set[Generation] | set[int],
    status: EntryStatus,
) -> tuple[ScheduleEntry, ...]:
    return tuple(
        msgspec.structs.replace(e, status=status) if e.generation in which else e
        for e in entries
    )


def changed(
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


def raise_serial(schedule: Schedule) -> Schedule:
    """The schedule after an act that no order asked for."""
    return changed(schedule, schedule.entries, serial=schedule.serial + 1)


def with_status(schedule: Schedule, status: ShardStatus) -> Schedule:
    """The schedule under another status."""
    return msgspec.structs.replace(schedule, status=status)
