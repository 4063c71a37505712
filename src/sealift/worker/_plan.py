"""Which instances of a home should be up, by what L1 says (hints; pure).

Nothing here decides what an enclave may do: each asks the proven record of a block
whose turn it is. A wrong plan costs time or memory, never trust.
"""

from dataclasses import dataclass
from typing import Final

from sealift.base import Fingerprint, Generation, Height
from sealift.protocol import (
    EntryStatus,
    Frontier,
    HandoverCertificate,
    NoGenerationError,
    Schedule,
    ScheduleEntry,
    config_at,
)

from ._config import Platform
from ._instances import code_of

#: So many upgrades ahead are staged at once: each is another enclave in memory.
MOST_STAGED: Final = 2
_RUNS: Final = frozenset({EntryStatus.PENDING, EntryStatus.ACTIVE, EntryStatus.RETIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a home's instances are for, at the head of L1.

    Attributes:
        head: The block at which it was read.
        entry: The generation that runs.
        running: Its code on this platform.
        ahead: Entries that are to run, the soonest first.
        previous: The code before, if it is another and counts still.
        handed_over: Whether L1 has its certificate, and a confirmed block of the
            generation that runs: no rescue can need the code before.
    """

    head: Height
    entry: ScheduleEntry
    running: Fingerprint | None
    ahead: tuple[ScheduleEntry, ...]
    previous: Fingerprint | None
    handed_over: bool

    @property
    def generation(self) -> Generation:
        """The one that runs."""
        return self.entry.generation

    def last_for(self, code: Fingerprint, platform: Platform) -> Height | None:
        """The last block whose state a code has a use for; ``None``: no end.

        Once its turn is over that is the block before the next generation's first:
        from there a rescue would go on.
        """
        if any(code_of(entry, platform) == code for entry in self.entries()):
            return None
        return Height(self.entry.since - 1)

    def entries(self) -> tuple[ScheduleEntry, ...]:
        """Those whose code should be here: the running one, then what is ahead."""
        return (self.entry, *self.ahead)

    def wants(
        self, code: Fingerprint, platform: Platform, handed_over: int | None
    ) -> bool:
        """Whether an instance of a code should be up.

        Args:
            code: The instance's.
            platform: What it runs on.
            handed_over: For which generation it has handed the shard over, and so
                ended.
        """
        if any(code_of(entry, platform) == code for entry in self.entries()):
            return True
        return code == self.previous and handed_over != self.generation


def plan_for(
    schedule: Schedule,
    *,
    head: Height,
    platform: Platform,
    frontier: Frontier | None,
    certificate: HandoverCertificate | None,
) -> Plan | None:
    """The plan at a block; None before the shard's birth."""
    try:
        entry = config_at(schedule, head)
    except NoGenerationError:
        return None
    running = code_of(entry, platform)
    ahead = sorted(
        (
            one
            for one in schedule.entries
            if one.status is EntryStatus.PENDING and one.upgrade_at > head
        ),
        key=lambda one: one.upgrade_at,
    )
    previous = None
    if entry.predecessor is not None:
        before = schedule.entry(entry.predecessor)
        code = code_of(before, platform)
        previous = code if before.status in _RUNS and code != running else None
    handed_over = (
        frontier is not None
        and frontier.generation == entry.generation
        and frontier.confirmed >= entry.since
        and certificate is not None
        and certificate.successor == entry.generation
    )
    return Plan(
        head=head,
        entry=entry,
        running=running,
        ahead=tuple(ahead[:MOST_STAGED]),
        previous=previous,
        handed_over=handed_over,
    )


def generation_at(
    schedule: Schedule | None, code: Fingerprint, height: int, platform: Platform
) -> int:
    """For which generation a code executed a block; -1: none that is known."""
    found = [
        int(entry.generation)
        for entry in (() if schedule is None else schedule.entries)
        if entry.status in _RUNS
        and entry.since <= height
        and code_of(entry, platform) == code
    ]
    return max(found, default=-1)
