"""Rehearsals: what was asked for, who rehearsed, and a postponement by rule.

Pure, and written a second time on purpose, as :mod:`sealift.evidence._entries` is.
"""

from dataclasses import dataclass, field

import msgspec

from sealift.base import Generation, Height, PlatformId
from sealift.protocol import (
    EntryStatus,
    RehearsalsOrder,
    RehearsalStatement,
    Schedule,
    ScheduleEntry,
)

from ._calls import CreateGatedShard, CreateShard, PostRehearsal
from ._entries import active_entry, require
from ._errors import InstanceRefusedError
from ._instances import Instances
from ._lineage import TermsAhead, VerifiedRehearsal
from ._proven import ProvenCall

_MOST_REQUIRED = 16
_SHORTEST, _LONGEST = 10, 1_000_000
_MOST_KEPT = 64


@dataclass(frozen=True, slots=True)
class Terms:
    """Good rehearsals that an upgrade takes, and how far it is put off else."""

    required: int = 0
    postpone_by: int = 0

    def require_livable(self, where: str) -> None:
        """Return if a shard can live by them.

        Raises:
            ActUnprovenError: L1 takes no such terms.
        """
        least, most = (_SHORTEST, _LONGEST) if self.required else (0, 0)
        require(
            self.required <= _MOST_REQUIRED and least <= self.postpone_by <= most,
            f"terms of rehearsals by which no shard can live, {where}",
            got=f"{self.required}, {self.postpone_by} blocks",
            expected=f"≤ {_MOST_REQUIRED}, {least} … {most} blocks",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    statement: RehearsalStatement
    milliseconds: int
    platform_id: PlatformId

    @property
    def newness(self) -> tuple[int, int, bool]:
        """The later copy; more blocks on it; and last, that the next thing failed."""
        said = self.statement
        return said.height, said.blocks, not said.good


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was found in block XYZ-1 of an entry that was due."""

    generation: Generation
    good: int
    required: int
    words: tuple[VerifiedRehearsal, ...]
    schedule: Schedule | None


@dataclass(slots=True)
class Rehearsals:
    """Re-derives whether an upgrade had its rehearsals.

    Args:
        instances: Who has rehearsed, by its quote.
    """

    instances: Instances
    terms: Terms = Terms()
    ahead: tuple[Height, Terms] | None = None
    judged: dict[Generation, Judgement] = field(default_factory=dict)
    _words: dict[Generation, list[_Word]] = field(default_factory=dict)

    def begin(self, given: CreateShard) -> None:
        """The terms that a shard is created with."""
        if isinstance(given, CreateGatedShard):
            self.terms = Terms(given.rehearsals, given.postpone_by)
            self.terms.require_livable("at the shard's creation")

    def at(self, height: int) -> Terms:
        """The terms that count in a block."""
        if self.ahead is not None and self.ahead[0] <= height:
            return self.ahead[1]
        return self.terms

    def ahead_of(self, height: int) -> TermsAhead | None:
        """Terms that are decided and do not count in a block yet."""
        if self.ahead is None or self.ahead[0] <= height:
            return None
        at, terms = self.ahead
        return TermsAhead(
            effective_at=at, required=terms.required, postpone_by=terms.postpone_by
        )

    def change(
        self, order: RehearsalsOrder, schedule: Schedule, *, height: Height
    ) -> None:
        """Other terms were decided in block ``height``.

        Raises:
            ActUnprovenError: Without the longest notice; or no shard could live so.
        """
        earliest = height + schedule.rules.longest_notice
        require(
            order.effective_at >= earliest,
            "terms of rehearsals without their notice",
            got=order.effective_at,
            expected=f"≥ {earliest}",
        )
        terms = Terms(order.required, order.postpone_by)
        terms.require_livable(f"decided in block {height}")
        self.terms = self.at(height)
        self.ahead = (order.effective_at, terms)

    def withdraw(self, height: Height) -> bool:
        """Drop a change that is ahead; whether there was one."""
        ahead = self.ahead is not None and self.ahead[0] > height
        self.terms, self.ahead = self.at(height), None
        return ahead

    def say(self, call: ProvenCall, given: PostRehearsal, schedule: Schedule) -> None:
        """An instance of a pending generation has rehearsed.

        1. For the entry as it stands, between its release and XYZ. 2. By an instance
        that is eligible for it, brought by its operator. 3. It is newer than the
        last word of the same machine.

        Raises:
            EvidenceError: One of them fails.
        """
        statement, height = given.statement, call.height
        entry = schedule.entry(statement.generation)
        here = (schedule.chain_id, schedule.shard, entry.order, entry.upgrade_at)
        named = (
            statement.chain_id,
            statement.shard,
            statement.order,
            statement.upgrade_at,
        )
        require(  # 1
            named == here
            and entry.status is EntryStatus.PENDING
            and entry.release_from <= height < entry.upgrade_at
            and statement.height + statement.blocks < height,
            f"a rehearsal in block {height} is of no generation that waits",
            got=f"generation {statement.generation} at {statement.upgrade_at}",
            expected=f"a released one that is pending, {entry.upgrade_at}",
        )
        platform = self.instances.speaker(  # 2
            statement,
            statement.signing_key,
            given.signature,
            entry=entry,
            status=schedule.status,
            height=height,
        )
        record = self.instances.records[statement.signing_key]
        if record.operator != call.signer:
            raise InstanceRefusedError(
                f"a rehearsal in block {height} was not brought by its operator",
                got=call.signer,
                expected=record.operator,
            )
        kept = self._standing(entry)
        last = next((one for one in kept if one.platform_id == platform), None)
        word = _Word(
            statement=statement,
            milliseconds=given.milliseconds,
            platform_id=platform,
        )
        require(  # 3
            last is None or last.newness < word.newness,
            f"an older rehearsal came after a newer one in block {height}",
            got=word.newness,
            expected="a newer one than the machine's last",
        )
        others = [one for one in kept if one is not last]
        if len(others) >= _MOST_KEPT:
            others = [
                one for one in others if self._counts(one, entry, schedule, height)
            ]
        if len(others) >= _MOST_KEPT:
            bad = next((one for one in others if not one.statement.good), None)
            others = [one for one in others if one is not bad]
        self._words[entry.generation] = [*others, word]

    def judge(self, schedule: Schedule, *, height: Height) -> Judgement | None:
        """In block XYZ-1, after all its acts: whether the next generation may run.

        ``None``: none is due, or nothing is asked for. Its ``schedule`` is the one
        that was put off, ``None`` if the generation may run.
        """
        terms = self.at(height)
        due = next(
            (
                entry
                for entry in schedule.entries
                if entry.status is EntryStatus.PENDING
                and entry.upgrade_at == height + 1
                and entry.predecessor == active_entry(schedule).generation
            ),
            None,
        )
        if due is None or not terms.required:
            return None
        words = [
            one
            for one in self._standing(due)
            if self._counts(one, due, schedule, height)
        ]
        good = len([one for one in words if one.statement.good])
        judgement = Judgement(
            generation=due.generation,
            good=good,
            required=terms.required,
            words=tuple(_verified(one) for one in words),
            schedule=None
            if good >= terms.required
            else _put_off(schedule, due, terms.postpone_by),
        )
        self.judged[due.generation] = judgement
        return judgement

    def _standing(self, entry: ScheduleEntry) -> list[_Word]:
        """What was said of an entry as it stands."""
        wanted = (entry.order, entry.upgrade_at)
        return [
            one
            for one in self._words.get(entry.generation, ())
            if (one.statement.order, one.statement.upgrade_at) == wanted
        ]

    def _counts(
        self, word: _Word, entry: ScheduleEntry, schedule: Schedule, height: Height
    ) -> bool:
        return self.instances.counts(
            word.statement.signing_key, entry, schedule.status, height=height
        )


def _put_off(schedule: Schedule, due: ScheduleEntry, blocks: int) -> Schedule:
    """It, and whatever follows it, runs so many blocks later."""
    entries = list(schedule.entries)
    for place, entry in enumerate(entries):
        if entry.status is EntryStatus.PENDING and entry.generation >= due.generation:
            later = Height(entry.upgrade_at + blocks)
            entries[place] = msgspec.structs.replace(
                entry, upgrade_at=later, since=later
            )
    return msgspec.structs.replace(schedule, entries=tuple(entries))


def _verified(word: _Word) -> VerifiedRehearsal:
    statement = word.statement
    return VerifiedRehearsal(
        platform_id=word.platform_id,
        signing_key=statement.signing_key,
        good=statement.good,
        check=statement.check,
        height=statement.height,
        blocks=statement.blocks,
        milliseconds=word.milliseconds,
        size=statement.size,
    )
