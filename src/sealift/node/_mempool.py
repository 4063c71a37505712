"""Transactions that wait for a block: first in, first out."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sealift.base import TooLargeError
from sealift.protocol import MAX_TX_BYTES
from sealift.relay import tx_hash
from sealift.relay.rpc import ExecTxResult

from ._application import Application
from ._errors import MempoolFullError, TxAlreadyKnownError

#: Protobuf bytes around a transaction in a block, at most.
TX_FRAME: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class MempoolLimits:
    """How much may wait; CometBFT's defaults.

    Attributes:
        txs: Most transactions.
        total_bytes: Most bytes of them together.
        tx_bytes: Most bytes of one.
        tx_gas: Most gas that one may want; -1 means no limit.
        remembered: How many recently included ones are refused as copies.
    """

    txs: int = 5_000
    total_bytes: int = 64 * 1024 * 1024
    tx_bytes: int = MAX_TX_BYTES
    tx_gas: int = -1
    remembered: int = 10_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    tx: bytes
    gas: int


class Mempool:
    """What the application accepted and no block has taken yet.

    Guarantees the order of arrival, no copy of what waits or was included
    lately, and that whatever the state after a block no longer accepts is
    dropped before the next block is made.

    Args:
        application: Judges each transaction.
        limits: How much may wait.
    """

    def __init__(self, application: Application, limits: MempoolLimits) -> None:
        self._application = application
        self._limits = limits
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self._bytes = 0
        self._included: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def total_bytes(self) -> int:
        """Bytes of everything that waits."""
        return self._bytes

    def first(self, count: int) -> tuple[bytes, ...]:
        """The transactions that come next."""
        return tuple(one.tx for one in islice(self._waiting.values(), count))

    def add(self, tx: bytes) -> ExecTxResult:
        """Let the application judge a transaction; keep it if it is accepted.

        Returns:
            The application's verdict; accepted is code 0.

        Raises:
            TooLargeError: More bytes or gas than one may have: no block could
                ever take it, nor what waits behind it.
            TxAlreadyKnownError: A copy of one that waits or was included.
            MempoolFullError: No room.
        """
        limits = self._limits
        if len(tx) > limits.tx_bytes:
            raise TooLargeError(
                "transaction is too large",
                got=f"{len(tx)} B",
                expected=f"≤ {limits.tx_bytes} B",
            )
        digest = tx_hash(tx)
        if digest in self._waiting or digest in self._included:
            raise TxAlreadyKnownError("tx already exists in cache", got=digest.hex())
        if (
            len(self._waiting) >= limits.txs
            or self._bytes + len(tx) > limits.total_bytes
        ):
            raise MempoolFullError(
                "mempool is full",
                got=f"{len(self._waiting)} transactions, {self._bytes} B",
                expected=f"≤ {limits.txs}, ≤ {limits.total_bytes} B",
                hint="Try again after the next block",
            )
        verdict = self._application.check_tx(tx, recheck=False)
        if verdict.code == 0:
            # v0.38 mempool/mempool.go PostCheckMaxGas.
            if 0 <= limits.tx_gas < verdict.gas_wanted:
                raise TooLargeError(
                    "transaction wants too much gas",
                    got=verdict.gas_wanted,
                    expected=f"≤ {limits.tx_gas}",
                )
            self._waiting[digest] = _Waiting(tx, verdict.gas_wanted)
            self._bytes += len(tx)
        return verdict

    def reap(self, *, max_bytes: int, max_gas: int) -> tuple[bytes, ...]:
        """The transactions for the next block, oldest first; they stay here.

        Args:
            max_bytes: Most bytes, with their protobuf frames.
            max_gas: Most gas that they want together; -1 means no limit.
        """
        taken = []
        room, gas = max_bytes, max_gas
        for one in self._waiting.values():
            room -= len(one.tx) + TX_FRAME
            gas -= one.gas
            if room < 0 or (max_gas >= 0 and gas < 0):
                break
            taken.append(one.tx)
        return tuple(taken)

    def update(self, included: Sequence[bytes]) -> tuple[bytes, ...]:
        """A block was committed: drop what it took and what it made invalid.

        Returns:
            Hashes of the transactions that the new state no longer accepts.
        """
        for tx in included:
            digest = tx_hash(tx)
            self._drop(digest)
            self._included[digest] = None
            self._included.move_to_end(digest)
        while len(self._included) > self._limits.remembered:
            self._included.popitem(last=False)
        ejected = tuple(
            digest
            for digest, one in self._waiting.items()
            if self._application.check_tx(one.tx, recheck=True).code != 0
        )
        for gone in ejected:
            self._drop(gone)
        return ejected

    def _drop(self, digest: bytes) -> None:
        gone = self._waiting.pop(digest, None)
        if gone is not None:
            self._bytes -= len(gone.tx)
