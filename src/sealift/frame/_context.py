"""What a running call sees: origin, block, state, events, weight."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from sealift.base import InvariantError, SealiftError, encode

from ._calls import CallFailure, EmittedEvent, Outcome, RuntimeCall
from ._errors import (
    CallPanickedError,
    DispatchDepthError,
    UndeclaredEventError,
    WeightExceededError,
)
from ._event import Event
from ._origin import BlockInfo, Origin
from ._state import Overlay

#: Calls may wrap calls so deep (``sudo`` in ``council`` in …).
MAX_DISPATCH_DEPTH = 8

#: What is never the outcome of a call: the process is in no state to go on,
#: or another process might have come further. It ends before anything of the
#: block leaves it.
PROCESS_ENDING = (MemoryError, RecursionError, SystemError, InvariantError)


class WeightMeter:
    """Counts work against a limit; one meter serves one block.

    Args:
        limit: Most weight that may be charged.
    """

    __slots__ = ("_limit", "_used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @property
    def used(self) -> int:
        """Weight charged so far."""
        return self._used

    @property
    def left(self) -> int:
        """Weight that may still be charged."""
        return self._limit - self._used

    def charge(self, weight: int) -> None:
        """Charge for work before it is done.

        Raises:
            WeightExceededError: More than is left; nothing was charged.
        """
        used = self._used + weight
        if weight < 0 or used > self._limit:
            raise WeightExceededError(
                "out of weight", got=weight, expected=f"0 … {self.left}"
            )
        self._used = used


class Dispatcher(Protocol):
    """What a context needs of its runtime."""

    @property
    def event_names(self) -> Mapping[type[Event], str]:
        """``pallet.Event`` of every declared event class."""
        ...

    def invoke(self, ctx: "Context", call: RuntimeCall) -> None:
        """Charge, decode and run a call in this context."""
        ...


class Context:
    """Everything a pallet may know or do while it runs.

    Attributes:
        origin: Who speaks.
        block: The block; its time is the only clock.
        storage: The overlay of this call.
        meter: Weight of the block.
    """

    __slots__ = ("_depth", "_events", "_runtime", "block", "meter", "origin", "storage")

    def __init__(
        self,
        *,
        runtime: Dispatcher,
        origin: Origin,
        block: BlockInfo,
        storage: Overlay,
        meter: WeightMeter,
        depth: int = 0,
    ) -> None:
        self.origin = origin
        self.block = block
        self.storage = storage
        self.meter = meter
        self._runtime = runtime
        self._events: list[EmittedEvent] = []
        self._depth = depth

    @property
    def weight(self) -> int:
        """Weight charged so far in this block."""
        return self.meter.used

    @property
    def emitted(self) -> tuple[EmittedEvent, ...]:
        """Events so far, in order."""
        return tuple(self._events)

    def charge(self, extra: int) -> None:
        """Charge for data-dependent work, before doing it.

        Raises:
            WeightExceededError: The block has less left.
        """
        self.meter.charge(extra)

    def emit(self, event: Event) -> None:
        """Tell the outside, if the call succeeds.

        Raises:
            UndeclaredEventError: No pallet declares this event class.
        """
        name = self._runtime.event_names.get(type(event))
        if name is None:
            raise UndeclaredEventError(
                "event is not declared",
                got=type(event).__name__,
                hint="Add it to the pallet's `events`",
            )
        self._events.append(EmittedEvent(name=name, data=encode(event)))

    def dispatch(self, call: RuntimeCall, origin: Origin) -> None:
        """Run another call inside this one, all or nothing.

        What the inner call raises goes through, so that a wrapper that does
        not catch it fails together with its inner call.

        Raises:
            DispatchDepthError: Wrapped too deep.
            CallPanickedError: The inner call raised what is no refusal.
            SealiftError: The inner call's refusal.
        """
        if self._depth >= MAX_DISPATCH_DEPTH:
            raise DispatchDepthError(
                "calls are wrapped too deep", expected=f"≤ {MAX_DISPATCH_DEPTH}"
            )
        guard = self._all_or_nothing(
            lambda inner: self._runtime.invoke(inner, call), origin
        )
        if guard.error is not None:
            raise guard.error

    def attempt(self, act: Callable[["Context"], None]) -> CallFailure | None:
        """Do something all or nothing, and learn why it failed, if it did.

        For hooks and votes, where there is nobody whose call could fail.
        """
        return self._all_or_nothing(act, self.origin).failure

    def _all_or_nothing(
        self, act: Callable[["Context"], None], origin: Origin
    ) -> "CallGuard":
        inner = Context(
            runtime=self._runtime,
            origin=origin,
            block=self.block,
            storage=self.storage.child(),
            meter=self.meter,
            depth=self._depth + 1,
        )
        guard = CallGuard()
        with guard:
            act(inner)
        if guard.error is None:
            inner.storage.commit_to(self.storage)
            self._events += inner._events
        return guard

    def try_dispatch(self, call: RuntimeCall, origin: Origin) -> Outcome:
        """Run another call inside this one and learn whether it failed.

        For governance, where a motion is executed once whatever comes of it.
        The inner events are among this call's; the outcome repeats them.
        """
        spent = self.meter.used
        told = len(self._events)
        guard = CallGuard()
        with guard:
            self.dispatch(call, origin)
        return Outcome(
            failure=guard.failure,
            events=tuple(self._events[told:]),
            weight=self.meter.used - spent,
        )


class CallGuard:
    """Turns what a call raises into its failure; use as ``with guard:``.

    * ``PalletError`` and every other refusal of Sealift keep their name.
    * Any other exception is a bug in application code. It must not stop a
      block, so it becomes a ``CallPanickedError`` that names the class of the
      exception and nothing else. The rule is a list of exceptions to it, not
      a list of what it covers: a class an application defined itself, missing
      from such a list, would let one call stop a shard.
    * ``MemoryError``, ``RecursionError``, ``SystemError``, ``InvariantError``
      and whatever is no ``Exception`` (``KeyboardInterrupt``, ``SystemExit``)
      go through, and so does what was raised while a ``MemoryError`` was being
      handled: another machine would have come further.
    """

    __slots__ = ("error", "failure")

    def __init__(self) -> None:
        self.error: SealiftError | None = None
        self.failure: CallFailure | None = None

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Keep the failure, unless it is one that ends the process."""
        if error is None:
            return True
        if not isinstance(error, Exception) or _ends_process(error):
            return False
        if not isinstance(error, SealiftError):
            error = CallPanickedError(type(error).__name__)
        self.error = error.with_traceback(None)
        self.failure = CallFailure(code=error.code, message=str(error))
        return True


def _ends_process(error: Exception) -> bool:
    if isinstance(error, PROCESS_ENDING):
        return True
    behind: list[BaseException | None] = [error]
    seen: set[int] = set()  # ``raise error from error`` is its own cause
    while behind:
        one = behind.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, MemoryError):
            return True
        seen.add(id(one))
        behind += (one.__cause__, one.__context__)
    return False
