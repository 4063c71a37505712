"""The worker: feeds its enclave, keeps what it says, speaks for it on L1.

One follower imports blocks in order and executes what is ready; everything
else waits for it. A task that ends ends the worker, by name: nothing dies
silently while blocks keep coming (facts/peers, W #1674).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from sealift.base import Height, SealiftError, ShardId
from sealift.protocol import SealedReceipt, SignedOrder
from sealift.protocol.ecall import (
    Confirm,
    Confirmed,
    EnclaveStatus,
    Execute,
    Executed,
    Followed,
    GetStatus,
    Idle,
    StateProof,
)

from ._channel import EnclaveChannel
from ._errors import EnclaveGoneError, EnclaveRefusedError
from ._feed import BlockFeed, L1Source
from ._outbox import Act, Included, Outbox
from ._state import export_snapshot
from ._store import WorkerStore

#: Blocks without calls are confirmed at the latest with this many.
CONFIRM_EVERY = 16
#: A certificate that L1 refuses so often is somebody else's by now.
CERTIFICATE_TRIES = 5
_RETRY_SECONDS = 0.3


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
    first_executed: Height | None = None
    signed: Height | None = None
    waiting_for: str = "the enclave"
    halted: str = ""
    last_refusal: str = ""
    calls: int = 0
    restored: Height | None = None
    ended_generation: bool = False
    owes_certificate: bool = False
    certificate_tries: int = 0
    idle: str = ""
    failures: list[str] = field(default_factory=list)


class Follower:
    """Imports L1's blocks, executes what is the enclave's, confirms it.

    Args:
        channel: The enclave.
        l1: The L1 node.
        feed: Blocks of L1 with their proofs.
        store: The disk.
        outbox: L1 acts of the operator.
        shard: Whose worker this is.
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
    ) -> None:
        self.channel = channel
        self.progress = Progress()
        self.status: EnclaveStatus | None = None
        self._l1 = l1
        self._feed = feed
        self._store = store
        self._outbox = outbox
        self._shard = shard
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
        height = head
        while True:
            try:
                await self._wait_for_header(height + 1)
                block = await self._feed.import_block(height)
                async with self._still:
                    followed = await self.channel.call(block, Followed)
            except EnclaveRefusedError as error:
                # The node lies, or lags: nothing was changed; ask it again.
                self.progress.last_refusal = str(error)
                self.progress.waiting_for = f"block {height} that the enclave accepts"
                await self._see_whether_halted()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except EnclaveGoneError:
                raise
            except SealiftError as error:
                self.progress.waiting_for = f"block {height} of the L1 node: {error}"
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._keep_checkpoint(followed)
            self.progress.imported = followed.height
            self.progress.waiting_for = f"block {followed.height + 1}"
            await self.execute_ready()
            await self.confirm_rest()
            async with self._imported:
                self._imported.notify_all()
            height = Height(height + 1)

    async def _wait_for_header(self, height: int) -> None:
        while self.progress.l1_head < height:
            self.progress.l1_head = await self._l1.wait_for_height(height)

    async def _see_whether_halted(self) -> None:
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        self.status = status
        self.progress.halted = status.halted
        if status.halted:
            raise EnclaveGoneError(
                "the enclave has stopped for good",
                got=status.halted,
                hint="See docs/files.md; its state is intact on disk.",
            )

    def _keep_checkpoint(self, followed: Followed) -> None:
        # Executing workers keep theirs with the block; a mere follower's only
        # saves it time, so it is not written for every block.
        if followed.checkpoint and followed.height % CONFIRM_EVERY == 0:
            self._store.put_meta("checkpoint", followed.checkpoint)

    def restored(self, height: Height) -> None:
        """The state came back from disk; what of it is unconfirmed is owed."""
        self.progress.restored = height
        self.progress.owes_certificate = True

    async def execute_ready(self) -> None:
        """Execute every block that is ready, make each durable, confirm."""
        async with self._executing:  # blocks become durable in their order
            try:
                while isinstance(reply := await self._execute_one(), Executed):
                    await self._keep(reply)
            except EnclaveRefusedError as error:
                # For example a migration that fails: the state is as it was.
                self.progress.idle = self.progress.last_refusal = str(error)
                return
        self.progress.idle = f"{reply.reason}: {reply.detail}"

    async def _execute_one(self) -> Executed | Idle:
        reply = await self.channel.ask(Execute())
        if isinstance(reply, Executed | Idle):
            return reply
        raise EnclaveGoneError(
            "the enclave answered out of turn", got=type(reply).__name__
        )

    async def _keep(self, reply: Executed) -> None:
        if not reply.diff:  # too large for a frame: the whole state instead
            await export_snapshot(self.channel, self._store)
        self._store.commit_block(reply)  # durable before it is confirmed (§10.7)
        self.progress.idle = ""
        self.progress.executed = reply.height
        if self.progress.first_executed is None:
            self.progress.first_executed = reply.height
        self.progress.calls += reply.calls
        self.progress.ended_generation = reply.last_of_generation
        self.progress.owes_certificate = reply.last_of_generation
        self.progress.certificate_tries = 0
        self._tell(reply)
        for order in reply.orders:
            self._carry(order)
        await self._confirm_block(reply)

    def _tell(self, block: Executed) -> None:
        event = Executions(height=block.height, receipts=block.receipts)
        for listener in tuple(self._listeners):
            listener(event)

    def _carry(self, order: SignedOrder) -> None:
        self._outbox.put(
            Act(
                call="enclave_bridge.submit_order",
                args={"order": order},
                heard=_nobody,
            )
        )

    async def _confirm_block(self, block: Executed) -> None:
        """Confirm a block at once if it matters, else with a later one."""
        signed = self.progress.signed
        due = (
            block.calls > 0
            or block.last_of_generation
            or signed is None
            or block.height - signed >= CONFIRM_EVERY
        )
        if due:
            await self._confirm(block.height)

    async def confirm_rest(self) -> None:
        """Sign again what L1 did not take, from its frontier on."""
        durable = self.progress.executed or self.progress.restored
        owed = self.progress.signed is None or self.progress.owes_certificate
        if durable is not None and owed:
            await self._confirm(durable)

    async def _confirm(self, durable: Height) -> None:
        for after in await self._begin_after():
            if after >= durable:
                self.progress.signed = after
                if not self.progress.owes_certificate:
                    return
            try:
                reply = await self.channel.call(
                    Confirm(durable=durable, after=min(after, durable)), Confirmed
                )
            except EnclaveRefusedError as error:
                self.progress.last_refusal = str(error)
                continue
            self._send_confirmed(reply)
            return

    async def _begin_after(self) -> list[Height]:
        """Where a confirmation may begin.

        After the last signed one, or at L1's frontier, or (a new generation
        before the old one's last confirmation is on L1) before the first block
        that was executed here.
        """
        if self.progress.signed is not None:
            return [self.progress.signed]
        try:
            frontier = await self._l1.confirmed(self._shard)
        except SealiftError as error:
            self.progress.last_refusal = str(error)
            return []
        first = self.progress.first_executed
        found = [] if frontier is None else [frontier]
        if first is not None and (frontier is None or first - 1 > frontier):
            found.append(Height(first - 1))
        return found

    def _send_confirmed(self, reply: Confirmed) -> None:
        if reply.confirmation is not None:
            self.progress.signed = reply.confirmation.last
            self._outbox.put(
                Act(
                    call="enclave_bridge.confirm",
                    args={
                        "confirmation": reply.confirmation,
                        "signature": reply.signature,
                    },
                    heard=self._heard_confirmation,
                )
            )
        self.progress.owes_certificate = False  # until L1 refuses it
        if reply.certificate is not None:
            self.progress.certificate_tries += 1
            self._outbox.put(
                Act(
                    call="enclave_bridge.post_certificate",
                    args={
                        "certificate": reply.certificate,
                        "signature": reply.certificate_signature,
                    },
                    heard=self._heard_certificate,
                )
            )

    async def _heard_certificate(self, outcome: Included | SealiftError) -> None:
        # Refused until the confirmation before it counts; asked again then.
        refused = isinstance(outcome, SealiftError) or bool(outcome.code)
        again = self.progress.certificate_tries < CERTIFICATE_TRIES
        self.progress.owes_certificate = refused and again

    async def _heard_confirmation(self, outcome: Included | SealiftError) -> None:
        # Somebody else may have confirmed the same; begin at the frontier again.
        if isinstance(outcome, SealiftError) or outcome.code:
            self.progress.signed = None


async def _nobody(outcome: Included | SealiftError) -> None:
    del outcome
