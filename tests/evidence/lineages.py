"""What the tests of evidence share: worlds, their chain as a source, forgeries."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from sealift.attestation import parse_trust_anchor
from sealift.base import Height, ShardId, decode
from sealift.client import CLIENT_RULES, export_evidence
from sealift.evidence import (
    EvidenceFile,
    VerifiedLineage,
    parse_evidence,
    render_evidence,
    verify_evidence,
)
from sealift.protocol import Transaction
from sealift.relay import Block, LightBlock, Timestamp, TrustRoot
from sealift.relay.rpc import BlockResults
from sealift.testing import World
from sealift.transport.rpc import StateEntry

replace = msgspec.structs.replace


class WorldSource:
    """A world's chain, asked as a node is."""

    def __init__(self, world: World) -> None:
        self.chain = world.chain

    async def height(self) -> Height:
        return self.chain.height

    async def light_block(self, height: Height) -> LightBlock:
        return decode(LightBlock, self.chain.light_block(height))

    async def block(self, height: Height) -> Block:
        return self.chain.block(height).block

    async def results(self, height: Height) -> BlockResults:
        block = self.chain.block(height)
        return BlockResults(
            height=height,
            txs_results=block.results,
            finalize_block_events=block.events,
            app_hash=block.app_hash,
        )

    async def state(self, key: bytes, height: Height) -> StateEntry:
        (proof,) = self.chain.prove(height, [key])
        return StateEntry(key=key, value=proof.value, proof=proof.proof, height=height)


def trust_root(world: World, height: int = 1) -> TrustRoot:
    return TrustRoot(
        chain_id=world.chain.chain_id,
        height=Height(height),
        header_hash=world.chain.hash_of(height),
    )


def export(
    world: World, *, shard: ShardId | None = None, to: int | None = None
) -> EvidenceFile:
    """Through bytes, as a reader gets it."""
    file = asyncio.run(
        export_evidence(
            WorldSource(world),
            shard or world.shard,
            trust_root=trust_root(world),
            to=None if to is None else Height(to),
        )
    )
    return parse_evidence(render_evidence(file))


def verify(world: World, file: EvidenceFile, **given: Any) -> VerifiedLineage:
    """As a reader that trusts this world's first block and its Intel."""
    options: dict[str, Any] = {
        "trust_root": trust_root(world),
        "roots": (parse_trust_anchor(world.intel.root_der),),
        "rules": CLIENT_RULES,
        "now": Timestamp(seconds=world.chain.now() + 1),
    }
    return verify_evidence(file, **(options | given))


def call_of(tx: bytes) -> str:
    return decode(Transaction, tx).body.call


def without(file: EvidenceFile, drop: Callable[[int, str], bool]) -> EvidenceFile:
    """The file without some of its transactions, by height and call."""
    blocks = []
    for block in file.blocks:
        kept = tuple(tx for tx in block.txs if not drop(block.height, call_of(tx.tx)))
        if kept:
            blocks.append(replace(block, txs=kept))
    return replace(file, blocks=tuple(blocks))


def heights_of(file: EvidenceFile, call: str) -> list[int]:
    return [
        block.height
        for block in file.blocks
        for tx in block.txs
        if call_of(tx.tx) == call
    ]
