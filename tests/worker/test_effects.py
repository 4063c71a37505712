"""Effects reach L1 whatever comes between, and are forgotten only when done."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
from doubles import (
    CODE,
    SHARD,
    FakeAccount,
    FakeL1,
    LostError,
    effects,
    executed,
)

from sealift.base import Height
from sealift.ledger import CODES
from sealift.protocol import BlockEffects
from sealift.protocol.ecall import EffectsSpoken, SpeakEffects
from sealift.worker import WorkerStore
from sealift.worker import _effects as effects_module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._effects import (
    LONGEST_PAUSE,
    MOST_AT_ONCE,
    POST_EFFECTS,
    SPEAK_EVERY,
    WORD_BLOCKS,
    EffectsCarrier,
)
from sealift.worker._outbox import Included, Outbox

#: Refusals by the names that L1 has for them; the numbers are this test's.
NUMBERS = {
    "EffectsDoneError": 901,
    "EffectsRepeatedError": 902,
    "EffectsMismatchError": 903,
    "EffectsRangeError": 904,
    "EffectsFullError": 905,
    "DisputedEffectsError": 906,
    "VoidedGenerationError": 907,
    "WrongGenerationError": 908,
    "StatementForeignError": 909,
    "StatementSignatureError": 910,
    "EffectsRefutedError": 911,
}


@pytest.fixture(autouse=True)
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {number: name for name, number in NUMBERS.items()}
    monkeypatch.setattr(effects_module, "_NAMES", names)


def test_every_name_is_one_that_l1_has() -> None:
    names = effects_module._DONE | effects_module._SAID | effects_module._NEVER
    assert names <= set(CODES)


def refused(name: str) -> Callable[[object], Included]:
    return lambda _: Included(height=Height(5), code=NUMBERS[name], log=f"no: {name}")


class Desk:
    """A carrier with everything around it; ``crash`` begins it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.l1 = FakeL1()
        self.account = FakeAccount()
        self.spoken: tuple[BlockEffects, ...] = ()
        self.begin()

    async def call(self, request: SpeakEffects, kind: type) -> EffectsSpoken:
        """The enclave's channel, as far as it is asked here."""
        assert kind is EffectsSpoken
        above = [b for b in self.spoken if b.statement.height > request.after]
        return EffectsSpoken(blocks=tuple(above))

    def begin(self) -> None:
        self.store = WorkerStore(self.path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.outbox = Outbox(self.account)
        self.sending = asyncio.create_task(self.outbox.run())
        self.carrier = EffectsCarrier(
            channel=cast("EnclaveChannel", self),
            l1=self.l1,
            store=self.store,
            outbox=self.outbox,
            shard=SHARD,
        )

    async def end(self) -> None:
        self.sending.cancel()
        await asyncio.gather(self.sending, return_exceptions=True)
        self.store.close()

    async def crash(self) -> None:
        await self.end()
        self.begin()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def execute(self, height: int, *, previous: int = 0) -> None:
        self.store.commit_block(executed(height, effects=effects(height, previous)))
        self.carrier.executed()
        await self.settle()

    async def imported(self, times: int = 1) -> None:
        for _ in range(times):
            await self.carrier.imported()
            await self.settle()

    def posted(self) -> list[int]:
        return [args["statement"].height for args in self.account.calls(POST_EFFECTS)]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(scene: Callable[[Desk], Awaitable[None]]) -> None:
        async def whole() -> None:
            desk = Desk(tmp_path)
            try:
                async with asyncio.timeout(10):
                    await scene(desk)
            finally:
                await desk.end()

        asyncio.run(whole())

    return run


def test_what_a_block_does_is_said_at_once_with_statement_and_signature(play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.execute(7)
        (args,) = desk.account.calls(POST_EFFECTS)
        block = effects(7)
        assert args == {
            "statement": block.statement,
            "signature": block.signature,
            "effects": block.effects,
        }

    play(scene)


def test_nothing_is_forgotten_before_l1_has_executed_it(play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.execute(7)
        await desk.imported(3)
        assert desk.store.effects_pending() == 1
        desk.l1.executed_effects = 6
        await desk.imported()
        assert desk.store.effects_pending() == 1
        desk.l1.executed_effects = 7
        await desk.imported()
        assert desk.store.effects_pending() == 0

    play(scene)


def test_killed_before_it_was_sent_it_is_said_by_the_next_run(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.store.commit_block(executed(7, effects=effects(7)))
        await desk.crash()
        await desk.imported()
        assert desk.posted() == [7]

    play(scene)


def test_killed_before_l1s_answer_it_is_said_again_and_l1_sorts_it_out(play) -> None:
    async def scene(desk: Desk) -> None:
        async def never(_: bytes) -> Included:
            return await asyncio.Event().wait()

        wait, desk.account.wait = desk.account.wait, never
        await desk.execute(7)
        desk.account.wait = wait
        await desk.crash()
        desk.account.outcomes[POST_EFFECTS] = refused("EffectsDoneError")
        await desk.imported()
        assert desk.posted() == [7, 7]
        assert desk.store.effects_pending() == 0

    play(scene)


def test_a_word_that_l1_took_is_not_paid_for_again_after_each_restart(play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.execute(7)
        for _ in range(3):
            await desk.crash()
            await desk.imported(5)
        assert desk.posted() == [7]

    play(scene)


@pytest.mark.parametrize("name", ["EffectsDoneError"])
def test_what_l1_has_done_is_over(play, name: str) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[POST_EFFECTS] = refused(name)
        await desk.execute(7)
        assert desk.store.effects_pending() == 0

    play(scene)


@pytest.mark.parametrize(
    "name",
    [
        "EffectsMismatchError",
        "VoidedGenerationError",
        "WrongGenerationError",
        "StatementForeignError",
        "StatementSignatureError",
        "EffectsRefutedError",
    ],
)
def test_what_l1_will_never_take_is_told_and_not_said_again(play, name: str) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[POST_EFFECTS] = refused(name)
        await desk.execute(7)
        assert desk.store.effects_pending() == 0
        assert name in desk.carrier.last_refusal
        assert name in desk.outbox.failures[0]

    play(scene)


@pytest.mark.parametrize(
    "name", ["EffectsRangeError", "EffectsFullError", "DisputedEffectsError"]
)
def test_what_is_too_early_is_said_again_with_growing_pauses(play, name: str) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[POST_EFFECTS] = refused(name)
        await desk.execute(7)
        times = []
        for block in range(1, 40):
            before = len(desk.posted())
            await desk.imported()
            if len(desk.posted()) > before:
                times.append(block)
        assert times == [1, 3, 7, 15, 31]
        del desk.account.outcomes[POST_EFFECTS]
        await desk.imported(LONGEST_PAUSE)
        assert desk.store.effects()[0].said

    play(scene)


def test_a_platforms_word_that_stands_waits_for_the_others(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[POST_EFFECTS] = refused("EffectsRepeatedError")
        await desk.execute(7)
        await desk.imported(WORD_BLOCKS - 1)
        assert desk.posted() == [7]
        assert desk.store.effects_pending() == 1
        await desk.imported()
        assert desk.posted() == [7, 7]

    play(scene)


def test_an_operator_without_funds_says_it_when_he_has_some(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.refuse_sending = LostError("no fee")
        await desk.execute(7)
        await desk.imported(3)
        assert desk.posted() == []
        assert desk.carrier.last_refusal == "no fee"
        desk.account.refuse_sending = None
        await desk.imported(4)
        assert desk.posted() == [7]

    play(scene)


def test_a_node_that_is_away_loses_nothing(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.store.commit_block(executed(7, effects=effects(7)))
        desk.l1.lost = LostError("the node is away")
        await desk.imported(2)
        assert desk.posted() == []
        desk.l1.lost = None
        await desk.imported()
        assert desk.posted() == [7]

    play(scene)


def test_they_are_said_in_the_order_of_their_blocks_and_no_flood_at_once(play) -> None:
    async def scene(desk: Desk) -> None:
        for height in range(1, 41):
            block = executed(height, effects=effects(height, height - 1))
            desk.store.commit_block(block)
        await desk.imported(2)
        assert desk.posted() == list(range(1, MOST_AT_ONCE + 1))
        desk.l1.executed_effects = 10
        await desk.imported(2)
        assert desk.posted() == list(range(1, MOST_AT_ONCE + 11))

    play(scene)


def test_a_block_executed_again_after_a_rescue_has_its_newest_effects(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.store.commit_block(executed(7, effects=effects(7, amount=1)))
        desk.store.commit_block(executed(7, effects=effects(7, amount=2)))
        (one,) = desk.store.effects()
        assert one.effects.effects[0].amount == 2

    play(scene)


def test_what_others_left_unsaid_is_said_from_the_state(play) -> None:
    """An old generation that is gone took its words with it."""

    async def scene(desk: Desk) -> None:
        desk.spoken = (effects(7, 0), effects(9, 7))
        await desk.imported(SPEAK_EVERY + 1)
        assert desk.posted() == [7, 9]
        await desk.crash()
        assert [one.height for one in desk.store.effects()] == [7, 9]
        await desk.imported(SPEAK_EVERY)
        assert desk.posted() == [7, 9]

    play(scene)


def test_what_l1_refused_for_good_is_not_taken_from_the_state_again(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[POST_EFFECTS] = refused("EffectsRefutedError")
        desk.spoken = (effects(7, 0),)
        await desk.imported(4 * SPEAK_EVERY)
        assert desk.posted() == [7]

    play(scene)
