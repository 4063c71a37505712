"""The replay: what a file proves, in order, from the creation to its last block."""

from bisect import bisect_right
from dataclasses import dataclass, field

import msgspec

from sealift.base import AccountId, Generation, Height, decode, encode
from sealift.protocol import (
    EntryStatus,
    KeyEpochRecord,
    RehearsalsOrder,
    Schedule,
    ShardStatus,
    StageKeysStatement,
    StatusOrder,
    UpgradeOrder,
    WithdrawOrder,
    certificate_key,
    config_at,
    frontier_key,
    keys_key,
    schedule_key,
)

from ._birth import first_schedule, shard_id_of
from ._calls import (
    Call,
    Confirm,
    CreateShard,
    EffectsConflicting,
    Happened,
    HoldKeys,
    MotionEnded,
    OrderFailed,
    OrderRecorded,
    PostCertificate,
    PostEffects,
    PostRehearsal,
    Propose,
    PublishKey,
    Register,
    RootConfirmed,
    RootsConflicting,
    StageKeys,
    StakeDecided,
    SubmitOrder,
    Sudo,
    Unregister,
    Vote,
)
from ._decisions import Decisions
from ._difference import refuse_difference, words_of
from ._entries import active_entry, apply_order, begin_block, next_turn, require
from ._errors import (
    BirthRefusedError,
    KeysUnexplainedError,
    RootChainError,
)
from ._instances import Instances
from ._keys import (
    activate,
    begin_epochs,
    due_for,
    hold,
    narrowed,
    require_made_under,
    stage,
)
from ._lineage import DecidedAct, RuledChange
from ._proven import ProvenCall, ProvenFile
from ._rehearsals import Rehearsals
from ._roots import Effects, Roots


@dataclass(slots=True, kw_only=True)
class KeyStory:
    """How an epoch came: why, who staged it, who held it when it was to act."""

    why: str
    staged_by: AccountId
    holders: tuple[AccountId, ...]


@dataclass(slots=True)
class Replay:
    """Re-derives a shard's schedule, and compares it wherever it changed.

    Args:
        proven: The file, after step 1.
        creation: The number the shard had among its chain's.
        instances: The registry.
    """

    proven: ProvenFile
    creation: int
    instances: Instances
    creator: AccountId = field(init=False)
    created_at: Height = field(init=False)
    acts: list[DecidedAct] = field(default_factory=list)
    ruled: list[RuledChange] = field(default_factory=list)
    keys: list[KeyStory] = field(default_factory=list)
    decisions: Decisions = field(init=False)
    roots: Roots = field(init=False)
    effects: Effects = field(init=False)
    rehearsals: Rehearsals = field(init=False)
    _schedule: Schedule | None = None
    _next_status: ShardStatus | None = None
    _compared: Schedule | None = None

    def __post_init__(self) -> None:
        self.decisions = Decisions(self.instances)
        self.roots = Roots(self.instances)
        self.effects = Effects(self.instances)
        self.rehearsals = Rehearsals(self.instances)

    @property
    def schedule(self) -> Schedule:
        """As it stands; there is one.

        Raises:
            BirthRefusedError: There is none yet.
        """
        if self._schedule is None:
            raise BirthRefusedError(
                "the file does not begin with the shard's creation",
                expected="the transaction of create_shard first",
            )
        return self._schedule

    def run(self) -> None:
        """All blocks of the file in order, and all beginnings of blocks between.

        Raises:
            EvidenceError: With the step that does not hold.
        """
        height = Height(0)
        key = schedule_key(self.proven.shard)
        shown = {at for at, where in self.proven.states if where == key}
        blocks = sorted({*self.proven.calls, *shown})
        while True:
            ahead = bisect_right(blocks, height)
            coming = [*blocks[ahead : ahead + 1], *self._turn(height)]
            height = min(coming, default=Height(0))
            if not coming or height > self.proven.last:
                break
            self._begin(height)
            for call in self.proven.calls.get(height, ()):
                self._take(call)
                for event in call.events:
                    self._happen(call, event)
            self._end(height)
            self._compare(height, always=height in shown)
        self._compare(self.proven.last, always=True)
        self._compare_frontier()
        self._compare_certificate(self.proven.last)

    def _turn(self, after: int) -> list[Height]:
        """The next block whose beginning or end changes the schedule, if any ahead."""
        if self._schedule is None:
            return []
        if self._next_status is not None:
            return [Height(after + 1)]
        turn = next_turn(self._schedule, after=after, confirmed=self.roots.confirmed)
        judged = [
            Height(one.upgrade_at - 1)
            for one in self._schedule.entries
            if one.status is EntryStatus.PENDING and one.upgrade_at - 1 > after
        ]
        return judged if turn is None else [turn, *judged]

    def _begin(self, height: Height) -> None:
        if self._schedule is None:
            return
        if self._next_status is not None:
            self._schedule = msgspec.structs.replace(
                self._schedule, status=self._next_status
            )
            mode = self._next_status.mode
            self._next_status = None
            self._rule(height, f"the status acts: {mode}")
        before = self._schedule
        self._schedule = begin_block(
            before, height=height, confirmed=self.roots.confirmed
        )
        if before.rules != self._schedule.rules:
            self._rule(height, "the shard lives by other rules")
        was = {e.generation: e.status for e in before.entries}
        for entry in self._schedule.entries:
            if was.get(entry.generation) is not entry.status:
                self._rule(height, words_of(entry))

    def _end(self, height: Height) -> None:
        """Block XYZ-1: an upgrade without its rehearsals is put off by rule."""
        if self._schedule is None:
            return
        judged = self.rehearsals.judge(self._schedule, height=height)
        if judged is None or judged.schedule is None:
            return
        self._schedule = judged.schedule
        at = self._schedule.entry(judged.generation).upgrade_at
        self._rule(
            height,
            f"generation {judged.generation} is postponed to block {at}: "
            f"{judged.good} of {judged.required} rehearsals were good",
        )

    def _rule(self, height: Height, words: str) -> None:
        self.ruled.append(RuledChange(height=height, words=words))

    def _take(self, call: ProvenCall) -> None:
        """What a transaction brings, before what it set off."""
        given = call.call
        if isinstance(given, CreateShard):
            self._create(call, given)
            return
        schedule = self.schedule
        match given:
            case Register():
                self.instances.register(call, given, schedule)
            case Unregister():
                self.instances.unregister(given.signing_key)
            case Sudo():
                self._take_root(given)
            case PublishKey():
                self._publish(call, given)
            case StageKeys():
                self._stage(call, given)
            case HoldKeys():
                self._hold(call, given)
            case _:
                self._hear(given, schedule, call)

    def _hear(self, given: Call, schedule: Schedule, call: ProvenCall) -> None:
        """A word that counts only with others: on an order, an effect, a root."""
        height = call.height
        match given:
            case SubmitOrder():
                self.decisions.endorse(given.order, height=height)
            case Propose():
                self.decisions.propose(call, given, schedule)
            case Vote():
                self.decisions.vote(call, given, schedule)
            case PostEffects():
                confirmed = self.roots.confirmed
                self.effects.say(given, schedule, confirmed=confirmed, height=height)
            case Confirm():
                self.roots.say(given, schedule, height=height)
            case PostRehearsal():
                self.rehearsals.say(call, given, schedule)
            case PostCertificate():
                if self.roots.posted is None or self.roots.posted[0] < height:
                    self._compare_certificate(Height(height - 1))
                self.roots.certify(given, schedule, height=height)
            case _:
                pass

    def _take_root(self, given: Sudo) -> None:
        """Root may take an instance off the registry; of shards it has no say."""
        if given.call.name == "teerex.unregister_enclave":
            inner = decode(Unregister, given.call.args)
            self.instances.unregister(inner.signing_key)

    def _create(self, call: ProvenCall, given: CreateShard) -> None:
        """Step 2: the shard's id, its first schedule."""
        shard = shard_id_of(self.proven.chain_id, call.signer, self.creation)
        if shard != self.proven.shard or self._schedule is not None:
            raise BirthRefusedError(
                f"the creation in block {call.height} is another shard's",
                got=shard,
                expected=self.proven.shard,
            )
        self._schedule = first_schedule(
            self.proven.chain_id, shard, given, height=call.height
        )
        self.rehearsals.begin(given)
        self.creator, self.created_at = call.signer, call.height

    def _publish(self, call: ProvenCall, given: PublishKey) -> None:
        """Step 2: the first keys, and the root of the genesis."""
        statement, height = given.statement, call.height
        self._speak(given, statement.signing_key, height)
        self._schedule = begin_epochs(self.schedule, statement, height=height)
        generation = config_at(self.schedule, height).generation
        self.roots.begin(height, statement.genesis_root, generation)
        record = KeyEpochRecord(statement=statement, valid_from=Height(height + 1))
        kept = self.proven.state(height, keys_key(self.proven.shard, 0))
        if kept != encode(record):
            raise BirthRefusedError(
                f"the chain keeps other keys than were published in block {height}",
                got=kept,
                expected=encode(record),
            )
        holder = statement.signing_key
        self.keys.append(KeyStory(why="birth", staged_by=holder, holders=(holder,)))

    def _speak(
        self,
        given: PublishKey | StageKeys | HoldKeys,
        signing_key: AccountId,
        height: Height,
        *,
        status: ShardStatus | None = None,
    ) -> None:
        statement = given.statement
        here = (self.proven.chain_id, self.proven.shard)
        if (statement.chain_id, statement.shard) != here:
            raise KeysUnexplainedError(
                f"keys of another shard in block {height}",
                got=statement.shard,
                expected=self.proven.shard,
            )
        self.instances.speaker(
            statement,
            signing_key,
            given.signature,
            entry=active_entry(self.schedule),
            status=status or self.schedule.status,
            height=height,
        )

    def _stage(self, call: ProvenCall, given: StageKeys) -> None:
        statement: StageKeysStatement = given.statement
        frontier = self.roots.frontier
        confirmed = Generation(0) if frontier is None else frontier.generation
        due = due_for(self.schedule, statement, generation=confirmed)
        status = narrowed(self.schedule.status, due)
        self._speak(given, statement.signing_key, call.height, status=status)
        require_made_under(
            self.instances.records[statement.signing_key], statement, due
        )
        self._schedule = stage(self.schedule, statement, due, height=call.height)
        self._activate(call.height)

    def _hold(self, call: ProvenCall, given: HoldKeys) -> None:
        after = hold(self.schedule, given.statement)
        staged = after.staged
        if staged is None:
            return
        status = narrowed(self.schedule.status, staged.due)
        self._speak(given, given.statement.signing_key, call.height, status=status)
        self._schedule = after
        self._activate(call.height)

    def _activate(self, height: Height) -> None:
        staged = self.schedule.staged
        if staged is None:
            return
        entry = active_entry(self.schedule)
        status = narrowed(self.schedule.status, staged.due)
        counting = tuple(
            one
            for one in staged.holders
            if self.instances.counts(one, entry, status, height=height)
        )
        before = len(self.schedule.epochs)
        self._schedule = activate(
            self.schedule, lambda key: key in counting, height=height
        )
        if len(self.schedule.epochs) > before:
            self.keys.append(
                KeyStory(
                    why=staged.due.why, staged_by=staged.holders[0], holders=counting
                )
            )

    def _happen(self, call: ProvenCall, event: Happened) -> None:
        """What L1 says a transaction set off, each justified by what came before."""
        height = call.height
        if getattr(event, "shard", None) != self.proven.shard:
            return
        match event:
            case RootConfirmed():
                self.roots.accept(event, self.schedule, height)
            case RootsConflicting():
                self.roots.conflict(height, event.last)
                self._stop(height)
            case EffectsConflicting():
                self.effects.conflict(height)
                self._stop(height)
            case StakeDecided() if event.passed:
                order, tally, platforms = self.effects.decision(
                    event,
                    self.schedule,
                    confirmed=self.roots.confirmed,
                    facts=self.roots.facts,
                    height=height,
                )
                self.decisions.note_stake(
                    order, tally, self.schedule, platforms=platforms, height=height
                )
            case MotionEnded():
                self.decisions.end(call, event, self.schedule)
            case OrderRecorded():
                self._record(call, event)
            case OrderFailed():
                self.decisions.forget(event.order)
            case _:
                pass

    def _record(self, call: ProvenCall, event: OrderRecorded) -> None:
        """Step 3: an act takes effect."""
        before, standing = self.schedule, self._next_status or self.schedule.status
        order, by = self.decisions.decided(
            event.order, before, standing=standing, height=call.height
        )
        if isinstance(order, StatusOrder):
            require(
                not order.status.lowers(standing),
                f"a floor fell in block {call.height}",
                got=f"SVN {order.status.min_isv_svn}",
                expected="floors that only rise",
            )
            self._next_status = order.status
        withdrawn = False
        if isinstance(order, RehearsalsOrder):
            self.rehearsals.change(order, before, height=call.height)
        elif isinstance(order, WithdrawOrder):
            withdrawn = self.rehearsals.withdraw(call.height)
        after = apply_order(before, order, height=call.height, withdrawn=withdrawn)
        self._schedule = after
        made = after.entries[-1].generation if isinstance(order, UpgradeOrder) else None
        self.acts.append(
            DecidedAct(
                kind=type(order).__name__,
                order=event.order,
                serial=before.serial,
                height=call.height,
                time=call.time,
                by=by,
                generation=made,
            )
        )

    def _stop(self, height: Height) -> None:
        """A contradiction puts the shard into maintenance, and ends open orders."""
        standing = self._next_status or self.schedule.status
        if standing.mode == "maintenance":
            return
        self._next_status = msgspec.structs.replace(standing, mode="maintenance")
        serial = self.schedule.serial + 1
        self._schedule = msgspec.structs.replace(self.schedule, serial=serial)
        self._rule(height, "two words that cannot both be true: maintenance")

    def _compare(self, height: Height, *, always: bool = False) -> None:
        """The schedule re-derived is the one that L1 keeps, wherever it changed.

        Before the block that changed it, and after; and wherever the file shows it.
        """
        before = self._compared
        if self._schedule == before and not always:
            return
        schedule = self.schedule
        if before is not None and before != schedule:
            self._compare_at(before, Height(height - 1))
        self._compare_at(schedule, height)
        self._compared = schedule

    def _compare_at(self, schedule: Schedule, height: Height) -> None:
        kept = self.proven.state(height, schedule_key(self.proven.shard))
        if kept != encode(schedule):
            refuse_difference(schedule, kept, height)

    def _compare_frontier(self) -> None:
        """Step 6: the chain of roots ends where L1's does."""
        last, frontier = self.proven.last, self.roots.frontier
        kept = self.proven.state(last, frontier_key(self.proven.shard))
        if kept != (None if frontier is None else encode(frontier)):
            raise RootChainError(
                f"the chain of roots does not lead to the frontier of block {last}",
                got="none"
                if frontier is None
                else f"a root up to {frontier.confirmed}: {frontier.root.hex()}",
                expected="the one that L1 keeps",
            )

    def _compare_certificate(self, height: Height) -> None:
        """Step 6: the last certificate posted is L1's: none was left out."""
        posted = self.roots.posted
        kept = self.proven.state(height, certificate_key(self.proven.shard))
        if kept != (None if posted is None else encode(posted[1])):
            raise RootChainError(
                f"the chain keeps another handover certificate after block {height}",
                got="none" if posted is None else f"the one of block {posted[0]}",
                expected="none" if kept is None else "the one that L1 keeps",
            )
