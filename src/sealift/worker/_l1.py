"""What a worker reads from an L1 node, over the RPC client."""

import asyncio

from sealift.base import (
    AccountId,
    Amount,
    Height,
    SealiftError,
    ShardId,
    canonical_decode,
)
from sealift.frame import storage_key
from sealift.ledger import SignedConfirmation
from sealift.protocol import Frontier, frontier_key
from sealift.relay import LightBlock, TxResult
from sealift.transport.rpc import L1Client

_FALLBACK_SECONDS = 1.0


class L1View:
    """An L1 node, as the follower and its helpers ask it.

    Args:
        client: The RPC client.
    """

    def __init__(self, client: L1Client) -> None:
        self.client = client
        self.head = Height(0)
        self._news = asyncio.Event()

    async def watch(self) -> None:
        """Hear of new blocks for ever; a lost connection is made again.

        So is a subscription that the node refuses, or ends because we were slow;
        meanwhile its height is asked for.
        """
        while True:
            try:
                async for event in self.client.new_blocks():
                    self._note(event.block.header.height)
            except SealiftError:
                await asyncio.sleep(_FALLBACK_SECONDS)

    def _note(self, height: Height) -> None:
        if height > self.head:
            self.head = height
            self._news.set()

    async def wait_for_height(self, height: int) -> Height:
        """Until the chain has the block ``height``; its head then."""
        while self.head < height:
            self._news.clear()
            try:
                async with asyncio.timeout(_FALLBACK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._note(await self.client.height())
        return self.head

    async def light_block(self, height: int) -> LightBlock:
        """Header, commit and validators of a height."""
        return await self.client.light_block(Height(height))

    async def block_txs(self, height: int) -> tuple[bytes, ...]:
        """The transactions of a block."""
        return (await self.client.block(Height(height))).block.txs

    async def tx_results(self, height: int) -> tuple[TxResult, ...]:
        """What became of them."""
        found = await self.client.block_results(Height(height))
        return tuple(result.committed() for result in found.txs_results)

    async def prove(self, key: bytes, height: int) -> tuple[bytes | None, bytes]:
        """A value of the state after ``height`` (or None) and its ICS23 proof."""
        entry = await self.client.abci_query(key, height=Height(height))
        return entry.value, entry.proof

    async def confirmed(self, shard: ShardId) -> Height | None:
        """The last confirmed block of a shard, as the node says (a hint)."""
        entry = await self.client.abci_query(frontier_key(shard), prove=False)
        if entry.value is None:
            return None
        return canonical_decode(Frontier, entry.value).confirmed

    async def votes(self, shard: ShardId) -> tuple[SignedConfirmation, ...]:
        """Confirmations that still lack others', as the node says (a hint)."""
        key = storage_key("enclave_bridge", "votes", shard)
        entry = await self.client.abci_query(key, prove=False)
        if entry.value is None:
            return ()
        return canonical_decode(tuple[SignedConfirmation, ...], entry.value)

    async def effects_done(self, shard: ShardId) -> Height | None:
        """The last block whose effects L1 executed, as the node says (a hint)."""
        key = storage_key("enclave_bridge", "effects_cursor", shard)
        entry = await self.client.abci_query(key, prove=False)
        return None if entry.value is None else canonical_decode(Height, entry.value)


class L1Standing:
    """What L1 knows about workers; not proven, for people and metrics only.

    Args:
        client: The RPC client.
    """

    def __init__(self, client: L1Client) -> None:
        self._client = client

    async def funds(self, account: AccountId) -> int:
        """The free balance of an account."""
        key = storage_key("balances", "accounts", account)
        entry = await self._client.abci_query(key, prove=False)
        return 0 if entry.value is None else canonical_decode(Amount, entry.value)
