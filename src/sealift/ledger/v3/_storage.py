"""What version 3 of `enclave_bridge` keeps beside version 2's, and tells."""

from sealift.base import AccountId, Digest, Generation, Height, PlatformId, ShardId
from sealift.frame import Event, StorageMap
from sealift.ledger._bridge_storage import BridgeStorage
from sealift.protocol import EntryRehearsals, RehearsalGate


class RehearsalPosted(Event, kw_only=True):
    """A platform has said how its rehearsal went; ``good`` of all are good now."""

    shard: ShardId
    generation: Generation
    signing_key: AccountId
    platform: PlatformId
    verdict: bool
    good: int


class UpgradePostponed(Event, kw_only=True):
    """Too few rehearsals were good: by rule, the generation runs later."""

    shard: ShardId
    generation: Generation
    good: int
    required: int
    upgrade_at: Height


class RehearsalsScheduled(Event, kw_only=True):
    """Upgrades will take so many good rehearsals from ``effective_at`` on."""

    shard: ShardId
    required: int
    postpone_by: int
    effective_at: Height
    order: Digest


class GateStorage(BridgeStorage):
    """The bridge's storage of version 2, and what version 3 adds.

    ``gates`` has a record for every shard. ``rehearsals`` are those of pending
    entries at their standing ``upgrade_at``; ``rehearsed`` names the generations
    that have any.
    """

    gates = StorageMap("gate", key=ShardId, value=RehearsalGate)
    rehearsals = StorageMap(
        "rehearsals", key=tuple[ShardId, Generation], value=EntryRehearsals
    )
    rehearsed: StorageMap[ShardId, tuple[Generation, ...]] = StorageMap(
        "rehearsed", key=ShardId, value=tuple[Generation, ...], default=()
    )
