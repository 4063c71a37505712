"""A proposal on the way: how full it is, and what its transactions promise."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from sealift.base import AccountId
from sealift.frame import UnknownCallError

from ._errors import BlockFullError, ProposalRefusedError, TransactionError

_VARINT_STEP: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A transaction that may follow those before it.

    Attributes:
        signer: Who signed it.
        nonce: The account's next one, after it.
        fees: What the account owes for it and for those before it.
        weight: What it may weigh.
    """

    signer: AccountId
    nonce: int
    fees: int
    weight: int


class Draft:
    """The transactions of a block that is not decided yet.

    Args:
        max_bytes: Most bytes of all, as :func:`size_in_block` counts.
        max_weight: Most weight of all.
    """

    def __init__(self, *, max_bytes: int, max_weight: int) -> None:
        self._max_bytes = max_bytes
        self._max_weight = max_weight
        self._bytes = 0
        self._weight = 0
        self._taken: list[bytes] = []
        self._promised: dict[AccountId, Judged] = {}

    @property
    def taken(self) -> tuple[bytes, ...]:
        """The transactions so far."""
        return tuple(self._taken)

    @property
    def promised(self) -> Mapping[AccountId, Judged]:
        """The last transaction of each account."""
        return self._promised

    def fits(self, tx: bytes, judged: Judged, *, alone: bool = False) -> bool:
        """Whether there is room for one more, or ``alone``: in an empty block."""
        taken, weight = (0, 0) if alone else (self._bytes, self._weight)
        return (
            taken + size_in_block(tx) <= self._max_bytes
            and weight + judged.weight <= self._max_weight
        )

    def add(self, tx: bytes, judged: Judged) -> None:
        """Take it.

        Raises:
            BlockFullError: No room.
        """
        if not self.fits(tx, judged):
            raise BlockFullError(
                "block has no room left for this transaction",
                got=f"{len(tx)} B, weight {judged.weight}",
                expected=f"≤ {self._max_bytes - self._bytes} B, "
                f"≤ {self._max_weight - self._weight}",
            )
        self._bytes += size_in_block(tx)
        self._weight += judged.weight
        self._taken.append(tx)
        self._promised[judged.signer] = judged


#: Judges a transaction after what its accounts promised before it; raises
#: :class:`TransactionError` or ``UnknownCallError``.
Judge: TypeAlias = Callable[[bytes, Mapping[AccountId, Judged]], Judged]


def fill(draft: Draft, txs: Iterable[bytes], judge: Judge) -> tuple[bytes, ...]:
    """Of the transactions that wait, those that the next block can include.

    In their order: what :func:`require_all` refuses is left out, and the first
    that only a later block has room for ends it, so that nothing small overtakes
    it for ever. What not even an empty block has room for is left out.

    Args:
        draft: Empty.
        txs: Any bytes, oldest first.
        judge: By the committed state.
    """
    for tx in txs:
        try:
            judged = judge(tx, draft.promised)
        except (TransactionError, UnknownCallError):
            continue
        if draft.fits(tx, judged):
            draft.add(tx, judged)
        elif draft.fits(tx, judged, alone=True):
            break
    return draft.taken


def require_all(draft: Draft, txs: Iterable[bytes], judge: Judge) -> None:
    """Return if a block of these can follow the last committed one.

    A function of the committed state and of the bytes alone: every node says the
    same, and accepts what :func:`fill` gave at another one. In order, each
    transaction 1. has size, encoding, chain id and signature as in a block, 2. is
    valid for this block, 3. has its account's next nonce, after those before it,
    4. its fee can be paid beside theirs, from what the account has before the
    block, 5. its call exists, 6. the block has room for its bytes and its weight.
    What the call comes to is not asked: it may fail, and pays.

    Raises:
        ProposalRefusedError: One of them cannot be included, and why.
    """
    for place, tx in enumerate(txs):
        try:
            draft.add(tx, judge(tx, draft.promised))
        except (TransactionError, UnknownCallError) as error:
            raise ProposalRefusedError(
                f"transaction {place} of the proposal: {error.code}", got=str(error)
            ) from error


def size_in_block(tx: bytes) -> int:
    """Bytes of a transaction in the block's protobuf: tag, length, itself."""
    return 1 + max(1, -(-len(tx).bit_length() // _VARINT_STEP)) + len(tx)
