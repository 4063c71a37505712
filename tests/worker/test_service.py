"""The service: instances begin, end and come back by what L1 says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from doubles import (
    ME,
    ROOT,
    SHARD,
    FakeAccount,
    FakeEnclave,
    FakeL1,
    effects,
    entry,
    executed,
    frontier,
    receipt,
    refusal,
    schedule,
    status,
)
from small_bundles import code_in, small_bundle
from test_config import RIGHT, home_with
from test_follower import FakeFeed

from sealift.base import Epoch, Fingerprint, Generation, Height, SealiftError, encode
from sealift.protocol import (
    EntryStatus,
    Frontier,
    HandoverCertificate,
    certificate_key,
    frontier_key,
    schedule_key,
)
from sealift.protocol.ecall import SnapshotChunk, SnapshotHeader
from sealift.transport.rpc import NodeUnreachableError
from sealift.worker import (
    BundleNotScheduledError,
    ControlError,
    Progress,
    WorkerStore,
    list_snapshots,
    snapshot_in_running,
)
from sealift.worker import _l1 as l1_module
from sealift.worker import _service as service_module
from sealift.worker._api import Health
from sealift.worker._channel import EnclaveChannel
from sealift.worker._config import load_config
from sealift.worker._errors import EnclaveGoneError, StalledError
from sealift.worker._follower import Executions, Follower
from sealift.worker._outbox import Outbox
from sealift.worker._rate import Bandwidth
from sealift.worker._service import Ready, Service
from sealift.worker._upstream import Upstream

OLD_DATA, NEW_DATA = small_bundle(app=b"v = 1\n"), small_bundle(app=b"v = 2\n")
OLD, NEW = Fingerprint(code_in(OLD_DATA)), Fingerprint(code_in(NEW_DATA))
FIRST = entry(0, code=OLD)
AHEAD = entry(1, since=100, status=EntryStatus.PENDING, code=NEW)
UPGRADED = (
    entry(0, code=OLD, status=EntryStatus.RETIRED),
    entry(1, since=100, code=NEW),
)
RESCUED = (
    entry(0, code=OLD, status=EntryStatus.RETIRED),
    entry(1, since=100, code=NEW, status=EntryStatus.VOID),
    entry(2, since=100, code=OLD, predecessor=Generation(0)),
)


class Node:
    """L1's node: its head, and what stands in its state."""

    def __init__(self) -> None:
        self.head = 50
        self.values: dict[bytes, bytes] = {}
        self.lost = False

    async def status(self) -> object:
        return await self.height()

    async def height(self) -> Height:
        if self.lost:
            raise NodeUnreachableError("away")
        return Height(self.head)

    async def new_blocks(self) -> AsyncIterator[object]:
        await asyncio.sleep(1000)
        yield None

    async def abci_query(self, key: bytes, *, prove: bool) -> object:
        await self.height()
        assert not prove
        return SimpleNamespace(value=self.values.get(key))

    def says(self, *entries: object, head: int) -> None:
        self.values[schedule_key(SHARD)] = encode(schedule(entries=entries))
        self.head = head

    def confirms(self, what: Frontier, *, certificate: bool) -> None:
        self.values[frontier_key(SHARD)] = encode(what)
        if certificate:
            self.values[certificate_key(SHARD)] = encode(
                HandoverCertificate(
                    chain_id="test",
                    shard=SHARD,
                    generation=Generation(0),
                    successor=Generation(1),
                    height=Height(99),
                    root=ROOT,
                    signing_key=ME,
                )
            )


class Worker:
    """An instance that was opened; the test decides what becomes of it."""

    def __init__(self, scene: "Scene", config, code: Fingerprint, upstream) -> None:
        self.config = config
        self.code = code
        self.height = scene.heights.get(code)
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.enclave = FakeEnclave(
            GetStatus=lambda _: status(
                state_height=None if self.height is None else Height(self.height),
                epochs=(Epoch(0),),
            )
        )
        self.channel = EnclaveChannel(self.enclave)
        self.store = WorkerStore(config.database, shard=SHARD, fingerprint=code)
        self.follower = Follower(
            channel=self.channel,
            l1=FakeL1(),
            feed=FakeFeed(),
            store=self.store,
            outbox=Outbox(FakeAccount()),
            shard=SHARD,
            me=ME,
        )
        self.follower.progress.imported = scene.node.head
        self.follower.progress.l1_head = scene.node.head + 1
        self.reasons: tuple[str, ...] = ()
        self.fetches_until: Height | None = None
        self.life = self
        self.url = ""
        self.account = self
        self.hello = SimpleNamespace(fingerprint=code, app_version="1")
        self.started = SimpleNamespace(signing_key=ME)
        self.chain_id = "test"
        self.upstream = Upstream(upstream, None) if upstream else None

    async def run(self) -> None:
        await self.end

    def health(self) -> Health:
        return Health(ok=not self.reasons, reasons=self.reasons)

    async def reading(self) -> object:
        raise EnclaveGoneError("not asked")

    async def describe(self) -> dict[str, object]:
        return {"mrenclave": self.code.hex()}

    async def funds(self) -> int:
        return 10_000

    async def submit(self, _: bytes) -> bytes:
        return b""

    def fetch_until(self, last: Height | None) -> None:
        self.fetches_until = last

    def dies(self, why: str = "ended") -> None:
        self.end.set_exception(EnclaveGoneError(why))

    def executes(self, height: int) -> None:
        self.height = height
        block = executed(height, receipts=(receipt(height, envelope=bytes([height])),))
        self.store.commit_block(block)
        for listener in tuple(self.follower._listeners):
            listener(Executions(height=Height(height), receipts=block.receipts))


class Scene:
    """A service over doubles of everything outside of it."""

    def __init__(self, home: Path) -> None:
        (home / "b.bundle").write_bytes(OLD_DATA)
        text = RIGHT.replace('bundle = "../app.bundle"', 'bundle = "b.bundle"')
        self.config = load_config(home_with(home, text))
        self.node = Node()
        self.heights: dict[Fingerprint, int | None] = {OLD: 49}
        self.opened: list[Worker] = []
        self.up: dict[Fingerprint, Worker] = {}
        self.refuse: dict[Fingerprint, SealiftError] = {}
        self.outages = 0
        self.ready: list[Ready] = []
        self.http: aiohttp.ClientSession
        self.service: Service
        self.task: asyncio.Task[None]

    @contextlib.asynccontextmanager
    async def open(self, _: object, config, *, upstream=None):
        code = Fingerprint(bytes.fromhex(config.instance)) if config.instance else OLD
        if code in self.refuse:
            raise self.refuse[code]
        if self.outages:
            self.outages -= 1
            raise NodeUnreachableError("went away")
        worker = Worker(self, config, code, upstream)
        self.opened.append(worker)
        self.up[code] = worker
        try:
            yield worker
        finally:
            self.heights[code] = worker.height
            del self.up[code]
            worker.store.close()

    def begin(self) -> None:
        ground = SimpleNamespace(l1=self.node, http=self.http, serve=Bandwidth(0))
        self.service = Service(self.config, ground, ready=self.ready.append)
        self.task = asyncio.create_task(self.service.run())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(8):
            while not holds():
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.01)

    def answers(self) -> Fingerprint | None:
        seat = self.service._board.current
        return None if seat is None else seat.fingerprint

    def role(self, code: Fingerprint) -> str:
        rows = self.service.about()["instances"]
        found = [row["role"] for row in rows if row["mrenclave"] == code.hex()]
        return found[0] if found else ""

    def put_new(self) -> None:
        self.config.bundles.mkdir(exist_ok=True)
        (self.config.bundles / "v2.bundle").write_bytes(NEW_DATA)

    async def upgraded(self) -> None:
        """Up to the first block of the new code."""
        self.node.says(FIRST, AHEAD, head=60)
        self.put_new()
        await self.until(lambda: NEW in self.up)
        self.node.says(*UPGRADED, head=102)
        self.up[NEW].executes(100)
        await self.until(lambda: self.answers() == NEW)


Story = Callable[[Scene], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(l1_module, "_FALLBACK_SECONDS", 0.02)
    monkeypatch.setattr(service_module, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(service_module, "_LOOK_AGAIN_SECONDS", 0.02)

    def run(story: Story, *, outages: int = 0) -> None:
        async def whole() -> None:
            scene = Scene(tmp_path)
            scene.outages = outages
            monkeypatch.setattr(service_module, "open_instance", scene.open)
            async with asyncio.timeout(30), aiohttp.ClientSession() as scene.http:
                scene.node.says(FIRST, head=50)
                scene.begin()
                try:
                    await scene.until(lambda: scene.ready)
                    await story(scene)
                finally:
                    await scene.end()

        asyncio.run(whole())

    return run


def test_a_home_with_one_code_is_one_instance_as_ever(play) -> None:
    async def story(scene: Scene) -> None:
        assert [one.config for one in scene.opened] == [scene.config]
        assert scene.ready[0].fingerprint == OLD
        assert scene.up[OLD].url == scene.ready[0].url
        assert scene.service.health().ok
        scene.up[OLD].dies("memory")
        with pytest.raises(EnclaveGoneError, match="memory"):
            await scene.task

    play(story)


def test_an_outage_of_l1_while_it_starts_does_not_end_it(play) -> None:
    async def begun(scene: Scene) -> None:
        assert (scene.outages, len(scene.opened)) == (0, 1)
        scene.up[OLD].end.set_exception(NodeUnreachableError("went away"))
        with pytest.raises(NodeUnreachableError):  # it was up: not a matter of starts
            await scene.task

    play(begun, outages=2)
    with pytest.raises(NodeUnreachableError):
        play(begun, outages=3)


def test_what_an_upgrade_names_is_staged_beside_and_asks_the_one_that_runs(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        scene.node.says(FIRST, AHEAD, head=60)
        scene.put_new()
        await scene.until(lambda: NEW in scene.up)
        new = scene.up[NEW]
        assert new.config.folder == scene.config.home / "instances" / NEW.hex()
        await scene.until(lambda: new.url)
        assert new.url == scene.up[OLD].url  # it is announced at the same place
        await scene.until(lambda: new.upstream.url != service_module.NOBODY_YET)
        async with scene.http.get(new.upstream.url + "/v1/status") as answer:
            assert (await answer.json())["mrenclave"] == OLD.hex()
        assert (scene.role(OLD), scene.role(NEW)) == ("current", "staged")
        assert scene.answers() == OLD

    play(story)


def test_the_one_before_ends_when_l1_has_both_and_nothing_is_owed(play) -> None:
    async def story(scene: Scene) -> None:
        await scene.upgraded()
        await scene.until(lambda: scene.role(OLD) == "previous")
        # What a rescue would go on from stays; the new one follows to any height.
        await scene.until(lambda: scene.up[OLD].fetches_until == 99)
        assert scene.up[NEW].fetches_until is None
        name = receipt(99, envelope=bytes([99])).envelope
        scene.up[OLD].store.commit_block(
            executed(99, receipts=(receipt(99, envelope=bytes([99])),))
        )
        for number, (last, said) in enumerate(
            [(frontier(99), True), (frontier(103, 1), False)]
        ):
            scene.node.values.pop(certificate_key(SHARD), None)
            scene.node.confirms(last, certificate=said)
            scene.node.head = 110 + number
            await asyncio.sleep(0.3)
            assert OLD in scene.up
        scene.node.confirms(frontier(103, 1), certificate=True)
        scene.node.head = 120
        await scene.until(lambda: OLD not in scene.up)
        await scene.until(lambda: scene.role(OLD) == "retired")
        assert scene.service._board.receipt(name) is not None
        await scene.end()
        scene.opened.clear()
        scene.begin()  # and so it stays after a restart
        await scene.until(lambda: NEW in scene.up)
        scene.node.head = 125
        await asyncio.sleep(0.3)
        assert [one.code for one in scene.opened] == [NEW]
        assert scene.service._board.receipt(name) is not None

    play(story)


def test_the_one_before_stays_while_l1_owes_its_blocks_effects(play) -> None:
    async def story(scene: Scene) -> None:
        await scene.upgraded()
        owed = effects(99)
        scene.up[OLD].store.put_effects(owed)
        scene.node.confirms(frontier(103, 1), certificate=True)
        scene.node.head = 120
        await asyncio.sleep(0.3)
        assert OLD in scene.up
        scene.up[OLD].store.drop_effects(99)
        scene.node.head = 121
        await scene.until(lambda: OLD not in scene.up)

    play(story)


def test_a_rescue_brings_the_old_one_back_from_its_folder(play) -> None:
    async def story(scene: Scene) -> None:
        await scene.upgraded()
        await scene.end()
        store = WorkerStore(scene.config.database, shard=SHARD, fingerprint=OLD)
        store.put_meta("handed_over", encode(Generation(1)))  # it had ended
        store.close()
        scene.begin()
        await scene.until(lambda: NEW in scene.up)
        assert OLD not in scene.up
        scene.node.says(*RESCUED, head=160)
        await scene.until(lambda: OLD in scene.up)
        assert scene.up[OLD].config == scene.config
        scene.node.head = 161
        await asyncio.sleep(0.2)
        scene.up[OLD].executes(100)
        await scene.until(lambda: scene.answers() == OLD)
        scene.node.head = 162
        await scene.until(lambda: NEW not in scene.up)
        assert scene.role(NEW) == "retired"

    play(story)


def test_a_staged_enclave_that_dies_is_started_again_and_told(play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.says(FIRST, AHEAD, head=60)
        scene.put_new()
        for _ in range(2):
            await scene.until(lambda: NEW in scene.up)
            scene.up[NEW].dies("a migration that eats all memory")
            await scene.until(lambda: not scene.service.health().ok)
            (why,) = scene.service.health().reasons
            assert NEW.hex()[:8] in why
            assert "eats all memory" in why
            assert scene.answers() == OLD
        await scene.until(lambda: NEW in scene.up)
        assert scene.service.health().ok
        assert not scene.task.done()

    play(story)


def test_one_that_does_not_start_at_all_is_told_and_the_other_goes_on(play) -> None:
    async def story(scene: Scene) -> None:
        scene.refuse[NEW] = EnclaveGoneError("it does not start")
        scene.node.says(FIRST, AHEAD, head=60)
        scene.put_new()
        await scene.until(lambda: not scene.service.health().ok)
        assert "it does not start" in scene.service.health().reasons[0]
        scene.up[OLD].dies("this one, too")
        with pytest.raises(EnclaveGoneError, match="this one, too"):
            await scene.task

    play(story)


def test_the_answering_enclave_dies_while_another_is_up(play) -> None:
    async def story(scene: Scene) -> None:
        await scene.upgraded()
        scene.up[NEW].dies("by a signal")
        await scene.until(lambda: NEW not in scene.up)
        assert not scene.task.done()
        await scene.until(lambda: NEW in scene.up)
        await scene.until(lambda: scene.answers() == NEW)  # its state came back

    play(story)


def test_a_service_that_was_killed_goes_on_with_both(play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.says(FIRST, AHEAD, head=60)
        scene.put_new()
        await scene.until(lambda: NEW in scene.up)
        await scene.end()
        (scene.config.bundles / "v2.bundle").unlink()  # its own copy is enough
        scene.node.lost = True
        scene.begin()
        await asyncio.sleep(0.2)
        assert not scene.up  # whose turn it is, only L1 knows
        scene.node.lost = False
        await scene.until(lambda: scene.up.keys() == {OLD, NEW})
        new = scene.up[NEW]
        await scene.until(lambda: new.upstream.url != service_module.NOBODY_YET)
        assert scene.answers() == OLD

    play(story)


def test_an_instance_whose_turn_has_come_and_that_does_not_take_it_is_told(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        scene.node.says(FIRST, AHEAD, head=60)
        scene.put_new()
        await scene.until(lambda: NEW in scene.up)
        scene.up[NEW].height = 99
        scene.up[NEW].follower.progress.idle = "MigrationCheckError: no"
        scene.node.says(*UPGRADED, head=101)
        await asyncio.sleep(0.2)
        assert scene.service.health().ok  # a moment is not too long
        scene.node.head = 104
        await scene.until(lambda: not scene.service.health().ok)
        assert "MigrationCheckError" in scene.service.health().reasons[0]
        assert scene.answers() == OLD

    play(story)


def test_staging_by_command_tells_how_it_goes(play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.says(FIRST, AHEAD, head=70)
        said: list[Progress] = []

        async def listen() -> None:
            async for word in scene.service.stage(NEW_DATA, None):
                said.append(word)  # noqa: PERF401 - it is looked at meanwhile

        listening = asyncio.create_task(listen())
        await scene.until(lambda: NEW in scene.up)
        await scene.until(lambda: said and said[-1].state == "state")
        scene.node.head = 80
        scene.up[NEW].follower.progress.imported = 79
        scene.up[NEW].follower.progress.l1_head = 80
        scene.up[NEW].height = 78
        await scene.until(listening.done)
        assert said[-1].state == "ready"
        assert "block 100" in said[-1].waits_for
        assert (said[-1].generation, said[-1].upgrade_at) == (1, 100)

    play(story)


def test_what_the_schedule_does_not_name_is_not_staged(play) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(BundleNotScheduledError):
            async for _ in scene.service.stage(NEW_DATA, None):
                pass
        assert list(scene.config.home.glob("instances/*")) == []

    play(story)


def test_the_homes_own_code_is_staged_where_it_is(play) -> None:
    async def story(scene: Scene) -> None:
        said = [one async for one in scene.service.stage(OLD_DATA, None)]
        assert said[-1].fingerprint == OLD.hex()
        assert list(scene.config.home.glob("instances/*")) == []

    play(story)


def test_a_snapshot_is_made_of_the_instance_that_answers(play) -> None:
    async def story(scene: Scene) -> None:
        await scene.upgraded()
        new = scene.up[NEW]
        header = SnapshotHeader(header=b"h", height=Height(100), chunks=1)
        new.enclave.answers |= {
            "SnapshotBegin": lambda _: header,
            "SnapshotGet": lambda r: SnapshotChunk(index=r.index, data=b"chunk"),
        }
        made = await snapshot_in_running(scene.config.home)
        assert [one.name for one in new.store.stored_snapshots()] == [made.name]
        assert scene.up[OLD].store.stored_snapshots() == []
        (listed,) = list_snapshots(scene.config.home)
        assert (listed.path.name, listed.height, listed.standing) == (
            made.name,
            made.height,
            "whole",
        )
        new.enclave.answers["SnapshotBegin"] = lambda _: refusal("NoStateError")
        with pytest.raises(ControlError, match="NoStateError"):
            await snapshot_in_running(scene.config.home)

    play(story)


def test_without_an_enclave_that_is_up_no_snapshot_is_made(play) -> None:
    async def story(scene: Scene) -> None:
        await scene.upgraded()
        for code in (OLD, NEW):
            scene.refuse[code] = EnclaveGoneError("no memory")
            scene.up[code].dies("no memory")
        await scene.until(lambda: not scene.up)
        with pytest.raises(StalledError, match="no enclave is up") as caught:
            await scene.service.snapshot()
        assert caught.value.got

    play(story)


def test_a_node_that_goes_away_ends_nothing(play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.lost = True
        await asyncio.sleep(0.2)
        scene.node.lost = False
        scene.node.says(FIRST, AHEAD, head=60)
        scene.put_new()
        await scene.until(lambda: NEW in scene.up)

    play(story)
