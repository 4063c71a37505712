"""Exporting a shard's lineage: what to put into the file. Believed by nobody.

Whatever is left out or made up here, the verifier refuses.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sealift.attestation import quote_fmspc
from sealift.base import Height, ShardId, canonical_decode, decode, encode
from sealift.crypto import sha256
from sealift.evidence import (
    EVIDENCE_CALLS,
    EvidenceBlock,
    EvidenceFile,
    EvidenceHeader,
    EvidenceState,
    EvidenceTx,
    quote_of_registration,
)
from sealift.frame import EmittedEvent
from sealift.protocol import (
    CollateralRecord,
    Transaction,
    TransactionBody,
    certificate_key,
    collateral_key,
    frontier_key,
    keys_key,
    schedule_key,
)
from sealift.relay import (
    Block,
    ChainRelay,
    LightBlock,
    NotEnoughTrustError,
    TrustExpiredError,
    TrustRoot,
    ValidatorSet,
    encode_tx_result,
    prove_leaf,
    tx_hash,
)
from sealift.relay.rpc import BlockResults
from sealift.transport.rpc import L1Client, StateEntry

from ._chain import CLIENT_RULES
from ._errors import EvidenceExportError

#: Told how far the scan is: a height, and the last one.
Progress = Callable[[int, int], None]
#: So many blocks are asked for at once.
_AT_ONCE: Final = 32
_MOST_SHARDS: Final = 65_536


class ChainSource(Protocol):
    """What an exporter asks of L1; a node, or a chain in memory."""

    async def height(self) -> Height:
        """The newest block."""

    async def light_block(self, height: Height) -> LightBlock:
        """What a relay needs of a height."""

    async def block(self, height: Height) -> Block:
        """A block with all its transactions."""

    async def results(self, height: Height) -> BlockResults:
        """What executing a block gave."""

    async def state(self, key: bytes, height: Height) -> StateEntry:
        """What stood under a key after a block, with its proof."""


class NodeSource:
    """An L1 node as :class:`ChainSource`.

    Args:
        node: Who is asked; it must have kept the shard's whole history.
    """

    def __init__(self, node: L1Client) -> None:
        self._node = node

    async def height(self) -> Height:
        """The newest block."""
        return await self._node.height()

    async def light_block(self, height: Height) -> LightBlock:
        """What a relay needs of a height."""
        return await self._node.light_block(height)

    async def block(self, height: Height) -> Block:
        """A block with all its transactions."""
        return (await self._node.block(height)).block

    async def results(self, height: Height) -> BlockResults:
        """What executing a block gave."""
        return await self._node.block_results(height)

    async def state(self, key: bytes, height: Height) -> StateEntry:
        """What stood under a key after a block, with its proof."""
        return await self._node.abci_query(key, height=height)


@dataclass(slots=True)
class _Export:
    source: ChainSource
    shard: ShardId
    trust_root: TrustRoot
    blocks: list[EvidenceBlock] = field(default_factory=list)
    states: dict[tuple[Height, bytes], EvidenceState] = field(default_factory=dict)
    quotes: list[tuple[Height, bytes]] = field(default_factory=list)
    creation: int | None = None
    born: bool = False
    keys: set[bytes] = field(default_factory=set)
    schedule: bytes | None = None

    async def take(self, height: Height, results: BlockResults) -> None:
        """Take what a block did to the shard; most did nothing."""
        concerned = [
            index
            for index, one in enumerate(results.txs_results)
            if one.code == 0 and self._concerns(one.data)
        ]
        if concerned:
            await self._take_txs(height, results, concerned)
        if self.creation is not None and (concerned or results.finalize_block_events):
            entry = await self.source.state(schedule_key(self.shard), height)
            if entry.value != self.schedule:
                if self.schedule is not None:
                    await self.ask(entry.key, Height(height - 1))
                self.schedule = entry.value
                self.keep(height, entry)

    def keep(self, height: Height, entry: StateEntry) -> None:
        """Put a state proof into the file."""
        self.states[height, entry.key] = EvidenceState(
            height=height, key=entry.key, value=entry.value, proof=entry.proof
        )

    async def ask(self, key: bytes, height: Height) -> bytes | None:
        """A state proof for the file; its value."""
        entry = await self.source.state(key, height)
        self.keep(height, entry)
        return entry.value

    def _concerns(self, data: bytes) -> bool:
        """Whether a result's events name the shard, or an instance of it."""
        wanted = {self.shard, *self.keys}
        return any(one in data for one in wanted)

    async def _take_txs(
        self, height: Height, results: BlockResults, concerned: Sequence[int]
    ) -> None:
        block = await self.source.block(height)
        names = [tx_hash(tx) for tx in block.txs]
        leaves = [encode_tx_result(one.committed()) for one in results.txs_results]
        taken = []
        for index in concerned:
            body = canonical_decode(Transaction, block.txs[index]).body
            if body.call not in EVIDENCE_CALLS or not self._begun(
                body, results.txs_results[index].data
            ):
                continue
            taken.append(
                EvidenceTx(
                    tx=block.txs[index],
                    tx_proof=prove_leaf(names, index),
                    result=results.txs_results[index].committed(),
                    result_proof=prove_leaf(leaves, index),
                )
            )
            await self._note(height, body)
        if taken:
            self.blocks.append(EvidenceBlock(height=height, txs=tuple(taken)))

    def _begun(self, body: TransactionBody, data: bytes) -> bool:
        """Whether the shard exists; finds its number when it is created."""
        events = decode(tuple[EmittedEvent, ...], data)
        created = any(
            one.name == "enclave_bridge.ShardCreated" and bytes(self.shard) in one.data
            for one in events
        )
        if created:
            self.creation = next(
                (
                    number
                    for number in range(_MOST_SHARDS)
                    if _shard_id(body.chain_id, body.signer, number) == self.shard
                ),
                None,
            )
        return self.creation is not None

    async def _note(self, height: Height, body: TransactionBody) -> None:
        if body.call == "enclave_bridge.publish_key":
            self.born = True
            await self.ask(keys_key(self.shard, 0), height)
        if body.call == "enclave_bridge.post_certificate":
            await self.ask(certificate_key(self.shard), Height(height - 1))
        if body.call == "teerex.register_sgx_enclave":
            key, quote = quote_of_registration(body.args)
            self.keys.add(key)
            self.quotes.append((height, quote_fmspc(quote)))

    async def collateral(self) -> None:
        """State proofs of the collateral by which each quote was judged.

        A record of block ``r`` in the state after block ``p`` stood there from
        ``r`` to ``p``: one proof serves all quotes between.
        """
        for fmspc in {fmspc for _, fmspc in self.quotes}:
            key = collateral_key(fmspc)
            served: int | None = None
            for height, _ in sorted(
                (one for one in self.quotes if one[1] == fmspc), reverse=True
            ):
                if served is not None and height >= served:
                    continue
                value = await self.ask(key, height)
                if value is None:
                    continue
                served = canonical_decode(CollateralRecord, value).recorded_at
                if served >= height:  # which of both came first is not known
                    await self.ask(key, Height(height - 1))

    async def headers(
        self, last: Height
    ) -> tuple[tuple[EvidenceHeader, ...], tuple[ValidatorSet, ...]]:
        """Headers of all that is proven, and those between that trust needs."""
        root = self.trust_root.height
        wanted = {root, last, Height(last + 1)}
        for block in self.blocks:
            wanted |= {block.height, Height(block.height + 1)}
        wanted |= {Height(height + 1) for height, _ in self.states}
        found = await self._follow(sorted(wanted))
        sets: dict[ValidatorSet, int] = {}

        def number(one: ValidatorSet | None) -> int | None:
            return None if one is None else sets.setdefault(one, len(sets))

        headers = tuple(
            EvidenceHeader(
                signed=block.signed_header,
                validators=number(block.validators) or 0,
                next_validators=number(block.next_validators),
            )
            for block in found
        )
        return headers, tuple(sets)

    async def _follow(self, heights: Sequence[Height]) -> list[LightBlock]:
        """Light blocks that a relay can follow: more where trust is not enough."""
        first = await self.source.light_block(heights[0])
        relay = ChainRelay.bootstrap(
            self.trust_root, first, rules=CLIENT_RULES, now=None, keep=2
        )
        found = [first]
        ahead = list(reversed(heights[1:]))
        while ahead:
            block = await self.source.light_block(ahead[-1])
            try:
                relay.skip(block, now=None)
            except (NotEnoughTrustError, TrustExpiredError):
                middle = Height((relay.head.height + ahead[-1]) // 2)
                if middle <= relay.head.height:
                    raise
                ahead.append(middle)
                continue
            ahead.pop()
            found.append(block)
        return found


async def export_evidence(
    source: ChainSource,
    shard: ShardId,
    *,
    trust_root: TrustRoot,
    to: Height | None = None,
    progress: Progress | None = None,
) -> EvidenceFile:
    """A shard's lineage from its creation to a block, by default the newest.

    Scans every block from the trust root on.

    Args:
        source: Who is asked.
        shard: Whose lineage.
        trust_root: Where the reader's trust will start.
        to: The last block to speak of; a later one must exist.
        progress: Told how far the scan is.

    Raises:
        EvidenceExportError: No such shard was created after the trust root.
        SealiftError: As the source.
    """
    head = await source.height()
    last = Height(min(head - 1, to) if to is not None else head - 1)
    export = _Export(source=source, shard=shard, trust_root=trust_root)
    for start in range(trust_root.height, last + 1, _AT_ONCE):
        heights = [Height(h) for h in range(start, min(start + _AT_ONCE, last + 1))]
        found = await asyncio.gather(*(source.results(one) for one in heights))
        for height, results in zip(heights, found, strict=True):
            await export.take(height, results)
        if progress is not None:
            progress(heights[-1], last)
    if export.creation is None:
        raise EvidenceExportError(
            "no such shard was created between the trust root and the last block",
            got=shard,
            expected=f"its creation in a block from {trust_root.height} to {last}",
            hint="The trust root must not be later than the shard.",
        )
    await export.ask(schedule_key(shard), last)
    await export.ask(frontier_key(shard), last)
    await export.ask(certificate_key(shard), last)
    await export.collateral()
    headers, validators = await export.headers(last)
    return EvidenceFile(
        chain_id=trust_root.chain_id,
        shard=shard,
        creation=export.creation,
        validators=validators,
        headers=headers,
        blocks=tuple(export.blocks),
        states=tuple(state for _, state in sorted(export.states.items())),
    )


def _shard_id(chain_id: str, creator: bytes, number: int) -> bytes:
    return sha256(b"sealift/shard-id/v1\x00" + encode((chain_id, creator, number)))
