"""Who may decide for a shard: authorities and their combinations (DESIGN §4.5)."""

from collections.abc import Callable, Iterator
from typing import Annotated, TypeAlias

import msgspec

from sealift.base import AccountId, Amount, Message, MrSigner

_Blocks = Annotated[int, msgspec.Meta(ge=0, le=100_000_000)]
_Period = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Part = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
_Whole = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_IsvNumber = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
#: Members of one combination; of the whole tree as many leaves.
MAX_MEMBERS = 8
#: Combinations within combinations, the outermost counted.
MAX_DEPTH = 3


class Ratio(Message):
    """A share, exact: ``numerator`` of ``denominator``."""

    numerator: _Part
    denominator: _Whole

    def reached_by(self, part: int, whole: int) -> bool:
        """Whether ``part`` of ``whole`` is at least this share."""
        return part * self.denominator >= whole * self.numerator

    def exceeded_by(self, part: int, whole: int) -> bool:
        """Whether ``part`` of ``whole`` is more than this share."""
        return part * self.denominator > whole * self.numerator

    def __str__(self) -> str:
        return f"{self.numerator}/{self.denominator}"


class SudoAuthority(Message):
    """One key decides."""

    key: AccountId


class WorkersAuthority(Message):
    """Hosts decide on L1, one platform one vote: a majority of hosts is trusted.

    A seat is a platform with an instance of one of the active entry's
    ``operators`` that has been attested without a break since ``seat_age`` blocks
    before the motion. More than ``threshold`` of all seats must be for it, within
    ``period`` blocks.
    """

    threshold: Ratio
    seat_age: _Blocks
    period: _Period


class StakeAuthority(Message):
    """Holders of the shard's tokens decide inside the enclave, secretly, by stake.

    An account's stake is the least it held in the ``stake_age`` blocks before the
    vote opens. It is open for ``period`` blocks. Passed is what more than
    ``threshold`` of the stake that voted is for, if at least ``quorum`` of all
    tokens voted. With fewer than ``min_voters`` voters only pass or fail is told.
    Who proposes sets ``deposit`` aside, and loses it where the quorum is missed.
    """

    threshold: Ratio
    quorum: Ratio
    stake_age: _Period
    period: _Period
    min_voters: _Count = 10
    deposit: Amount = Amount(0)


class SignerAuthority(Message):
    """The vendor signs the order; the code it names must be of this product.

    A SIGSTRUCT proves whose code it is and is no decision. The order's
    ``min_isv_svn`` may fall neither below ``min_svn`` nor below the running
    generation's.
    """

    mr_signer: MrSigner
    prod_id: _IsvNumber
    min_svn: _IsvNumber = 0


class AnyOf(Message):
    """Any one member decides; what changes the authority takes all of them."""

    members: tuple["Authority", ...]


class AllOf(Message):
    """All members decide together."""

    members: tuple["Authority", ...]


#: One that decides by itself.
Leaf: TypeAlias = SudoAuthority | WorkersAuthority | StakeAuthority | SignerAuthority
#: Who may say what code runs next.
Authority: TypeAlias = Leaf | AnyOf | AllOf


def leaves(authority: Authority) -> Iterator[Leaf]:
    """The members that decide by themselves, from left to right."""
    if isinstance(authority, AnyOf | AllOf):
        for member in authority.members:
            yield from leaves(member)
    else:
        yield authority


def depth(authority: Authority) -> int:
    """How many combinations stand within each other; 0 for a leaf."""
    if not isinstance(authority, AnyOf | AllOf):
        return 0
    return 1 + max((depth(member) for member in authority.members), default=0)


def satisfied(
    authority: Authority, given: Callable[[Leaf], bool], *, unanimous: bool = False
) -> bool:
    """Whether those that endorsed are enough.

    Args:
        authority: Who may decide.
        given: Whether a leaf has endorsed.
        unanimous: All members of an ``AnyOf`` are wanted too. No member can so
            remove the others.
    """
    if isinstance(authority, AnyOf | AllOf):
        if not authority.members:
            return False
        each = (satisfied(one, given, unanimous=unanimous) for one in authority.members)
        return (
            any(each) if isinstance(authority, AnyOf) and not unanimous else all(each)
        )
    return given(authority)


def missing(
    authority: Authority, given: Callable[[Leaf], bool], *, unanimous: bool = False
) -> tuple[Leaf, ...]:
    """Leaves that have not endorsed and still matter; none once it is satisfied."""
    if satisfied(authority, given, unanimous=unanimous):
        return ()
    if isinstance(authority, AnyOf | AllOf):
        return tuple(
            leaf
            for member in authority.members
            for leaf in missing(member, given, unanimous=unanimous)
        )
    return (authority,)
