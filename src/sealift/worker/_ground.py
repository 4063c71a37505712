"""What the instances of one home share: lock, L1 node, HTTP client, account, disk."""

import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from sealift.base import ChainId, ShardId
from sealift.transport.account import L1Account
from sealift.transport.clock import Clock
from sealift.transport.files import (
    PRIVATE_MODE,
    hold_lock,
    read_or_explain,
    write_durably,
)
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import Backoff, L1Client, system_jitter

from ._config import WorkerConfig
from ._outbox import Included
from ._rate import Bandwidth
from ._upstream import Upstream
from ._witnesses import RpcWitness, WitnessSource


class HomeDisk:
    """Sealed key store and genesis blob in a worker's home folder."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config

    @property
    def key_store_path(self) -> Path:
        """Where the sealed key store is."""
        return self._config.key_store

    def key_store(self) -> bytes | None:
        """The sealed key store of an earlier run.

        Raises:
            UnreadableFileError: It is there and cannot be read; it is kept.
        """
        if not self._config.key_store.exists():
            return None
        return read_or_explain(self._config.key_store, what="the sealed key store")

    def keep_key_store(self, sealed: bytes) -> None:
        """Make it durable, atomically."""
        write_durably(self._config.key_store, sealed, mode=PRIVATE_MODE)

    def genesis(self) -> bytes | None:
        """The shard's genesis blob."""
        path = self._config.genesis
        if path is None:
            return None
        return read_or_explain(path, what="the genesis blob")

    def free_bytes(self) -> int | None:
        """What is free where the home is."""
        try:
            return shutil.disk_usage(self._config.home).free
        except OSError:
            return None


class OperatorAccount:
    """The operator's L1 account, as outbox and API use it.

    Args:
        account: The account.
        shard: Whose calls are carried.
    """

    def __init__(self, account: L1Account, shard: ShardId) -> None:
        self._account = account
        self._shard = shard

    async def send(self, call: str, args: dict[str, object]) -> bytes:
        """Into the mempool; the transaction's hash."""
        return await self._account.send(call, args)

    async def wait(self, tx_hash: bytes) -> Included:
        """Until it is in a block."""
        found = await self._account.wait(tx_hash)
        return Included(height=found.height, code=found.code, log=found.log)

    async def funds(self) -> int:
        """What it has free on L1, as the node says."""
        return await self._account.balance()

    async def submit(self, envelope: bytes) -> bytes:
        """Carry a sealed call to L1 at the operator's expense."""
        args: dict[str, object] = {"shard": self._shard, "ciphertext": envelope}
        return await self._account.send("enclave_bridge.invoke", args)


class Ground:
    """What the instances of one home share: L1 node, HTTP client, account.

    One account for all: two counts of nonces would contradict each other.

    Args:
        config: The home.
        l1: Client of its L1 node.
        http: For peers, collateral and bundles.
        clock: The wall clock, to judge collateral by.
        witnesses: Clients of the nodes that L1's headers are compared with.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        l1: L1Client,
        http: aiohttp.ClientSession,
        clock: Clock,
        witnesses: Mapping[str, WitnessSource],
    ) -> None:
        self.config = config
        self.l1 = l1
        self.http = http
        self.clock = clock
        self.witnesses = witnesses
        #: What all instances together send and fetch of snapshots.
        self.serve = Bandwidth(config.state.serve_rate)
        self.fetch = Bandwidth(config.state.fetch_rate)
        self._accounts: dict[ChainId, L1Account] = {}

    def peer(self, url: str) -> Upstream:
        """Another worker of the shard, by its URL."""
        return Upstream(url, self.http, bandwidth=self.fetch)

    def account(self, chain_id: ChainId) -> L1Account:
        """The operator's account on a chain.

        Raises:
            FileError: Its key cannot be read.
        """
        if chain_id not in self._accounts:
            secret = read_account_key(self.config.operator_key)
            self._accounts[chain_id] = L1Account(secret, self.l1, chain_id)
        return self._accounts[chain_id]


@asynccontextmanager
async def open_ground(
    config: WorkerConfig, *, clock: Clock, witnesses: Sequence[str] = ()
) -> AsyncIterator[Ground]:
    """Hold the lock of a home, and what its instances share.

    Args:
        config: The home.
        clock: The wall clock, to judge collateral by.
        witnesses: Beside the configured ones.

    Raises:
        FileLockedError: Another process runs on this home.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(hold_lock(config.home / "worker.lock"))
        l1 = await stack.enter_async_context(
            L1Client(config.l1.rpc, backoff=Backoff(jitter=system_jitter))
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        sources = await _witnesses(
            stack, dict.fromkeys((*config.l1.witnesses, *witnesses))
        )
        yield Ground(config, l1=l1, http=http, clock=clock, witnesses=sources)


async def _witnesses(
    stack: AsyncExitStack, urls: Iterable[str]
) -> dict[str, WitnessSource]:
    """Clients of the witnesses; each is asked once at a time and not waited for."""
    found: dict[str, WitnessSource] = {}
    for url in urls:
        client = await stack.enter_async_context(
            L1Client(url, backoff=Backoff(jitter=system_jitter, attempts=1))
        )
        found[url] = RpcWitness(client)
    return found
