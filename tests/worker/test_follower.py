"""The follower: lying and absent nodes are named and outlasted, never believed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

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
    effects,
    executed,
    receipt,
    refusal,
    status,
)

from sealift.base import Digest, Generation, Height, SealiftError
from sealift.protocol.ecall import (
    Confirm,
    DiffApply,
    Execute,
    Followed,
    Genesis,
    Idle,
    ImportBlock,
    SkipTo,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)
from sealift.worker import (
    EnclaveGoneError,
    EnclaveRefusedError,
    StoreError,
    WorkerStore,
)
from sealift.worker import _follower as follower_module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._effects import POST_EFFECTS
from sealift.worker._follower import HALTED_BY_FORK, Executions, Follower
from sealift.worker._outbox import Outbox


class FakeFeed:
    """Blocks whose light block says which they are."""

    def __init__(self) -> None:
        self.lost: SealiftError | None = None
        self.lies = 0
        self.asked: list[int] = []
        self.newest: tuple[Height, Digest] | None = None

    async def import_block(self, height: int) -> ImportBlock:
        self.asked.append(height)
        if self.lost is not None:
            raise self.lost
        lie = b"lie" if self.lies else b"true"
        self.lies = max(self.lies - 1, 0)
        return ImportBlock(
            light_block=b"%d %s" % (height, lie), txs=(), results=(), proofs=()
        )

    async def proofs(self, keys: tuple[bytes, ...], height: int) -> tuple[()]:
        return ()


class Scene:
    """A follower over an enclave that executes every block it follows."""

    def __init__(self, path: Path) -> None:
        self.l1 = FakeL1(head=1)
        self.feed = FakeFeed()
        self.ready: list[int] = []
        self.idle = Idle(reason="no-block", detail="none")
        self.halted = ""
        self.enclave = FakeEnclave(
            ImportBlock=self.follow,
            Execute=self.execute,
            Confirm=lambda r: confirmed(r.after + 1, r.durable),
            GetStatus=lambda _: status(halted=self.halted),
            SnapshotBegin=self.begin,
            SnapshotGet=self.get,
            SnapshotChunk=lambda r: StateReply(height=Height(50), root=None),
            DiffApply=lambda r: StateReply(height=Height(1), root=None),
        )
        self.changes: dict[str, object] = {}
        self.exports = 0
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.account = FakeAccount()
        self.outbox = Outbox(self.account)
        self.follower = Follower(
            channel=EnclaveChannel(self.enclave),
            l1=self.l1,
            feed=self.feed,
            store=self.store,
            outbox=self.outbox,
            shard=SHARD,
            me=ME,
        )

    def follow(self, request: ImportBlock):
        height, word = request.light_block.split()
        if word == b"lie":
            return refusal("HeaderForgedError", "not what was signed")
        self.ready.append(int(height))
        return Followed(
            height=Height(int(height)),
            runs=Generation(0),
            mine=True,
            waiting=1,
            checkpoint=b"after %s" % height,
        )

    def execute(self, _: Execute):
        if not self.ready:
            return self.idle
        return executed(self.ready.pop(0), **self.changes)

    def begin(self, request: SnapshotBegin):
        self.exports += 1
        return SnapshotHeader(
            header=b"export %d" % self.exports, height=Height(50), chunks=3
        )

    def get(self, request: SnapshotGet):
        data = b"%d of export %d" % (request.index, self.exports)
        return SnapshotChunk(index=request.index, data=data)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(follower_module, "_RETRY_SECONDS", 0.001)

    def run(story: Callable[[Scene], Awaitable[None]], *, follow: bool = True) -> None:
        async def whole() -> None:
            scene = Scene(tmp_path)
            tasks = [asyncio.create_task(scene.outbox.run())]
            if follow:
                tasks.append(asyncio.create_task(scene.follower.run(Height(1))))
            try:
                async with asyncio.timeout(5):
                    await story(scene)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                scene.store.close()

        asyncio.run(whole())

    return run


def test_each_block_is_followed_once_executed_and_durable_before_it_is_confirmed(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        durable: list[object] = []
        sign = scene.enclave.answers["Confirm"]

        def see(request: Confirm):
            durable.append(scene.store.diff(request.durable))
            return sign(request)

        scene.enclave.answers["Confirm"] = see
        scene.changes = {"calls": 1}
        scene.l1.head = 6
        await scene.follower.reach(5)
        assert scene.feed.asked[:5] == [1, 2, 3, 4, 5]
        assert durable[:4] == [b"diff 1", b"diff 2", b"diff 3", b"diff 4"]

    play(story)


def test_effects_are_durable_with_their_block_before_l1_hears_of_them(play) -> None:
    async def story(scene: Scene) -> None:
        on_disk: list[int] = []
        send = scene.account.send

        async def see(call: str, args: dict[str, object]) -> bytes:
            if call == POST_EFFECTS:
                on_disk.append(scene.store.effects_pending())
            return await send(call, args)

        scene.account.send = see
        scene.changes = {"effects": effects(1)}
        scene.l1.head = 2
        await scene.follower.reach(1)
        while not on_disk:
            await asyncio.sleep(0.001)
        scene.l1.executed_effects = 1
        scene.changes = {}
        scene.l1.head = 3
        await scene.follower.reach(2)
        assert (on_disk, scene.store.effects_pending()) == ([1], 0)

    play(story)


def test_a_lying_node_is_named_and_asked_again(play) -> None:
    async def story(scene: Scene) -> None:
        scene.feed.lies = 30
        scene.l1.head = 3
        while "HeaderForgedError" not in scene.follower.progress.l1_failure:
            await asyncio.sleep(0.001)
        assert scene.follower.progress.waiting_for == "block 1 that the enclave accepts"
        assert scene.follower.progress.imported == 0
        await scene.follower.reach(2)
        assert scene.follower.progress.l1_failure == ""
        assert scene.feed.asked.count(1) == 31

    play(story)


def test_a_node_that_is_away_is_waited_for_by_name(play) -> None:
    async def story(scene: Scene) -> None:
        scene.feed.lost = LostError("the node is away")
        scene.l1.head = 3
        while scene.follower.progress.l1_failure != "the node is away":
            await asyncio.sleep(0.001)
        assert scene.follower.progress.waiting_for == "block 1 of the L1 node"
        scene.feed.lost = None
        await scene.follower.reach(2)
        assert scene.follower.progress.l1_failure == ""

    play(story)


def test_an_enclave_that_saw_two_chains_ends_the_worker(play) -> None:
    async def story(scene: Scene) -> None:
        scene.halted = "fork"
        scene.feed.lies = 1
        scene.l1.head = 3
        with pytest.raises(EnclaveGoneError, match="two chains"):
            await scene.follower.run(Height(1))

    play(story, follow=False)


def test_a_diverged_state_does_not_end_the_worker_but_asks_for_another(play) -> None:
    async def story(scene: Scene) -> None:
        scene.halted = "root after block 3 is another"
        scene.enclave.answers["Execute"] = lambda _: refusal("DivergedStateError")
        scene.l1.head = 3
        await scene.follower.reach(2)
        assert scene.follower.progress.halted == scene.halted
        assert scene.follower.progress.needs_state

    play(story)


def test_a_dead_enclave_ends_the_follower_by_name(play) -> None:
    async def story(scene: Scene) -> None:
        scene.l1.head = 3
        scene.enclave.gone = LostError("the process has ended")
        with pytest.raises(EnclaveGoneError, match="the process has ended") as caught:
            await scene.follower.run(Height(1))
        assert "start the worker again" in caught.value.hint

    play(story, follow=False)


def test_an_answer_out_of_turn_is_a_broken_enclave(play) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.answers["Execute"] = lambda _: status()
        with pytest.raises(EnclaveGoneError, match="out of turn"):
            await scene.follower.execute_ready()
        scene.enclave.answers["ImportBlock"] = lambda _: status()
        scene.l1.head = 3
        with pytest.raises(EnclaveGoneError, match="out of turn"):
            await scene.follower.run(Height(1))

    play(story, follow=False)


@pytest.mark.parametrize(
    ("reason", "detail", "fetched"),
    [
        ("no-state", "There is no state.", True),
        ("not-mine", "Block 7 is of other code.", True),
        ("behind", "Block 7 does not wait any more", True),
        ("behind", "StateUnconfirmedError: a state from elsewhere", False),
        ("no-block", "Block 7 was not followed yet.", False),
        ("no-keys", "The shard's keys are not held.", False),
    ],
)
def test_state_is_fetched_only_where_waiting_does_not_help(
    play, reason: str, detail: str, fetched: bool
) -> None:
    async def story(scene: Scene) -> None:
        scene.idle = Idle(reason=reason, detail=detail)
        await scene.follower.execute_ready()
        assert scene.follower.progress.needs_state is fetched
        assert scene.follower.progress.idle == f"{reason}: {detail}"

    play(story, follow=False)


def test_two_snapshots_at_once_do_not_mix(play) -> None:
    async def story(scene: Scene) -> None:
        await asyncio.gather(*(scene.follower.keep_snapshot() for _ in range(4)))
        found = scene.store.snapshot()
        assert found is not None
        folder = scene.store.snapshots
        number = folder.header(found.name).split()[-1]
        for index in range(3):
            chunk = folder.chunk(found.name, index)
            assert chunk == b"%d of export %s" % (index, number)
        assert folder.names() == [found.name]  # of one height the last

    play(story, follow=False)


def test_blocks_do_not_wait_for_a_snapshot_that_waits_for_another(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun, go_on = follower_module.write_export, [], asyncio.Event()

    async def slow(*args: object) -> object:
        begun.append(args)
        await go_on.wait()
        return await write(*args)

    monkeypatch.setattr(follower_module, "write_export", slow)

    async def story(scene: Scene) -> None:
        both = [asyncio.create_task(scene.follower.keep_snapshot()) for _ in range(2)]
        while not begun:
            await asyncio.sleep(0)
        scene.ready = [51]
        await scene.follower.execute_ready()
        assert scene.store.diff(51) is not None
        assert len(begun) == 1
        go_on.set()
        await asyncio.gather(*both)
        assert scene.exports == 2

    play(story, follow=False)


def test_a_block_without_a_diff_is_durable_with_its_snapshot_or_not_at_all(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        scene.ready = [50]
        scene.changes = {"diff": b"", "receipts": (receipt(50),)}
        await asyncio.gather(
            scene.follower.execute_ready(), scene.follower.keep_snapshot()
        )
        found = scene.store.snapshot()
        assert found is not None
        folder = scene.store.snapshots
        number = folder.header(found.name).split()[-1]
        assert folder.chunk(found.name, 2) == b"2 of export " + number
        assert scene.store.receipt(receipt(50).envelope) is not None
        assert scene.store.diff(50) is None

    play(story, follow=False)


def test_a_forged_diff_or_snapshot_is_not_kept(play) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.answers["DiffApply"] = lambda _: refusal("DiffForgedError")
        with pytest.raises(EnclaveRefusedError, match="DiffForgedError"):
            await scene.follower.apply_diff(Height(2), b"forged")
        assert scene.store.diff(2) is None
        scene.enclave.answers["SnapshotChunk"] = lambda _: refusal(
            "SnapshotForgedError"
        )
        draft = scene.store.snapshots.draft(7, b"header")
        begun = SnapshotHeader(header=b"header", height=Height(7), chunks=1)
        with pytest.raises(EnclaveRefusedError, match="SnapshotForgedError"):
            await scene.follower.take_over(draft, begun, b"forged")
        assert scene.store.snapshot() is None

    play(story, follow=False)


def test_a_diff_is_kept_in_the_order_in_which_it_was_applied(play) -> None:
    async def story(scene: Scene) -> None:
        scene.ready = [2]
        await asyncio.gather(
            scene.follower.apply_diff(Height(1), b"theirs"),
            scene.follower.execute_ready(),
        )
        asked = [type(one) for one in scene.enclave.asked]
        assert asked.index(DiffApply) < asked.index(Execute)
        assert [h for h, _ in scene.store.diffs_after(0)] == [1, 2]

    play(story, follow=False)


def test_no_block_is_durable_before_the_genesis_that_it_stands_on_is(play) -> None:
    """Killed in between, a disk with diffs and no beginning would give nothing back."""

    async def story(scene: Scene) -> None:
        answered, call = asyncio.Event(), scene.enclave.call

        async def slowly(payload: bytes) -> bytes:
            reply = await call(payload)
            if isinstance(scene.enclave.asked[-1], Genesis):
                scene.ready = [1]  # there is a state now: the enclave would execute
                answered.set()
                for _ in range(20):  # its answer is on its way still
                    await asyncio.sleep(0)
            return reply

        scene.enclave.call = slowly
        scene.enclave.answers["Genesis"] = lambda _: StateReply(
            height=Height(0), root=None
        )
        beginning = asyncio.create_task(scene.follower.begin_at_genesis(b"genesis"))
        await answered.wait()
        keep, seen = scene.store.commit_block, []

        def commit(*given: object) -> None:
            seen.append(scene.store.meta("born"))
            keep(*given)

        scene.store.commit_block = commit
        await scene.follower.execute_ready()
        assert seen == [b"\x01"]
        assert await beginning is True

    play(story, follow=False)


def test_a_genesis_that_is_not_made_here_is_not_noted(play) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.answers["Genesis"] = lambda _: refusal("NoKeysError")
        assert await scene.follower.begin_at_genesis(b"genesis") is False
        scene.enclave.answers["Genesis"] = lambda _: refusal("GenesisError")
        with pytest.raises(EnclaveRefusedError, match="GenesisError"):
            await scene.follower.begin_at_genesis(b"another")
        assert scene.store.meta("born") is None

    play(story, follow=False)


def test_a_disk_that_does_not_take_a_block_stops_before_it_is_confirmed(play) -> None:
    async def story(scene: Scene) -> None:
        scene.ready = [1]
        scene.store._db.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="was not written"):
            await scene.follower.execute_ready()
        assert not scene.enclave.count(Confirm)

    play(story, follow=False)


def test_listeners_hear_of_blocks_until_they_stop(play) -> None:
    async def story(scene: Scene) -> None:
        heard: list[Executions] = []
        stop = scene.follower.listen(heard.append)
        scene.ready = [1, 2]
        await scene.follower.execute_ready()
        stop()
        scene.ready = [3]
        await scene.follower.execute_ready()
        assert [event.height for event in heard] == [1, 2]

    play(story, follow=False)


def test_while_it_stands_still_no_block_is_imported(play) -> None:
    async def story(scene: Scene) -> None:
        async with scene.follower.standing_still():
            scene.l1.head = 9
            await asyncio.sleep(0.02)
            assert not scene.enclave.count(ImportBlock)
            height, proofs = await scene.follower.prove_at_head(())
            assert (height, proofs) == (0, ())
        await scene.follower.reach(3)

    play(story)


class Planner:
    """Plans a skip to block 6, or does what it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.lost: SealiftError | None = None
        self.none = False

    async def plan(self, head: int, tip: int) -> tuple[Height, SkipTo] | None:
        self.asked.append((head, tip))
        if self.lost is not None:
            raise self.lost
        return None if self.none else (Height(6), SkipTo(path=(b"x",), proofs=()))


def skipped(height: int) -> Followed:
    return Followed(
        height=Height(height),
        runs=Generation(0),
        mine=False,
        waiting=0,
        checkpoint=b"after the skip",
    )


@pytest.mark.parametrize("fault", ["", "none", "lost", "refused"])
def test_a_long_gap_is_skipped_if_the_enclave_agrees_and_else_followed(
    play, fault: str
) -> None:
    async def story(scene: Scene) -> None:
        planner = Planner()
        planner.none = fault == "none"
        planner.lost = LostError("the node is away") if fault == "lost" else None
        scene.enclave.answers["SkipTo"] = lambda _: (
            refusal("SkipNotAllowedError", "a block of the gap is mine")
            if fault == "refused"
            else skipped(6)
        )
        scene.follower._skips = planner  # type: ignore[assignment]
        scene.l1.head = 9
        task = asyncio.create_task(scene.follower.run(Height(1)))
        await scene.follower.reach(8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert planner.asked == [(1, 9)]
        assert scene.feed.asked[0] == (1 if fault else 7)
        assert scene.feed.asked[-1] <= 9
        if not fault:
            assert scene.store.meta("checkpoint") is not None
        assert scene.follower.progress.skipped_to == (None if fault else 6)

    play(story, follow=False)


def test_who_falls_behind_while_it_runs_skips_again(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suspended, for example: not only a start looks for a way over the gap."""

    async def story(scene: Scene) -> None:
        planner = Planner()
        planner.none = True
        scene.enclave.answers["SkipTo"] = lambda _: skipped(6)
        scene.follower._skips = planner  # type: ignore[assignment]
        task = asyncio.create_task(scene.follower.run(Height(1)))
        scene.l1.head = 4
        await scene.follower.reach(3)
        assert planner.asked == [(1, 4)]
        planner.none = False
        scene.l1.head = 9
        await scene.follower.reach(8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert planner.asked == [(1, 4), (4, 9)]
        assert scene.follower.progress.skipped_to == 6
        assert {5, 6}.isdisjoint(scene.feed.asked)

    monkeypatch.setattr(follower_module, "LONG_GAP", 3)
    play(story, follow=False)


def test_who_could_not_fetch_what_it_skips_follows(play) -> None:
    async def story(scene: Scene) -> None:
        planner = Planner()
        scene.follower._skips = planner  # type: ignore[assignment]
        scene.follower.may_skip = lambda: False
        scene.l1.head = 9
        task = asyncio.create_task(scene.follower.run(Height(1)))
        await scene.follower.reach(8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not planner.asked
        assert scene.feed.asked[0] == 1

    play(story, follow=False)


def test_a_block_whose_snapshot_does_not_fit_stops_before_it_is_confirmed(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(scene: Scene) -> None:
        def full(self: Path, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        scene.ready = [50]
        scene.changes = {"diff": b"", "receipts": (receipt(50),)}
        with pytest.raises(StoreError, match="block 50 was not written"):
            await scene.follower.execute_ready()
        assert not scene.enclave.count(Confirm)
        assert scene.store.receipt(receipt(50).envelope) is None
        assert scene.store.snapshot() is None

    play(story, follow=False)


def test_a_snapshot_is_durable_before_the_block_that_names_it(play) -> None:
    """kill -9 between the two: the block is executed again, nothing is lost."""

    async def story(scene: Scene) -> None:
        def commit(*_: object) -> None:
            found = scene.store.snapshots.names()
            assert len(found) == 1
            assert scene.store.snapshots.verify(found[0]).height == 50
            raise StoreError("killed here")

        scene.store.commit_block = commit
        scene.ready = [50]
        scene.changes = {"diff": b"", "receipts": (receipt(50),)}
        with pytest.raises(StoreError, match="killed here"):
            await scene.follower.execute_ready()
        assert scene.store.snapshot() is None

    play(story, follow=False)


def test_older_snapshots_go_when_as_many_are_there_as_are_kept(play) -> None:
    async def story(scene: Scene) -> None:
        heights = iter(range(60, 70))

        def begin(_: SnapshotBegin) -> SnapshotHeader:
            height = next(heights)
            return SnapshotHeader(
                header=b"export %d" % height, height=Height(height), chunks=1
            )

        scene.enclave.answers["SnapshotBegin"] = begin
        scene.follower.keep_snapshots = 3
        for _ in range(5):
            await scene.follower.keep_snapshot()
        kept = [one.height for one in scene.store.stored_snapshots()]
        assert kept == [64, 63, 62]
        assert len(scene.store.snapshots.names()) == 3

    play(story, follow=False)


def test_a_skip_into_a_fork_stops_the_follower(play) -> None:
    async def story(scene: Scene) -> None:
        kept: list[str] = []

        async def forked() -> None:
            kept.append("evidence")

        scene.enclave.answers["SkipTo"] = lambda _: refusal("ForkDetectedError", "two")
        scene.follower._skips = Planner()  # type: ignore[assignment]
        scene.follower._forked = forked
        scene.halted = HALTED_BY_FORK
        scene.l1.head = 9
        with pytest.raises(EnclaveGoneError, match="two chains"):
            await scene.follower.run(Height(1))
        assert kept == ["evidence"]

    play(story, follow=False)
