"""Keys are rotated by the workers themselves, with real enclaves between them."""

import pytest
from cast import Cast, play

from sealift.base import Height
from sealift.cli._demo_stage import CHAIN_ID, Stage
from sealift.protocol import RotationRequest, ShardStatus, StatusOrder, sign_order

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


def test_two_instances_rotate_by_order_after_both_attested_anew(stage: Stage) -> None:
    """A vulnerability day: only who attests from now on gets the new keys."""

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(4)
        home = cast.home(
            "second",
            machine="new",
            upstream=cast.parts["old"].url,
            key=stage.keys["new"],
        )
        cast.run_worker("second", home)
        await cast.up("second")
        await cast.until_status("second", lambda s: s["executed"] and s["ok"])
        schedule = await cast.schedule_now()
        floor = Height(cast.scan.height)
        order = StatusOrder(
            chain_id=CHAIN_ID,
            shard=stage.shard,
            serial=schedule.serial,
            status=ShardStatus(not_before=floor),
            expiry=Height(floor + 20),
            rotate=RotationRequest(not_before=floor, grace=500),
        )
        signed = sign_order(order, stage.keys["authority"])
        await cast.account("authority").act(
            "enclave_bridge.submit_order", {"order": signed}
        )
        for name in ("old", "second"):
            await cast.until_status(name, rotated)
        await cast.until_confirmed(cast.scan.height + 3)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("old", "second"):
            status = await cast.until_status(name, rotated)
            assert status["warnings"] == []
            assert await cast.stop(name) == 0
        told = cast.receipts("old", "second").values()
        both = [one for one in told if len(one) == 2]
        assert both
        assert all(one["old"] == one["second"] for one in both)

    play(stage, story)
