"""Where `enclave_bridge` keeps what it knows; its genesis and its events."""

from sealift.base import (
    AccountId,
    Amount,
    Digest,
    Epoch,
    Generation,
    Height,
    Message,
    ShardId,
    StateRoot,
)
from sealift.crypto import sha256
from sealift.frame import Event, Pallet, StorageMap, StorageValue
from sealift.protocol import (
    EffectsStatement,
    Frontier,
    HandoverCertificate,
    KeyEpochRecord,
    Schedule,
    ScheduleRecord,
    ShardRules,
    ShardStatus,
    Tally,
)

from ._authority import OpenOrder
from ._effects import ConfirmedEffects, EffectsConflict, OpenEffects, SignedEffects
from ._roots import RootConflict, SignedConfirmation


class BridgeGenesis(Message, kw_only=True):
    """What a shard costs, and how many there may be."""

    shard_price: int
    max_shards: int


class ShardCreated(Event, kw_only=True):
    """There is a new shard; its first generation runs from the next block."""

    shard: ShardId
    creator: AccountId


class Invoked(Event, kw_only=True):
    """A sealed call was carried; ``envelope`` is the SHA-256 of its bytes."""

    shard: ShardId
    envelope: Digest


class FundsShielded(Event, kw_only=True):
    """Funds went to the shard's vault."""

    shard: ShardId
    source: AccountId
    beneficiary: AccountId
    amount: Amount


class OrderRecorded(Event, kw_only=True):
    """An order of the authority was accepted; ``serial`` is the next one."""

    shard: ShardId
    kind: str
    order: Digest
    serial: int


class OrderEndorsed(Event, kw_only=True):
    """An order has endorsements, and lacks some still."""

    shard: ShardId
    kind: str
    order: Digest
    lacking: int


class OrderFailed(Event, kw_only=True):
    """An order was decided and can't be carried out; ``error`` says why not."""

    shard: ShardId
    kind: str
    order: Digest
    error: str


class RulesChanged(Event, kw_only=True):
    """From this block on, the shard lives by these rules."""

    shard: ShardId
    rules: ShardRules


class GenerationScheduled(Event, kw_only=True):
    """A generation will run from ``upgrade_at`` on."""

    shard: ShardId
    generation: Generation
    upgrade_at: Height


class GenerationCancelled(Event, kw_only=True):
    """A generation will not run; it may hold secrets if a rotation is owed."""

    shard: ShardId
    generation: Generation
    rotation_owed: bool


class GenerationPostponed(Event, kw_only=True):
    """A generation will run later than it was to."""

    shard: ShardId
    generation: Generation
    upgrade_at: Height


class RulesScheduled(Event, kw_only=True):
    """The shard will live by other rules."""

    shard: ShardId
    effective_at: Height


class GenerationLapsed(Event, kw_only=True):
    """A generation will not run because its predecessor does not."""

    shard: ShardId
    generation: Generation


class GenerationActivated(Event, kw_only=True):
    """From this block on, this generation runs."""

    shard: ShardId
    generation: Generation


class GenerationVoided(Event, kw_only=True):
    """A generation never came; ``rescuer`` runs its blocks instead."""

    shard: ShardId
    generation: Generation
    rescuer: Generation


class StatusChanged(Event, kw_only=True):
    """From this block on, the shard is under this status."""

    shard: ShardId
    status: ShardStatus


class KeyPublished(Event, kw_only=True):
    """A key epoch has begun."""

    shard: ShardId
    epoch: Epoch
    valid_from: Height


class RootVoted(Event, kw_only=True):
    """A platform has confirmed; more must agree."""

    shard: ShardId
    last: Height
    agreeing: int


class RootConfirmed(Event, kw_only=True):
    """The shard's state after ``last`` has this root."""

    shard: ShardId
    generation: Generation
    first: Height
    last: Height
    root: StateRoot


class RootsConflicting(Event, kw_only=True):
    """Two roots for one block: kept as evidence, the shard is in maintenance."""

    shard: ShardId
    last: Height


class CertificatePosted(Event, kw_only=True):
    """The old generation has said its last word."""

    shard: ShardId
    successor: Generation
    height: Height


class ShardTouched(Event, kw_only=True):
    """An instance says that it is alive."""

    shard: ShardId
    signing_key: AccountId


class EffectsVoted(Event, kw_only=True):
    """So many platforms agree on the effects of a block."""

    shard: ShardId
    height: Height
    agreeing: int


class EffectsExecuted(Event, kw_only=True):
    """The effects of a block were executed, all of them and once."""

    shard: ShardId
    height: Height
    count: int


class EffectFailed(Event, kw_only=True):
    """The ``index``-th effect of a block did nothing; ``error`` says why."""

    shard: ShardId
    height: Height
    index: int
    error: str


class EffectsConflicting(Event, kw_only=True):
    """Two words on a block's effects: kept, the shard is in maintenance."""

    shard: ShardId
    height: Height


class EffectsRefuted(Event, kw_only=True):
    """What was said of a block is not what its confirmed range says: dropped."""

    shard: ShardId
    height: Height


class FundsUnshielded(Event, kw_only=True):
    """Funds left the shard's vault for an account."""

    shard: ShardId
    beneficiary: AccountId
    amount: Amount


class UnshieldOwed(Event, kw_only=True):
    """Too little for the account to exist: kept for it until there is more."""

    shard: ShardId
    beneficiary: AccountId
    owed: Amount


class StakeDecided(Event, kw_only=True):
    """The shard's holders have voted on an order."""

    shard: ShardId
    order: Digest
    kind: str
    passed: bool
    tally: Tally | None


class KeysStaged(Event, kw_only=True):
    """The next epoch's keys exist; one instance holds them."""

    shard: ShardId
    epoch: Epoch
    signing_key: AccountId


class KeysHeld(Event, kw_only=True):
    """One instance more holds the next epoch's keys."""

    shard: ShardId
    epoch: Epoch
    signing_key: AccountId
    holders: int


class EpochActivated(Event, kw_only=True):
    """The next epoch acts from ``valid_from`` on."""

    shard: ShardId
    epoch: Epoch
    valid_from: Height


class BridgeStorage(Pallet):
    """Storage of the bridge; keys of the first five are public layout.

    ``confirmed`` is a ring of the last confirmed ranges by their last height,
    ``confirmed_heights`` its order. ``disputes`` holds the first height of a
    range about which eligible instances disagree, until the authority decides.
    ``next_status`` acts from the next block. ``opened`` are orders that lack
    endorsements; all of a shard end with its next accepted act.

    ``effects_cursor`` is the last block whose effects were executed. Those that
    wait lie in ``effects_open``, named by ``effects_waiting``; of the executed
    ones ``effects_told`` keeps the last words. ``effects_facts`` is what confirmed
    roots say of effects that were not executed yet. ``effect_disputes`` holds the first
    height whose effects are contradicted, until the authority decides.
    """

    schedules = StorageMap("schedule", key=ShardId, value=Schedule)
    records = StorageMap("record", key=ShardId, value=ScheduleRecord)
    frontiers = StorageMap("frontier", key=ShardId, value=Frontier)
    epochs = StorageMap("keys", key=tuple[ShardId, Epoch], value=KeyEpochRecord)
    certificates = StorageMap("certificate", key=ShardId, value=HandoverCertificate)

    shards: StorageValue[tuple[ShardId, ...]] = StorageValue(
        "shards", tuple[ShardId, ...], default=()
    )
    shard_price = StorageValue("shard_price", int)
    max_shards = StorageValue("max_shards", int)
    next_status = StorageMap("next_status", key=ShardId, value=ShardStatus)
    confirmed = StorageMap(
        "confirmed", key=tuple[ShardId, Height], value=SignedConfirmation
    )
    confirmed_heights: StorageMap[ShardId, tuple[Height, ...]] = StorageMap(
        "confirmed_heights", key=ShardId, value=tuple[Height, ...], default=()
    )
    votes: StorageMap[ShardId, tuple[SignedConfirmation, ...]] = StorageMap(
        "votes", key=ShardId, value=tuple[SignedConfirmation, ...], default=()
    )
    conflicts = StorageMap("conflicts", key=tuple[ShardId, Height], value=RootConflict)
    disputes = StorageMap("disputes", key=ShardId, value=Height)
    opened = StorageMap("opened", key=tuple[ShardId, Digest], value=OpenOrder)
    opened_digests: StorageMap[ShardId, tuple[Digest, ...]] = StorageMap(
        "opened_digests", key=ShardId, value=tuple[Digest, ...], default=()
    )
    effects_cursor: StorageMap[ShardId, Height] = StorageMap(
        "effects_cursor", key=ShardId, value=Height, default=Height(0)
    )
    effects_open = StorageMap(
        "effects_open", key=tuple[ShardId, Height], value=OpenEffects
    )
    effects_waiting: StorageMap[ShardId, tuple[EffectsStatement, ...]] = StorageMap(
        "effects_waiting", key=ShardId, value=tuple[EffectsStatement, ...], default=()
    )
    effects_told: StorageMap[ShardId, tuple[SignedEffects, ...]] = StorageMap(
        "effects_told", key=ShardId, value=tuple[SignedEffects, ...], default=()
    )
    effect_conflicts = StorageMap(
        "effect_conflicts", key=tuple[ShardId, Height], value=EffectsConflict
    )
    effect_disputes = StorageMap("effect_disputes", key=ShardId, value=Height)
    effects_facts: StorageMap[ShardId, ConfirmedEffects] = StorageMap(
        "effects_facts", key=ShardId, value=ConfirmedEffects
    )
    unshield_owed: StorageMap[tuple[ShardId, AccountId], Amount] = StorageMap(
        "unshield_owed",
        key=tuple[ShardId, AccountId],
        value=Amount,
        default=Amount(0),
    )


def vault_account(shard: ShardId) -> AccountId:
    """The account that holds a shard's shielded funds; nobody has its secret.

    A digest is as good as a public key that nobody can sign for.
    """
    return AccountId(sha256(b"sealift/vault/v1\x00" + shard))
