"""What peers fetch of snapshots: offers, manifests, chunks, at a bounded rate.

All of it is sealed for enclaves of the shard. Whoever takes too much waits for
the others, and for the blocks.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from sealift.transport.http import ErrorTable, Handler

from ._door import Door, Places
from ._errors import (
    NoSnapshotError,
    SnapshotDamagedError,
    SnapshotManifestError,
    StoreError,
)
from ._rate import Bandwidth
from ._snapshots import is_name
from ._store import StoredSnapshot, WorkerStore
from ._upstream import Offer, Offers, Weight

#: Downloads at once; each asks for one chunk after another.
_DOWNLOADS = Places(together=16, per_address=8)
#: Looks at what is offered.
_LOOKS = Places(together=32, per_address=8)
_BINARY = "application/octet-stream"
#: Digits of a height below 2**63.
_DIGITS: Final = 18


class StateRoutes:
    """Serves an instance's snapshots by their names.

    Args:
        store: What there is.
        bandwidth: How fast chunks go out, of all downloads together.
    """

    def __init__(self, store: WorkerStore, bandwidth: Bandwidth) -> None:
        self._store = store
        self._bandwidth = bandwidth
        self._downloads = Door(_DOWNLOADS, what="downloads of snapshots")
        self._looks = Door(_LOOKS, what="looks at snapshots")

    def handlers(self) -> Mapping[tuple[str, str], Handler]:
        """What answers which method and path."""
        one = "/v1/state/snapshots/{name}"
        return {
            ("GET", "/v1/state/offers"): self._offers,
            ("GET", one): self._manifest,
            ("GET", one + "/header"): self._header,
            ("GET", one + "/{number}"): self._chunk,
        }

    async def _offers(self, request: web.Request) -> web.Response:
        after = _number(request.query.get("after", "0"))
        with self._looks.entered(request.remote or ""):
            offers = Offers(
                diffs=self._weight(after),
                snapshots=tuple(
                    [
                        Offer(
                            name=one.name,
                            height=one.height,
                            size=await self._size(one),
                            diffs=self._weight(one.height),
                        )
                        for one in self._store.stored_snapshots()
                    ]
                ),
            )
        return web.Response(
            body=msgspec.json.encode(offers), content_type="application/json"
        )

    def _weight(self, after: int) -> Weight:
        count, last, size = self._store.diffs_weight(after)
        return Weight(count=count, last=last, size=size)

    async def _size(self, one: StoredSnapshot) -> int:
        try:
            found = await asyncio.to_thread(self._store.snapshots.manifest, one.name)
        except (SnapshotDamagedError, SnapshotManifestError) as error:
            raise StoreError(f"a snapshot cannot be read ({error})") from error
        return found.size

    async def _manifest(self, request: web.Request) -> web.Response:
        with self._looks.entered(request.remote or ""):
            found = await self.read(request.match_info["name"], None)
        return web.Response(body=found, content_type="application/json")

    async def _header(self, request: web.Request) -> web.Response:
        with self._looks.entered(request.remote or ""):
            found = await self.read(request.match_info["name"], -1)
        return web.Response(body=found, content_type=_BINARY)

    async def _chunk(self, request: web.Request) -> web.Response:
        number = _number(request.match_info["number"])
        with self._downloads.entered(request.remote or ""):
            found = await self.read(request.match_info["name"], number)
            await self._bandwidth.take(len(found))
        return web.Response(body=found, content_type=_BINARY)

    async def read(self, name: str, number: int | None) -> bytes:
        """A chunk of a snapshot that is here, verified.

        Args:
            name: Its name.
            number: The chunk; -1: the header; ``None``: the manifest.

        Raises:
            NoSnapshotError: There is no such snapshot, or no such chunk.
            StoreError: It is here and cannot be read.
        """
        known = {one.name for one in self._store.stored_snapshots()}
        if not is_name(name) or name not in known:
            raise NoSnapshotError("no such snapshot here", hint=_AGAIN)
        try:
            return await asyncio.to_thread(self._read, name, number)
        except (SnapshotDamagedError, SnapshotManifestError) as error:
            if all(one.name != name for one in self._store.stored_snapshots()):
                raise NoSnapshotError("the snapshot is gone", hint=_AGAIN) from error
            raise StoreError(f"the snapshot cannot be read ({error})") from error

    def _read(self, name: str, number: int | None) -> bytes:
        folder = self._store.snapshots
        if number is None:
            return msgspec.json.encode(folder.manifest(name))
        if number < 0:
            return folder.header(name)
        chunks = len(folder.manifest(name).chunks)
        if number >= chunks:
            raise NoSnapshotError("no such chunk here", got=number, expected=chunks)
        return folder.chunk(name, number)


_AGAIN: Final = "Ask again what is offered."
#: Where the routes' own refusals stand in the table of the API.
STATE_ERRORS: Final[ErrorTable] = {NoSnapshotError: HTTPStatus.NOT_FOUND}


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > _DIGITS:
        raise web.HTTPBadRequest(reason=f"not a number: {text[:40]!r}")
    return int(text)
