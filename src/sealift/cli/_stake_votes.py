"""Acts of holders in a shard: what can't succeed is refused before it is paid for.

A receipt says only which rule refused a call, and a call that fails costs a nonce
and its carrier. So polls are looked at first; what the shard refuses all the same,
because a block came in between, is explained by how they stand then.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sealift.base import Digest, Height, SealiftError, encode
from sealift.client import CallFailedError, Reading, ShardClient
from sealift.protocol import Order, StakeAuthority

from ._polls import MyBallot, NoSuchPollError, poll_rows, read_my_vote

_SECONDS: Final = 90.0
_PROPOSED: Final = "democracy.Proposed"
#: A call that is made now stands in one of the blocks after so many.
_WAY: Final = 2
_LATE: Final = frozenset({"UnknownPollError", "PollNotOpenError", "NoStakeError"})
_AGAIN: Final = "Make the order again, with later blocks"
_HINTS: Final[Mapping[str, str]] = {
    "OrderExpiredError": _AGAIN,
    "OrderHeightsError": _AGAIN,
    "OrderStaleError": "Another act overtook the order: make it again",
    "TooManyPollsError": "`sealift gov tally` shows when one ends",
}


class PollClosedError(SealiftError):
    """The poll takes no votes yet, or no more."""


class NoVotingStakeError(SealiftError):
    """The account can't vote: it had no tokens all through the poll's window."""


class DepositError(SealiftError):
    """The account has less free than a proposal's deposit."""


class PollRunsError(SealiftError):
    """A poll on this very order is running."""


async def vote_by_stake(
    user: ShardClient, number: int, *, aye: bool
) -> dict[str, object]:
    """Vote in a running poll; what the vote weighs, and which one it replaces.

    1. The poll takes votes in the blocks that come.
    2. The account has stake in it.
    3. The shard takes the vote.

    Raises:
        NoSuchPollError, PollClosedError: 1.
        NoVotingStakeError: 2.
        CallFailedError: 3, and how polls stand does not say why.
    """
    row, mine = await _may_vote(user, number)  # 1, 2
    done = await user.call(
        "democracy.vote", {"poll": number, "aye": aye}, within=_SECONDS
    )
    if done.outcome in _LATE:
        await _may_vote(user, number, way=0)
    done.require_ok()  # 3
    return {
        "poll": number,
        "vote": _word(aye),
        "stake": mine.stake,
        "replaces": None if mine.aye is None else _word(mine.aye),
        "block": done.height,
        "closes_at": row["closes_at"],
        "taken": True,
    }


async def propose_by_stake(
    user: ShardClient, order: Order, terms: StakeAuthority
) -> dict[str, object]:
    """Begin a poll on an order; from when until when it takes votes.

    1. No poll on the same order is running.
    2. The account has the deposit free.
    3. The shard begins the poll.

    Raises:
        PollRunsError: 1.
        DepositError: 2.
        CallFailedError: 3.
    """
    digest = order.digest()
    _require_new(await user.ask("democracy.polls", {}), digest)  # 1
    free = await user.balance()
    if free < terms.deposit:  # 2
        raise DepositError(
            "the account has too little in the shard for the deposit",
            got=f"{free} free",
            expected=f"≥ {terms.deposit}",
            hint="`sealift client shield` brings more; it is given back if enough vote",
        )
    done = await user.call(
        "democracy.propose", {"order": encode(order)}, within=_SECONDS
    )
    if done.outcome == "PollExistsError":
        _require_new(await user.ask("democracy.polls", {}), digest)
    if done.outcome in _HINTS:
        raise CallFailedError(
            done.outcome,
            message=done.message,
            call_id=done.call_id,
            hint=_HINTS[done.outcome],
        )
    done.require_ok()  # 3
    opens_at = done.height + terms.stake_age
    numbers = [fields.get("poll") for name, fields in done.events if name == _PROPOSED]
    return {
        "order": digest,
        "kind": type(order).__name__,
        "poll": numbers[0] if numbers else None,
        "block": done.height,
        "opens_at": opens_at,
        "closes_at": opens_at + terms.period,
        "deposit": terms.deposit,
    }


async def _may_vote(
    user: ShardClient, number: int, *, way: int = _WAY
) -> tuple[dict[str, object], MyBallot]:
    found = await user.ask("democracy.polls", {})
    head = found.reply.head_height
    row = _running(found, number, head)
    opens_at, closes_at = int(str(row["opens_at"])), int(str(row["closes_at"]))
    if not opens_at - way <= head < closes_at - 1:
        early = head < opens_at
        raise PollClosedError(
            f"poll {number} takes no votes {'yet' if early else 'any more'}",
            got=f"block {head}",
            expected=f"{opens_at} … {closes_at - 1}",
            hint=f"Vote in {opens_at - head} blocks"
            if early
            else "`sealift gov tally` shows how it ends",
        )
    vote = await read_my_vote(user, number)
    if vote is None:  # it ended meanwhile
        raise _not_running(number, ())
    if not vote.stake:
        raise NoVotingStakeError(
            f"this account has no stake in poll {number}",
            got=f"0 tokens, for {user.account.hex()}",
            expected=f"tokens all the time from its proposal until block {opens_at}",
            hint="What comes later counts in the next poll; is it the right --key?",
        )
    return row, vote


def _running(found: Reading, number: int, head: Height) -> dict[str, object]:
    rows = poll_rows(found, head)
    for row in rows:
        if row["poll"] == number:
            return row
    raise _not_running(number, rows)


def _not_running(number: int, rows: Sequence[Mapping[str, object]]) -> NoSuchPollError:
    running = ", ".join(str(row["poll"]) for row in rows)
    return NoSuchPollError(
        "no such poll is running",
        got=number,
        expected=f"one of {running}" if running else "none runs now",
        hint="`sealift gov tally` shows how it ended, if it did",
    )


def _require_new(found: Reading, digest: Digest) -> None:
    for row in poll_rows(found, Height(0)):
        if row["order"] == digest.hex():
            raise PollRunsError(
                "this order is being voted on already",
                got=digest,
                expected=f"votes in poll {row['poll']}",
                hint=f"`sealift gov vote {row['poll']} --via stake` votes on it",
            )


def _word(aye: bool) -> str:  # noqa: FBT001 - a ballot
    return "aye" if aye else "nay"
