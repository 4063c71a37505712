"""The ledger as the application of an engine."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from sealift.base import Digest, Height, InvariantError, UnixSeconds
from sealift.frame import EmittedEvent, SimpleTreeStore
from sealift.ledger import (
    NO_REPORT,
    RUNTIME_VERSIONS,
    EngineReport,
    Ledger,
    LedgerGenesis,
    LedgerGenesisError,
    LedgerParams,
    LedgerTxResult,
    QuoteVerifier,
    RuntimeVersion,
    parse_genesis,
)
from sealift.relay import BlockParams, ConsensusParams, Timestamp, ValidatorSet
from sealift.relay.rpc import Event, EventAttribute, ExecTxResult, GenesisDoc

from ._application import ExecutedBlock
from ._errors import ForeignChainError
from ._plan_watch import PlanWatch

_log = logging.getLogger(__name__)


class LedgerApplication:
    """Drives a :class:`sealift.ledger.Ledger`; made without state.

    The ledger's genesis is the ``app_state`` of CometBFT's
    (:func:`sealift.ledger.render_genesis`); block time reaches it in seconds.

    A planned version of the L1 runtime that this program does not have is told
    loudly, the more often the nearer it is; at its height the ledger stands still.

    Args:
        verifier: Judges quotes and collateral.
        versions: The versions of the L1 runtime that this program has.
    """

    def __init__(
        self,
        verifier: QuoteVerifier,
        versions: Mapping[int, RuntimeVersion] = RUNTIME_VERSIONS,
    ) -> None:
        self._verifier = verifier
        self._versions = versions
        self._watch = PlanWatch(_log)
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The ledger, once there is a state.

        Raises:
            InvariantError: Neither ``init_chain`` nor ``load`` came before.
        """
        if self._ledger is None:
            raise InvariantError("the ledger has no state yet")
        return self._ledger

    @property
    def max_block_gas(self) -> int:
        """What a block of this ledger may weigh."""
        return self.ledger.genesis.params.max_block_weight

    @property
    def next_validators(self) -> ValidatorSet:
        """Who orders the block after the next, as the ledger's state says."""
        return self.ledger.next_validators

    @property
    def fixed_validators(self) -> bool:
        """Whether the validators of this ledger never change."""
        return not self.ledger.genesis.params.max_validators

    def init_chain(self, genesis: GenesisDoc) -> ExecutedBlock:
        """Write the first state.

        Raises:
            LedgerGenesisError: ``app_state`` is no ledger's genesis, or the chain
                begins at a time that the ledger cannot count.
            ForeignChainError: It is another chain's.
        """
        if genesis.genesis_time.seconds < 0:
            raise LedgerGenesisError(
                "the genesis lies before 1970",
                got=genesis.genesis_time.seconds,
                expected="≥ 0 seconds since then",
            )
        store = SimpleTreeStore()
        ledger = self._make(genesis, store)
        root = ledger.init_chain(genesis.validators)
        self._ledger = ledger
        return ExecutedBlock(app_hash=root, changes=dict(store.items(b"")))

    def load(
        self, entries: Iterable[tuple[bytes, bytes]], *, genesis: GenesisDoc
    ) -> bytes:
        """Take over a stored state; return its app hash.

        Raises:
            LedgerGenesisError: It came from another genesis.
            ForeignChainError: The genesis is another chain's.
            UnknownRuntimeVersionError: The state belongs to a version of the L1
                runtime that this program does not have.
        """
        store = SimpleTreeStore()
        store.apply(dict(entries))
        self._ledger = self._make(genesis, store)
        self._watch.look(self._ledger)
        return self._ledger.app_hash

    def check_tx(self, tx: bytes, *, recheck: bool) -> ExecTxResult:
        """Judge a transaction for the mempool."""
        del recheck  # the ledger knows which signatures it has verified
        verdict = self.ledger.check_tx(tx)
        return ExecTxResult(
            code=verdict.code,
            log=verdict.log,
            codespace=verdict.codespace,
            gas_wanted=verdict.gas_wanted,
        )

    def prepare_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> tuple[bytes, ...]:
        """Of the transactions that wait, those that the next block can include."""
        return self.ledger.prepare_proposal(
            txs, max_bytes=max_bytes, max_gas=self._gas(max_gas)
        )

    def require_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> None:
        """Return if a block of these can follow the last committed one.

        Raises:
            ProposalRefusedError: It cannot.
        """
        self.ledger.require_proposal(
            txs, max_bytes=max_bytes, max_gas=self._gas(max_gas)
        )

    def finalize_block(
        self,
        *,
        height: Height,
        block_hash: bytes,
        time: Timestamp,
        proposer: bytes,
        txs: Sequence[bytes],
        report: EngineReport = NO_REPORT,
    ) -> ExecutedBlock:
        """Execute a block.

        Raises:
            LedgerHeightError: Not the next height.
            UnknownRuntimeVersionError: Another program must execute it.
        """
        done = self.ledger.finalize_block(
            height=height,
            block_hash=Digest(block_hash),
            time=UnixSeconds(time.seconds),
            proposer=proposer,
            txs=txs,
            report=report,
        )
        if done.upgrade_failure is not None:
            _log.error(
                "block %d: the planned L1 runtime could not take over, version %d"
                " goes on: %s",
                height,
                done.version,
                done.upgrade_failure,
            )
        if done.upgraded:
            _log.warning("block %d: L1 runtime version %d", height, done.version)
        for pallet, failure in done.hook_failures:
            _log.error(
                "hook of pallet %s failed in block %d: %s", pallet, height, failure
            )
        return ExecutedBlock(
            results=tuple(_result(one) for one in done.results),
            app_hash=done.app_hash,
            changes=done.changes,
            events=_events(done.events),
            validator_updates=done.validator_updates,
        )

    def commit(self) -> None:
        """Make the executed block's state the current one."""
        self.ledger.commit()
        self._watch.look(self.ledger)

    def _gas(self, max_gas: int) -> int:
        return max_gas if max_gas >= 0 else self.max_block_gas

    def _make(self, genesis: GenesisDoc, store: SimpleTreeStore) -> Ledger:
        known: LedgerGenesis = parse_genesis(genesis.app_state)
        if known.chain_id != genesis.chain_id:
            raise ForeignChainError(
                "the ledger's genesis is for another chain",
                got=known.chain_id,
                expected=genesis.chain_id,
            )
        return Ledger(
            genesis=known,
            store=store,
            verifier=self._verifier,
            versions=self._versions,
        )


def ledger_consensus_params(params: LedgerParams) -> ConsensusParams:
    """Consensus parameters under which a block never exceeds the ledger's limits."""
    return ConsensusParams(
        block=BlockParams(
            max_bytes=params.max_block_bytes, max_gas=params.max_block_weight
        ),
        app_version=1,
    )


def _result(result: LedgerTxResult) -> ExecTxResult:
    return ExecTxResult(
        code=result.code,
        data=result.data,
        log=result.log,
        info=result.error,
        gas_wanted=result.gas_wanted,
        gas_used=result.gas_used,
        events=_events(result.events),
        codespace=result.codespace,
    )


def _events(events: Sequence[EmittedEvent]) -> tuple[Event, ...]:
    """Events as CometBFT shows them: the encoding in hexadecimal."""
    return tuple(
        Event(
            kind=one.name,
            attributes=(EventAttribute(key="data", value=one.data.hex()),),
        )
        for one in events
    )
