"""``democracy``: holders of the shard's tokens decide, secretly, by stake.

Proposals and votes are TrustedCalls like any other; the host learns of a poll's
votes when it has ended, and then only what the authority's terms tell
(DESIGN §4.5).
"""

from functools import partial
from typing import Annotated

import msgspec

from sealift.base import AccountId, Amount, Digest, Height
from sealift.frame import (
    Context,
    Event,
    Pallet,
    PalletError,
    StorageMap,
    StorageValue,
    call,
    ensure_signed,
)
from sealift.protocol import Order, RehearsalsOrder, Schedule, StakeDecision, Tally

from ._balances import Issuance
from ._effects import EffectsPort
from ._enclave_update import ScheduleView
from ._escapes import escape
from ._getters import getter
from ._orders import (
    OrderElsewhereError,
    OrderExpiredError,
    OrderHeightsError,
    OrderKindError,
    OrderStaleError,
    check_place,
    check_serial,
    parse_order,
)
from ._polls import (
    MAX_ORDER_BYTES,
    MAX_POLLS,
    MAX_RESULTS,
    Count,
    MyVote,
    NoStakeVoteError,
    OpenPoll,
    PollOutcome,
    PollResult,
    StakePoll,
    check_timetable,
    decide,
    stake_terms,
    stands,
)
from ._stake import ENDED, NEWEST, PALLET, SHARES, WATCHES, StakeBook

_PackedCount = Annotated[
    bytes, msgspec.Meta(min_length=Count.SIZE, max_length=Count.SIZE)
]


class Proposed(Event, kw_only=True):
    """A poll has begun its window."""

    poll: int


class Voted(Event, kw_only=True):
    """A vote was taken; told to the voter alone."""

    poll: int
    aye: bool


class PollEnded(Event, kw_only=True):
    """A poll has ended: passed, rejected, or lapsed."""

    poll: int
    outcome: str


class OrderTooLargeError(PalletError):
    """The order is larger than one that is voted on may be."""


class PollExistsError(PalletError):
    """This very order is being voted on."""


class TooManyPollsError(PalletError):
    """As many polls are running as may; propose again when one has ended."""


class UnknownPollError(PalletError):
    """No poll of this number is running."""


class PollNotOpenError(PalletError):
    """The poll takes no votes in this block."""


class NoStakeError(PalletError):
    """The account had no tokens all through the poll's window."""


class Democracy(Pallet):
    """Polls on orders, by the terms of the shard's ``StakeAuthority``.

    Law: an account's stake is the least it had in the poll's window, so that no
    token counts twice and none that was only borrowed. Nothing of a running
    poll's votes can be read, but by each voter its own. A poll whose order could
    not be accepted any more lapses.

    Args:
        currency: The tokens, for stakes and deposits.
        stake: The book that watches them.
        schedules: The proven schedule: what may be decided, and by which terms.
        effects: Where decisions leave for L1.
    """

    name = PALLET
    storage_version = 1
    events = (Proposed, Voted, PollEnded)
    errors = (
        NoStakeError,
        NoStakeVoteError,
        OrderElsewhereError,
        OrderExpiredError,
        OrderHeightsError,
        OrderKindError,
        OrderStaleError,
        OrderTooLargeError,
        PollExistsError,
        PollNotOpenError,
        TooManyPollsError,
        UnknownPollError,
    )

    proposed: StorageValue[int] = StorageValue("proposed", int, default=0)
    running: StorageValue[tuple[StakePoll, ...]] = StorageValue(
        "running", tuple[StakePoll, ...]
    )
    orders: StorageMap[int, bytes] = StorageMap("orders", key=int, value=bytes)
    counts: StorageMap[int, bytes] = StorageMap(
        "counts", key=int, value=_PackedCount, default=Count().pack()
    )
    ended: StorageValue[tuple[PollResult, ...]] = StorageValue(
        "results", tuple[PollResult, ...], default=()
    )
    watches = WATCHES
    shares = SHARES
    newest = NEWEST
    leftover = ENDED

    def __init__(
        self,
        *,
        currency: Issuance,
        stake: StakeBook,
        schedules: ScheduleView,
        effects: EffectsPort,
    ) -> None:
        self._currency = currency
        self._stake = stake
        self._schedules = schedules
        self._effects = effects

    @escape
    @call(weight=500)
    def propose(self, ctx: Context, *, order: bytes) -> None:
        """Begin a poll on an encoded :class:`Order` of any kind; takes a deposit.

        1. The bytes are an order, and no larger than one may be.
        2. Stake decides in this shard.
        3. The order is for this chain, shard and serial.
        4. It could still be accepted when the vote has ended.
        5. No poll is on the same order, and there is room for one more.
        6. The signer has the deposit free.
        """
        proposer = ensure_signed(ctx.origin)
        wanted = _parse(order)  # 1
        schedule = self._schedules.schedule(ctx)
        terms = stake_terms(schedule)
        if schedule is None or terms is None:  # 2
            raise NoStakeVoteError("no authority of this shard votes by stake")
        check_place(wanted, ctx.block)  # 3
        check_serial(wanted, schedule)
        height = ctx.block.height
        opens_at = Height(height + terms.stake_age)
        closes_at = Height(opens_at + terms.period)
        check_timetable(wanted, schedule, closes_at=closes_at)  # 4
        digest = wanted.digest()
        running = self._check_room(ctx, digest)  # 5
        self._currency.reserve(ctx, proposer, terms.deposit)  # 6
        number = self.proposed.get(ctx)
        poll = StakePoll(
            number=number,
            order=digest,
            kind=type(wanted).__name__,
            proposer=proposer,
            deposit=terms.deposit,
            serial=schedule.serial,
            terms=terms,
            proposed_at=height,
            opens_at=opens_at,
            closes_at=closes_at,
        )
        self.proposed.put(ctx, number + 1)
        self.running.put(ctx, (*running, poll))
        self.orders.put(ctx, number, order)
        self._stake.watch(ctx, number, opens_at=opens_at)
        ctx.emit(Proposed(poll=number))

    @escape
    @call(weight=100)
    def vote(self, ctx: Context, *, poll: int, aye: bool) -> None:
        """Vote in a poll, or vote again: the last vote counts, once.

        1. The poll runs and takes votes in this block.
        2. The signer has stake in it.
        """
        voter = ensure_signed(ctx.origin)
        running = self._find(ctx, poll)
        if running is None:  # 1
            raise UnknownPollError("no such poll is running", got=poll)
        if not running.opens_at <= ctx.block.height < running.closes_at:
            raise PollNotOpenError(
                "poll takes no votes now",
                got=f"block {ctx.block.height}",
                expected=f"{running.opens_at} … {running.closes_at - 1}",
            )
        total = self._total(ctx, voter)
        if not self._stake.share(ctx, poll, voter, total=total).stake:  # 2
            raise NoStakeError("no stake in this poll")
        before = self._stake.cast(ctx, poll, voter, total=total, ballot=aye)
        count = Count.parse(self.counts.get(ctx, poll))
        count = count.with_vote(before.stake, before=before.ballot, aye=aye)
        self.counts.put(ctx, poll, count.pack())
        ctx.emit(Voted(poll=poll, aye=aye))

    def on_initialize(self, ctx: Context) -> None:
        """Open polls, end them, and let lapse what can't be decided any more.

        First all that open learn how many tokens there are, then all that are
        due end: a deposit burnt by one does not change another's electorate.
        What fails for one poll leaves the others alone and is tried again.
        """
        if self.running.find(ctx) is None:
            return
        schedule = self._schedules.schedule(ctx)
        self._open_due(ctx)
        for poll in self.running.get(ctx):
            ctx.attempt(partial(self._end_if_due, poll=poll, schedule=schedule))

    def on_finalize(self, ctx: Context) -> None:
        """Forget entries of polls that have ended, some in every block."""
        self._stake.forget(ctx)

    @getter(public=True)
    def polls(self, ctx: Context) -> tuple[OpenPoll, ...]:
        """The polls that run: their orders and heights, and nothing of votes."""
        return tuple(
            OpenPoll(
                poll=poll.number,
                order=poll.order,
                kind=poll.kind,
                proposed_at=poll.proposed_at,
                opens_at=poll.opens_at,
                closes_at=poll.closes_at,
                deposit=poll.deposit,
            )
            for poll in self.running.find(ctx) or ()
        )

    @getter(public=True)
    def order(self, ctx: Context, *, poll: int) -> Order | None:
        """The order that a running poll is on."""
        if self._find(ctx, poll) is None:
            return None
        return parse_order(self.orders.get(ctx, poll))

    @getter(public=True)
    def results(self, ctx: Context) -> tuple[PollResult, ...]:
        """How the last polls ended, the newest last."""
        return self.ended.get(ctx)

    @getter(public=False)
    def my_vote(self, ctx: Context, reader: AccountId, *, poll: int) -> MyVote | None:
        """What the reader's own vote in a running poll weighs, and what it is.

        Before the poll opens, the stake may still become less.
        """
        if self._find(ctx, poll) is None:
            return None
        share = self._stake.share(ctx, poll, reader, total=self._total(ctx, reader))
        return MyVote(stake=share.stake, aye=share.ballot)

    def _open_due(self, ctx: Context) -> None:
        running = self.running.get(ctx)
        supply = self._currency.issuance(ctx)
        opened = tuple(
            msgspec.structs.replace(poll, electorate=supply)
            if poll.electorate is None and ctx.block.height >= poll.opens_at
            else poll
            for poll in running
        )
        if opened != running:
            self.running.put(ctx, opened)

    def _end_if_due(
        self, ctx: Context, *, poll: StakePoll, schedule: Schedule | None
    ) -> None:
        if not stands(poll, schedule):
            self._give_back(ctx, poll)
            self._end(ctx, poll, "lapsed")
        elif ctx.block.height >= poll.closes_at and poll.electorate is not None:
            self._close(ctx, poll, poll.electorate)

    def _close(self, ctx: Context, poll: StakePoll, electorate: Amount) -> None:
        count = Count.parse(self.counts.get(ctx, poll.number))
        decision = decide(count, poll.terms, electorate)
        order = parse_order(self.orders.get(ctx, poll.number))
        if decision.quorate:
            self._give_back(ctx, poll)
        else:
            self._currency.burn(ctx, poll.proposer, self._deposit_left(ctx, poll))
        effect = StakeDecision(
            order=order, passed=decision.passed, tally=decision.tally
        )
        # an L1 of before its version 3 can't read such an order, nor what waits behind
        # it: whoever may propose must not stop the shard's effects
        if decision.passed or not isinstance(order, RehearsalsOrder):
            self._effects.issue(ctx, effect, from_hook=True)
        self._end(
            ctx, poll, "passed" if decision.passed else "rejected", decision.tally
        )

    def _end(
        self,
        ctx: Context,
        poll: StakePoll,
        outcome: PollOutcome,
        tally: Tally | None = None,
    ) -> None:
        left = tuple(one for one in self.running.get(ctx) if one.number != poll.number)
        if left:
            self.running.put(ctx, left)
        else:
            self.running.delete(ctx)
        self.orders.delete(ctx, poll.number)
        self.counts.delete(ctx, poll.number)
        self._stake.unwatch(ctx, poll.number)
        result = PollResult(
            poll=poll.number,
            order=poll.order,
            kind=poll.kind,
            outcome=outcome,
            closed_at=ctx.block.height,
            tally=tally,
        )
        self.ended.put(ctx, (*self.ended.get(ctx), result)[-MAX_RESULTS:])
        ctx.emit(PollEnded(poll=poll.number, outcome=outcome))

    def _check_room(self, ctx: Context, digest: Digest) -> tuple[StakePoll, ...]:
        running = self.running.find(ctx) or ()
        if any(poll.order == digest for poll in running):
            raise PollExistsError("this order is being voted on", got=digest)
        if len(running) >= MAX_POLLS:
            raise TooManyPollsError(
                "too many polls are running",
                got=len(running),
                expected=f"< {MAX_POLLS}",
            )
        return running

    def _find(self, ctx: Context, number: int) -> StakePoll | None:
        for poll in self.running.find(ctx) or ():
            if poll.number == number:
                return poll
        return None

    def _total(self, ctx: Context, who: AccountId) -> int:
        funds = self._currency.funds(ctx, who)
        return funds.free + funds.reserved

    def _give_back(self, ctx: Context, poll: StakePoll) -> None:
        self._currency.unreserve(ctx, poll.proposer, self._deposit_left(ctx, poll))

    def _deposit_left(self, ctx: Context, poll: StakePoll) -> int:
        """The deposit, as far as no other pallet has spent it: no poll hangs on it."""
        return min(poll.deposit, self._currency.funds(ctx, poll.proposer).reserved)


def _parse(raw: bytes) -> Order:
    if len(raw) > MAX_ORDER_BYTES:
        raise OrderTooLargeError(
            "order is too large to be voted on",
            got=f"{len(raw)} B",
            expected=f"≤ {MAX_ORDER_BYTES} B",
        )
    return parse_order(raw)
