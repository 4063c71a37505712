"""``sealift client faucet | shield | unshield``: funds between L1 and a shard."""

from pathlib import Path

import click

from sealift.base import AccountId, Amount
from sealift.client import CallResult
from sealift.transport.account import L1Account, free_balance
from sealift.transport.keys import read_account_key

from ._cards import card_option, key_option, open_user, payer_option
from ._client_words import show_result, within_option, worker_option
from ._output import emit, json_option
from ._params import ACCOUNT, AMOUNT, PATH, open_l1, rpc_option, run


@click.command()
@click.argument("account", type=ACCOUNT)
@click.option("--amount", type=AMOUNT, default=10**9, show_default=True)
@click.option(
    "--from", "source", type=PATH, required=True, help="Account key of the faucet."
)
@rpc_option
@json_option
def faucet(
    *, account: AccountId, amount: int, source: Path, rpc: str, as_json: bool
) -> None:
    r"""Give ACCOUNT (hexadecimal, or a key file) funds on L1.

    \b
    Example:
      sealift client faucet alice.json --from chain/keys/faucet.json
    """
    secret = read_account_key(source)

    async def give() -> dict[str, object]:
        async with open_l1(rpc) as l1:
            chain_id = (await l1.status()).node_info.network
            done = await L1Account(secret, l1, chain_id).act(
                "balances.transfer", {"dest": account, "amount": amount}
            )
            return {
                "account": account,
                "l1_balance": await free_balance(l1, account),
                "block": done.height,
            }

    emit(run(give()), as_json=as_json)


@click.command()
@click.argument("amount", type=AMOUNT)
@click.option("--to", "beneficiary", type=ACCOUNT, help="Whom (default: --key).")
@card_option
@key_option("Key file of the user.")
@payer_option
@json_option
def shield(
    *,
    amount: int,
    beneficiary: AccountId | None,
    card: Path,
    key: Path,
    payer: Path | None,
    as_json: bool,
) -> None:
    r"""Move AMOUNT from the payer's L1 account into the shard.

    \b
    Example:
      sealift client shield 1000 --card card.json --key alice.json
    """

    async def move() -> dict[str, object]:
        async with open_user(card, key, payer=payer or key) as user:
            whom = beneficiary or user.account
            done = await user.shield(Amount(amount), whom)
            return {"beneficiary": whom, "amount": amount, "block": done.height}

    emit(run(move()), as_json=as_json)


@click.command()
@click.argument("amount", type=click.IntRange(min=1, max=2**63 - 1))
@click.option("--to", "beneficiary", type=ACCOUNT, help="Whom on L1 (default: --key).")
@card_option
@key_option("Key file of the user.")
@payer_option
@worker_option
@within_option
@click.option("--confirmed", is_flag=True, help="Wait until L1 has confirmed it.")
@json_option
@click.pass_context
def unshield(
    ctx: click.Context,
    *,
    amount: int,
    beneficiary: AccountId | None,
    card: Path,
    key: Path,
    payer: Path | None,
    workers: tuple[str, ...],
    within: float,
    confirmed: bool,
    as_json: bool,
) -> None:
    r"""Move AMOUNT out of the shard to an L1 account; also in maintenance.

    The vault pays once the shard's effects_quorum of platforms agree on it.

    \b
    Example:
      sealift client unshield 200 --to alice.json --card card.json --key alice.json
    """

    async def move() -> CallResult:
        async with open_user(card, key, payer=payer, workers=workers) as user:
            whom = beneficiary or user.account
            return await user.call(
                "balances.unshield",
                {"beneficiary": whom, "amount": amount},
                within=within,
                confirmed=confirmed,
            )

    show_result(ctx, run(move()), as_json=as_json)
