"""Auditing by replay: what auditor and former code say to each other (DESIGN §13).

The auditor is an enclave of the running generation; the auditee one of the code
that once ran a range, without any key of the shard. What passes between them is
sealed under a key of that one audit: host and disk see only :class:`AuditSealed`.
An older release is spoken to: messages here are never changed, only added to.
"""

from typing import Annotated, ClassVar, Literal

import msgspec

from sealift.base import (
    AccountId,
    Amount,
    Bytes32,
    ChainId,
    Digest,
    Fingerprint,
    Generation,
    Height,
    Message,
    ShardId,
    StateRoot,
    UnixSeconds,
)

from ._statement import Statement

#: Domain of the HPKE ``info`` under which the key of an audit travels.
AUDIT_KEY_DOMAIN = b"sealift/audit-key/v1\x00"
#: Domain of the records that pass under it.
AUDIT_RECORD_DOMAIN = b"sealift/audit-record/v1\x00"
#: Bytes of entries in one record, about.
AUDIT_PART_BYTES = 4 * 1024 * 1024

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class AuditStatement(Statement):
    """What an auditee quotes: the key that its part of an audit is sealed to.

    ``nonce`` is the auditor's, drawn for this auditee; ``hpke_key`` serves this
    process only and never anything else.
    """

    DOMAIN: ClassVar[str] = "sealift/audit/v1"
    chain_id: ChainId
    shard: ShardId
    generation: Generation
    nonce: Bytes32
    hpke_key: Annotated[bytes, msgspec.Meta(max_length=2048)]


# --- auditor to auditee, sealed ---


class GenesisTask(Message):
    """Make the genesis state from the shard's blob, whose digest L1 names."""

    blob: bytes
    page_bits: Annotated[int, msgspec.Meta(ge=1, le=24)]


class StateTask(Message):
    """Entries of the state that the range begins with; ``last`` ends them."""

    page_bits: Annotated[int, msgspec.Meta(ge=1, le=24)]
    entries: tuple[tuple[bytes, bytes], ...]
    last: bool


class AuditCall(Message):
    """An envelope of the block, and what is in it if it opens at all."""

    envelope: bytes
    plain: bytes | None


class AuditDeposit(Message):
    """Funds that reached the shard in the block."""

    beneficiary: AccountId
    amount: Amount


class BlockTask(Message):
    """Execute one block: what its enclave had of it, but opened.

    ``schedule`` is the one proven with the block, encoded; ``code`` every
    MRENCLAVE of the generation; ``effects_done`` what the block's record says.
    """

    height: Height
    block_hash: Digest
    time: UnixSeconds
    items: tuple[AuditCall | AuditDeposit, ...]
    schedule: bytes | None
    code: tuple[Fingerprint, ...]
    effects_done: Height | None


AuditTask = GenesisTask | StateTask | BlockTask


# --- auditee to auditor, sealed ---


class TaskDone(Message):
    """What became of a block, after its last changes.

    ``leaves`` are those of its receipts, in order; ``effects`` the digest of its
    effects, if it had any. For the genesis, ``height`` is 0.
    """

    height: Height
    leaves: tuple[Bytes32, ...]
    effects: Digest | None
    calls: _Count


class ChangesPart(Message):
    """Changed entries (``None``: deleted); ``done`` stands in the last part."""

    changes: tuple[tuple[bytes, bytes | None], ...]
    done: TaskDone | None


# --- ECALLs, since version 2 of the table ---


class AuditBegin(Message):
    """Be an auditor, and nothing else from here on.

    Asked after ``Start`` without a checkpoint, before any block. ``genesis`` is
    the shard's blob. Since version 2 of the table.
    """

    genesis: bytes


class AuditBegun(Message):
    """Bring ``challenge`` to L1, in any transaction: it shows what is now."""

    challenge: Bytes32


class AuditStands(Message):
    """The present, as L1 proves it: blocks up to ``confirmed`` are audited."""

    height: Height
    confirmed: Height


class AuditNext(Message):
    """What is to be done next. Since version 2 of the table."""


class AuditInvited(Message):
    """Start the code of ``generation``, and have it asked :class:`AuditOpen`.

    ``height`` is the first block of its range, or the shard's birth.
    """

    chain_id: ChainId
    shard: ShardId
    generation: Generation
    fingerprint: Fingerprint
    height: Height
    nonce: Bytes32


class AuditWaits(Message):
    """Nothing to be done now: more blocks are to be imported, or all is audited."""

    reason: Literal["no-block", "no-answer", "done"]
    height: Height | None


class AuditSealed(Message):
    """Bytes for the auditee."""

    sealed: bytes


class AuditTake(Message):
    """Bytes that came from the auditee. Since version 2 of the table."""

    sealed: bytes


class AuditTaken(Message):
    """What an auditee's answer led to; without ``done``, more of it is to come.

    ``root`` is the keyed root after block ``height`` (for the genesis, the block
    of the birth); ``leaves`` and ``effects`` are as in :class:`TaskDone`.
    """

    done: bool
    height: Height | None = None
    generation: Generation | None = None
    genesis: bool = False
    root: StateRoot | None = None
    leaves: tuple[Bytes32, ...] = ()
    effects: Digest | None = None
    calls: _Count = 0


class AuditOpen(Message):
    """Be the auditee of one range: without keys, for this process's whole life.

    Asked instead of ``Start``. Since version 2 of the table.
    """

    shard: ShardId
    generation: Generation
    nonce: Bytes32


class AuditOpened(Message):
    """The key to seal to, and a quote over it."""

    statement: AuditStatement
    quote: bytes


class AuditWork(Message):
    """Bytes that came from the auditor. Since version 2 of the table."""

    sealed: bytes


class AuditMore(Message):
    """The next part of an answer that did not fit. Since version 2 of the table."""


class AuditWorked(Message):
    """Bytes for the auditor, if there are any; ``more`` are to be asked for."""

    sealed: bytes | None
    more: bool


AuditRequest = AuditBegin | AuditNext | AuditTake | AuditOpen | AuditWork | AuditMore
AuditReply = (
    AuditBegun
    | AuditStands
    | AuditInvited
    | AuditWaits
    | AuditSealed
    | AuditTaken
    | AuditOpened
    | AuditWorked
)
#: Rows of the ECALL table whose requests need no proofs.
AUDIT_ECALLS: dict[type[Message], tuple[type[Message], ...]] = {
    AuditBegin: (AuditBegun,),
    AuditNext: (AuditInvited, AuditSealed, AuditWaits),
    AuditTake: (AuditTaken,),
    AuditOpen: (AuditOpened,),
    AuditWork: (AuditWorked,),
    AuditMore: (AuditWorked,),
}
