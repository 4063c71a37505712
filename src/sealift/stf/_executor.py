"""The executor: a shard's block applied to its state, and getters answered."""

from collections.abc import Iterable
from typing import TypeVar

from sealift import frame
from sealift.base import (
    ChainId,
    Fingerprint,
    Height,
    SealiftError,
    ShardId,
    UnixSeconds,
    decode,
)
from sealift.frame import (
    RUNTIME_RECORD,
    STORAGE_VERSIONS,
    BlockInfo,
    CallGuard,
    Changes,
    MigrationPlan,
    MigrationReport,
    Overlay,
    Pallet,
    PalletError,
    Runtime,
    Signed,
    StateReader,
    StateStore,
    WeightMeter,
)
from sealift.protocol import MAX_VALIDITY, GetterBody

from ._balances import Balances
from ._block import BlockOutcome, Limits, MigrationRehearsal, ShardBlock
from ._democracy import Democracy
from ._effects import Effects, OutstandingEffects
from ._enclave_update import EnclaveUpdate
from ._errors import GetterBoundsError, GetterFailedError, ShardRuntimeError
from ._escapes import escapes_of
from ._getters import GetterTable
from ._opening import VerifiedGetter
from ._run import BlockRun, Workbench
from ._system import System
from ._timestamp import Timestamp

P = TypeVar("P", bound=Pallet)

_DEFAULT_LIMITS = Limits()
#: Most bytes of a genesis blob: what fits a frame of the ECALL table.
MAX_GENESIS_BYTES = 32 * 1024 * 1024


class Executor:
    """Executes the blocks of one shard with one runtime; holds no state.

    Guarantees that what it returns depends on its arguments alone, and that
    nothing is written: the caller applies ``changes`` when the block may leave.
    ``MemoryError``, ``RecursionError`` and the like are no call's outcome; they
    go through, and nothing of the block must leave the process then.

    Args:
        runtime: The application's runtime, with the standard pallets.
        chain_id: The L1 chain.
        shard: The shard.
        fingerprint: MRENCLAVE of this code, for pinned calls of blocks that do
            not name their generation's code.
        limits: Bounds on the work of a block; the same in every instance.

    Raises:
        ShardRuntimeError: A standard pallet is missing, or is there twice.
        RuntimeDefinitionError: A getter's signature does not fit.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        chain_id: ChainId,
        shard: ShardId,
        fingerprint: Fingerprint,
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        self.runtime = runtime
        self._chain_id = chain_id
        self._fingerprint = fingerprint
        self._shard = shard
        self._getters = GetterTable(runtime.pallets)
        _the_one(runtime, Democracy)
        self._bench = Workbench(
            runtime=runtime,
            system=_the_one(runtime, System),
            timestamp=_the_one(runtime, Timestamp),
            balances=_the_one(runtime, Balances),
            enclave_update=_the_one(runtime, EnclaveUpdate),
            effects=_the_one(runtime, Effects),
            escapes=escapes_of(runtime.pallets),
            sentences=_sentences(runtime.pallets),
            limits=limits,
        )

    def apply_genesis(
        self, store: StateStore, blob: bytes, *, height: Height, time: UnixSeconds
    ) -> None:
        """Write the shard's first state into an empty store.

        Owed by the caller: that ``blob`` is the one whose digest L1 names.

        Args:
            store: Where the state goes.
            blob: MessagePack map from pallet to its genesis configuration.
            height: The block that the genesis counts as.
            time: That block's time.

        Raises:
            DecodeError: Not a genesis blob.
            GenesisError: Not one for this runtime, or the store is not empty.
        """
        config = decode(dict[str, object], blob, limit=MAX_GENESIS_BYTES)
        self.runtime.apply_genesis(store, self._info(height, time), config)

    def execute_block(
        self,
        state: StateReader,
        block: ShardBlock,
        *,
        before: StateReader | None = None,
    ) -> BlockOutcome:
        """Execute one block; no call in it is skipped, doubled or reordered.

        1. If an earlier version wrote the state, it is migrated first. Then the next
           step of every migration that takes many blocks is done.
        2. Time and schedule are noted, effects that L1 has executed are forgotten;
           pallets' ``on_initialize`` run.
        3. Calls and deposits take effect in order.
        4. Receipts are remembered; pallets' ``on_finalize`` run; the block's effects
           are kept.

        Args:
            state: The state after the block before; stays untouched.
            block: The block.
            before: The state after the block before, if ``state`` is what
                the records of :meth:`plan` make of it already; the outcome is the same
                but for these changes.

        Raises:
            MigrationRefusedError: Step 1: this code must not take the state
                over. Nothing has changed.
        """
        overlay = Overlay.over(state)
        info = self._info(block.height, block.time)
        bench = self._bench
        migration = self._migrate(overlay, info, before)  # 1
        stepped = bench.runtime.run_steps(
            overlay,
            info,
            WeightMeter(bench.limits.hook_weight),
            access_weight=bench.limits.access_weight,
        )
        ctx = bench.runtime.context(overlay, info)
        if block.schedule is not None:  # 2
            bench.enclave_update.observe(ctx, block.schedule)
        if block.items:
            bench.timestamp.note(ctx)
        bench.effects.forget(ctx, block.effects_done)
        effects_before = bench.effects.last.get(ctx)
        run = BlockRun(
            bench,
            overlay,
            info,
            maintenance=block.status.mode == "maintenance",
            code=block.code or frozenset((self._fingerprint,)),
        )
        run.initialize()
        for index, item in enumerate(block.items):  # 3
            run.take(index, item)
        run.finalize()  # 4
        bench.effects.keep(ctx, tuple(run.effects), previous=effects_before)
        return BlockOutcome(
            height=block.height,
            changes=_in_key_order(overlay.changes),
            receipts=tuple(run.receipts),
            deposits=tuple(run.deposits),
            orders=tuple(run.orders),
            effects=tuple(run.effects),
            effects_before=effects_before,
            counts=run.counts,
            weight=run.meter.used,
            events=(*stepped.events, *run.events),
            hook_failures=tuple(run.hook_failures),
            migration=migration,
            step_failures=stepped.failures,
        )

    def outstanding(
        self, state: StateReader, *, height: Height, time: UnixSeconds
    ) -> tuple[OutstandingEffects, ...]:
        """The effects that L1 is not known to have executed, in order of blocks."""
        ctx = self.runtime.context(Overlay.over(state), self._info(height, time))
        effects = self._bench.effects
        return tuple(
            effects.outstanding.get(ctx, one) for one in effects.waiting.get(ctx)
        )

    def wrote(self, state: StateReader, *, height: Height, time: UnixSeconds) -> bool:
        """Whether this very version wrote a state, so that its getters fit it."""
        return self._is_current(Overlay.over(state), self._info(height, time))

    def plan(
        self, state: StateReader, *, height: Height, time: UnixSeconds
    ) -> MigrationPlan | None:
        """What becomes of a state before this code executes on it, records first.

        Returns:
            ``None`` if this very version wrote it.

        Raises:
            MigrationRefusedError: This code would refuse the state.
        """
        overlay, info = Overlay.over(state), self._info(height, time)
        if self._is_current(overlay, info):
            return None
        return self.runtime.plan(overlay, info)

    def rehearse(
        self,
        state: StateReader,
        *,
        height: Height,
        time: UnixSeconds,
        before: StateReader | None = None,
    ) -> MigrationRehearsal | None:
        """Migrate a state and write nothing (DESIGN §11.7).

        Args:
            state: The state; stays untouched.
            height: The block in which it would happen.
            time: Its time.
            before: As for :meth:`execute_block`.

        Returns:
            What the migration would do; ``None`` if there is nothing to migrate.

        Raises:
            MigrationRefusedError: This code would refuse the state.
        """
        overlay = Overlay.over(state)
        report = self._migrate(overlay, self._info(height, time), before)
        if report is None:
            return None
        return MigrationRehearsal(report=report, changes=_in_key_order(overlay.changes))

    def answer(
        self,
        state: StateReader,
        getter: VerifiedGetter,
        *,
        height: Height,
        head: Height,
        time: UnixSeconds,
    ) -> bytes:
        """Answer a signed read: the encoding of what the getter returns.

        1. The state is as new as the reader asks, the getter not expired.
        2. The runtime has the getter, and the arguments fit it.
        3. It is read; a private getter learns who asks, and what is written is
           dropped.

        Owed by the caller: that this enclave may answer at its head.

        Args:
            state: The state to read.
            getter: The verified read.
            height: The block after which the state is.
            head: The relay's head.
            time: Time of the state's block.

        Raises:
            GetterBoundsError: Step 1.
            UnknownGetterError: Step 2.
            GetterArgumentsError: Step 2.
            GetterFailedError: Step 3.
        """
        body = getter.body
        _check_bounds(body, height=height, head=head)  # 1
        bound = self._getters[body.getter]  # 2
        arguments = bound.arguments(body.args)
        ctx = self.runtime.context(  # 3
            Overlay.over(state),
            self._info(height, time),
            Signed(account=getter.reader),
            WeightMeter(self._bench.limits.getter_weight),
        )
        answer = b""
        guard = CallGuard()
        with guard:
            answer = bound.read(ctx, getter.reader, arguments)
        if guard.failure is not None:
            raise GetterFailedError(f"{bound.name} failed", got=guard.failure.code)
        return answer

    def getters(self) -> dict[str, bool]:
        """Name of every getter, and whether everybody may read it."""
        return self._getters.names()

    def _info(self, height: Height, time: UnixSeconds) -> BlockInfo:
        return BlockInfo(
            chain_id=self._chain_id, height=height, time=time, shard=self._shard
        )

    def _is_current(self, overlay: Overlay, info: BlockInfo) -> bool:
        """Whether this very version wrote the state."""
        runtime = self.runtime
        ctx = runtime.context(overlay, info)
        record = RUNTIME_RECORD.find(ctx)
        return (
            record is not None
            and (record.name, record.version) == (runtime.name, runtime.version)
            and all(
                STORAGE_VERSIONS.find(ctx, pallet.name) == pallet.storage_version
                for pallet in runtime.pallets
            )
        )

    def _migrate(
        self, overlay: Overlay, info: BlockInfo, before: StateReader | None
    ) -> MigrationReport | None:
        if self._is_current(overlay, info):
            return None
        limits = self._bench.limits
        return self.runtime.migrate(
            overlay,
            info,
            WeightMeter(limits.migration_weight),
            before=None if before is None else Overlay.over(before),
            access_weight=limits.access_weight,
        )


def _in_key_order(changes: Changes) -> dict[bytes, bytes | None]:
    return {key: changes[key] for key in sorted(changes)}


def _check_bounds(body: GetterBody, *, height: Height, head: Height) -> None:
    if body.min_height > height:
        raise GetterBoundsError(
            "state is too old for the reader",
            got=height,
            expected=f"≥ {body.min_height}",
        )
    if not head <= body.valid_until <= head + MAX_VALIDITY:
        raise GetterBoundsError(
            "getter is not valid at this head",
            got=body.valid_until,
            expected=f"{head} … {head + MAX_VALIDITY}",
        )


def _the_one(runtime: Runtime, kind: type[P]) -> P:
    found = [pallet for pallet in runtime.pallets if isinstance(pallet, kind)]
    if len(found) != 1:
        raise ShardRuntimeError(
            f"runtime {runtime.name} needs the standard pallet {kind.name} once",
            got=len(found),
            hint="Compose it from StandardPallets().pallets",
        )
    return found[0]


def _sentences(pallets: Iterable[Pallet]) -> dict[str, str]:
    """What each error code means, from the docstrings of the error classes."""
    classes: list[type[SealiftError]] = [
        value
        for value in vars(frame).values()
        if isinstance(value, type) and issubclass(value, PalletError)
    ]
    for pallet in pallets:
        classes.extend(pallet.errors)
    found: dict[str, str] = {}
    for kind in classes:
        summary = (kind.__doc__ or "").strip().partition("\n")[0]
        found.setdefault(kind.code, summary)
    return found
