"""Workers over HTTP: they carry and answer, and are believed in nothing."""

import asyncio
import io
import re
from collections.abc import AsyncGenerator, Sequence
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec

from sealift.base import DecodeError, Digest, decode
from sealift.protocol import SealedReceipt

from ._errors import (
    WorkerAnswerError,
    WorkerBusyError,
    WorkerRefusedError,
    WorkerUnreachableError,
)

_MAX_ANSWER: Final = 4 * 1024 * 1024
_TIMEOUT_SECONDS: Final = 15.0
#: How long a worker is asked to hold a receipt's request, in seconds.
_HOLD_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.3
#: Rounds in which workers are asked that are busy, and most seconds between.
_ROUNDS: Final = 4
_PAUSE_SECONDS: Final = 3.0
_UNAVAILABLE: Final = frozenset({502, 503, 504})
#: With ``Retry-After``: nothing is against the request itself.
_BUSY: Final = frozenset({429, 503})
_SECONDS: Final = re.compile("[0-9]{1,5}", re.ASCII)


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    code: str = "refused"
    message: str = ""


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    error: _Refusal = _Refusal()


class _Submitted(msgspec.Struct, frozen=True, kw_only=True):
    tx: str


class Workers:
    """The workers of a shard, in the order in which they are asked.

    Args:
        urls: ``http://host:port`` of each.
        session: The HTTP session; the caller closes it.
    """

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        self._session = session

    def add(self, urls: Sequence[str]) -> None:
        """Know more workers, after those that are known."""
        for url in urls:
            if url.rstrip("/") not in self.urls:
                self.urls.append(url.rstrip("/"))

    async def submit(self, envelope: bytes) -> bytes:
        """Have a sealed call carried to L1 by the first worker that does.

        Returns:
            The hash of the L1 transaction, as the worker says.

        Raises:
            WorkerUnreachableError: None answers.
            WorkerRefusedError: All that answer refuse; the first refusal.
        """
        raw = await self._first("POST", "/v1/submit", envelope)
        try:
            return bytes.fromhex(msgspec.json.decode(raw, type=_Submitted).tx)
        except (msgspec.MsgspecError, ValueError) as error:
            raise WorkerAnswerError("worker did not name a transaction") from error

    async def ask(self, envelope: bytes) -> bytes:
        """A sealed getter's sealed answer, of the first worker that has one.

        Raises:
            WorkerUnreachableError: None answers.
            WorkerRefusedError: All that answer refuse; the first refusal.
        """
        return await self._first("POST", "/v1/ask", envelope)

    async def receipts(self, envelope: Digest) -> AsyncGenerator[SealedReceipt, None]:
        """What workers show as the receipt of an envelope, until nobody listens.

        All workers are asked at once; one that has none yet is asked again. The
        caller opens what comes and stops at the first that is genuine.
        """
        found: asyncio.Queue[SealedReceipt] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._watch(url, envelope, found)) for url in self.urls
        ]
        try:
            while True:
                yield await found.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, url: str, path: str) -> bytes:
        """One worker's answer to a plain request.

        Raises:
            WorkerUnreachableError: It does not answer.
            WorkerRefusedError: It refuses.
        """
        return await self._request("GET", url.rstrip("/"), path, None)

    async def _watch(
        self, url: str, envelope: Digest, found: asyncio.Queue[SealedReceipt]
    ) -> None:
        path = f"/v1/receipts/{envelope.hex()}?wait={_HOLD_SECONDS:g}"
        while True:
            try:
                raw = await self._request("GET", url, path, None)
                receipt = decode(SealedReceipt, raw)
                if receipt.envelope == envelope:
                    await found.put(receipt)
            except (WorkerUnreachableError, WorkerRefusedError, DecodeError):
                pass  # others may have it, or this one later
            await asyncio.sleep(_RETRY_SECONDS)

    async def _first(self, method: str, path: str, body: bytes) -> bytes:
        """The first answer; where only a crowd is in the way, ask again."""
        for _ in range(_ROUNDS - 1):
            try:
                return await self._round(method, path, body)
            except WorkerBusyError as error:
                await asyncio.sleep(min(error.seconds, _PAUSE_SECONDS))
        return await self._round(method, path, body)

    async def _round(self, method: str, path: str, body: bytes) -> bytes:
        busy: WorkerBusyError | None = None
        refusal: WorkerRefusedError | None = None
        failure: WorkerUnreachableError | WorkerAnswerError | None = None
        for url in list(self.urls):
            try:
                return await self._request(method, url, path, body)
            except WorkerBusyError as error:
                busy = busy or error
            except WorkerRefusedError as error:
                refusal = refusal or error
            except (WorkerUnreachableError, WorkerAnswerError) as error:
                failure = failure or error
        raise (
            busy
            or refusal
            or failure
            or WorkerUnreachableError(
                "no worker is known", hint="Name one with --worker, or in the card"
            )
        )

    async def _request(
        self, method: str, url: str, path: str, body: bytes | None
    ) -> bytes:
        try:
            async with self._session.request(
                method,
                url + path,
                data=None if body is None else io.BytesIO(body),
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            ) as answer:
                raw = await _limited(answer, url)
                if answer.status == HTTPStatus.OK:
                    return raw
                seconds = answer.headers.get("Retry-After", "")
                if answer.status in _BUSY and _SECONDS.fullmatch(seconds):
                    raise WorkerBusyError(
                        url, message=_refusal(raw).message, seconds=int(seconds)
                    )
                if answer.status in _UNAVAILABLE and path != "/healthz":
                    raise WorkerUnreachableError(
                        f"the worker at {url} is not available",
                        got=f"HTTP {answer.status}: {_refusal(raw).message}",
                    )
                said = _refusal(raw)
                raise WorkerRefusedError(
                    url,
                    refused=said.code,
                    message=said.message,
                    status=answer.status,
                )
        except TimeoutError as error:
            raise WorkerUnreachableError(
                f"the worker at {url} did not answer within {_TIMEOUT_SECONDS:g} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WorkerUnreachableError(
                f"the worker at {url} cannot be reached",
                got=str(error) or type(error).__name__,
                hint="Is it running? `sealift worker run` starts it",
            ) from error


def _refusal(raw: bytes) -> _Refusal:
    try:
        return msgspec.json.decode(raw, type=_Body).error
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return _Refusal(message=raw[:200].decode(errors="replace"))


async def _limited(answer: aiohttp.ClientResponse, url: str) -> bytes:
    parts = []
    size = 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > _MAX_ANSWER:
            raise WorkerAnswerError(
                f"the worker at {url} answers without end",
                got=f"> {_MAX_ANSWER} B",
                expected=f"≤ {_MAX_ANSWER} B",
            )
        parts.append(part)
    return b"".join(parts)
