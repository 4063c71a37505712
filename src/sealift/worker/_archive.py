"""What operators do with snapshots: make, list, verify, fetch and prune them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import aiohttp

from sealift.base import (
    Epoch,
    Fingerprint,
    Height,
    SealiftError,
    ShardId,
    StateRoot,
    parse_hex,
)
from sealift.protocol.ecall import (
    SnapshotCheck,
    SnapshotCheckChunk,
    SnapshotChecked,
)
from sealift.transport.clock import Clock
from sealift.transport.files import hold_lock

from ._channel import EnclaveChannel
from ._config import CONFIG_FILE, WorkerConfig
from ._errors import (
    NoSnapshotError,
    SnapshotDamagedError,
    SnapshotManifestError,
    UpstreamBusyError,
    UpstreamError,
)
from ._front import Rank
from ._ground import open_ground
from ._instances import (
    home_fingerprint,
    instance_config,
    open_archive,
    staged_instances,
)
from ._outlook import Outlook
from ._rate import Bandwidth
from ._run import OpenWorker, open_instance, wait_for_chain
from ._snapshots import (
    ASIDE,
    FOLDER,
    MANIFEST,
    About,
    Draft,
    Manifest,
    SnapshotFolder,
    is_name,
)
from ._state import DROPS
from ._store import WorkerStore, owner_of
from ._upstream import OfferedSnapshot, Upstream

#: ``whole``; ``partial``: cut off; ``damaged``: set aside, as it did not open.
Standing: TypeAlias = Literal["whole", "partial", "damaged"]
_TRIES: Final = 3
_BUSY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSnapshot:
    """A snapshot in a folder; of a partial one only what its name says is known."""

    path: Path
    height: Height
    standing: Standing
    bytes_here: int
    manifest: Manifest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """How far a download is: chunks that are here, of how many."""

    name: str
    chunks: int
    of: int
    bytes_fetched: int


def snapshot_folders(path: Path) -> list[Path]:
    """Where the snapshots of a home are, one folder for each instance; or the path.

    Raises:
        NoSnapshotError: There is no such folder.
    """
    if not path.is_dir():
        raise NoSnapshotError(
            "there is no such folder",
            got=str(path),
            expected="a worker's home or a folder of snapshots",
        )
    if not (path / CONFIG_FILE).is_file():
        return [path]
    return sorted(found.parent / FOLDER for found in path.rglob("worker.db"))


def list_snapshots(path: Path) -> list[ListedSnapshot]:
    """All snapshots of a home or a folder, the newest first; none is opened.

    Raises:
        NoSnapshotError: There is no such folder.
    """
    found = [one for folder in snapshot_folders(path) for one in _listed(folder)]
    return sorted(found, key=lambda one: (-one.height, one.path))


def _listed(folder: Path) -> Iterator[ListedSnapshot]:
    held = SnapshotFolder(folder)
    for name in held.names():
        one = held.find(name)
        yield ListedSnapshot(
            path=folder / name,
            height=one.height,
            standing="partial" if one.manifest is None else "whole",
            bytes_here=one.bytes_here,
            manifest=one.manifest,
        )
    aside = folder.iterdir() if folder.is_dir() else ()
    for path in aside:
        name, mark, _ = path.name.partition(ASIDE)
        if mark and is_name(name):
            yield ListedSnapshot(
                path=path,
                height=Height(int(name.partition("-")[0])),
                standing="damaged",
                bytes_here=sum(f.stat().st_size for f in path.rglob("*")),
                manifest=None,
            )


def verify_snapshot(path: Path) -> Manifest:
    """Read every piece of a snapshot, and compare it with the manifest.

    Args:
        path: Its folder, absolute: its name is part of what it is.

    Raises:
        NoSnapshotError: There is none.
        SnapshotDamagedError: A piece is missing or altered: which.
        SnapshotManifestError: Its manifest is none, or of another one.
    """
    if not (path / MANIFEST).is_file():
        raise NoSnapshotError(
            "there is no whole snapshot in this folder",
            got=str(path),
            expected=f"a folder with a {MANIFEST}",
            hint="`sealift snapshot list` shows what is there.",
        )
    return _holder(path).verify(path.name)


def _holder(path: Path) -> SnapshotFolder:
    return SnapshotFolder(path.parent)


async def check_snapshot(
    path: Path, config: WorkerConfig, *, clock: Clock
) -> SnapshotChecked:
    """Have the enclave of a home look at every chunk of a snapshot; nothing changes.

    Args:
        path: The snapshot, which was verified; absolute.
        config: A home whose worker does not run, with the keys.
        clock: The wall clock.

    Raises:
        EnclaveRefusedError: The enclave refuses it, by name.
        SealiftError: The enclave does not start, or is too old to check.
    """
    async with _open_furthest(config, clock=clock) as worker:
        return await checked_by(worker.channel, path)


async def checked_by(channel: EnclaveChannel, path: Path) -> SnapshotChecked:
    """Have a running enclave look at every chunk of a snapshot; nothing changes.

    Raises:
        EnclaveRefusedError: It refuses the snapshot, by name.
        NoSnapshotError: It is too old to check one.
        SnapshotDamagedError: A piece is missing or altered.
    """
    if channel.version < DROPS:
        raise NoSnapshotError(
            "the enclave of this home is too old to check a snapshot",
            got=f"version {channel.version} of the table",
            expected=f"≥ {DROPS}",
            hint="Leave --home out: hashes are verified without an enclave.",
        )
    folder, name = _holder(path), path.name
    header = folder.header(name)
    found = await channel.call(SnapshotCheck(header=header), SnapshotChecked)
    for number in range(found.chunks):
        data = await asyncio.to_thread(folder.chunk, name, number)
        request = SnapshotCheckChunk(index=number, data=data)
        found = await channel.call(request, SnapshotChecked)
    return found


async def create_snapshot(config: WorkerConfig, *, clock: Clock) -> ListedSnapshot:
    """Have the enclave of a home whose worker does not run make one of its state.

    Raises:
        EnclaveRefusedError: It has no state.
        SealiftError: The enclave does not start, or the disk does not take it.
    """
    async with _open_furthest(config, clock=clock) as worker:
        made = await worker.follower.keep_snapshot()
        folder = worker.store.snapshots
        found = folder.find(made.name)
    return ListedSnapshot(
        path=folder.path / made.name,
        height=made.height,
        standing="whole",
        bytes_here=found.bytes_here,
        manifest=found.manifest,
    )


@asynccontextmanager
async def _open_furthest(
    config: WorkerConfig, *, clock: Clock
) -> AsyncIterator[OpenWorker]:
    """The instance of a home whose worker does not run that is furthest, up alone."""
    async with open_ground(config, clock=clock) as ground:
        await wait_for_chain(ground.l1)
        if any(staged_instances(config)):
            outlook = Outlook(ground.l1, config.shard, config.platform)
            await outlook.look(await ground.l1.height())
            config = furthest_instance(config, outlook.rank)
        async with open_instance(ground, config) as worker:
            yield worker


def furthest_instance(
    config: WorkerConfig, rank: Callable[[Fingerprint, int | None], Rank]
) -> WorkerConfig:
    """Which instance of a home would answer: the home's own, or a staged one.

    After an upgrade the home's own has neither the state nor, maybe, the keys.

    Args:
        config: The home, whose lock is held.
        rank: How far a code is whose state stands after a block.
    """
    known: dict[Fingerprint, WorkerConfig] = {}
    with suppress(SealiftError):  # where it is needed, its start says what is wrong
        known[home_fingerprint(config)] = config
    for code in staged_instances(config):
        known.setdefault(code, instance_config(config, code))
    ranks = {code: rank(code, _durable(one, code)) for code, one in known.items()}
    return known[max(ranks, key=lambda code: ranks[code].key())] if known else config


def _durable(config: WorkerConfig, code: Fingerprint) -> Height | None:
    """The last block after which an instance's state is on disk."""
    stores = open_archive(config, code)
    try:
        found = [store.durable() for store in stores]
    finally:
        for store in stores:
            store.close()
    return max((height for height in found if height is not None), default=None)


def copy_snapshot(path: Path, to: Path) -> Path:
    """Copy a whole snapshot into another folder, durably; where it is then.

    Raises:
        SnapshotDamagedError: A piece is missing or altered.
        FileError: The disk does not take it; what there is of it goes on later.
    """
    source, name = _holder(path), path.name
    manifest = source.manifest(name)
    draft = SnapshotFolder(to).draft(manifest.height, source.header(name))
    for number in range(len(manifest.chunks)):
        if draft.get(number, manifest.chunks[number]) is None:
            draft.put(number, source.chunk(name, number))
    draft.finish(len(manifest.chunks), _about(manifest))
    return draft.folder


def prune_snapshots(config: WorkerConfig, keep: int) -> list[Path]:
    """Drop all but the newest snapshots of a home whose worker does not run.

    Of each instance at least one stays: without it the diffs lead nowhere. What is
    partial goes; what was set aside stays.

    Returns:
        What was dropped.

    Raises:
        FileLockedError: The worker runs: it prunes by ``[state] keep_snapshots``.
        StoreError: A database cannot be used.
    """
    dropped: list[Path] = []
    with hold_lock(config.home / "worker.lock"):
        for database in sorted(config.home.rglob(config.database.name)):
            shard, fingerprint = owner_of(database)
            store = WorkerStore(database, shard=shard, fingerprint=fingerprint)
            try:
                store.retain_snapshots(keep)
                named = {one.name for one in store.stored_snapshots()}
            finally:
                store.close()
            for name in store.snapshots.names():
                if name not in named:
                    store.snapshots.remove(name)
                    dropped.append(store.snapshots.path / name)
    return dropped


async def fetch_snapshot(
    url: str,
    to: Path,
    *,
    rate: int,
    told: Callable[[FetchProgress], None],
) -> ListedSnapshot:
    """Download a worker's newest snapshot, or go on with one that was cut off.

    Nobody opens it: its pieces are what the worker's list says, no more.

    Args:
        url: The worker.
        to: A folder of snapshots; made when absent.
        rate: Most bytes a second; 0: no limit.
        told: Hears of every chunk.

    Raises:
        UpstreamError: The worker does not answer, or sends what it did not promise.
        FileError: The disk does not take it; what there is of it goes on later.
    """
    folder = SnapshotFolder(to)
    async with aiohttp.ClientSession() as http:
        peer = Upstream(url, http, bandwidth=Bandwidth(rate))
        offered = await _offer(peer, folder)
        manifest = offered.manifest
        if manifest is None:
            raise UpstreamError("the worker shows no manifest", got=url)
        draft = await asyncio.to_thread(folder.draft, offered.height, offered.header)
        await asyncio.to_thread(draft.want, manifest)
        fetched = 0
        for number, piece in enumerate(manifest.chunks):
            if await asyncio.to_thread(draft.get, number, piece) is None:
                fetched += await _fetch_chunk(peer, offered, draft, number)
            told(
                FetchProgress(
                    name=offered.name,
                    chunks=number + 1,
                    of=offered.chunks,
                    bytes_fetched=fetched,
                )
            )
        await asyncio.to_thread(draft.finish, offered.chunks, _about(manifest))
        draft.settled()
    return ListedSnapshot(
        path=to / offered.name,
        height=offered.height,
        standing="whole",
        bytes_here=manifest.size,
        manifest=manifest,
    )


async def _offer(peer: Upstream, folder: SnapshotFolder) -> OfferedSnapshot:
    offers = await peer.offers(0)
    if offers is None:
        raise UpstreamError(
            f"the worker at {peer.url} is of an older release",
            expected="one that lists its snapshots",
            hint="`sealift worker join` takes its state over all the same.",
        )
    if not offers.snapshots:
        made = await peer.snapshot()
        if made is None:
            raise UpstreamError(f"the worker at {peer.url} has no state")
        return await peer.offered(made.name, header=made.header)
    begun = set(folder.partial())
    best = max(offers.snapshots, key=lambda one: (one.name in begun, one.height))
    header = None
    if best.name in begun:
        with suppress(SnapshotDamagedError, SnapshotManifestError):
            header, _ = folder.wanted(best.name)
    return await peer.offered(best.name, header=header)


async def _fetch_chunk(
    peer: Upstream, offered: OfferedSnapshot, draft: Draft, number: int
) -> int:
    piece = None if offered.manifest is None else offered.manifest.chunks[number]
    for _ in range(_TRIES):
        try:
            data = await peer.chunk(offered, number)
        except UpstreamBusyError:
            await asyncio.sleep(_BUSY_SECONDS)
            continue
        if piece is None or piece.fits(data):
            await asyncio.to_thread(draft.put, number, data)
            return len(data)
    raise UpstreamError(
        f"{peer.url} does not send chunk {number} as it promised, {_TRIES} times",
        hint="What is here stays; try another worker that has this snapshot.",
    )


def _about(manifest: Manifest) -> About:
    return About(
        shard=ShardId(parse_hex(manifest.shard)),
        fingerprint=Fingerprint(parse_hex(manifest.fingerprint)),
        root=StateRoot(parse_hex(manifest.root)) if manifest.root else None,
        epoch=None if manifest.epoch is None else Epoch(manifest.epoch),
        sealed_format=manifest.sealed_format,
    )
