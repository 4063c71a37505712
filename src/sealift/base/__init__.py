"""Identifiers, the canonical codec, frames of bytes and the error root.

Everything above stands on this floor; it knows nothing of enclaves or chains.
"""

from ._codec import (
    MAX_MESSAGE_BYTES,
    Message,
    canonical_decode,
    decode,
    encode,
    parse_hex,
)
from ._errors import (
    DecodeError,
    InvariantError,
    NonCanonicalError,
    SealiftError,
    TooLargeError,
)
from ._frames import FrameReader, frame
from ._ids import (
    AccountId,
    Amount,
    Bytes32,
    CallId,
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    MrSigner,
    Nonce,
    PlatformId,
    ShardId,
    StateRoot,
    UnixSeconds,
    short,
)

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AccountId",
    "Amount",
    "Bytes32",
    "CallId",
    "ChainId",
    "DecodeError",
    "Digest",
    "Epoch",
    "Fingerprint",
    "FrameReader",
    "Generation",
    "Height",
    "InvariantError",
    "Message",
    "MrSigner",
    "NonCanonicalError",
    "Nonce",
    "PlatformId",
    "SealiftError",
    "ShardId",
    "StateRoot",
    "TooLargeError",
    "UnixSeconds",
    "canonical_decode",
    "decode",
    "encode",
    "frame",
    "parse_hex",
    "short",
]
