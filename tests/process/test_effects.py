"""Effects: two platforms' words move funds on L1 once, whoever dies in between."""

import pytest
from cast import Cast, play

from sealift.cli._demo_stage import Stage
from sealift.crypto import account_of
from sealift.transport.account import free_balance

pytestmark = pytest.mark.process

SHIELDED, UNSHIELDED = 5_000, 1_200


def test_funds_leave_the_shard_once_when_the_second_platform_comes_back(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        home = cast.home(
            "second",
            machine="new",
            upstream=cast.parts["old"].url,
            key=stage.keys["new"],
        )
        cast.run_worker("second", home)
        await cast.up("second")
        await cast.until_status("second", lambda s: s["executed"] and s["ok"])
        payee = account_of(stage.keys["authority"])
        user = cast.load._accounts[50]
        await cast.account("carrier").act(
            "enclave_bridge.shield_funds",
            {"shard": stage.shard, "beneficiary": user, "amount": SHIELDED},
        )
        await cast.until_confirmed(cast.scan.height)
        before = await free_balance(cast.l1, payee)
        await cast.stop("second")
        args = {"beneficiary": payee, "amount": UNSHIELDED}
        assert await cast.load.send(50, "balances.unshield", args)
        await cast.until_status("old", lambda s: s["effects_pending"] == 1)
        await cast.until_confirmed(cast.scan.height + 2)
        assert await free_balance(cast.l1, payee) == before  # one word is too few
        cast.kill("old")  # its supervisor starts it again
        cast.run_worker("second", home)
        await cast.up("second")

        async def paid() -> bool:
            return await free_balance(cast.l1, payee) > before

        await cast.until(paid, "the funds on L1")
        for name in ("second", "old"):
            await cast.until_status(name, lambda s: s["effects_pending"] == 0)
        await cast.until_confirmed(cast.scan.height + 3)
        assert await free_balance(cast.l1, payee) == before + UNSHIELDED

    play(stage, story)
