"""What L1 knows of a shard's government, proven from the card's trust root on."""

import asyncio
from dataclasses import dataclass
from typing import Final, TypeVar

from sealift.base import Digest, Height, ShardId, canonical_decode
from sealift.client import ProvenChain
from sealift.ledger import Motion, OpenOrder, lacking, ledger_metadata
from sealift.protocol import (
    Authority,
    EntryRehearsals,
    Leaf,
    NoGenerationError,
    Order,
    RehearsalGate,
    Schedule,
    ScheduleEntry,
    ShardStatus,
    WorkersAuthority,
    config_at,
    gate_key,
    leaves,
    next_upgrade,
    rehearsals_key,
)

T = TypeVar("T")
_BRIDGE: Final = "enclave_bridge"
_COUNCIL: Final = "council"


@dataclass(frozen=True, slots=True, kw_only=True)
class Government:
    """The schedule of a shard and all that may still change it.

    ``standing`` is the status that acts from the next block. ``gate``: which
    rehearsals the shard asks for, ``None`` if its L1 takes none; ``rehearsals``: those
    of the next entry. ``interval``: seconds that the last blocks took each, as the
    node says, for whoever makes an order; 0 where it was not asked or does not say.
    """

    height: Height
    schedule: Schedule
    standing: ShardStatus
    orders: tuple[OpenOrder, ...]
    motions: tuple[Motion, ...]
    gate: RehearsalGate | None = None
    rehearsals: EntryRehearsals | None = None
    interval: float = 0.0

    @property
    def running(self) -> ScheduleEntry:
        """The entry that runs; a shard of this very block begins with its first.

        Raises:
            NoGenerationError: The schedule has none.
        """
        try:
            return config_at(self.schedule, self.height)
        except NoGenerationError:
            return self.schedule.entry(0)

    def opened(self, order: Order) -> OpenOrder | None:
        """What is known of an order that waits for endorsements."""
        for one in self.orders:
            if one.order == order:
                return one
        return None

    def lacking(self, opened: OpenOrder) -> tuple[Leaf, ...]:
        """Members whose endorsement an order lacks."""
        return lacking(self.schedule, opened, standing=self.standing)


async def read_government(chain: ProvenChain, shard: ShardId) -> Government:
    """What stands in L1's proven state, or stood there a block before.

    Raises:
        UnknownShardOnChainError: There is no such shard.
        NodeUnreachableError: No node answers.
    """
    height, schedule = await chain.schedule(shard)
    ahead = next_upgrade(schedule, height)
    status, digests, gate, words = await asyncio.gather(
        _stored(chain, ShardStatus, "next_status", shard),
        _stored(chain, tuple[Digest, ...], "opened_digests", shard),
        _at(chain, RehearsalGate, gate_key(shard)),
        _rehearsals(chain, shard, ahead),
    )
    found = await asyncio.gather(
        *(_stored(chain, OpenOrder, "opened", (shard, one)) for one in digests or ())
    )
    council = await read_motions(chain, shard) if _votes(schedule) else ()
    return Government(
        height=height,
        schedule=schedule,
        standing=status or schedule.status,
        orders=tuple(one for one in found if one is not None),
        motions=council,
        gate=gate,
        rehearsals=words,
    )


async def read_motions(chain: ProvenChain, shard: ShardId) -> tuple[Motion, ...]:
    """The motions that stand before the council."""
    digests = await _stored(chain, tuple[Digest, ...], "open", shard, pallet=_COUNCIL)
    found = await asyncio.gather(
        *(
            _stored(chain, Motion, "motions", (shard, one), pallet=_COUNCIL)
            for one in digests or ()
        )
    )
    return tuple(one for one in found if one is not None)


def members(schedule: Schedule) -> list[Leaf]:
    """The leaves of the shard's authorities, the emergency's last."""
    trees: tuple[Authority | None, ...] = (
        schedule.rules.authority,
        schedule.rules.emergency,
    )
    return [leaf for tree in trees if tree is not None for leaf in leaves(tree)]


def entry_row(entry: ScheduleEntry) -> dict[str, object]:
    """One generation in a line."""
    code = entry.config.code
    return {
        "generation": entry.generation,
        "status": str(entry.status),
        "code": ", ".join(f"{kind}={digest.hex()}" for kind, digest in code.items()),
        "recorded_at": entry.recorded_at,
        "release_from": entry.release_from,
        "upgrade_at": entry.upgrade_at,
        "predecessor": entry.predecessor,
        "order": entry.order,
        "bundle": entry.bundle,
        "source": entry.source,
    }


def _votes(schedule: Schedule) -> bool:
    return any(isinstance(one, WorkersAuthority) for one in members(schedule))


async def _stored(
    chain: ProvenChain,
    kind: type[T],
    item: str,
    key: object,
    *,
    pallet: str = _BRIDGE,
) -> T | None:
    return await _at(chain, kind, ledger_metadata().storage_key(pallet, item, key))


async def _at(chain: ProvenChain, kind: type[T], key: bytes) -> T | None:
    _, raw = await chain.read(key)
    return None if raw is None else canonical_decode(kind, raw)


async def _rehearsals(
    chain: ProvenChain, shard: ShardId, ahead: ScheduleEntry | None
) -> EntryRehearsals | None:
    if ahead is None:
        return None
    return await _at(chain, EntryRehearsals, rehearsals_key(shard, ahead.generation))
