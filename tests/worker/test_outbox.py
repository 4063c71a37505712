"""Acts on L1: in order, each one's end is heard, a failure stops no other."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from doubles import FakeAccount, LostError

from sealift.base import Height, SealiftError
from sealift.worker._outbox import Act, Included, Outbox


def play(scene: Callable[[Outbox, FakeAccount], Awaitable[None]]) -> None:
    async def whole() -> None:
        account = FakeAccount()
        outbox = Outbox(account)
        task = asyncio.create_task(outbox.run())
        try:
            async with asyncio.timeout(5):
                await scene(outbox, account)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(whole())


def test_acts_are_sent_in_the_order_in_which_they_were_put() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        heard: list[object] = []

        async def hear(outcome: Included | SealiftError) -> None:
            heard.append(outcome)

        for number in range(5):
            outbox.put(Act(call="a.b", args={"n": number}, heard=hear))
        await outbox.act("a.last", {})
        assert [args for _, args in account.sent] == [*({"n": n} for n in range(5)), {}]
        assert len(heard) == 5

    play(scene)


def test_waiting_for_one_does_not_hold_up_the_next() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        wait = account.wait
        gate = asyncio.Event()

        async def slow(tx_hash: bytes) -> Included:
            if not tx_hash[-1]:
                await gate.wait()
            return await wait(tx_hash)

        account.wait = slow
        first = asyncio.create_task(outbox.act("a.slow", {}))
        await asyncio.sleep(0)
        await outbox.act("a.fast", {})
        assert not first.done()
        gate.set()
        assert (await first).code == 0

    play(scene)


def test_an_act_that_is_not_admitted_is_told_and_the_next_is_sent() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        account.refuse_sending = LostError("no room")
        with pytest.raises(LostError):
            await outbox.act("a.b", {})
        account.refuse_sending = None
        assert (await outbox.act("a.c", {})).code == 0
        assert outbox.failures == ["a.b: no room"]

    play(scene)


def test_an_act_that_fails_in_its_block_is_noted_by_l1s_own_words() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        account.outcomes["a.b"] = lambda _: Included(
            height=Height(3), code=7, log="too late"
        )
        assert (await outbox.act("a.b", {})).code == 7
        assert outbox.failures == ["a.b: too late"]

    play(scene)


def test_an_act_that_gets_into_no_block_is_told() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        async def lost(_: bytes) -> Included:
            raise LostError("in no block")

        account.wait = lost
        with pytest.raises(LostError):
            await outbox.act("a.b", {})

    play(scene)


def test_only_what_l1_took_and_somebody_waits_for_counts_as_paid() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        async def hear(_: Included | SealiftError) -> None:
            return

        account.refuse_sending = LostError("no room")
        with pytest.raises(LostError):
            await outbox.act("a.b", {})
        assert outbox.paid == 0
        account.refuse_sending = None
        outbox.put(Act(call="a.routine", args={}, heard=hear))
        account.outcomes["a.b"] = lambda _: Included(
            height=Height(3), code=7, log="refused in its block, and paid"
        )
        await outbox.act("a.b", {})
        assert outbox.paid == 1

    play(scene)


def test_whoever_asked_and_went_away_disturbs_nobody() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        asked = asyncio.create_task(outbox.act("a.b", {}))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert (await outbox.act("a.c", {})).code == 0

    play(scene)


def test_only_the_last_failures_are_kept() -> None:
    async def scene(outbox: Outbox, account: FakeAccount) -> None:
        account.outcomes["a.b"] = lambda args: Included(
            height=Height(3), code=1, log=str(args["n"])
        )
        for number in range(30):
            await outbox.act("a.b", {"n": number})
        assert len(outbox.failures) == 20
        assert outbox.failures[-1] == "a.b: 29"

    play(scene)
