"""The schedule: which code may run a shard at which block (DESIGN §4.4, §4.5).

:func:`config_at` is the one function that everybody asks: the ledger, the
enclave, the worker, the client and the dashboard.
"""

import enum
from typing import Annotated, Literal

import msgspec

from sealift.base import (
    AccountId,
    Bytes32,
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    Message,
    MrSigner,
    SealiftError,
    ShardId,
    encode,
)
from sealift.crypto import sha256

from .authority import Authority

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_IsvNumber = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]

#: The names by which platforms' fingerprints stand in ``ShardConfig.code``.
PLATFORM_KINDS = ("insecure-sim", "gramine-sgx")


class NoGenerationError(SealiftError):
    """No generation of the shard runs at this height."""


class NoEpochError(SealiftError):
    """The shard had no keys at this height."""


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

    ``code`` maps a platform kind to the MRENCLAVE that runs there. ``mr_signer``
    and ``isv_prod_id`` say whose code it must be, where they are given.
    ``max_instances`` 0 and ``operators`` empty mean no limit.
    """

    code: dict[str, Fingerprint]
    min_isv_svn: _IsvNumber = 0
    attestation: AttestationPolicy = AttestationPolicy()
    max_instances: _Count = 0
    operators: tuple[AccountId, ...] = ()
    mr_signer: MrSigner | None = None
    isv_prod_id: _IsvNumber | None = None


class ShardStatus(Message):
    """What acts from the next block, apart from the schedule.

    In ``maintenance`` the shard's calls fail by name, nothing is lost, and users
    can take their funds out. All other fields are floors: they only rise.
    ``not_before`` refuses what was attested at a lower height,
    ``revoked_signers`` are vendors whose word counts no more.
    """

    mode: Literal["normal", "maintenance"] = "normal"
    min_isv_svn: _IsvNumber = 0
    min_tcb_evaluation_number: _Count = 0
    not_before: Height = Height(0)
    rejected_advisories: tuple[str, ...] = ()
    revoked_signers: tuple[MrSigner, ...] = ()

    def lowers(self, standing: "ShardStatus") -> bool:
        """Whether any floor of ``standing`` would fall."""
        return (
            self.min_isv_svn < standing.min_isv_svn
            or self.min_tcb_evaluation_number < standing.min_tcb_evaluation_number
            or self.not_before < standing.not_before
            or not set(standing.rejected_advisories) <= set(self.rejected_advisories)
            or not set(standing.revoked_signers) <= set(self.revoked_signers)
        )


#: What becomes of a secret when the next generation takes over (DESIGN §12).
Handover = Literal["pass", "re-derive", "rotate", "forbid"]


class HandoverPolicy(Message):
    """What becomes of each secret of a shard at an upgrade.

    The next generation gets the secrets, else it could not read the state. Once
    it has confirmed a block it stages the next epoch, in which a secret is the
    same (``pass``), derived from the old one (``re-derive``) or a fresh one that
    the old generation never had (``rotate``). One ``forbid`` and no later
    generation gets any of them: the shard ends with its code.
    """

    shielding: Handover = "rotate"
    state: Handover = "rotate"
    root: Handover = "rotate"

    @property
    def forbids(self) -> bool:
        """Whether nothing is handed to a later generation."""
        return "forbid" in (self.shielding, self.state, self.root)

    @property
    def passes(self) -> bool:
        """Whether an upgrade leaves every secret as it is."""
        return (self.shielding, self.state, self.root) == ("pass",) * 3


class ShardRules(Message):
    """What a shard lives by; only a change at the longest notice alters them.

    Blocks: ``min_notice`` from record to release; ``rescue_after`` from the
    upgrade to the voiding of a generation that never confirmed; ``rules_notice``
    before other rules act; ``emergency_notice`` before code of an emergency order
    is released (0: there is no such way, and with an ``emergency_floor`` of 0
    there never will be); ``grace`` in which calls under the epoch before are
    still taken. ``emergency`` may pause, cancel, raise floors and rotate at once,
    beside the authority.

    Platforms: ``root_quorum`` that must agree on a root, ``effects_quorum`` on
    an effect. Instances: ``rotation_quorum`` that hold an epoch before it acts.

    ``genesis`` is the SHA-256 of the genesis blob, ``page_bits`` the size of the
    state (2**bits pages). These two and ``emergency_floor`` never change.
    """

    authority: Authority
    genesis: Digest
    min_notice: _Positive
    rescue_after: _Positive
    root_quorum: _Positive = 1
    page_bits: Annotated[int, msgspec.Meta(ge=4, le=22)] = 16
    handover: HandoverPolicy = HandoverPolicy()
    effects_quorum: _Positive = 2
    rotation_quorum: _Positive = 1
    grace: _Count = 100
    rules_notice: _Count = 0
    emergency: Authority | None = None
    emergency_notice: _Count = 0
    emergency_floor: _Count = 0

    @property
    def longest_notice(self) -> int:
        """Blocks before a change of these rules acts."""
        return max(self.min_notice, self.rules_notice)


class RulesChange(Message):
    """Rules that will act from ``effective_at`` on."""

    rules: ShardRules
    effective_at: Height
    recorded_at: Height
    order: Digest


class RotationRequest(Message):
    """New keys for the shard.

    Only instances attested at or after ``not_before`` may stage and hold them.
    ``grace`` is how many blocks calls under the old epoch are still taken.
    """

    not_before: Height
    grace: _Count = 0


class RotationDue(Message):
    """A rotation that is owed: by an upgrade, an order, a cancel or a rescue.

    An upgrade's goes by the shard's handover policy; any other makes every
    secret afresh. ``generation`` is the lowest that may stage.
    """

    epoch: Epoch
    why: Literal["upgrade", "order", "cancel", "rescue"]
    generation: Generation
    not_before: Height
    grace: _Count


class EpochKeysPublic(Message):
    """What everybody may know of an epoch's keys.

    ``shielding_key`` is an X25519 public key; the rest are commitments
    (:func:`sealift.protocol.key_commitment`).
    """

    shielding_key: Bytes32
    state_key_commitment: Digest
    root_key_commitment: Digest


class StagedEpoch(Message):
    """An epoch whose keys exist; it acts once enough instances hold them."""

    epoch: Epoch
    keys: EpochKeysPublic
    due: RotationDue
    staged_at: Height
    holders: tuple[AccountId, ...]


class KeyEpoch(Message):
    """An epoch that acts from ``valid_from`` on.

    ``grace``: so many blocks longer, calls under the epoch before are taken.
    ``not_before``: only instances attested at or above it may have the keys.
    """

    epoch: Epoch
    keys: EpochKeysPublic
    valid_from: Height
    grace: _Count
    not_before: Height = Height(0)


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
    bundle: Digest | None = None
    source: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Schedule(Message):
    """All generations and key epochs of a shard, ascending, and its standing.

    Kept by L1 under :func:`sealift.protocol.schedule_key`. ``epochs`` is empty
    before the shard's birth.
    """

    chain_id: ChainId
    shard: ShardId
    rules: ShardRules
    serial: _Count
    entries: tuple[ScheduleEntry, ...]
    status: ShardStatus
    epochs: tuple[KeyEpoch, ...] = ()
    staged: StagedEpoch | None = None
    rotation: RotationDue | None = None
    change: RulesChange | None = None

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
    the state after ``height`` (DESIGN §10.3). ``effects_done`` is the last block
    whose effects L1 has executed; ``None``: this L1 doesn't say.
    """

    height: Height
    generation: Generation
    schedule: Digest
    effects_done: Height | None = None


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


def epoch_at(schedule: Schedule, height: int) -> KeyEpoch:
    """The one epoch whose keys make roots, diffs and snapshots of a block.

    Raises:
        NoEpochError: The shard was not born yet.
    """
    for epoch in reversed(schedule.epochs):
        if epoch.valid_from <= height:
            return epoch
    raise NoEpochError("the shard had no keys at this height", got=height)


def accepted_epochs(schedule: Schedule, height: int) -> tuple[Epoch, ...]:
    """Epochs whose calls are taken in a block; none before the shard's birth.

    The current one, and within its grace the one before.
    """
    acting = [one for one in schedule.epochs if one.valid_from <= height]
    if not acting:
        return ()
    newest = acting[-1]
    if len(acting) > 1 and height < newest.valid_from + newest.grace:
        return (acting[-2].epoch, newest.epoch)
    return (newest.epoch,)


def rotation_demand(schedule: Schedule) -> Digest | None:
    """The name of the rotation that is owed now; ``None``: none is.

    Every act that could drop what was staged changes the serial or the rotation
    itself, so keys made for one demand are never taken for another.
    """
    if schedule.rotation is None:
        return None
    named = encode((schedule.chain_id, schedule.shard, schedule.serial))
    return sha256(b"sealift/rotation-demand/v1\x00" + named + encode(schedule.rotation))
