"""``python -m sealift.node.abci``: the ledger behind a CometBFT node."""

import asyncio
import logging
import sys
from pathlib import Path

import click

from sealift.base import SealiftError
from sealift.ledger import DcapVerifier
from sealift.node import LedgerApplication
from sealift.transport.process import wait_for_stop

from ._server import run_abci


@click.command()
@click.option("--home", type=click.Path(path_type=Path), required=True)
@click.option("--socket", type=click.Path(path_type=Path), required=True)
def main(home: Path, socket: Path) -> None:
    """Serve the ledger of HOME to the CometBFT node that opens SOCKET."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    try:
        asyncio.run(_run(home, socket))
    except SealiftError as error:
        raise click.ClickException(str(error)) from error


async def _run(home: Path, socket: Path) -> None:
    application = LedgerApplication(DcapVerifier())
    async with run_abci(home, socket=socket, application=application) as server:
        click.echo(f"ready unix://{socket}")
        failed = asyncio.create_task(server.failed())
        asked = asyncio.create_task(wait_for_stop())
        done, waiting = await asyncio.wait(
            (failed, asked), return_when=asyncio.FIRST_COMPLETED
        )
        for task in waiting:
            task.cancel()
        for task in done:
            task.result()


if __name__ == "__main__":
    main()
