"""Validators die, are cut off and lie: nothing is lost, nothing is doubled.

Each story ends in the same judgement: all validators have one chain, an execution
of its blocks without any fault gives every app hash in it, and each transfer that
a user made stands in it exactly once.
"""

import asyncio
import json
import os
import random
import signal
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cables import Cables, Proxies
from namespaces import Namespaces, why_not
from network import NAMES, Net, business, finish, make_twin, story

from sealift.base import Height
from sealift.node.cometbft import rpc_url
from sealift.transport.marks import ProcessMark, runs

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(400)]
SEED = 20261128


def engine_of(net: Net, name: str) -> int:
    """The CometBFT of a validator."""
    raw = net.homes[name].process.read_bytes()
    mark = msgspec.json.decode(raw, type=ProcessMark)
    return mark.pid if runs(mark) else 0


def test_kill_9_of_validators_and_their_ledgers_under_load(tmp_path: Path) -> None:
    """Seeded: whom, which half of it, and when; at times two at once."""
    chance = random.Random(SEED)

    async def tell(net: Net) -> None:
        await net.reach(2)
        kills = 0
        async with business(net):
            for _ in range(8):
                victims = chance.sample(NAMES, chance.choice((1, 1, 2)))
                for name in victims:
                    half = chance.choice(("ledger", "engine"))
                    pid = net.pid(name) if half == "ledger" else engine_of(net, name)
                    if pid:
                        kills += 1
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(chance.uniform(0.3, 2.5))
            top = max([await net.height(name) for name in NAMES])
            await net.reach(top + 3)
            await net.paid(21)
        await finish(net)
        assert kills >= 8
        restarts = sum(one.restarts for one in net.supervisor.states())
        assert restarts >= kills / 2
        assert any("ended by signal 9" in line for line in net.said)
        assert any("ended with code 3" in line for line in net.said)
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell)


NO_NAMESPACES = why_not()
#: Where there are no namespaces, the name of what runs says why.
KINDS = (
    [pytest.param(Proxies, id=f"proxies as namespaces cannot be: {NO_NAMESPACES}")]
    if NO_NAMESPACES
    else [
        pytest.param(Namespaces, id="namespaces"),
        pytest.param(Proxies, id="proxies"),
    ]
)


async def peers_of(net: Net, name: str) -> int:
    """Connections to peers that a validator believes to have."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{rpc_url(net.homes[name])}/net_info") as answer,
    ):
        return int((await answer.json())["result"]["n_peers"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_partition_stops_the_chain_and_its_healing_loses_nothing(
    tmp_path: Path, kind: type[Cables]
) -> None:
    async def tell(net: Net) -> None:
        await net.reach(3)
        async with business(net):
            await net.reach(6)
            # 2 | 2: neither side has more than two thirds
            net.cut(NAMES[:2], NAMES[2:])
            await asyncio.sleep(1)
            stopped = [await net.height(name) for name in NAMES]
            await asyncio.sleep(4)
            assert min(stopped) > 0  # RPC answers all the time
            assert max([await net.height(name) for name in NAMES]) <= max(stopped) + 1
            # a proxy closes; in a namespace nothing comes, and nobody is told
            peers = [await peers_of(net, name) for name in NAMES]
            assert peers == [3 if net.cables.silent else 1] * 4
            net.mend()
            await net.reach(max(stopped) + 4)
            # 3 | 1: three go on, the fourth stands still and catches up
            net.cut(NAMES[:3], NAMES[3:])
            await asyncio.sleep(1)
            alone = await net.height(NAMES[3])
            await net.reach(alone + 8, *NAMES[:3])
            assert 0 < await net.height(NAMES[3]) <= alone + 1
            net.mend()
            await net.reach(alone + 10)
            await net.paid(21)
        await finish(net)
        assert [one.restarts for one in net.supervisor.states()] == [0] * 4
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell, kind)


def test_a_validator_that_equivocates_is_put_on_record_and_stops_nobody(
    tmp_path: Path,
) -> None:
    """Its key signs in two processes: two votes of one round for two blocks."""

    async def tell(net: Net) -> None:
        await net.reach(3)
        twin = make_twin(net, tmp_path, of=NAMES[3])
        net.homes["twin"] = twin
        async with business(net):
            await net.start("twin")
            height, found = 1, []
            async with asyncio.timeout(150):
                while not found:
                    await net.reach(height, NAMES[0])
                    block = (await net.clients[NAMES[0]].block(Height(height))).block
                    found = [json.loads(one) for one in block.evidence]
                    height += 1
            await net.supervisor.stop("twin")
            await net.reach(height + 3)
            await net.paid(21)
        await finish(net)
        (evidence, *_) = found
        assert evidence["type"] == "tendermint/DuplicateVoteEvidence"
        votes = [evidence["value"][name] for name in ("vote_a", "vote_b")]
        assert votes[0]["block_id"] != votes[1]["block_id"]
        assert len({vote["validator_address"] for vote in votes}) == 1
        # a block with evidence in it is as good as any for the relay and the ledger
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell)
