"""Sealed bids, second price, bids that raise themselves up to a ceiling.

What changed since version 1:

* Bids of a lot lie in one record, ``books``, instead of one entry each.
* A bid has a ceiling and the block in which it was placed.
* New lots are decided by second price; lots of version 1 keep their rule.
* ``raise_bid`` and ``bid_up_to`` are new; ``open_lot`` takes a rule. Calls
  that were encoded for version 1 mean here what they meant there.
"""

from sealift.base import AccountId, Amount, Height, encode
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

from . import layout_v1
from .model import Bid, Lot, LotId, Outcome, Rule, Title, decide

# Bounds that keep the work of every block bounded.
MAX_OPEN_LOTS = 256
MAX_CLOSING_TOGETHER = 16
MAX_BIDDERS = 64
MAX_DURATION = 100_000
#: Weight of settling one bid.
BID_WEIGHT = 20


class LotOpened(Event, kw_only=True):
    """A lot may be bid for."""

    lot: LotId
    closes_at: Height


class BidTaken(Event, kw_only=True):
    """The caller's bid stands; only the caller's receipt tells."""

    lot: LotId
    amount: Amount
    ceiling: Amount


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


class NoBidError(PalletError):
    """The caller has no bid for this lot that could be raised."""


class CeilingError(PalletError):
    """The ceiling is below the bid itself."""


class BidsLostError(PalletError):
    """After the migration, bids or reserves differ from before."""


class Auction(Pallet):
    """Lots, secret bids, and settlement at the closing height.

    Args:
        currency: The shard's tokens.
    """

    name = "auction"
    storage_version = 2
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
        NoBidError,
        CeilingError,
    )

    next_lot: StorageValue[int] = StorageValue("next_lot", LotId, default=0)
    lots: StorageMap[LotId, Lot] = StorageMap("lots", key=LotId, value=Lot)
    outcomes: StorageMap[LotId, Outcome] = StorageMap(
        "outcomes", key=LotId, value=Outcome
    )
    #: All bids of an open lot, in the order in which the bidders came.
    books: StorageMap[LotId, tuple[Bid, ...]] = StorageMap(
        "books", key=LotId, value=tuple[Bid, ...], default=()
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
        self,
        ctx: Context,
        *,
        title: Title,
        minimum: Amount,
        closes_at: Height,
        rule: Rule = "second-price",
    ) -> None:
        """Offer something; the last block in which it takes bids is ``closes_at``.

        ``rule`` came last and has a default, so calls of version 1 still fit.
        """
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
            Lot(
                seller=seller,
                title=title,
                minimum=minimum,
                closes_at=closes_at,
                rule=rule,
            ),
        )
        self.open_now.put(ctx, (*open_now, lot))
        self.closing.put(ctx, closes_at, (*together, lot))

        ctx.emit(LotOpened(lot=lot, closes_at=closes_at))

    @call(weight=100)
    def bid(self, ctx: Context, *, lot: LotId, amount: Amount) -> None:
        """Bid in secret, or raise one's own bid; the amount is reserved."""
        self._place(ctx, lot, amount, amount)

    @call(weight=100)
    def bid_up_to(
        self, ctx: Context, *, lot: LotId, amount: Amount, ceiling: Amount
    ) -> None:
        """Bid in secret, raising itself up to a ceiling, which is reserved."""
        self._place(ctx, lot, amount, ceiling)

    @call(weight=100)
    def raise_bid(self, ctx: Context, *, lot: LotId, amount: Amount) -> None:
        """Raise one's own bid to an amount, and its ceiling if that is lower."""
        bidder = ensure_signed(ctx.origin)
        mine = _bid_of(self.books.get(ctx, lot), bidder)
        if mine is None:
            raise NoBidError("no bid to raise", got=lot)
        if amount <= mine.amount:
            raise BidTooLowError("bid is too low", got=amount)
        self._place(ctx, lot, amount, Amount(max(amount, mine.ceiling)))

    @call(weight=100)
    def settle(self, ctx: Context, *, lot: LotId) -> None:
        """Close a lot that is overdue; anybody may, and nobody has to."""
        ensure_signed(ctx.origin)

        if lot not in self.open_now.get(ctx):
            raise LotClosedError("lot is closed", got=lot)
        if ctx.block.height <= self.lots.get(ctx, lot).closes_at:
            raise LotStillOpenError("lot is still open", got=lot)
        ctx.charge(BID_WEIGHT * len(self.books.get(ctx, lot)))

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
    def my_bid(self, ctx: Context, reader: AccountId, *, lot: LotId) -> Bid | None:
        """The reader's own bid for an open lot."""
        return _bid_of(self.books.get(ctx, lot), reader)

    def pre_upgrade(self, ctx: Context) -> bytes:
        """Note every bid of version 1, to compare with afterwards."""
        return encode(
            [
                (lot, bidder, amount)
                for lot in self.open_now.get(ctx)
                for bidder, amount in layout_v1.bids_of(ctx, lot)
            ]
        )

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        """Gather the bids of every open lot in one record.

        Bounded: at most ``MAX_OPEN_LOTS`` lots of ``MAX_BIDDERS`` bids, found
        by index. Lots and outcomes stay as they are: a field was appended.
        """
        if from_version != 1:
            return
        for lot in self.open_now.get(ctx):
            book = tuple(
                Bid(bidder=bidder, amount=amount, ceiling=amount, placed_at=Height(0))
                for bidder, amount in layout_v1.bids_of(ctx, lot)
            )
            layout_v1.forget(ctx, lot)
            if book:
                self.books.put(ctx, lot, book)

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        """Refuse the upgrade unless every bid is there and still covered.

        1. The same bids for the same lots, in the same order.
        2. What bidders have reserved covers what they may have to pay.
        """
        after = [
            (lot, bid.bidder, bid.ceiling)
            for lot in self.open_now.get(ctx)
            for bid in self.books.get(ctx, lot)
        ]
        if encode(after) != before:  # 1
            raise BidsLostError("bids differ", got=len(after))
        owed: dict[AccountId, int] = {}
        for _, bidder, ceiling in after:
            owed[bidder] = owed.get(bidder, 0) + ceiling
        for bidder, total in owed.items():  # 2
            if self._currency.funds(ctx, bidder).reserved < total:
                raise BidsLostError("bids are not covered by what is reserved")

    def _open_lot(self, ctx: Context, lot: LotId) -> Lot:
        found = self.lots.find(ctx, lot)
        if found is None:
            raise NoSuchLotError("no such lot", got=lot)
        if ctx.block.height > found.closes_at or self.outcomes.contains(ctx, lot):
            raise LotClosedError("lot is closed", got=lot)
        return found

    def _place(self, ctx: Context, lot: LotId, amount: Amount, ceiling: Amount) -> None:
        bidder = ensure_signed(ctx.origin)

        offered = self._open_lot(ctx, lot)
        if bidder == offered.seller:
            raise OwnLotError("seller bids for own lot")
        if ceiling < amount:
            raise CeilingError("ceiling is below the bid", got=ceiling)
        book = self.books.get(ctx, lot)
        mine = _bid_of(book, bidder)
        before, reserved = (0, 0) if mine is None else (mine.amount, mine.ceiling)
        higher = amount > before or ceiling > reserved
        if amount < max(offered.minimum, before) or ceiling < reserved or not higher:
            raise BidTooLowError("bid is too low", got=amount)
        if mine is None and len(book) >= MAX_BIDDERS:
            raise TooManyBiddersError("too many bidders")

        self._currency.reserve(ctx, bidder, ceiling - reserved)
        new = Bid(
            bidder=bidder,
            amount=amount,
            ceiling=ceiling,
            placed_at=ctx.block.height,
        )
        if mine is None:
            book = (*book, new)
        else:
            book = tuple(new if bid is mine else bid for bid in book)
        self.books.put(ctx, lot, book)

        ctx.emit(BidTaken(lot=lot, amount=amount, ceiling=ceiling))

    def _close(self, ctx: Context, lot: LotId) -> None:
        offered = self.lots.get(ctx, lot)
        book = self.books.get(ctx, lot)
        outcome = decide(offered, book)

        for bid in book:
            paid = outcome.price if bid.bidder == outcome.winner else 0
            if paid:
                self._currency.pay(ctx, bid.bidder, offered.seller, paid)
            self._currency.unreserve(ctx, bid.bidder, bid.ceiling - paid)
        self.books.delete(ctx, lot)
        self.open_now.put(ctx, tuple(n for n in self.open_now.get(ctx) if n != lot))
        self.outcomes.put(ctx, lot, outcome)

        ctx.emit(LotClosed(lot=lot, outcome=outcome))


def _bid_of(book: tuple[Bid, ...], bidder: AccountId) -> Bid | None:
    return next((bid for bid in book if bid.bidder == bidder), None)
