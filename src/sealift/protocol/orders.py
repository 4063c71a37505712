"""Orders: what an authority decided, and who endorses it (DESIGN §4.5).

Every authority endorses one digest, that of the order. ``serial`` must be the
schedule's current one and is raised by every accepted act, so no decision
replays: not twice, not on another shard or chain, not after a cancel.
"""

from typing import Annotated, ClassVar, TypeAlias

import msgspec

from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Generation,
    Height,
    Message,
    MrSigner,
    ShardId,
)
from sealift.crypto import account_of, rsa_verify, sha256

from ._statement import Statement
from .schedule import RotationRequest, ShardConfig, ShardRules, ShardStatus

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
_Rsa = Annotated[bytes, msgspec.Meta(min_length=384, max_length=384)]
_Source = Annotated[str, msgspec.Meta(max_length=256)]
#: Endorsements that travel with an order.
MAX_ENDORSEMENTS = 16


class UpgradeOrder(Statement):
    """A new generation shall run from block ``upgrade_at`` on.

    ``bundle`` is the SHA-256 of the bundle's file and ``source`` where to get it,
    for people and workers; what counts is the fingerprint in ``config``. An
    ``emergency`` order waits for the rules' ``emergency_notice`` instead of
    ``min_notice``.
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
    bundle: Digest | None = None
    source: _Source = ""
    emergency: bool = False


class CancelOrder(Statement):
    """A pending entry shall not run."""

    DOMAIN: ClassVar[str] = "sealift/order/cancel/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    generation: Generation
    expiry: Height


class PostponeOrder(Statement):
    """A pending entry shall run later: from block ``upgrade_at`` on."""

    DOMAIN: ClassVar[str] = "sealift/order/postpone/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    generation: Generation
    upgrade_at: Height
    expiry: Height


class StatusOrder(Statement):
    """Maintenance, floors, revocations; with ``rotate``, new keys as well.

    One act for a vulnerability day: the floor evicts, the rotation makes the
    eviction real.
    """

    DOMAIN: ClassVar[str] = "sealift/order/status/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    status: ShardStatus
    expiry: Height
    rotate: RotationRequest | None = None


class RulesOrder(Statement):
    """The shard's rules shall be others from ``effective_at`` on.

    At the longest notice, and by all members of an ``AnyOf``. The genesis, the
    size of the state and the floor of emergencies never change.
    """

    DOMAIN: ClassVar[str] = "sealift/order/rules/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    rules: ShardRules
    effective_at: Height
    expiry: Height


class WithdrawOrder(Statement):
    """A change of rules, or of rehearsals, that is pending shall not take effect."""

    DOMAIN: ClassVar[str] = "sealift/order/withdraw/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    expiry: Height


class RehearsalsOrder(Statement):
    """Upgrades shall take so many good rehearsals from ``effective_at`` on.

    Each by another platform; without them an upgrade is put off by ``postpone_by``
    blocks. Endorsed as other rules are, and at the longest notice, whether more are
    asked for or fewer. L1 has it since version 3 of its runtime.
    """

    DOMAIN: ClassVar[str] = "sealift/order/rehearsals/v1"
    chain_id: ChainId
    shard: ShardId
    serial: _Count
    required: _Count
    postpone_by: _Count
    effective_at: Height
    expiry: Height


Order: TypeAlias = (
    UpgradeOrder
    | CancelOrder
    | PostponeOrder
    | StatusOrder
    | RulesOrder
    | WithdrawOrder
    | RehearsalsOrder
)

#: Orders that take all members of an ``AnyOf``, so that no member removes the others.
UNANIMOUS = (RulesOrder, RehearsalsOrder)


class KeyEndorsement(Message):
    """An Ed25519 key's signature over the order."""

    key: AccountId
    signature: _Signature


class VendorEndorsement(Message):
    """A vendor's RSA-3072 signature over the order's preimage.

    Never over the 256 bytes that a SIGSTRUCT signs: the preimage begins with the
    order's domain.

    ``modulus`` is little-endian, as in a SIGSTRUCT; MRSIGNER is its SHA-256.
    ``signature`` is big-endian, PKCS#1 v1.5 with SHA-256.
    """

    modulus: _Rsa
    signature: _Rsa

    @property
    def mr_signer(self) -> MrSigner:
        """Who signs (SDM Vol. 3D: SHA-256 of the modulus as it stands there)."""
        return MrSigner(sha256(self.modulus))


Endorsement: TypeAlias = KeyEndorsement | VendorEndorsement
_Endorsements = Annotated[
    tuple[Endorsement, ...], msgspec.Meta(max_length=MAX_ENDORSEMENTS)
]


class SignedOrder(Message):
    """An order and the endorsements that came with it; anybody may carry it.

    Votes are no part of it: L1 has them.
    """

    order: Order
    endorsements: _Endorsements = ()

    def verify_endorsements(self) -> None:
        """Return only if every endorsement is over this very order.

        Raises:
            SignatureInvalidError: One is not.
        """
        for one in self.endorsements:
            if isinstance(one, KeyEndorsement):
                self.order.verify(one.key, one.signature)
            else:
                rsa_verify(
                    int.from_bytes(one.modulus, "little"),
                    self.order.preimage(),
                    one.signature,
                    what=type(self.order).__name__,
                )


def sign_order(order: Order, *secrets: bytes) -> SignedOrder:
    """An order with a signature by each 32-byte secret seed."""
    return SignedOrder(
        order=order,
        endorsements=tuple(
            KeyEndorsement(key=account_of(one), signature=order.sign(one))
            for one in secrets
        ),
    )
