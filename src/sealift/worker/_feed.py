"""From L1's RPC to the enclave: what :class:`ImportBlock` holds for a block."""

from typing import Protocol

from sealift.base import AccountId, Digest, Height, ShardId, encode
from sealift.ledger import SignedConfirmation
from sealift.protocol import (
    certificate_key,
    enclave_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)
from sealift.protocol.ecall import ImportBlock, StateProof
from sealift.relay import LightBlock, TxResult, header_hash

from ._speakers import Speakers


class L1Source(Protocol):
    """What a worker reads from an L1 node; nothing of it is trusted."""

    async def light_block(self, height: int) -> LightBlock:
        """Header, commit and validators of a height."""

    async def block_txs(self, height: int) -> tuple[bytes, ...]:
        """The transactions of a block."""

    async def tx_results(self, height: int) -> tuple[TxResult, ...]:
        """What became of them."""

    async def prove(self, key: bytes, height: int) -> tuple[bytes | None, bytes]:
        """A value of the state after ``height`` (or None) and its ICS23 proof."""

    async def wait_for_height(self, height: int) -> Height:
        """Until the chain has the block ``height``; its head then."""

    async def confirmed(self, shard: ShardId) -> Height | None:
        """The last confirmed block of a shard, as the node says (a hint)."""

    async def votes(self, shard: ShardId) -> tuple[SignedConfirmation, ...]:
        """Confirmations that still lack others', as the node says (a hint)."""

    async def effects_done(self, shard: ShardId) -> Height | None:
        """The last block whose effects L1 executed, as the node says (a hint)."""


class BlockFeed:
    """Fetches blocks of L1 in the form the enclave verifies.

    Args:
        l1: The node.
        shard: Whose records are proven with every block.
        signing_key: The enclave whose registration is proven too.
    """

    def __init__(self, l1: L1Source, *, shard: ShardId, signing_key: AccountId) -> None:
        self._l1 = l1
        #: Who speaks for the shard, by the blocks that were fetched.
        self.speakers = Speakers(shard)
        #: The header that the newest request proves its block by.
        self.newest: tuple[Height, Digest] | None = None
        self._keys = (
            record_key(shard),
            schedule_key(shard),
            frontier_key(shard),
            keys_key(shard, 0),
            certificate_key(shard),
            enclave_key(signing_key),
        )

    async def import_block(self, height: int) -> ImportBlock:
        """Block ``height``, as header ``height`` + 1 proves it."""
        light = await self._l1.light_block(height + 1)
        self.newest = (light.header.height, header_hash(light.header))
        results = await self._l1.tx_results(height)
        txs = await self._l1.block_txs(height)
        self.speakers.note(txs, results)
        return ImportBlock(
            light_block=encode(light),
            txs=txs,
            results=tuple(encode(result) for result in results),
            proofs=await self.proofs(self._keys, height),
        )

    async def view_proofs(self, height: int) -> tuple[StateProof, ...]:
        """What an enclave's view is made of, after ``height``."""
        return await self.proofs(self._keys, height)

    async def proofs(
        self, keys: tuple[bytes, ...], height: int
    ) -> tuple[StateProof, ...]:
        """Proofs of these keys against the state after ``height``."""
        found = []
        for key in keys:
            value, proof = await self._l1.prove(key, height)
            found.append(StateProof(key=key, value=value, proof=proof))
        return tuple(found)
