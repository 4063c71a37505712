"""The worker that keys and state are asked of: its HTTP surface, as a client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final, TypeVar

import aiohttp
import msgspec

from sealift.base import AccountId, DecodeError, Height, decode, parse_hex
from sealift.protocol.ecall import MAX_FRAME_BYTES

from ._errors import SnapshotManifestError, UpstreamBusyError, UpstreamError
from ._rate import Bandwidth
from ._snapshots import (
    MAX_CHUNKS,
    MAX_MANIFEST_BYTES,
    Manifest,
    name_of,
    parse_manifest,
)

_SECONDS = 60.0
#: A connection whose other end is gone without a word is noticed within this.
_HEARTBEAT_SECONDS = 20.0
T = TypeVar("T")
#: Longest answer: a frame of the enclave, as every chunk, diff and header came in one.
_MAX_BYTES = MAX_FRAME_BYTES
_PART_BYTES = 1 << 16
_MAX_STATUS_BYTES = 1024 * 1024
#: Of a refusal, what is shown of it.
_MAX_REFUSAL_BYTES = 4096


_ANOTHER: Final = "Name another worker as upstream."


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    signing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedSnapshot:
    """A snapshot that a peer has; of an older release, without its manifest."""

    height: Height
    header: bytes
    chunks: int
    manifest: Manifest | None = None

    @property
    def name(self) -> str:
        """The name of its folder, here and there."""
        return name_of(self.height, self.header)


class Weight(msgspec.Struct, frozen=True, array_like=True):
    """Diffs above some height: how many, up to which one, how many bytes."""

    count: Annotated[int, msgspec.Meta(ge=0)]
    last: Annotated[int, msgspec.Meta(ge=0)]
    size: Annotated[int, msgspec.Meta(ge=0)]

    def without_gap(self, after: int) -> bool:
        """Whether they lead on from a height, block by block."""
        return self.count == self.last - after


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that a peer has, and what its diffs after it weigh."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}-[0-9a-f]{12}\Z")]
    height: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    diffs: Weight


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """What leads on from a height, at a peer, with its weight."""

    diffs: Weight
    snapshots: tuple[Offer, ...] = ()


class Upstream:
    """Another worker of the shard, by its URL.

    Args:
        url: As announced on L1, ``http://host:port``.
        session: The HTTP client.
        bandwidth: How fast chunks of snapshots come; ``None``: as they come.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._bandwidth = bandwidth or Bandwidth(0)
        self.configured = url.rstrip("/")
        #: Where it is asked now.
        self.url = self.configured
        self._session = session

    async def signing_key(self) -> AccountId:
        """Who it says it is; L1 knows where that instance is announced."""
        raw = await self._get("/v1/status", most=_MAX_STATUS_BYTES) or b""
        try:
            said = msgspec.json.decode(raw, type=_Status)
            return AccountId(parse_hex(said.signing_key))
        except (msgspec.MsgspecError, ValueError, DecodeError) as error:
            raise UpstreamError(f"{self.url} does not say who it is") from error

    async def snapshot(self, *, fresh_at: int = 0) -> OfferedSnapshot | None:
        """A snapshot at or above ``fresh_at``; None where the peer has no state."""
        raw = await self._get(
            f"/v1/state/snapshot?fresh_at={fresh_at}", most=_MAX_BYTES
        )
        if raw is None:
            return None
        height, header, chunks = _parse(tuple[int, bytes, int], raw)
        if not 0 < chunks <= MAX_CHUNKS or height < 0:
            raise UpstreamError(
                f"{self.url} sends a snapshot without end",
                got=f"{chunks} chunks",
                expected=f"≤ {MAX_CHUNKS}",
                hint=_ANOTHER,
            )
        return OfferedSnapshot(height=Height(height), header=header, chunks=chunks)

    async def offers(self, after: int) -> Offers | None:
        """What leads on from a height; ``None``: the peer is of an older release."""
        raw = await self._get(f"/v1/state/offers?after={after}", most=_MAX_STATUS_BYTES)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=Offers)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UpstreamError(
                f"the other worker talks nonsense: {error}", hint=_ANOTHER
            ) from error

    async def offered(self, name: str, *, header: bytes | None) -> OfferedSnapshot:
        """A snapshot by its name, with its manifest.

        Args:
            name: Of an offer.
            header: If it is here already.

        Raises:
            UpstreamError: It is not there any more, or not what its name says.
        """
        path = f"/v1/state/snapshots/{name}"
        raw = await self._get(path, most=MAX_MANIFEST_BYTES)
        if raw is None:
            raise self._dropped(name)
        try:
            manifest = parse_manifest(raw, what=f"what {self.url} sent")
        except SnapshotManifestError as error:
            raise UpstreamError(
                error.what, got=error.got, expected=error.expected, hint=_ANOTHER
            ) from error
        if header is None or not manifest.header.fits(header):
            header = await self._get(path + "/header", most=manifest.header.size)
        if header is None:
            raise self._dropped(name)
        if name != manifest.name or not manifest.header.fits(header):
            raise UpstreamError(
                f"{self.url} sends a manifest of another snapshot",
                got=manifest.name,
                expected=name,
                hint=_ANOTHER,
            )
        return OfferedSnapshot(
            height=Height(manifest.height),
            header=header,
            chunks=len(manifest.chunks),
            manifest=manifest,
        )

    async def chunk(self, offered: OfferedSnapshot, number: int) -> bytes:
        """One chunk, as fast as it may come; not judged.

        Raises:
            UpstreamError: It does not come, or is longer than it is to be.
        """
        if offered.manifest is None:
            path, most = f"snapshot/{offered.height}/{number}", _MAX_BYTES
        else:
            path = f"snapshots/{offered.name}/{number}"
            most = offered.manifest.chunks[number].size
        raw = await self._get(f"/v1/state/{path}", most=most)
        if raw is None:
            raise self._dropped(f"{offered.name}, chunk {number}")
        await self._bandwidth.take(len(raw))
        return raw

    def _dropped(self, what: str) -> UpstreamError:
        return UpstreamError(
            "the peer has dropped its snapshot meanwhile",
            got=f"{what} missing",
            hint="It is asked again.",
        )

    async def diffs(self, after: int) -> list[tuple[Height, bytes]]:
        """The encrypted diffs above a height; waits a while for the first."""
        raw = await self._get(f"/v1/state/diffs?after={after}&wait=1", most=_MAX_BYTES)
        if raw is None:
            return []
        return [(Height(h), d) for h, d in _parse(list[tuple[int, bytes]], raw)]

    @asynccontextmanager
    async def mura(self) -> AsyncIterator["WebSocketWire"]:
        """A connection for a mu-ra session.

        Raises:
            UpstreamError: The worker cannot be reached.
        """
        try:
            async with self._session.ws_connect(
                self.url + "/v1/mu-ra",
                max_msg_size=_MAX_BYTES,
                heartbeat=_HEARTBEAT_SECONDS,
            ) as socket:
                yield WebSocketWire(socket)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def _get(self, path: str, *, most: int) -> bytes | None:
        try:
            timeout = aiohttp.ClientTimeout(total=_SECONDS)
            async with self._session.get(self.url + path, timeout=timeout) as answer:
                if answer.status == HTTPStatus.NOT_FOUND:
                    return None
                if answer.status != HTTPStatus.OK:
                    said = await answer.content.read(_MAX_REFUSAL_BYTES)
                    if answer.headers.get("Retry-After", "").isdecimal():
                        raise UpstreamBusyError(
                            f"{self.url} serves as many as it can", got=answer.status
                        )
                    raise UpstreamError(
                        f"{self.url} refuses",
                        got=f"{answer.status} {said[:200].decode(errors='replace')}",
                    )
                return await self._body(answer, most)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def _body(self, answer: aiohttp.ClientResponse, most: int) -> bytes:
        """A body that is not longer; a longer one is not read to its end."""
        parts = []
        left = most
        async for part in answer.content.iter_chunked(_PART_BYTES):
            left -= len(part)
            if left < 0:
                raise UpstreamError(
                    f"{self.url} answers without end",
                    got=f"> {most} B",
                    expected=f"≤ {most} B",
                    hint=_ANOTHER,
                )
            parts.append(part)
        return b"".join(parts)

    def _unreachable(self, error: Exception) -> UpstreamError:
        return UpstreamError(
            f"the worker at {self.url} cannot be reached ({error})",
            expected="a running worker of this shard",
            hint="Check the URL; `sealift client list-workers` shows those on L1.",
        )


class WebSocketWire:
    """Whole messages over a WebSocket, as mu-ra's hosts carry them."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse | aiohttp.web.WebSocketResponse
    ) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        """Send one message."""
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise UpstreamError(f"the other worker is gone ({error})") from error

    async def receive(self) -> AsyncIterator[bytes]:
        """The messages of the other end, until it closes."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise UpstreamError(
                    "the other worker talks nonsense", got=message.type.name
                )
            yield message.data


def _parse(kind: type[T], raw: bytes) -> T:
    try:
        return decode(kind, raw, limit=_MAX_BYTES)
    except DecodeError as error:
        raise UpstreamError(f"the other worker talks nonsense: {error}") from error
