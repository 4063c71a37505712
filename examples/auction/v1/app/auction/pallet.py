"""Sealed bids, first price: the highest bid wins and is paid.

Sellers open lots with a closing height. Bidders bid in secret: what they bid is
reserved, and only they can read it. When the block at the closing height ends,
the winner pays the seller, the others get their tokens back, and all bids of
the lot are forgotten. What anybody may read is the lot and its outcome.
"""

from typing import Annotated, NewType

import msgspec

from sealift.base import AccountId, Amount, Height, Message
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
from sealift.stf import Currency, getter

#: The number of a lot: 0, 1, 2 …
LotId = NewType("LotId", Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)])
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]

# Bounds that keep the work of every block bounded.
MAX_OPEN_LOTS = 256
MAX_CLOSING_TOGETHER = 16
MAX_BIDDERS = 64
MAX_DURATION = 100_000
#: Weight of settling one bid.
BID_WEIGHT = 20


class Lot(Message, kw_only=True):
    """What is sold, as everybody may know it."""

    seller: AccountId
    title: str
    minimum: Amount
    closes_at: Height


class Bid(Message, kw_only=True):
    """What a bidder offers; known to nobody else."""

    amount: Amount


class Outcome(Message, kw_only=True):
    """How a lot ended; ``winner`` is ``None`` if nobody bid."""

    winner: AccountId | None
    price: Amount


class LotOpened(Event, kw_only=True):
    """A lot may be bid for."""

    lot: LotId
    closes_at: Height


class BidTaken(Event, kw_only=True):
    """The caller's bid stands; only the caller's receipt tells."""

    lot: LotId
    amount: Amount


class LotClosed(Event, kw_only=True):
    """A lot has ended."""

    lot: LotId
    outcome: Outcome


class NoSuchLotError(PalletError):
    """There is no lot of that number."""


class LotClosedError(PalletError):
    """The lot takes no bids any more."""


class LotStillOpenError(PalletError):
    """The lot's closing height has not passed."""


class ClosingHeightError(PalletError):
    """The closing height lies behind, or too far ahead."""


class TooManyLotsError(PalletError):
    """There are as many open lots, or lots closing in that block, as may be."""


class TooManyBiddersError(PalletError):
    """The lot has as many bidders as a lot may have."""


class BidTooLowError(PalletError):
    """The bid is below the lot's minimum, or not above the bidder's own."""


class OwnLotError(PalletError):
    """Sellers do not bid for their own lots."""


class Auction(Pallet):
    """Lots, secret bids, and settlement at the closing height.

    Args:
        currency: The shard's tokens.
    """

    name = "auction"
    storage_version = 1
    events = (LotOpened, BidTaken, LotClosed)
    errors = (
        NoSuchLotError,
        LotClosedError,
        LotStillOpenError,
        ClosingHeightError,
        TooManyLotsError,
        TooManyBiddersError,
        BidTooLowError,
        OwnLotError,
    )

    next_lot: StorageValue[int] = StorageValue("next_lot", LotId, default=0)
    lots: StorageMap[LotId, Lot] = StorageMap("lots", key=LotId, value=Lot)
    outcomes: StorageMap[LotId, Outcome] = StorageMap(
        "outcomes", key=LotId, value=Outcome
    )
    #: One entry for every bid; the index says who bid for a lot, in order.
    bids: StorageMap[tuple[LotId, AccountId], Bid] = StorageMap(
        "bids", key=tuple[LotId, AccountId], value=Bid
    )
    bidders: StorageMap[LotId, tuple[AccountId, ...]] = StorageMap(
        "bidders", key=LotId, value=tuple[AccountId, ...], default=()
    )
    #: What is open, and what closes when: so that nothing searches the state.
    open_now: StorageValue[tuple[LotId, ...]] = StorageValue(
        "open_now", tuple[LotId, ...], default=()
    )
    closing: StorageMap[Height, tuple[LotId, ...]] = StorageMap(
        "closing", key=Height, value=tuple[LotId, ...], default=()
    )

    def __init__(self, *, currency: Currency) -> None:
        self._currency = currency

    @call(weight=100)
    def open_lot(
        self, ctx: Context, *, title: Title, minimum: Amount, closes_at: Height
    ) -> None:
        """Offer something; the last block in which it takes bids is ``closes_at``."""
        seller = ensure_signed(ctx.origin)

        height = ctx.block.height
        if not height < closes_at <= height + MAX_DURATION:
            raise ClosingHeightError(
                "bad closing height",
                got=closes_at,
                expected=f"{height + 1} … {height + MAX_DURATION}",
            )
        open_now = self.open_now.get(ctx)
        together = self.closing.get(ctx, closes_at)
        if len(open_now) >= MAX_OPEN_LOTS or len(together) >= MAX_CLOSING_TOGETHER:
            raise TooManyLotsError("too many lots")

        lot = LotId(self.next_lot.get(ctx))
        self.next_lot.put(ctx, lot + 1)
        self.lots.put(
            ctx,
            lot,
            Lot(seller=seller, title=title, minimum=minimum, closes_at=closes_at),
        )
        self.open_now.put(ctx, (*open_now, lot))
        self.closing.put(ctx, closes_at, (*together, lot))

        ctx.emit(LotOpened(lot=lot, closes_at=closes_at))

    @call(weight=100)
    def bid(self, ctx: Context, *, lot: LotId, amount: Amount) -> None:
        """Bid in secret, or raise one's own bid; the amount is reserved."""
        bidder = ensure_signed(ctx.origin)

        offered = self._open_lot(ctx, lot)
        if bidder == offered.seller:
            raise OwnLotError("seller bids for own lot")
        mine = self.bids.find(ctx, (lot, bidder))
        before = 0 if mine is None else mine.amount
        if amount < offered.minimum or amount <= before:
            raise BidTooLowError("bid is too low", got=amount)
        bidders = self.bidders.get(ctx, lot)
        if mine is None and len(bidders) >= MAX_BIDDERS:
            raise TooManyBiddersError("too many bidders")

        self._currency.reserve(ctx, bidder, amount - before)
        self.bids.put(ctx, (lot, bidder), Bid(amount=amount))
        if mine is None:
            self.bidders.put(ctx, lot, (*bidders, bidder))

        ctx.emit(BidTaken(lot=lot, amount=amount))

    @call(weight=100)
    def settle(self, ctx: Context, *, lot: LotId) -> None:
        """Close a lot that is overdue; anybody may, and nobody has to."""
        ensure_signed(ctx.origin)

        if lot not in self.open_now.get(ctx):
            raise LotClosedError("lot is closed", got=lot)
        if ctx.block.height <= self.lots.get(ctx, lot).closes_at:
            raise LotStillOpenError("lot is still open", got=lot)
        ctx.charge(BID_WEIGHT * len(self.bidders.get(ctx, lot)))

        self._close(ctx, lot)

    def on_finalize(self, ctx: Context) -> None:
        """Close what closes in this block, at most ``MAX_CLOSING_TOGETHER`` lots."""
        height = ctx.block.height
        due = self.closing.get(ctx, height)
        for lot in due:
            self._close(ctx, lot)
        if due:
            self.closing.delete(ctx, height)

    @getter(public=True)
    def lot(self, ctx: Context, *, lot: LotId) -> Lot | None:
        """A lot, open or closed."""
        return self.lots.find(ctx, lot)

    @getter(public=True)
    def open_lots(self, ctx: Context) -> tuple[LotId, ...]:
        """The lots that take bids."""
        return self.open_now.get(ctx)

    @getter(public=True)
    def outcome(self, ctx: Context, *, lot: LotId) -> Outcome | None:
        """How a lot ended; nothing while it is open."""
        return self.outcomes.find(ctx, lot)

    @getter(public=False)
    def my_bid(self, ctx: Context, reader: AccountId, *, lot: LotId) -> Amount | None:
        """The reader's own bid for an open lot."""
        mine = self.bids.find(ctx, (lot, reader))
        return None if mine is None else mine.amount

    def _open_lot(self, ctx: Context, lot: LotId) -> Lot:
        found = self.lots.find(ctx, lot)
        if found is None:
            raise NoSuchLotError("no such lot", got=lot)
        if ctx.block.height > found.closes_at or self.outcomes.contains(ctx, lot):
            raise LotClosedError("lot is closed", got=lot)
        return found

    def _close(self, ctx: Context, lot: LotId) -> None:
        seller = self.lots.get(ctx, lot).seller
        winner: AccountId | None = None
        price = 0
        bidders = self.bidders.get(ctx, lot)
        for bidder in bidders:  # of equal bids, the first bidder's wins
            amount = self.bids.get(ctx, (lot, bidder)).amount
            if winner is None or amount > price:
                winner, price = bidder, amount

        for bidder in bidders:
            amount = self.bids.get(ctx, (lot, bidder)).amount
            if bidder == winner:
                self._currency.pay(ctx, bidder, seller, amount)
            else:
                self._currency.unreserve(ctx, bidder, amount)
            self.bids.delete(ctx, (lot, bidder))
        self.bidders.delete(ctx, lot)
        self.open_now.put(ctx, tuple(n for n in self.open_now.get(ctx) if n != lot))
        outcome = Outcome(winner=winner, price=Amount(price))
        self.outcomes.put(ctx, lot, outcome)

        ctx.emit(LotClosed(lot=lot, outcome=outcome))
