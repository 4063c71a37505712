"""The handover with real processes: late, absent, doubled, rolled back."""

import shutil
from collections.abc import Callable

import pytest
from cast import Cast, play

from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process


def test_inv2_the_new_worker_comes_late_and_executes_all_that_waited_once(
    stage: Stage,
) -> None:
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
        # A restart is part of every upgrade.
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
        assert status["state_height"] == upgrade_at - 1
        for name in ("new", "old"):
            assert await cast.stop(name) == 0
        await cast.judge("old", "new", upgrade_at=upgrade_at, upto=here)

    play(stage, story)


def test_the_new_worker_never_comes_and_the_old_one_goes_on_by_rescue(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth(rescue_after=12)
        await cast.open_load()
        pump = cast.flow(8)
        upgrade_at = await cast.schedule(lead=3)
        await cast.reach(upgrade_at + 6)
        status = await cast.until_status(
            "old", lambda s: s["imported"] > upgrade_at + 3
        )
        assert status["state_height"] == upgrade_at - 1
        await cast.until_confirmed(upgrade_at + 12)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        status = await cast.until_status("old", lambda s: s["ok"])
        assert await cast.stop("old") == 0
        await cast.judge("old", upgrade_at=None, upto=last)

    play(stage, story)


def test_a_second_worker_of_the_same_code_joins_and_outlives_the_first(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(8)
        home = cast.home(
            "second",
            machine="new",
            upstream=cast.parts["old"].url,
            key=stage.keys["new"],
        )
        cast.run_worker("second", home)
        await cast.up("second")
        await cast.until_status("second", lambda s: s["executed"] and s["ok"])
        status = await cast.until_status("old", lambda s: s["ok"])
        assert status["instances_with_keys"] == 2
        await cast.stop("old")
        alone_from = cast.scan.height
        await cast.until_confirmed(alone_from + 5)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        signing_key = (await cast.until_status("second", lambda _: True))["signing_key"]
        late = [c for at, c in cast.scan.confirmations if at > alone_from + 3]
        assert late
        assert {c.signing_key.hex() for c in late} == {signing_key}
        assert await cast.stop("second") == 0
        await cast.judge("old", "second", upgrade_at=None, upto=last)

    play(stage, story)


def test_where_two_platforms_must_agree_the_second_begins_at_genesis(
    make_stage: Callable[..., Stage],
) -> None:
    """Nobody else's word counts for the blocks before it came."""
    stage = make_stage(block_ms=400)

    async def story(cast: Cast) -> None:
        await cast.give_birth(root_quorum=2)
        await cast.open_load()
        pump = cast.flow(8)
        born = await cast.confirmed()
        await cast.until_status("old", lambda s: (s["executed"] or 0) > born + 20)
        assert await cast.confirmed() == born
        home = cast.home(
            "second",
            machine="new",
            upstream=cast.parts["old"].url,
            key=stage.keys["new"],
        )
        cast.run_worker("second", home)
        await cast.up("second")
        await cast.until_confirmed(cast.scan.height)
        assert await cast.stop("second") == 0
        cast.run_worker("second", home)
        await cast.up("second")
        await cast.until_confirmed(cast.scan.height)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("old", "second"):
            assert await cast.stop(name) == 0
        await cast.judge("old", "second", upgrade_at=None, upto=last)
        told = cast.receipts("old", "second").values()
        both = [one for one in told if len(one) == 2]
        assert len(both) > 10
        assert all(one["old"] == one["second"] for one in both)

    play(stage, story)


def test_inv1_disks_rolled_back_change_neither_who_executes_nor_the_roots(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(8)
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")
        upgrade_at = await cast.schedule(lead=60)
        await cast.until_status("new", lambda s: s["state_height"])
        kept = {"old": await roll_out(cast, "old")}
        await cast.until_confirmed(upgrade_at + 2)
        # A key store from before the rotation would lose the only copy of its keys.
        await cast.until_status("new", lambda s: s["key_epoch"] == 1)
        kept["new"] = await roll_out(cast, "new")
        await cast.until_confirmed(cast.scan.height)
        for name in ("old", "new"):
            await cast.stop(name)
            home = stage.worker(name)
            home.rename(home.with_name(home.name + "-later"))
            kept[name].rename(home)
            cast.run_worker(name)
        for name in ("old", "new"):
            await cast.up(name)
        here = cast.scan.height
        await cast.until_confirmed(here)
        pump.cancel()
        await cast.until_confirmed(cast.scan.height)
        status = await cast.until_status("old", lambda s: s["imported"] > here)
        assert status["state_height"] < upgrade_at
        for name in ("old", "new"):
            assert await cast.stop(name) == 0
        later = [stage.worker(name).with_name(f"worker-{name}-later") for name in kept]
        for home in later:
            assert home.is_dir()
        names = ("old", "new", "old-later", "new-later")
        await cast.judge(*names, upgrade_at=upgrade_at, upto=here)

    play(stage, story)


async def roll_out(cast: Cast, name: str):
    """A copy of a worker's disk as it is at this instant, as kill -9 leaves it."""
    cast.kill(name)
    part = cast.parts[name]
    assert part.child is not None
    await part.child.wait()
    home = cast.stage.worker(name)
    copy = home.with_name(home.name + "-earlier")
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("control.sock"))
    await cast.up(name)
    return copy
