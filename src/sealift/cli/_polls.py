"""Polls by stake, as a worker's enclave answers everybody.

Before a poll is over nobody outside learns more than its phases: there is no
running tally to show.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import aiohttp
import msgspec

from sealift.base import Height, InvariantError, SealiftError, canonical_decode
from sealift.client import (
    ProvenChain,
    Reading,
    ShardCard,
    ShardClient,
    WorkerAnswerError,
    Workers,
)
from sealift.crypto import system_entropy
from sealift.protocol import Order, StakeAuthority

from ._output import say
from ._records import Government, members

T = TypeVar("T")
_POLLS: Final = "democracy.polls"
_RESULTS: Final = "democracy.results"
_ORDER: Final = "democracy.order"
_MY_VOTE: Final = "democracy.my_vote"
_SEED: Final = 32


class NoSuchPollError(SealiftError):
    """No poll of this number is running."""


class _Poll(msgspec.Struct, frozen=True, kw_only=True):
    """A running poll, as the getter shows it."""

    poll: int
    order: str
    kind: str
    opens_at: int
    closes_at: int
    deposit: int = 0


class _Tally(msgspec.Struct, frozen=True, kw_only=True):
    ayes: int
    nays: int
    electorate: int
    voters: int


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """A poll that is over, as the getter shows it."""

    poll: int
    order: str
    kind: str
    outcome: str
    closed_at: int
    tally: _Tally | None = None


class MyBallot(msgspec.Struct, frozen=True, kw_only=True):
    """What an account's own vote in a poll weighs, and what it is."""

    stake: int
    aye: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Polls:
    """Rows of the polls that run, and of those that ended."""

    running: list[dict[str, object]]
    results: list[dict[str, object]]


async def read_polls(
    chain: ProvenChain,
    card: ShardCard,
    now: Government,
    *,
    workers: Sequence[str] = (),
    needed: bool = False,
) -> Polls | None:
    """Polls of a shard, asked under an account of this moment: they are public.

    Args:
        chain: L1, proven.
        card: The shard.
        now: Its government.
        workers: Beside those of the card, and asked first.
        needed: Whether it is a failure that nobody answers.

    Returns:
        ``None`` if stake does not decide here, or nobody answers.

    Raises:
        SealiftError: Nobody answers, and it is ``needed``.
    """
    if not any(isinstance(one, StakeAuthority) for one in members(now.schedule)):
        return None
    try:
        async with _asking(chain, card, workers) as asked:
            running = await asked.ask(_POLLS, {})
            results = await asked.ask(_RESULTS, {})
        return Polls(
            running=poll_rows(running, now.height), results=result_rows(results)
        )
    except InvariantError:
        raise
    except SealiftError as error:
        if needed:
            raise
        say(f"Polls are not shown: {' '.join(str(error).split())}")
        return None


async def read_my_vote(user: ShardClient, number: int) -> MyBallot | None:
    """The user's own vote in a poll; ``None`` if no such poll is running.

    Raises:
        WorkerAnswerError: Not what the getter answers.
        SealiftError: Nobody answers.
    """
    found = await user.ask(_MY_VOTE, {"poll": number})
    return None if found.value is None else _converted(found, MyBallot)


async def read_poll_order(
    chain: ProvenChain, card: ShardCard, number: int, *, workers: Sequence[str] = ()
) -> Order:
    """The order that a running poll is on, as an enclave answers everybody.

    Raises:
        NoSuchPollError: No such poll is running.
        SealiftError: Nobody answers.
    """
    async with _asking(chain, card, workers) as asked:
        args = asked.metadata.encode_getter(_ORDER, {"poll": number})
        reply = await asked.ask_raw(_ORDER, args)
    found = canonical_decode(cast("type[Order | None]", Order | None), reply.value)
    if found is None:
        raise NoSuchPollError("no such poll is running", got=number)
    return found


@asynccontextmanager
async def _asking(
    chain: ProvenChain, card: ShardCard, workers: Sequence[str]
) -> AsyncIterator[ShardClient]:
    """A client under an account of this moment: what it reads is public."""
    async with aiohttp.ClientSession() as http:
        yield ShardClient(
            card,
            system_entropy(_SEED),
            chain=chain,
            workers=Workers((*workers, *card.workers), http),
            payer=None,
            entropy=system_entropy,
        )


def poll_rows(found: Reading, height: Height) -> list[dict[str, object]]:
    """Running polls with phase and countdown.

    Raises:
        WorkerAnswerError: Not what the getter answers.
    """
    rows: list[dict[str, object]] = []
    for one in _converted(found, list[_Poll]):
        phase, left = "announced", one.opens_at - height
        if height >= one.opens_at:
            phase, left = "open", one.closes_at - height
        if height >= one.closes_at:
            phase, left = "being counted", 0
        rows.append(
            {
                "poll": one.poll,
                "kind": one.kind,
                "order": one.order.removeprefix("0x"),
                "phase": phase,
                "blocks_left": left,
                "opens_at": one.opens_at,
                "closes_at": one.closes_at,
            }
        )
    return rows


def result_rows(found: Reading) -> list[dict[str, object]]:
    """How polls ended; the numbers only where enough voted to hide in.

    Raises:
        WorkerAnswerError: Not what the getter answers.
    """
    rows: list[dict[str, object]] = []
    for one in _converted(found, list[_Result]):
        tally: Mapping[str, object] | None = None
        if one.tally is not None:
            tally = msgspec.structs.asdict(one.tally)
        rows.append(
            {
                "poll": one.poll,
                "kind": one.kind,
                "order": one.order.removeprefix("0x"),
                "outcome": one.outcome,
                "closed_at": one.closed_at,
                "tally": tally,
            }
        )
    return rows


def _converted(found: Reading, kind: type[T]) -> T:
    try:
        return msgspec.convert(found.value, kind)
    except msgspec.ValidationError as error:
        raise WorkerAnswerError(
            f"polls are not what they should be ({error})"
        ) from error
