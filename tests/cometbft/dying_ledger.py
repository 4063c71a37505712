"""The ledger behind CometBFT, but it kills itself at a chosen instant.

Usage: dying_ledger.py INSTANT BLOCK --home=H --socket=S
BLOCK is ``first``, or ``busy`` for the first one with transactions.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sealift.ledger import DcapVerifier
from sealift.node import ExecutedBlock, LedgerApplication
from sealift.node.abci import AbciStore, run_abci
from sealift.node.abci import _application as inside

INSTANT, BLOCK = sys.argv[1:3]
HOME, SOCKET = (Path(one.split("=", 1)[1]) for one in sys.argv[3:5])


class Fate:
    due = False


def die_if(instant: str) -> None:
    if Fate.due and instant == INSTANT:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingLedger(LedgerApplication):
    def finalize_block(self, **block: Any) -> ExecutedBlock:
        outcome = super().finalize_block(**block)
        Fate.due = bool(block["txs"]) if BLOCK == "busy" else block["height"] == 1
        die_if("executed")  # before the answer
        return outcome

    def commit(self) -> None:
        die_if("persisted")  # durable, but the engine is not told
        super().commit()


class DyingStore(AbciStore):
    """Dies when the engine has the app hash and nothing is durable."""

    def begin(self, *args: Any, **block: Any) -> None:
        die_if("finalized")
        super().begin(*args, **block)

    def append(self, *args: Any, **block: Any) -> None:
        die_if("finalized")
        super().append(*args, **block)


async def main() -> None:
    inside.AbciStore = DyingStore
    application = DyingLedger(DcapVerifier())
    async with run_abci(HOME, socket=SOCKET, application=application) as server:
        sys.stdout.write(f"ready unix://{SOCKET}\n")
        sys.stdout.flush()
        await server.failed()


asyncio.run(main())
