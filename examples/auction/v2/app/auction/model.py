"""Lots, bids and how a lot is decided: no storage, no calls."""

from collections.abc import Sequence
from typing import Annotated, Literal, NewType

import msgspec

from sealift.base import AccountId, Amount, Height, Message

#: The number of a lot: 0, 1, 2 …
LotId = NewType("LotId", Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)])
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
#: What the winner pays: the own bid, or the best of the others'.
Rule = Literal["first-price", "second-price"]


class Lot(Message, kw_only=True):
    """What is sold, as everybody may know it.

    ``rule`` was appended in version 2: records of version 1 are read as they
    are and get the default, so that a lot keeps the rule it was opened under.
    """

    seller: AccountId
    title: str
    minimum: Amount
    closes_at: Height
    rule: Rule = "first-price"


class Bid(Message, kw_only=True):
    """What a bidder offers; known to nobody else.

    The bid is ``amount`` and raises itself as far as ``ceiling`` if others bid
    more; the ceiling is what is reserved. ``placed_at`` is the block of the
    last change; 0 for bids of version 1, which did not note it.
    """

    bidder: AccountId
    amount: Amount
    ceiling: Amount
    placed_at: Height


class Outcome(Message, kw_only=True):
    """How a lot ended; ``winner`` is ``None`` if nobody bid."""

    winner: AccountId | None
    price: Amount


def decide(lot: Lot, bids: Sequence[Bid]) -> Outcome:
    """Who wins a lot, and at what price; the price is at most the ceiling.

    The highest ceiling wins, of equal ones the first in ``bids``. Under first
    price the winner pays the own bid, raised just above the best of the
    others'; under second price the best of the others', at least the minimum.
    """
    if not bids:
        return Outcome(winner=None, price=Amount(0))
    best = max(bids, key=lambda bid: bid.ceiling)  # the first of equal ones
    others = max((bid.ceiling for bid in bids if bid is not best), default=0)
    if lot.rule == "first-price":
        price = max(best.amount, min(best.ceiling, others + 1))
    else:
        price = max(lot.minimum, others)
    return Outcome(winner=best.bidder, price=Amount(price))
