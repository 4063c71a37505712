"""The state's way between disk, enclave and peers; encrypted all the while.

One chunk at a time: the enclave does other things in between, and the disk is
waited for in a thread.
"""

import asyncio
import contextlib
import logging
from typing import Final

from sealift.base import Height, SealiftError
from sealift.protocol.ecall import (
    DiffApply,
    EnclaveStatus,
    Genesis,
    GetStatus,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotDrop,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)
from sealift.transport.files import FileError

from ._channel import EnclaveChannel
from ._errors import (
    EnclaveRefusedError,
    SnapshotDamagedError,
    SnapshotManifestError,
    StoreError,
)
from ._snapshots import About, name_of
from ._store import StoredSnapshot, WorkerStore

#: How the enclave names that it holds no keys of the shard.
NO_KEYS = "NoKeysError"
#: Since this version of the table an enclave forgets an export when it is told to.
DROPS: Final = 2
#: Diffs that are read from the disk at once.
_DIFFS_BYTES: Final = 16 * 1024 * 1024
_LOG: Final = logging.getLogger(__name__)
#: Why a snapshot on disk does not open.
_UNOPENED = (EnclaveRefusedError, SnapshotDamagedError, SnapshotManifestError)


async def restore_state(
    channel: EnclaveChannel,
    store: WorkerStore,
    *,
    genesis: bytes | None,
    peers: bool = False,
) -> Height | None:
    """Bring the state back from disk: the newest good snapshot, then diffs.

    1. The newest snapshot that opens, else the genesis, if it began there. 2. The
    diffs after it. 3. Where that leads as far as the disk once did, or where peers
    can be asked for the rest, what did not open is set aside, under its name.

    Args:
        channel: The enclave; it has no state yet.
        store: The disk.
        genesis: The shard's genesis blob, if it is here.
        peers: Whether somebody can be asked for what the disk does not give.

    Returns:
        The height after which the state stands; None where there is none.

    Raises:
        StoreError: What is on disk was refused, by name; it is kept as it is.
    """
    unopened: list[tuple[StoredSnapshot, SealiftError]] = []
    store.snapshots.sweep({one.name for one in store.stored_snapshots()})
    try:
        for snapshot in store.stored_snapshots():  # 1.
            try:
                await _open_snapshot(channel, store, snapshot)
            except _UNOPENED as error:
                unopened.append((snapshot, error))
            else:
                break
        else:
            if genesis is not None and store.meta("born") is not None:
                await load_genesis(channel, genesis)
        status = await channel.call(GetStatus(), EnclaveStatus)
        height = status.state_height
        if height is not None:
            height = await _replay(channel, store, height, gaps=bool(unopened))  # 2.
    except EnclaveRefusedError as error:
        raise _unusable(store, error) from error
    if unopened:  # 3.
        durable = store.durable()
        if not peers and (height is None or durable is None or height < durable):
            _, refusal = unopened[0]
            raise _unusable(store, refusal) from refusal
        for snapshot, refusal in unopened:
            aside = store.snapshots.set_aside(snapshot.name)
            store.forget_snapshot(snapshot.height)
            kept = "nothing of it is there" if aside is None else f"kept as {aside}"
            _LOG.warning("a snapshot did not open: %s; %s", refusal, kept)
    return height


def _unusable(store: WorkerStore, error: SealiftError) -> StoreError:
    return StoreError(
        f"{store.path} does not give the state back ({error})",
        expected="what this enclave wrote, in order and unaltered",
        hint="It was left as it is. Move it away and fetch the state from a peer.",
    )


async def _open_snapshot(
    channel: EnclaveChannel, store: WorkerStore, snapshot: StoredSnapshot
) -> None:
    folder, name = store.snapshots, snapshot.name
    header = await asyncio.to_thread(folder.header, name)
    begun = await channel.call(SnapshotBegin(header=header), SnapshotHeader)
    for number in range(begun.chunks):
        data = await asyncio.to_thread(folder.chunk, name, number)
        await channel.call(SnapshotChunk(index=number, data=data), StateReply)


async def _replay(
    channel: EnclaveChannel, store: WorkerStore, height: Height, *, gaps: bool
) -> Height:
    """Apply the diffs above; with ``gaps`` until one is missing."""
    while diffs := store.diffs_after(height, most_bytes=_DIFFS_BYTES):
        for number, diff in diffs:
            if gaps and number > height + 1:
                return height
            await channel.call(DiffApply(diff=diff), StateReply)
            height = number
    return height


async def load_genesis(channel: EnclaveChannel, blob: bytes) -> bool:
    """Make the genesis state, if the enclave holds the keys that it takes.

    Returns:
        Whether it was made.

    Raises:
        EnclaveRefusedError: It is not this shard's genesis.
    """
    try:
        await channel.call(Genesis(blob=blob), StateReply)
    except EnclaveRefusedError as error:
        if error.refused != NO_KEYS:  # another instance gave birth: ask it for them
            raise
        return False
    return True


async def begin_export(channel: EnclaveChannel) -> SnapshotHeader:
    """Fix a snapshot of the state as it is now; later blocks don't show in it."""
    return await channel.call(SnapshotBegin(), SnapshotHeader)


def about(store: WorkerStore, header: SnapshotHeader) -> About:
    """What a manifest tells of a snapshot of this worker's."""
    return About(
        shard=store.shard,
        fingerprint=store.fingerprint,
        root=header.root,
        epoch=header.epoch,
        sealed_format=header.format,
    )


async def write_export(
    channel: EnclaveChannel, store: WorkerStore, begun: SnapshotHeader
) -> StoredSnapshot:
    """Write an export out, chunk by chunk; durable and whole, not yet named.

    No other may be begun meanwhile. What was written goes if it comes to nothing.

    Raises:
        FileError: The disk does not take it.
    """
    folder = store.snapshots
    name = name_of(begun.height, begun.header)
    try:
        draft = await asyncio.to_thread(folder.draft, begun.height, begun.header)
        for number in range(begun.chunks):
            chunk = await channel.call(SnapshotGet(index=number), SnapshotChunk)
            await asyncio.to_thread(draft.put, number, chunk.data)
        await asyncio.to_thread(draft.finish, begun.chunks, about(store, begun))
    except BaseException:
        with contextlib.suppress(FileError):
            folder.remove(name)
        raise
    finally:
        if channel.version >= DROPS:
            with contextlib.suppress(SealiftError):
                await channel.call(SnapshotDrop(what="export"), StateReply)
    return StoredSnapshot(height=begun.height, name=name)
