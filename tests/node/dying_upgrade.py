"""The embedded node, which kills itself in the block that upgrades the L1 runtime.

Usage: dying_upgrade.py INSTANT HOME
INSTANT: ``migrating``, ``executed`` (nothing is durable yet), ``durable``.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sealift.frame import Context
from sealift.ledger import FIRST_RUNTIME, DcapVerifier
from sealift.ledger.v2._teerex import ForgettingTeerex
from sealift.node import ExecutedBlock, LedgerApplication, run_solo
from sealift.transport.clock import WallClock

INSTANT, HOME = sys.argv[1], Path(sys.argv[2])


def die_if(instant: str) -> None:
    if instant == INSTANT:
        os.kill(os.getpid(), signal.SIGKILL)


class Dying(LedgerApplication):
    due = False

    def finalize_block(self, **block: Any) -> ExecutedBlock:
        plan = self.ledger.plan
        self.due = plan is not None and plan.height == block["height"]
        outcome = super().finalize_block(**block)
        if self.due:
            die_if("executed")
        return outcome

    def commit(self) -> None:
        if self.due:
            die_if("durable")
        super().commit()


def migrate(self: ForgettingTeerex, ctx: Context, from_version: int) -> None:
    assert from_version == FIRST_RUNTIME
    true_migration(self, ctx, from_version)
    die_if("migrating")


true_migration = ForgettingTeerex.on_runtime_upgrade
ForgettingTeerex.on_runtime_upgrade = migrate  # type: ignore[method-assign]


async def main() -> None:
    application = Dying(DcapVerifier())
    async with run_solo(HOME, application=application, clock=WallClock()) as node:
        while True:
            await node.produce()


asyncio.run(main())
