"""The handover with real processes: late, absent, doubled, restarted."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from cast import Cast, on_stage

from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process


def test_the_new_worker_comes_late_and_executes_what_waited(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(8)
        upgrade_at = await cast.schedule(lead=3)
        await cast.reach(upgrade_at + 8)
        assert await cast.confirmed() < upgrade_at
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")
        await cast.until_confirmed(upgrade_at + 8)
        await both_restarted(cast, pump, upgrade_at)

    play(stage, story)


async def both_restarted(cast: Cast, pump: "asyncio.Task[None]", xyz: int) -> None:
    for name in ("new", "old"):
        assert await cast.stop(name) == 0
    for name in ("new", "old"):
        cast.run_worker(name)
    for name in ("new", "old"):
        await cast.up(name)
    here = cast.scan.height
    await cast.until_confirmed(here)
    pump.cancel()
    await cast.until_confirmed(cast.scan.height)
    status = await cast.until_status("old", lambda s: s["imported"] > here)
    assert status["state_height"] == xyz - 1
    for name in ("new", "old"):
        assert await cast.stop(name) == 0
    await cast.judge("old", "new", upgrade_at=xyz, upto=here)


def play(stage: Stage, story: Callable[[Cast], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with on_stage(stage) as cast:
            await story(cast)

    asyncio.run(whole())
