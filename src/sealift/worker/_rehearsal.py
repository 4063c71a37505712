"""Rehearsals, as far as a host has a part in them (DESIGN §11.7).

While this enclave's code is the next to run, it is asked how its rehearsal went, and
its word is brought to L1: the first one, one that says something else, and the last
before XYZ. Each costs a fee, so there are no others. How long it took is the host's
word, rounded up to a power of two.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from sealift.base import Height, SealiftError, canonical_decode
from sealift.protocol import (
    EntryRehearsals,
    Rehearsal,
    RehearsalGate,
    RehearsalStatement,
    Schedule,
    ScheduleEntry,
    gate_key,
    newness,
    next_upgrade,
    rehearsals_key,
    rounded_up,
    schedule_key,
)
from sealift.protocol.ecall import (
    EnclaveStatus,
    GetStatus,
    Idle,
    Rehearse,
    Rehearsed,
)

from ._channel import EnclaveChannel
from ._errors import FATAL, EnclaveGoneError, StalledError
from ._follower import Follower
from ._outbox import Outbox
from ._patience import Pauses
from ._rotation import Instance
from ._surroundings import Surroundings

#: The name of this topic in the worker's health.
REHEARSAL: Final = "rehearsal"
#: Of the ECALL table, since when rehearsals are asked for.
REHEARSE_SINCE: Final = 2
#: Once there is a verdict, the enclave is asked again after so many blocks.
ASK_EVERY: Final = 4
#: So many blocks before XYZ the last word is brought, if it is a newer one.
LAST_BLOCKS: Final = 12
#: What is sent later than so many blocks before XYZ may come too late for XYZ-1.
TOO_LATE: Final = 3
#: No entry at one upgrade block is worth more fees than these.
MAX_POSTS: Final = 6
_MS: Final = 1000
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalStanding:
    """How this enclave's rehearsal stands; ``good`` ``None``: no verdict yet.

    ``posted``: whether L1 has this verdict.
    """

    good: bool | None = None
    check: str = ""
    height: Height | None = None
    blocks: int = 0
    milliseconds: int = 0
    size: int = 0
    posted: bool = False
    detail: str = ""

    def describe(self) -> dict[str, object]:
        """What ``worker status`` shows."""
        verdict = {None: "none", True: "good", False: "bad"}[self.good]
        return {
            "rehearsal": verdict,
            "rehearsal_check": self.check,
            "rehearsal_height": self.height,
            "rehearsal_blocks": self.blocks,
            "rehearsal_ms": self.milliseconds or None,
            "rehearsal_size": self.size or None,
            "rehearsal_on_l1": self.posted,
            "rehearsal_detail": self.detail,
        }


@dataclass(slots=True, kw_only=True)
class Rehearsing:
    """Has one enclave rehearse, and brings its word to L1 where it pays.

    Args:
        channel: The enclave.
        follower: Whose blocks it looks after.
        outbox: The operator's L1 acts.
        around: L1.
        me: Code and signing key of the enclave.
        monotonic: Seconds of a clock that is never set back.
        troubles: Where it says what is in the way, or that the verdict is bad.
    """

    channel: EnclaveChannel
    follower: Follower
    outbox: Outbox
    around: Surroundings
    me: Instance
    monotonic: Callable[[], float]
    troubles: dict[str, str]
    standing: RehearsalStanding = field(default_factory=RehearsalStanding, init=False)
    _asked_at: int = field(default=0, init=False)
    _copy: tuple[bytes, int, int] | None = field(default=None, init=False)
    _seconds: float = field(default=0.0, init=False)
    _unclaimed: float = field(default=0.0, init=False)
    _verdict: str = field(default="", init=False)
    _posts: tuple[tuple[bytes, int], int] = field(default=((b"", 0), 0), init=False)

    async def run(self) -> None:
        """After each imported block, look whether there is something to rehearse.

        An enclave that is too old for it is never asked.

        Raises:
            SealiftError: What ends a worker; all else is waited out, and said.
        """
        if self.channel.version < REHEARSE_SINCE:
            return
        pauses = Pauses()
        while True:
            await self.follower.next_block()
            paid_before = self.outbox.paid
            try:
                await self.look()
            except FATAL:
                raise
            except SealiftError as error:
                self.troubles[REHEARSAL] = str(error)
                await asyncio.sleep(pauses.after(paid=self.outbox.paid > paid_before))
            else:
                self._say()
                pauses = Pauses()

    async def look(self) -> None:
        """Look once: ask the enclave, say how it stands, post if it pays.

        Raises:
            SealiftError: What is in the way.
        """
        entry = await self._due()
        if entry is None:
            self._forget()
            return
        imported = self.follower.progress.imported
        of_entry = self._copy is not None and self._copy[:2] == _named(entry)
        if of_entry and imported < self._asked_at + ASK_EVERY:
            return
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        if not status.epochs or status.state_height is None:
            self._forget("keys and a copy of the state come first")
            return
        said = await self._ask()
        self._asked_at = imported
        if said is None:
            return
        if (said.statement.order, said.statement.upgrade_at) != _named(entry):
            return  # the hint was ahead of what the enclave has proven, or behind
        await self._bring(said, entry)

    async def _due(self) -> ScheduleEntry | None:
        """The next entry, if it is this code's and its notice has run."""
        schedule = await self._read(schedule_key(self.around.shard), Schedule)
        if schedule is None:
            return None
        imported = self.follower.progress.imported
        entry = next_upgrade(schedule, imported)
        if (
            entry is None
            or self.me.code not in entry.config.code.values()
            or not entry.release_from <= imported < entry.upgrade_at
        ):
            return None
        return entry

    async def _ask(self) -> Rehearsed | None:
        """The enclave's word; ``None``: there is none yet."""
        began = self.monotonic()
        reply = await self.channel.ask(Rehearse())
        self._unclaimed += max(self.monotonic() - began, 0.0)
        if isinstance(reply, Idle):
            if self.standing.good is None:
                self.standing = RehearsalStanding(
                    detail=f"{reply.reason}: {reply.detail}"
                )
            return None
        if not isinstance(reply, Rehearsed):
            raise EnclaveGoneError(
                "the enclave answered out of turn",
                got=type(reply).__name__,
                expected="Rehearsed or Idle",
            )
        said = reply.statement
        copy = (said.order, said.upgrade_at, said.height)
        self._seconds = self._unclaimed + (self._seconds if copy == self._copy else 0.0)
        self._copy, self._unclaimed = copy, 0.0
        return reply

    async def _bring(self, reply: Rehearsed, entry: ScheduleEntry) -> None:
        said = reply.statement
        milliseconds = rounded_up(round(self._seconds * _MS))
        gate = await self._read(gate_key(self.around.shard), RehearsalGate)
        kept = await self._kept(entry)
        posted = kept is not None and _same_verdict(kept.statement, said)
        self.standing = RehearsalStanding(
            good=said.good,
            check=said.check,
            height=said.height,
            blocks=said.blocks,
            milliseconds=milliseconds,
            size=said.size,
            posted=posted,
            detail="" if gate is not None else "this L1 takes no rehearsals yet",
        )
        self._verdict = (
            ""
            if said.good
            else f"generation {entry.generation} would fail at block "
            f"{entry.upgrade_at}: {said.check}"
        )
        self._say()
        if gate is None or not self._pays(said, kept, entry):
            return
        named = _named(entry)
        self._posts = (named, self._spent(entry) + 1)
        outcome = await self.outbox.act(
            "enclave_bridge.post_rehearsal",
            {
                "statement": said,
                "signature": reply.signature,
                "milliseconds": milliseconds,
            },
        )
        if outcome.code:
            raise StalledError(
                "L1 has not taken the rehearsal",
                got=f"code {outcome.code}: {outcome.log}",
                expected="code 0",
            )
        self.standing = replace(self.standing, posted=True)

    def _pays(
        self,
        said: RehearsalStatement,
        kept: Rehearsal | None,
        entry: ScheduleEntry,
    ) -> bool:
        """Whether a word is worth its fee.

        1. L1 would take it: it is newer than what it has of this instance.
        2. It has none, or another verdict; or XYZ is near, and this is the last.
        3. It can be there by XYZ-1; not too many were paid for this entry there.
        """
        imported = self.follower.progress.imported
        late = imported > entry.upgrade_at - TOO_LATE
        if late or self._spent(entry) >= MAX_POSTS:  # 3
            return False
        if kept is None:  # 2
            return True
        if newness(said) <= newness(kept.statement):  # 1
            return False
        near = entry.upgrade_at - LAST_BLOCKS
        last = kept.recorded_at < near <= imported
        return last or not _same_verdict(kept.statement, said)  # 2

    def _spent(self, entry: ScheduleEntry) -> int:
        named, count = self._posts
        return count if named == _named(entry) else 0

    async def _kept(self, entry: ScheduleEntry) -> Rehearsal | None:
        """What L1 has of this instance for the entry as it stands."""
        key = rehearsals_key(self.around.shard, entry.generation)
        known = await self._read(key, EntryRehearsals)
        if known is None or (known.order, known.upgrade_at) != _named(entry):
            return None
        mine = self.me.signing_key
        words = known.rehearsals
        return next((w for w in words if w.statement.signing_key == mine), None)

    async def _read(self, key: bytes, kind: type[_Kind]) -> _Kind | None:
        """An entry of L1's state, as the node says: a hint, L1 judges."""
        height = self.follower.progress.imported
        value, _ = await self.around.l1.prove(key, height)
        return None if value is None else canonical_decode(kind, value)

    def _forget(self, detail: str = "") -> None:
        self.standing = RehearsalStanding(detail=detail)
        self._copy, self._seconds, self._unclaimed = None, 0.0, 0.0
        self._verdict = ""
        self._say()

    def _say(self) -> None:
        """Nothing else is in the way now than a bad verdict."""
        if self._verdict:
            self.troubles[REHEARSAL] = self._verdict
        else:
            self.troubles.pop(REHEARSAL, None)


def _named(entry: ScheduleEntry) -> tuple[bytes, int]:
    return entry.order, entry.upgrade_at


def _same_verdict(one: RehearsalStatement, other: RehearsalStatement) -> bool:
    return (one.good, one.check) == (other.good, other.check)
