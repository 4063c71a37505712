"""The ledger behind CometBFT, but it kills itself at a chosen instant.

Usage: dying_ledger.py INSTANT HEIGHT --home=H --socket=S
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from sealift.ledger import DcapVerifier
from sealift.node import LedgerApplication
from sealift.node.abci import AbciStore, run_abci
from sealift.node.abci import _application as inside

instant, height = sys.argv[1], int(sys.argv[2])
home, socket = (Path(one.split("=", 1)[1]) for one in sys.argv[3:5])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingLedger(LedgerApplication):
    def finalize_block(self, **block):
        outcome = super().finalize_block(**block)
        if instant == "executed" and block["height"] == height:
            die()  # before the answer
        return outcome

    def commit(self) -> None:
        if instant == "persisted" and self.ledger.height + 1 == height:
            die()  # durable, but the engine is not told
        super().commit()


class DyingStore(AbciStore):
    def begin(self, genesis, **block) -> None:
        if instant == "finalized" and genesis.initial_height == height:
            die()  # the engine has the app hash, nothing is durable
        super().begin(genesis, **block)

    def append(self, at, **block) -> None:
        if instant == "finalized" and at == height:
            die()
        super().append(at, **block)


async def main() -> None:
    inside.AbciStore = DyingStore
    application = DyingLedger(DcapVerifier())
    async with run_abci(home, socket=socket, application=application) as server:
        print(f"ready unix://{socket}", flush=True)
        await server.failed()


asyncio.run(main())
