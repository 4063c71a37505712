"""``sealift gov propose | vote | tally``: decisions by stake and by workers."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeVar

import click

from sealift.base import AccountId, Digest, SealiftError, parse_hex
from sealift.client import ProvenChain, ShardCard, read_card
from sealift.crypto import account_of
from sealift.ledger import Motion, verify_order
from sealift.protocol import Order, StakeAuthority, WorkersAuthority
from sealift.transport.account import L1Account, TxOutcome
from sealift.transport.keys import read_account_key

from ._cards import card_option, key_option, open_chain, open_user, payer_option
from ._council import motion_row, vote_rows
from ._endorse import read_order
from ._gov_orders import upgrade_options
from ._orders import UpgradeWords, upgrade_order
from ._output import emit, emit_sections, json_option, say
from ._params import PATH, open_l1, run
from ._polls import Polls, read_my_vote, read_polls
from ._records import Government, members, read_government
from ._stake_votes import propose_by_stake, vote_by_stake
from ._worker_http import ask_status, worker_url

Via = Literal["stake", "workers"]
Voting = TypeVar("Voting", StakeAuthority, WorkersAuthority)
#: Of the number of a poll.
_DIGITS: Final = 18


class NoSuchVoteError(SealiftError):
    """The shard's authority has no such member, or nothing is voted on there."""


via_option = click.option(
    "--via",
    type=click.Choice(["stake", "workers"]),
    required=True,
    help="By tokens inside the shard, secretly; or by platforms on L1, openly.",
)
voter_option = key_option(
    "Key file: of the account in the shard (stake), or of the operator (workers)."
)
signing_key_option = click.option(
    "--signing-key",
    help="For workers: the instance's key, or the home folder of its worker.",
)
worker_option = click.option(
    "--worker", "workers", multiple=True, help="URL of a worker, beside the card's."
)


@click.command()
@card_option
@via_option
@voter_option
@payer_option
@worker_option
@signing_key_option
@upgrade_options
@click.option("--order", "order_file", type=PATH, help="Propose the order in a file.")
@json_option
def propose(
    *,
    card: Path,
    via: Via,
    key: Path,
    payer: Path | None,
    workers: tuple[str, ...],
    signing_key: str | None,
    words: UpgradeWords | None,
    order_file: Path | None,
    as_json: bool,
) -> None:
    r"""Have stake or workers vote on an order: an upgrade, or any that is in a file.

    Stake: a sealed call; a deposit is set aside, and lost if the quorum is missed.
    Workers: on L1, with a seat; the proposer is for it.

    \b
    Examples:
      sealift gov propose --via stake --card card.json --key alice.json \
        --bundle auction-v2.bundle --at +500
      sealift gov propose --via workers --card card.json --key w1/operator.key \
        --signing-key w1 --order order.bin
    """
    if (words is None) == (order_file is None):
        raise click.UsageError("Say what runs next, or give --order; not both.")

    def make(now: Government) -> Order:
        if order_file is not None:
            return read_order(order_file).order
        if words is None:
            raise click.UsageError("Say what runs next.")
        return upgrade_order(now.schedule, now.height, words, voted=True)

    if via == "workers":
        emit(
            run(_propose_on_l1(card, key, _instance(signing_key), make)),
            as_json=as_json,
        )
        return

    async def inside() -> dict[str, object]:
        order, terms = await _checked(card, make, StakeAuthority)
        async with open_user(card, key, payer=payer, workers=workers) as user:
            return await propose_by_stake(user, order, terms)

    emit(run(inside()), as_json=as_json)


@click.command()
@click.argument("what")
@card_option
@via_option
@voter_option
@payer_option
@worker_option
@signing_key_option
@click.option("--aye/--nay", "aye", default=None, help="For it, or against it.")
@json_option
def vote(
    *,
    what: str,
    card: Path,
    via: Via,
    key: Path,
    payer: Path | None,
    workers: tuple[str, ...],
    signing_key: str | None,
    aye: bool | None,
    as_json: bool,
) -> None:
    r"""Vote in a poll (stake: its number) or on a motion (workers: its digest).

    A later vote replaces the one before. By stake nobody learns how an account
    voted; with --payer L1 shows whose account carried a call.

    \b
    Examples:
      sealift gov vote 0 --aye --via stake --card card.json --key alice.json
      sealift gov vote 00…00 --nay --via workers --card card.json \
        --key w1/operator.key --signing-key w1
    """
    if aye is None:
        raise click.UsageError("For it or against it? Give --aye or --nay.")
    if via == "workers":
        digest = Digest(parse_hex(what))
        answer = run(_vote_on_l1(card, key, _instance(signing_key), digest, aye=aye))
        emit(answer, as_json=as_json)
        return
    if not (what.isascii() and what.isdecimal() and len(what) <= _DIGITS):
        raise click.BadParameter(
            f"{what[:40]!r} is not the number of a poll; `sealift gov tally` shows it"
        )

    async def inside() -> dict[str, object]:
        async with open_user(card, key, payer=payer, workers=workers) as user:
            return await vote_by_stake(user, int(what), aye=aye)

    emit(run(inside()), as_json=as_json)


@click.command()
@card_option
@click.option(
    "--via",
    type=click.Choice(["stake", "workers"]),
    help="Only votes of this kind (default: all).",
)
@click.option("--key", type=PATH, help="Show this account's own vote, too.")
@worker_option
@json_option
def tally(
    *,
    card: Path,
    via: Via | None,
    key: Path | None,
    workers: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""How votes stand: workers' in full, stake's only when they are over.

    While a poll is open nobody can see a running tally, this command neither.
    Where too few voted to hide each other, only the outcome is told.

    \b
    Examples:
      sealift gov tally --card card.json
      sealift gov tally --via stake --card card.json --key alice.json
    """
    run(_tally(card, via, key, workers, as_json=as_json))


async def _tally(
    path: Path,
    via: Via | None,
    key: Path | None,
    workers: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    card = read_card(path)
    async with open_chain(card) as chain:
        now = await read_government(chain, card.shard_id)
        if via == "stake":
            _terms(now, StakeAuthority)
        elif via == "workers":
            _terms(now, WorkersAuthority)
        alone = via == "stake" or not any(
            isinstance(one, WorkersAuthority) for one in members(now.schedule)
        )
        polls = None
        if via != "workers":
            polls = await read_polls(chain, card, now, workers=workers, needed=alone)
    polls = polls or Polls(running=[], results=[])
    if key is not None and polls.running:
        async with open_user(path, key, workers=workers) as user:
            for row in polls.running:
                row["my_vote"] = await read_my_vote(user, int(str(row["poll"])))
    if any(row["tally"] is None for row in polls.results if row["outcome"] != "lapsed"):
        say("Where no numbers stand, fewer voted than can hide each other.")
    motions = now.motions if via != "stake" else ()
    sections = {
        "polls": polls.running,
        "results": polls.results,
        "motions": [motion_row(one, now.height) for one in motions],
        "votes": [row for one in motions for row in vote_rows(one)],
    }
    emit_sections({"proven_at": now.height}, sections, as_json=as_json)


async def _checked(
    path: Path,
    make: Callable[[Government], Order],
    kind: type[Voting],
) -> tuple[Order, Voting]:
    """The order and the vote's terms, if it is for here and such a vote endorses it.

    Raises:
        NoSuchVoteError: It can't.
        OrderForeignError, OrderSerialError, OrderExpiredError: It is not.
    """
    card = read_card(path)
    async with open_chain(card) as chain:
        now = await read_government(chain, card.shard_id)
    terms = _terms(now, kind)
    order = make(now)
    verify_order(now.schedule, order, height=now.height)
    return order, terms


def _terms(now: Government, kind: type[Voting]) -> Voting:
    for one in members(now.schedule):
        if isinstance(one, kind):
            return one
    names = dict.fromkeys(type(one).__name__ for one in members(now.schedule))
    raise NoSuchVoteError(
        "the shard's authority has no such member",
        got=kind.__name__,
        expected=", ".join(names),
        hint="`sealift gov status` shows who decides",
    )


async def _propose_on_l1(
    path: Path, key: Path, instance: AccountId, make: Callable[[Government], Order]
) -> dict[str, object]:
    order, _ = await _checked(path, make, WorkersAuthority)
    arguments: dict[str, object] = {"order": order, "signing_key": instance}
    return await _act(path, key, "council.propose", arguments, order.digest())


async def _vote_on_l1(
    path: Path, key: Path, instance: AccountId, digest: Digest, *, aye: bool
) -> dict[str, object]:
    arguments: dict[str, object] = {
        "shard": read_card(path).shard_id,
        "order": digest,
        "signing_key": instance,
        "aye": aye,
    }
    return await _act(path, key, "council.vote", arguments, digest)


async def _act(
    path: Path, key: Path, call: str, arguments: dict[str, object], digest: Digest
) -> dict[str, object]:
    """Act on the council, and how the motion stands in L1's proven state."""
    card, secret = read_card(path), read_account_key(key)
    async with open_chain(card) as chain:
        async with open_l1(card.l1[0]) as l1:
            done = await L1Account(secret, l1, card.chain).act(call, arguments)
        now, motion = await _after(chain, card, done, digest)
    if motion is not None:
        row = motion_row(motion, now.height)
        return {"decided": False, **row, "operator": account_of(secret)}
    say("The motion is over: see `sealift gov status` for what it did.")
    return {
        "order": digest,
        "passed": True,
        "serial": now.schedule.serial,
        "waiting": [one.order.digest() for one in now.orders],
    }


async def _after(
    chain: ProvenChain, card: ShardCard, done: TxOutcome, digest: Digest
) -> tuple[Government, Motion | None]:
    """The government after a transaction, and the motion if it still stands."""
    await chain.wait_for(done.height + 1)
    now = await read_government(chain, card.shard_id)
    for one in now.motions:
        if one.order.digest() == digest:
            return now, one
    return now, None


def _instance(words: str | None) -> AccountId:
    """An instance's signing key: hexadecimal, or as its running worker says.

    Raises:
        DecodeError, WorkerUnreachableError: Neither.
    """
    if words is None:
        raise click.UsageError("Which instance has the seat? Give --signing-key.")
    home = Path(words)
    if not home.is_dir():
        return AccountId(parse_hex(words))
    found = run(ask_status(worker_url(home, None)))
    return AccountId(parse_hex(str(found.get("signing_key", ""))))
