"""Keys are rotated by the workers themselves, with real enclaves between them."""

import pytest
from cast import Cast, play

from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process


def rotated(status: dict) -> bool:
    return status["key_epoch"] == 1 and status["key_epoch_held"] and status["ok"]


def test_after_an_upgrade_the_new_generation_has_keys_that_the_old_never_had(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(4)
        upgrade_at = await cast.schedule(lead=8)
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")
        await cast.until_confirmed(upgrade_at + 2)
        status = await cast.until_status("new", rotated)
        assert status["executed"] >= upgrade_at
        # calls flow on under the epoch before, within its grace
        await cast.until_confirmed(cast.scan.height + 3)
        pump.cancel()
        old = await cast.until_status("old", lambda s: s["key_epoch"] == 1)
        assert old["ok"]  # its code has no turn: it need not hold the epoch
        acts = [call for _, call in cast.scan.acts]
        assert acts.count("enclave_bridge.stage_keys") == 1
        assert await cast.stop("new") == 0
        cast.run_worker("new")
        await cast.up("new")
        await cast.until_status("new", rotated)

    play(stage, story)
