"""The HTTP surface: one table of errors, nothing that a stranger can break."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from doubles import (
    CODE,
    ME,
    SHARD,
    FakeAccount,
    FakeEnclave,
    FakeL1,
    LostError,
    executed,
    receipt,
    refusal,
    status,
)
from test_follower import FakeFeed

from sealift.base import Height, decode, encode
from sealift.protocol import Envelope, SealedReceipt
from sealift.protocol.ecall import (
    Answer,
    RaDump,
    SessionReply,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotHeader,
)
from sealift.transport.account import L1RefusedError
from sealift.transport.http import Listening, serve
from sealift.transport.rpc import NodeUnreachableError
from sealift.worker import UpstreamError, WorkerError, WorkerStore
from sealift.worker import _errors as errors
from sealift.worker._api import API_ERRORS, Api, Health
from sealift.worker._carry import CIPHERTEXT_SIZES, CarryGate, CarryTerms
from sealift.worker._channel import EnclaveChannel
from sealift.worker._follower import Executions, Follower
from sealift.worker._metrics import Metrics
from sealift.worker._outbox import Outbox
from sealift.worker._upstream import Upstream

ENVELOPE = Envelope(epoch=0, ciphertext=bytes(CIPHERTEXT_SIZES[0]))
GENEROUS = CarryTerms(carry=True, reserve=0, per_minute=99, per_address=99)


class Front:
    """An API over doubles; the test decides what they say."""

    def __init__(self, path: Path, terms: CarryTerms = GENEROUS) -> None:
        self.terms = terms
        self.submitted: list[bytes] = []
        self.refuse: Exception | None = None
        self.well = Health(ok=True, reasons=())
        self.enclave = FakeEnclave(
            GetStatus=lambda _: status(state_height=Height(7)),
            Ask=lambda _: Answer(sealed=b"sealed answer"),
            DumpRa=lambda _: RaDump(certificate=b"certificate"),
            SnapshotBegin=lambda _: SnapshotHeader(
                header=b"header", height=Height(7), chunks=2
            ),
            SnapshotGet=lambda r: SnapshotChunk(index=r.index, data=b"%d" % r.index),
            OpenSession=lambda _: refusal("SessionLimitError"),
        )
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        channel = EnclaveChannel(self.enclave)
        self.follower = Follower(
            channel=channel,
            l1=FakeL1(),
            feed=FakeFeed(),
            store=self.store,
            outbox=Outbox(FakeAccount()),
            shard=SHARD,
            me=ME,
        )
        self.api = Api(
            channel=channel,
            follower=self.follower,
            store=self.store,
            submitter=self,
            gate=CarryGate(self.terms, funds=self.funds, now=lambda: 0.0),
            source=self,
            metrics=Metrics(SHARD.hex(), self.reading),
        )

    async def submit(self, envelope: bytes) -> bytes:
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append(envelope)
        return b"\xab"

    async def funds(self) -> int:
        return 10_000

    def health(self) -> Health:
        return self.well

    async def describe(self) -> dict[str, object]:
        return {"imported": 7, "signing_key": "08" * 32}

    async def reading(self):
        raise LostError("no reading")

    def happened(self, height: int) -> None:
        """A block with one receipt was executed."""
        block = executed(height, receipts=(receipt(height),))
        self.store.commit_block(block)
        for listener in tuple(self.follower._listeners):
            listener(Executions(height=Height(height), receipts=block.receipts))


Story = Callable[[Front, aiohttp.ClientSession, Listening], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], None]:
    def run(story: Story, terms: CarryTerms = GENEROUS) -> None:
        async def whole() -> None:
            front = Front(tmp_path, terms)
            try:
                async with (
                    asyncio.timeout(10),
                    serve(front.api.application()) as where,
                    aiohttp.ClientSession(where.url) as http,
                ):
                    await story(front, http, where)
            finally:
                front.store.close()

        asyncio.run(whole())

    return run


async def got(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    body = await answer.json()
    return answer.status, body["error"]["code"]


def test_every_error_of_the_worker_has_its_place_in_the_table() -> None:
    importlib.import_module("sealift.worker")
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, WorkerError)
    ]
    assert len(kinds) > 7
    config = {  # never over HTTP
        errors.ConfigError,
        errors.ControlError,
        errors.BundleRefusedError,
        *errors.BundleRefusedError.__subclasses__(),
        errors.AuditError,
        *errors.AuditError.__subclasses__(),
    }
    nearest = {
        kind: next(base for base in kind.__mro__ if base in API_ERRORS)
        for kind in kinds
        if kind not in config
    }
    named = {kind for kind, base in nearest.items() if base is not WorkerError}
    assert named | {WorkerError} == set(kinds) - config


def test_health_is_a_status_and_its_reasons(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (
                200,
                {"ok": True, "reasons": []},
            )
        front.well = Health(ok=False, reasons=("keys: refused",))
        async with http.get("/healthz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"] == ["keys: refused"]

    play(story)


@pytest.mark.parametrize("path", ["/v1/submit", "/v1/ask"])
@pytest.mark.parametrize("body", [b"", b"\xc1", b"garbage", encode([1, 2, 3])])
def test_what_is_no_envelope_goes_nowhere(play, path: str, body: bytes) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.post(path, data=body) as answer:
            assert answer.status == 400
        assert not front.submitted
        assert not front.enclave.asked

    play(story)


def test_an_envelope_is_too_large_by_name(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.post("/v1/submit", data=b"x" * 200_000) as answer:
            assert await got(answer) == (413, "TooLargeError")

    play(story)


def test_a_call_is_carried_or_refused_in_l1s_words(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.post("/v1/submit", data=encode(ENVELOPE)) as answer:
            assert await answer.json() == {"tx": "AB"}
        assert front.submitted == [encode(ENVELOPE)]
        front.refuse = L1RefusedError(
            "enclave_bridge.invoke", refusal=9, log="no funds"
        )
        async with http.post("/v1/submit", data=encode(ENVELOPE)) as answer:
            assert await got(answer) == (422, "L1RefusedError")
        front.refuse = NodeUnreachableError("the node is away")
        async with http.post("/v1/submit", data=encode(ENVELOPE)) as answer:
            assert await got(answer) == (502, "NodeUnreachableError")

    play(story)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"carry": False}, (403, "CarryOffError")),
        ({"reserve": 9_900}, (402, "CarryReserveError")),
        ({"per_address": 1}, (429, "CarryRateError")),
    ],
)
def test_what_the_operator_does_not_pay_for_is_refused_by_name(
    play, change: dict[str, int], refused: tuple[int, str]
) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        for _turn in range(3):
            async with http.post("/v1/submit", data=encode(ENVELOPE)) as answer:
                last = await answer.json()
        assert (answer.status, last["error"]["code"]) == refused
        assert len(front.submitted) == (1 if "per_address" in change else 0)

    play(story, replace(GENEROUS, **change))


def test_what_no_enclave_could_open_is_not_paid_for(play) -> None:
    junk = Envelope(epoch=0, ciphertext=b"junk")

    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.post("/v1/submit", data=encode(junk)) as answer:
            assert await got(answer) == (400, "EnvelopeSizeError")
        assert not front.submitted

    play(story)


def test_a_read_is_answered_or_refused_by_the_enclaves_name(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
            assert await answer.read() == b"sealed answer"
        front.enclave.answers["Ask"] = lambda _: refusal("NotServingError", "not mine")
        async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
            assert await got(answer) == (422, "EnclaveRefusedError")
            assert "NotServingError" in await answer.text()
        front.enclave.gone = LostError("dead")
        async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
            assert await got(answer) == (503, "EnclaveGoneError")

    play(story)


def test_a_receipt_that_comes_while_one_waits_is_delivered(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        name = receipt(3).envelope.hex()
        async with http.get(f"/v1/receipts/{name}") as answer:
            assert answer.status == 404
        async with http.get(f"/v1/receipts/{name}?wait=0.05") as answer:
            assert answer.status == 404
        waiting = asyncio.create_task(http.get(f"/v1/receipts/{name}?wait=9"))
        await asyncio.sleep(0.05)
        front.happened(3)
        async with await waiting as answer:
            assert decode(SealedReceipt, await answer.read()) == receipt(3)

    play(story)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/receipts/zz",
        "/v1/receipts/00",
        "/v1/receipts/" + "00" * 32 + "?wait=soon",
        "/v1/receipts/" + "00" * 32 + "?wait=nan",
        "/v1/state/diffs?after=-1",
        "/v1/state/diffs?after=" + "9" * 40,
        "/v1/state/snapshot?fresh_at=x",
        "/v1/state/snapshot/7/x",
    ],
)
def test_wrong_words_are_the_askers_fault(play, path: str) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.get(path) as answer:
            assert answer.status == 400

    play(story)


def test_executions_are_streamed_and_a_listener_that_goes_is_forgotten(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.ws_connect("/v1/executions") as socket:
            while not front.follower._listeners:
                await asyncio.sleep(0.01)
            front.happened(4)
            height, receipts = decode(
                tuple[int, tuple[SealedReceipt, ...]], await socket.receive_bytes()
            )
            assert (height, receipts) == (4, (receipt(4),))
        while front.follower._listeners:
            await asyncio.sleep(0.01)

    play(story)


def test_a_bug_does_not_leave_its_text_and_metrics_fail_by_name(play) -> None:
    async def story(front: Front, http: aiohttp.ClientSession, _: Listening) -> None:
        async with http.get("/metrics") as answer:
            assert await got(answer) == (500, "LostError")
        async with http.get("/v1/dump-ra") as answer:
            assert await answer.read() == b"certificate"

    play(story)


def test_a_peer_gets_a_snapshot_chunk_by_chunk_and_diffs_after_it(play) -> None:
    async def story(
        front: Front, http: aiohttp.ClientSession, where: Listening
    ) -> None:
        peer = Upstream(where.url + "/", http_of(http, where))
        assert await peer.signing_key() == b"\x08" * 32
        assert await peer.snapshot(fresh_at=8) is None
        offered = await peer.snapshot(fresh_at=7)
        assert offered is not None
        assert (offered.height, offered.header, offered.chunks) == (7, b"header", 2)
        assert [await peer.chunk(offered, n) for n in (0, 1)] == [b"0", b"1"]
        front.store.commit_diff(Height(8), b"diff 8")
        assert await peer.diffs(7) == [(8, b"diff 8")]
        assert await peer.diffs(8) == []
        path = front.store.snapshots.path / offered.name / "chunks" / "000001"
        path.unlink()
        with pytest.raises(UpstreamError, match="refuses"):
            await peer.chunk(offered, 1)
        front.store.forget_snapshot(7)
        with pytest.raises(UpstreamError, match="dropped its snapshot"):
            await peer.chunk(offered, 0)
        front.enclave.answers["SnapshotBegin"] = lambda _: refusal("NoStateError")
        with pytest.raises(UpstreamError, match="NoStateError"):
            await peer.snapshot()

    play(story)


def test_nobody_makes_a_worker_export_its_state_over_and_over(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a download that runs is not cut off by the next one's wish."""

    async def story(
        front: Front, http: aiohttp.ClientSession, where: Listening
    ) -> None:
        heights = iter((7, 8, 9))
        front.enclave.answers["GetStatus"] = lambda _: status(state_height=Height(9))
        front.enclave.answers["SnapshotBegin"] = lambda _: SnapshotHeader(
            header=b"header", height=Height(next(heights)), chunks=2
        )
        peer = Upstream(where.url, http_of(http, where))
        first = await peer.snapshot(fresh_at=7)
        assert first is not None
        async with http.get("/v1/state/snapshot?fresh_at=8") as answer:
            assert await got(answer) == (429, "SnapshotTooSoonError")
        assert front.enclave.count(SnapshotBegin) == 1
        front.api._snapshot_made -= 1000
        second = await peer.snapshot(fresh_at=8)
        assert second is not None
        assert second.height == 8
        assert [await peer.chunk(first, n) for n in (0, 1)] == [b"0", b"1"]
        again = await peer.snapshot(fresh_at=0)
        assert again is not None
        assert again.height == 8

    play(story)


def http_of(http: aiohttp.ClientSession, where: Listening) -> aiohttp.ClientSession:
    """A peer's session has no base URL."""

    class Plain:
        def get(self, url: str, **more: object):
            return http.get(url.removeprefix(where.url), **more)

        def ws_connect(self, url: str, **more: object):
            return http.ws_connect(url.removeprefix(where.url), **more)

    return Plain()


def test_a_session_that_the_enclave_refuses_closes_and_is_noted(play) -> None:
    async def story(
        front: Front, http: aiohttp.ClientSession, where: Listening
    ) -> None:
        peer = Upstream(where.url, http_of(http, where))
        async with peer.mura() as wire:
            assert [data async for data in wire.receive()] == []
        assert "SessionLimitError" in front.follower.progress.last_refusal
        assert front.store.holders() == 0

    play(story)


def test_one_address_does_not_take_all_places_for_sessions(play) -> None:
    async def story(
        front: Front, http: aiohttp.ClientSession, where: Listening
    ) -> None:
        front.enclave.answers["OpenSession"] = lambda _: SessionReply(session=1)
        front.enclave.answers["CloseSession"] = lambda _: SessionReply(session=1)
        idle = [await http.ws_connect("/v1/mu-ra") for _ in range(4)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect("/v1/mu-ra")
        assert refused.value.status == 429
        async with http.get("/v1/mu-ra") as answer:
            assert await got(answer) == (429, "SessionsOfPeerError")
        for socket in idle:
            await socket.close()
        while front.api._sessions:
            await asyncio.sleep(0.01)
        async with http.ws_connect("/v1/mu-ra"):
            pass

    play(story)


def test_an_upstream_that_is_not_there_or_no_worker_is_named(play) -> None:
    async def story(
        front: Front, http: aiohttp.ClientSession, where: Listening
    ) -> None:
        async with aiohttp.ClientSession() as plain:
            gone = Upstream("http://127.0.0.1:9", plain)
            with pytest.raises(UpstreamError, match="cannot be reached"):
                await gone.diffs(0)
            with pytest.raises(UpstreamError, match="cannot be reached"):
                async with gone.mura():
                    pass
            other = Upstream(where.url + "/healthz?", plain)
            with pytest.raises(UpstreamError, match="talks nonsense"):
                await other.diffs(0)
            with pytest.raises(UpstreamError, match="does not say who it is"):
                await other.signing_key()

    play(story)
