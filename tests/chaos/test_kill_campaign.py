"""kill -9 over a handover, at random instants; then nothing is lost (DESIGN §14.7).

A run is told by its seed: who is killed, and at which block and which part of
it. One run again: ``pytest tests/chaos --campaign-runs 1 --campaign-seed SEED``.
"""

import asyncio
import random
from dataclasses import dataclass

import pytest
from cast import BLOCK_MS, Cast, on_stage

from sealift.cli._demo_stage import Stage

pytestmark = [pytest.mark.campaign, pytest.mark.process]

#: Blocks from the first planned one to XYZ, and on to the last planned kill.
LEAD = 30
NOTICE = 8
AFTER = 10
RATE = 8.0
VICTIMS = ("L1 node", "old worker", "new worker", "old enclave", "new enclave")


@dataclass(frozen=True)
class Kill:
    """Who, and how many blocks (with a fraction) after the schedule."""

    victim: str
    after: float


def plan(seed: int) -> list[Kill]:
    """One to three kills; every fifth run begins with each of the victims."""
    chance = random.Random(seed)
    victims = [VICTIMS[seed % len(VICTIMS)]]
    victims += chance.choices(VICTIMS, k=chance.randrange(3))
    span = NOTICE + LEAD + AFTER
    kills = [Kill(victim, round(chance.uniform(0, span), 2)) for victim in victims]
    return sorted(kills, key=lambda kill: kill.after)


def test_inv7_kill_9_at_any_instant_of_a_handover_loses_nothing(
    seed: int, stage: Stage
) -> None:
    kills = plan(seed)
    print(f"seed {seed}: {kills}")
    asyncio.run(campaign(stage, kills))


async def campaign(stage: Stage, kills: list[Kill]) -> None:
    async with on_stage(stage) as cast:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(RATE)
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        upgrade_at = await cast.schedule(lead=LEAD, notice=NOTICE)
        begin = upgrade_at - LEAD - NOTICE
        for kill in kills:
            await instant(cast, begin + kill.after)
            print(f"block {cast.scan.height} (XYZ {upgrade_at}): {kill.victim}")
            strike(cast, kill.victim)
        await cast.reach(upgrade_at + AFTER)
        for name in ("chain", "old", "new"):
            await cast.up(name)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last, within=90)
        ended = {name: list(cast.parts[name].ended) for name in ("old", "new")}
        for name in ("new", "old"):
            assert await cast.stop(name) == 0
        await cast.judge("old", "new", upgrade_at=upgrade_at, upto=last)
        told_why_they_ended(ended)


async def instant(cast: Cast, when: float) -> None:
    """A fraction of a block after that block was seen."""
    await cast.reach(int(when))
    await asyncio.sleep(when % 1 * BLOCK_MS / 1000)


def strike(cast: Cast, victim: str) -> None:
    whose, what = victim.split()
    if whose == "L1":
        cast.kill("chain")
    elif what == "worker":
        cast.kill(whose)
    else:
        cast.kill_enclave(whose)


def told_why_they_ended(ended: dict[str, list]) -> None:
    """A worker whose enclave was killed says so in one line, and is no bug."""
    for name, ends in ended.items():
        for end in ends:
            assert end.code in (-9, 3), f"{name} ended by {end.code}:\n{end.output}"
            if end.code == 3:
                last = end.output.strip().splitlines()[-1]
                assert "the enclave process has ended" in last, last
                assert "signal 9" in last, last
