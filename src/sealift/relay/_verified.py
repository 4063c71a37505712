"""What verification yields. Only this package can make these values."""

from dataclasses import dataclass, field
from typing import Final

from sealift.base import ChainId, Digest, Height, InvariantError

from ._types import Header, Timestamp, TxResult

#: Whoever holds it may make verified values: the verifiers of this package.
SEAL: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Refuses to be made without the seal.

    Raises:
        InvariantError: Made outside verification.
    """

    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not SEAL:
            raise InvariantError(f"{type(self).__name__} comes from verification only")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHeader(Sealed):
    """A header that more than two thirds of its validators decided on."""

    header: Header
    hash: Digest

    @property
    def chain_id(self) -> ChainId:
        """The chain."""
        return self.header.chain_id

    @property
    def height(self) -> Height:
        """The height."""
        return self.header.height

    @property
    def time(self) -> Timestamp:
        """The block's time."""
        return self.header.time


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedTxs(Sealed):
    """All transactions of a block, in order."""

    height: Height
    txs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedResults(Sealed):
    """All results of the block at ``height``, in order."""

    height: Height
    results: tuple[TxResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBlock(Sealed):
    """A block's transactions with their results, one to one (DESIGN §10.1-2).

    ``next_header`` is the one that commits to the results and to the state
    after the block.
    """

    header: VerifiedHeader
    next_header: VerifiedHeader
    txs: tuple[tuple[bytes, TxResult], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedState(Sealed):
    """What stood under ``key`` after block ``height``; ``None``: nothing."""

    height: Height
    key: bytes
    value: bytes | None
