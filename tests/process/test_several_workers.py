"""Three workers of one shard: in time, late, and dead for a while."""

import shutil
from collections.abc import Callable

import pytest
from cast import Cast, play
from test_hot_swap import answer, roles, rows_of, staged

from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process

BLOCK_MS = 500


def test_inv1_inv2_three_workers_are_upgraded_each_at_its_own_time(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(block_ms=BLOCK_MS)
    code = stage.new.fingerprint.hex()

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(6)
        first = cast.parts["old"].url
        for name, machine in (("late", "new"), ("dead", "old-2")):
            home = cast.home(
                name, machine=machine, upstream=first, key=stage.keys[machine]
            )
            cast.run_worker(name, home)
        for name in ("late", "dead"):
            await cast.up(name)
            await cast.until_status(name, lambda s: s["executed"])
        upgrade_at = await cast.schedule(lead=70)
        await staged(cast, "old")  # in time
        await cast.stop("dead")  # before XYZ
        await cast.until_confirmed(upgrade_at + 3)
        # The new generation has keys that the late one's old enclave never gets.
        await cast.until_status("old", lambda s: s["key_epoch"] == 1)
        status = await cast.until_status("late", lambda s: s["imported"] > upgrade_at)
        assert status["state_height"] == upgrade_at - 1
        said = await staged(cast, "late")  # from the one that is upgraded
        assert said[-1]["state"] == "running"
        await cast.until_status(
            "late",
            lambda s: (
                roles(s)[code] == "current"
                and s["key_epoch"] == 1
                and s["key_epoch_held"]
                and (s["executed"] or 0) > upgrade_at
            ),
        )
        assert await cast.stop("old") == 0
        alone_from = cast.scan.height
        await cast.until_confirmed(alone_from + 2)
        # Of the codes in its home the one that runs now catches up; the home's own
        # would stand before XYZ for ever.
        words = ("worker", "join", str(stage.worker("old")))
        said = await answer(cast, *words, "--from", cast.parts["late"].url)
        assert said["step"] == "done"
        assert said["state_height"] >= alone_from
        # Back after all: its bundle is in its folder, it needs no word.
        folder = stage.worker("dead") / "bundles"
        shutil.copy(stage.new.path, folder / "next.bundle")
        cast.run_worker("dead")
        await cast.up("dead")
        await cast.until_status(
            "dead",
            lambda s: (
                roles(s).get(code) == "current"
                and s["key_epoch_held"]
                and (s["executed"] or 0) > alone_from
            ),
        )
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("late", "dead"):
            status = await cast.until_status(
                name, lambda s: (s["state_height"] or 0) >= last
            )
            assert rows_of(status)[code]["state_height"] >= last
            assert not cast.parts[name].ended
            assert await cast.stop(name) == 0
        swapped = [
            cast.swapped("old"),
            cast.swapped("late", machine="new"),
            cast.swapped("dead", machine="old-2"),
        ]
        await cast.judge(
            "old", "late", "dead", *swapped, upgrade_at=upgrade_at, upto=last
        )

    play(stage, story)
