"""Where two schedules differ, in words."""

from typing import NoReturn

import msgspec

from sealift.base import Height
from sealift.protocol import EntryStatus, Schedule, ScheduleEntry

from ._errors import ScheduleUnexplainedError


def refuse_difference(
    derived: Schedule, kept: bytes | None, height: Height
) -> NoReturn:
    """Say in which field the schedule that L1 keeps is not the one derived.

    Raises:
        ScheduleUnexplainedError: Always.
    """
    if kept is None:
        raise ScheduleUnexplainedError(
            f"L1 keeps no schedule after block {height}", expected="the shard's"
        )
    try:
        other = msgspec.msgpack.decode(kept, type=Schedule)
    except msgspec.MsgspecError as error:
        raise ScheduleUnexplainedError(
            f"the schedule after block {height} cannot be read ({error})", got=kept
        ) from error
    for name in Schedule.__struct_fields__:
        mine, theirs = getattr(derived, name), getattr(other, name)
        if mine != theirs:
            raise ScheduleUnexplainedError(
                f"the schedule after block {height} is not what the acts and rules "
                f"shown lead to, in {name}",
                got=_shown(theirs),
                expected=_shown(mine),
            )
    raise ScheduleUnexplainedError(
        f"the schedule after block {height} is encoded in another way", got=kept
    )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(_shown(one) for one in value)
    if isinstance(value, ScheduleEntry):
        return f"generation {value.generation} {value.status} from {value.since}"
    return ascii(value)[:200]


def words_of(entry: ScheduleEntry) -> str:
    """What became of a generation."""
    what = {
        EntryStatus.ACTIVE: "runs",
        EntryStatus.RETIRED: "ran to here",
        EntryStatus.LAPSED: "lapses",
        EntryStatus.VOID: "is void: it never confirmed a block",
    }.get(entry.status, str(entry.status))
    return f"generation {entry.generation} {what}"
