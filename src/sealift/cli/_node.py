"""``sealift node``: the ledger on CometBFT, one node of a network."""

import logging
import os
import sys
from pathlib import Path

import click

from sealift.base import ChainId
from sealift.crypto import account_of, system_entropy
from sealift.ledger import DcapVerifier
from sealift.node import LedgerApplication, ledger_consensus_params
from sealift.node.abci import run_abci
from sealift.node.cometbft import (
    CometHome,
    NodePlan,
    find_engine,
    make_network,
    rpc_url,
    run_comet,
)
from sealift.transport.files import make_folder
from sealift.transport.keys import write_account_key

from ._genesis import (
    FIRST_ACCOUNTS,
    NETWORK_PARAMS,
    chosen_anchors,
    first_state,
    genesis_options,
)
from ._output import emit, json_option, say
from ._params import PATH, run, wall_clock
from ._service import until_stopped

_SEED = 32
_ALONE = (
    "One validator orders this chain alone. For a network, `sealift testnet up`, or "
    "give several such nodes one genesis.json and each other as persistent_peers."
)


@click.group()
def node() -> None:
    r"""A node of the real engine: CometBFT with the ledger behind it.

    \b
    Example:
      sealift node engine
      sealift node init val --sim sim
      sealift node cometbft val/node
    """


@node.command()
@json_option
def engine(*, as_json: bool) -> None:
    r"""Which CometBFT is used: SEALIFT_COMETBFT, PATH, or this checkout's own.

    \b
    Example:
      sealift node engine
    """
    found = find_engine(os.environ)
    emit({"cometbft": str(found.path), "version": found.version}, as_json=as_json)


@node.command()
@click.argument("folder", type=PATH)
@genesis_options
@click.option(
    "--block-ms",
    type=click.IntRange(1, 3_600_000),
    default=1000,
    show_default=True,
    help="Milliseconds between a commit and the next proposal.",
)
@click.option(
    "--port", type=click.IntRange(1, 65_535), default=26_657, show_default=True
)
@click.option(
    "--p2p-port", type=click.IntRange(1, 65_535), default=26_656, show_default=True
)
@json_option
def init(
    *,
    folder: Path,
    chain_id: str,
    sim: Path | None,
    roots: tuple[Path, ...],
    names: tuple[str, ...],
    block_ms: int,
    port: int,
    p2p_port: int,
    as_json: bool,
) -> None:
    r"""Make a chain of one validator: FOLDER/node is its home, FOLDER/keys its keys.

    The trust root is block 1, which is not there before the node runs:
    `sealift chain trust-root --rpc URL --height 1`.

    \b
    Example:
      sealift node init val --sim sim --block-ms 500
    """
    if port == p2p_port:
        raise click.BadParameter("the same as --port", param_hint="--p2p-port")
    anchors = chosen_anchors(sim, roots)
    seeds = {name: system_entropy(_SEED) for name in (*FIRST_ACCOUNTS, *names)}
    keys = {name: account_of(seed) for name, seed in seeds.items()}
    (home,) = make_network(
        folder,
        [NodePlan(name="node", rpc_port=port, p2p_port=p2p_port)],
        chain_id=ChainId(chain_id),
        genesis_time=wall_clock().now(),
        consensus_params=ledger_consensus_params(NETWORK_PARAMS),
        app_state=first_state(
            ChainId(chain_id), keys, anchors=anchors, params=NETWORK_PARAMS
        ),
        block_ms=block_ms,
        entropy=system_entropy,
    )
    make_folder(folder / "keys", mode=0o700)
    for name, seed in seeds.items():
        write_account_key(folder / "keys" / f"{name}.json", seed)
    say(_ALONE)
    emit(
        {
            "home": str(home.root),
            "chain_id": chain_id,
            "rpc": rpc_url(home),
            "faucet_key": str(folder / "keys" / "faucet.json"),
            "attestation_roots": [anchor.kind for anchor in anchors],
        },
        as_json=as_json,
    )


@node.command()
@click.argument("home", type=PATH)
@click.option("--verbose", is_flag=True, help="Say more on stderr.")
@click.pass_context
def cometbft(ctx: click.Context, *, home: Path, verbose: bool) -> None:
    r"""Run the node of HOME, ledger and CometBFT together, until Ctrl-C.

    Prints one line when it answers: "ready URL chain=ID height=N". If either half
    ends, the command ends; CometBFT's own log is HOME/cometbft.log.

    \b
    Example:
      sealift node cometbft val/node
    """
    _log(verbose=verbose)
    found = find_engine(os.environ)

    async def serve() -> None:
        application = LedgerApplication(DcapVerifier())
        async with run_comet(
            CometHome(home), engine=found, application=application
        ) as running:
            click.echo(
                f"ready {running.url} chain={running.chain_id} height={running.height}"
            )
            await running.failed()

    ctx.exit(run(until_stopped(serve())))


@node.command()
@click.argument("home", type=PATH)
@click.option("--socket", type=PATH, required=True, help="Where proxy_app points.")
@click.option("--verbose", is_flag=True, help="Say more on stderr.")
@click.pass_context
def abci(ctx: click.Context, *, home: Path, socket: Path, verbose: bool) -> None:
    r"""Run only the ledger of HOME; a CometBFT of yours opens SOCKET.

    For those who supervise both halves themselves. Prints "ready unix://SOCKET".

    \b
    Example:
      sealift node abci val/node --socket /run/sealift/abci.sock
      cometbft start --home val/node --proxy_app unix:///run/sealift/abci.sock
    """
    _log(verbose=verbose)

    async def serve() -> None:
        application = LedgerApplication(DcapVerifier())
        place = CometHome(home).ledger
        async with run_abci(place, socket=socket, application=application) as server:
            click.echo(f"ready unix://{socket}")
            await server.failed()

    ctx.exit(run(until_stopped(serve())))


def _log(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(message)s",
    )
