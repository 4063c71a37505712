"""Polls by stake: their terms, their timetable, and how they end. Pure."""

import struct
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sealift.base import AccountId, Amount, Digest, Height, Message
from sealift.frame import PalletError
from sealift.protocol import (
    CancelOrder,
    EntryStatus,
    Order,
    PostponeOrder,
    RehearsalsOrder,
    RulesOrder,
    Schedule,
    StakeAuthority,
    Tally,
    UpgradeOrder,
    leaves,
)

from ._orders import OrderExpiredError, OrderHeightsError

#: Polls that may run at once.
MAX_POLLS = 8
#: Ended polls whose results are kept.
MAX_RESULTS = 16
#: Most bytes of an order that is voted on.
MAX_ORDER_BYTES = 17 * 1024
#: Blocks left for a decision's way to L1.
MARGIN = 4

_COUNT = struct.Struct(">QQQ")


#: How a poll can end.
PollOutcome: TypeAlias = Literal["passed", "rejected", "lapsed"]


class NoStakeVoteError(PalletError):
    """Stake decides nothing here: no authority of the shard has such a vote."""


class StakePoll(Message, kw_only=True, tag=False):
    """A running poll; ``electorate`` is how many tokens there were at its start.

    The window is from ``proposed_at`` to ``opens_at``; votes are taken in blocks
    from ``opens_at`` on before ``closes_at``, in which they are counted first thing.
    """

    number: int
    order: Digest
    kind: str
    proposer: AccountId
    deposit: Amount
    serial: int
    terms: StakeAuthority
    proposed_at: Height
    opens_at: Height
    closes_at: Height
    electorate: Amount | None = None


class OpenPoll(Message, kw_only=True, tag=False):
    """What everybody may know of a running poll: nothing of its votes.

    ``order`` is the order's digest and ``kind`` what sort it is.
    """

    poll: int
    order: Digest
    kind: str
    proposed_at: Height
    opens_at: Height
    closes_at: Height
    deposit: Amount


class PollResult(Message, kw_only=True, tag=False):
    """How a poll ended; a tally only if enough voted to hide each other."""

    poll: int
    order: Digest
    kind: str
    outcome: PollOutcome
    closed_at: Height
    tally: Tally | None = None


class MyVote(Message, kw_only=True, tag=False):
    """What the reader's own vote weighs in a poll, and what it is."""

    stake: Amount
    aye: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Running totals of a poll; always as many bytes, whatever the votes."""

    ayes: int = 0
    nays: int = 0
    voters: int = 0

    SIZE = _COUNT.size

    @classmethod
    def parse(cls, raw: bytes) -> "Count":
        """The inverse of :meth:`pack`."""
        ayes, nays, voters = _COUNT.unpack(raw)
        return cls(ayes=ayes, nays=nays, voters=voters)

    def pack(self) -> bytes:
        """The totals as they are stored."""
        return _COUNT.pack(self.ayes, self.nays, self.voters)

    def with_vote(self, stake: int, *, before: bool | None, aye: bool) -> "Count":
        """The totals after a vote, that before it moved along."""
        return Count(
            ayes=self.ayes + stake * (aye - (before is True)),
            nays=self.nays + stake * ((not aye) - (before is False)),
            voters=self.voters + (before is None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a poll came to."""

    passed: bool
    quorate: bool
    tally: Tally | None


def stake_terms(schedule: Schedule | None) -> StakeAuthority | None:
    """By which terms stake decides; L1 has one such vote in both trees at most."""
    if schedule is None:
        return None
    for tree in (schedule.rules.authority, schedule.rules.emergency):
        for leaf in () if tree is None else leaves(tree):
            if isinstance(leaf, StakeAuthority):
                return leaf
    return None


def stands(poll: StakePoll, schedule: Schedule | None) -> bool:
    """Whether a poll's order could still be accepted, by the terms it began with."""
    return (
        schedule is not None
        and schedule.serial == poll.serial
        and stake_terms(schedule) == poll.terms
    )


def check_timetable(order: Order, schedule: Schedule, *, closes_at: int) -> None:
    """Return if L1 could still accept an order that is decided in ``closes_at``.

    1. It does not expire before it is there.
    2. Its notice can still run: an upgrade's to its release, that of other rules
       or terms to their block.
    3. An entry that it cancels or puts off is still pending then.

    Raises:
        OrderExpiredError: 1.
        OrderHeightsError: 2 or 3.
    """
    there = closes_at + MARGIN
    if order.expiry < there:  # 1
        raise OrderExpiredError(
            "order expires before the vote on it can be carried to L1",
            got=order.expiry,
            expected=f"≥ {there}",
        )
    rules = schedule.rules
    if isinstance(order, UpgradeOrder):  # 2
        if order.emergency and not rules.emergency_notice:
            raise OrderHeightsError("this shard has no emergency notice for code")
        notice = rules.emergency_notice if order.emergency else rules.min_notice
        if not there + notice <= order.release_from < order.upgrade_at:
            raise OrderHeightsError(
                "heights leave no room for the vote and the notice",
                got=f"release {order.release_from}, upgrade {order.upgrade_at}",
                expected=f"{there + notice} ≤ release_from < upgrade_at",
            )
    elif isinstance(order, RulesOrder | RehearsalsOrder):
        if order.effective_at < there + rules.longest_notice:
            raise OrderHeightsError(
                "no room for the vote and the longest notice",
                got=order.effective_at,
                expected=f"≥ {there + rules.longest_notice}",
            )
    elif isinstance(order, CancelOrder | PostponeOrder):  # 3
        pending = any(
            entry.generation == order.generation
            and entry.status is EntryStatus.PENDING
            and entry.upgrade_at > there
            for entry in schedule.entries
        )
        ahead = isinstance(order, CancelOrder) or order.upgrade_at > there
        if not pending or not ahead:
            raise OrderHeightsError(
                "the entry will not be pending any more, or not put off",
                got=order.generation,
                expected=f"one that is pending after block {there}",
            )


def decide(count: Count, terms: StakeAuthority, electorate: Amount) -> Decision:
    """The end of a poll, in exact numbers.

    Passed is what more than the threshold of the stake that voted is for, if the
    quorum of all tokens voted. With too few voters no numbers are told.
    """
    votes = count.ayes + count.nays
    quorate = terms.quorum.reached_by(votes, electorate)
    tally = Tally(
        ayes=Amount(count.ayes),
        nays=Amount(count.nays),
        electorate=electorate,
        voters=count.voters,
    )
    return Decision(
        passed=quorate and terms.threshold.exceeded_by(count.ayes, votes),
        quorate=quorate,
        tally=tally if count.voters >= terms.min_voters else None,
    )
