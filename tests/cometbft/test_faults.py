"""Validators die, are cut off and lie: nothing is lost, nothing is doubled.

Each story ends in the same judgement: all validators have one chain, an execution
of its blocks without any fault gives every app hash in it, and each transfer that
a user made stands in it exactly once.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from network import NAMES, Net, make_twin, story

from sealift.base import Height
from sealift.transport.marks import ProcessMark, runs

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(400)]
SEED = 20261128


@contextlib.asynccontextmanager
async def business(net: Net) -> AsyncIterator[None]:
    """Users pay all the time; at the end their last transfers are waited for."""
    clients = list(net.clients.values())
    pumps = [asyncio.create_task(user.go_on(clients)) for user in net.users]
    try:
        yield
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def finish(net: Net) -> None:
    """What was sent and not seen in a block yet is handed in until it is."""
    async with asyncio.timeout(60):
        for user in net.users:
            last = user.sent[-1]
            if last.height is None:
                user.sent.pop()
                await user.pay(list(net.clients.values()))


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
        await finish(net)
        assert kills >= 8
        restarts = sum(one.restarts for one in net.supervisor.states())
        assert restarts >= kills / 2
        assert any("ended by signal 9" in line for line in net.said)
        assert any("ended with code 3" in line for line in net.said)
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell)


def test_a_partition_stops_the_chain_and_its_healing_loses_nothing(
    tmp_path: Path,
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
            assert max([await net.height(name) for name in NAMES]) <= max(stopped) + 1
            net.mend()
            await net.reach(max(stopped) + 4)
            # 3 | 1: three go on, the fourth stands still and catches up
            net.cut(NAMES[:3], NAMES[3:])
            await asyncio.sleep(1)
            alone = await net.height(NAMES[3])
            await net.reach(alone + 8, *NAMES[:3])
            assert await net.height(NAMES[3]) <= alone + 1
            net.mend()
            await net.reach(alone + 10)
        await finish(net)
        assert [one.restarts for one in net.supervisor.states()] == [0] * 4
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell)


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
        await finish(net)
        (evidence, *_) = found
        assert evidence["type"] == "tendermint/DuplicateVoteEvidence"
        votes = [evidence["value"][name] for name in ("vote_a", "vote_b")]
        assert votes[0]["block_id"] != votes[1]["block_id"]
        assert len({vote["validator_address"] for vote in votes}) == 1
        # a block with evidence in it is as good as any for the relay and the ledger
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell)
