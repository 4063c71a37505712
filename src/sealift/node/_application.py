"""What an L1 engine drives: the state machine behind the blocks.

The embedded engine calls it directly; an ABCI server can wrap it, one method
for one message: ``InitChain``, ``CheckTx``, ``FinalizeBlock``, ``Commit``.
``Query`` needs no method: the engine keeps the history of the state itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sealift.base import Height, InvariantError
from sealift.frame import Changes
from sealift.ledger import EngineReport
from sealift.relay import Timestamp, Validator, ValidatorSet
from sealift.relay.rpc import Event, ExecTxResult, GenesisDoc

from ._errors import ChainCorruptError


class BlockOutcome(Protocol):
    """What executing one block yields; the ledger's ``FinalizedBlock`` fits.

    Attributes:
        results: One for each transaction, in block order.
        app_hash: Root of the state after the block; stands in the next header.
        changes: Entries of the state that the block wrote or deleted.
        events: What the block itself emitted, outside of its transactions.
        validator_updates: New powers from the block after the next on; 0 removes.
    """

    @property
    def results(self) -> Sequence[ExecTxResult]: ...
    @property
    def app_hash(self) -> bytes: ...
    @property
    def changes(self) -> Changes: ...
    @property
    def events(self) -> Sequence[Event]: ...
    @property
    def validator_updates(self) -> Sequence[Validator]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedBlock:
    """A plain :class:`BlockOutcome`."""

    results: tuple[ExecTxResult, ...] = ()
    app_hash: bytes
    changes: Changes
    events: tuple[Event, ...] = ()
    validator_updates: tuple[Validator, ...] = ()


class Application(Protocol):
    """A deterministic state machine whose commitment is the simple tree.

    Law: the root of :class:`sealift.frame.SimpleTreeStore` over all changes so
    far is the app hash; nothing but the arguments reaches results or state;
    ``finalize_block`` leaves what ``check_tx`` and a second ``finalize_block``
    see untouched until ``commit``.
    """

    @property
    def max_block_gas(self) -> int:
        """Most gas that a block's transactions may want together; -1: any.

        An engine proposes no block above it, whatever else the genesis allows.
        Asked only once there is a state.
        """
        ...

    @property
    def next_validators(self) -> ValidatorSet | None:
        """Who orders the block after the next, as of the last committed state.

        ``None``: the application has nothing to say, the genesis's stay for ever.
        """
        ...

    @property
    def fixed_validators(self) -> bool:
        """Whether the genesis says that the validators never change."""
        ...

    def init_chain(self, genesis: GenesisDoc) -> BlockOutcome:
        """Write the first state from ``genesis.app_state``; commits at once.

        Raises:
            SealiftError: The application does not accept this genesis.
        """
        ...

    def load(
        self, entries: Iterable[tuple[bytes, bytes]], *, genesis: GenesisDoc
    ) -> bytes:
        """Take over a stored state, all of it; return its app hash."""
        ...

    def check_tx(self, tx: bytes, *, recheck: bool) -> ExecTxResult:
        """Judge a transaction for the mempool; never raises for bad bytes.

        Verdicts may build on those given since the last commit (nonces); a
        commit forgets them, and what still waits is rechecked in order.

        Args:
            tx: Any bytes.
            recheck: Whether this one was accepted before, so that what depends
                on the bytes alone need not be verified again.
        """
        ...

    def prepare_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> Sequence[bytes]:
        """Of the transactions that wait, those that the next block can include.

        Law: what comes out, :meth:`require_proposal` of every application with the
        same committed state returns for, under limits that are not lower.

        Args:
            txs: Any bytes, oldest first.
            max_bytes: Most bytes of all, each with its frame in CometBFT's block.
            max_gas: Most gas that they want together; -1: any.
        """
        ...

    def require_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> None:
        """Return if a block of these can follow the last committed one.

        Deterministic: nothing but the committed state and the arguments counts.

        Raises:
            ProposalRefusedError: It cannot.
        """
        ...

    def finalize_block(
        self,
        *,
        height: Height,
        block_hash: bytes,
        time: Timestamp,
        proposer: bytes,
        txs: Sequence[bytes],
        report: EngineReport,
    ) -> BlockOutcome:
        """Execute a block; a bad transaction is a failed result, never an error.

        Args:
            height: The block's height.
            block_hash: Hash of its header.
            time: Its header's time.
            proposer: Address (20 bytes) of its proposer.
            txs: Its transactions.
            report: What the engine says of the validators; part of the block.
        """
        ...

    def commit(self) -> None:
        """Make the last finalized block's state the current one."""
        ...


def require_all_answered(results: Sequence[object], txs: Sequence[bytes]) -> None:
    """Return if a block's execution has one result for each transaction.

    Raises:
        InvariantError: The application breaks its law.
    """
    if len(results) != len(txs):
        raise InvariantError(
            "application did not answer every transaction",
            got=len(results),
            expected=len(txs),
        )


def require_root(*found: bytes, expected: bytes, height: Height) -> None:
    """Return if a stored state has the root that executing its block gave.

    Args:
        found: Its root, as each of those finds it who took it over.
        expected: What the block gave.
        height: The block.

    Raises:
        ChainCorruptError: Another root.
    """
    for root in found:
        if root != expected:
            raise ChainCorruptError(
                f"stored state is not the one after block {height}",
                got=root,
                expected=expected,
                hint="It is kept as it is",
            )
