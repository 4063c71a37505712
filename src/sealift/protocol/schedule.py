"""The schedule: which code may run a shard at which block (DESIGN §4.4, §4.5).

:func:`config_at` is the one function that everybody asks: the ledger, the
enclave, the worker, the client and the dashboard.
"""

import enum
from typing import Annotated, ClassVar, Literal

import msgspec

from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Fingerprint,
    Generation,
    Height,
    Message,
    SealiftError,
    ShardId,
    encode,
)
from sealift.crypto import sha256

from ._statement import Statement

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

#: The names by which platforms' fingerprints stand in ``ShardConfig.code``.
PLATFORM_KINDS = ("insecure-sim", "gramine-sgx")


class NoGenerationError(SealiftError):
    """No generation of the shard runs at this height."""


class EntryStatus(enum.StrEnum):
    """Where a schedule entry stands."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"
    CANCELLED = "cancelled"
    LAPSED = "lapsed"
    VOID = "void"


class AttestationPolicy(Message):
    """What evidence a shard accepts (DESIGN §7); it can only narrow the roots.

    ``max_age_blocks`` is how long a registration counts after it was last
    attested; ``not_before`` refuses registrations attested at a lower height.
    """

    accepted_tcb_statuses: tuple[str, ...] = ("UpToDate",)
    rejected_advisories: tuple[str, ...] = ()
    min_tcb_evaluation_number: _Count = 0
    max_age_blocks: _Positive = 100_000
    not_before: Height = Height(0)


class ShardConfig(Message):
    """What one generation of a shard is; immutable once its entry is active.

    ``code`` maps a platform kind to the MRENCLAVE that runs there;
    ``handover`` says whether this generation's keys pass to the next;
    ``max_instances`` 0 and ``operators`` empty mean no limit.
    """

    code: dict[str, Fingerprint]
    min_isv_svn: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0
    attestation: AttestationPolicy = AttestationPolicy()
    handover: Literal["pass", "forbid"] = "pass"
    max_instances: _Count = 0
    operators: tuple[AccountId, ...] = ()


class ShardStatus(Message):
    """What acts from the next block, apart from the schedule.

    In ``maintenance`` the shard's calls fail by name, nothing is lost. Floors
    only rise.
    """

    mode: Literal["normal", "maintenance"] = "normal"
    min_isv_svn: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0
    min_tcb_evaluation_number: _Count = 0


class SudoAuthority(Message):
    """One key decides (DESIGN §4.5)."""

    key: AccountId


#: Who may say what code runs next. Others come by appending to this union.
Authority = SudoAuthority


class ShardRules(Message):
    """What is fixed at a shard's birth.

    Blocks: ``min_notice`` from record to release, ``rescue_after`` from the
    upgrade to the voiding of a generation that never confirmed. Platforms:
    ``root_quorum`` that must agree on a root. ``genesis`` is the SHA-256 of the
    genesis blob, ``page_bits`` the size of the state (2**bits pages).
    """

    authority: Authority
    genesis: Digest
    min_notice: _Positive
    rescue_after: _Positive
    root_quorum: _Positive = 1
    page_bits: Annotated[int, msgspec.Meta(ge=4, le=22)] = 16


class ScheduleEntry(Message):
    """One generation of a shard.

    ``recorded_at + min_notice <= release_from < upgrade_at``. ``since`` is the
    first block that this generation runs: ``upgrade_at``, or for a rescuing
    generation the ``upgrade_at`` of the voided one.
    """

    generation: Generation
    predecessor: Generation | None
    config: ShardConfig
    order: Digest
    recorded_at: Height
    release_from: Height
    upgrade_at: Height
    since: Height
    status: EntryStatus


class Schedule(Message):
    """All generations of a shard, in ascending order, and its standing.

    Kept by L1 under :func:`sealift.protocol.schedule_key`.
    """

    chain_id: ChainId
    shard: ShardId
    rules: ShardRules
    serial: _Count
    entries: tuple[ScheduleEntry, ...]
    status: ShardStatus

    def digest(self) -> Digest:
        """SHA-256 of the canonical encoding; stands in every record."""
        return sha256(encode(self))

    def entry(self, generation: int) -> ScheduleEntry:
        """The entry of a generation.

        Raises:
            NoGenerationError: The schedule has none of that number.
        """
        for entry in self.entries:
            if entry.generation == generation:
                return entry
        raise NoGenerationError(
            "no such generation in the schedule",
            got=generation,
            expected=f"one of {[e.generation for e in self.entries]}",
        )


class ScheduleRecord(Message):
    """What L1 writes first in every block: who runs this height.

    Kept under :func:`sealift.protocol.record_key`; proven to the enclave with
    the state after ``height`` (DESIGN §10.3).
    """

    height: Height
    generation: Generation
    schedule: Digest


def config_at(schedule: Schedule, height: int) -> ScheduleEntry:
    """The one generation that runs a shard at ``height`` (invariant 1).

    The entry with the highest generation among those that were activated and
    not voided, and whose ``since`` is not above ``height``. For heights above
    the one at which ``schedule`` was proven this is a forecast.

    Raises:
        NoGenerationError: The shard was not born yet.
    """
    best: ScheduleEntry | None = None
    for entry in schedule.entries:
        runs = entry.status in (EntryStatus.ACTIVE, EntryStatus.RETIRED)
        if (
            runs
            and entry.since <= height
            and (best is None or entry.generation > best.generation)
        ):
            best = entry
    if best is None:
        raise NoGenerationError(
            "no generation of the shard runs at this height", got=height
        )
    return best


def next_upgrade(schedule: Schedule, height: int) -> ScheduleEntry | None:
    """The pending entry that takes effect soonest above ``height``, if any."""
    ahead = [
        entry
        for entry in schedule.entries
        if entry.status is EntryStatus.PENDING and entry.upgrade_at > height
    ]
    return min(ahead, key=lambda entry: entry.upgrade_at, default=None)


class UpgradeOrder(Statement):
    """An authority's decision that a new generation shall run (DESIGN §4.5).

    Endorsed by the authority; ``serial`` must be the schedule's current one and
    is raised by every accepted act, so no decision replays.
    """

    DOMAIN: ClassVar[str] = "sealift/order/upgrade/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    predecessor: Generation
    config: ShardConfig
    release_from: Height
    upgrade_at: Height
    expiry: Height


class CancelOrder(Statement):
    """An authority's decision that a pending entry shall not run."""

    DOMAIN: ClassVar[str] = "sealift/order/cancel/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    generation: Generation
    expiry: Height


class StatusOrder(Statement):
    """An authority's decision on maintenance and floors."""

    DOMAIN: ClassVar[str] = "sealift/order/status/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    status: ShardStatus
    expiry: Height


class SignedOrder(Message):
    """An order with the signature of the authority's key; anybody may carry it."""

    order: UpgradeOrder | CancelOrder | StatusOrder
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
