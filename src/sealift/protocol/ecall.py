"""The ECALL table: the whole surface between a host and its enclave.

One frame each way; a request is answered by the reply that its row in
:data:`ECALLS` names, or by :class:`Refused`. The enclave goes on after every
refusal. Types of other floors (light blocks, checkpoints) travel encoded.
"""

from typing import Annotated, Literal

import msgspec

from sealift.base import (
    AccountId,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    Message,
    MrSigner,
    ShardId,
    StateRoot,
)

from . import audit
from ._ecall_state import (
    DiffApply,
    Genesis,
    SnapshotBegin,
    SnapshotCheck,
    SnapshotCheckChunk,
    SnapshotChecked,
    SnapshotChunk,
    SnapshotDrop,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)
from .calls import SealedReceipt
from .chain import (
    Confirmation,
    HandoverCertificate,
    HoldKeysStatement,
    PublishKeyStatement,
    RegistrationStatement,
    RehearsalStatement,
    StageKeysStatement,
)
from .effects import BlockEffects, EffectsFact
from .orders import SignedOrder

#: Versions of this table that this release speaks. Requests of a later version than
#: the one agreed on are not asked; a request is never changed, a reply only grows.
ECALL_VERSIONS = (1, 2)
#: Most bytes of one frame: a block with its transactions, or a chunk.
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: Plaintext bytes of a snapshot chunk, about.
CHUNK_BYTES = 1024 * 1024

_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class StateProof(Message):
    """A key of L1's state with its value, or ``None`` and proof of absence.

    ``proof`` is an ICS23 CommitmentProof against the app hash in the header
    that the request names.
    """

    key: bytes
    value: bytes | None
    proof: bytes


# --- start ---


class Hello(Message):
    """Which versions of this table the host speaks."""

    version_low: int
    version_high: int


class HelloReply(Message):
    """The version that both speak, and who the enclave is."""

    version: int
    platform: str
    fingerprint: Fingerprint
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    name: str
    app_version: str
    metadata: bytes


class Start(Message):
    """Bring the enclave up for one shard; once per process.

    ``key_store`` is the sealed key store of an earlier run, ``checkpoint`` the
    authenticated relay checkpoint. Without a checkpoint, ``light_block`` (at
    the measured trust root's height) starts the relay. The shard's genesis
    blob is checked against the digest on L1 when it is needed.
    """

    shard: ShardId
    key_store: bytes | None
    checkpoint: bytes | None
    light_block: bytes | None


class Started(Message):
    """The enclave is up. ``key_store`` must be made durable before going on."""

    signing_key: AccountId
    key_store: bytes
    head: Height


# --- the chain ---


class ImportBlock(Message):
    """Block *h* with what header *h*+1 proves of it (DESIGN §10.1-§10.3).

    ``light_block`` is the :class:`sealift.relay.LightBlock` of *h*+1 and
    ``results`` the :class:`sealift.relay.TxResult` of *h*, encoded. ``proofs``
    are against the state after *h*: always the shard's record, and what else
    changed (schedule, frontier, keys); ``schedule`` where its digest is new.
    """

    light_block: bytes
    txs: tuple[bytes, ...]
    results: tuple[bytes, ...]
    proofs: tuple[StateProof, ...]


class Followed(Message):
    """The block is verified; what it holds waits for :class:`Execute`.

    ``checkpoint``: where the relay may resume after a restart without losing a
    block that this enclave has still to execute; made durable by the host.
    """

    height: Height
    runs: Generation | None
    mine: bool
    waiting: int
    checkpoint: bytes


class SkipTo(Message):
    """Go on after a gap, none of whose blocks has to be executed here.

    ``path`` are light blocks, ascending, from the relay's head to *h* and *h*+1
    (the last two), as bisection finds them; ``proofs`` are against the state
    after *h*: the shard's record, schedule, frontier, first keys and handover
    certificate, each present or absent. ``beyond`` is a path further on, and
    ``beyond_proofs`` prove the frontier in the state before its last header:
    it shows that L1 has confirmed all blocks up to *h*.
    """

    path: tuple[bytes, ...]
    proofs: tuple[StateProof, ...]
    beyond: tuple[bytes, ...] = ()
    beyond_proofs: tuple[StateProof, ...] = ()


class ShowConflict(Message):
    """What a witness shows for a height, against what this enclave has verified.

    ``theirs`` is one light block of a verified height; or a path that begins with
    a header of this relay and ends at the height in question. ``ours`` is such a
    path on this side, where the height was skipped.
    """

    theirs: tuple[bytes, ...]
    ours: tuple[bytes, ...] = ()


class GetEvidence(Message):
    """Ask for the evidence of a fork; answered also by an enclave that stopped."""


class ChainEvidence(Message):
    """Whether the chain has forked, as far as this enclave has seen.

    ``evidence`` is the :class:`sealift.relay.ForkEvidence`, encoded; ``checkpoint``
    remembers it and is made durable by the host.
    """

    evidence: bytes | None
    checkpoint: bytes


class Execute(Message):
    """Execute the next block that is mine to execute, if there is one."""


class Executed(Message):
    """A block was executed; the host makes ``diff`` durable before confirming.

    ``diff`` is empty when it is too large for a frame (a migration that rewrites
    everything): the host then makes a snapshot durable instead.
    """

    height: Height
    diff: bytes
    receipts: tuple[SealedReceipt, ...]
    orders: tuple[SignedOrder, ...]
    checkpoint: bytes
    calls: int
    last_of_generation: bool
    effects: BlockEffects | None = None


class Idle(Message):
    """Nothing to execute now; ``reason`` is a name, ``detail`` a sentence."""

    reason: Literal["no-block", "no-state", "no-keys", "not-mine", "behind", "born"]
    detail: str


class Rehearse(Message):
    """Ask how the migration of the copy went, and the blocks in its shadow.

    Since version 2 of the table.
    """


class Rehearsed(Message):
    """This instance's word for its rehearsal, as far as it has come."""

    statement: RehearsalStatement
    signature: _Signature


class Confirm(Message):
    """Everything up to ``durable`` is on disk: confirm ``after`` + 1 … ``durable``.

    ``after`` is not below the proven frontier's height, and its root is known
    to the enclave: confirmations may be signed before earlier ones are on L1.
    """

    durable: Height
    after: Height


class Confirmed(Message):
    """A signed confirmation (``None``: nothing new to confirm).

    With ``certificate`` when ``durable`` is the last block of the generation.
    ``effects`` is what ``effects_root`` is made of; L1 wants it beside.
    """

    confirmation: Confirmation | None
    signature: _Signature | None
    certificate: HandoverCertificate | None = None
    certificate_signature: _Signature | None = None
    effects: tuple[EffectsFact, ...] = ()


class SpeakEffects(Message):
    """Say again what blocks above ``after`` do on L1 and L1 has not executed."""

    after: Height


class EffectsSpoken(Message):
    """This instance's words for confirmed blocks, whoever executed them."""

    blocks: tuple[BlockEffects, ...]


# --- identity and keys ---


class Register(Message):
    """Make a registration without a challenge (birth, re-attestation).

    ``operator`` is the account that will bring it to L1.
    """

    operator: AccountId


class Registration(Message):
    """What goes to L1: the statement, the key's signature, a quote over it."""

    statement: RegistrationStatement
    signature: _Signature
    quote: bytes


class BornKeys(Message):
    """Make the keys of epoch 0 for a shard that has none, from its genesis."""

    blob: bytes


class KeysPublished(Message):
    """The public side of an epoch; ``key_store`` made durable before it is sent."""

    statement: PublishKeyStatement
    signature: _Signature
    key_store: bytes


class StageKeys(Message):
    """Make the keys of the epoch that is due, or publish again what was made."""


class KeysStaged(Message):
    """The public side of the next epoch; ``key_store`` made durable first."""

    statement: StageKeysStatement
    signature: _Signature
    key_store: bytes


class HoldKeys(Message):
    """Say on L1 that this instance holds the staged epoch's keys, sealed."""


class KeysHeld(Message):
    """An instance's word for the staged epoch."""

    statement: HoldKeysStatement
    signature: _Signature


class GetStatus(Message):
    """Ask how the enclave stands."""


class EnclaveStatus(Message):
    """How the enclave stands, nothing secret.

    ``epochs`` are those whose keys are held and that act or have acted;
    ``staged`` is one that is held for later. ``missing`` are acting ones that
    are not held: they are to be requested. ``rotation_due`` is the epoch that
    L1 wants staged or held next. ``shadow`` says how much of the copy's records is
    migrated ahead, in percent; ``None``: there is nothing to migrate ahead.
    """

    shard: ShardId
    signing_key: AccountId
    head: Height
    state_height: Height | None
    root: StateRoot | None
    epochs: tuple[Epoch, ...]
    shielding_key: bytes | None
    generation: Generation | None
    waiting: int
    accounts_bytes: int
    halted: str = ""
    staged: Epoch | None = None
    missing: tuple[Epoch, ...] = ()
    rotation_due: Epoch | None = None
    shadow: int | None = None


class DumpRa(Message):
    """Ask for a fresh RA-TLS certificate, for people to look at."""


class RaDump(Message):
    """A self-signed certificate with a quote in it (DER)."""

    certificate: bytes


class Ask(Message):
    """A sealed getter (:class:`sealift.protocol.Envelope`, encoded)."""

    envelope: bytes


class Answer(Message):
    """The sealed :class:`sealift.protocol.GetterReply`."""

    sealed: bytes


# --- provisioning ---


class OpenSession(Message):
    """Open one end of a mu-ra session.

    ``operator`` is the account that will bring a requester's registration to L1.
    """

    role: Literal["provider", "requester"]
    operator: AccountId | None = None


class FeedSession(Message):
    """Bytes that came from the other end, in order."""

    session: int
    data: tuple[bytes, ...]


class ProveSession(Message):
    """Proofs against the app hash of header ``height`` + 1 (the relay's head).

    What a session wants is in :class:`SessionReply`: the other end's record,
    the shard's schedule, record, frontier and keys, collateral.
    """

    session: int
    height: Height
    proofs: tuple[StateProof, ...]


class CloseSession(Message):
    """The connection is gone."""

    session: int


class SessionReply(Message):
    """What the host has to do next for a session.

    ``send`` goes to the other end. ``registration`` goes to L1, and what is
    ``wanted`` (state keys) is then proven by :class:`ProveSession`.
    ``key_store`` is made durable at once. ``error`` (a name and a sentence) or
    ``done`` end the session.
    """

    session: int
    send: tuple[bytes, ...] = ()
    wanted: tuple[bytes, ...] = ()
    registration: Registration | None = None
    key_store: bytes | None = None
    done: bool = False
    error: tuple[str, str] | None = None


# --- audit by replay; the rest is in :mod:`sealift.protocol.audit` ---


class AuditPresent(Message):
    """What L1 says now, for an auditor that has drawn its challenge.

    ``path`` are light blocks from the relay's head to *h* and *h*+1, ``txs`` those
    of *h*, of which one holds the challenge; ``proofs`` (schedule, frontier, first
    keys) are against the state after *h*. Since version 2 of the table.
    """

    path: tuple[bytes, ...]
    txs: tuple[bytes, ...]
    proofs: tuple[StateProof, ...]


class AuditAdmit(Message):
    """Let an auditee in: its quote, and its platform's collateral.

    ``proofs`` are against the state that the present is of. Since version 2.
    """

    statement: audit.AuditStatement
    quote: bytes
    proofs: tuple[StateProof, ...]


class Refused(Message):
    """A typed refusal; the enclave goes on."""

    code: str
    message: str


Request = (
    Hello
    | Start
    | Genesis
    | SnapshotBegin
    | SnapshotGet
    | SnapshotChunk
    | SnapshotCheck
    | SnapshotCheckChunk
    | SnapshotDrop
    | DiffApply
    | ImportBlock
    | SkipTo
    | ShowConflict
    | GetEvidence
    | Execute
    | Rehearse
    | Confirm
    | SpeakEffects
    | Register
    | BornKeys
    | StageKeys
    | HoldKeys
    | GetStatus
    | DumpRa
    | Ask
    | OpenSession
    | FeedSession
    | ProveSession
    | CloseSession
    | AuditPresent
    | AuditAdmit
    | audit.AuditRequest
)

Reply = (
    HelloReply
    | Started
    | StateReply
    | SnapshotHeader
    | SnapshotChunk
    | SnapshotChecked
    | Followed
    | ChainEvidence
    | Executed
    | Idle
    | Rehearsed
    | Confirmed
    | EffectsSpoken
    | Registration
    | KeysPublished
    | KeysStaged
    | KeysHeld
    | EnclaveStatus
    | RaDump
    | Answer
    | SessionReply
    | audit.AuditReply
    | Refused
)

#: Which replies a request may get, beside :class:`Refused`.
ECALLS: dict[type[Message], tuple[type[Message], ...]] = {
    Hello: (HelloReply,),
    Start: (Started,),
    Genesis: (StateReply,),
    SnapshotBegin: (SnapshotHeader,),
    SnapshotGet: (SnapshotChunk,),
    SnapshotChunk: (StateReply,),
    SnapshotCheck: (SnapshotChecked,),
    SnapshotCheckChunk: (SnapshotChecked,),
    SnapshotDrop: (StateReply,),
    DiffApply: (StateReply,),
    ImportBlock: (Followed,),
    SkipTo: (Followed,),
    ShowConflict: (ChainEvidence,),
    GetEvidence: (ChainEvidence,),
    Execute: (Executed, Idle),
    Rehearse: (Rehearsed, Idle),
    Confirm: (Confirmed,),
    SpeakEffects: (EffectsSpoken,),
    Register: (Registration,),
    BornKeys: (KeysPublished,),
    StageKeys: (KeysStaged,),
    HoldKeys: (KeysHeld,),
    GetStatus: (EnclaveStatus,),
    DumpRa: (RaDump,),
    Ask: (Answer,),
    OpenSession: (SessionReply,),
    FeedSession: (SessionReply,),
    ProveSession: (SessionReply,),
    CloseSession: (SessionReply,),
    AuditPresent: (audit.AuditStands,),
    AuditAdmit: (audit.AuditSealed,),
    **audit.AUDIT_ECALLS,
}
