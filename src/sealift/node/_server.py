"""CometBFT's RPC over HTTP and WebSocket: JSON-RPC, URI calls, subscriptions."""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import WSMsgType, web

from sealift.base import DecodeError, SealiftError, TooLargeError
from sealift.relay import RpcFormatError
from sealift.relay.rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    SUBSCRIPTION,
    NewBlockEvent,
    RpcErrorBody,
    RpcId,
    RpcRequest,
    parse_request,
    render_error,
    render_result,
)

from ._methods import Method
from ._params import InvalidParamsError, read_json_params, read_uri_params

PARSE_ERROR: Final = -32700
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_BATCH: Final = 10
MAX_CLIENTS: Final = 100
MAX_SUBSCRIPTIONS: Final = 5
_QUEUE: Final = 200
_HEARTBEAT_SECONDS: Final = 30.0
_URI_ID: Final = -1
_NEW_BLOCK: Final = re.compile(r"\s*tm\.event\s*=\s*'NewBlock'\s*")
_TITLES: Final = {
    PARSE_ERROR: "Parse error. Invalid JSON",
    INVALID_REQUEST: "Invalid Request",
    METHOD_NOT_FOUND: "Method not found",
    INVALID_PARAMS: "Invalid params",
    INTERNAL_ERROR: "Internal error",
}
#: Which JSON-RPC code an error becomes; the nearest class counts.
RPC_CODES: Final[Mapping[type[SealiftError], int]] = {
    InvalidParamsError: INVALID_PARAMS,
    DecodeError: INVALID_PARAMS,
    TooLargeError: INVALID_PARAMS,
    SealiftError: INTERNAL_ERROR,
}


class SubscriptionError(SealiftError):
    """A subscription that the node does not offer, or one too many."""


class _Client:
    """One WebSocket: its subscriptions and what still has to be sent."""

    def __init__(self) -> None:
        self.queries: dict[str, RpcId] = {}
        self.outbox: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)

    def push(self, message: bytes | None) -> None:
        """Queue a message; who does not read is cut off, nobody waits for him."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            while not self.outbox.empty():
                self.outbox.get_nowait()
            self.outbox.put_nowait(None)


class RpcServer:
    """Serves a table of methods as a CometBFT node does.

    Args:
        methods: Methods by name.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._clients: set[_Client] = set()

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/", self._on_post)
        app.router.add_get("/", self._on_index)
        app.router.add_get("/websocket", self._on_websocket)
        app.router.add_get("/{method}", self._on_uri)
        app.on_shutdown.append(self._on_shutdown)
        return app

    def publish(self, event: NewBlockEvent) -> None:
        """Tell every subscriber of a durable block."""
        shared: object = None
        for client in tuple(self._clients):
            for query, id_ in client.queries.items():
                if shared is None:
                    shared = _render_event(event)
                body = shared if isinstance(shared, dict) else {}
                client.push(render_result(id_, body | {"query": query}))

    async def _on_index(self, _: web.Request) -> web.Response:
        names = "\n".join(f"/{name}" for name in sorted(self._methods))
        return web.Response(text=f"Available endpoints:\n{names}\n/websocket\n")

    async def _on_post(self, request: web.Request) -> web.Response:
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            error = _error(INVALID_REQUEST, "http: request body too large")
            return _json(render_error(None, error), status=413)
        if raw.lstrip().startswith(b"["):
            return await self._on_batch(raw)
        answer = await self._answer(raw, None)
        return _json(answer or b"")

    async def _on_batch(self, raw: bytes) -> web.Response:
        try:
            batch = msgspec.json.decode(raw, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _json(render_error(None, _error(PARSE_ERROR, str(error))))
        if len(batch) > MAX_BATCH:
            refusal = _error(INVALID_REQUEST, f"batch of more than {MAX_BATCH} calls")
            return _json(render_error(None, refusal))
        answers = [await self._answer(bytes(one), None) for one in batch]
        return _json(b"[" + b",".join(one for one in answers if one) + b"]")

    async def _on_uri(self, request: web.Request) -> web.Response:
        method = self._methods.get(request.match_info["method"])
        if method is None:
            return _json(
                render_error(_URI_ID, _error(METHOD_NOT_FOUND, "")), status=404
            )
        try:
            params = read_uri_params(method.params, dict(request.query))
            result = await method.answer(params)
        except SealiftError as error:
            return _json(render_error(_URI_ID, _error_of(error)), status=500)
        return _json(render_result(_URI_ID, result))

    async def _answer(self, raw: bytes, client: _Client | None) -> bytes | None:
        """The answer to one call; ``None`` to a notification, which has no id."""
        try:
            request = parse_request(raw)
        except RpcFormatError as error:
            return render_error(None, _error(_broken(raw), str(error)))
        if request.id is None:
            return None
        method = self._methods.get(request.method)
        try:
            if client is not None and request.method in _SUBSCRIBING:
                result = self._subscribe(request, client)
            elif method is None:
                return render_error(request.id, _error(METHOD_NOT_FOUND, ""))
            else:
                params = read_json_params(method.params, request.params)
                result = await method.answer(params)
        except SealiftError as error:
            return render_error(request.id, _error_of(error))
        return render_result(request.id, result)

    def _subscribe(self, request: RpcRequest, client: _Client) -> object:
        if request.method == "unsubscribe_all":
            client.queries.clear()
            return {}
        query = request.params.get("query")
        if not isinstance(query, str):
            raise InvalidParamsError("parameter query is missing", expected="a string")
        if request.method == "unsubscribe":
            if client.queries.pop(query, None) is None:
                raise SubscriptionError("subscription not found", got=query[:80])
            return {}
        if not _NEW_BLOCK.fullmatch(query):
            raise SubscriptionError(
                "failed to parse query", got=query[:80], expected="tm.event='NewBlock'"
            )
        if query not in client.queries and len(client.queries) >= MAX_SUBSCRIPTIONS:
            raise SubscriptionError(
                "too many subscriptions", expected=f"≤ {MAX_SUBSCRIPTIONS}"
            )
        client.queries[query] = request.id
        return {}

    async def _on_websocket(self, request: web.Request) -> web.StreamResponse:
        if len(self._clients) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text="too many subscribers")
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT_SECONDS, max_msg_size=MAX_BODY_BYTES
        )
        await socket.prepare(request)
        client = _Client()
        self._clients.add(client)
        sender = asyncio.create_task(_send(socket, client))
        try:
            async for message in socket:
                if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    break
                data = message.data
                raw = data.encode() if isinstance(data, str) else bytes(data)
                answer = await self._answer(raw, client)
                if answer is not None:
                    client.push(answer)
        finally:
            self._clients.discard(client)
            client.push(None)
            await sender
        return socket

    async def _on_shutdown(self, _: web.Application) -> None:
        for client in tuple(self._clients):
            client.push(None)


_SUBSCRIBING: Final = frozenset({"subscribe", "unsubscribe", "unsubscribe_all"})


async def _send(socket: web.WebSocketResponse, client: _Client) -> None:
    while True:
        message = await client.outbox.get()
        if message is None or socket.closed:
            break
        try:
            await socket.send_str(message.decode())
        except (ConnectionError, RuntimeError):
            break
    await socket.close()


def _render_event(event: NewBlockEvent) -> object:
    """The event with the keys that Go's empty fields have."""
    body = SUBSCRIPTION.render(event)
    if isinstance(body, dict):
        body["data"]["value"]["result_finalize_block"]["validator_updates"] = []
    return body


def _broken(raw: bytes) -> int:
    try:
        msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return PARSE_ERROR
    return INVALID_REQUEST


def _error(code: int, data: str) -> RpcErrorBody:
    return RpcErrorBody(code=code, message=_TITLES[code], data=data)


def _error_of(error: SealiftError) -> RpcErrorBody:
    for kind in type(error).__mro__:
        if kind in RPC_CODES:
            return _error(RPC_CODES[kind], f"{error.code}: {error}")
    return _error(INTERNAL_ERROR, f"{error.code}: {error}")


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")
