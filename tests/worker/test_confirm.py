"""Confirmations: in order, once, and again from the frontier when refused."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from doubles import (
    CODE,
    ME,
    SHARD,
    FakeAccount,
    FakeEnclave,
    FakeL1,
    LostError,
    confirmed,
    executed,
    order,
    refusal,
    vote,
)

from sealift.base import AccountId, Height
from sealift.ledger import SignedConfirmation
from sealift.ledger._roots import add_vote
from sealift.protocol.ecall import Confirm
from sealift.worker import WorkerStore
from sealift.worker._channel import EnclaveChannel
from sealift.worker._confirm import (
    CERTIFICATE_TRIES,
    CONFIRM_EVERY,
    PATIENCE_BLOCKS,
    Confirmer,
)
from sealift.worker._outbox import Included, Outbox

CONFIRM = "enclave_bridge.confirm"
CERTIFICATE = "enclave_bridge.post_certificate"
ORDER = "enclave_bridge.submit_order"


class Desk:
    """A confirmer with everything around it."""

    def __init__(
        self,
        path: Path,
        *,
        frontier: int | None = 0,
        l1: FakeL1 | None = None,
        me: AccountId = ME,
    ) -> None:
        self.l1 = l1 or FakeL1(confirmed=frontier)
        self.me = me
        self.account = FakeAccount()
        self.enclave = FakeEnclave(Confirm=self.sign)
        self.refuse_below = 0
        self.refuse_to: set[int] = set()
        self.ends = False
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.outbox = Outbox(self.account)
        self.confirmer = Confirmer(
            channel=EnclaveChannel(self.enclave),
            l1=self.l1,
            store=self.store,
            outbox=self.outbox,
            shard=SHARD,
            me=me,
        )

    def sign(self, request: Confirm):
        if request.after < self.refuse_below or request.durable in self.refuse_to:
            return refusal("ConfirmRangeError")
        reply = confirmed(request.after + 1, request.durable, certificate=self.ends)
        if reply.confirmation is None:
            return reply
        mine = msgspec.structs.replace(reply.confirmation, signing_key=self.me)
        return msgspec.structs.replace(reply, confirmation=mine)

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def execute(self, height: int, **changes: object) -> None:
        block = executed(height, **{"calls": 1, **changes})
        self.store.commit_block(block)
        await self.confirmer.executed(block)
        await self.settle()

    async def imported(self, times: int = 1) -> None:
        for _ in range(times):
            await self.confirmer.imported()
            await self.settle()

    def ranges(self) -> list[tuple[int, int]]:
        return [
            (a["confirmation"].first, a["confirmation"].last)
            for a in self.account.calls(CONFIRM)
        ]


Scene = Callable[[Desk], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(scene: Scene, **options: int | None) -> None:
        async def whole() -> None:
            desk = Desk(tmp_path, **options)
            outbox = asyncio.create_task(desk.outbox.run())
            try:
                await scene(desk)
            finally:
                outbox.cancel()
                await asyncio.gather(outbox, return_exceptions=True)
                desk.store.close()

        asyncio.run(whole())

    return run


def refused(_: object) -> Included:
    return Included(
        height=Height(5), code=1, log="range does not begin at the frontier"
    )


def test_blocks_with_calls_are_confirmed_at_once_and_pipelined(play) -> None:
    async def scene(desk: Desk) -> None:
        for height in (1, 2, 3):
            await desk.execute(height)
        assert desk.ranges() == [(1, 1), (2, 2), (3, 3)]

    play(scene)


def test_blocks_without_calls_wait_for_the_next_or_the_sixteenth(play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.execute(1)
        for height in range(2, 2 + CONFIRM_EVERY):
            await desk.execute(height, calls=0)
        assert desk.ranges() == [(1, 1), (2, 1 + CONFIRM_EVERY)]

    play(scene)


def test_a_refused_confirmation_begins_again_at_the_frontier_once(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[CONFIRM] = refused
        desk.l1.frontier = 1
        gate, wait = asyncio.Event(), desk.account.wait

        async def late(tx_hash: bytes) -> Included:
            await gate.wait()
            return await wait(tx_hash)

        desk.account.wait = late
        for height in (2, 3, 4):  # all three are refused, for one reason
            await desk.execute(height)
        gate.set()
        await desk.settle()
        del desk.account.outcomes[CONFIRM]
        await desk.imported()
        assert desk.ranges() == [(2, 2), (3, 3), (4, 4), (2, 4)]
        await desk.imported(5)
        assert len(desk.ranges()) == 4

    play(scene)


def test_a_confirmation_that_l1_refuses_for_ever_is_not_said_at_every_block(
    play,
) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[CONFIRM] = refused
        await desk.execute(1)
        await desk.imported(64)
        assert 5 <= len(desk.ranges()) <= 10

    play(scene)


def test_what_the_enclave_refuses_from_the_last_is_asked_from_the_frontier(
    play,
) -> None:
    async def scene(desk: Desk) -> None:
        await desk.execute(1)
        desk.refuse_below = 5  # somebody else has confirmed up to 5
        desk.l1.frontier = 5
        await desk.execute(6)
        assert desk.ranges() == [(1, 1), (6, 6)]
        assert "ConfirmRangeError" in desk.confirmer.last_refusal

    play(scene)


def test_a_follower_that_begins_to_execute_forgets_what_it_saw_confirmed(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.confirmer.restored(Height(8))  # another's blocks
        desk.l1.frontier = 8
        await desk.imported()
        assert desk.confirmer.signed == 8
        desk.l1.frontier = desk.refuse_below = 20
        await desk.execute(21)
        assert desk.ranges() == [(21, 21)]

    play(scene)


def test_a_new_generation_signs_before_the_old_ones_last_word_is_on_l1(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.frontier = 7
        desk.refuse_below = 9  # blocks 8 and 9 were executed by the old one
        await desk.execute(10)
        assert desk.ranges() == [(10, 10)]

    play(scene)


def test_a_shard_that_nobody_confirmed_yet_begins_before_its_first_block(play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.execute(4)
        assert desk.ranges() == [(4, 4)]

    play(scene, frontier=None)


def test_what_a_restart_owes_is_confirmed_with_its_certificate(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.ends = True
        desk.l1.frontier = 6
        desk.confirmer.restored(Height(9))
        await desk.imported(3)
        assert desk.ranges() == [(7, 9)]
        assert len(desk.account.calls(CERTIFICATE)) == 1

    play(scene)


def test_a_certificate_is_owed_no_more_once_others_have_gone_on(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.frontier = desk.refuse_below = 30
        desk.confirmer.restored(Height(9))
        await desk.imported(10)
        assert desk.enclave.count(Confirm) == 0
        assert not desk.account.sent

    play(scene)


def test_a_refused_certificate_is_said_again_but_not_for_ever(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.ends = True
        desk.account.outcomes[CERTIFICATE] = refused
        await desk.execute(1, last_of_generation=True)
        desk.l1.frontier = 1
        await desk.imported(20)
        assert len(desk.account.calls(CERTIFICATE)) == CERTIFICATE_TRIES
        assert desk.ranges() == [(1, 1)]

    play(scene)


def test_an_l1_that_is_away_is_waited_for(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.lost = LostError("the node is away")
        await desk.execute(1, calls=0)
        assert desk.confirmer.last_refusal == "the node is away"
        desk.l1.lost = None
        await desk.imported(2)
        assert desk.ranges() == [(1, 1)]

    play(scene)


def test_a_confirmation_that_was_lost_with_a_mempool_is_said_again(play) -> None:
    async def scene(desk: Desk) -> None:
        async def never(_: bytes) -> Included:
            await asyncio.Event().wait()
            raise AssertionError

        heard, desk.account.wait = desk.account.wait, never
        await desk.execute(1)
        desk.account.wait = heard
        await desk.imported(PATIENCE_BLOCKS)
        assert desk.ranges() == [(1, 1)]
        await desk.imported(2)
        assert desk.ranges() == [(1, 1), (1, 1)]

    play(scene)


def test_an_order_survives_a_crash_before_l1_has_answered(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.refuse_sending = LostError("the node is away")
        await desk.execute(1, orders=(order(3),))
        assert len(desk.store.orders()) == 1
        desk.account.refuse_sending = None
        again = Confirmer(  # a new process on the same disk
            channel=EnclaveChannel(desk.enclave),
            l1=desk.l1,
            store=desk.store,
            outbox=desk.outbox,
            shard=SHARD,
            me=ME,
        )
        again.restored(Height(1))
        await desk.settle()
        assert [a["order"].order.serial for a in desk.account.calls(ORDER)] == [3]
        assert not desk.store.orders()

    play(scene)


def test_an_order_that_l1_refuses_in_a_block_is_not_said_again(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.account.outcomes[ORDER] = refused
        await desk.execute(1, orders=(order(),))
        await desk.imported(2 * CONFIRM_EVERY)
        assert len(desk.account.calls(ORDER)) == 1
        assert not desk.store.orders()

    play(scene)


# --- where several platforms must agree (root_quorum) ---

OTHERS = tuple(AccountId(bytes([n]) * 32) for n in (0x21, 0x22, 0x23))


def by(number: int, first: int, last: int) -> SignedConfirmation:
    """What one of the others, on a machine of its own, has said on L1."""
    return vote(first, last, key=OTHERS[number], platform=number + 1)


def test_a_round_begins_with_what_others_said_and_the_rest_follows(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.said = [by(0, 1, 3)]
        await desk.execute(5)
        assert desk.ranges() == [(1, 3), (4, 5)]

    play(scene)


def test_what_most_platforms_said_comes_first_and_of_equals_the_longest(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.said = [by(0, 1, 4), by(0, 1, 2), by(1, 1, 2), by(2, 1, 5)]
        await desk.execute(6)
        assert desk.ranges() == [(1, 2), (3, 6)]
        desk.l1.said = [by(0, 1, 4), by(1, 1, 5), by(2, 1, 3)]
        desk.confirmer._begin_round()
        await desk.imported()
        assert desk.ranges()[2:] == [(1, 5), (6, 6)]

    play(scene)


def test_two_instances_on_one_machine_are_one_voice(play) -> None:
    async def scene(desk: Desk) -> None:
        twin = vote(1, 2, key=OTHERS[1], platform=1)  # beside OTHERS[0]
        desk.l1.said = [by(0, 1, 2), twin, by(2, 1, 3)]
        await desk.execute(4)
        assert desk.ranges() == [(1, 3), (4, 4)]

    play(scene)


def test_ranges_that_begin_elsewhere_or_go_beyond_the_disk_are_not_said(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.said = [by(0, 1, 9), by(1, 2, 3)]
        await desk.execute(4)
        assert desk.ranges() == [(1, 4)]

    play(scene)


def test_a_range_that_the_enclave_does_not_sign_keeps_nobody_from_the_next(
    play,
) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.said = [by(0, 1, 3), by(1, 1, 3), by(2, 1, 2)]
        desk.refuse_to = {3}
        await desk.execute(4)
        assert desk.ranges() == [(1, 2), (3, 4)]

    play(scene)


def test_what_was_said_here_already_is_not_said_again(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.said = [vote(1, 3), by(0, 1, 3), by(0, 1, 2)]
        await desk.execute(4)
        assert desk.ranges() == [(1, 2), (3, 4)]
        desk.l1.said = [vote(1, 4)]  # all of it: the others' turn
        desk.confirmer._begin_round()
        await desk.imported(5)
        assert len(desk.ranges()) == 2

    play(scene)


def test_a_generations_last_word_is_said_beside_a_range_that_stands_already(
    play,
) -> None:
    async def scene(desk: Desk) -> None:
        desk.ends = True
        desk.l1.said = [vote(1, 4)]
        desk.confirmer.restored(Height(4))
        await desk.imported(3)
        assert desk.ranges() == []
        assert len(desk.account.calls(CERTIFICATE)) == 1

    play(scene)


def test_a_certificate_is_not_owed_any_less_by_saying_what_others_said(play) -> None:
    async def scene(desk: Desk) -> None:
        desk.l1.said = [by(0, 1, 3)]
        signed: list[Confirm] = []

        def sign(request: Confirm):
            signed.append(request)
            desk.ends = request.durable == 5  # as the enclave gives it
            return desk.sign(request)

        desk.enclave.answers["Confirm"] = sign
        await desk.execute(5, last_of_generation=True)
        assert [(one.after, one.durable) for one in signed] == [(0, 3), (3, 5)]
        assert len(desk.account.calls(CERTIFICATE)) == 1

    play(scene)


def test_without_the_others_words_the_whole_is_said(play) -> None:
    async def scene(desk: Desk) -> None:
        async def lost(_: object):
            raise LostError("the node is away")

        desk.l1.said = [by(0, 1, 1)]
        desk.l1.votes = lost
        await desk.execute(2)
        assert desk.ranges() == [(1, 2)]
        assert desk.confirmer.last_refusal == "the node is away"

    play(scene)


def test_a_word_that_nobody_joined_is_looked_after_again(play) -> None:
    """The last block of a generation: nothing more is executed that would ask."""

    async def scene(desk: Desk) -> None:
        await desk.execute(5, calls=0)
        assert desk.ranges() == [(1, 5)]
        desk.l1.said = [vote(1, 5), by(0, 1, 4)]
        await desk.imported(CONFIRM_EVERY + 1)
        assert desk.ranges() == [(1, 5), (1, 4), (5, 5)]
        desk.l1.frontier = 5
        await desk.imported(3 * CONFIRM_EVERY)
        assert len(desk.ranges()) == 3

    play(scene)


class Court(FakeL1):
    """L1 as the ledger counts: a range is confirmed when ``quorum`` machines agree.

    What is sent stands in the next block, and is heard of then.
    """

    def __init__(self, quorum: int) -> None:
        super().__init__(confirmed=0)
        self.quorum = quorum
        self.history: list[tuple[int, int]] = []
        self.waiting: list[tuple[SignedConfirmation, asyncio.Future[Included]]] = []

    def make_block(self) -> None:
        waiting, self.waiting = self.waiting, []
        for said, heard in waiting:
            heard.set_result(self.judge(said))

    def seat(self, desk: Desk, number: int) -> None:
        """Its worker is the one of this number, on a machine of its own."""

        async def wait(tx_hash: bytes) -> Included:
            _, args = desk.account.sent[int.from_bytes(tx_hash, "big")]
            claim = args["confirmation"]
            assert claim.signing_key == OTHERS[number]
            heard = asyncio.get_running_loop().create_future()
            self.waiting.append((by(number, claim.first, claim.last), heard))
            return await heard

        desk.account.wait = wait

    def judge(self, said: SignedConfirmation) -> Included:
        claim = said.confirmation
        if claim.first != self.frontier + 1:
            return refused(claim)
        agreeing = {
            one.platform_id for one in self.said if one.confirmation.last == claim.last
        }
        self.said = [*add_vote(tuple(self.said), said)]  # the oldest give way
        if len(agreeing | {said.platform_id}) >= self.quorum:
            self.frontier = int(claim.last)
            self.history.append((int(claim.first), int(claim.last)))
            self.said = []
        return Included(height=Height(5), code=0, log="")


BLOCKS = 60


@pytest.mark.parametrize(
    "comes", [(1, 20), (1, 21), (1, 22), (1, 23), (1, 20, 27), (1, 30, 31)]
)
def test_whoever_comes_late_and_who_was_there_agree_on_roots(
    tmp_path: Path, comes: tuple[int, ...]
) -> None:
    """Each ends its ranges at its own newest block, at blocks of its own."""

    async def whole() -> None:
        court = Court(quorum=2)
        desks = []
        for number, _ in enumerate(comes):
            (home := tmp_path / str(number)).mkdir()
            desks.append(Desk(home, l1=court, me=OTHERS[number]))
            court.seat(desks[-1], number)
        outboxes = [asyncio.create_task(desk.outbox.run()) for desk in desks]
        try:
            for height in range(1, BLOCKS + 1):
                court.make_block()
                for desk, begins in zip(desks, comes, strict=True):
                    for block in range(1, height + 1):
                        if block == height >= begins or height == begins:
                            await desk.execute(block)
                    if height >= begins:
                        await desk.imported()
            assert court.history, "no root was ever confirmed"
            assert BLOCKS - court.frontier <= 8, court.history
        finally:
            for task in outboxes:
                task.cancel()
            await asyncio.gather(*outboxes, return_exceptions=True)
            for desk in desks:
                desk.store.close()

    asyncio.run(whole())
