"""Where `teerex` keeps what it knows; its genesis and its events."""

from sealift.attestation import AnchorKind, TrustAnchor
from sealift.base import AccountId, Bytes32, Fingerprint, Height, Message, ShardId
from sealift.frame import Event, Pallet, StorageMap, StorageValue
from sealift.protocol import CollateralRecord, EnclaveRecord


class TeerexGenesis(Message, kw_only=True):
    """Roots of attestation, and how old a block a statement may name."""

    anchors: tuple[TrustAnchor, ...]
    quote_window: int


class EnclaveRegistered(Event, kw_only=True):
    """An instance is registered, or attested again."""

    shard: ShardId
    signing_key: AccountId
    fingerprint: Fingerprint
    generation: int
    attested_at: Height


class EnclaveAnnounced(Event, kw_only=True):
    """An instance has a new address."""

    signing_key: AccountId
    url: str


class EnclaveUnregistered(Event, kw_only=True):
    """An instance has left the registry."""

    signing_key: AccountId


class CollateralRegistered(Event, kw_only=True):
    """The ledger judges quotes of these processors by newer collateral."""

    fmspc: bytes
    tcb_evaluation_number: int


class TeerexStorage(Pallet):
    """Storage of the registry; ``enclaves`` and ``collateral`` are public layout.

    ``members`` lists the instances of each shard, ``challenges`` the signing key
    that named each and ``challenges_at`` those that a block named, until they are
    forgotten; ``collateral_anchors`` the kind of root of each collateral.
    """

    anchors = StorageValue("anchors", tuple[TrustAnchor, ...])
    quote_window = StorageValue("quote_window", int)
    enclaves = StorageMap("enclaves", key=AccountId, value=EnclaveRecord)
    members = StorageMap("members", key=tuple[ShardId, AccountId], value=bool)
    challenges = StorageMap("challenges", key=Bytes32, value=AccountId)
    challenges_at: StorageMap[Height, tuple[Bytes32, ...]] = StorageMap(
        "challenges_at", key=Height, value=tuple[Bytes32, ...], default=()
    )
    collateral = StorageMap("collateral", key=bytes, value=CollateralRecord)
    collateral_anchors: StorageMap[bytes, AnchorKind] = StorageMap(
        "collateral_anchors", key=bytes, value=AnchorKind
    )
