"""What goes into a shard's block, and what comes out of it."""

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from sealift.base import (
    AccountId,
    Amount,
    Bytes32,
    Digest,
    Fingerprint,
    Height,
    UnixSeconds,
)
from sealift.frame import CallFailure, EmittedEvent, MigrationReport
from sealift.protocol import Effect, Receipt, Schedule, ShardStatus, SignedOrder

from ._opening import OpenedCall, RefusedCall

_NORMAL = ShardStatus()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on the work of one block; weight is about a microsecond.

    They are part of the state machine: instances that differ in them part.

    Attributes:
        block_weight: Most weight that the calls of a block spend together.
        call_weight: Most weight that one call spends.
        base_weight: What opening and booking a call costs beside its own.
        hook_weight: Most weight that the hooks of one phase spend together.
        getter_weight: Most weight that one getter spends.
        migration_weight: Most weight that an upgrade's checks and hooks spend
            together: that of 20 full blocks. Declared record migrations weigh nothing.
        access_weight: What every access to the state weighs for them, and for the
            steps of migrations that take many blocks.
        told_bytes: Most bytes of events that the receipts of a block hold together;
            receipts beyond have none. Padded, they fit a frame to the host.
    """

    block_weight: int = 2_000_000
    call_weight: int = 500_000
    base_weight: int = 100
    hook_weight: int = 500_000
    getter_weight: int = 500_000
    migration_weight: int = 20 * 2_000_000
    access_weight: int = 1
    told_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ShieldedFunds:
    """A deposit: ``amount`` left L1 for ``beneficiary`` inside the shard."""

    beneficiary: AccountId
    amount: Amount


#: What of an L1 block concerns a shard, in the order of the block.
Item: TypeAlias = OpenedCall | RefusedCall | ShieldedFunds


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBlock:
    """One verified L1 block as a shard sees it.

    Owed by the caller: that ``items`` are all calls and deposits of the shard
    in the block that succeeded on L1, in order, that ``status`` is the one in
    force in this block, and ``schedule`` the one proven with the state after
    ``height``. Every instance gives the same values, or their roots part;
    giving the same schedule again changes nothing, so give it always. ``code`` is
    every MRENCLAVE of the generation that runs the block, on whatever platform
    (``None``: the executor's alone). ``effects_done`` is the last block whose effects
    L1 had executed, by the record proven with this block (``None``: it doesn't say).
    """

    height: Height
    block_hash: Digest
    time: UnixSeconds
    items: tuple[Item, ...]
    status: ShardStatus = _NORMAL
    schedule: Schedule | None = None
    code: frozenset[Fingerprint] | None = None
    effects_done: Height | None = None


class CallReceipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A receipt and where it goes.

    ``reply_key`` is ``None`` if the envelope did not open: then nobody can be
    told. Two equal calls in one envelope and block have equal receipts, so
    sealing both by :func:`sealift.protocol.seal_receipt` is safe.
    """

    envelope: Digest
    reply_key: Bytes32 | None
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositOutcome:
    """What became of a deposit; ``failure`` is ``None`` if it was credited."""

    deposit: ShieldedFunds
    failure: CallFailure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCounts:
    """How many items of each kind a block had.

    ``calls`` = ``succeeded`` + ``failed`` + ``refused`` + ``copies``. A failed
    call consumed its nonce, a refused one did not.
    """

    calls: int = 0
    succeeded: int = 0
    failed: int = 0
    refused: int = 0
    copies: int = 0
    deposits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOutcome:
    """What a block did; nothing is written anywhere yet.

    Attributes:
        height: The block.
        changes: Changed entries of the state (``None``: deleted), in key
            order, for
            ``StateStore.apply`` and for the diff.
        receipts: One for every call, in order of the block.
        deposits: One for every deposit, in order of the block.
        orders: Orders that the worker carries to L1, in order.
        effects: What the block does on L1, in order.
        effects_before: The last block before this one that had effects; 0 if
            there was none.
        counts: How many of what.
        weight: Weight that calls spent.
        events: Events of hooks and deposits: for tests and operators.
        hook_failures: Hooks that failed and were rolled back.
        migration: What was migrated first, if anything was.
        step_failures: Steps of migrations that failed and were rolled back.
    """

    height: Height
    changes: dict[bytes, bytes | None]
    receipts: tuple[CallReceipt, ...]
    deposits: tuple[DepositOutcome, ...]
    orders: tuple[SignedOrder, ...]
    effects: tuple[Effect, ...]
    effects_before: Height
    counts: BlockCounts
    weight: int
    events: tuple[EmittedEvent, ...]
    hook_failures: tuple[tuple[str, CallFailure], ...]
    migration: MigrationReport | None
    step_failures: tuple[tuple[str, CallFailure], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRehearsal:
    """What a migration would do: told and changed."""

    report: MigrationReport
    changes: dict[bytes, bytes | None]
