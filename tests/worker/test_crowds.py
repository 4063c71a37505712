"""Strangers come in crowds, or send without end: the worker goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from test_api import ENVELOPE, Front, got, play, status

from sealift.base import DecodeError, Height, decode, encode
from sealift.client import WorkerBusyError
from sealift.client._workers import Workers
from sealift.protocol.ecall import Ask, DumpRa, GetStatus, Request
from sealift.transport.http import Listening, serve
from sealift.worker import CrowdedError, CrowdOfPeerError, UpstreamError, WorkerStore
from sealift.worker import _api as api
from sealift.worker import _upstream as upstream
from sealift.worker._door import Door, Places
from sealift.worker._upstream import Upstream

__all__ = ["play"]  # the fixture

#: More than any test reads; who reads on gets no end.
MUCH = 64 * 1024 * 1024


class Held:
    """An enclave that takes its time over one kind of request."""

    def __init__(self, front: Front, kind: type) -> None:
        self.go = asyncio.Event()
        self.inside = 0
        self.most = 0
        self._kind = kind
        self._call = front.enclave.call
        front.enclave.call = self.call

    async def call(self, payload: bytes) -> bytes:
        if isinstance(decode(Request, payload), self._kind):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await self.go.wait()
            self.inside -= 1
        return await self._call(payload)


@contextlib.asynccontextmanager
async def at(where: Listening, address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody with an address of his own."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0)
    async with aiohttp.ClientSession(where.url, connector=connector) as http:
        yield http


async def ask(http: aiohttp.ClientSession) -> tuple[int, str, str]:
    async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
        retry = answer.headers.get("Retry-After", "")
        if answer.status == 200:
            return 200, "", retry
        return (*await got(answer), retry)


def test_a_crowd_of_getters_does_not_stand_before_the_blocks(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, w: Listening) -> None:
        held = Held(front, Ask)
        most, mine = api._ASKS.together, api._ASKS.per_address
        async with at(w, "127.0.0.2") as one, at(w, "127.0.0.3") as two:
            crowd = [
                asyncio.create_task(ask(who))
                for who in (one, two)
                for _ in range(mine + 4)
            ]
            while sum(task.done() for task in crowd) < 8 or held.inside < most:
                await asyncio.sleep(0.005)
            refused = [task.result() for task in crowd if task.done()]
            assert set(refused) == {(429, "CrowdOfPeerError", "1")}
            assert await ask(http) == (503, "CrowdedError", "1")
            async with http.get("/v1/status") as answer:  # an operator sees it
                assert answer.status == 200
            held.go.set()
            answers = await asyncio.gather(*crowd)
        assert sum(code == 200 for code, _, _ in answers) == most == held.most
        assert front.api._asks.inside == 0
        assert (await ask(http))[0] == 200

    play(story)


def test_a_refusal_says_what_to_do_and_a_failure_gives_its_place_back() -> None:
    door = Door(Places(together=2, per_address=1), what="getters")
    with door.entered("10.0.0.1"):
        with (
            pytest.raises(CrowdOfPeerError, match=r"got 2, expected ≤ 1\. Ask again"),
            door.entered("10.0.0.1"),
        ):
            pass
        with door.entered("2001:db8::1"):
            with pytest.raises(CrowdOfPeerError), door.entered("2001:db8::2"):
                pass
            with (
                pytest.raises(CrowdedError, match=r"got 3, expected ≤ 2\. Ask again"),
                door.entered("10.0.0.2"),
            ):
                pass
    with pytest.raises(DecodeError), door.entered("10.0.0.1"):
        raise DecodeError("it fails")
    assert door.inside == 0
    assert not door._inside


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/dump-ra", DumpRa),
        ("/v1/state/snapshot?fresh_at=9", GetStatus),
    ],
)
def test_certificates_and_snapshots_are_bounded_apart_from_getters_and_looks(
    play, path: str, kind: type
) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, w: Listening) -> None:
        held = Held(front, kind)
        front.enclave.answers["GetStatus"] = lambda _: status(state_height=Height(7))
        mine = api._FETCHES.per_address
        async with at(w, "127.0.0.2") as stranger:
            crowd = [asyncio.create_task(stranger.get(path)) for _ in range(mine + 3)]
            while sum(task.done() for task in crowd) < 3 or not held.inside:
                await asyncio.sleep(0.005)
            for task in crowd:
                if task.done():
                    assert await got(task.result()) == (429, "CrowdOfPeerError")
            assert front.api._fetches.inside == mine
            assert (await ask(http))[0] == 200
            for look in ("/healthz", "/v1/status"):
                async with http.get(look) as answer:
                    assert answer.status == 200
            held.go.set()
            for answer in await asyncio.gather(*crowd):
                answer.close()
        assert front.api._fetches.inside == 0

    play(story)


@pytest.mark.parametrize("path", ["/v1/status", "/metrics"])
def test_what_operators_look_at_is_bounded_too(play, path: str) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        front.api._looks = Door(Places(together=0, per_address=1), what="looks")
        async with http.get(path) as answer:
            assert await got(answer) == (503, "CrowdedError")

    play(story)


def test_those_who_wait_for_news_are_bounded_and_the_others_answered(play) -> None:
    receipt = "/v1/receipts/" + "00" * 32

    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        front.api._waits = Door(Places(together=9, per_address=1), what="waits")
        async with http.ws_connect("/v1/executions") as socket:
            for path in (f"{receipt}?wait=9", "/v1/state/diffs?after=0&wait=9"):
                async with http.get(path) as answer:
                    assert await got(answer) == (429, "CrowdOfPeerError")
                    assert answer.headers["Retry-After"] == "1"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect("/v1/executions")
            assert refused.value.status == 429
            async with http.get(receipt) as answer:
                assert answer.status == 404
            async with http.get("/v1/state/diffs?after=0") as answer:
                assert answer.status == 200
            await socket.send_bytes(bytes(2000))  # a listener has nothing to say
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        while front.api._waits.inside:
            await asyncio.sleep(0.005)

    play(story)


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/submit"])
def test_a_body_without_end_is_not_taken_in(play, path: str) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < MUCH:
            sent += 1 << 16
            yield bytes(1 << 16)
            await asyncio.sleep(0)

    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.post(path, data=endless()) as answer:
            assert await got(answer) == (413, "TooLargeError")
        assert sent < MUCH // 4
        assert not front.enclave.asked

    play(story)


class Endless:
    """A worker that never ends its answer."""

    def __init__(self, code: int = 200) -> None:
        self.code = code
        self.sent = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=self.code)
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while self.sent < MUCH:
                await answer.write(bytes(1 << 16))
                self.sent += 1 << 16
        return answer

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.handle)
        return app


async def chunk(peer: Upstream) -> bytes:
    offered = upstream.OfferedSnapshot(height=Height(7), header=b"", chunks=1)
    return await peer.chunk(offered, 0)


@pytest.mark.parametrize("code", [200, 500])
@pytest.mark.parametrize(
    "read",
    [
        lambda peer: peer.signing_key(),
        lambda peer: peer.snapshot(),
        lambda peer: peer.diffs(0),
        chunk,
        lambda peer: peer.offers(0),
        lambda peer: peer.offered("7-" + "0" * 12, header=None),
    ],
    ids=["signing_key", "snapshot", "diffs", "chunk", "offers", "manifest"],
)
def test_an_upstream_that_sends_without_end_is_left(
    read: Callable[[Upstream], Awaitable[object]],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "_MAX_BYTES", 1 << 20)
    peer = Endless(code)

    async def main() -> None:
        async with (
            asyncio.timeout(10),
            serve(peer.app()) as where,
            aiohttp.ClientSession() as http,
        ):
            said = "without end" if code == 200 else "refuses"
            with pytest.raises(UpstreamError, match=said):
                await read(Upstream(where.url, http))

    asyncio.run(main())
    assert peer.sent < MUCH // 4


@pytest.mark.parametrize("count", [0, 2**40])
def test_a_snapshot_of_more_chunks_than_any_state_is_left(count: int) -> None:
    async def offer(_: web.Request) -> web.Response:
        return web.Response(body=encode((7, b"header", count)))

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", offer)
        async with serve(app) as where, aiohttp.ClientSession() as http:
            with pytest.raises(UpstreamError, match="snapshot without end"):
                await Upstream(where.url, http).snapshot()

    asyncio.run(main())


def test_diffs_are_handed_out_in_answers_that_a_peer_takes(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_MAX_DIFFS_BYTES", 100)

    async def story(front: Front, http: aiohttp.ClientSession, w: Listening) -> None:
        for height, size in ((1, 60), (2, 40), (3, 1), (4, 500), (5, 1)):
            front.store.commit_diff(Height(height), bytes(size))
        async with aiohttp.ClientSession() as plain:
            peer = Upstream(w.url, plain)
            found, after = [], 0
            while some := await peer.diffs(after):
                found.append([height for height, _ in some])
                after = some[-1][0]
        assert found == [[1, 2], [3], [4], [5]]

    play(story)


def test_diffs_that_are_too_long_together_come_one_by_one(tmp_path: Path) -> None:
    store = WorkerStore(tmp_path / "db", shard=api.Digest(bytes(32)), fingerprint=b"")
    for height in (1, 2, 3):
        store.commit_diff(Height(height), bytes(10))
    assert [h for h, _ in store.diffs_after(0, most_bytes=20)] == [1, 2]
    assert [h for h, _ in store.diffs_after(2, most_bytes=5)] == [3]
    assert [h for h, _ in store.diffs_after(1, most=1, most_bytes=20)] == [2]
    store.close()


def test_a_client_asks_again_where_only_a_crowd_is_in_the_way(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, w: Listening) -> None:
        front.api._asks = Door(Places(together=0, per_address=1), what="getters")
        async with aiohttp.ClientSession() as plain:
            workers = Workers([w.url], plain)
            asking = asyncio.create_task(workers.ask(encode(ENVELOPE)))
            await asyncio.sleep(0.1)
            front.api._asks = Door(Places(together=1, per_address=1), what="getters")
            assert await asking == b"sealed answer"

    play(story)


def test_a_client_says_who_is_busy_when_a_crowd_stays(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.client._workers._PAUSE_SECONDS", 0.0)

    async def story(front: Front, http: aiohttp.ClientSession, w: Listening) -> None:
        front.api._asks = Door(Places(together=0, per_address=1), what="getters")
        async with aiohttp.ClientSession() as plain:
            with pytest.raises(WorkerBusyError, match="too many getters") as busy:
                await Workers([w.url], plain).ask(encode(ENVELOPE))
        assert busy.value.seconds == 1
        assert not front.enclave.asked

    play(story)
