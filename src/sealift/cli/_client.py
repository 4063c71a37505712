"""``sealift client``: a user of a shard."""

from pathlib import Path

import click

from sealift.base import AccountId, Fingerprint, Height
from sealift.client import (
    CallResult,
    WorkerAnswerError,
    WorkerRefusedError,
    WorkerUnreachableError,
    find_instances,
    read_card,
)
from sealift.crypto import system_entropy
from sealift.relay import Timestamp
from sealift.transport.account import free_balance
from sealift.transport.clock import format_time
from sealift.transport.keys import write_account_key

from ._cards import card_option, key_option, open_user, open_workers, payer_option
from ._client_funds import faucet, shield, unshield
from ._client_words import (
    parse_arguments,
    show_result,
    within_option,
    worker_option,
)
from ._forecast import say_how_far
from ._output import emit, emit_rows, json_option
from ._params import ACCOUNT, AMOUNT, HEX32, NUMBER, PATH, run

_SEED = 32


@click.group()
def client() -> None:
    r"""Use a shard: sealed calls, signed reads, funds.

    \b
    Example:
      sealift client new-account alice.json
      sealift client balance --card card.json --key alice.json
    """


@client.command("new-account")
@click.argument("file", type=PATH)
@json_option
def new_account(*, file: Path, as_json: bool) -> None:
    r"""Make an account; its secret goes to FILE, readable by you alone.

    \b
    Example:
      sealift client new-account alice.json
    """
    account = write_account_key(file, system_entropy(_SEED))
    emit({"account": account, "file": str(file)}, as_json=as_json)


@client.command()
@click.argument("dest", type=ACCOUNT)
@click.argument("amount", type=AMOUNT)
@card_option
@key_option("Key file of the user.")
@payer_option
@worker_option
@within_option
@click.option("--confirmed", is_flag=True, help="Wait until L1 has confirmed it.")
@json_option
@click.pass_context
def transfer(
    ctx: click.Context,
    *,
    dest: AccountId,
    amount: int,
    card: Path,
    key: Path,
    payer: Path | None,
    workers: tuple[str, ...],
    within: float,
    confirmed: bool,
    as_json: bool,
) -> None:
    r"""Move AMOUNT inside the shard to DEST; nobody outside can see it.

    \b
    Example:
      sealift client transfer bob.json 5 --card card.json --key alice.json
    """
    arguments = {"dest": dest, "amount": amount}

    async def move() -> CallResult:
        async with open_user(card, key, payer=payer, workers=workers) as user:
            return await user.call(
                "balances.transfer", arguments, within=within, confirmed=confirmed
            )

    show_result(ctx, run(move()), as_json=as_json)


@client.command()
@card_option
@key_option("Key file of the user.")
@worker_option
@json_option
def balance(*, card: Path, key: Path, workers: tuple[str, ...], as_json: bool) -> None:
    r"""What the account has inside the shard, and on L1.

    \b
    Example:
      sealift client balance --card card.json --key alice.json
    """

    async def look() -> dict[str, object]:
        async with open_user(card, key, workers=workers) as user:
            inside = await user.balance()
            outside = await free_balance(user.chain.node, user.account)
            return {
                "account": user.account,
                "balance": inside,
                "l1_balance": outside,
            }

    emit(run(look()), as_json=as_json)


@client.command()
@card_option
@key_option("Key file of the user.")
@worker_option
@json_option
def nonce(*, card: Path, key: Path, workers: tuple[str, ...], as_json: bool) -> None:
    r"""The nonce of the account's next call.

    \b
    Example:
      sealift client nonce --card card.json --key alice.json
    """

    async def look() -> dict[str, object]:
        async with open_user(card, key, workers=workers) as user:
            return {"account": user.account, "nonce": await user.nonce()}

    emit(run(look()), as_json=as_json)


@client.command()
@click.argument("name")
@click.argument("arguments", nargs=-1)
@click.option("--args", "args_json", help="All arguments as one JSON object.")
@click.option("--pin", type=HEX32, help="Refuse any other MRENCLAVE.")
@card_option
@key_option("Key file of the user.")
@payer_option
@worker_option
@within_option
@click.option("--confirmed", is_flag=True, help="Wait until L1 has confirmed it.")
@json_option
@click.pass_context
def call(
    ctx: click.Context,
    *,
    name: str,
    arguments: tuple[str, ...],
    args_json: str | None,
    pin: bytes | None,
    card: Path,
    key: Path,
    payer: Path | None,
    workers: tuple[str, ...],
    within: float,
    confirmed: bool,
    as_json: bool,
) -> None:
    r"""Make a sealed call; exit code 1 if the shard refuses it.

    ARGUMENTS are name=value: numbers, hexadecimal bytes, text, or JSON.

    \b
    Examples:
      sealift client call auction.bid lot=1 amount=50 \
        --card card.json --key alice.json
      sealift client call balances.transfer --args '{"dest": "0x…", "amount": 5}' \
        --card card.json --key alice.json --confirmed
    """
    wanted = parse_arguments(arguments, args_json)

    async def make() -> CallResult:
        async with open_user(card, key, payer=payer, workers=workers) as user:
            return await user.call(
                name,
                wanted,
                within=within,
                confirmed=confirmed,
                pin=None if pin is None else Fingerprint(pin),
            )

    show_result(ctx, run(make()), as_json=as_json)


@client.command()
@click.argument("getter")
@click.argument("arguments", nargs=-1)
@click.option("--args", "args_json", help="All arguments as one JSON object.")
@click.option(
    "--min-height",
    type=NUMBER,
    default=0,
    help="The state must have executed this block.",
)
@card_option
@key_option("Key file of the user.")
@worker_option
@json_option
def ask(
    *,
    getter: str,
    arguments: tuple[str, ...],
    args_json: str | None,
    min_height: int,
    card: Path,
    key: Path,
    workers: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""Read by a signed getter; only the shard sees who asks for what.

    \b
    Example:
      sealift client ask auction.lot lot=1 --card card.json --key alice.json
    """
    wanted = parse_arguments(arguments, args_json)

    async def look() -> dict[str, object]:
        async with open_user(card, key, workers=workers) as user:
            found = await user.ask(getter, wanted, min_height=Height(min_height))
            reply = found.reply
            return {
                "answer": found.value,
                "state_height": reply.state_height,
                "confirmed": reply.confirmed,
                "head_height": reply.head_height,
                "head_time": format_time(Timestamp(seconds=reply.head_time, nanos=0)),
            }

    emit(run(look()), as_json=as_json)


@client.command("list-workers")
@card_option
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="How many blocks to look through for workers.",
)
@json_option
def list_workers(*, card: Path, blocks: int, as_json: bool) -> None:
    r"""Workers of the shard, as L1's registry proves them, and who answers.

    Those are found that registered or confirmed a root in the last --blocks blocks.

    \b
    Example:
      sealift client list-workers --card card.json
    """
    emit_rows("workers", run(_instances(card, blocks)), as_json=as_json)


async def _instances(card: Path, blocks: int) -> list[dict[str, object]]:
    known = read_card(card)
    rows: list[dict[str, object]] = []
    async with open_workers(known) as (chain, workers):
        spoke = await find_instances(chain, known.shard_id, blocks=blocks)
        say_how_far(spoke)
        for found in spoke.instances:
            record = found.record
            try:
                await workers.get(record.url, "/healthz")
                answers = "yes"
            except WorkerRefusedError:
                answers = "unwell"
            except (WorkerUnreachableError, WorkerAnswerError):
                answers = "no"
            rows.append(
                {
                    "url": record.url,
                    "mrenclave": record.fingerprint,
                    "runs_now": not found.refusal,
                    "tcb": record.tcb_status,
                    "attested_at": record.attested_at,
                    "answers": answers,
                    "signing_key": record.statement.signing_key,
                    "why_not": found.refusal,
                }
            )
    return rows


for _command in (faucet, shield, unshield):
    client.add_command(_command)
