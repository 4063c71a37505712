"""The state's way between disk, enclave and peers; encrypted all the while."""

from collections.abc import AsyncIterator

from sealift.base import Height
from sealift.protocol.ecall import (
    DiffApply,
    EnclaveStatus,
    Genesis,
    GetStatus,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)

from ._channel import EnclaveChannel
from ._errors import EnclaveRefusedError, StoreError
from ._store import WorkerStore


async def restore_state(
    channel: EnclaveChannel, store: WorkerStore, *, genesis: bytes | None
) -> Height | None:
    """Bring the state back from disk: a snapshot or the genesis, then diffs.

    Returns:
        The height after which the state stands; None where there is none.

    Raises:
        StoreError: What is on disk was refused by the enclave, by name; it is
            kept as it is.
    """
    snapshot = store.snapshot()
    try:
        if snapshot is not None:
            await channel.call(SnapshotBegin(header=snapshot.header), SnapshotHeader)
            for number in range(snapshot.chunks):
                data = store.chunk(snapshot.height, number)
                await channel.call(SnapshotChunk(index=number, data=data), StateReply)
        elif genesis is not None and store.meta("born") is not None:
            await channel.call(Genesis(blob=genesis), StateReply)
        status = await channel.call(GetStatus(), EnclaveStatus)
        if status.state_height is None:
            return None
        height = status.state_height
        for number, diff in store.diffs_after(height):
            reply = await channel.call(DiffApply(diff=diff), StateReply)
            height = reply.height if reply.height is not None else number
    except EnclaveRefusedError as error:
        raise StoreError(
            f"{store.path} does not give the state back ({error})",
            expected="what this enclave wrote, in order and unaltered",
            hint="It was left as it is. Move it away and fetch the state from a peer.",
        ) from error
    return height


async def export_snapshot(channel: EnclaveChannel, store: WorkerStore) -> Height:
    """Write the state as it is now to disk as a snapshot; its height."""
    header = await channel.call(SnapshotBegin(), SnapshotHeader)
    chunks = []
    for number in range(header.chunks):
        chunk = await channel.call(SnapshotGet(index=number), SnapshotChunk)
        chunks.append(chunk.data)
    store.put_snapshot(header.height, header.header, chunks)
    return header.height


async def import_snapshot(
    channel: EnclaveChannel,
    store: WorkerStore,
    *,
    header: bytes,
    chunks: AsyncIterator[bytes],
) -> Height:
    """Take a snapshot from a peer over, and keep it on disk.

    Raises:
        EnclaveRefusedError: It is not of this shard and its keys, or is cut,
            swapped, altered or older.
    """
    begun = await channel.call(SnapshotBegin(header=header), SnapshotHeader)
    kept = []
    number = 0
    async for data in chunks:
        await channel.call(SnapshotChunk(index=number, data=data), StateReply)
        kept.append(data)
        number += 1
    store.put_snapshot(begun.height, header, kept)
    return begun.height
