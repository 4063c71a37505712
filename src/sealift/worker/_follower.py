"""The worker: feeds its enclave, keeps what it says, speaks for it on L1.

One follower imports blocks in order and executes what is ready; everything
else waits for it. A task that ends ends the worker, by name: nothing dies
silently while blocks keep coming (facts/peers, W #1674).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sealift.base import AccountId, Digest, Height, SealiftError, ShardId
from sealift.protocol import SealedReceipt
from sealift.protocol.ecall import (
    DiffApply,
    EnclaveStatus,
    Execute,
    Executed,
    Followed,
    GetStatus,
    Idle,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotHeader,
    StateProof,
    StateReply,
)
from sealift.transport.files import FileError

from ._channel import EnclaveChannel
from ._confirm import CONFIRM_EVERY, Confirmer
from ._effects import EffectsCarrier
from ._errors import (
    EnclaveGoneError,
    EnclaveRefusedError,
    SnapshotNotKeptError,
    StoreError,
)
from ._feed import BlockFeed, L1Source
from ._outbox import Outbox
from ._skip import LONG_GAP, SkipPlanner
from ._snapshots import Draft
from ._state import about, begin_export, load_genesis, write_export
from ._store import StoredSnapshot, WorkerStore

#: What an enclave says that has seen two chains; it stays so.
HALTED_BY_FORK = "fork"
#: As many headers as an enclave remembers.
VERIFIED_KEPT = 1024
#: Why an enclave executes nothing where another's state or diffs help.
_FETCHED = frozenset({"not-mine", "behind", "no-state"})
_UNCONFIRMED = "StateUnconfirmedError"
_RETRY_SECONDS = 0.3
#: Snapshots that remain on disk, if nobody says otherwise.
KEEP_SNAPSHOTS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Executions:
    """What listeners hear of an executed block."""

    height: Height
    receipts: tuple[SealedReceipt, ...]


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where the worker is, for status, metrics and health."""

    imported: int = 0
    l1_head: int = 0
    executed: Height | None = None
    waiting_for: str = "the enclave"
    l1_failure: str = ""
    halted: str = ""
    last_refusal: str = ""
    calls: int = 0
    idle: str = ""
    #: The block to which this run skipped a long gap.
    skipped_to: Height | None = None
    #: Of the snapshot that is being fetched, how many chunks are in, and of how many.
    fetched_chunks: tuple[int, int] | None = None
    #: Whether only another worker's state or diffs lead on.
    needs_state: bool = False


class Follower:
    """Imports L1's blocks, executes what is the enclave's, confirms it.

    Args:
        channel: The enclave.
        l1: The L1 node.
        feed: Blocks of L1 with their proofs.
        store: The disk.
        outbox: L1 acts of the operator.
        shard: Whose worker this is.
        me: The enclave's signing key.
        skips: Finds ways over long gaps; without it every block is followed.
        forked: Called once the enclave has seen two chains, before it ends.
        keep_snapshots: So many remain on disk.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        l1: L1Source,
        feed: BlockFeed,
        store: WorkerStore,
        outbox: Outbox,
        shard: ShardId,
        me: AccountId,
        skips: SkipPlanner | None = None,
        forked: Callable[[], Awaitable[None]] | None = None,
        keep_snapshots: int = KEEP_SNAPSHOTS,
    ) -> None:
        self.channel = channel
        self.keep_snapshots = keep_snapshots
        #: Whether the state of blocks that are skipped can be had from elsewhere.
        self.may_skip: Callable[[], bool] = _always
        self.progress = Progress()
        #: Hashes of the headers that the enclave verified last, by height.
        self.verified: dict[Height, Digest] = {}
        self._forked = forked
        self._skips = skips
        self._l1 = l1
        self._feed = feed
        self._store = store
        self._confirmer = Confirmer(
            channel=channel, l1=l1, store=store, outbox=outbox, shard=shard, me=me
        )
        self._effects = EffectsCarrier(
            channel=channel, l1=l1, store=store, outbox=outbox, shard=shard
        )
        self._keeping = asyncio.Lock()
        self._exporting = asyncio.Lock()
        self._still = asyncio.Lock()
        self._executing = asyncio.Lock()
        self._imported = asyncio.Condition()
        self._listeners: set[Callable[[Executions], None]] = set()

    def listen(self, listener: Callable[[Executions], None]) -> Callable[[], None]:
        """Hear of every executed block; the answer stops it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    @contextlib.asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """While held, the enclave imports no block: its head does not move."""
        async with self._still:
            yield

    async def next_block(self) -> None:
        """Until the enclave has imported another block."""
        async with self._imported:
            seen = self.progress.imported
            await self._imported.wait_for(lambda: self.progress.imported > seen)

    def speakers(self) -> tuple[AccountId, ...]:
        """Whose confirmations stood in the newest blocks, the last first (a hint)."""
        return self._feed.speakers.newest()

    async def prove_at_head(
        self, keys: tuple[bytes, ...]
    ) -> tuple[Height, tuple[StateProof, ...]]:
        """Proofs against the newest state that the enclave can judge."""
        height = Height(self.progress.imported)
        return height, await self._feed.proofs(keys, height)

    async def reach(self, height: int) -> None:
        """Until the enclave has imported the block ``height``."""
        while self.progress.imported < height:
            await self.next_block()

    async def run(self, head: Height) -> None:
        """Follow from the relay's head on; ends only by an error.

        Raises:
            EnclaveGoneError: The process has ended.
            StoreError: The disk does not take what must be durable.
        """
        self.progress.imported = max(head - 1, 0)
        height = await self._skip(head)
        look_again = height + LONG_GAP
        while True:
            try:
                await self._wait_for_header(height + 1)
                if self.progress.l1_head - height > LONG_GAP and height >= look_again:
                    # Suspended, perhaps; or the node was away for long.
                    height = await self._skip(height)
                    look_again = height + LONG_GAP
                    continue
                block = await self._feed.import_block(height)
                async with self._still:
                    followed = await self.channel.call(block, Followed)
            except EnclaveRefusedError as error:
                # The node lies, or lags: nothing was changed; ask it again.
                self.progress.last_refusal = self.progress.l1_failure = str(error)
                self.progress.waiting_for = f"block {height} that the enclave accepts"
                await self._see_whether_halted()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except EnclaveGoneError:
                raise
            except SealiftError as error:
                self.progress.waiting_for = f"block {height} of the L1 node"
                self.progress.l1_failure = str(error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._note_verified()
            await self._followed(followed)
            height = Height(height + 1)

    async def _skip(self, head: Height) -> Height:
        """Over a long gap, if the enclave agrees; the next block to follow.

        Whatever stands in the way, a node or the enclave's own rules, is no
        reason to stop: the blocks can always be followed one by one.
        """
        if self._skips is None or not self.may_skip():
            return head
        try:
            tip = await self._l1.wait_for_height(head)
            planned = await self._skips.plan(head, tip)
            if planned is None:
                return head
            target, request = planned
            self.progress.waiting_for = f"block {target}, by a skip"
            async with self._still:
                followed = await self.channel.call(request, Followed)
        except EnclaveRefusedError as error:
            self.progress.last_refusal = str(error)
            await self._see_whether_halted()
            return head
        except EnclaveGoneError:
            raise
        except SealiftError as error:
            self.progress.l1_failure = str(error)
            return head
        self._store.put_meta("checkpoint", followed.checkpoint)
        self.progress.imported = self.progress.skipped_to = followed.height
        await self.execute_ready()
        async with self._imported:
            self._imported.notify_all()
        return Height(followed.height + 1)

    def _note_verified(self) -> None:
        if self._feed.newest is not None:
            height, digest = self._feed.newest
            self.verified[height] = digest
            while len(self.verified) > VERIFIED_KEPT:
                del self.verified[next(iter(self.verified))]

    async def _followed(self, followed: Followed) -> None:
        async with self._executing:  # a checkpoint never outruns what is durable
            self._keep_checkpoint(followed)
        self.progress.imported = followed.height
        self.progress.l1_failure = ""
        self.progress.waiting_for = f"block {followed.height + 1}"
        await self.execute_ready()
        await self._confirmer.imported()
        await self._effects.imported()
        async with self._imported:
            self._imported.notify_all()

    async def _wait_for_header(self, height: int) -> None:
        while self.progress.l1_head < height:
            self.progress.l1_head = await self._l1.wait_for_height(height)

    async def _see_whether_halted(self) -> None:
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        self.progress.halted = status.halted
        if status.halted == HALTED_BY_FORK:
            if self._forked is not None:
                await self._forked()
            raise EnclaveGoneError(
                "the enclave has stopped for good: it was shown two chains",
                got=status.halted,
                hint="Its state is intact on disk. Find out who signed both.",
            )

    def _keep_checkpoint(self, followed: Followed) -> None:
        # Executing workers keep theirs with the block; a mere follower's only
        # saves it time, so it is not written for every block.
        if followed.checkpoint and followed.height % CONFIRM_EVERY == 0:
            self._store.put_meta("checkpoint", followed.checkpoint)

    def restored(self, height: Height) -> None:
        """The state came back from disk; what of it is unconfirmed is owed."""
        self._confirmer.restored(height)

    async def keep_snapshot(self) -> StoredSnapshot:
        """Write the state as it is to disk as a snapshot.

        Blocks are executed meanwhile: only its beginning waits for the one that
        is being executed, so that all it holds is durable already. Of older ones
        so many remain as are to be kept.

        Raises:
            EnclaveRefusedError: There is no state.
            SnapshotNotKeptError: The disk does not take it; it has what it had.
            StoreError: The disk does not take its name.
        """
        async with contextlib.AsyncExitStack() as exporting:
            # A second one waits here, not where blocks would wait for it.
            await exporting.enter_async_context(self._keeping)
            async with self._executing:
                await exporting.enter_async_context(self._exporting)
                begun = await begin_export(self.channel)
            try:
                made = await write_export(self.channel, self._store, begun)
            except FileError as error:
                raise SnapshotNotKeptError(
                    f"a snapshot after block {begun.height} was not kept ({error})",
                    expected="room on the disk",
                    hint="Those before are as they were, and blocks go on.",
                ) from error
        before = self._named()
        self._store.put_snapshot(made)
        await self._retain(before)
        return made

    def _named(self) -> set[str]:
        return {one.name for one in self._store.stored_snapshots()}

    async def _retain(self, before: set[str]) -> None:
        """Drop the oldest snapshots, until as many are left as are to be kept."""
        self._store.retain_snapshots(self.keep_snapshots)
        await self._remove(before - self._named())

    async def _remove(self, names: set[str]) -> None:
        for name in sorted(names):
            with contextlib.suppress(FileError):
                await asyncio.to_thread(self._store.snapshots.remove, name)

    async def apply_diff(self, height: Height, diff: bytes) -> None:
        """Advance the state by a block that another worker executed; durable.

        Raises:
            EnclaveRefusedError: It does not follow the state, or is forged.
            StoreError: The disk does not take it.
        """
        async with self._executing:
            await self.channel.call(DiffApply(diff=diff), StateReply)
            self._store.commit_diff(height, diff)

    async def begin_import(self, header: bytes) -> SnapshotHeader:
        """Offer the enclave the snapshot of another worker.

        Raises:
            EnclaveRefusedError: It is not of this shard, forged, or older.
        """
        return await self.channel.call(SnapshotBegin(header=header), SnapshotHeader)

    async def import_chunk(self, number: int, data: bytes) -> None:
        """Give the enclave a chunk of it, not the last one.

        Raises:
            EnclaveRefusedError: It is not that chunk; the others stand.
        """
        await self.channel.call(SnapshotChunk(index=number, data=data), StateReply)

    async def take_over(
        self, draft: Draft, begun: SnapshotHeader, last: bytes
    ) -> Height:
        """Take the state of another worker over, by its last chunk; its height.

        All of it is on disk before the enclave takes it, and named after.

        Raises:
            EnclaveRefusedError: As :meth:`import_chunk`, or all of it together
                leads elsewhere; it is no snapshot here.
            SnapshotNotKeptError: The disk does not take it.
            StoreError: The disk does not take its name.
        """
        number = begun.chunks - 1
        try:
            await asyncio.to_thread(draft.put, number, last)
            said = about(self._store, begun)
            await asyncio.to_thread(draft.finish, begun.chunks, said)
        except FileError as error:
            raise not_kept(draft.name, error) from error
        async with self._executing:
            try:
                await self.import_chunk(number, last)
            except EnclaveRefusedError:
                draft.drop(number)
                raise
            before = self._named()
            self._store.replace_state(
                StoredSnapshot(height=begun.height, name=draft.name)
            )
        draft.settled()
        await self._remove(before - self._named())
        return begun.height

    async def begin_at_genesis(self, blob: bytes) -> bool:
        """Make the genesis state; whether it was made, and then it is noted durably.

        No block becomes durable before that: a disk whose diffs have no beginning
        would give nothing back.

        Raises:
            EnclaveRefusedError: It is not this shard's genesis.
            StoreError: The disk does not take it.
        """
        async with self._executing:
            made = await load_genesis(self.channel, blob)
            if made:
                self._store.put_meta("born", b"\x01")
        return made

    async def execute_ready(self) -> None:
        """Execute every block that is ready, make each durable, confirm."""
        async with self._executing:  # blocks become durable in their order
            try:
                while isinstance(reply := await self._execute_one(), Executed):
                    await self._keep(reply)
            except EnclaveRefusedError as error:
                # For example a migration that fails: the state is as it was.
                self.progress.idle = self.progress.last_refusal = str(error)
                self.progress.needs_state = True
                await self._see_whether_halted()
                return
        self.progress.idle = f"{reply.reason}: {reply.detail}"
        # A state from elsewhere that L1 does not cover yet is only waited for:
        # fetching on would never let this worker execute (and confirm) itself.
        waits = reply.detail.startswith(_UNCONFIRMED)
        self.progress.needs_state = reply.reason in _FETCHED and not waits

    async def _execute_one(self) -> Executed | Idle:
        reply = await self.channel.ask(Execute())
        if isinstance(reply, Executed | Idle):
            return reply
        raise EnclaveGoneError(
            "the enclave answered out of turn", got=type(reply).__name__
        )

    async def _keep(self, reply: Executed) -> None:
        snapshot = None
        if not reply.diff:  # too large for a frame: the whole state instead
            async with self._exporting:
                begun = await begin_export(self.channel)
                try:
                    snapshot = await write_export(self.channel, self._store, begun)
                except FileError as error:
                    raise StoreError(
                        f"block {reply.height} was not written ({error})",
                        expected="room for the whole state on the disk",
                        hint="What was written before is whole; make room, then start "
                        "again.",
                    ) from error
        # durable before it is confirmed (§10.7)
        before = self._named()
        self._store.commit_block(reply, snapshot)
        if snapshot is not None:
            await self._retain(before)
        self.progress.idle = ""
        self.progress.executed = reply.height
        self.progress.calls += reply.calls
        self._tell(reply)
        if reply.effects is not None:
            self._effects.executed()
        await self._confirmer.executed(reply)

    def _tell(self, block: Executed) -> None:
        event = Executions(height=block.height, receipts=block.receipts)
        for listener in tuple(self._listeners):
            listener(event)


def not_kept(name: str, error: FileError) -> SnapshotNotKeptError:
    """What is said of a snapshot from elsewhere that the disk does not take."""
    return SnapshotNotKeptError(
        f"the snapshot {name} of another worker was not kept ({error})",
        expected="room on the disk",
        hint="What came of it is gone on with when there is room.",
    )


def _always() -> bool:
    return True
