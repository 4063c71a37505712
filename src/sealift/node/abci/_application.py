"""What ABCI's messages do to the application and its store."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sealift import __version__
from sealift.base import Height, InvariantError
from sealift.frame import Changes, ProofUnavailableError
from sealift.ledger import ProposalRefusedError
from sealift.node import (
    ICS23_SIMPLE,
    Application,
    HeightUnknownError,
    PastStates,
    StateBusyError,
    StateHistory,
)
from sealift.node._application import require_all_answered, require_root
from sealift.node._methods import NO_PATH, STORE_PATHS
from sealift.relay import BlockParams, ValidatorSet, validators_hash
from sealift.relay.rpc import GenesisDoc

from ._engine import require_engine
from ._errors import AbciOrderError, AbciValidatorsError
from ._messages import (
    ACCEPT,
    RECHECK,
    REJECT,
    AbciProofOp,
    AbciProofOps,
    CheckTxRequest,
    CheckTxResponse,
    CommitResponse,
    FinalizeBlockRequest,
    FinalizeBlockResponse,
    InfoRequest,
    InfoResponse,
    InitChainRequest,
    InitChainResponse,
    PrepareProposalRequest,
    PrepareProposalResponse,
    ProcessProposalRequest,
    ProcessProposalResponse,
    QueryRequest,
    QueryResponse,
    VerifyVoteExtensionRequest,
    VerifyVoteExtensionResponse,
)
from ._store import AbciStore
from ._translate import (
    APP_VERSION,
    abci_events,
    abci_result,
    abci_updates,
    abci_verdict,
    genesis_of,
    report_of,
    timestamp_of,
)

#: What CometBFT reads into ``max_bytes`` -1.
_MOST_BLOCK_BYTES: Final = 104_857_600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """A genesis, and its state as long as no block is durable."""

    genesis: GenesisDoc
    first: Changes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finalized:
    """A block that was executed and awaits its commit."""

    height: Height
    app_hash: bytes
    changes: Changes = field(repr=False)


class AbciApplication:
    """Drives an :class:`~sealift.node.Application` by ABCI's messages.

    Guarantees that nothing is durable before :meth:`persist`, that a block is
    durable as a whole, and that CometBFT may send ``InitChain`` again before
    the first commit and ``FinalizeBlock`` again before each. Not for several
    threads at once, with one exception: :meth:`info` and :meth:`query` touch
    only what is durable, so that they may be asked while another thread runs
    :meth:`finalize_block` or :meth:`persist`.

    Args:
        application: The state machine; holds the store's state, if any.
        store: What is durable.
    """

    def __init__(self, *, application: Application, store: AbciStore) -> None:
        self._application = application
        self._store = store
        self._beginning: _Beginning | None = None
        self._finalized: _Finalized | None = None
        self._persisted: _Finalized | None = None
        self._history: StateHistory | None = None
        self._past: PastStates | None = None
        self._height = Height(0)
        self._app_hash = b""
        #: The last validators that were compared, and their hash.
        self._hashed: tuple[ValidatorSet, bytes] | None = None
        self._load()

    @classmethod
    def open(cls, path: Path, *, application: Application) -> "AbciApplication":
        """The ledger as its last process left it, whenever that ended.

        Args:
            path: The database; made if it is not there.
            application: The state machine, without state.

        Raises:
            ChainStoreError: It cannot be read.
            ChainCorruptError: The stored state has another root than the block
                gave, or the application finds another one.
        """
        store = AbciStore.open(path)
        try:
            return cls(application=application, store=store)
        except BaseException:
            store.close()
            raise

    async def stop_reading(self) -> None:
        """Return when nothing reads the database in a thread any more."""
        if self._past is not None:
            await self._past.close()

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    @property
    def height(self) -> Height:
        """The last committed block; 0 before the first."""
        return self._height

    @property
    def app_hash(self) -> bytes:
        """Root of the state after it; empty before the first."""
        return self._app_hash

    def info(self, request: InfoRequest) -> InfoResponse:
        """The last committed block; CometBFT replays what comes after it.

        Raises:
            AbciVersionError: Another version of ABCI, of CometBFT or of its blocks.
        """
        require_engine(request)
        return InfoResponse(
            data="sealift",
            version=__version__,
            app_version=APP_VERSION,
            last_block_height=self._height,
            last_block_app_hash=self._app_hash,
        )

    async def query(self, request: QueryRequest) -> QueryResponse:
        """What stands under a key after a block, provably if wanted.

        The proof leads to the app hash in the header that **follows**. What
        cannot be answered is a code, never an exception; so is a state of long
        ago that is not at hand: answers keep the order of their requests, and
        the next one does not wait for it (``StateBusyError``: ask again).
        """
        try:
            return await self._read(request)
        except (HeightUnknownError, ProofUnavailableError, StateBusyError) as error:
            return QueryResponse(
                code=1,
                log=str(error),
                key=request.data,
                codespace=f"sealift/{error.code}",
            )

    def check_tx(self, request: CheckTxRequest) -> CheckTxResponse:
        """Judge a transaction for the mempool.

        Raises:
            AbciOrderError: There is no state yet.
        """
        self._begun()
        verdict = self._application.check_tx(
            request.tx, recheck=request.type == RECHECK
        )
        return abci_verdict(verdict)

    def prepare_proposal(
        self, request: PrepareProposalRequest
    ) -> PrepareProposalResponse:
        """Of the mempool's transactions, those that the next block can include.

        Raises:
            AbciOrderError: There is no state yet, or it is not the next block.
        """
        limits = self._proposal_limits(request.height)
        taken = self._application.prepare_proposal(
            request.txs,
            max_bytes=min(request.max_tx_bytes, limits.max_bytes),
            max_gas=limits.max_gas,
        )
        return PrepareProposalResponse(txs=tuple(taken))

    def process_proposal(
        self, request: ProcessProposalRequest
    ) -> ProcessProposalResponse:
        """Accept what can be included; a call that fails can.

        Deterministic, and nothing but state and bytes counts, so that honest nodes
        never refuse each other's proposals (docs/adr/0023-proposals-by-admission.md).

        Raises:
            AbciOrderError: There is no state yet, or it is not the next block.
        """
        limits = self._proposal_limits(request.height)
        try:
            self._application.require_proposal(
                request.txs, max_bytes=limits.max_bytes, max_gas=limits.max_gas
            )
        except ProposalRefusedError as error:
            _log.warning("proposal for block %d refused: %s", request.height, error)
            return ProcessProposalResponse(status=REJECT)
        return ProcessProposalResponse(status=ACCEPT)

    def verify_vote_extension(
        self, request: VerifyVoteExtensionRequest
    ) -> VerifyVoteExtensionResponse:
        """Accept the empty one, which is all that we ever give."""
        return VerifyVoteExtensionResponse(
            status=REJECT if request.vote_extension else ACCEPT
        )

    def init_chain(self, request: InitChainRequest) -> InitChainResponse:
        """Make the first state; nothing of it is durable yet.

        Raises:
            AbciOrderError: A block is committed already.
            AbciGenesisError: This engine cannot begin with that.
            SealiftError: The application refuses it.
        """
        if self._height:
            raise AbciOrderError(
                "InitChain for a chain that has begun", got=f"height {self._height}"
            )
        genesis = genesis_of(request)
        outcome = self._application.init_chain(genesis)
        self._warn_of_gas(genesis)
        self._beginning = _Beginning(genesis=genesis, first=outcome.changes)
        self._finalized = None
        return InitChainResponse(app_hash=outcome.app_hash)

    def finalize_block(self, request: FinalizeBlockRequest) -> FinalizeBlockResponse:
        """Execute a decided block; the state stays the one before.

        Raises:
            AbciOrderError: There is no state yet, or it is not the next block.
            AbciValidatorsError: The engine's next validators are others than those
                of the ledger's state: it is another chain's, or of another time.
            InvariantError: Not one result for each transaction.
        """
        self._require_turn("FinalizeBlock", request.height)
        self._require_validators(request.next_validators_hash)
        self._finalized = None
        outcome = self._application.finalize_block(
            height=Height(request.height),
            block_hash=request.hash,
            time=timestamp_of(request.time),
            proposer=request.proposer_address,
            txs=request.txs,
            report=report_of(request),
        )
        require_all_answered(outcome.results, request.txs)
        self._finalized = _Finalized(
            height=Height(request.height),
            app_hash=outcome.app_hash,
            changes=outcome.changes,
        )
        return FinalizeBlockResponse(
            events=abci_events(outcome.events),
            tx_results=tuple(abci_result(one) for one in outcome.results),
            validator_updates=abci_updates(outcome.validator_updates),
            app_hash=outcome.app_hash,
        )

    def persist(self) -> None:
        """First half of ``Commit``: make the executed block durable.

        Raises:
            AbciOrderError: No block was executed.
            ChainStoreError, DiskFullError: The process must end: only opening
                the store again tells whether the block is there.
        """
        beginning, block = self._begun(), self._finalized
        if block is None:
            raise AbciOrderError(
                "Commit without FinalizeBlock", got=f"height {self._height}"
            )
        if self._height:
            self._store.append(
                block.height, app_hash=block.app_hash, changes=block.changes
            )
        else:
            self._store.begin(
                beginning.genesis,
                first=beginning.first,
                app_hash=block.app_hash,
                changes=block.changes,
            )
        self._persisted = block

    def adopt(self) -> CommitResponse:
        """Second half of ``Commit``: the durable block is the current state.

        Raises:
            InvariantError: :meth:`persist` did not come before.
        """
        block = self._persisted
        if block is None:
            raise InvariantError("block is not durable", expected=self._height + 1)
        self._persisted = self._finalized = None
        self._application.commit()
        if self._history is None:
            self._take_history(self._open_history(block.height))
        else:
            self._history.advance(block.changes, block.height)
        self._height, self._app_hash = block.height, block.app_hash
        return CommitResponse()

    def _load(self) -> None:
        """Take over what is durable.

        1. The stored state has the root that executing its block gave. 2. The
        application agrees.
        """
        head = self._store.head
        if head is None:
            return
        history = self._open_history(head.height)
        root = self._application.load(
            self._store.entries().items(), genesis=head.genesis
        )
        require_root(history.root, root, expected=head.app_hash, height=head.height)
        self._beginning = _Beginning(genesis=head.genesis, first={})
        self._take_history(history)
        self._height, self._app_hash = head.height, head.app_hash
        _log.info("ledger of %s at height %d", head.genesis.chain_id, head.height)

    def _warn_of_gas(self, genesis: GenesisDoc) -> None:
        """CometBFT alone cuts its blocks, by the genesis and nothing else."""
        allowed = genesis.consensus_params.block.max_gas
        most = self._application.max_block_gas
        if most >= 0 and not 0 <= allowed <= most:
            _log.warning(
                "the genesis allows blocks of %d gas, the ledger executes %d:"
                " set consensus_params.block.max_gas, or what is above it fails",
                allowed,
                most,
            )

    def _open_history(self, height: Height) -> StateHistory:
        return StateHistory(
            record=self._store,
            past=self._store.past,
            entries=self._store.entries(),
            height=height,
            first=Height(0),
        )

    def _take_history(self, history: StateHistory) -> None:
        self._history = history
        self._past = PastStates(history)

    def _require_turn(self, message: str, height: int) -> _Beginning:
        beginning = self._begun()
        if height != self._height + 1:
            raise AbciOrderError(
                f"{message} out of turn", got=height, expected=self._height + 1
            )
        return beginning

    def _require_validators(self, told: bytes) -> None:
        known = self._application.next_validators
        if known is None:
            return
        if self._hashed is None or self._hashed[0] != known:
            self._hashed = (known, validators_hash(known))
        if told != self._hashed[1]:
            raise AbciValidatorsError(
                f"block {self._height + 1} names other next validators",
                got=told,
                expected=self._hashed[1],
                hint="Is this ledger's folder that of another chain?",
            )

    def _proposal_limits(self, height: int) -> BlockParams:
        """What the genesis lets a block have; the ledger has its own besides."""
        block = self._require_turn("proposal", height).genesis.consensus_params.block
        room = block.max_bytes if block.max_bytes >= 0 else _MOST_BLOCK_BYTES
        return BlockParams(max_bytes=room, max_gas=block.max_gas)

    def _begun(self) -> _Beginning:
        if self._beginning is None:
            raise AbciOrderError("no InitChain yet", got="an empty ledger")
        return self._beginning

    async def _read(self, request: QueryRequest) -> QueryResponse:
        key = request.data
        if request.path not in STORE_PATHS:
            log, codespace = NO_PATH
            return QueryResponse(code=1, log=log, key=key, codespace=codespace)
        if self._past is None:
            raise HeightUnknownError("no block is committed yet", got=request.height)
        entry = await self._past.read(
            key,
            height=Height(request.height) if request.height else None,
            prove=request.prove,
            wait=False,
        )
        proof = entry.proof
        return QueryResponse(
            log="exists" if entry.value is not None else "does not exist",
            key=key,
            value=entry.value or b"",
            proof_ops=None
            if proof is None
            else AbciProofOps(
                ops=(AbciProofOp(type=ICS23_SIMPLE, key=key, data=proof),)
            ),
            height=entry.height,
        )
