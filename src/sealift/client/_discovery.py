"""Finding workers: hints from blocks, then proven records."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from sealift.base import AccountId, DecodeError, Height, SealiftError, ShardId, decode
from sealift.frame import CallArgumentsError, RuntimeCall, RuntimeMetadata
from sealift.ledger import ledger_metadata
from sealift.protocol import EnclaveRecord, Transaction

from ._chain import ProvenChain

#: What an instance's signed statement for L1 names: itself, and its shard.
_NAMED_BY: Final = frozenset({"shard", "signing_key"})
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownInstance:
    """An instance of a shard; ``refusal`` says why it may not speak now, if so."""

    record: EnclaveRecord
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundInstances:
    """Instances of a shard that spoke on L1 from block ``since`` on.

    Others may stand in the registry unless ``since`` is the first block: it has no
    list that can be proven.
    """

    instances: tuple[KnownInstance, ...]
    since: Height

    @property
    def complete(self) -> bool:
        """Whether all blocks there are were looked through."""
        return self.since == 1


async def find_instances(
    chain: ProvenChain, shard: ShardId, *, blocks: int
) -> FoundInstances:
    """Instances that spoke in the last blocks and still stand in the registry.

    A registration counts for longer than anybody looks back; so whoever confirms a
    root, or signs anything else for L1, is found too, however long ago it registered.
    Which keys to look for is taken from the node's blocks; what is returned of them
    is proven. A node can hide instances, not invent them.

    Args:
        chain: L1, proven.
        shard: Whose instances.
        blocks: How many blocks to look through.
    """
    head = await chain.follow()
    since = Height(max(1, head.height - blocks + 1))
    heights = range(since, head.height + 1)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def look(height: int) -> list[AccountId]:
        async with gate:
            found = await chain.node.block(Height(height))
        return [key for tx in found.block.txs for key in _named(tx, shard)]

    keys = await asyncio.gather(*(look(height) for height in heights))
    instances = []
    for key in dict.fromkeys(key for some in keys for key in some):
        record = await chain.enclave(key)
        if record is None or record.statement.shard != shard:
            continue
        try:
            await chain.verify_enclave(shard, key)
        except SealiftError as error:
            instances.append(KnownInstance(record=record, refusal=str(error)))
        else:
            instances.append(KnownInstance(record=record, refusal=""))
    return FoundInstances(instances=tuple(instances), since=since)


def _named(tx: bytes, shard: ShardId) -> list[AccountId]:
    try:
        body = decode(Transaction, tx).body
        if body.call not in _statements():
            return []
        call = RuntimeCall(name=body.call, args=body.args)
        statement = _metadata().decode_call(call).args[_statements()[body.call]]
    except (DecodeError, CallArgumentsError):
        return []
    if not isinstance(statement, dict) or statement.get("shard") != "0x" + shard.hex():
        return []
    key = str(statement.get("signing_key")).removeprefix("0x")
    return [AccountId(bytes.fromhex(key))]


@cache
def _statements() -> Mapping[str, str]:
    """Calls that carry an instance's statement, each with that argument's name."""
    metadata = _metadata()
    fields = {one.name: {field.name for field in one.fields} for one in metadata.types}
    return {
        f"{pallet.name}.{call.name}": arg.name
        for pallet in metadata.pallets
        for call in pallet.calls
        for arg in call.args
        if fields.get(arg.spec.name, set()) >= _NAMED_BY
    }


@cache
def _metadata() -> RuntimeMetadata:
    return ledger_metadata()
