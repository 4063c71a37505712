"""What a session needs of the enclave around it; nothing here does I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sealift.attestation import TrustAnchor
from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Fingerprint,
    Height,
    ShardId,
    UnixSeconds,
)
from sealift.crypto import Entropy
from sealift.protocol import KeyPackage, Schedule
from sealift.protocol.ecall import Registration

from ._epochs import EntitledEpochs


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenState:
    """Values of L1's state that this enclave's own relay has proven.

    ``height`` is the block after which the state stands; ``values`` maps keys
    to values, ``None`` where absence is proven. ``time`` is the block time of
    the header that committed to it.
    """

    height: Height
    time: UnixSeconds
    values: Mapping[bytes, bytes | None]


class Instance(Protocol):
    """One enclave instance, as both ends of a session use it."""

    @property
    def chain_id(self) -> ChainId:
        """The chain of the measured trust root."""

    @property
    def shard(self) -> ShardId:
        """The shard this process serves."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Its own MRENCLAVE."""

    @property
    def signing_key(self) -> AccountId:
        """Its own identity on L1."""

    @property
    def hpke_key(self) -> bytes:
        """Its MLKEM768_X25519 public key."""

    @property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        """The measured attestation roots."""

    @property
    def entropy(self) -> Entropy:
        """Where challenges and TLS keys come from."""

    def head(self) -> tuple[Height, Digest]:
        """Height and hash of the relay's head."""

    def header_hash(self, height: int) -> Digest | None:
        """Hash of a header the relay has verified, if it still remembers it."""

    def quote(self, report_data: bytes) -> bytes:
        """A quote of this enclave over 64 bytes."""

    def register(
        self, *, tls_key: Digest, challenge: bytes, provider: AccountId
    ) -> Registration:
        """A signed and quoted registration for this session (step 3)."""

    def open_package(self, sealed: bytes, *, info: bytes) -> bytes:
        """Open what was sealed to :attr:`hpke_key`."""

    def key_package(
        self, *, checkpoint_at: Height, entitled: EntitledEpochs
    ) -> KeyPackage:
        """The shard's secrets and where the provider stands (step 7).

        The secrets are exactly those of the acting epochs that ``entitled``
        names, and of its staged one if these very keys are held. The checkpoint
        is of the header at ``checkpoint_at``, which this relay has verified and
        the requester's relay has passed.
        """

    def install(self, package: KeyPackage, *, schedule: Schedule) -> bytes:
        """Take the keys over; the sealed key store to make durable (step 8).

        ``schedule`` is proven and says which epochs act; no secret that is held
        is lost.
        """
