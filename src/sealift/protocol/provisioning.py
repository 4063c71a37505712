"""mu-ra: what provider and requester say to each other (DESIGN §8)."""

from typing import Annotated, ClassVar, Literal

import msgspec

from sealift.base import (
    AccountId,
    Bytes32,
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Height,
    Message,
    ShardId,
    encode,
)
from sealift.crypto import sha256

from ._statement import Statement
from .chain import Frontier

#: Versions of this protocol that this release speaks.
MU_RA_VERSIONS = (1, 1)

Role = Literal["provider", "requester"]


class MuRaHello(Message):
    """Step 1, requester to provider."""

    version_low: int
    version_high: int
    shard: ShardId
    fingerprint: Fingerprint


class MuRaChallenge(Message):
    """Step 2, provider to requester: serves one session.

    ``head_height`` and ``head_hash`` are the provider's relay head.
    """

    version: int
    challenge: Bytes32
    provider: AccountId
    head_height: Height
    head_hash: Digest


class MuRaReady(Message):
    """Step 3 done, requester to provider: registered on L1; TLS may open.

    Only a hint for the host, which then brings the proofs; nothing is trusted.
    """

    signing_key: AccountId


class SessionBinding(Statement):
    """What a session certificate's quote binds beside its TLS key (step 4)."""

    DOMAIN: ClassVar[str] = "sealift/mu-ra-session/v1"
    role: Role
    chain_id: ChainId
    shard: ShardId
    signing_key: AccountId
    hpke_key: Annotated[bytes, msgspec.Meta(max_length=2048)]


class EpochKeys(Message):
    """The secret side of a key epoch: three 32-byte secrets."""

    epoch: Epoch
    shielding_secret: Bytes32
    state_key: Bytes32
    root_key: Bytes32

    def __repr__(self) -> str:
        return f"EpochKeys(epoch={self.epoch}, …)"


class KeyPackage(Message):
    """Step 7: what the requester gets, sealed to its quoted HPKE key.

    ``checkpoint`` is the provider's relay checkpoint
    (:class:`sealift.relay.RelayCheckpoint`, encoded).
    """

    epochs: tuple[EpochKeys, ...]
    checkpoint: bytes
    schedule: Digest
    frontier: Frontier


class SealedKeyPackage(Message):
    """Step 7 on the wire: HPKE (MLKEM768_X25519).

    ``info`` is a domain, hello, challenge and the TLS exporter's value.
    """

    sealed: bytes


class MuRaAcknowledged(Message):
    """Step 8: the requester has checked and sealed what it got."""

    package: Digest


class MuRaRefusal(Message):
    """Either end's last word: a typed error, by name."""

    code: str
    message: str


MuRaMessage = (
    MuRaHello
    | MuRaChallenge
    | MuRaReady
    | SealedKeyPackage
    | MuRaAcknowledged
    | MuRaRefusal
)


def key_commitment(name: str, key: bytes) -> Digest:
    """What L1 knows of a secret 32-byte key: SHA-256 over ``domain || key``."""
    return sha256(b"sealift/key-commitment/v1\x00" + encode((name, key)))
