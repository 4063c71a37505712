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
    Frontier,
    HandoverCertificate,
    KeyEpochRecord,
    Schedule,
    ScheduleRecord,
    ShardRules,
    ShardStatus,
)

from ._authority import OpenOrder
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


class BridgeStorage(Pallet):
    """Storage of the bridge; keys of the first five are public layout.

    ``confirmed`` is a ring of the last confirmed ranges by their last height,
    ``confirmed_heights`` its order. ``disputes`` holds the first height of a
    range about which eligible instances disagree, until the authority decides.
    ``next_status`` acts from the next block. ``opened`` are orders that lack
    endorsements; all of a shard end with its next accepted act.
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
    touched = StorageMap("touched", key=tuple[ShardId, AccountId], value=Height)


def vault_account(shard: ShardId) -> AccountId:
    """The account that holds a shard's shielded funds; nobody has its secret.

    A digest is as good as a public key that nobody can sign for.
    """
    return AccountId(sha256(b"sealift/vault/v1\x00" + shard))
