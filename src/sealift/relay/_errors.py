"""What the relay refuses, one name for each attack."""

from sealift.base import DecodeError, SealiftError

from ._types import ForkEvidence


class MerkleProofError(SealiftError):
    """A Merkle proof that does not prove what it is shown for."""


class RpcFormatError(DecodeError):
    """JSON that is not what this RPC method answers."""


class RpcRemoteError(SealiftError):
    """The node answered with an error instead of a result."""


class UnsupportedKeyError(SealiftError):
    """A validator key that is not Ed25519."""


class HeaderInvalidError(SealiftError):
    """A header that no correct chain makes, whoever signed it."""


class CommitInvalidError(SealiftError):
    """A commit that does not fit its header, its set or its own rules."""


class ValidatorSetInvalidError(SealiftError):
    """A validator set that no correct chain has: empty, doubled or too heavy."""


class ValidatorSetMismatchError(SealiftError):
    """Validators that are not those the header, or trust, names."""


class ChainIdMismatchError(SealiftError):
    """A header of another chain."""


class TrustRootMismatchError(SealiftError):
    """A block that is not the one the trust root names."""


class HeightError(SealiftError):
    """A header that does not stand at the height that is wanted."""


class TimeNotMonotonicError(SealiftError):
    """A header that is not later than the one it follows."""


class HeaderFromFutureError(SealiftError):
    """A header whose time lies beyond now and the allowed drift."""


class TrustExpiredError(SealiftError):
    """More than the trusting period lies between what is trusted and what is new."""


class NotEnoughPowerError(SealiftError):
    """No more than two thirds of the set's power signed."""


class NotEnoughTrustError(SealiftError):
    """Too little of the trusted set signed to skip; bring a header between."""


class BisectionLimitError(SealiftError):
    """More headers between were tried than the caller allows."""


class DoubleVoteError(SealiftError):
    """One validator stands twice in a commit."""


class HeaderNotKeptError(SealiftError):
    """A height whose verified header is not kept (skipped, old or not yet)."""


class CheckpointInvalidError(SealiftError):
    """A checkpoint that contradicts itself, or the trust root, or the chain."""


class TxsMismatchError(SealiftError):
    """Transactions that are not exactly those of the block."""


class ResultsMismatchError(SealiftError):
    """Results that are not exactly those of the block."""


class ForkDetectedError(SealiftError):
    """Two headers, both signed by the validators: nothing is verified any more.

    Args:
        evidence: Both of them.
    """

    def __init__(self, *, evidence: ForkEvidence) -> None:
        self.evidence = evidence
        super().__init__(
            "the chain has forked",
            got=f"a signed block at height {evidence.conflicting.header.height} that "
            f"contradicts the trusted one at {evidence.trusted.height}",
            expected="one chain",
            hint="Both headers are kept as evidence; the relay has stopped.",
        )
