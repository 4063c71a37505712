"""Transactions of L1 and the places of its state that others prove.

The layout of keys is :func:`sealift.frame.storage_key`'s
(``pallet/item/`` + key bytes); a test of the ledger holds both together.
"""

from typing import Annotated, ClassVar

import msgspec

from sealift.base import (
    AccountId,
    Amount,
    Bytes32,
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    Message,
    MrSigner,
    Nonce,
    PlatformId,
    ShardId,
    StateRoot,
)

from ._statement import Statement
from .schedule import EpochKeysPublic

#: Most bytes of one L1 transaction.
MAX_TX_BYTES = 1024 * 1024
_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class TransactionBody(Statement):
    """What an account signs to act on L1; ``nonce`` guards against replay.

    ``call`` is ``pallet.call``, ``args`` its arguments as
    :class:`sealift.frame.RuntimeMetadata` encodes them.
    """

    DOMAIN: ClassVar[str] = "sealift/l1-transaction/v1"
    chain_id: ChainId
    signer: AccountId
    nonce: Nonce
    call: Annotated[str, msgspec.Meta(max_length=128)]
    args: bytes
    valid_until: Height


class Transaction(Message):
    """A signed transaction as it stands in a block."""

    body: TransactionBody
    signature: _Signature


#: Calls of L1 that an enclave acts on; only top-level transactions count.
INVOKE = "enclave_bridge.invoke"
SHIELD_FUNDS = "enclave_bridge.shield_funds"


class InvokeArgs(Message, tag=False):
    """Arguments of ``enclave_bridge.invoke``: anybody's account may carry it."""

    shard: ShardId
    ciphertext: bytes


class ShieldFundsArgs(Message, tag=False):
    """Arguments of ``enclave_bridge.shield_funds``.

    ``amount`` leaves the signer's L1 account and reaches ``beneficiary`` inside
    the shard.
    """

    shard: ShardId
    beneficiary: AccountId
    amount: Amount


class RegistrationStatement(Statement):
    """What an enclave quotes to be registered (DESIGN §7, §8.3).

    The quote's report data is this statement's; the signing key also signs it.
    ``operator`` is the only account that may bring it to L1. The block is one of
    L1, at most ``quote_window`` old; ``challenge`` and ``provider`` are set when
    keys are wanted.
    """

    DOMAIN: ClassVar[str] = "sealift/registration/v1"
    chain_id: ChainId
    shard: ShardId
    operator: AccountId
    signing_key: AccountId
    tls_key: Digest
    hpke_key: Annotated[bytes, msgspec.Meta(max_length=2048)]
    block_height: Height
    block_hash: Digest
    challenge: Bytes32 | None = None
    provider: AccountId | None = None


class EnclaveRecord(Message):
    """A registered enclave instance, as L1 keeps it under :func:`enclave_key`.

    ``unbroken_since`` is the height of the first of the attestations that
    followed each other without one lapsing.
    """

    statement: RegistrationStatement
    operator: AccountId
    platform: Annotated[str, msgspec.Meta(max_length=32)]
    fingerprint: Fingerprint
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    platform_id: PlatformId
    tcb_status: str
    advisories: tuple[str, ...]
    tcb_evaluation_number: int
    registered_at: Height
    attested_at: Height
    url: Annotated[str, msgspec.Meta(max_length=256)] = ""
    unbroken_since: Height = Height(0)


class PublishKeyStatement(Statement):
    """The public side of a key epoch, signed by a registered instance.

    Commitments are SHA-256 over ``domain || key``
    (:func:`sealift.protocol.key_commitment`). ``genesis_root`` is the keyed
    root of the genesis state; it is the first confirmation's ``prev_root``.
    """

    DOMAIN: ClassVar[str] = "sealift/publish-key/v1"
    chain_id: ChainId
    shard: ShardId
    epoch: Epoch
    signing_key: AccountId
    shielding_key: Bytes32
    state_key_commitment: Digest
    root_key_commitment: Digest
    genesis_root: StateRoot


class StageKeysStatement(Statement):
    """The public side of the next epoch, by the instance that made its keys.

    ``demand`` is :func:`sealift.protocol.rotation_demand` of the schedule that
    the keys were made for: keys that L1 has dropped never come back.
    ``registration`` is the digest of the :class:`RegistrationStatement` that the
    instance had quoted last when it made them: keys that it made before it was
    attested as the demand wants are not taken.
    """

    DOMAIN: ClassVar[str] = "sealift/stage-keys/v1"
    chain_id: ChainId
    shard: ShardId
    epoch: Epoch
    keys: EpochKeysPublic
    signing_key: AccountId
    demand: Digest | None = None
    registration: Digest | None = None


class HoldKeysStatement(Statement):
    """An instance's word that it holds the keys of a staged epoch, sealed."""

    DOMAIN: ClassVar[str] = "sealift/hold-keys/v1"
    chain_id: ChainId
    shard: ShardId
    epoch: Epoch
    keys: EpochKeysPublic
    signing_key: AccountId


class RehearsalStatement(Statement):
    """An instance of a pending generation has rehearsed on a copy (DESIGN §11.7).

    ``order`` and ``upgrade_at`` are those of the entry that it was made for: a
    postponed one is rehearsed again. The copy stood at ``height``; ``blocks`` real
    blocks after it were executed in shadow. ``check`` names what failed, by pallet
    and hook, never by content; it is empty where ``good``. ``size`` is that of the
    copy in bytes, rounded up to a power of two.
    """

    DOMAIN: ClassVar[str] = "sealift/rehearsal/v1"
    chain_id: ChainId
    shard: ShardId
    generation: Generation
    order: Digest
    upgrade_at: Height
    signing_key: AccountId
    height: Height
    blocks: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    good: bool
    check: Annotated[str, msgspec.Meta(max_length=96)]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class KeyEpochRecord(Message):
    """The birth of a shard as L1 keeps it under :func:`keys_key`, epoch 0.

    Later epochs stand in the schedule.
    """

    statement: PublishKeyStatement
    valid_from: Height


class Frontier(Message):
    """The last confirmed block of a shard and its root, under :func:`frontier_key`.

    The frontier itself is ``confirmed + 1``: the first block without a
    confirmed root.
    """

    confirmed: Height
    root: StateRoot
    generation: Generation


class Confirmation(Statement):
    """What an enclave says of the blocks ``first`` to ``last`` (DESIGN §10.8)."""

    DOMAIN: ClassVar[str] = "sealift/confirmation/v1"
    chain_id: ChainId
    shard: ShardId
    generation: Generation
    first: Height
    last: Height
    prev_root: StateRoot
    root: StateRoot
    receipts_root: Digest
    effects_root: Digest
    signing_key: AccountId


class HandoverCertificate(Statement):
    """The old enclave's last word: its state after XYZ-1 (DESIGN §11.8).

    ``root`` is the keyed root after ``height``, which is ``upgrade_at - 1`` of
    the entry ``successor``; the signer executes nothing above it.
    """

    DOMAIN: ClassVar[str] = "sealift/handover-certificate/v1"
    chain_id: ChainId
    shard: ShardId
    generation: Generation
    successor: Generation
    height: Height
    root: StateRoot
    signing_key: AccountId


class CollateralRecord(Message):
    """Collateral as the ledger accepted it, under :func:`collateral_key`.

    ``collateral`` is the encoding of :class:`sealift.attestation.Collateral`.
    The numbers never fall.
    """

    collateral: bytes
    recorded_at: Height
    tcb_issued_at: int
    qe_issued_at: int
    tcb_evaluation_number: int
    qe_evaluation_number: int
    pck_crl_number: int
    root_crl_number: int


def _key(pallet: str, item: str, key: bytes) -> bytes:
    return f"{pallet}/{item}/".encode() + key


def record_key(shard: ShardId) -> bytes:
    """Where the :class:`ScheduleRecord` of a shard stands."""
    return _key("enclave_bridge", "record", shard)


def schedule_key(shard: ShardId) -> bytes:
    """Where the :class:`Schedule` of a shard stands."""
    return _key("enclave_bridge", "schedule", shard)


def frontier_key(shard: ShardId) -> bytes:
    """Where the :class:`Frontier` of a shard stands (absent before its birth)."""
    return _key("enclave_bridge", "frontier", shard)


def keys_key(shard: ShardId, epoch: int) -> bytes:
    """Where the :class:`KeyEpochRecord` of an epoch stands."""
    part = epoch.to_bytes(8, "big")
    return _key(
        "enclave_bridge",
        "keys",
        b"".join(len(p).to_bytes(2, "big") + p for p in (shard, part)),
    )


def certificate_key(shard: ShardId) -> bytes:
    """Where the last :class:`HandoverCertificate` of a shard stands."""
    return _key("enclave_bridge", "certificate", shard)


def enclave_key(signing_key: AccountId) -> bytes:
    """Where the :class:`EnclaveRecord` of an instance stands."""
    return _key("teerex", "enclaves", signing_key)


def collateral_key(fmspc: bytes) -> bytes:
    """Where the :class:`CollateralRecord` of a family of processors stands."""
    return _key("teerex", "collateral", fmspc)
