"""The L1 state machine: transactions in, results and an app hash out.

Pure: no clock, no I/O. The node persists what :meth:`Ledger.finalize_block`
gives, in one transaction, when it commits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sealift.base import (
    AccountId,
    Amount,
    DecodeError,
    Digest,
    Height,
    Nonce,
    UnixSeconds,
    canonical_decode,
    encode,
)
from sealift.crypto import SignatureInvalidError
from sealift.frame import (
    ROOT,
    BlockInfo,
    Changes,
    Context,
    Overlay,
    RuntimeCall,
    Signed,
    SimpleTreeStore,
    UnknownCallError,
    WeightMeter,
    prove_ics23,
)
from sealift.protocol import MAX_TX_BYTES, Transaction, TransactionBody
from sealift.relay import ValidatorSet

from ._codes import code_of, code_of_error
from ._draft import Draft, Judged, fill, require_all
from ._errors import (
    BlockFullError,
    LedgerGenesisError,
    LedgerHeightError,
    LedgerQueryError,
    NonceError,
    TransactionError,
    TransactionExpiredError,
    TransactionFormatError,
    TransactionSignatureError,
    TransactionTooLargeError,
    WrongChainError,
)
from ._genesis import LedgerGenesis
from ._known import KnownSignatures
from ._outcomes import FinalizedBlock, LedgerTxResult, TxCheck
from ._ports import QuoteVerifier
from ._runtime import LedgerPallets
from ._system import RuntimePlan, System
from ._upgrade import Bare, Begun, begin, plan_in, version_in
from ._validators import NO_REPORT, EngineReport
from ._versions import RUNTIME_VERSIONS, Compositions, RuntimeVersion

T = TypeVar("T")
#: For a ledger without an engine behind it.
NO_VALIDATORS = ValidatorSet(validators=())


@dataclass(slots=True)
class _Pending:
    """What accounts have in the mempool: the next nonce, fees promised."""

    nonce: int
    fees: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Admitted:
    signer: AccountId
    nonce: Nonce
    fee: Amount
    call: RuntimeCall


class Ledger:
    """L1 over a store.

    A store that is not empty is resumed: it must hold the last committed state
    of this genesis. ``init_chain`` writes the first state; the node persists
    it as ``dict(store.items(b""))``.

    Each block is executed with the version of the runtime that the state before it
    says, also when old blocks are executed again. At the height of a plan the next
    version takes the state over; a ledger that does not have it stands still there.

    Args:
        genesis: What the chain began with.
        store: The committed state; owned by the ledger from now on.
        verifier: Judges quotes and collateral.
        versions: The versions of the runtime that this program has.

    Raises:
        LedgerGenesisError: A state of another genesis.
        UnknownRuntimeVersionError: The state belongs to a version that it has not.
    """

    def __init__(
        self,
        *,
        genesis: LedgerGenesis,
        store: SimpleTreeStore,
        verifier: QuoteVerifier,
        versions: Mapping[int, RuntimeVersion] = RUNTIME_VERSIONS,
    ) -> None:
        self._genesis = genesis
        self._store = store
        self._compositions = Compositions(verifier, versions)
        self._version = genesis.runtime
        self._height = Height(0)
        self._time = UnixSeconds(0)
        self._undo: dict[bytes, bytes | None] | None = None
        self._finalized: tuple[Height, UnixSeconds, int] | None = None
        self._pending: dict[AccountId, _Pending] = {}
        self._known = KnownSignatures()
        self._check = Overlay.over(store)
        if store.items(b""):
            self._resume()

    @property
    def genesis(self) -> LedgerGenesis:
        """What the chain began with."""
        return self._genesis

    @property
    def height(self) -> Height:
        """The last committed height; 0 before the first block."""
        return self._height

    @property
    def runtime_version(self) -> int:
        """The version of the runtime that the last committed state belongs to."""
        return self._version

    @property
    def plan(self) -> RuntimePlan | None:
        """The next version and its height, by the last committed state."""
        return self._with_committed(lambda store: plan_in(Overlay.over(store)))

    def has_version(self, number: int) -> bool:
        """Whether this program has a version of the runtime."""
        return self._compositions.known(number)

    @property
    def app_hash(self) -> Digest:
        """The app hash of the last committed state."""
        return self._with_committed(lambda store: store.root())

    @property
    def next_validators(self) -> ValidatorSet:
        """Who orders the block after the next, as of the last committed state."""
        return self._pallets.validators.coming.get(self._committed_context())

    def init_chain(self, validators: ValidatorSet = NO_VALIDATORS) -> Digest:
        """Write the first state; doing it again is harmless before block 1.

        Args:
            validators: Who orders the first blocks, as the engine says.

        Raises:
            LedgerHeightError: Blocks were executed already.
            LedgerGenesisError: A genesis that no chain can begin with.
            UnknownRuntimeVersionError: It begins with a version that this has not.
        """
        if self._height or self._finalized is not None:
            raise LedgerHeightError(
                "chain has begun already", got=f"height {self._height}", expected=0
            )
        if not self._store.items(b""):
            block = self._block(Height(0), UnixSeconds(0))
            config = self._compositions.genesis(self._genesis, validators)
            self._pallets.runtime.apply_genesis(self._store, block, config)
            self._check = Overlay.over(self._store)
        return self._store.root()

    def check_tx(self, tx: bytes) -> TxCheck:
        """Judge a transaction for the mempool, after those it took before.

        By the last committed state and its version, whatever block awaits its
        commit.

        1. Size, encoding, chain id, signature (as in a block; the signature of
           a transaction that was taken before is not verified again).
        2. Valid for the next block.
        3. Its nonce follows the account's pending ones.
        4. The account can pay this fee beside the pending ones.
        5. The call exists, and an empty block has room for it.
        """
        pallets = self._pallets
        block = self._block(self._next, self._time)
        ctx = pallets.runtime.context(self._check, block, ROOT)
        try:
            known = self._known.knows(tx)
            body = self._parse(tx, signature_known=known)
            pending = self._pending.get(body.signer)
            if pending is None:
                pending = _Pending(pallets.system.nonce(ctx, body.signer), 0)
            admitted = self._admit(pallets, ctx, body, len(tx), pending)
            weight = pallets.runtime.call_weight(admitted.call)
            self._require_room(weight, self._meter())
        except (TransactionError, UnknownCallError) as error:
            return TxCheck(code=code_of_error(error), log=str(error))
        self._pending[admitted.signer] = _Pending(
            pending.nonce + 1, pending.fees + admitted.fee
        )
        if not known:
            self._known.note(tx)
        return TxCheck(
            code=0, gas_wanted=weight, sender=admitted.signer, nonce=admitted.nonce
        )

    def prepare_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> tuple[bytes, ...]:
        """Of the transactions that wait, those of the next block (:func:`fill`)."""
        return fill(self._draft(max_bytes, max_gas), txs, self._judge)

    def require_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> None:
        """Return if a block of these can follow the last committed one.

        Raises:
            ProposalRefusedError: As :func:`require_all` says.
        """
        require_all(self._draft(max_bytes, max_gas), txs, self._judge)

    def finalize_block(
        self,
        *,
        height: Height,
        block_hash: Digest,
        time: UnixSeconds,
        proposer: bytes,
        txs: Sequence[bytes],
        report: EngineReport = NO_REPORT,
    ) -> FinalizedBlock:
        """Execute a block; the state is committed by :meth:`commit`.

        The version of the runtime comes first (:func:`~._upgrade.begin`). A bad
        transaction never stops a block. Executing the same height again before the
        commit replaces what was executed.

        Raises:
            LedgerHeightError: Not the next height.
            UnknownRuntimeVersionError: Another program must execute it; nothing has
                changed.
        """
        del proposer
        self._roll_back()
        block = self._block(height, time)
        overlay = Overlay.over(self._store)
        begun = System.genesis_digest.exists(Bare(storage=overlay))
        if height != self._next or not begun:
            raise LedgerHeightError(
                "block out of turn", got=height, expected=self._next
            )
        executing = self._begin(overlay, block)
        pallets, runtime = executing.pallets, executing.pallets.runtime
        opened = runtime.initialize_block(overlay, block)
        ctx = runtime.context(overlay, block, ROOT)
        pallets.system.note_hash(ctx, block_hash)
        pallets.validators.take_report(ctx, report)
        meter = self._meter()
        results = tuple(self._apply(pallets, overlay, block, tx, meter) for tx in txs)
        ended = runtime.finalize_block(overlay, block)
        changes = {
            key: value
            for key, value in sorted(overlay.changes.items())
            if self._store.get(key) != value
        }
        self._undo = {key: self._store.get(key) for key in changes}
        self._store.apply(changes)
        self._check = self._before(self._undo)
        self._finalized = (height, time, executing.version)
        return FinalizedBlock(
            height=height,
            results=results,
            app_hash=self._store.root(),
            changes=changes,
            events=(*executing.events, *opened.events, *ctx.emitted, *ended.events),
            validator_updates=pallets.validators.updates(ctx),
            hook_failures=(*opened.failures, *ended.failures),
            version=executing.version,
            upgraded=executing.upgraded,
            upgrade_failure=executing.failure,
        )

    def commit(self) -> Height:
        """Make the executed block the committed one; the mempool starts anew.

        Raises:
            LedgerHeightError: No block was executed.
        """
        if self._finalized is None:
            raise LedgerHeightError("no block to commit", expected=self._next)
        self._height, self._time, self._version = self._finalized
        self._finalized = None
        self._undo = None
        self._pending = {}
        self._check = Overlay.over(self._store)
        return self._height

    def query(
        self, key: bytes, *, path: str = "/store", prove: bool = False
    ) -> tuple[bytes | None, bytes | None]:
        """The committed value under a key, and an ICS23 proof if wanted.

        Raises:
            LedgerQueryError: A path that the ledger does not serve.
        """
        if path != "/store":
            raise LedgerQueryError("no such path", got=path[:80], expected="/store")
        return self._with_committed(
            lambda store: self._look_up(store, key, prove=prove)
        )

    @staticmethod
    def _look_up(
        store: SimpleTreeStore, key: bytes, *, prove: bool
    ) -> tuple[bytes | None, bytes | None]:
        return store.get(key), prove_ics23(store, key) if prove else None

    def _with_committed(self, ask: Callable[[SimpleTreeStore], T]) -> T:
        """Ask the committed state while a block awaits its commit."""
        if self._undo is None:
            return ask(self._store)
        executed = {key: self._store.get(key) for key in self._undo}
        self._store.apply(self._undo)
        try:
            return ask(self._store)
        finally:
            self._store.apply(executed)

    def _before(self, undo: Changes) -> Overlay:
        """The state that the mempool goes by while the store is ahead of it."""
        committed = Overlay.over(self._store)
        for key, value in undo.items():
            if value is None:
                committed.delete(key)
            else:
                committed.put(key, value)
        return committed

    def _roll_back(self) -> None:
        if self._undo is not None:
            self._store.apply(self._undo)
            self._check = Overlay.over(self._store)
        self._undo = None
        self._finalized = None

    def _resume(self) -> None:
        """Take over a stored state.

        1. It came from this genesis. 2. This program has its version.
        """
        overlay = Overlay.over(self._store)
        state = Bare(storage=overlay)
        known = System.genesis_digest.find(state)
        if known != self._genesis.digest():  # 1
            raise LedgerGenesisError(
                "stored state came from another genesis",
                got=known or "a state that is no ledger's",
                expected=self._genesis.digest(),
            )
        last = System.last_block.get(state)
        self._height, self._time = last.height, last.time
        self._version = version_in(overlay)
        self._compositions.pallets(self._version, block=self._next)  # 2

    @property
    def _pallets(self) -> LedgerPallets:
        """Those of the last committed state's version."""
        return self._compositions.pallets(self._version, block=self._next)

    def _begin(self, overlay: Overlay, block: BlockInfo) -> Begun:
        weight = self._genesis.params.max_block_weight
        return begin(overlay, block, self._compositions, block_weight=weight)

    def _draft(self, max_bytes: int, max_gas: int) -> Draft:
        params = self._genesis.params
        return Draft(
            max_bytes=min(max_bytes, params.max_block_bytes),
            max_weight=min(max_gas, params.max_block_weight),
        )

    def _judge(self, tx: bytes, promised: Mapping[AccountId, Judged]) -> Judged:
        """A transaction of the next block, by the committed state."""
        pallets, ctx = self._pallets, self._committed_context()
        known = self._known.knows(tx)
        body = self._parse(tx, signature_known=known)
        last = promised.get(body.signer)
        if last is None:
            pending = _Pending(pallets.system.nonce(ctx, body.signer), 0)
        else:
            pending = _Pending(last.nonce, last.fees)
        admitted = self._admit(pallets, ctx, body, len(tx), pending)
        weight = pallets.runtime.call_weight(admitted.call)
        if not known:
            self._known.note(tx)
        return Judged(
            signer=admitted.signer,
            nonce=pending.nonce + 1,
            fees=pending.fees + admitted.fee,
            weight=weight,
        )

    def _committed_context(self) -> Context:
        block = self._block(self._next, self._time)
        return self._pallets.runtime.context(self._check, block, ROOT)

    def _apply(
        self,
        pallets: LedgerPallets,
        overlay: Overlay,
        block: BlockInfo,
        tx: bytes,
        meter: WeightMeter,
    ) -> LedgerTxResult:
        """One transaction of a block; never raises for what a transaction is.

        1. Size, encoding, chain id, signature; validity, nonce, fee, room in the
           block: a refusal here costs nothing and changes nothing.
        2. Fee and nonce are taken, whatever the call comes to.
        3. The call takes effect whole, or not at all.
        """
        ctx = pallets.runtime.context(overlay, block, ROOT)
        system = pallets.system
        try:  # 1
            body = self._parse(tx, signature_known=self._known.knows(tx))
            pending = _Pending(system.nonce(ctx, body.signer), 0)
            admitted = self._admit(pallets, ctx, body, len(tx), pending)
            wanted = self._weight(pallets, admitted.call)
            self._require_room(wanted, meter)
        except TransactionError as error:
            return LedgerTxResult(
                code=code_of_error(error), log=str(error), error=error.code
            )
        pallets.balances.burn(ctx, admitted.signer, admitted.fee)  # 2
        system.consume_nonce(ctx, admitted.signer)
        outcome = pallets.runtime.dispatch(  # 3
            overlay, block, Signed(account=admitted.signer), admitted.call, meter=meter
        )
        if outcome.failure is not None:
            return LedgerTxResult(
                code=code_of(outcome.failure.code),
                log=outcome.failure.message,
                error=outcome.failure.code,
                gas_wanted=wanted,
                gas_used=outcome.weight,
            )
        return LedgerTxResult(
            code=0,
            data=encode(outcome.events),
            gas_wanted=wanted,
            gas_used=outcome.weight,
            events=outcome.events,
        )

    def _parse(self, tx: bytes, *, signature_known: bool) -> TransactionBody:
        """The body of a transaction of this chain that its signer signed.

        Args:
            tx: Any bytes.
            signature_known: The signature of exactly these bytes was verified
                before, by this process: it depends on nothing else.
        """
        if len(tx) > MAX_TX_BYTES:
            raise TransactionTooLargeError(
                "transaction is too large",
                got=f"{len(tx)} B",
                expected=f"≤ {MAX_TX_BYTES} B",
            )
        try:
            transaction = canonical_decode(Transaction, tx)
        except DecodeError as error:
            raise TransactionFormatError(f"not a transaction ({error.what})") from error
        body = transaction.body
        if body.chain_id != self._genesis.chain_id:
            raise WrongChainError(
                "transaction is for another chain",
                got=body.chain_id,
                expected=self._genesis.chain_id,
            )
        if signature_known:
            return body
        try:
            body.verify(body.signer, transaction.signature)
        except SignatureInvalidError as error:
            raise TransactionSignatureError(
                "transaction is not signed by its signer", expected=body.signer
            ) from error
        return body

    @staticmethod
    def _admit(
        pallets: LedgerPallets,
        ctx: Context,
        body: TransactionBody,
        size: int,
        pending: "_Pending",
    ) -> "_Admitted":
        if body.valid_until < ctx.block.height:
            raise TransactionExpiredError(
                "transaction has expired",
                got=f"block {ctx.block.height}",
                expected=f"≤ {body.valid_until}",
            )
        if body.nonce != pending.nonce:
            raise NonceError(
                "not the next nonce of the account",
                got=body.nonce,
                expected=pending.nonce,
            )
        balances = pallets.balances
        fee = balances.fee(ctx, size)
        balances.require_fee(ctx, body.signer, fee, already=pending.fees)
        return _Admitted(
            signer=body.signer,
            nonce=body.nonce,
            fee=fee,
            call=RuntimeCall(name=body.call, args=body.args),
        )

    @staticmethod
    def _weight(pallets: LedgerPallets, call: RuntimeCall) -> int:
        """The call's own weight."""
        try:
            return pallets.runtime.call_weight(call)
        except UnknownCallError:
            return 0  # fails when it is dispatched, and pays

    def _meter(self) -> WeightMeter:
        """What a block may weigh."""
        return WeightMeter(self._genesis.params.max_block_weight)

    @staticmethod
    def _require_room(weight: int, meter: WeightMeter) -> None:
        if weight > meter.left:
            raise BlockFullError(
                "block has no weight left for this call",
                got=weight,
                expected=f"≤ {meter.left}",
            )

    def _block(self, height: Height, time: UnixSeconds) -> BlockInfo:
        return BlockInfo(chain_id=self._genesis.chain_id, height=height, time=time)

    @property
    def _next(self) -> Height:
        return Height(self._height + 1)
