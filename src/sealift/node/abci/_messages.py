"""The requests and responses of ABCI 2.0 that the engine reads and writes.

Fields have the names of the protobuf messages; those that nobody here reads
are left out. Source: CometBFT v0.38 ``proto/tendermint/abci/types.proto``.
"""

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

import msgspec

from ._errors import AbciFormatError
from ._proto import parse_choice, render_choice

_Hash: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Height: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Address: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]

#: ``RequestCheckTx.type`` of a transaction that was accepted before.
RECHECK: Final = 1
#: ``ProposalStatus`` and ``VerifyStatus``.
ACCEPT: Final = 1
REJECT: Final = 2
#: ``BlockIDFlag`` of a validator that did not sign.
ABSENT: Final = 1
#: ``Result`` of offered and applied snapshots: stop all restoration.
ABORT: Final = 2


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """Read by name from a protobuf message; constraints are checked."""


class Time(_Request, frozen=True, kw_only=True):
    """A point in time: seconds since 1970 and nanoseconds."""

    seconds: Annotated[int, msgspec.Meta(ge=-62_135_596_800, le=253_402_300_799)]
    nanos: Annotated[int, msgspec.Meta(ge=0, lt=1_000_000_000)]


class Span(_Request, frozen=True, kw_only=True):
    """A length of time."""

    seconds: _NotNegative = 0
    nanos: _NotNegative = 0


class BlockLimits(_Request, frozen=True, kw_only=True):
    """``BlockParams``."""

    max_bytes: int
    max_gas: int


class EvidenceLimits(_Request, frozen=True, kw_only=True):
    """``EvidenceParams``."""

    max_age_num_blocks: int
    max_age_duration: Span = Span()
    max_bytes: int


class ValidatorKinds(_Request, frozen=True, kw_only=True):
    """``ValidatorParams``."""

    pub_key_types: tuple[str, ...]


class AppVersion(_Request, frozen=True, kw_only=True):
    """``VersionParams``."""

    app: _NotNegative = 0


class AbciFeatures(_Request, frozen=True, kw_only=True):
    """``ABCIParams``."""

    vote_extensions_enable_height: _NotNegative = 0


class Params(_Request, frozen=True, kw_only=True):
    """``ConsensusParams``."""

    block: BlockLimits
    evidence: EvidenceLimits
    validator: ValidatorKinds
    version: AppVersion = AppVersion()
    abci: AbciFeatures = AbciFeatures()


class PublicKey(_Request, frozen=True, kw_only=True):
    """One of the key types; others than Ed25519 are refused later, by name."""

    ed25519: bytes | None = None
    secp256k1: bytes | None = None


class ValidatorUpdate(_Request, frozen=True, kw_only=True):
    """A validator and its power."""

    pub_key: PublicKey
    power: _NotNegative


class ValidatorName(_Request, frozen=True, kw_only=True):
    """``Validator``: an address and its power."""

    address: _Address
    power: _NotNegative


class VoteInfo(_Request, frozen=True, kw_only=True):
    """Whether a validator signed: absent, for the block, or for none."""

    validator: ValidatorName
    block_id_flag: Annotated[int, msgspec.Meta(ge=1, le=3)]


class CommitInfo(_Request, frozen=True, kw_only=True):
    """Who signed the block before; empty below the first block."""

    votes: tuple[VoteInfo, ...] = ()


class MisbehaviorInfo(_Request, frozen=True, kw_only=True):
    """``Misbehavior``: evidence that a block carries; 1 voted twice, 2 attacked."""

    type: Annotated[int, msgspec.Meta(ge=0, le=2)]
    validator: ValidatorName
    height: _Height


class EchoRequest(_Request, frozen=True, kw_only=True):
    """Asks for the same text."""

    message: str


class FlushRequest(_Request, frozen=True, kw_only=True):
    """Asks for all answers so far."""


class InfoRequest(_Request, frozen=True, kw_only=True):
    """Asks for the last committed block."""

    version: str
    block_version: int
    abci_version: str


class InitChainRequest(_Request, frozen=True, kw_only=True):
    """The genesis; sent again as long as no block is committed."""

    time: Time
    chain_id: str
    consensus_params: Params
    validators: tuple[ValidatorUpdate, ...]
    app_state_bytes: bytes
    initial_height: int


class QueryRequest(_Request, frozen=True, kw_only=True):
    """Asks for what stands under a key; height 0 means the newest."""

    data: bytes
    path: str
    height: int
    prove: bool


class CheckTxRequest(_Request, frozen=True, kw_only=True):
    """Asks whether the mempool may take a transaction."""

    tx: bytes
    type: int


class CommitRequest(_Request, frozen=True, kw_only=True):
    """Make the finalized block durable."""


class ListSnapshotsRequest(_Request, frozen=True, kw_only=True):
    """State sync: what is there."""


class OfferSnapshotRequest(_Request, frozen=True, kw_only=True):
    """State sync: begin with this one."""


class LoadSnapshotChunkRequest(_Request, frozen=True, kw_only=True):
    """State sync: give a chunk."""


class ApplySnapshotChunkRequest(_Request, frozen=True, kw_only=True):
    """State sync: take a chunk."""


class PrepareProposalRequest(_Request, frozen=True, kw_only=True):
    """What the mempool would put into a block, and how many bytes fit."""

    max_tx_bytes: int
    txs: tuple[bytes, ...]
    height: _Height


class ProcessProposalRequest(_Request, frozen=True, kw_only=True):
    """A validator's proposal; one's own too."""

    txs: tuple[bytes, ...]
    height: _Height


class ExtendVoteRequest(_Request, frozen=True, kw_only=True):
    """Vote extensions are off in every genesis that is accepted."""


class VerifyVoteExtensionRequest(_Request, frozen=True, kw_only=True):
    """Another validator's vote extension."""

    vote_extension: bytes


class FinalizeBlockRequest(_Request, frozen=True, kw_only=True):
    """A decided block."""

    txs: tuple[bytes, ...]
    hash: _Hash
    height: _Height
    time: Time
    proposer_address: _Address
    next_validators_hash: _Hash
    decided_last_commit: CommitInfo = CommitInfo()
    misbehavior: tuple[MisbehaviorInfo, ...] = ()


Request: TypeAlias = (
    EchoRequest
    | FlushRequest
    | InfoRequest
    | InitChainRequest
    | QueryRequest
    | CheckTxRequest
    | CommitRequest
    | ListSnapshotsRequest
    | OfferSnapshotRequest
    | LoadSnapshotChunkRequest
    | ApplySnapshotChunkRequest
    | PrepareProposalRequest
    | ProcessProposalRequest
    | ExtendVoteRequest
    | VerifyVoteExtensionRequest
    | FinalizeBlockRequest
)
_REQUESTS: Final[Mapping[str, type[Request]]] = {
    "echo": EchoRequest,
    "flush": FlushRequest,
    "info": InfoRequest,
    "init_chain": InitChainRequest,
    "query": QueryRequest,
    "check_tx": CheckTxRequest,
    "commit": CommitRequest,
    "list_snapshots": ListSnapshotsRequest,
    "offer_snapshot": OfferSnapshotRequest,
    "load_snapshot_chunk": LoadSnapshotChunkRequest,
    "apply_snapshot_chunk": ApplySnapshotChunkRequest,
    "prepare_proposal": PrepareProposalRequest,
    "process_proposal": ProcessProposalRequest,
    "extend_vote": ExtendVoteRequest,
    "verify_vote_extension": VerifyVoteExtensionRequest,
    "finalize_block": FinalizeBlockRequest,
}


class _Response(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Written by name into a protobuf message."""


class AbciAttribute(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """``EventAttribute``."""

    key: str
    value: str = ""
    index: bool = False


class AbciEvent(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """``Event``."""

    type: str
    attributes: tuple[AbciAttribute, ...] = ()


class AbciTxResult(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """``ExecTxResult``, and ``ResponseCheckTx`` with the same fields."""

    code: int = 0
    data: bytes = b""
    log: str = ""
    info: str = ""
    gas_wanted: int = 0
    gas_used: int = 0
    events: tuple[AbciEvent, ...] = ()
    codespace: str = ""


class AbciPublicKey(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """``PublicKey``, of the one kind that we have."""

    ed25519: bytes


class AbciValidatorUpdate(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """A key's new power; 0 removes it."""

    pub_key: AbciPublicKey
    power: int = 0


class AbciProofOp(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """``ProofOp``."""

    type: str
    key: bytes
    data: bytes


class AbciProofOps(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """``ProofOps``."""

    ops: tuple[AbciProofOp, ...]


class ExceptionResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """A refusal that stops the node."""

    error: str


class EchoResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """The same text."""

    message: str = ""


class FlushResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """All answers so far are out."""


class InfoResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """The last **committed** block; height 0 and no hash if there is none."""

    data: str
    version: str
    app_version: int
    last_block_height: int = 0
    last_block_app_hash: bytes = b""


class InitChainResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """Root of the first state; parameters and validators stay the genesis's."""

    app_hash: bytes


class QueryResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """What stands under a key; ``log`` tells an empty value from none."""

    code: int = 0
    log: str = ""
    key: bytes = b""
    value: bytes = b""
    proof_ops: AbciProofOps | None = None
    height: int = 0
    codespace: str = ""


class CheckTxResponse(AbciTxResult, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict for the mempool."""


class CommitResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """The block is durable; 0 keeps all blocks."""

    retain_height: int = 0


class ListSnapshotsResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """None."""


class OfferSnapshotResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """Whether restoration begins."""

    result: int = 0


class LoadSnapshotChunkResponse(
    _Response, frozen=True, kw_only=True, omit_defaults=True
):
    """No chunk."""


class ApplySnapshotChunkResponse(
    _Response, frozen=True, kw_only=True, omit_defaults=True
):
    """Whether restoration goes on."""

    result: int = 0


class PrepareProposalResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """The transactions of the proposal."""

    txs: tuple[bytes, ...] = ()


class ProcessProposalResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """Whether to vote for it."""

    status: int = 0


class ExtendVoteResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """No extension."""


class VerifyVoteExtensionResponse(
    _Response, frozen=True, kw_only=True, omit_defaults=True
):
    """Whether the vote counts."""

    status: int = 0


class FinalizeBlockResponse(_Response, frozen=True, kw_only=True, omit_defaults=True):
    """What executing the block gave."""

    events: tuple[AbciEvent, ...] = ()
    tx_results: tuple[AbciTxResult, ...] = ()
    validator_updates: tuple[AbciValidatorUpdate, ...] = ()
    app_hash: bytes


Response: TypeAlias = (
    ExceptionResponse
    | EchoResponse
    | FlushResponse
    | InfoResponse
    | InitChainResponse
    | QueryResponse
    | CheckTxResponse
    | CommitResponse
    | ListSnapshotsResponse
    | OfferSnapshotResponse
    | LoadSnapshotChunkResponse
    | ApplySnapshotChunkResponse
    | PrepareProposalResponse
    | ProcessProposalResponse
    | ExtendVoteResponse
    | VerifyVoteExtensionResponse
    | FinalizeBlockResponse
)
_RESPONSES: Final[Mapping[type[Response], str]] = {
    ExceptionResponse: "exception",
    EchoResponse: "echo",
    FlushResponse: "flush",
    InfoResponse: "info",
    InitChainResponse: "init_chain",
    QueryResponse: "query",
    CheckTxResponse: "check_tx",
    CommitResponse: "commit",
    ListSnapshotsResponse: "list_snapshots",
    OfferSnapshotResponse: "offer_snapshot",
    LoadSnapshotChunkResponse: "load_snapshot_chunk",
    ApplySnapshotChunkResponse: "apply_snapshot_chunk",
    PrepareProposalResponse: "prepare_proposal",
    ProcessProposalResponse: "process_proposal",
    ExtendVoteResponse: "extend_vote",
    VerifyVoteExtensionResponse: "verify_vote_extension",
    FinalizeBlockResponse: "finalize_block",
}


def parse_request(data: bytes) -> Request:
    """One message of the socket; total.

    Raises:
        AbciFormatError: Not a request of ABCI 2.0, or a value out of range.
    """
    field, body = parse_choice("Request", data)
    try:
        return msgspec.convert(body, _REQUESTS[field])
    except msgspec.ValidationError as error:
        raise AbciFormatError(f"request {field} is wrong ({error})") from error


def render_response(response: Response) -> bytes:
    """The frame of a response."""
    body: dict[str, object] = msgspec.to_builtins(response, builtin_types=(bytes,))
    return render_choice("Response", _RESPONSES[type(response)], body)
