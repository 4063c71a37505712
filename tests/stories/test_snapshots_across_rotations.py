"""A snapshot on a worker's disk outlives its epoch: the host's code, real enclaves."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from story import Story

from sealift.base import Height, Message, StateRoot, decode, encode
from sealift.protocol import RotationRequest, ShardStatus, StatusOrder, epoch_at
from sealift.protocol.ecall import Request, SnapshotChecked
from sealift.testing import WorldWorker
from sealift.transport.http import make_app, serve
from sealift.worker import EnclaveRefusedError, StoreError, WorkerStore
from sealift.worker._api import API_ERRORS
from sealift.worker._archive import checked_by
from sealift.worker._channel import EnclaveChannel
from sealift.worker._download import Downloads
from sealift.worker._follower import Follower
from sealift.worker._rate import Bandwidth
from sealift.worker._snapshots import Manifest
from sealift.worker._state import begin_export, restore_state, write_export
from sealift.worker._state_api import StateRoutes
from sealift.worker._upstream import Upstream


class Host:
    """What a worker has of its own around an enclave: a database and snapshots."""

    def __init__(self, worker: WorldWorker, folder: Path) -> None:
        self.worker = worker
        folder.mkdir()
        self.store = WorkerStore(
            folder / "worker.db",
            shard=worker.shard,
            fingerprint=worker.release.fingerprint,
        )
        self.channel = EnclaveChannel(self)

    async def call(self, payload: bytes) -> bytes:
        request: Message = decode(
            cast("type[Message]", Request), payload, limit=1 << 24
        )
        return encode(self.worker.ask_enclave(request))

    def keep(self) -> Manifest:
        """A snapshot of the state as it is now, named; and every diff so far."""

        async def main() -> Manifest:
            await self.channel.hello()
            begun = await begin_export(self.channel)
            made = await write_export(self.channel, self.store, begun)
            self.store.put_snapshot(made)
            return self.store.snapshots.verify(made.name)

        self.keep_diffs()
        return asyncio.run(main())

    def keep_diffs(self) -> None:
        for height, diff in self.worker.disk.diffs.items():
            self.store.commit_diff(height, diff)

    def restart(self, *, key_store: bytes | None = None) -> Height | None:
        """Another process, with nothing but what this disk gives back."""
        worker = self.worker
        worker.kill()
        worker.disk.genesis = worker.disk.snapshot = None
        worker.disk.key_store = key_store or worker.disk.key_store
        worker.start()
        assert worker.status().state_height is None
        return asyncio.run(restore_state(self.channel, self.store, genesis=None))

    def check(self, path: Path) -> SnapshotChecked:
        async def main() -> SnapshotChecked:
            await self.channel.hello()
            return await checked_by(self.channel, path)

        return asyncio.run(main())

    def fetch_from(self, other: "Host") -> Height:
        """As a newcomer: the other's newest snapshot over HTTP, then its diffs."""
        follower = Follower(
            channel=self.channel,
            l1=cast("Any", None),  # nothing of a snapshot is asked of L1
            feed=cast("Any", None),
            store=self.store,
            outbox=cast("Any", None),
            shard=self.worker.shard,
            me=self.worker.signing_key,
        )

        async def main() -> Height:
            await self.channel.hello()
            app = make_app([], errors=API_ERRORS)
            routes = StateRoutes(other.store, Bandwidth(0))
            for (method, path), handler in routes.handlers().items():
                app.router.add_route(method, path, handler)
            async with serve(app) as where, aiohttp.ClientSession() as http:
                peer = Upstream(where.url, http)
                offers = await peer.offers(0)
                assert offers is not None
                downloads = Downloads(follower, self.store)
                offered = await downloads.choose(peer, offers, fresh_at=0)
                assert offered is not None
                height = await downloads.take(peer, offered)
            for number, diff in other.store.diffs_after(height):
                await follower.apply_diff(number, diff)
            return height

        return asyncio.run(main())

    def root(self) -> tuple[Height | None, StateRoot | None]:
        status = self.worker.status()
        return status.state_height, status.root

    def path_of(self, manifest: Manifest) -> Path:
        return self.store.snapshots.path / manifest.name


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[WorldWorker], Host]]:
    made: list[Host] = []

    def make(worker: WorldWorker) -> Host:
        made.append(Host(worker, tmp_path / f"host-{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def epoch_now(story: Story) -> int:
    return epoch_at(story.world.schedule_now(), story.world.height).epoch


def by_order(story: Story) -> tuple[WorldWorker, Callable[[], None]]:
    """The worker whose shard's keys the authority has rotated, and how."""

    def rotate() -> None:
        world = story.world
        order = world.order(
            StatusOrder,
            status=ShardStatus(),
            rotate=RotationRequest(not_before=0, grace=0),
        )
        world.submit(world.sign_order(order))
        story.business(2)
        story.old.stage_keys()
        story.business(4)

    return story.old, rotate


def by_upgrade(story: Story) -> tuple[WorldWorker, Callable[[], None]]:
    """The new generation, from when it has the state, and how its keys came."""
    entry = story.schedule()
    new = story.join(entry)
    story.business_until(entry.upgrade_at + 1)
    assert new.executions[0] == entry.upgrade_at

    def rotate() -> None:
        story.business(2)
        new.register()
        new.stage_keys()
        story.business(4)

    return new, rotate


WAYS = pytest.mark.parametrize("way", [by_order, by_upgrade], ids=lambda f: f.__name__)
Way = Callable[[Story], tuple[WorldWorker, Callable[[], None]]]
Hosts = Callable[[WorldWorker], Host]


@WAYS
def test_a_restart_loads_the_one_from_before_and_replays_across(
    story: Story, host: Hosts, way: Way
) -> None:
    worker, rotate = way(story)
    disk = host(worker)
    made = disk.keep()
    rotate()
    disk.keep_diffs()
    assert (made.epoch, epoch_now(story)) == (0, 1)
    before = disk.root()
    assert before[0] is not None
    assert before[0] > made.height
    assert disk.restart() == before[0]
    assert disk.root() == before
    worker.step()  # and goes on, as if it had never ended
    story.business(3)
    story.settle()
    assert worker.refusals == []
    story.check_calls()
    story.check_roots_agree()


@WAYS
def test_both_are_verified_by_whoever_holds_both_epochs(
    story: Story, host: Hosts, way: Way
) -> None:
    worker, rotate = way(story)
    disk = host(worker)
    old = disk.keep()
    rotate()
    new = disk.keep()
    assert (old.epoch, new.epoch) == (0, 1)
    before = disk.root()
    for made in (old, new):
        checked = disk.check(disk.path_of(made))
        assert (checked.height, checked.epoch, checked.missing) == (
            made.height,
            made.epoch,
            0,
        )
        assert checked.root.hex() == made.root
    assert disk.root() == before
    assert disk.restart() == new.height  # of two, the newest


@WAYS
def test_a_newcomer_fetches_the_one_from_before_and_goes_on_across(
    story: Story, host: Hosts, way: Way
) -> None:
    worker, rotate = way(story)
    disk = host(worker)
    made = disk.keep()
    rotate()
    late = story.world.worker("late", worker.release, operator="operator-2")
    late.request_keys(worker)
    disk.keep_diffs()
    newcomer = host(late)
    assert newcomer.fetch_from(disk) == made.height
    assert newcomer.root() == disk.root()
    assert newcomer.restart() == disk.root()[0]  # what it fetched is its own now
    assert newcomer.root() == disk.root()


def test_without_the_keys_of_its_epoch_it_is_refused_by_name_and_kept(
    story: Story, host: Hosts
) -> None:
    """The keys of a disk rolled back to before the rotation; a code that had to go."""
    worker, rotate = by_order(story)
    disk = host(worker)
    stale = worker.disk.key_store
    assert stale is not None
    rotate()
    made = disk.keep()
    disk.check(disk.path_of(made))
    with pytest.raises(StoreError, match="NoKeysError") as caught:
        disk.restart(key_store=stale)
    assert "left as it is" in caught.value.hint
    assert worker.status().epochs == (0,)
    with pytest.raises(EnclaveRefusedError, match="NoKeysError"):
        disk.check(disk.path_of(made))
    assert disk.store.snapshots.verify(made.name) == made


def test_the_former_generation_can_not_take_the_later_one_over(
    story: Story, host: Hosts
) -> None:
    new, rotate = by_upgrade(story)
    rotate()
    disk, former = host(new), host(story.old)
    made = disk.keep()
    before = former.root()
    with pytest.raises(EnclaveRefusedError, match="NoKeysError"):
        former.fetch_from(disk)
    with pytest.raises(EnclaveRefusedError, match="NoKeysError"):
        former.check(disk.path_of(made))
    assert former.root() == before
    assert former.store.stored_snapshots() == []
