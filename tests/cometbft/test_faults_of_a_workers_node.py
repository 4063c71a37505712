"""A worker behind a node that lags, stops, hangs or lies, on four validators.

It never takes a lie for a block, says what it waits for, and goes on by itself as
soon as the node is itself again; at the end an execution of the chain without any
fault has the same roots, and each call its one receipt at the same place.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from crooked_node import (
    CrookedNode,
    Mood,
    forged_app_hash,
    forged_results,
    hidden_txs,
    honest,
    stopped_at,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "process"))

from cast import SEALIFT, Cast

from sealift.cli._chaos_parts import Part
from sealift.cli._demo_engine import validator_names
from sealift.cli._demo_load import ChainScan
from sealift.cli._demo_stage import DemoOptions, Stage, set_stage
from sealift.crypto import system_entropy
from sealift.node.cometbft import free_ports
from sealift.transport.clock import WallClock
from sealift.transport.rpc import Backoff, L1Client, system_jitter

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(500)]
VALIDATORS = 4


@contextlib.asynccontextmanager
async def on_network(stage: Stage) -> AsyncIterator[tuple[Cast, CrookedNode]]:
    """The validators run; the worker follows the last one through a proxy."""
    cast = Cast(stage)
    try:
        for name in validator_names(VALIDATORS):
            cast.spawn(name, "node", "cometbft", str(stage.chain / name))
        urls = [await cast.up(name) for name in validator_names(VALIDATORS)]
        crooked = CrookedNode(urls[-1], free_ports(1, entropy=system_entropy)[0])
        await crooked.open()
        # where homes of workers are told that L1 is
        cast.parts["chain"] = Part(words=(), log=stage.folder / "x", argv=SEALIFT)
        cast.parts["chain"].url = crooked.url
        async with (
            L1Client(urls[0], backoff=Backoff(jitter=system_jitter)) as l1,
            aiohttp.ClientSession() as http,
        ):
            cast.l1, cast.http = l1, http
            cast.scan = ChainScan(l1)
            reading = asyncio.create_task(cast.follow_chain())
            try:
                yield cast, crooked
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                await cast.close()
                await crooked.close()
    finally:
        await cast.close()


LIES: dict[str, Mood] = {
    "app hash": forged_app_hash,
    "results": forged_results,
    "transactions": hidden_txs,
}


def test_a_node_that_lags_stops_hangs_and_lies(
    tmp_path: Path, comet_binary: Path
) -> None:
    assert comet_binary
    options = DemoOptions(accounts=60, rate=4, block_ms=400, validators=VALIDATORS)
    stage = set_stage(tmp_path / "stage", options, WallClock())

    async def tell() -> None:
        async with on_network(stage) as (cast, node):
            await cast.reach(2)
            await cast.give_birth()
            await cast.open_load()
            pump = cast.flow(4)
            await cast.reach(cast.scan.height + 3)

            # it stops at a height, or is so far behind: nobody can tell from here
            top = cast.scan.height
            node.mood = stopped_at(top)
            await cast.reach(top + 6)
            status = await cast.until_status("old", lambda s: s["l1_head"] >= top - 1)
            assert status["l1_head"] <= top
            assert status["imported"] < top
            assert status["waiting_for"] == f"block {status['imported'] + 1}"
            node.mood = honest
            await cast.until_status("old", lambda s: s["imported"] > top + 3)

            # it lies: each lie is refused by name, none is executed
            for name, lie in LIES.items():
                node.mood = lie
                status = await cast.until_status(
                    "old", lambda s: "accepts" in s["waiting_for"]
                )
                assert status["ok"] is False, name
                refused = status["imported"] + 1
                assert f"block {refused} that the enclave accepts" in " ".join(
                    status["reasons"]
                )
                assert status["last_refusal"], name
                node.mood = honest
                await cast.until_status(
                    "old",
                    lambda s, refused=refused: (  # type: ignore[misc]
                        s["ok"] and s["imported"] > refused
                    ),
                )

            # it hangs, and meanwhile the worker is killed
            node.silent = True
            cast.kill("old")
            await asyncio.sleep(3)
            node.silent = False
            here = cast.scan.height
            await cast.until_confirmed(here + 2, within=120)
            pump.cancel()
            last = cast.scan.height
            await cast.until_confirmed(last, within=120)
            assert await cast.stop("old") == 0
            await cast.judge("old", upgrade_at=None, upto=last)

    asyncio.run(tell())
