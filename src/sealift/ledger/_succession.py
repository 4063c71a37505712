"""How one generation follows another: promotion and rescue. Pure (DESIGN §4.4).

:func:`sealift.protocol.config_at` says who runs a block; nothing here says it a
second time.
"""

from collections.abc import Iterable

from sealift.base import Generation, Height, Message
from sealift.protocol import EntryStatus, Schedule, ScheduleEntry

from ._entries import RAN, active_entry, changed, is_rescuer, marked, next_generation


class Rescue(Message, kw_only=True):
    """What a rescue did: who is void, what lapsed, who runs instead."""

    voided: tuple[ScheduleEntry, ...]
    lapsed: tuple[Generation, ...]
    rescuer: ScheduleEntry


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
            entries = marked(
                schedule.entries, {running.generation}, EntryStatus.RETIRED
            )
            entries = marked(entries, {due.generation}, EntryStatus.ACTIVE)
            promoted = due.generation
        else:
            entries = marked(schedule.entries, {due.generation}, EntryStatus.LAPSED)
        schedule = changed(schedule, entries)
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
        e for e in schedule.entries if e.generation in dead and e.status in RAN
    )
    lapsed = tuple(
        e.generation
        for e in schedule.entries
        if e.generation in dead and e.status is EntryStatus.PENDING
    )
    entries = marked(schedule.entries, {e.generation for e in voided}, EntryStatus.VOID)
    entries = marked(entries, set(lapsed), EntryStatus.LAPSED)
    entries = marked(entries, {late.predecessor}, EntryStatus.RETIRED)
    now = Height(height)
    rescuer = ScheduleEntry(
        generation=next_generation(schedule),
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
    return changed(schedule, (*entries, rescuer)), outcome


def _is_late(
    schedule: Schedule, entry: ScheduleEntry, height: int, confirmed: int | None
) -> bool:
    return (
        confirmed is not None
        and entry.status in RAN
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
