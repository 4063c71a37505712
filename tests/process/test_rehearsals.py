"""Real workers rehearse and post; without a word the upgrade waits."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cast import MIN_NOTICE, Cast, play

from sealift.base import Height
from sealift.cli._demo_stage import Stage
from sealift.ledger import ledger_call
from sealift.protocol import RehearsalsOrder, sign_order

pytestmark = pytest.mark.process

THIRD = 3
BY = 60


async def l1_of_version_3(cast: Cast) -> None:
    """L1's root plans the version, and it acts."""
    at = Height(cast.scan.height + 12)
    inner = ledger_call("system.set_code", version=THIRD, height=at)
    await cast.account("authority").act("sudo.sudo", {"call": inner})
    await cast.reach(at + 1)


async def ask_for_one(cast: Cast) -> None:
    """The authority asks for one good rehearsal, from as early as it may."""
    schedule = await cast.schedule_now()
    at = Height(cast.scan.height + MIN_NOTICE + 12)
    order = RehearsalsOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        required=1,
        postpone_by=BY,
        effective_at=at,
        expiry=at,
    )
    signed = sign_order(order, cast.stage.keys["authority"])
    await cast.account("authority").act(
        "enclave_bridge.submit_order", {"order": signed}
    )
    await cast.reach(at)


def rehearsed(status: dict[str, Any]) -> bool:
    posted = status["rehearsal"] == "good" and status["rehearsal_on_l1"]
    return bool(posted and status["rehearsals_good"])


def test_an_upgrade_waits_for_its_rehearsal_and_runs_after_it(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(block_ms=400)

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(6)
        await l1_of_version_3(cast)
        await ask_for_one(cast)
        first = await cast.schedule(lead=12)
        await cast.reach(first + 2)
        entry = (await cast.schedule_now()).entry(1)
        assert entry.upgrade_at == first + BY, "nobody has rehearsed"
        before = await cast.until_status("old", lambda s: (s["executed"] or 0) > first)
        assert before["rehearsals_required"] == 1
        assert before["rehearsals_good"] == 0
        assert before["ok"], before["reasons"]

        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")
        said = await cast.until_status("new", rehearsed)
        assert said["rehearsal_check"] == ""
        assert said["rehearsal_ms"] & (said["rehearsal_ms"] - 1) == 0
        assert said["rehearsals_good"] == 1
        (line,) = said["rehearsals"]
        assert ": good, copy of block" in line
        assert json.dumps(said)

        xyz = (await cast.schedule_now()).entry(1).upgrade_at
        assert (xyz - first) % BY == 0
        await cast.reach(xyz + 3)
        assert (await cast.schedule_now()).entry(1).upgrade_at == xyz
        await cast.until_confirmed(xyz + 2)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("old", "new"):
            assert await cast.stop(name) == 0
        await cast.judge("old", "new", upgrade_at=xyz, upto=last)

    play(stage, story)
