"""A newcomer by a skip, as processes: hundreds of blocks, and a second worker."""

from collections.abc import Callable

import pytest
from cast import Cast, play

from sealift.cli._demo_stage import Stage
from sealift.worker._skip import LONG_GAP

pytestmark = pytest.mark.process


def test_a_second_worker_skips_what_is_settled_and_runs_like_the_first(
    make_stage: Callable[..., Stage],
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.reach(LONG_GAP + 60)
        await cast.until_confirmed(LONG_GAP + 30)
        home = cast.home("twin", machine="new", upstream=cast.parts["old"].url)
        cast.run_worker("twin", home)
        await cast.up("twin")
        status = await cast.until_status("twin", lambda s: s["skipped_to"] is not None)
        assert status["skipped_to"] >= LONG_GAP
        # keys, state, and then the same roots
        await cast.until_status("twin", lambda s: s["executed"] is not None)
        pump = None
        await cast.open_load()
        pump = cast.flow(4)
        here = cast.scan.height
        await cast.until_confirmed(here + 5)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("old", "twin"):
            await cast.until_status(name, lambda s: (s["state_height"] or 0) >= last)
        assert await cast.stop("old") == 0
        await cast.until_status("twin", lambda s: s["ok"] or s["reasons"])
        # a restart has no gap to skip: it goes on from its checkpoint
        assert await cast.stop("twin") == 0
        cast.run_worker("twin", home)
        await cast.up("twin")
        status = await cast.until_status("twin", lambda s: s["executed"] is not None)
        assert status["skipped_to"] is None

    play(make_stage(block_ms=80), story)  # slow enough to be caught up with
