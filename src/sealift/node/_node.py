"""The embedded node as a running thing: block timer, mempool, RPC server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from sealift.protocol import MAX_TX_BYTES
from sealift.relay import BlockParams, Timestamp, tx_hash
from sealift.relay.rpc import (
    NEW_BLOCK_QUERY,
    ExecTxResult,
    FinalizeBlockResult,
    NewBlockEvent,
)
from sealift.transport.clock import Clock
from sealift.transport.files import hold_lock
from sealift.transport.http import Listening, serve

from ._application import Application
from ._chain import CommittedBlock
from ._durable import DurableChain
from ._errors import ChainStoppedError, TxNotFoundError
from ._home import SoloConfig, SoloHome
from ._mempool import TX_FRAME, Mempool, MempoolLimits
from ._methods import SoloMethods
from ._server import RpcServer

#: What is said at every start.
SOLO_NOTICE: Final = (
    "One key orders this chain: whoever holds it decides alone what is in a block."
    " For development and tests; a network runs CometBFT."
)
#: CometBFT's ``timeout_broadcast_tx_commit``.
_COMMIT_SECONDS: Final = 10.0
#: Header, commit and framing of a block, generously.
_BLOCK_OVERHEAD: Final = 2_048
#: What ``max_bytes`` -1 means: v0.38 types/params.go MaxBlockSizeBytes.
_MOST_BLOCK_BYTES: Final = 104_857_600

#: Most seconds between two votes: far below any trusting period, which a relay
#: without a clock takes as the longest jump between two headers.
_LONGEST_STEP_SECONDS: Final = 86_400

_log = logging.getLogger(__name__)


class SoloNode:
    """One running chain; made by :func:`run_solo`.

    Guarantees that nothing of a block is told to anybody before it is durable,
    and that a failure to store or execute ends block making for good: only a
    new process, which reads what is durable, goes on.
    """

    def __init__(
        self, *, chain: DurableChain, config: SoloConfig, clock: Clock
    ) -> None:
        self._chain = chain
        self._config = config
        self._clock = clock
        self._limits = _block_limits(chain)
        self._mempool = Mempool(
            chain.chain.application,
            MempoolLimits(
                tx_bytes=min(MAX_TX_BYTES, self._limits.max_bytes - TX_FRAME),
                tx_gas=self._limits.max_gas,
            ),
        )
        self._turn = asyncio.Lock()
        self._making: set[asyncio.Task[CommittedBlock]] = set()
        self._stopping = asyncio.Event()
        self._waiting: dict[bytes, set[asyncio.Future[bool]]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._methods = SoloMethods(
            chain=chain, mempool=self._mempool, waiter=self, moniker=config.moniker
        )
        self._server = RpcServer(self._methods.table())
        self._url = ""

    @property
    def url(self) -> str:
        """Where the RPC answers."""
        return self._url

    @property
    def chain(self) -> DurableChain:
        """Everything durable."""
        return self._chain

    @property
    def mempool(self) -> Mempool:
        """What waits."""
        return self._mempool

    async def failed(self) -> None:
        """Wait until block making fails; never returns normally.

        Raises:
            SealiftError: Why it failed.
        """
        await asyncio.shield(self._failure)

    def submit(self, tx: bytes) -> ExecTxResult:
        """CheckTx, and a place in the mempool if it passes.

        Raises:
            ChainStoppedError: Block making has failed.
            TooLargeError, TxAlreadyKnownError, MempoolFullError: No place.
        """
        self._require_going()
        return self._mempool.add(tx)

    async def included(self, digest: bytes) -> None:
        """Return when a waiting transaction is in a durable block.

        Raises:
            TxNotFoundError: It was thrown out, or not included in time.
        """
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(digest, set()).add(waiter)
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                there = await waiter
        except TimeoutError as error:
            raise TxNotFoundError(
                "timed out waiting for tx to be included in a block",
                got=digest.hex(),
                hint="It may still be",
            ) from error
        finally:
            self._waiting.get(digest, set()).discard(waiter)
            if not self._waiting.get(digest, True):
                del self._waiting[digest]
        if not there:
            raise TxNotFoundError(
                "tx is no longer valid and was thrown out", got=digest.hex()
            )

    async def produce(self) -> CommittedBlock:
        """Make one block now.

        Raises:
            ChainStoppedError: Block making has failed before.
            SealiftError: It fails now; the process should end.
        """
        making = asyncio.create_task(self._make())
        self._making.add(making)
        making.add_done_callback(self._made)
        # A caller that is cancelled must not leave a block durable but unseen.
        return await asyncio.shield(making)

    async def _make(self) -> CommittedBlock:
        async with self._turn:
            self._require_going()
            try:
                return await self._one_block()
            except BaseException as error:
                self._failure.set_exception(error)
                self._failure.exception()  # looked at: failed() may never run
                raise

    def _made(self, making: asyncio.Task[CommittedBlock]) -> None:
        self._making.discard(making)
        if not making.cancelled():
            making.exception()  # looked at: the caller may be gone

    async def _one_block(self) -> CommittedBlock:
        limits = self._limits
        waiting = self._mempool.reap(max_bytes=limits.max_bytes, max_gas=limits.max_gas)
        txs = self._chain.chain.application.prepare_proposal(
            waiting, max_bytes=limits.max_bytes, max_gas=limits.max_gas
        )
        block = self._chain.propose(now=self._vote_time(), txs=txs)
        await asyncio.to_thread(self._chain.persist, block)
        self._chain.adopt(block)
        ejected = self._mempool.update(txs)
        self._tell(block, ejected)
        return block

    def _vote_time(self) -> Timestamp:
        """The clock's time, but never so far ahead that a relay refuses the jump.

        A chain that was stopped for long catches up over several blocks.
        """
        signatures = self._chain.chain.tip.commit.signatures
        last = (
            signatures[0].timestamp if signatures else self._chain.genesis.genesis_time
        )
        return min(self._clock.now(), last.plus(seconds=_LONGEST_STEP_SECONDS))

    def _tell(self, block: CommittedBlock, ejected: tuple[bytes, ...]) -> None:
        found = [(tx_hash(tx), True) for tx in block.block.txs]
        for digest, there in (*found, *((gone, False) for gone in ejected)):
            for waiter in self._waiting.get(digest, ()):
                if not waiter.done():
                    waiter.set_result(there)
        self._server.publish(
            NewBlockEvent(
                query=NEW_BLOCK_QUERY,
                block=block.block,
                block_id=block.block_id,
                result=FinalizeBlockResult(
                    events=block.events,
                    tx_results=block.results,
                    app_hash=block.app_hash,
                ),
                events=(("tm.event", ("NewBlock",)),),
            )
        )

    def _require_going(self) -> None:
        if self._failure.done():
            raise ChainStoppedError(
                "this node makes no more blocks", got=str(self._failure.exception())
            )

    async def _keep_time(self) -> None:
        interval = self._config.block_ms / 1000
        due = self._clock.monotonic() + interval
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock.monotonic())):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return
            await self.produce()
            # After a pause no burst of blocks makes up for it.
            due = max(due + interval, self._clock.monotonic())

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer and make blocks while in the block."""
        config = self._config
        app = self._server.application()
        async with serve(app, host=config.host, port=config.port) as where:
            self._announce(where)
            timer = asyncio.create_task(self._keep_time()) if config.block_ms else None
            try:
                yield
            finally:
                self._stopping.set()
                if timer is not None:
                    await asyncio.wait([timer])
                    timer.exception()  # kept in failed()
                if self._making:
                    await asyncio.wait(self._making)
                await self._methods.close()

    def _announce(self, where: Listening) -> None:
        self._url = where.url
        self._methods.listen_address = f"tcp://{where.host}:{where.port}"
        _log.warning("%s", SOLO_NOTICE)
        _log.info(
            "chain %s at height %d answers at %s",
            self._chain.genesis.chain_id,
            self._chain.height,
            where.url,
        )


def _block_limits(chain: DurableChain) -> BlockParams:
    """What a block may take: the genesis's word or the application's, the lesser."""
    genesis = chain.genesis.consensus_params.block
    room = _MOST_BLOCK_BYTES if genesis.max_bytes < 0 else genesis.max_bytes
    gas = [genesis.max_gas, chain.chain.application.max_block_gas]
    return BlockParams(
        max_bytes=room - _BLOCK_OVERHEAD,
        max_gas=min((one for one in gas if one >= 0), default=-1),
    )


@contextlib.asynccontextmanager
async def run_solo(
    home: Path,
    *,
    application: Application,
    clock: Clock,
    config: SoloConfig | None = None,
) -> AsyncIterator[SoloNode]:
    """Run the chain of a home while in the block.

    Args:
        home: Made by :func:`init_solo`.
        application: The state machine, without state.
        clock: The only clock of the chain.
        config: Instead of the home's own.

    Raises:
        FileLockedError: Another process runs it.
        ChainStoreError: The database cannot be read, or is another chain's.
        SealiftError: A file of the home is missing or wrong.
        AddressInUseError: The address is taken.
    """
    place = SoloHome(home)
    chosen = place.read_config() if config is None else config
    with hold_lock(place.lock):
        chain = place.open_chain(application)
        try:
            node = SoloNode(chain=chain, config=chosen, clock=clock)
            async with node.serving():
                yield node
        finally:
            chain.close()
