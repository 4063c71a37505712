"""What a worker serves: users, peers, operators, monitoring.

Nothing of it is secret: calls, getters, receipts, snapshots and diffs are
sealed for somebody else. Binary bodies are canonical MessagePack.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, TypeAlias

from aiohttp import web

from sealift.base import (
    Digest,
    Height,
    SealiftError,
    TooLargeError,
    canonical_decode,
    encode,
    parse_hex,
)
from sealift.protocol import Envelope, SealedReceipt
from sealift.protocol.ecall import Answer, Ask, DumpRa, EnclaveStatus, GetStatus, RaDump
from sealift.transport.account import L1RefusedError
from sealift.transport.http import (
    BASE_ERRORS,
    ErrorTable,
    Handler,
    RetryTable,
    make_app,
)
from sealift.transport.rpc import NodeUnreachableError, TxNotIncludedError

from ._carry import CarryGate, network_of
from ._channel import EnclaveChannel
from ._door import Door, Places
from ._errors import (
    CarryOffError,
    CarryRateError,
    CarryReserveError,
    CrowdedError,
    CrowdOfPeerError,
    EnclaveGoneError,
    EnclaveRefusedError,
    EnvelopeSizeError,
    SessionsOfPeerError,
    SnapshotDamagedError,
    SnapshotManifestError,
    SnapshotNotKeptError,
    SnapshotTooSoonError,
    StalledError,
    StoreError,
    SwitchingError,
    UpstreamError,
    WorkerError,
    WrongChainError,
)
from ._follower import Executions, Follower
from ._metrics import Metrics
from ._mura import serve_session
from ._rate import Bandwidth
from ._state_api import STATE_ERRORS, StateRoutes
from ._store import StoredSnapshot, WorkerStore
from ._upstream import WebSocketWire

_MAX_ENVELOPE = 128 * 1024
_MAX_WAIT_SECONDS = 30.0
_MAX_DIFFS = 256
#: Of all of them together, where the first alone is not larger.
_MAX_DIFFS_BYTES = 16 * 1024 * 1024
#: A listener has nothing to say.
_MAX_HEARD = 1024
#: Sessions of one address at once: the enclave has room for a few only.
_SESSIONS_OF_PEER = 4
_HEARTBEAT_SECONDS = 20.0
#: Between two snapshots for peers; the last two are there to be downloaded.
_SNAPSHOT_SECONDS = 120.0
BINARY = "application/octet-stream"

#: The one table from a worker's errors to HTTP.
API_ERRORS: ErrorTable = {
    **BASE_ERRORS,
    **STATE_ERRORS,
    WorkerError: HTTPStatus.INTERNAL_SERVER_ERROR,
    EnclaveRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    EnclaveGoneError: HTTPStatus.SERVICE_UNAVAILABLE,
    StalledError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreError: HTTPStatus.INSUFFICIENT_STORAGE,
    CarryOffError: HTTPStatus.FORBIDDEN,
    CarryRateError: HTTPStatus.TOO_MANY_REQUESTS,
    CarryReserveError: HTTPStatus.PAYMENT_REQUIRED,
    CrowdedError: HTTPStatus.SERVICE_UNAVAILABLE,
    CrowdOfPeerError: HTTPStatus.TOO_MANY_REQUESTS,
    EnvelopeSizeError: HTTPStatus.BAD_REQUEST,
    SessionsOfPeerError: HTTPStatus.TOO_MANY_REQUESTS,
    SnapshotDamagedError: HTTPStatus.INSUFFICIENT_STORAGE,
    SnapshotManifestError: HTTPStatus.INSUFFICIENT_STORAGE,
    SnapshotNotKeptError: HTTPStatus.INSUFFICIENT_STORAGE,
    SnapshotTooSoonError: HTTPStatus.TOO_MANY_REQUESTS,
    SwitchingError: HTTPStatus.SERVICE_UNAVAILABLE,
    UpstreamError: HTTPStatus.BAD_GATEWAY,
    WrongChainError: HTTPStatus.BAD_GATEWAY,
    L1RefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NodeUnreachableError: HTTPStatus.BAD_GATEWAY,
    TxNotIncludedError: HTTPStatus.GATEWAY_TIMEOUT,
}
#: What passes soon: seconds after which to ask again.
RETRY_AFTER: RetryTable = {
    CrowdedError: 1,
    CrowdOfPeerError: 1,
    SessionsOfPeerError: 5,
    SwitchingError: 2,
}
#: Getters: each is the enclave's work, before the blocks that wait.
_ASKS = Places(together=32, per_address=16)
#: Status and metrics: the enclave is asked too. Nothing else crowds these out, by
#: which an operator sees the crowd.
_LOOKS = Places(together=16, per_address=8)
#: Certificates and snapshots, which cost the enclave more.
_FETCHES = Places(together=16, per_address=8)
#: Those that wait for news: they cost memory.
WAITS = Places(together=1024, per_address=256)


#: What answers which method and path.
Handlers: TypeAlias = Mapping[tuple[str, str], Handler]
#: Has somebody hear of executed blocks; what it returns stops that.
Listen: TypeAlias = Callable[[Callable[[Executions], None]], Callable[[], None]]


class Submitter(Protocol):
    """Carries a sealed call to L1 at the operator's expense."""

    async def submit(self, envelope: bytes) -> bytes:
        """Into L1's mempool; the transaction's hash."""


class Receipts(Protocol):
    """Where receipts are kept."""

    def receipt(self, envelope: Digest) -> SealedReceipt | None:
        """The receipt of an envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the worker is fit, and what it waits for."""

    ok: bool
    reasons: tuple[str, ...]


class HealthSource(Protocol):
    """Judges the worker."""

    def health(self) -> Health:
        """Now."""

    async def describe(self) -> dict[str, object]:
        """Everything that ``worker status`` shows."""


def api_app(handlers: Handlers) -> web.Application:
    """An application of these handlers, with a worker's errors and bounds."""
    return make_app(
        [web.route(method, path, one) for (method, path), one in handlers.items()],
        errors=API_ERRORS,
        retry_after=RETRY_AFTER,
        body_limit=_MAX_ENVELOPE,
    )


class Api:
    """The HTTP surface of one instance.

    Args:
        channel: The enclave.
        follower: What is executed, and when.
        store: Diffs, snapshot, receipts.
        submitter: Carries calls to L1.
        gate: Which of them it carries.
        source: Health and status.
        metrics: What ``/metrics`` shows.
        serve: How fast snapshots go out; ``None``: without a limit.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        follower: Follower,
        store: WorkerStore,
        submitter: Submitter,
        gate: CarryGate,
        source: HealthSource,
        metrics: Metrics,
        serve: Bandwidth | None = None,
    ) -> None:
        self._serve = serve or Bandwidth(0)
        self._state = StateRoutes(store, self._serve)
        self._channel = channel
        self._follower = follower
        self._store = store
        self._submitter = submitter
        self._gate = gate
        self._source = source
        self._metrics = metrics
        self._snapshotting = asyncio.Lock()
        self._snapshot_made: float | None = None
        self._asks = Door(_ASKS, what="getters")
        self._looks = Door(_LOOKS, what="looks at the worker")
        self._fetches = Door(_FETCHES, what="requests for certificates and snapshots")
        self._waits = Door(WAITS, what="waiting requests")
        #: Open mu-ra sessions by address.
        self._sessions: Counter[str] = Counter()

    def handlers(self) -> Handlers:
        """What answers which request."""
        return {
            ("GET", "/healthz"): self._healthz,
            ("GET", "/metrics"): self._show_metrics,
            ("GET", "/v1/status"): self._status,
            ("GET", "/v1/dump-ra"): self._dump_ra,
            ("POST", "/v1/submit"): self._submit,
            ("POST", "/v1/ask"): self._ask,
            ("GET", "/v1/receipts/{envelope}"): self._receipt,
            ("GET", "/v1/executions"): self._executions,
            ("GET", "/v1/mu-ra"): self._mura,
            ("GET", "/v1/state/snapshot"): self._snapshot,
            ("GET", "/v1/state/snapshot/{height}/{number}"): self._chunk,
            ("GET", "/v1/state/diffs"): self._diffs,
            **self._state.handlers(),
        }

    def application(self) -> web.Application:
        """All of it, of this one instance."""
        return api_app(self.handlers())

    async def answer(self, raw: bytes, *, peer: str) -> bytes:
        """The enclave's sealed answer to a sealed getter.

        Raises:
            CrowdedError, CrowdOfPeerError: No place is free.
            EnclaveRefusedError: It refuses, by name.
        """
        with self._asks.entered(peer):
            return (await self._channel.call(Ask(envelope=raw), Answer)).sealed

    async def render_metrics(self, *, peer: str) -> bytes:
        """This instance's metrics.

        Raises:
            CrowdedError, CrowdOfPeerError: No place is free.
        """
        with self._looks.entered(peer):
            return await self._metrics.render()

    async def described(self, *, peer: str) -> dict[str, object]:
        """This instance's status.

        Raises:
            CrowdedError, CrowdOfPeerError: No place is free.
        """
        with self._looks.entered(peer):
            return await self._source.describe()

    async def _healthz(self, _: web.Request) -> web.Response:
        return show_health(self._source.health())

    async def _show_metrics(self, request: web.Request) -> web.Response:
        text = await self.render_metrics(peer=request.remote or "")
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(await self.described(peer=request.remote or ""))

    async def _dump_ra(self, request: web.Request) -> web.Response:
        with self._fetches.entered(request.remote or ""):
            dump = await self._channel.call(DumpRa(), RaDump)
        return web.Response(body=dump.certificate, content_type=BINARY)

    async def _submit(self, request: web.Request) -> web.Response:
        return await carry_call(request, self._gate, self._submitter)

    async def _ask(self, request: web.Request) -> web.Response:
        raw, _ = await read_envelope(request)  # who sends slowly has no place yet
        sealed = await self.answer(raw, peer=request.remote or "")
        return web.Response(body=sealed, content_type=BINARY)

    async def _receipt(self, request: web.Request) -> web.Response:
        return await give_receipt(
            request, self._store, listen=self._follower.listen, door=self._waits
        )

    async def _executions(self, request: web.Request) -> web.WebSocketResponse:
        """A stream of ``[height, [sealed receipt, …]]``, one message a block."""
        with self._waits.entered(request.remote or ""):
            return await stream_executions(request, self._follower.listen)

    async def _mura(self, request: web.Request) -> web.WebSocketResponse:
        peer = network_of(request.remote or "")
        if self._sessions[peer] >= _SESSIONS_OF_PEER:
            raise SessionsOfPeerError(
                "too many sessions of this address are open",
                got=self._sessions[peer],
                expected=f"< {_SESSIONS_OF_PEER}",
                hint="Ask again when one of them is over.",
            )
        socket = web.WebSocketResponse(
            max_msg_size=1024 * 1024, heartbeat=_HEARTBEAT_SECONDS
        )
        self._sessions[peer] += 1
        try:
            await socket.prepare(request)
            served = await serve_session(
                self._channel, self._follower, WebSocketWire(socket)
            )
            self._store.add_holders(*served)
        except SealiftError as error:
            self._follower.progress.last_refusal = f"mu-ra: {error}"
        finally:
            self._sessions[peer] -= 1
            self._sessions += Counter()  # forget those that have none
            await socket.close()
        return socket

    async def _snapshot(self, request: web.Request) -> web.Response:
        fresh_at = _number(request.query.get("fresh_at", "0"))
        with self._fetches.entered(request.remote or ""):
            found = await self._snapshot_of(fresh_at)
        if found is None:
            raise web.HTTPNotFound(reason="no snapshot here")
        header = await self._state.read(found.name, -1)
        chunks = len(self._store.snapshots.manifest(found.name).chunks)
        body = encode((found.height, header, chunks))
        return web.Response(body=body, content_type=BINARY)

    async def _snapshot_of(self, fresh_at: int) -> StoredSnapshot | None:
        async with self._snapshotting:
            found = self._store.snapshot()
            if found is None or found.height < fresh_at:
                status = await self._channel.call(GetStatus(), EnclaveStatus)
                if status.state_height is None or status.state_height < fresh_at:
                    raise web.HTTPNotFound(reason="no state of that height here")
                self._require_snapshot_due(found)
                found = await self._follower.keep_snapshot()
                self._snapshot_made = asyncio.get_running_loop().time()
        return found

    def _require_snapshot_due(self, newest: StoredSnapshot | None) -> None:
        """Exporting costs much, and drops the last but one: not at anybody's pace."""
        made = self._snapshot_made
        if newest is None or made is None:
            return
        left = made + _SNAPSHOT_SECONDS - asyncio.get_running_loop().time()
        if left > 0:
            raise SnapshotTooSoonError(
                "another snapshot was made a moment ago",
                got=f"block {newest.height}",
                expected=f"≥ {_SNAPSHOT_SECONDS:g} s between two",
                hint=f"Take that one, or ask again in {left:.0f} s.",
            )

    async def _chunk(self, request: web.Request) -> web.Response:
        height = _number(request.match_info["height"])
        number = _number(request.match_info["number"])
        found = self._store.snapshot_at(height)
        if found is None:
            raise web.HTTPNotFound(reason="no such chunk here")
        data = await self._state.read(found.name, number)
        await self._serve.take(len(data))
        return web.Response(body=data, content_type=BINARY)

    async def _diffs(self, request: web.Request) -> web.Response:
        after = _number(request.query.get("after", "0"))
        found = self._some_diffs(after)
        if not found and (seconds := _seconds(request)):
            with self._waits.entered(request.remote or ""):
                await self._until_news(seconds)
            found = self._some_diffs(after)
        return web.Response(body=encode(found), content_type=BINARY)

    async def _until_news(self, seconds: float) -> None:
        heard = asyncio.Event()
        stop = self._follower.listen(lambda _: heard.set())
        try:
            async with asyncio.timeout(seconds):
                await heard.wait()
        except TimeoutError:
            return
        finally:
            stop()

    def _some_diffs(self, after: int) -> list[tuple[Height, bytes]]:
        return self._store.diffs_after(
            after, most=_MAX_DIFFS, most_bytes=_MAX_DIFFS_BYTES
        )


def show_health(health: Health) -> web.Response:
    """Whether anything is in the way, as a status of HTTP and in words."""
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    body = {"ok": health.ok, "reasons": list(health.reasons)}
    return web.json_response(body, status=status)


async def carry_call(
    request: web.Request, gate: CarryGate, submitter: Submitter
) -> web.Response:
    """Carry a sealed call to L1; its transaction's hash."""
    raw, envelope = await read_envelope(request)
    await gate.admit(envelope, len(raw), peer=request.remote or "")
    tx_hash = await submitter.submit(raw)
    return web.json_response({"tx": tx_hash.hex().upper()})


async def give_receipt(
    request: web.Request, kept: Receipts, *, listen: Listen, door: Door
) -> web.Response:
    """The receipt of an envelope, waited for as long as is asked.

    Args:
        request: Names the envelope.
        kept: Where receipts are.
        listen: Where new ones are heard of.
        door: Has the places in which is waited.
    """
    name = Digest(parse_hex(request.match_info["envelope"]))
    found = kept.receipt(name)
    if found is None and (seconds := _seconds(request)):
        with door.entered(request.remote or ""):
            await _until_receipt(listen, name, seconds)
        found = kept.receipt(name)
    if found is None:
        raise web.HTTPNotFound(reason="no receipt yet")
    return web.Response(body=encode(found), content_type=BINARY)


async def _until_receipt(listen: Listen, name: Digest, seconds: float) -> None:
    """Until the receipt of an envelope was made, at most so long."""
    heard = asyncio.Event()

    def listener(event: Executions) -> None:
        if any(receipt.envelope == name for receipt in event.receipts):
            heard.set()

    stop = listen(listener)
    try:
        async with asyncio.timeout(seconds):
            await heard.wait()
    except TimeoutError:
        return
    finally:
        stop()


async def stream_executions(
    request: web.Request, listen: Listen
) -> web.WebSocketResponse:
    """A stream of ``[height, [sealed receipt, …]]``, one message a block."""
    socket = web.WebSocketResponse(
        max_msg_size=_MAX_HEARD, heartbeat=_HEARTBEAT_SECONDS
    )
    await socket.prepare(request)
    queue: asyncio.Queue[Executions] = asyncio.Queue(maxsize=1000)

    def listener(event: Executions) -> None:
        if not queue.full():  # a reader that is too slow asks for receipts
            queue.put_nowait(event)

    stop = listen(listener)
    sender = asyncio.create_task(_stream(queue, socket))
    try:
        async for _ in socket:
            continue
    finally:
        stop()
        sender.cancel()
    return socket


async def _stream(
    queue: asyncio.Queue[Executions], socket: web.WebSocketResponse
) -> None:
    while True:
        event = await queue.get()
        await socket.send_bytes(encode((event.height, event.receipts)))


async def read_envelope(request: web.Request) -> tuple[bytes, Envelope]:
    """A sealed call or getter that somebody sends, and its bytes.

    Raises:
        TooLargeError: No sealed call is that long.
        DecodeError: It is none.
    """
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLargeError(
            "no sealed call is that long",
            got=f"> {_MAX_ENVELOPE} B",
            expected=f"≤ {_MAX_ENVELOPE} B",
            hint="Seal it with this release's client.",
        ) from error
    return raw, canonical_decode(Envelope, raw, limit=_MAX_ENVELOPE)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:  # noqa: PLR2004 - below 2**63
        raise web.HTTPBadRequest(reason=f"not a height: {text[:40]!r}")
    return int(text)


def _seconds(request: web.Request) -> float:
    """For how long a request may wait for news."""
    try:
        seconds = float(request.query.get("wait", "0"))
    except ValueError as error:
        raise web.HTTPBadRequest(reason="wait is a number of seconds") from error
    if math.isnan(seconds):  # it would put the event loop's timers out of order
        raise web.HTTPBadRequest(reason="wait is a number of seconds")
    return min(max(seconds, 0.0), _MAX_WAIT_SECONDS)
