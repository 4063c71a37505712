"""What a worker lives in: disk, evidence, L1, peers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sealift.base import AccountId, ShardId

from ._feed import L1Source
from ._outbox import Outbox
from ._upstream import Upstream
from ._witnesses import WitnessStanding


class Disk(Protocol):
    """Where the sealed key store and the genesis blob are."""

    def key_store(self) -> bytes | None:
        """The sealed key store of an earlier run."""

    def keep_key_store(self, sealed: bytes) -> None:
        """Make it durable, atomically."""

    def genesis(self) -> bytes | None:
        """The shard's genesis blob."""

    def free_bytes(self) -> int | None:
        """What is free where the worker writes; ``None``: not known."""


class Evidence(Protocol):
    """Collateral for this platform, as L1 wants it before a registration."""

    async def ensure_collateral(self, outbox: Outbox, quote: bytes) -> None:
        """Register fresh collateral for a quote where L1's own is absent or older."""

    async def collateral_seconds_left(self) -> int | None:
        """Until L1's collateral of this platform expires; ``None``: none holds."""


class Standing(Protocol):
    """What L1 knows about this worker and its peers (hints for people)."""

    async def funds(self, account: AccountId) -> int:
        """The free balance of an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a worker lives in."""

    shard: ShardId
    l1: L1Source
    disk: Disk
    evidence: Evidence
    standing: Standing
    operator: AccountId
    upstream: Upstream | None
    #: Another worker of the shard, by its URL.
    peer: Callable[[str], Upstream]
    snapshot_every: int
    #: How the witnesses of L1 stand; whoever compares them writes there.
    witnesses: tuple[WitnessStanding, ...] = ()
