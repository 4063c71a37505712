"""``sealift chain``: the embedded L1, for a laptop and for tests."""

import asyncio
import logging
import signal
from pathlib import Path

import click
import msgspec

from sealift.base import ChainId, Height
from sealift.crypto import system_entropy
from sealift.ledger import FIRST_RUNTIME, NEWEST_RUNTIME, DcapVerifier, LedgerParams
from sealift.node import (
    SOLO_NOTICE,
    LedgerApplication,
    SoloConfig,
    SoloHome,
    init_solo,
    ledger_consensus_params,
    run_solo,
)
from sealift.relay import TrustRoot, header_hash
from sealift.transport.files import write_durably
from sealift.transport.process import wait_for_stop

from ._chain_runtime import set_code, status
from ._chain_validators import set_validator, validators
from ._errors import EXIT_INTERRUPTED
from ._genesis import FIRST_ACCOUNTS, chosen_anchors, first_state, genesis_options
from ._output import emit, json_option, say
from ._params import PATH, open_l1, run, wall_clock


@click.group()
def chain() -> None:
    r"""The embedded L1 chain: one key orders it.

    \b
    Example:
      sealift insecure-sim init sim
      sealift chain init chain --sim sim
      sealift chain start chain
    """


chain.add_command(status)
chain.add_command(set_code)
chain.add_command(validators)
chain.add_command(set_validator)


@chain.command()
@click.argument("home", type=PATH)
@genesis_options
@click.option(
    "--block-ms",
    type=click.IntRange(0, 3_600_000),
    default=1000,
    show_default=True,
    help="Milliseconds between blocks.",
)
@click.option(
    "--runtime",
    type=click.IntRange(FIRST_RUNTIME, NEWEST_RUNTIME),
    default=NEWEST_RUNTIME,
    show_default=True,
    help="The version of the L1 runtime to begin with.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=26_657, show_default=True
)
@json_option
def init(
    *,
    home: Path,
    chain_id: str,
    sim: Path | None,
    roots: tuple[Path, ...],
    names: tuple[str, ...],
    block_ms: int,
    runtime: int,
    host: str,
    port: int,
    as_json: bool,
) -> None:
    r"""Make a chain: keys, genesis, configuration and block 1.

    The accounts sudo and faucet, and those of --account, get keys in HOME/keys.

    \b
    Example:
      sealift chain init chain --sim sim --block-ms 500
    """
    anchors = chosen_anchors(sim, roots)
    params = LedgerParams()

    root = init_solo(
        home,
        chain_id=ChainId(chain_id),
        genesis_time=wall_clock().now(),
        accounts=dict.fromkeys((*FIRST_ACCOUNTS, *names)),
        app_state=lambda keys: first_state(
            ChainId(chain_id), keys, anchors=anchors, params=params, runtime=runtime
        ),
        application=LedgerApplication(DcapVerifier()),
        entropy=system_entropy,
        config=SoloConfig(block_ms=block_ms, host=host, port=port),
        consensus_params=ledger_consensus_params(params),
    )
    place = SoloHome(home)
    say(SOLO_NOTICE)
    emit(
        {
            "home": str(home),
            "chain_id": root.chain_id,
            "trust_root": str(place.trust_root),
            "header_hash": root.header_hash,
            "faucet_key": str(place.account_key("faucet")),
            "attestation_roots": [anchor.kind for anchor in anchors],
            "runtime_version": runtime,
        },
        as_json=as_json,
    )


@chain.command()
@click.argument("home", type=PATH)
@click.option("--verbose", is_flag=True, help="Say more on stderr.")
@click.pass_context
def start(ctx: click.Context, *, home: Path, verbose: bool) -> None:
    r"""Run the chain of HOME in the foreground, until Ctrl-C.

    Prints one line when it answers: "ready URL chain=ID height=N".

    \b
    Example:
      sealift chain start chain
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s"
    )
    ctx.exit(run(_serve(home)))


@chain.command("trust-root")
@click.argument("home", type=PATH, required=False)
@click.option("--rpc", help="Ask this node instead: trust on first use.")
@click.option("--height", type=click.IntRange(min=1), help="With --rpc: which block.")
@click.option("-o", "--out", type=PATH, help="Write it to a file.")
def trust_root(
    *, home: Path | None, rpc: str | None, height: int | None, out: Path | None
) -> None:
    r"""Print the trust root: what bundles and clients start from, as JSON.

    \b
    Examples:
      sealift chain trust-root chain
      sealift chain trust-root --rpc http://node:26657 --height 1000 -o root.json
    """
    if (home is None) == (rpc is None):
        raise click.UsageError("Give HOME, or --rpc.")
    if home is not None:
        root = SoloHome(home).read_trust_root()
    else:
        root = run(_ask_root(rpc or "", None if height is None else Height(height)))
        say("Taken from the node as it says: compare the hash with another source.")
    body = {
        "chain_id": root.chain_id,
        "height": root.height,
        "header_hash": root.header_hash.hex(),
    }
    if out is not None:
        write_durably(out, msgspec.json.format(msgspec.json.encode(body)) + b"\n")
    click.echo(msgspec.json.format(msgspec.json.encode(body)))


async def _serve(home: Path) -> int:
    application = LedgerApplication(DcapVerifier())
    stopped = asyncio.create_task(wait_for_stop())
    await asyncio.sleep(0)  # who reads "ready" may ask to end at once
    try:
        async with run_solo(home, application=application, clock=wall_clock()) as node:
            chain_id = node.chain.genesis.chain_id
            click.echo(f"ready {node.url} chain={chain_id} height={node.chain.height}")
            failed = asyncio.create_task(node.failed())
            await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
            failed.cancel()
            if not stopped.done():
                await failed
            return stop_code(stopped.result())
    finally:
        stopped.cancel()


def stop_code(signal_number: int) -> int:
    """Exit code of a service that was asked to end: Ctrl-C 130, SIGTERM 0."""
    return EXIT_INTERRUPTED if signal_number == signal.SIGINT else 0


async def _ask_root(rpc: str, height: Height | None) -> TrustRoot:
    async with open_l1(rpc) as l1:
        commit = await l1.commit(height)
    header = commit.signed_header.header
    return TrustRoot(
        chain_id=header.chain_id, height=header.height, header_hash=header_hash(header)
    )
