"""A snapshot from another worker: resumed after any end, and no lie is taken in."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from enclave_world import CODE_A, SHARD, Host, World
from snapshot_forge import export_v1

from sealift.base import Fingerprint, Height, ShardId, encode
from sealift.protocol.ecall import SnapshotHeader
from sealift.transport.http import make_app, serve
from sealift.worker import (
    EnclaveRefusedError,
    NoSnapshotError,
    SnapshotNotKeptError,
    UpstreamBusyError,
    UpstreamError,
    WorkerStore,
)
from sealift.worker import _download as download_module
from sealift.worker._api import API_ERRORS, RETRY_AFTER
from sealift.worker._channel import EnclaveChannel
from sealift.worker._door import Door, Places
from sealift.worker._download import TRIES, Downloads
from sealift.worker._follower import Follower
from sealift.worker._rate import Bandwidth
from sealift.worker._snapshots import piece_of
from sealift.worker._state import about
from sealift.worker._state_api import StateRoutes
from sealift.worker._store import StoredSnapshot
from sealift.worker._upstream import (
    Offer,
    OfferedSnapshot,
    Offers,
    Upstream,
    Weight,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealift.enclave._snapshot.CHUNK_BYTES", 200)
    monkeypatch.setattr(download_module, "BUSY_SECONDS", 0.01)


class InProcess:
    """A channel to an enclave that lives here."""

    def __init__(self, host: Host) -> None:
        self.host = host

    async def call(self, payload: bytes) -> bytes:
        await asyncio.sleep(0)
        return self.host.enclave.handle(payload)


class Side:
    """A worker's part in this: its enclave, its disk."""

    def __init__(self, path: Path, host: Host, *, shard: bytes = SHARD) -> None:
        path.mkdir(exist_ok=True)
        self.path, self.host, self.shard = path, host, shard
        self.open()

    def open(self) -> None:
        """The process comes up, and finds what is on its disk."""
        self.store = WorkerStore(
            self.path / "worker.db",
            shard=ShardId(self.shard),
            fingerprint=Fingerprint(CODE_A),
        )
        self.channel = EnclaveChannel(InProcess(self.host))
        nothing: Any = None
        self.follower = Follower(
            channel=self.channel,
            l1=nothing,
            feed=nothing,
            store=self.store,
            outbox=nothing,
            shard=ShardId(self.shard),
            me=self.host.status().signing_key,
        )
        self.downloads = Downloads(self.follower, self.store)

    def killed(self) -> None:
        """kill -9 of worker and enclave; both come up again."""
        self.store.close()
        self.host.boot()
        self.host.start()
        self.open()
        named = {one.name for one in self.store.stored_snapshots()}
        self.store.snapshots.sweep(named)


Lie = Callable[[bytes], bytes]


def aborted(request: web.Request) -> web.Response:
    """The connection is gone, as of a process that was killed."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Peer:
    """A worker that serves snapshots, counts, and lies where it is told to."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.routes = StateRoutes(side.store, Bandwidth(0))
        self.served: Counter[str] = Counter()
        self.sent = 0
        self.lies: dict[str, Lie] = {}
        self.left: int | None = None  # chunks until it dies
        self.endless = ""

    def app(self) -> web.Application:
        @web.middleware
        async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
            last = request.path.rpartition("/")[2]
            if self.endless == last:
                return await self._without_end(request)
            if last.isdecimal():
                if self.left == 0:
                    return aborted(request)
                if self.left is not None:
                    self.left -= 1
            answer = await handler(request)
            lie = self.lies.get(last)
            if lie is not None:
                answer = web.Response(body=lie(answer.body))
            self.served[last] += 1
            if last.isdecimal():
                self.sent += len(answer.body)
            return answer

        routes = [
            web.route(method, path, handler)
            for (method, path), handler in self.routes.handlers().items()
        ]
        app = make_app(routes, errors=API_ERRORS, retry_after=RETRY_AFTER)
        app.middlewares.append(middleware)
        return app

    async def _without_end(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(1 << 12):
            await answer.write(bytes(1 << 16))
            self.sent += 1 << 16
        return answer

    @property
    def chunks(self) -> dict[int, int]:
        """How often each chunk was served."""
        return {int(n): count for n, count in self.served.items() if n.isdecimal()}


@asynccontextmanager
async def asked(peer: Peer) -> AsyncIterator[Upstream]:
    async with serve(peer.app()) as where, aiohttp.ClientSession() as http:
        yield Upstream(where.url, http)


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(whole())


def busy(world: World, blocks: int = 3) -> None:
    nonce = world.host.status().state_height - 4
    for number in range(blocks):
        world.l1.block(world.l1.invoke(world.host.transfer(7, nonce=nonce + number)))
    world.l1.block()
    world.host.run()


class Cast:
    """Somebody with a snapshot, and somebody with keys and without a state."""

    def __init__(self, path: Path, world: World) -> None:
        busy(world)
        self.path, self.world = path, world
        self.giver = Side(path / "giver", world.host)
        self.taker = Side(path / "taker", world.twin())
        self.taker.host.follow()
        self.peer = Peer(self.giver)

    async def offers(self) -> StoredSnapshot:
        """The giver makes a snapshot of its state."""
        await self.giver.follower.keep_snapshot()
        found = self.giver.store.snapshot()
        assert found is not None
        return found

    async def fetch(self, at: Upstream, *, fresh_at: int = 0) -> OfferedSnapshot:
        offers = await at.offers(0)
        assert offers is not None
        offered = await self.taker.downloads.choose(at, offers, fresh_at=fresh_at)
        assert offered is not None
        await self.taker.downloads.take(at, offered)
        return offered

    def has_it(self, name: str) -> None:
        """The taker stands where the giver stands, in enclave and on disk."""
        mine, theirs = self.taker.host.status(), self.giver.host.status()
        assert (mine.state_height, mine.root) == (theirs.state_height, theirs.root)
        found = self.taker.store.snapshot()
        assert found is not None
        assert found.name == name
        manifest = self.taker.store.snapshots.verify(name)
        assert (manifest.root, manifest.epoch) == (mine.root.hex(), 0)
        assert self.taker.store.snapshots.names() == [name]
        assert self.taker.store.snapshots.partial() == []

    def has_nothing(self) -> None:
        assert self.taker.host.status().state_height is None
        assert self.taker.store.snapshot() is None


@pytest.fixture
def cast(tmp_path: Path, world: World):
    made = Cast(tmp_path, world)
    yield made
    made.giver.store.close()
    made.taker.store.close()


def test_a_snapshot_is_fetched_chunk_by_chunk_and_taken_over(cast: Cast) -> None:
    async def story() -> None:
        made = await cast.offers()
        async with asked(cast.peer) as at:
            await cast.fetch(at)
        cast.has_it(made.name)
        count = len(cast.giver.store.snapshots.manifest(made.name).chunks)
        assert count > 4
        assert cast.peer.chunks == dict.fromkeys(range(count), 1)

    play(story)


@pytest.mark.parametrize("after", [1, 3])
def test_killed_in_the_middle_only_what_is_missing_is_fetched(
    cast: Cast, after: int
) -> None:
    async def story() -> None:
        made = await cast.offers()
        cast.peer.left = after
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError, match="cannot be reached"):
                await cast.fetch(at)
        cast.has_nothing()
        cast.taker.killed()
        assert cast.taker.store.snapshots.partial() == [made.name]
        manifest = cast.giver.store.snapshots.manifest(made.name)
        before, cast.peer.sent, cast.peer.left = cast.peer.sent, 0, None
        async with asked(cast.peer) as at:  # the other side came up again, too
            await cast.fetch(at)
        cast.has_it(made.name)
        assert set(cast.peer.chunks.values()) == {1}
        assert before + cast.peer.sent == sum(piece.size for piece in manifest.chunks)
        assert before == sum(piece.size for piece in manifest.chunks[:after])

    play(story)


def test_a_download_goes_on_at_another_peer_that_has_the_same(cast: Cast) -> None:
    async def story() -> None:
        made = await cast.offers()
        third = Side(cast.path / "third", cast.giver.host)
        shutil.copytree(cast.giver.store.snapshots.path, third.store.snapshots.path)
        third.store.put_snapshot(made)
        cast.peer.left = 2
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError):
                await cast.fetch(at)
        other = Peer(third)
        async with asked(other) as at:
            await cast.fetch(at)
        cast.has_it(made.name)
        assert cast.peer.chunks.keys().isdisjoint(other.chunks)
        third.store.close()

    play(story)


def test_what_the_peer_has_dropped_is_begun_with_a_newer_one(cast: Cast) -> None:
    async def story() -> None:
        old = await cast.offers()
        cast.peer.left = 2
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError):
                await cast.fetch(at)
        busy(cast.world)
        cast.giver.follower.keep_snapshots = 1
        new = await cast.offers()
        assert cast.giver.store.snapshots.names() == [new.name]
        cast.taker.host.follow()
        cast.peer.left = None
        async with asked(cast.peer) as at:
            gone = Offers(
                diffs=Weight(count=0, last=0, size=0), snapshots=(_offer(old),)
            )
            with pytest.raises(UpstreamError, match="dropped its snapshot"):
                await cast.taker.downloads.choose(at, gone, fresh_at=0)
            await cast.fetch(at)
        cast.has_it(new.name)

    play(story)


def _offer(one: StoredSnapshot) -> Offer:
    return Offer(
        name=one.name, height=one.height, size=1, diffs=Weight(count=0, last=0, size=0)
    )


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_chunk_that_is_not_what_the_list_says_is_fetched_again(cast: Cast) -> None:
    async def story() -> None:
        made = await cast.offers()
        lies = iter([True, True])

        def at_first(data: bytes) -> bytes:
            return flipped(data) if next(lies, False) else data

        cast.peer.lies["2"] = at_first
        async with asked(cast.peer) as at:
            await cast.fetch(at)
        cast.has_it(made.name)
        assert cast.peer.chunks[2] == 3

    play(story)


@pytest.mark.parametrize(
    "lie",
    [flipped, lambda data: data[:-1], lambda _: b""],
    ids=["altered", "cut", "empty"],
)
def test_a_peer_that_goes_on_lying_is_left_and_its_good_chunks_stay(
    cast: Cast, lie: Lie
) -> None:
    async def story() -> None:
        made = await cast.offers()
        cast.peer.lies["2"] = lie
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError, match="sends another chunk 2 than it"):
                await cast.fetch(at)
            assert cast.peer.chunks == {0: 1, 1: 1, 2: TRIES}
            cast.has_nothing()
            del cast.peer.lies["2"]
            await cast.fetch(at)
        cast.has_it(made.name)
        assert cast.peer.chunks[0] == cast.peer.chunks[1] == 1

    play(story)


def promised(cast: Cast, **changes: Any) -> Lie:
    """A manifest that promises what the peer then sends."""

    def lie(raw: bytes) -> bytes:
        manifest = msgspec.json.decode(raw)
        for name, change in changes.items():
            manifest[name] = change(manifest[name])
        return msgspec.json.encode(manifest)

    return lie


def test_chunks_that_the_enclave_refuses_are_not_kept_whatever_was_promised(
    cast: Cast,
) -> None:
    """Swapped, and the list of hashes with them: only the enclave sees it."""

    async def story() -> None:
        made = await cast.offers()
        folder = cast.giver.store.snapshots
        other = {"2": folder.chunk(made.name, 3), "3": folder.chunk(made.name, 2)}

        def swap(chunks: list[Any]) -> list[Any]:
            chunks[2], chunks[3] = chunks[3], chunks[2]
            return chunks

        cast.peer.lies[made.name] = promised(cast, chunks=swap)
        cast.peer.lies["2"] = lambda _: other["2"]
        cast.peer.lies["3"] = lambda _: other["3"]
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError, match="SnapshotForgedError") as caught:
                await cast.fetch(at)
            assert f"refused by the enclave, {TRIES} times" in str(caught.value)
            cast.has_nothing()
            assert cast.taker.store.snapshots.names() == []  # none of it is good
            offers = await at.offers(0)
            assert offers is not None
            choose = cast.taker.downloads.choose
            assert await choose(at, offers, fresh_at=0) is None  # nor asked for again

    play(story)


def test_a_repeated_chunk_is_refused_by_its_place(cast: Cast) -> None:
    async def story() -> None:
        made = await cast.offers()
        first = cast.giver.store.snapshots.chunk(made.name, 1)

        def repeat(chunks: list[Any]) -> list[Any]:
            chunks[2] = chunks[1]
            return chunks

        cast.peer.lies[made.name] = promised(cast, chunks=repeat)
        cast.peer.lies["2"] = lambda _: first
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError, match=r"chunk 2 .*SnapshotForgedError"):
                await cast.fetch(at)
        cast.has_nothing()

    play(story)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shard": lambda _: "0" * 64}, "of another shard"),
        ({"height": lambda height: height + 1}, "manifest of another snapshot"),
        ({"header": lambda _: [1, "0" * 64]}, "without end|manifest of another"),
        ({"chunks": lambda chunks: chunks[:-1]}, "what its header does not"),
        ({"chunks": lambda chunks: chunks * 2}, "what its header does not"),
        ({"chunks": lambda _: []}, "no manifest of a snapshot"),
        ({"chunks": lambda _: [[1 << 40, "0" * 64]]}, "no manifest of a snapshot"),
        ({"format": lambda _: 9}, "no manifest of a snapshot"),
    ],
    ids=["shard", "height", "header", "cut", "longer", "none", "huge", "format"],
)
def test_a_wrong_manifest_is_refused_before_a_chunk_is_asked_for(
    cast: Cast, changes: dict[str, Any], words: str
) -> None:
    async def story() -> None:
        made = await cast.offers()
        cast.peer.lies[made.name] = promised(cast, **changes)
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError, match=words):
                await cast.fetch(at)
        cast.has_nothing()
        assert not cast.peer.chunks
        assert cast.taker.store.snapshots.names() == []

    play(story)


def test_another_shards_snapshot_is_refused_by_the_enclave(
    cast: Cast, tmp_path: Path
) -> None:
    """Also where its manifest says that it is this one's."""

    async def story() -> None:
        made = await cast.offers()
        header = cast.giver.store.snapshots.header(made.name)
        begun = SnapshotHeader(header=flipped(header), height=made.height, chunks=1)
        draft = cast.giver.store.snapshots.draft(made.height, begun.header)
        draft.put(0, b"chunk")
        forged = draft.finish(1, about(cast.giver.store, begun))
        cast.giver.store.put_snapshot(
            StoredSnapshot(height=made.height, name=forged.name)
        )
        async with asked(cast.peer) as at:
            with pytest.raises(EnclaveRefusedError, match="SnapshotForgedError"):
                await cast.fetch(at)
        assert forged.name in cast.taker.downloads.refused
        cast.has_nothing()
        assert not cast.peer.chunks

    play(story)


def test_a_rolled_back_snapshot_does_not_take_the_state_back(cast: Cast) -> None:
    async def story() -> None:
        old = await cast.offers()
        async with asked(cast.peer) as at:
            await cast.fetch(at)
            kept = await at.offered(old.name, header=None)
            busy(cast.world)
            new = await cast.offers()
            cast.taker.host.follow()
            await cast.fetch(at)
            with pytest.raises(EnclaveRefusedError, match="OldSnapshotError"):
                await cast.taker.downloads.take(at, kept)
        cast.has_it(new.name)

    play(story)


def test_a_chunk_without_end_is_left(cast: Cast) -> None:
    async def story() -> None:
        await cast.offers()
        cast.peer.endless = "2"
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError, match="without end"):
                await cast.fetch(at)
        assert cast.peer.sent < 1 << 26
        cast.has_nothing()

    play(story)


def test_a_disk_that_fills_up_is_named_and_the_download_goes_on_later(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made = await cast.offers()
        real, room = Path.write_bytes, iter(range(3))

        def filling(self: Path, data: bytes) -> int:
            if "taker" in self.parts and next(room, None) is None:
                raise OSError(28, "No space left on device")
            return real(self, data)

        async with asked(cast.peer) as at:
            with monkeypatch.context() as patch:
                patch.setattr(Path, "write_bytes", filling)
                with pytest.raises(SnapshotNotKeptError, match="no space to write"):
                    await cast.fetch(at)
            cast.has_nothing()
            await cast.fetch(at)
        cast.has_it(made.name)
        # The one that did not fit came twice, those before once.
        assert cast.peer.chunks[3] == 2
        assert cast.peer.chunks[0] == cast.peer.chunks[2] == 1

    play(story)


def test_a_chunk_that_was_damaged_on_disk_meanwhile_is_fetched_again(
    cast: Cast,
) -> None:
    async def story() -> None:
        made = await cast.offers()
        cast.peer.left = 3
        async with asked(cast.peer) as at:
            with pytest.raises(UpstreamError):
                await cast.fetch(at)
            path = cast.taker.store.snapshots.path / made.name / "chunks" / "000001"
            path.write_bytes(flipped(path.read_bytes()))
            cast.peer.left = None
            await cast.fetch(at)
        cast.has_it(made.name)
        assert (cast.peer.chunks[0], cast.peer.chunks[1]) == (1, 2)

    play(story)


def test_a_full_disk_keeps_the_older_snapshots_and_the_worker_going(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made = await cast.offers()
        busy(cast.world)
        real, room = Path.write_bytes, iter(range(3))

        def filling(self: Path, data: bytes) -> int:
            if next(room, None) is None:
                raise OSError(28, "No space left on device")
            return real(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", filling)
            with pytest.raises(SnapshotNotKeptError, match="room on the disk"):
                await cast.giver.follower.keep_snapshot()
        assert cast.giver.store.snapshots.names() == [made.name]
        cast.giver.store.snapshots.verify(made.name)
        busy(cast.world)  # blocks go on
        assert (await cast.offers()).height == cast.giver.host.status().state_height

    play(story)


def test_a_peer_that_is_busy_is_asked_again(cast: Cast) -> None:
    async def story() -> None:
        made = await cast.offers()
        full = Door(Places(together=0, per_address=0), what="downloads")
        cast.peer.routes._downloads, free = full, cast.peer.routes._downloads
        async with asked(cast.peer) as at:
            offered = await at.offered(made.name, header=None)
            with pytest.raises(UpstreamBusyError):
                await at.chunk(offered, 0)
            fetching = asyncio.create_task(cast.fetch(at))
            await asyncio.sleep(0.1)
            cast.peer.routes._downloads = free
            await fetching
        cast.has_it(made.name)

    play(story)


def test_what_is_not_there_is_said_by_name(cast: Cast) -> None:
    async def story() -> None:
        made = await cast.offers()
        for name, number in ((made.name, 999), ("7-" + "0" * 12, 0), ("..", None)):
            with pytest.raises(NoSnapshotError, match="no such"):
                await cast.peer.routes.read(name, number)

    play(story)


class OldPeer(Peer):
    """A worker of the release before: snapshots by height, no manifest."""

    def app(self) -> web.Application:
        folder, store = self.side.store.snapshots, self.side.store

        async def newest(_: web.Request) -> web.Response:
            found = store.snapshot()
            assert found is not None
            chunks = len(folder.manifest(found.name).chunks)
            body = encode((found.height, folder.header(found.name), chunks))
            return web.Response(body=body)

        async def chunk(request: web.Request) -> web.Response:
            found = store.snapshot_at(int(request.match_info["height"]))
            number = int(request.match_info["number"])
            if found is None:
                raise web.HTTPNotFound
            if self.left == 0:
                return aborted(request)
            if self.left is not None:
                self.left -= 1
            self.served[str(number)] += 1
            lie = self.lies.get(str(number), bytes)
            return web.Response(body=lie(folder.chunk(found.name, number)))

        app = web.Application()
        app.router.add_get("/v1/state/snapshot", newest)
        app.router.add_get("/v1/state/snapshot/{height}/{number}", chunk)
        return app


async def fetch_old(cast: Cast, at: Upstream) -> OfferedSnapshot:
    assert await at.offers(0) is None
    offered = await at.snapshot()
    assert offered is not None
    await cast.taker.downloads.take(at, offered)
    return offered


@pytest.mark.parametrize("version", [1, 2])
def test_a_peer_of_the_release_before_is_downloaded_from_and_resumed(
    cast: Cast, version: int
) -> None:
    """With the snapshots that its enclave makes, whose chunks come in order."""

    async def story() -> None:
        made = await (cast.offers() if version > 1 else offers_v1(cast))
        peer = OldPeer(cast.giver)
        peer.left = 2
        async with asked(peer) as at:
            with pytest.raises(UpstreamError, match="cannot be reached"):
                await fetch_old(cast, at)
        cast.taker.killed()
        peer.left = None
        peer.lies["2"] = _once_flipped()
        async with asked(peer) as at:
            await fetch_old(cast, at)
        cast.has_it(made.name)
        assert peer.chunks[0] == peer.chunks[1] == 1
        assert peer.chunks[2] == 2  # the enclave alone saw that it was altered

    play(story)


def _once_flipped() -> Lie:
    lies = iter([True])
    return lambda data: flipped(data) if next(lies, False) else data


async def offers_v1(cast: Cast) -> StoredSnapshot:
    """As an enclave of format 1 makes it."""
    shard = cast.giver.host.enclave._shard
    assert shard is not None
    assert shard.state is not None
    header, chunks = export_v1(shard.keys, shard.state, chunk=200)
    height = cast.giver.host.status().state_height
    draft = cast.giver.store.snapshots.draft(height, header)
    for number, data in enumerate(chunks):
        draft.put(number, data)
    begun = SnapshotHeader(header=header, height=Height(height), chunks=len(chunks))
    draft.finish(len(chunks), about(cast.giver.store, begun))
    made = StoredSnapshot(height=Height(height), name=draft.name)
    cast.giver.store.put_snapshot(made)
    return made


def test_a_piece_knows_itself() -> None:
    assert piece_of(b"a").fits(b"a")
    assert not piece_of(b"a").fits(b"b")
