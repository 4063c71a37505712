"""``sealift chain status | set-code``: the L1 runtime that acts, and the next."""

from pathlib import Path

import click

from sealift.base import Height, SealiftError
from sealift.frame import RuntimeCall
from sealift.ledger import (
    NEWEST_RUNTIME,
    RUNTIME_VERSIONS,
    RuntimePlan,
    ledger_call,
)
from sealift.transport.account import L1Account
from sealift.transport.clock import format_time
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import L1Client

from ._output import emit, json_option, say
from ._params import HEIGHT, PATH, entry_of, open_l1, rpc_option, run


class NoRuntimePlanError(SealiftError):
    """There is no plan that could be withdrawn."""


@click.command()
@rpc_option
@json_option
def status(*, rpc: str, as_json: bool) -> None:
    r"""How far an L1 node is, as it says itself, and what executes its blocks.

    "runtime_plan" is the next version of the L1 runtime: nodes whose program does
    not have it halt at its block. "this_program" says what is installed here.

    \b
    Example:
      sealift chain status --rpc http://127.0.0.1:26657
    """
    emit(run(_status(rpc)), as_json=as_json)


@click.command("set-code")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--at", type=HEIGHT, help="The first block that it executes.")
@click.option("--cancel", is_flag=True, help="Withdraw the plan instead.")
@click.option("--key", type=PATH, required=True, help="Key file of L1's root (sudo).")
@rpc_option
@json_option
def set_code(
    *,
    version: int | None,
    at: int | None,
    cancel: bool,
    key: Path,
    rpc: str,
    as_json: bool,
) -> None:
    r"""Plan a VERSION of the L1 runtime, from a block on, as L1's root.

    Every node needs a program that has it before that block; one that has not halts
    there, and goes on when it is installed. A plan replaces the one before.

    \b
    Examples:
      sealift chain set-code 2 --at 5000 --key chain/keys/sudo.json
      sealift chain set-code --cancel --key chain/keys/sudo.json
    """
    if cancel == (version is not None) or (version is None) != (at is None):
        raise click.UsageError("Give VERSION and --at, or --cancel.")
    secret = read_account_key(key)
    if version is not None and version not in RUNTIME_VERSIONS:
        say(
            f"This program has no version {version} of the L1 runtime (its newest is"
            f" {NEWEST_RUNTIME}): nodes like it will halt at block {at}."
        )
    emit(run(_set_code(rpc, secret, version, at)), as_json=as_json)


async def _status(rpc: str) -> dict[str, object]:
    async with open_l1(rpc) as l1:
        found = await l1.status()
        runtime = await _runtime(l1, found.sync_info.latest_block_height)
    info = found.sync_info
    return {
        "chain_id": found.node_info.network,
        "height": info.latest_block_height,
        "time": format_time(info.latest_block_time),
        "block_hash": info.latest_block_hash,
        "app_hash": info.latest_app_hash,
        "node": f"{found.node_info.moniker} {found.node_info.version}",
        **runtime,
    }


async def _set_code(
    rpc: str, secret: bytes, version: int | None, at: int | None
) -> dict[str, object]:
    async with open_l1(rpc) as l1:
        before = await entry_of(l1, RuntimePlan, "system", "plan")
        if version is None and before is None:
            raise NoRuntimePlanError(
                "no version of the L1 runtime is planned",
                got="an empty plan",
                expected="one to withdraw",
            )
        inner = await _call(l1, version, at)
        chain_id = (await l1.status()).node_info.network
        done = await L1Account(secret, l1, chain_id).act("sudo.sudo", {"call": inner})
        height = Height(max(done.height, await l1.height()))
        return {
            "block": done.height,
            "replaced": _said(before),
            **await _runtime(l1, height),
        }


async def _call(l1: L1Client, version: int | None, at: int | None) -> RuntimeCall:
    """``system.set_code``; naming the current version withdraws the plan."""
    if version is None or at is None:
        current = await entry_of(l1, int, "system", "version") or 0
        return ledger_call("system.set_code", version=current, height=Height(0))
    return ledger_call("system.set_code", version=version, height=Height(at))


async def _runtime(l1: L1Client, height: int) -> dict[str, object]:
    """The version that acts, the plan, and what this program makes of them."""
    current = await entry_of(l1, int, "system", "version")
    plan = await entry_of(l1, RuntimePlan, "system", "plan")
    newest = f"versions {', '.join(str(one) for one in sorted(RUNTIME_VERSIONS))}"
    if current not in RUNTIME_VERSIONS:
        newest += ": NOT THE ONE THAT ACTS; this program cannot run a node here"
    elif plan is not None and plan.version not in RUNTIME_VERSIONS:
        newest += f": A NODE OF IT WILL HALT AT BLOCK {plan.height}"
    return {
        "runtime_version": current,
        "runtime_plan": None
        if plan is None
        else {
            "version": plan.version,
            "at": plan.height,
            "in_blocks": max(plan.height - height, 0),
            "in_this_program": plan.version in RUNTIME_VERSIONS,
        },
        "this_program": newest,
    }


def _said(plan: RuntimePlan | None) -> str | None:
    return None if plan is None else f"version {plan.version} at block {plan.height}"
