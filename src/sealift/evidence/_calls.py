"""Calls and events of L1 that make a lineage, as their bytes are read here.

A second reading, made from the layout and not from the ledger's code; a test
holds both together. Later versions append: what is more is not looked at.
"""

from typing import Annotated, Final

import msgspec

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Generation,
    Height,
    Message,
    ShardId,
    StateRoot,
    decode,
)
from sealift.frame import RuntimeCall
from sealift.protocol import (
    Confirmation,
    Effect,
    EffectsFact,
    EffectsStatement,
    HandoverCertificate,
    HoldKeysStatement,
    Order,
    PublishKeyStatement,
    RegistrationStatement,
    RehearsalStatement,
    ShardConfig,
    ShardRules,
    SignedOrder,
    StageKeysStatement,
    Tally,
)

_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class CreateShard(Message, tag=False):
    """``enclave_bridge.create_shard``."""

    rules: ShardRules
    config: ShardConfig


class CreateGatedShard(CreateShard, tag=False):
    """``enclave_bridge.create_gated_shard``."""

    rehearsals: int
    postpone_by: int


class SubmitOrder(Message, tag=False):
    """``enclave_bridge.submit_order``."""

    order: SignedOrder


class PublishKey(Message, tag=False):
    """``enclave_bridge.publish_key``."""

    statement: PublishKeyStatement
    signature: _Signature


class Confirm(Message, tag=False):
    """``enclave_bridge.confirm``."""

    confirmation: Confirmation
    signature: _Signature
    effects: tuple[EffectsFact, ...] = ()


class PostCertificate(Message, tag=False):
    """``enclave_bridge.post_certificate``."""

    certificate: HandoverCertificate
    signature: _Signature


class PostEffects(Message, tag=False):
    """``enclave_bridge.post_effects``."""

    statement: EffectsStatement
    signature: _Signature
    effects: tuple[Effect, ...]


class PostRehearsal(Message, tag=False):
    """``enclave_bridge.post_rehearsal``."""

    statement: RehearsalStatement
    signature: _Signature
    milliseconds: int


class StageKeys(Message, tag=False):
    """``enclave_bridge.stage_keys``."""

    statement: StageKeysStatement
    signature: _Signature


class HoldKeys(Message, tag=False):
    """``enclave_bridge.hold_keys``."""

    statement: HoldKeysStatement
    signature: _Signature


class Propose(Message, tag=False):
    """``council.propose``."""

    order: Order
    signing_key: AccountId


class Vote(Message, tag=False):
    """``council.vote``."""

    shard: ShardId
    order: Digest
    signing_key: AccountId
    aye: bool


class Register(Message, tag=False):
    """``teerex.register_sgx_enclave``."""

    statement: RegistrationStatement
    signature: _Signature
    quote: bytes
    url: str = ""


class Unregister(Message, tag=False):
    """``teerex.unregister_enclave``."""

    signing_key: AccountId


class Sudo(Message, tag=False):
    """``sudo.sudo``: root takes an instance off the registry."""

    call: RuntimeCall


Call = (
    CreateShard
    | CreateGatedShard
    | SubmitOrder
    | PublishKey
    | Confirm
    | PostCertificate
    | PostEffects
    | PostRehearsal
    | StageKeys
    | HoldKeys
    | Propose
    | Vote
    | Register
    | Unregister
    | Sudo
)

#: What is read of which call.
CALLS: Final[dict[str, type[Call]]] = {
    "enclave_bridge.create_shard": CreateShard,
    "enclave_bridge.create_gated_shard": CreateGatedShard,
    "enclave_bridge.submit_order": SubmitOrder,
    "enclave_bridge.publish_key": PublishKey,
    "enclave_bridge.confirm": Confirm,
    "enclave_bridge.post_certificate": PostCertificate,
    "enclave_bridge.post_effects": PostEffects,
    "enclave_bridge.post_rehearsal": PostRehearsal,
    "enclave_bridge.stage_keys": StageKeys,
    "enclave_bridge.hold_keys": HoldKeys,
    "council.propose": Propose,
    "council.vote": Vote,
    "teerex.register_sgx_enclave": Register,
    "teerex.unregister_enclave": Unregister,
    "sudo.sudo": Sudo,
}


class OrderRecorded(Message):
    """An order took effect; ``serial`` is the next one."""

    shard: ShardId
    kind: str
    order: Digest
    serial: int


class OrderFailed(Message):
    """An order was decided by a vote and could not be carried out."""

    shard: ShardId
    kind: str
    order: Digest
    error: str


class RootConfirmed(Message):
    """A root counts."""

    shard: ShardId
    generation: Generation
    first: Height
    last: Height
    root: StateRoot


class RootsConflicting(Message):
    """Two roots for one block."""

    shard: ShardId
    last: Height


class EffectsConflicting(Message):
    """Two words on a block's effects."""

    shard: ShardId
    height: Height


class StakeDecided(Message):
    """The shard's holders have voted on an order."""

    shard: ShardId
    order: Digest
    kind: str
    passed: bool
    tally: Tally | None


class MotionOpened(Message):
    """An order is before the council."""

    shard: ShardId
    kind: str
    order: Digest
    seats: int
    closes_at: Height


class MotionEnded(Message):
    """A motion is over."""

    shard: ShardId
    order: Digest
    how: str


class EnclaveRegistered(Message):
    """An instance was admitted by a generation's entry."""

    shard: ShardId
    signing_key: AccountId
    fingerprint: Digest
    generation: Generation
    attested_at: Height


class EpochActivated(Message):
    """The next epoch acts from ``valid_from`` on."""

    shard: ShardId
    epoch: Epoch
    valid_from: Height


Happened = (
    OrderRecorded
    | OrderFailed
    | RootConfirmed
    | RootsConflicting
    | EffectsConflicting
    | StakeDecided
    | MotionOpened
    | MotionEnded
    | EnclaveRegistered
    | EpochActivated
)

#: What is read of which event; others are not looked at.
EVENTS: Final[dict[str, type[Happened]]] = {
    "enclave_bridge.OrderRecorded": OrderRecorded,
    "enclave_bridge.OrderFailed": OrderFailed,
    "enclave_bridge.RootConfirmed": RootConfirmed,
    "enclave_bridge.RootsConflicting": RootsConflicting,
    "enclave_bridge.EffectsConflicting": EffectsConflicting,
    "enclave_bridge.StakeDecided": StakeDecided,
    "enclave_bridge.EpochActivated": EpochActivated,
    "council.MotionOpened": MotionOpened,
    "council.MotionEnded": MotionEnded,
    "teerex.EnclaveRegistered": EnclaveRegistered,
}

#: Calls that make a lineage, for whoever gathers one.
EVIDENCE_CALLS: Final = frozenset(CALLS)


def quote_of_registration(args: bytes) -> tuple[AccountId, bytes]:
    """The signing key and the quote in a registration's arguments; unverified.

    Raises:
        DecodeError: None are.
    """
    given = decode(Register, args)
    return given.statement.signing_key, given.quote
