"""The SDK of a shard's users: verify, seal, call, read.

What it returns is proven from the card's trust root on, or sealed by the shard
for this very question; nodes and workers are believed in nothing.
"""

from ._card import (
    CardRoot,
    CardTrustRoot,
    ShardCard,
    make_card,
    parse_card,
    read_card,
    render_card,
    write_card,
)
from ._chain import CLIENT_RULES, ProvenChain, TrustedEnclave
from ._discovery import FoundInstances, KnownInstance, find_instances
from ._errors import (
    CallFailedError,
    CardError,
    ClientError,
    EnclaveNotTrustedError,
    EvidenceExportError,
    NotConfirmedError,
    ReceiptMismatchError,
    ReceiptTimeoutError,
    ReplyContradictedError,
    ShardUnbornError,
    StaleReplyError,
    UnknownShardOnChainError,
    WorkerAnswerError,
    WorkerBusyError,
    WorkerRefusedError,
    WorkerUnreachableError,
)
from ._evidence import ChainSource, NodeSource, Progress, export_evidence
from ._open import open_client
from ._shard import OK, CallResult, Reading, SealedCall, ShardClient
from ._workers import Workers

__all__ = [
    "CLIENT_RULES",
    "OK",
    "CallFailedError",
    "CallResult",
    "CardError",
    "CardRoot",
    "CardTrustRoot",
    "ChainSource",
    "ClientError",
    "EnclaveNotTrustedError",
    "EvidenceExportError",
    "FoundInstances",
    "KnownInstance",
    "NodeSource",
    "NotConfirmedError",
    "Progress",
    "ProvenChain",
    "Reading",
    "ReceiptMismatchError",
    "ReceiptTimeoutError",
    "ReplyContradictedError",
    "SealedCall",
    "ShardCard",
    "ShardClient",
    "ShardUnbornError",
    "StaleReplyError",
    "TrustedEnclave",
    "UnknownShardOnChainError",
    "WorkerAnswerError",
    "WorkerBusyError",
    "WorkerRefusedError",
    "WorkerUnreachableError",
    "Workers",
    "export_evidence",
    "find_instances",
    "make_card",
    "open_client",
    "parse_card",
    "read_card",
    "render_card",
    "write_card",
]
