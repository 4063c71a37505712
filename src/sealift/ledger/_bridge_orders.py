"""`enclave_bridge`: orders of a shard's authority, and endorsements of them."""

from sealift.base import Digest, Height, ShardId
from sealift.frame import CallArgumentsError, Context, Event, call, ensure_signed
from sealift.protocol import (
    CancelOrder,
    Order,
    PostponeOrder,
    RehearsalsOrder,
    RulesOrder,
    Schedule,
    SignedOrder,
    StakeAuthority,
    StatusOrder,
    UpgradeOrder,
    WorkersAuthority,
    leaves,
)

from ._authority import OpenOrder, collect, lacking
from ._bridge_schedule import ScheduleKeeper
from ._bridge_storage import (
    GenerationCancelled,
    GenerationPostponed,
    GenerationScheduled,
    OrderEndorsed,
    OrderFailed,
    OrderRecorded,
    RulesScheduled,
)
from ._entries import active_entry
from ._errors import OrderOpenError, OrderSignatureError
from ._orders import (
    owe_rotation,
    record_cancel,
    record_postponement,
    record_rules,
    record_status,
    record_upgrade,
    record_withdrawal,
    verify_order,
)

#: So many orders of a shard may wait for endorsements.
MAX_OPEN_ORDERS = 16


class OrderKeeper(ScheduleKeeper):
    """Collects endorsements, and carries out what the authority decided.

    Args:
        vault: See :class:`ScheduleKeeper`.
    """

    @call(weight=3_000)
    def submit_order(self, ctx: Context, *, order: SignedOrder) -> None:
        """Carry an order with endorsements to L1; anybody's account may.

        1. It is for this chain and shard; each endorsement is a signature over
           it by a member of the authority; its serial is current and its expiry
           has not passed.
        2. With what was endorsed before: if that is enough, it is carried out,
           and all other open orders end.
        3. Else it waits, if there is anything new.
        """
        self.require_known(order.order)
        ensure_signed(ctx.origin)
        schedule = self.schedule_of(ctx, order.order.shard)
        known = self._known(ctx, schedule, order.order)
        opened = collect(schedule, order, known)  # 1
        verify_order(schedule, order.order, height=ctx.block.height)
        if not self._decided(ctx, schedule, opened):  # 3
            if opened == known:
                raise OrderSignatureError(
                    "order brings no endorsement that was not known",
                    expected=", ".join(
                        type(leaf).__name__
                        for leaf in self._lacking(ctx, schedule, opened)
                    ),
                )
            self._keep_open(ctx, schedule, opened)
            return
        self._carry_out(ctx, schedule, order.order)  # 2

    def require_known(self, order: Order) -> None:
        """Return if this version of the runtime has such orders.

        Programs of before refused others as no arguments of any call; so do the
        versions that they had, whatever the program.

        Raises:
            CallArgumentsError: It hasn't.
        """
        if isinstance(order, RehearsalsOrder):
            raise CallArgumentsError(
                "this version of the L1 runtime has no such orders",
                got=type(order).__name__,
            )

    def note_vote(
        self, ctx: Context, order: Order, voted: StakeAuthority | WorkersAuthority
    ) -> None:
        """A vote was for an order, by the terms ``voted``.

        Carries it out if that is enough, or keeps it open for the other members.
        What can't be carried out is told by an event, since nobody's transaction
        is there to fail.

        Raises:
            UnknownShardError: No such shard.
            OrderForeignError: Another chain's.
            OrderSerialError: Overtaken by another act.
            OrderExpiredError: Too late.
            OrderSignatureError: The authority has no such member.
        """
        schedule = self.schedule_of(ctx, order.shard)
        verify_order(schedule, order, height=ctx.block.height)
        trees = (schedule.rules.authority, schedule.rules.emergency)
        members = [leaf for tree in trees if tree is not None for leaf in leaves(tree)]
        if voted not in members:
            raise OrderSignatureError(
                "the shard's authority has no such member", got=type(voted).__name__
            )
        known = self._known(ctx, schedule, order)
        opened = OpenOrder(
            order=order,
            keys=known.keys,
            vendors=known.vendors,
            stake=known.stake or isinstance(voted, StakeAuthority),
            workers=known.workers or isinstance(voted, WorkersAuthority),
            recorded_at=known.recorded_at,
        )
        if not self._decided(ctx, schedule, opened):
            self._keep_open(ctx, schedule, opened)
            return
        failure = ctx.attempt(lambda inner: self._carry_out(inner, schedule, order))
        if failure is not None:
            self._forget(ctx, schedule.shard, order.digest())
            ctx.emit(
                OrderFailed(
                    shard=schedule.shard,
                    kind=type(order).__name__,
                    order=order.digest(),
                    error=failure.code,
                )
            )

    def _known(self, ctx: Context, schedule: Schedule, order: Order) -> OpenOrder:
        known = self.opened.find(ctx, (schedule.shard, order.digest()))
        return known or OpenOrder(order=order, recorded_at=Height(ctx.block.height))

    def _lacking(
        self, ctx: Context, schedule: Schedule, opened: OpenOrder
    ) -> tuple[object, ...]:
        standing = self.standing_status(ctx, schedule)
        return lacking(schedule, opened, standing=standing)

    def _decided(self, ctx: Context, schedule: Schedule, opened: OpenOrder) -> bool:
        return not self._lacking(ctx, schedule, opened)

    def _keep_open(self, ctx: Context, schedule: Schedule, opened: OpenOrder) -> None:
        """Keep an order that lacks endorsements; forget those that are void."""
        shard, digest = schedule.shard, opened.order.digest()
        for other in self.opened_digests.get(ctx, shard):
            order = self.opened.get(ctx, (shard, other)).order
            overtaken = order.serial != schedule.serial  # also by no order: a rule
            if overtaken or order.expiry < ctx.block.height or other == digest:
                self._forget(ctx, shard, other)
        kept = self.opened_digests.get(ctx, shard)
        if len(kept) >= MAX_OPEN_ORDERS:
            raise OrderOpenError(
                "too many orders wait for endorsements",
                got=len(kept),
                expected=f"< {MAX_OPEN_ORDERS}",
            )
        self.opened_digests.put(ctx, shard, (*kept, digest))
        self.opened.put(ctx, (shard, digest), opened)
        ctx.emit(
            OrderEndorsed(
                shard=shard,
                kind=type(opened.order).__name__,
                order=digest,
                lacking=len(self._lacking(ctx, schedule, opened)),
            )
        )

    def _carry_out(self, ctx: Context, schedule: Schedule, order: Order) -> None:
        """Change the schedule as decided; every open order is void by that."""
        after, event = self._after(ctx, schedule, order)
        self._drop_open(ctx, schedule.shard)
        self.put_schedule(ctx, after)
        ctx.emit(
            OrderRecorded(
                shard=schedule.shard,
                kind=type(order).__name__,
                order=order.digest(),
                serial=after.serial,
            )
        )
        if event is not None:
            ctx.emit(event)

    def _after(
        self, ctx: Context, schedule: Schedule, order: Order
    ) -> tuple[Schedule, Event | None]:
        height = Height(ctx.block.height)
        match order:
            case UpgradeOrder():
                self.judge_config(ctx, order.config)
                return self._upgrade(schedule, order, height)
            case CancelOrder():
                return self._cancel(ctx, schedule, order)
            case PostponeOrder():
                after = record_postponement(schedule, order, height=height)
                return after, GenerationPostponed(
                    shard=schedule.shard,
                    generation=order.generation,
                    upgrade_at=order.upgrade_at,
                )
            case StatusOrder():
                standing = self.standing_status(ctx, schedule)
                after = record_status(schedule, standing, order, height=height)
                self.next_status.put(ctx, schedule.shard, order.status)
                return after, None
            case RulesOrder():
                after = record_rules(schedule, order, height=height)
                return after, RulesScheduled(
                    shard=schedule.shard, effective_at=order.effective_at
                )
            case _:
                return record_withdrawal(schedule), None

    @staticmethod
    def _upgrade(
        schedule: Schedule, order: UpgradeOrder, height: Height
    ) -> tuple[Schedule, Event]:
        after = record_upgrade(schedule, order, height=height)
        entry = after.entries[-1]
        return after, GenerationScheduled(
            shard=schedule.shard,
            generation=entry.generation,
            upgrade_at=entry.upgrade_at,
        )

    def _cancel(
        self, ctx: Context, schedule: Schedule, order: CancelOrder
    ) -> tuple[Schedule, Event]:
        after, lapsed = record_cancel(schedule, order)
        released = [
            generation
            for generation in (order.generation, *lapsed)
            if schedule.entry(generation).release_from <= ctx.block.height
        ]
        if released:
            after = owe_rotation(
                after,
                "cancel",
                generation=active_entry(after).generation,
                not_before=0,
                grace=schedule.rules.grace,
            )
        self.tell_lapsed(ctx, schedule, after)
        entry = schedule.entry(order.generation)
        return after, GenerationCancelled(
            shard=schedule.shard,
            generation=entry.generation,
            rotation_owed=bool(released),
        )

    def _forget(self, ctx: Context, shard: ShardId, digest: Digest) -> None:
        kept = [one for one in self.opened_digests.get(ctx, shard) if one != digest]
        self.opened_digests.put(ctx, shard, tuple(kept))
        self.opened.delete(ctx, (shard, digest))

    def _drop_open(self, ctx: Context, shard: ShardId) -> None:
        for digest in self.opened_digests.get(ctx, shard):
            self.opened.delete(ctx, (shard, digest))
        self.opened_digests.delete(ctx, shard)
