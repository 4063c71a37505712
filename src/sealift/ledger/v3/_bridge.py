"""`enclave_bridge` of version 3: no other code runs before it was rehearsed."""

from sealift.base import Digest, Height, Message, encode
from sealift.crypto import sha256
from sealift.frame import Context, Event, call, ensure_signed
from sealift.ledger._entries import raise_serial
from sealift.ledger._errors import (
    OperatorRefusedError,
    RehearsalClosedError,
    RehearsalForeignError,
    RehearsalFormError,
    RehearsalsFullError,
    RehearsalStaleError,
    RehearsalTermsError,
)
from sealift.ledger._orders import record_withdrawal
from sealift.ledger.v2._bridge import BoundedBridge
from sealift.protocol import (
    EntryRehearsals,
    EntryStatus,
    Order,
    Rehearsal,
    RehearsalGate,
    RehearsalsOrder,
    RehearsalStatement,
    RehearsalTerms,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    UpgradeOrder,
    WithdrawOrder,
)

from ._gate import (
    due_next,
    put_off,
    record_terms,
    verify_reachable,
    verify_terms,
    verify_word,
    with_word,
    without_change,
)
from ._storage import (
    GateStorage,
    RehearsalPosted,
    RehearsalsScheduled,
    UpgradePostponed,
)


class _Shards(Message, kw_only=True):
    """What the bridge had before the migration."""

    count: int
    schedules: Digest


class RehearsedBridge(GateStorage, BoundedBridge):
    """Version 2's bridge, which postpones what was not rehearsed well enough.

    Storage version 2 adds a gate for every shard; those of before ask for nothing.
    """

    name = "enclave_bridge"
    storage_version = 2
    events = (
        *BoundedBridge.events,
        RehearsalPosted,
        UpgradePostponed,
        RehearsalsScheduled,
    )
    errors = (
        *BoundedBridge.errors,
        RehearsalTermsError,
        RehearsalClosedError,
        RehearsalForeignError,
        RehearsalFormError,
        RehearsalStaleError,
        RehearsalsFullError,
    )

    @call(weight=1_000)
    def create_shard(
        self, ctx: Context, *, rules: ShardRules, config: ShardConfig
    ) -> None:
        """Create a shard whose upgrades take no rehearsals; see version 1."""
        self._create(ctx, rules, config, RehearsalTerms())

    @call(weight=1_000)
    def create_gated_shard(
        self,
        ctx: Context,
        *,
        rules: ShardRules,
        config: ShardConfig,
        rehearsals: int,
        postpone_by: int,
    ) -> None:
        """Create a shard whose upgrades take so many good rehearsals.

        Without them an upgrade is put off by ``postpone_by`` blocks, again and
        again, until they are there or the authority has decided otherwise.
        """
        if rehearsals < 1:
            raise RehearsalTermsError(
                "a gate that asks for nothing", got=rehearsals, expected="≥ 1"
            )
        terms = RehearsalTerms(required=rehearsals, postpone_by=postpone_by)
        self._create(ctx, rules, config, terms)

    @call(weight=1_000)
    def post_rehearsal(
        self,
        ctx: Context,
        *,
        statement: RehearsalStatement,
        signature: bytes,
        milliseconds: int,
    ) -> None:
        """Say how an instance's rehearsal of its generation went.

        How long it took is the host's word: enclaves have no clock.

        1. For this chain and shard, and for a pending entry between its
           ``release_from`` and XYZ, as it stands; see ``verify_word``.
        2. Signed by an instance that is eligible for that entry.
        3. Brought by the instance's operator.
        4. It is newer than the platform's last, and replaces that, good or bad.
        """
        operator = ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, statement)  # 1
        height = ctx.block.height
        entry = verify_word(schedule, statement, milliseconds, height=height)
        record = self._verify_signer(ctx, schedule, statement, signature, entry)  # 2
        if record.operator != operator:  # 3
            raise OperatorRefusedError(
                "instance belongs to another account",
                got=operator,
                expected=record.operator,
            )
        word = Rehearsal(
            statement=statement,
            signature=signature,
            milliseconds=milliseconds,
            platform_id=record.platform_id,
            recorded_at=Height(height),
        )
        shard, generation = schedule.shard, entry.generation
        kept = self._words(ctx, schedule, entry)
        words = with_word(  # 4
            kept, word, counts=lambda one: self._counts(ctx, schedule, entry, one)
        )
        self.rehearsals.put(
            ctx,
            (shard, generation),
            EntryRehearsals(
                order=entry.order, upgrade_at=entry.upgrade_at, rehearsals=words
            ),
        )
        rehearsed = {*self.rehearsed.get(ctx, shard), generation}
        self.rehearsed.put(ctx, shard, tuple(sorted(rehearsed)))
        ctx.emit(
            RehearsalPosted(
                shard=shard,
                generation=generation,
                signing_key=statement.signing_key,
                platform=record.platform_id,
                verdict=statement.good,
                good=self._good(ctx, schedule, entry, words),
            )
        )

    def on_finalize(self, ctx: Context) -> None:
        """In block XYZ-1, after all its transactions: may the next code run?

        So the state after XYZ-1 says who runs XYZ, to the old enclave too.

        1. An entry would be promoted by the next block, and follows the running one.
        2. Fewer platforms than the shard's terms ask for have rehearsed it well,
           of those that are still eligible.
        3. It is put off, and with it all that follow it.
        """
        for shard in self.shards.get(ctx):
            terms = self.gates.get(ctx, shard).at(ctx.block.height)
            if not terms.required:
                continue
            schedule = self.schedules.get(ctx, shard)
            due = due_next(schedule, height=ctx.block.height)  # 1
            if due is None:
                continue
            words = self._words(ctx, schedule, due)
            good = self._good(ctx, schedule, due, words)
            if good >= terms.required:  # 2
                continue
            after = put_off(schedule, due, by=terms.postpone_by)  # 3
            self.put_schedule(ctx, after)
            ctx.emit(
                UpgradePostponed(
                    shard=shard,
                    generation=due.generation,
                    good=good,
                    required=terms.required,
                    upgrade_at=after.entry(due.generation).upgrade_at,
                )
            )

    def require_known(self, order: Order) -> None:
        """Return: this version has all orders."""

    def put_schedule(
        self, ctx: Context, schedule: Schedule, *, running: bool = False
    ) -> None:
        """Store a schedule; rehearsals of what stands no more are forgotten."""
        super().put_schedule(ctx, schedule, running=running)
        shard = schedule.shard
        rehearsed = self.rehearsed.get(ctx, shard)
        kept = []
        for generation in rehearsed:
            entry = schedule.entry(generation)
            known = self.rehearsals.get(ctx, (shard, generation))
            if _is_of(known, entry):
                kept.append(generation)
            else:
                self.rehearsals.delete(ctx, (shard, generation))
        if len(kept) < len(rehearsed):
            self.rehearsed.put(ctx, shard, tuple(kept))

    def pre_upgrade(self, ctx: Context) -> bytes:
        """Note all schedules."""
        return encode(self._noted(ctx))

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        """Give every shard a gate that asks for nothing."""
        del from_version  # 1: there is no other
        for shard in self.shards.get(ctx):
            ctx.charge(1)
            self.gates.put(ctx, shard, RehearsalGate())

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        """No schedule has changed, and no shard's upgrades wait for anything."""
        shards = self.shards.get(ctx)
        gates = dict(self.gates.items(ctx))
        open_all = {shard: RehearsalGate() for shard in shards}
        if encode(self._noted(ctx)) != before or gates != open_all:
            raise RehearsalTermsError(
                "a schedule changed, or a shard has another gate than none",
                got=f"{len(gates)} gates",
                expected=f"{len(shards)} open ones",
            )

    def _noted(self, ctx: Context) -> _Shards:
        shards = self.shards.get(ctx)
        known = tuple(self.schedules.get(ctx, shard).digest() for shard in shards)
        return _Shards(count=len(shards), schedules=sha256(encode((shards, known))))

    def _create(
        self,
        ctx: Context,
        rules: ShardRules,
        config: ShardConfig,
        terms: RehearsalTerms,
    ) -> None:
        verify_terms(terms)
        gate = RehearsalGate(terms=terms)
        verify_reachable(gate, config)
        super().create_shard(ctx, rules=rules, config=config)
        self.gates.put(ctx, self.shards.get(ctx)[-1], gate)

    def _after(
        self, ctx: Context, schedule: Schedule, order: Order
    ) -> tuple[Schedule, Event | None]:
        shard, height = schedule.shard, Height(ctx.block.height)
        gate = self.gates.get(ctx, shard)
        match order:
            case UpgradeOrder():
                verify_reachable(gate.settled(height), order.config)
            case RehearsalsOrder():
                after, changed = record_terms(schedule, gate, order, height=height)
                self.gates.put(ctx, shard, changed)
                return after, RehearsalsScheduled(
                    shard=shard,
                    required=order.required,
                    postpone_by=order.postpone_by,
                    effective_at=order.effective_at,
                    order=order.digest(),
                )
            case WithdrawOrder() if gate.settled(height).change is not None:
                self.gates.put(ctx, shard, without_change(gate, height=height))
                if schedule.change is None:
                    return raise_serial(schedule), None
                return record_withdrawal(schedule), None
            case _:
                pass
        return super()._after(ctx, schedule, order)

    def _words(
        self, ctx: Context, schedule: Schedule, entry: ScheduleEntry
    ) -> tuple[Rehearsal, ...]:
        """What is kept for an entry as it stands."""
        known = self.rehearsals.find(ctx, (schedule.shard, entry.generation))
        return () if known is None else known.rehearsals

    def _good(
        self,
        ctx: Context,
        schedule: Schedule,
        entry: ScheduleEntry,
        words: tuple[Rehearsal, ...],
    ) -> int:
        """How many platforms' words are good, and still count."""
        return sum(
            one.statement.good and self._counts(ctx, schedule, entry, one)
            for one in words
        )

    def _counts(
        self, ctx: Context, schedule: Schedule, entry: ScheduleEntry, word: Rehearsal
    ) -> bool:
        signing_key = word.statement.signing_key
        return self._counts_still(ctx, schedule, entry, signing_key)


def _is_of(known: EntryRehearsals, entry: ScheduleEntry) -> bool:
    """Whether rehearsals are of an entry as it stands."""
    named = (entry.order, entry.upgrade_at)
    return entry.status is EntryStatus.PENDING and named == (
        known.order,
        known.upgrade_at,
    )
