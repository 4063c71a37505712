"""`council`: the workers' vote on L1 (DESIGN §4.5).

One platform, one vote. It trusts a majority of hosts for code: who wants less
trust combines it, or chooses another authority.
"""

import msgspec

from sealift.base import (
    AccountId,
    Digest,
    Generation,
    Height,
    Message,
    PlatformId,
    ShardId,
)
from sealift.frame import Context, Event, Pallet, StorageMap, call, ensure_signed
from sealift.protocol import (
    EnclaveRecord,
    Order,
    Schedule,
    WorkersAuthority,
    leaves,
)

from ._eligibility import is_eligible
from ._entries import active_entry
from ._errors import (
    MotionClosedError,
    MotionLimitError,
    MotionLiveError,
    MotionOpenError,
    NoCouncilError,
    OperatorRefusedError,
    SeatRefusedError,
    UnknownMotionError,
)
from ._orders import verify_order
from ._ports import Instances, Orders

#: So many motions of a shard stand at once.
MAX_MOTIONS = 8


class CouncilVote(Message, kw_only=True):
    """What a platform says; the instance named must still be eligible."""

    platform: PlatformId
    signing_key: AccountId
    aye: bool


class Motion(Message, kw_only=True):
    """An order before the council.

    ``seats`` are the platforms that had a vote when it was opened; more of them
    than the terms' threshold must be for it before ``closes_at`` is over.
    """

    order: Order
    terms: WorkersAuthority
    generation: Generation
    opened_at: Height
    closes_at: Height
    seats: tuple[PlatformId, ...]
    votes: tuple[CouncilVote, ...] = ()


class MotionOpened(Event, kw_only=True):
    """An order is before the council."""

    shard: ShardId
    kind: str
    order: Digest
    seats: int
    closes_at: Height


class MotionVoted(Event, kw_only=True):
    """A platform has voted, or has changed its vote."""

    shard: ShardId
    order: Digest
    platform: PlatformId
    aye: bool
    ayes: int


class MotionEnded(Event, kw_only=True):
    """A motion is over: ``passed``, ``expired``, ``lapsed`` or ``overtaken``."""

    shard: ShardId
    order: Digest
    how: str


class Council(Pallet):
    """Motions of hosts about a shard's code, keys and standing.

    Args:
        orders: Schedules, and where a passed motion goes.
        instances: Who has a seat.
    """

    name = "council"
    events = (MotionOpened, MotionVoted, MotionEnded)
    errors = (
        MotionClosedError,
        MotionLimitError,
        MotionLiveError,
        MotionOpenError,
        NoCouncilError,
        SeatRefusedError,
        UnknownMotionError,
    )

    motions = StorageMap("motions", key=tuple[ShardId, Digest], value=Motion)
    open_motions: StorageMap[ShardId, tuple[Digest, ...]] = StorageMap(
        "open", key=ShardId, value=tuple[Digest, ...], default=()
    )

    def __init__(self, *, orders: Orders, instances: Instances) -> None:
        self._orders = orders
        self._instances = instances

    @call(weight=1_000)
    def propose(self, ctx: Context, *, order: Order, signing_key: AccountId) -> None:
        """Bring an order before the council; the proposer is for it.

        1. Workers decide for this shard; the order is for here and now.
        2. It is not before the council already, and there is room: motions that
           are over make some.
        3. The signer's instance has a seat.
        """
        self._orders.require_known(order)
        operator = ensure_signed(ctx.origin)
        schedule = self._orders.schedule_of(ctx, order.shard)
        terms = _terms(schedule)  # 1
        verify_order(schedule, order, height=ctx.block.height)
        shard, digest = schedule.shard, order.digest()
        self._drop_over(ctx, schedule)
        standing = self.open_motions.get(ctx, shard)
        if digest in standing:  # 2
            raise MotionOpenError("order is before the council already", got=digest)
        if len(standing) >= MAX_MOTIONS:
            raise MotionLimitError(
                "too many motions stand", got=len(standing), expected=f"< {MAX_MOTIONS}"
            )
        height = Height(ctx.block.height)
        motion = Motion(
            order=order,
            terms=terms,
            generation=active_entry(schedule).generation,
            opened_at=height,
            closes_at=Height(height + terms.period),
            seats=self._seats(ctx, schedule, terms, height),
        )
        record = self._seated(ctx, schedule, motion, signing_key, operator)  # 3
        self.open_motions.put(ctx, shard, (*standing, digest))
        ctx.emit(
            MotionOpened(
                shard=shard,
                kind=type(order).__name__,
                order=digest,
                seats=len(motion.seats),
                closes_at=motion.closes_at,
            )
        )
        self._count(ctx, schedule, motion, record, aye=True)

    @call(weight=1_000)
    def vote(
        self,
        ctx: Context,
        *,
        shard: ShardId,
        order: Digest,
        signing_key: AccountId,
        aye: bool,
    ) -> None:
        """Vote for a platform, or change its vote, until the motion is over.

        1. There is such a motion.
        2. It is not over: not expired, not overtaken by another act, and the
           generation that elected it still runs.
        3. The signer's instance has a seat in it.
        4. If enough are for it now, it passes.
        """
        operator = ensure_signed(ctx.origin)
        schedule = self._orders.schedule_of(ctx, shard)
        motion = self._motion(ctx, shard, order)  # 1
        over = _over(schedule, motion, height=ctx.block.height)
        if over:  # 2
            raise MotionClosedError("motion is over", got=over)
        record = self._seated(ctx, schedule, motion, signing_key, operator)  # 3
        self._count(ctx, schedule, motion, record, aye=aye)  # 4

    @call(weight=200)
    def close(self, ctx: Context, *, shard: ShardId, order: Digest) -> None:
        """Take a motion that is over off the table; anybody may."""
        ensure_signed(ctx.origin)
        schedule = self._orders.schedule_of(ctx, shard)
        motion = self._motion(ctx, shard, order)
        over = _over(schedule, motion, height=ctx.block.height)
        if not over:
            raise MotionLiveError(
                "motion is not over",
                got=f"block {ctx.block.height}",
                expected=f"> {motion.closes_at}",
            )
        self._end(ctx, motion, over)

    def _count(
        self,
        ctx: Context,
        schedule: Schedule,
        motion: Motion,
        record: EnclaveRecord,
        *,
        aye: bool,
    ) -> None:
        """Note a platform's vote; the motion passes by those that still count."""
        shard, digest = schedule.shard, motion.order.digest()
        signing_key = record.statement.signing_key
        mine = CouncilVote(
            platform=record.platform_id, signing_key=signing_key, aye=aye
        )
        votes = (
            *(v for v in motion.votes if v.platform != record.platform_id),
            mine,
        )
        ayes = {
            v.platform
            for v in votes
            if v.aye and self._still_counts(ctx, schedule, motion, v)
        }
        ctx.emit(
            MotionVoted(
                shard=shard,
                order=digest,
                platform=record.platform_id,
                aye=aye,
                ayes=len(ayes),
            )
        )
        if motion.terms.threshold.exceeded_by(len(ayes), len(motion.seats)):
            self._end(ctx, motion, "passed")
            self._orders.note_vote(ctx, motion.order, motion.terms)
            return
        changed = msgspec.structs.replace(motion, votes=votes)
        self.motions.put(ctx, (shard, digest), changed)

    def _seats(
        self, ctx: Context, schedule: Schedule, terms: WorkersAuthority, opened: Height
    ) -> tuple[PlatformId, ...]:
        """The platforms that have a vote in a motion opened now, in order."""
        found = {
            record.platform_id
            for record in self._instances.all_instances(ctx, schedule.shard)
            if _has_seat(schedule, record, terms, opened_at=opened, now=opened)
        }
        return tuple(sorted(found))

    def _seated(
        self,
        ctx: Context,
        schedule: Schedule,
        motion: Motion,
        signing_key: AccountId,
        operator: AccountId,
    ) -> EnclaveRecord:
        record = self._instances.instance(ctx, schedule.shard, signing_key)
        if record.operator != operator:
            raise OperatorRefusedError(
                "instance belongs to another account",
                got=operator,
                expected=record.operator,
            )
        seated = record.platform_id in motion.seats and _has_seat(
            schedule,
            record,
            motion.terms,
            opened_at=motion.opened_at,
            now=Height(ctx.block.height),
        )
        if not seated:
            raise SeatRefusedError(
                "instance has no seat in this motion",
                got=f"attested without a break since block {record.unbroken_since}",
                expected="an operator's eligible instance, attested since block "
                f"{motion.opened_at - motion.terms.seat_age} or before",
            )
        return record

    def _still_counts(
        self, ctx: Context, schedule: Schedule, motion: Motion, vote: CouncilVote
    ) -> bool:
        record = self._instances.find_instance(ctx, schedule.shard, vote.signing_key)
        return record is not None and _has_seat(
            schedule,
            record,
            motion.terms,
            opened_at=motion.opened_at,
            now=Height(ctx.block.height),
        )

    def _motion(self, ctx: Context, shard: ShardId, order: Digest) -> Motion:
        motion = self.motions.find(ctx, (shard, order))
        if motion is None:
            raise UnknownMotionError("no such motion stands", got=order)
        return motion

    def _drop_over(self, ctx: Context, schedule: Schedule) -> None:
        for digest in self.open_motions.get(ctx, schedule.shard):
            motion = self.motions.get(ctx, (schedule.shard, digest))
            over = _over(schedule, motion, height=ctx.block.height)
            if over:
                self._end(ctx, motion, over)

    def _end(self, ctx: Context, motion: Motion, how: str) -> None:
        shard, digest = motion.order.shard, motion.order.digest()
        standing = self.open_motions.get(ctx, shard)
        self.open_motions.put(ctx, shard, tuple(d for d in standing if d != digest))
        self.motions.delete(ctx, (shard, digest))
        ctx.emit(MotionEnded(shard=shard, order=digest, how=how))


def _terms(schedule: Schedule) -> WorkersAuthority:
    trees = (schedule.rules.authority, schedule.rules.emergency)
    for tree in trees:
        for leaf in leaves(tree) if tree is not None else ():
            if isinstance(leaf, WorkersAuthority):
                return leaf
    raise NoCouncilError("workers have no vote in this shard", got=schedule.shard)


def _over(schedule: Schedule, motion: Motion, *, height: int) -> str:
    """How a motion ended, if it did; empty while it stands.

    The electorate's generation must still run, and nothing else been decided
    since: motions do not outlive what they were about.
    """
    if motion.generation != active_entry(schedule).generation:
        return "lapsed"
    if motion.order.serial != schedule.serial:
        return "overtaken"
    if height > min(motion.closes_at, motion.order.expiry):
        return "expired"
    return ""


def _has_seat(
    schedule: Schedule,
    record: EnclaveRecord,
    terms: WorkersAuthority,
    *,
    opened_at: Height,
    now: Height,
) -> bool:
    entry = active_entry(schedule)
    return (
        record.operator in entry.config.operators
        and record.unbroken_since + terms.seat_age <= opened_at
        and is_eligible(record, entry, schedule.status, height=now)
    )
