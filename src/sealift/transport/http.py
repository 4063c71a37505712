"""An HTTP server on aiohttp: JSON errors from one table, clean start and stop."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Middleware

from sealift.base import DecodeError, SealiftError, TooLargeError

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Which HTTP status an error becomes. The nearest class counts; whatever is
#: not named is 500.
ErrorTable: TypeAlias = Mapping[type[SealiftError], int]
#: After how many seconds an error's cause may have passed. The nearest class counts;
#: of what is not named, nothing is said.
RetryTable: TypeAlias = Mapping[type[SealiftError], int]

#: Errors of the foundation; edges add their own.
BASE_ERRORS: Final[ErrorTable] = {
    DecodeError: 400,
    TooLargeError: 413,
    SealiftError: 500,
}
_BODY_LIMIT: Final = 4 * 1024 * 1024
_GRACE_SECONDS: Final = 2.0


class AddressInUseError(SealiftError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A server that answers.

    Attributes:
        host: Where it listens.
        port: The port, also if any free one was asked for.
    """

    host: str
    port: int

    @property
    def url(self) -> str:
        """``http://host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def status_of(error: SealiftError, table: ErrorTable) -> int:
    """The HTTP status of an error: of its nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in table:
            return table[kind]
    return web.HTTPInternalServerError.status_code


def error_body(error: SealiftError) -> dict[str, str]:
    """What a client sees of an error: its stable name and its sentence."""
    return {
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
    }


def json_errors(
    table: ErrorTable, *, retry_after: RetryTable | None = None
) -> Middleware:
    """A middleware: every refusal leaves as ``{"error": {code, message, hint}}``.

    An exception that is not a :class:`SealiftError` is a bug: its text does not
    leave the process.

    Args:
        table: Statuses by error class.
        retry_after: ``Retry-After`` by error class.
    """
    retry = retry_after or {}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except SealiftError as error:
            return web.json_response(
                {"error": error_body(error)},
                status=status_of(error, table),
                headers=_retry_header(error, retry),
            )
        except web.HTTPException as error:
            if error.status < web.HTTPBadRequest.status_code:
                raise
            body = {"code": type(error).__name__, "message": error.reason, "hint": ""}
            return web.json_response({"error": body}, status=error.status)

    return middleware


def _retry_header(error: SealiftError, table: RetryTable) -> dict[str, str]:
    for kind in type(error).__mro__:
        if kind in table:
            return {"Retry-After": str(table[kind])}
    return {}


def make_app(
    routes: list[web.RouteDef],
    *,
    errors: ErrorTable = BASE_ERRORS,
    retry_after: RetryTable | None = None,
    body_limit: int = _BODY_LIMIT,
) -> web.Application:
    """An application whose every refusal is JSON.

    Args:
        routes: ``web.get(path, handler)`` and so on.
        errors: Statuses by error class.
        retry_after: ``Retry-After`` by error class.
        body_limit: Most bytes of a request's body.
    """
    refusals = json_errors(errors, retry_after=retry_after)
    app = web.Application(middlewares=[refusals], client_max_size=body_limit)
    app.add_routes(routes)
    return app


async def read_json_body(request: web.Request) -> object:
    """The JSON of a request's body.

    Raises:
        DecodeError: Not JSON.
    """
    raw = await request.read()
    try:
        value: object = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DecodeError("body is not JSON", got=raw) from error
    return value


async def _to_its_end(start: Coroutine[None, None, None]) -> None:
    """Start something, also if it is not wanted any more before it has started.

    Cut off, asyncio forgets sockets at which it listens already.
    """
    task = asyncio.ensure_future(start)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # heard, and of no interest any more
        raise


@contextlib.asynccontextmanager
async def serve(
    app: web.Application, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Listening]:
    """Serve while in the block.

    Args:
        app: What answers.
        host: Where to listen; loopback unless somebody decides otherwise.
        port: 0 takes any free one.

    Raises:
        AddressInUseError: The address is taken or not ours.
    """
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=_GRACE_SECONDS
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await _to_its_end(site.start())
        except OSError as error:
            raise AddressInUseError(
                f"cannot listen on {host}:{port} ({error.strerror})",
                hint="Is another node running? Port 0 takes any free one",
            ) from error
        bound = runner.addresses[0]
        yield Listening(host=str(bound[0]), port=int(bound[1]))
    finally:
        await runner.cleanup()
