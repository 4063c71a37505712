"""How version 1 kept bids: read once, when its state is taken over.

A copy, never an import: version 1 is not part of this bundle, and what it
wrote will not change any more.
"""

from sealift.base import AccountId, Amount, Message
from sealift.frame import Context, StorageMap

from .model import LotId


class Bid(Message, kw_only=True):
    """One entry for every bid, under ``(lot, bidder)``."""

    amount: Amount


bids: StorageMap[tuple[LotId, AccountId], Bid] = StorageMap(
    "bids", key=tuple[LotId, AccountId], value=Bid
).of("auction")
bidders: StorageMap[LotId, tuple[AccountId, ...]] = StorageMap(
    "bidders", key=LotId, value=tuple[AccountId, ...], default=()
).of("auction")


def bids_of(ctx: Context, lot: LotId) -> list[tuple[AccountId, Amount]]:
    """Who bid what for a lot, in the order in which they came."""
    return [
        (bidder, bids.get(ctx, (lot, bidder)).amount)
        for bidder in bidders.get(ctx, lot)
    ]


def forget(ctx: Context, lot: LotId) -> None:
    """Remove the old entries of a lot."""
    for bidder in bidders.get(ctx, lot):
        bids.delete(ctx, (lot, bidder))
    bidders.delete(ctx, lot)
