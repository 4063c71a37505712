"""The state's way between disk, enclave and peers; encrypted all the while."""

from collections.abc import Sequence

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
from ._store import WholeSnapshot, WorkerStore

#: How the enclave names that it holds no keys of the shard.
NO_KEYS = "NoKeysError"


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
            await load_genesis(channel, genesis)
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


async def export_chunks(
    channel: EnclaveChannel, begun: SnapshotHeader
) -> WholeSnapshot:
    """Fetch the chunks of a snapshot; no other may be begun meanwhile."""
    chunks = []
    for number in range(begun.chunks):
        chunk = await channel.call(SnapshotGet(index=number), SnapshotChunk)
        chunks.append(chunk.data)
    return WholeSnapshot(height=begun.height, header=begun.header, chunks=tuple(chunks))


async def import_snapshot(
    channel: EnclaveChannel, *, header: bytes, chunks: Sequence[bytes]
) -> WholeSnapshot:
    """Have the enclave take a peer's snapshot over; the caller keeps it on disk.

    Raises:
        EnclaveRefusedError: It is not of this shard and its keys, or is cut,
            swapped, altered or older.
    """
    begun = await channel.call(SnapshotBegin(header=header), SnapshotHeader)
    for number, data in enumerate(chunks):
        await channel.call(SnapshotChunk(index=number, data=data), StateReply)
    return WholeSnapshot(height=begun.height, header=header, chunks=tuple(chunks))
