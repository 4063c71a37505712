"""Step 2: a shard's id and its first schedule, from its creation."""

from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Generation,
    Height,
    ShardId,
    encode,
)
from sealift.crypto import sha256
from sealift.protocol import EntryStatus, Schedule, ScheduleEntry, ShardStatus

from ._calls import CreateShard


def shard_id_of(chain_id: ChainId, creator: AccountId, number: int) -> ShardId:
    """The id of a chain's shard by its number; no code takes part in it."""
    preimage = encode((chain_id, creator, number))
    return ShardId(sha256(b"sealift/shard-id/v1\x00" + preimage))


def first_schedule(
    chain_id: ChainId, shard: ShardId, given: CreateShard, *, height: Height
) -> Schedule:
    """The schedule of a shard created in a block; it runs from the next."""
    birth = encode((shard, given.rules, given.config))
    start = Height(height + 1)
    entry = ScheduleEntry(
        generation=Generation(0),
        predecessor=None,
        config=given.config,
        order=Digest(sha256(b"sealift/birth/v1\x00" + birth)),
        recorded_at=height,
        release_from=height,
        upgrade_at=start,
        since=start,
        status=EntryStatus.ACTIVE,
    )
    return Schedule(
        chain_id=chain_id,
        shard=shard,
        rules=given.rules,
        serial=0,
        entries=(entry,),
        status=ShardStatus(),
    )
