"""A runtime: pallets composed, and the functions a block is made of."""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from sealift.base import DecodeError, decode, encode

from ._calls import BoundCall, EmittedEvent, HooksOutcome, Outcome, RuntimeCall
from ._context import CallGuard, Context, WeightMeter
from ._describe import describe_runtime
from ._errors import (
    GenesisError,
    RuntimeDefinitionError,
    UnknownCallError,
    ValueMismatchError,
)
from ._event import Event
from ._metadata import RuntimeMetadata
from ._migration import (
    STORAGE_VERSIONS,
    MigrationPlan,
    MigrationReport,
    StepsOutcome,
    migrate_pallets,
    plan_migration,
    record_runtime,
    step_pallets,
)
from ._origin import NOBODY, ROOT, BlockInfo, Origin
from ._pallet import RESERVED_PALLET, Pallet, declared_calls, steps
from ._state import Overlay, StateStore
from ._types import TypeRegistry
from ._values import Values

#: Weight limit where none applies: genesis, migrations.
UNLIMITED = 2**63 - 1


class Runtime:
    """Pallets that make one state machine.

    Guarantees that its functions depend on their arguments alone: no clock,
    entropy, hash seed or order of insertion reaches state, events or outcomes.

    A block is: ``overlay = Overlay.over(store)``, ``initialize_block``,
    ``dispatch`` for every call, ``finalize_block``, then
    ``store.apply(overlay.changes)``.

    Args:
        name: Name of the runtime; its state is refused by any other.
        version: Version of the runtime, for people and for the schedule.
        pallets: The pallets, in the order in which their hooks run.

    Raises:
        RuntimeDefinitionError: Duplicate or reserved names, calls or storage
            whose types cannot be part of consensus.
    """

    def __init__(self, *, name: str, version: int, pallets: Sequence[Pallet]) -> None:
        self.name = name
        self.version = version
        self.pallets = tuple(pallets)
        names = [pallet.name for pallet in self.pallets]
        if len(set(names)) != len(names) or RESERVED_PALLET in names:
            raise RuntimeDefinitionError(
                "pallets do not have names of their own", got=names
            )
        self._calls = dict(_bind_calls(self.pallets))
        self._events = dict(_name_events(self.pallets))
        self._metadata = describe_runtime(name, version, self.pallets)
        for pallet in self.pallets:
            genesis_type(pallet)

    def metadata(self) -> RuntimeMetadata:
        """What clients need to speak to this runtime."""
        return self._metadata

    @property
    def event_names(self) -> Mapping[type[Event], str]:
        """``pallet.Event`` of every declared event class."""
        return self._events

    def call_weight(self, call: RuntimeCall) -> int:
        """Weight a call is charged before it runs.

        Raises:
            UnknownCallError: This runtime has no call of that name.
        """
        return self._bound(call).weight

    def context(
        self,
        overlay: Overlay,
        block: BlockInfo,
        origin: Origin = NOBODY,
        meter: WeightMeter | None = None,
    ) -> Context:
        """A context over an overlay: for getters and for tests of pallets.

        A getter reads over ``Overlay.over(store)`` and drops it.
        """
        return Context(
            runtime=self,
            origin=origin,
            block=block,
            storage=overlay,
            meter=meter or WeightMeter(UNLIMITED),
        )

    def apply_genesis(
        self,
        store: StateStore,
        block: BlockInfo,
        config: Mapping[str, object],
    ) -> None:
        """Write the first state into an empty store.

        Args:
            store: Where the state goes.
            block: The block that the genesis counts as.
            config: Genesis configuration by pallet name: the struct its
                ``genesis`` takes, or plain data of that shape.

        Raises:
            GenesisError: Configuration for a pallet that takes none, missing
                or malformed configuration, a store that is not empty.
        """
        if any(True for _ in store.items(b"")):
            raise GenesisError("genesis of a state that is not empty")
        unknown = set(config) - {pallet.name for pallet in self.pallets}
        if unknown:
            raise GenesisError("no such pallets in this runtime", got=sorted(unknown))
        overlay = Overlay.over(store)
        ctx = self.context(overlay, block, ROOT)
        for pallet in self.pallets:
            _run_genesis(pallet, ctx, config)
            STORAGE_VERSIONS.put(ctx, pallet.name, pallet.storage_version)
        record_runtime(ctx, self.name, self.version)
        store.apply(overlay.changes)

    def initialize_block(
        self, overlay: Overlay, block: BlockInfo, meter: WeightMeter | None = None
    ) -> HooksOutcome:
        """Run ``on_initialize`` of every pallet, in order, as root.

        A hook that fails is rolled back by itself and reported.
        """
        return self._run_hooks(
            overlay, block, meter, [pallet.on_initialize for pallet in self.pallets]
        )

    def finalize_block(
        self, overlay: Overlay, block: BlockInfo, meter: WeightMeter | None = None
    ) -> HooksOutcome:
        """Run ``on_finalize`` of every pallet, in order, as root.

        A hook that fails is rolled back by itself and reported.
        """
        return self._run_hooks(
            overlay, block, meter, [pallet.on_finalize for pallet in self.pallets]
        )

    def dispatch(
        self,
        overlay: Overlay,
        block: BlockInfo,
        origin: Origin,
        call: RuntimeCall,
        *,
        meter: WeightMeter,
    ) -> Outcome:
        """Run one call: all of it, or none of it and a failure.

        Args:
            overlay: The block's overlay; gets the changes if the call succeeds.
            block: The block.
            origin: Who speaks; verified by the caller.
            call: The call.
            meter: The block's weight; also charged for calls that fail.

        Raises:
            MemoryError, RecursionError, SystemError, InvariantError: Never an
                outcome; nothing of the block may leave the process.
        """
        spent = meter.used
        storage = overlay.child()
        ctx = Context(
            runtime=self, origin=origin, block=block, storage=storage, meter=meter
        )
        guard = CallGuard()
        with guard:
            self.invoke(ctx, call)
        if guard.failure is not None:
            return Outcome(failure=guard.failure, events=(), weight=meter.used - spent)
        storage.commit_to(overlay)
        return Outcome(failure=None, events=ctx.emitted, weight=meter.used - spent)

    def invoke(self, ctx: Context, call: RuntimeCall) -> None:
        """Charge, decode and run a call in a context; no rollback of its own.

        Raises:
            PalletError: Whatever the call raised.
        """
        bound = self._bound(call)
        ctx.meter.charge(bound.weight)
        bound.invoke(ctx, **bound.arguments(call.args))

    def encode_call(self, name: str, **arguments: object) -> RuntimeCall:
        """A call from typed arguments, for code that holds the runtime.

        Clients, which hold only the metadata, use ``RuntimeMetadata``.

        Raises:
            UnknownCallError: No such call.
            CallArgumentsError: Arguments that the call does not take.
        """
        bound = self._calls.get(name)
        if bound is None:
            raise UnknownCallError("no such call", got=name)
        return bound.encode(arguments)

    def plan(self, overlay: Overlay, block: BlockInfo) -> MigrationPlan:
        """What :meth:`migrate` would do to a state, and to its records first.

        Raises:
            MigrationRefusedError: This runtime does not take the state over.
        """
        ctx = self.context(overlay, block)
        return plan_migration(ctx, self.name, self.version, self.pallets)

    def migrate(
        self,
        overlay: Overlay,
        block: BlockInfo,
        meter: WeightMeter | None = None,
        *,
        before: Overlay | None = None,
        access_weight: int = 0,
    ) -> MigrationReport:
        """Take over a state written by an earlier version of this runtime.

        Runs ``pre_upgrade``, the declared record migrations, ``on_runtime_upgrade``
        and ``post_upgrade`` of every pallet whose stored version is older. On any
        refusal the overlay is untouched. Storage of pallets that are gone is kept.

        Args:
            overlay: Over the state of the earlier version.
            block: The block in which it happens.
            meter: What all of it may weigh; a migration that wants more fails. The
                declared record migrations weigh nothing.
            before: Over the state of the earlier version, if ``overlay`` is over
                what the records of :meth:`plan` make of it already.
            access_weight: What every access to the state weighs.

        Raises:
            ForeignStateError: State of another runtime.
            StateTooNewError: A stored version newer than the code's.
            MigrationGapError: A stored version older than the pallet accepts.
            MigrationUnfinishedError: A stepped migration is not done.
            MigrationCheckError: A check before or after failed.
            RecordMigrationError: A declared record migration failed.
            MigrationFailedError: A migration raised.
        """
        meter = meter or WeightMeter(UNLIMITED)

        def layer(over: Overlay) -> Overlay:
            return over.metered(meter, access_weight) if access_weight else over.child()

        records = overlay.child()
        work = layer(records)
        report = migrate_pallets(
            self.context(work, block, ROOT, meter),
            self.name,
            self.version,
            self.pallets,
            before=self.context(layer(before or overlay), block, ROOT, meter),
            records=None if before is not None else records,
        )
        work.commit_to(records)
        records.commit_to(overlay)
        return report

    def run_steps(
        self,
        overlay: Overlay,
        block: BlockInfo,
        meter: WeightMeter | None = None,
        *,
        access_weight: int = 0,
    ) -> StepsOutcome:
        """Run the next step of every migration that takes many blocks, as root.

        A step that fails is rolled back by itself, reported, and tried again in the
        next block. Runs first in every block, after :meth:`migrate`.

        Args:
            overlay: The block's.
            block: The block.
            meter: What all steps of the block may weigh.
            access_weight: What every access to the state weighs.
        """
        stepping = [pallet for pallet in self.pallets if steps(pallet)]
        if not stepping:
            return StepsOutcome(events=(), failures=())
        meter = meter or WeightMeter(UNLIMITED)

        def enter() -> Context:
            layer = overlay.metered(meter, access_weight)
            return self.context(layer, block, ROOT, meter)

        return step_pallets(self.context(overlay, block, ROOT), stepping, enter)

    def _bound(self, call: RuntimeCall) -> BoundCall:
        bound = self._calls.get(call.name)
        if bound is None:
            raise UnknownCallError("no such call", got=call.name[:80])
        return bound

    def _run_hooks(
        self,
        overlay: Overlay,
        block: BlockInfo,
        meter: WeightMeter | None,
        hooks: Iterable[Callable[[Context], None]],
    ) -> HooksOutcome:
        events: list[EmittedEvent] = []
        failures = []
        for pallet, hook in zip(self.pallets, hooks, strict=True):
            layer = overlay.child()
            ctx = self.context(layer, block, ROOT, meter)
            guard = CallGuard()
            with guard:
                hook(ctx)
            if guard.failure is not None:
                failures.append((pallet.name, guard.failure))
                continue
            layer.commit_to(overlay)
            events += ctx.emitted
        return HooksOutcome(events=tuple(events), failures=tuple(failures))


def _bind_calls(pallets: Iterable[Pallet]) -> Iterable[tuple[str, BoundCall]]:
    for pallet in pallets:
        for short_name, (method, weight) in declared_calls(pallet).items():
            name = f"{pallet.name}.{short_name}"
            yield name, BoundCall(name, method, weight)


def _name_events(pallets: Iterable[Pallet]) -> Iterable[tuple[type[Event], str]]:
    seen = set()
    for pallet in pallets:
        for event in pallet.events:
            if event in seen:
                raise RuntimeDefinitionError(
                    "two pallets declare one event class", got=event.__name__
                )
            seen.add(event)
            yield event, f"{pallet.name}.{event.__name__}"


def _run_genesis(pallet: Pallet, ctx: Context, config: Mapping[str, object]) -> None:
    method = getattr(pallet, "genesis", None)
    kind = genesis_type(pallet)
    if method is None or kind is None:
        if pallet.name in config:
            raise GenesisError(f"pallet {pallet.name} takes no configuration")
        if method is not None:
            method(ctx)
        return
    if pallet.name not in config:
        raise GenesisError(f"pallet {pallet.name} needs configuration")
    label = f"configuration of {pallet.name}"
    registry = TypeRegistry()
    spec = registry.describe(kind, label)
    values = Values({struct.name: struct for struct in registry.structs()})
    try:
        raw = encode(values.to_wire(spec, config[pallet.name], label))
        typed = decode(kind, raw, limit=len(raw))
    except (ValueMismatchError, DecodeError) as error:
        raise GenesisError(str(error)) from error
    method(ctx, typed)


def genesis_type(pallet: Pallet) -> type[msgspec.Struct] | None:
    """The type of a pallet's genesis configuration, if it takes any.

    Raises:
        RuntimeDefinitionError: ``config`` is not annotated with a struct.
    """
    method = getattr(type(pallet), "genesis", None)
    if method is None:
        return None
    parameters = list(inspect.signature(method).parameters)
    if len(parameters) <= 2:  # noqa: PLR2004 - self, ctx
        return None
    kind = typing.get_type_hints(method).get(parameters[2])
    if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
        raise RuntimeDefinitionError(
            f"genesis of pallet {pallet.name} has an untyped configuration", got=kind
        )
    return kind
