"""What each RPC method answers: a message and its JSON shape (CometBFT v0.38)."""

from typing import Final

from sealift.base import ChainId, Height, Message
from sealift.relay._merkle import TxProof
from sealift.relay._types import (
    Block,
    BlockId,
    ConsensusParams,
    Header,
    SignedHeader,
    Timestamp,
    TxResult,
    ValidatorSet,
)

from ._chain import (
    BLOCK,
    BLOCK_ID,
    CHAIN_ID,
    CONSENSUS_PARAMS,
    GENESIS_DOC,
    HEADER,
    MERKLE_PROOF,
    PUBLIC_KEY,
    SIGNED_HEADER,
    TX_HASH,
    VALIDATOR_SET,
)
from ._shapes import (
    ADDRESS,
    BASE64,
    BASE64_NULL,
    FLAG,
    HASH,
    HEX,
    INT64,
    NOT_NEGATIVE,
    TEXT,
    TIME,
    UINT32,
    UINT64,
    inside,
    key,
    many,
    mapping,
    record,
)


class EventAttribute(Message, kw_only=True):
    """One key and value of an event."""

    key: str
    value: str = ""
    index: bool = False


class Event(Message, kw_only=True):
    """What a transaction or block emitted; not covered by any hash."""

    kind: str
    attributes: tuple[EventAttribute, ...] = ()


class ExecTxResult(Message, kw_only=True):
    """A transaction's result, with the parts that no hash covers."""

    code: int = 0
    data: bytes = b""
    log: str = ""
    info: str = ""
    gas_wanted: int = 0
    gas_used: int = 0
    events: tuple[Event, ...] = ()
    codespace: str = ""

    def committed(self) -> TxResult:
        """The part that ``last_results_hash`` covers."""
        return TxResult(
            code=self.code,
            data=self.data,
            gas_wanted=self.gas_wanted,
            gas_used=self.gas_used,
        )


class ProtocolVersions(Message, kw_only=True):
    """Versions that a node speaks."""

    p2p: int = 8
    block: int = 11
    app: int = 0


class NodeInfo(Message, kw_only=True):
    """Who the node says it is."""

    protocol_version: ProtocolVersions = ProtocolVersions()
    id: str = ""
    listen_addr: str = ""
    network: ChainId
    version: str
    channels: str = ""
    moniker: str = ""
    other: tuple[tuple[str, str], ...] = ()


class SyncInfo(Message, kw_only=True):
    """How far the node is."""

    latest_block_hash: bytes
    latest_app_hash: bytes
    latest_block_height: Height
    latest_block_time: Timestamp
    earliest_block_hash: bytes
    earliest_app_hash: bytes
    earliest_block_height: Height
    earliest_block_time: Timestamp
    catching_up: bool


class ValidatorInfo(Message, kw_only=True):
    """The node's own validator key."""

    address: bytes
    public_key: bytes
    voting_power: int


class StatusResult(Message, kw_only=True):
    """``/status``."""

    node_info: NodeInfo
    sync_info: SyncInfo
    validator_info: ValidatorInfo


class BlockResult(Message, kw_only=True):
    """``/block``, ``/block_by_hash``."""

    block_id: BlockId
    block: Block


class BlockMeta(Message, kw_only=True):
    """One entry of ``/blockchain``."""

    block_id: BlockId
    block_size: int
    header: Header
    num_txs: int


class BlockchainResult(Message, kw_only=True):
    """``/blockchain``: metas from the highest down."""

    last_height: Height
    block_metas: tuple[BlockMeta, ...]


class BlockSearchResult(Message, kw_only=True):
    """``/block_search``."""

    blocks: tuple[BlockResult, ...]
    total_count: int


class BlockResults(Message, kw_only=True):
    """``/block_results``."""

    height: Height
    txs_results: tuple[ExecTxResult, ...] = ()
    finalize_block_events: tuple[Event, ...] = ()
    app_hash: bytes = b""


class CommitResult(Message, kw_only=True):
    """``/commit``; not canonical means: seen, and may still change."""

    signed_header: SignedHeader
    canonical: bool


class ValidatorsResult(Message, kw_only=True):
    """``/validators``: one page (at most 100)."""

    block_height: Height
    validators: ValidatorSet
    count: int
    total: int


class ProofOp(Message, kw_only=True):
    """One step of an ABCI proof."""

    kind: str
    key: bytes = b""
    data: bytes = b""


class AbciQueryResult(Message, kw_only=True):
    """``/abci_query``."""

    code: int = 0
    log: str = ""
    info: str = ""
    index: int = 0
    key: bytes = b""
    value: bytes = b""
    proof_ops: tuple[ProofOp, ...] | None = None
    height: Height = Height(0)
    codespace: str = ""


class AbciInfoResult(Message, kw_only=True):
    """``/abci_info``."""

    data: str = ""
    version: str = ""
    app_version: int = 0
    last_block_height: Height = Height(0)
    last_block_app_hash: bytes = b""


class BroadcastResult(Message, kw_only=True):
    """``/broadcast_tx_sync`` and ``_async``: what CheckTx said."""

    code: int
    data: bytes = b""
    log: str = ""
    codespace: str = ""
    hash: bytes


class BroadcastCommitResult(Message, kw_only=True):
    """``/broadcast_tx_commit``."""

    check_tx: ExecTxResult
    tx_result: ExecTxResult
    hash: bytes
    height: Height


class ConsensusParamsResult(Message, kw_only=True):
    """``/consensus_params``."""

    block_height: Height
    consensus_params: ConsensusParams


class TxFound(Message, kw_only=True):
    """``/tx`` and each entry of ``/tx_search``."""

    hash: bytes
    height: Height
    index: int
    tx_result: ExecTxResult
    tx: bytes
    proof: TxProof | None = None


class TxSearchResult(Message, kw_only=True):
    """``/tx_search``."""

    txs: tuple[TxFound, ...]
    total_count: int


class FinalizeBlockResult(Message, kw_only=True):
    """What the application answered to a block, inside a NewBlock event."""

    events: tuple[Event, ...] = ()
    tx_results: tuple[ExecTxResult, ...] = ()
    app_hash: bytes = b""


_EVENT = record(
    Event,
    key("type", TEXT, to="kind", default=""),
    key(
        "attributes",
        many(
            record(
                EventAttribute,
                key("key", TEXT, default=""),
                key("value", TEXT, default=""),
                key("index", FLAG, default=False),
            )
        ),
        default=(),
    ),
)
EXEC_TX_RESULT: Final = record(
    ExecTxResult,
    key("code", UINT32, default=0),
    key("data", BASE64_NULL, default=b""),
    key("log", TEXT, default=""),
    key("info", TEXT, default=""),
    key("gas_wanted", INT64, default=0),
    key("gas_used", INT64, default=0),
    key("events", many(_EVENT), default=()),
    key("codespace", TEXT, default=""),
)
_TX_PROOF = record(
    TxProof,
    key("root_hash", HASH),
    key("data", BASE64),
    key("proof", MERKLE_PROOF),
)
STATUS: Final = record(
    StatusResult,
    key(
        "node_info",
        record(
            NodeInfo,
            key(
                "protocol_version",
                record(
                    ProtocolVersions,
                    key("p2p", UINT64),
                    key("block", UINT64),
                    key("app", UINT64),
                ),
            ),
            key("id", TEXT),
            key("listen_addr", TEXT),
            key("network", CHAIN_ID),
            key("version", TEXT),
            key("channels", TEXT),
            key("moniker", TEXT),
            key("other", mapping(TEXT), default=()),
        ),
    ),
    key(
        "sync_info",
        record(
            SyncInfo,
            key("latest_block_hash", HASH),
            key("latest_app_hash", HEX),
            key("latest_block_height", NOT_NEGATIVE),
            key("latest_block_time", TIME),
            key("earliest_block_hash", HASH),
            key("earliest_app_hash", HEX),
            key("earliest_block_height", NOT_NEGATIVE),
            key("earliest_block_time", TIME),
            key("catching_up", FLAG),
        ),
    ),
    key(
        "validator_info",
        record(
            ValidatorInfo,
            key("address", ADDRESS),
            key("pub_key", PUBLIC_KEY, to="public_key"),
            key("voting_power", NOT_NEGATIVE),
        ),
    ),
)
BLOCK_RESULT: Final = record(
    BlockResult, key("block_id", BLOCK_ID), key("block", BLOCK)
)
BLOCKCHAIN: Final = record(
    BlockchainResult,
    key("last_height", NOT_NEGATIVE),
    key(
        "block_metas",
        many(
            record(
                BlockMeta,
                key("block_id", BLOCK_ID),
                key("block_size", NOT_NEGATIVE),
                key("header", HEADER),
                key("num_txs", NOT_NEGATIVE),
            )
        ),
    ),
)
BLOCK_SEARCH: Final = record(
    BlockSearchResult,
    key("blocks", many(BLOCK_RESULT), default=()),
    key("total_count", NOT_NEGATIVE),
)
BLOCK_RESULTS: Final = record(
    BlockResults,
    key("height", NOT_NEGATIVE),
    key("txs_results", many(EXEC_TX_RESULT), default=()),
    key("finalize_block_events", many(_EVENT), default=()),
    key("app_hash", BASE64_NULL, default=b""),
)
COMMIT_RESULT: Final = record(
    CommitResult, key("signed_header", SIGNED_HEADER), key("canonical", FLAG)
)
VALIDATORS: Final = record(
    ValidatorsResult,
    key("block_height", NOT_NEGATIVE),
    key("validators", VALIDATOR_SET),
    key("count", NOT_NEGATIVE),
    key("total", NOT_NEGATIVE),
)
GENESIS: Final = inside("genesis", GENESIS_DOC)
ABCI_QUERY: Final = inside(
    "response",
    record(
        AbciQueryResult,
        key("code", UINT32, default=0),
        key("log", TEXT, default=""),
        key("info", TEXT, default=""),
        key("index", INT64, default=0),
        key("key", BASE64_NULL, default=b""),
        key("value", BASE64_NULL, default=b""),
        key(
            "proofOps",
            inside(
                "ops",
                many(
                    record(
                        ProofOp,
                        key("type", TEXT, to="kind"),
                        key("key", BASE64_NULL, default=b""),
                        key("data", BASE64_NULL, default=b""),
                    )
                ),
                empty=(),
            ),
            to="proof_ops",
            default=None,
        ),
        key("height", INT64, default=0),
        key("codespace", TEXT, default=""),
    ),
)
ABCI_INFO: Final = inside(
    "response",
    record(
        AbciInfoResult,
        key("data", TEXT, default="", omit=True),
        key("version", TEXT, default="", omit=True),
        key("app_version", UINT64, default=0, omit=True),
        key("last_block_height", NOT_NEGATIVE, default=0, omit=True),
        key("last_block_app_hash", BASE64, default=b"", omit=True),
    ),
)
BROADCAST: Final = record(
    BroadcastResult,
    key("code", UINT32),
    key("data", HEX, default=b""),
    key("log", TEXT, default=""),
    key("codespace", TEXT, default=""),
    key("hash", TX_HASH),
)
BROADCAST_COMMIT: Final = record(
    BroadcastCommitResult,
    key("check_tx", EXEC_TX_RESULT),
    key("tx_result", EXEC_TX_RESULT),
    key("hash", TX_HASH),
    key("height", NOT_NEGATIVE),
)
CONSENSUS_PARAMS_RESULT: Final = record(
    ConsensusParamsResult,
    key("block_height", NOT_NEGATIVE),
    key("consensus_params", CONSENSUS_PARAMS),
)
TX: Final = record(
    TxFound,
    key("hash", TX_HASH),
    key("height", NOT_NEGATIVE),
    key("index", UINT32),
    key("tx_result", EXEC_TX_RESULT),
    key("tx", BASE64),
    key("proof", _TX_PROOF, default=None, omit=True),
)
TX_SEARCH: Final = record(
    TxSearchResult,
    key("txs", many(TX), default=()),
    key("total_count", NOT_NEGATIVE),
)
FINALIZE_BLOCK: Final = record(
    FinalizeBlockResult,
    key("events", many(_EVENT), default=()),
    key("tx_results", many(EXEC_TX_RESULT), default=()),
    key("app_hash", BASE64_NULL, default=b""),
)
