"""Which root of a range counts: votes, conflicts, what was confirmed. Pure."""

from typing import Annotated

import msgspec

from sealift.base import Height, Message, PlatformId
from sealift.protocol import Confirmation

#: A platform's last so many open votes are kept.
MAX_OPEN_VOTES = 8
#: So many confirmed ranges of a shard are kept, to catch a liar late.
KEPT_RANGES = 128

_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class SignedConfirmation(Message, kw_only=True):
    """A confirmation with its signature and the machine that made it."""

    confirmation: Confirmation
    signature: _Signature
    platform_id: PlatformId


class RootConflict(Message, kw_only=True):
    """Evidence: two eligible instances signed what cannot both be true."""

    first: SignedConfirmation
    second: SignedConfirmation
    recorded_at: Height


def same_claim(left: Confirmation, right: Confirmation) -> bool:
    """Whether two confirmations say the same, whoever signed them."""
    return left == msgspec.structs.replace(right, signing_key=left.signing_key)


def conflicting(left: Confirmation, right: Confirmation) -> bool:
    """Whether two confirmations of one generation cannot both be true.

    After one block there is one root; of one range there is one history.
    """
    if left.generation != right.generation or left.last != right.last:
        return False
    if left.root != right.root:
        return True
    return left.first == right.first and not same_claim(left, right)


def add_vote(
    votes: tuple[SignedConfirmation, ...], vote: SignedConfirmation
) -> tuple[SignedConfirmation, ...]:
    """The open votes with one more; a platform's oldest give way."""
    mine = [v for v in votes if v.platform_id == vote.platform_id]
    dropped = mine[: max(0, len(mine) + 1 - MAX_OPEN_VOTES)]
    return (*(v for v in votes if v not in dropped), vote)
