"""A snapshot from another worker: to disk and into the enclave, chunk by chunk.

What is on disk is gone on with after any end of any of the two; each chunk is
verified by the peer's list of hashes and, at once, by the enclave.
"""

import asyncio
import contextlib
from typing import Final

from sealift.base import Height
from sealift.protocol.ecall import SnapshotHeader
from sealift.transport.files import FileError

from ._errors import (
    EnclaveRefusedError,
    SnapshotDamagedError,
    SnapshotManifestError,
    UpstreamBusyError,
    UpstreamError,
)
from ._follower import Follower, not_kept
from ._snapshots import MAX_SNAPSHOT_BYTES, Draft, Piece, SnapshotFolder
from ._store import WorkerStore
from ._upstream import OfferedSnapshot, Offers, Upstream

#: How often a chunk is fetched that is not the wanted one.
TRIES: Final = 3
#: How often a peer is asked that serves as many as it can.
BUSY_TRIES: Final = 60
#: Seconds before a busy peer is asked again.
BUSY_SECONDS: Final = 1.0
_ANOTHER: Final = "Name another worker as upstream."


class Downloads:
    """Fetches snapshots for one worker.

    Args:
        follower: Whose enclave takes them.
        store: Whose disk.
    """

    def __init__(self, follower: Follower, store: WorkerStore) -> None:
        self._follower = follower
        self._store = store
        #: Names of those that the enclave refused as a whole: not taken again.
        self.refused: set[str] = set()

    async def choose(
        self, peer: Upstream, offers: Offers, *, fresh_at: int
    ) -> OfferedSnapshot | None:
        """Which of a peer's snapshots to take: one that was begun, else the newest.

        Raises:
            UpstreamError: It is not there any more.
        """
        usable = [
            offer
            for offer in offers.snapshots
            if offer.height >= fresh_at
            and offer.name not in self.refused
            and (not offer.diffs.count or offer.diffs.without_gap(offer.height))
        ]
        if not usable:
            return None
        begun = set(await asyncio.to_thread(self._store.snapshots.partial))
        newest = max(usable, key=lambda one: (one.name in begun, one.height))
        header = None
        if newest.name in begun:
            with contextlib.suppress(SnapshotDamagedError, SnapshotManifestError):
                header, _ = self._store.snapshots.wanted(newest.name)
        return await peer.offered(newest.name, header=header)

    async def take(self, peer: Upstream, offered: OfferedSnapshot) -> Height:
        """Fetch what is missing of a snapshot, and have the enclave take it over.

        1. The header: this shard's, not older. 2. Chunk by chunk, first what is on
        disk. 3. With the last one the enclave's state is the snapshot's, and it is
        this worker's newest snapshot.

        Raises:
            EnclaveRefusedError: 1, or 3: the chunks together lead elsewhere. It is
                thrown away.
            UpstreamError: The peer ends, or sends what is not the snapshot; what is
                good of it stays and is gone on with.
            SnapshotNotKeptError: The disk does not take it.
        """
        folder = self._store.snapshots
        _require_shard(offered, self._store)
        begun = await self._begin(offered)  # 1.
        try:
            draft = await asyncio.to_thread(_draft, folder, offered)
        except FileError as error:
            raise not_kept(offered.name, error) from error
        progress = self._follower.progress
        try:
            left = MAX_SNAPSHOT_BYTES
            last = begun.chunks - 1
            for number in range(last):  # 2.
                progress.fetched_chunks = (number, begun.chunks)
                left -= await self._bring(peer, offered, draft, number)
                if left < 0:
                    raise UpstreamError(
                        f"{peer.url} sends a snapshot without end",
                        got=f"> {MAX_SNAPSHOT_BYTES} B",
                        expected=f"≤ {MAX_SNAPSHOT_BYTES} B",
                        hint=_ANOTHER,
                    )
            progress.fetched_chunks = (last, begun.chunks)
            height = await self._finish(peer, offered, draft, begun)  # 3.
        finally:
            progress.fetched_chunks = None
        for name in await asyncio.to_thread(folder.partial):
            with contextlib.suppress(FileError):
                await asyncio.to_thread(folder.remove, name)
        return height

    async def _begin(self, offered: OfferedSnapshot) -> SnapshotHeader:
        try:
            begun = await self._follower.begin_import(offered.header)
        except EnclaveRefusedError as error:
            if error.refused in _FOR_GOOD:
                self._throw_away(offered.name)
            raise
        if (begun.height, begun.chunks) != (offered.height, offered.chunks):
            self._throw_away(offered.name)
            raise UpstreamError(
                "the other worker says of its snapshot what its header does not",
                got=f"block {offered.height}, {offered.chunks} chunks",
                expected=f"block {begun.height}, {begun.chunks} chunks",
                hint=_ANOTHER,
            )
        return begun

    async def _bring(
        self, peer: Upstream, offered: OfferedSnapshot, draft: Draft, number: int
    ) -> int:
        """One chunk, from the disk or the peer, into the enclave; its length."""
        data = await asyncio.to_thread(draft.get, number, _piece(offered, number))
        refusal: EnclaveRefusedError | None = None
        for _ in range(TRIES + 1):
            fetched = data is None
            if data is None:
                data = await self._fetch(peer, offered, number)
            try:
                await self._follower.import_chunk(number, data)
            except EnclaveRefusedError as error:
                if error.refused not in _BAD_CHUNK:
                    raise
                refusal, data = error, None
                await asyncio.to_thread(draft.drop, number)
                continue
            if fetched:
                try:
                    await asyncio.to_thread(draft.put, number, data)
                except FileError as error:
                    raise not_kept(draft.name, error) from error
            return len(data)
        raise self._bad(peer, offered, number, refusal)

    async def _finish(
        self,
        peer: Upstream,
        offered: OfferedSnapshot,
        draft: Draft,
        begun: SnapshotHeader,
    ) -> Height:
        number = begun.chunks - 1
        data = await asyncio.to_thread(draft.get, number, _piece(offered, number))
        refusal: EnclaveRefusedError | None = None
        for _ in range(TRIES + 1):
            if data is None:
                data = await self._fetch(peer, offered, number)
            try:
                return await self._follower.take_over(draft, begun, data)
            except EnclaveRefusedError as error:
                refusal, data = error, None
                if error.refused in _FOR_GOOD - {_FORGED}:
                    self._throw_away(offered.name)
                if error.refused != _FORGED:
                    raise
        raise self._bad(peer, offered, number, refusal)

    async def _fetch(
        self, peer: Upstream, offered: OfferedSnapshot, number: int
    ) -> bytes:
        """A chunk that is what the peer's list says.

        Raises:
            UpstreamError: It is not, however often it is asked for.
        """
        piece, data = _piece(offered, number), b""
        for _ in range(TRIES):
            data = await _patiently(peer, offered, number)
            if piece is None or piece.fits(data):
                return data
        raise UpstreamError(
            f"{peer.url} sends another chunk {number} than it promised, {TRIES} times",
            got=f"{len(data)} B",
            expected="" if piece is None else f"{piece.size} B, {piece.sha256[:16]}…",
            hint=_ANOTHER,
        )

    def _bad(
        self,
        peer: Upstream,
        offered: OfferedSnapshot,
        number: int,
        refusal: EnclaveRefusedError | None,
    ) -> UpstreamError:
        """What is promised is what the enclave refuses: nothing of it is good."""
        self._throw_away(offered.name)
        return UpstreamError(
            f"chunk {number} of the snapshot at {peer.url} is refused by the enclave, "
            f"{TRIES} times ({refusal})",
            hint=_ANOTHER,
        )

    def _throw_away(self, name: str) -> None:
        if len(self.refused) >= _MOST_REFUSED:
            self.refused.clear()
        self.refused.add(name)
        if all(one.name != name for one in self._store.stored_snapshots()):
            with contextlib.suppress(FileError):
                self._store.snapshots.remove(name)


#: How the enclave names a chunk that is not the snapshot's, …
_FORGED: Final = "SnapshotForgedError"
_MISMATCH: Final = "StateRootMismatchError"
#: … also where it is the head of all, …
_BAD_CHUNK: Final = frozenset({_FORGED, _MISMATCH})
#: … and a snapshot that no time mends.
_FOR_GOOD: Final = frozenset(
    {
        "DecodeError",
        "ForeignSnapshotError",
        "NonCanonicalError",
        "OldSnapshotError",
        "SnapshotContradictedError",
        "TooLargeError",
        _FORGED,
        _MISMATCH,
    }
)
_MOST_REFUSED: Final = 1024


async def _patiently(peer: Upstream, offered: OfferedSnapshot, number: int) -> bytes:
    """A chunk, also of a peer that has no place for us just now."""
    for _ in range(BUSY_TRIES):
        try:
            return await peer.chunk(offered, number)
        except UpstreamBusyError:
            await asyncio.sleep(BUSY_SECONDS)
    return await peer.chunk(offered, number)


def _draft(folder: SnapshotFolder, offered: OfferedSnapshot) -> Draft:
    draft = folder.draft(offered.height, offered.header)
    draft.want(offered.manifest)
    return draft


def _piece(offered: OfferedSnapshot, number: int) -> Piece | None:
    return None if offered.manifest is None else offered.manifest.chunks[number]


def _require_shard(offered: OfferedSnapshot, store: WorkerStore) -> None:
    manifest = offered.manifest
    if manifest is not None and manifest.shard != store.shard.hex():
        raise UpstreamError(
            "the snapshot is of another shard",
            got=manifest.shard,
            expected=store.shard.hex(),
            hint=_ANOTHER,
        )
