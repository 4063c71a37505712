"""What the relay refuses, one name for each attack."""

from sealift.base import DecodeError, SealiftError


class MerkleProofError(SealiftError):
    """A Merkle proof that does not prove what it is shown for."""


class RpcFormatError(DecodeError):
    """JSON that is not what this RPC method answers."""


class RpcRemoteError(SealiftError):
    """The node answered with an error instead of a result."""


class UnsupportedKeyError(SealiftError):
    """A validator key that is not Ed25519."""
