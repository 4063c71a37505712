"""Services that are kept running: started again when they die, ended as one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from sealift.base import InvariantError

from .clock import Clock
from .files import read_json, write_durably
from .leash import leashed
from .marks import ProcessMark, end_process, mark_of
from .process import (
    ChildProcess,
    ProcessNotReadyError,
    ProcessSpec,
    ProcessStartError,
    start_process,
)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: Whoever lived so long gets a new beginning: the next pause is the first again.
_LONG_LIFE: Final = 60.0
_MOST_DOUBLINGS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One program to keep running.

    Attributes:
        name: For people and logs.
        argv: Program and arguments; it is put on a leash.
        log: Gets its output, appended.
        ready: What a line of its output looks like when it is ready.
        within: Seconds that it may take until then.
        grace: Seconds between asking it to end and ending it.
    """

    name: str
    argv: Sequence[str]
    log: Path
    ready: str
    within: float = 120.0
    grace: float = 25.0


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """How one service stands, as it is written down.

    ``state`` is ``starting``, ``ready``, ``waiting`` (it died and is started again
    soon) or ``stopped``; ``last`` says how it ended last.
    """

    name: str
    state: str
    mark: ProcessMark | None = None
    restarts: int = 0
    line: str = ""
    last: str = ""


@dataclass(slots=True)
class _Kept:
    service: Service
    task: "asyncio.Task[None]"
    ready: "asyncio.Future[str]"
    state: ServiceState
    child: ChildProcess | None = field(default=None)


class Supervisor:
    """Keeps services running; use :meth:`stop_all` in a ``finally``.

    Guarantees that a service that dies is started again after a pause that grows
    from half a second to half a minute, that this is said, and that nothing that
    it started outlives it: it stops them, and should it be killed, the kernel asks
    them to end.

    Args:
        say: Gets a line whenever something happens.
        changed: Called after each change of a state.
        clock: For the length of lives.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], None],
        changed: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._say = say
        self._changed = changed
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def states(self) -> tuple[ServiceState, ...]:
        """All services, in the order in which they were started."""
        return tuple(kept.state for kept in self._kept.values())

    async def start(self, service: Service) -> str:
        """Start a service and keep it; its readiness line.

        The first start must succeed: only later ones are tried again.

        Raises:
            ProcessStartError: It cannot be started.
            ProcessNotReadyError: It ended, or was not ready in time.
        """
        if service.name in self._kept:
            raise InvariantError("this service is kept already", got=service.name)
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        state = ServiceState(name=service.name, state="starting")
        kept = _Kept(
            service=service,
            task=asyncio.create_task(self._keep(service.name)),
            ready=ready,
            state=state,
        )
        self._kept[service.name] = kept
        return await asyncio.shield(ready)

    async def stop(self, name: str) -> None:
        """Ask one to end, wait, and keep it no longer; harmless if it is not kept."""
        kept = self._kept.get(name)
        if kept is None:
            return
        kept.task.cancel()
        await asyncio.gather(kept.task, return_exceptions=True)
        self._note(kept, state="stopped", mark=None)
        if not kept.ready.done():
            kept.ready.cancel()

    async def stop_all(self) -> None:
        """Stop everything: the last started first, those of a kind together."""
        names = list(reversed(self._kept))
        await asyncio.gather(*(self.stop(name) for name in names))

    async def _keep(self, name: str) -> None:
        kept = self._kept[name]
        deaths = 0
        while True:
            began = self._clock.monotonic()
            try:
                ended = await self._live(kept)
            except (ProcessStartError, ProcessNotReadyError) as error:
                if not kept.ready.done():
                    kept.ready.set_exception(error)
                    kept.ready.exception()  # looked at: start() may be gone
                    self._note(kept, state="stopped", mark=None, last=str(error))
                    return
                ended = "did not become ready"
            if self._clock.monotonic() - began >= _LONG_LIFE:
                deaths = 0
            pause = min(
                _LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(deaths, _MOST_DOUBLINGS)
            )
            deaths += 1
            self._say(f"{name} {ended}; it is started again in {pause:g} s")
            self._note(
                kept,
                state="waiting",
                mark=None,
                last=ended,
                restarts=kept.state.restarts + 1,
            )
            await asyncio.sleep(pause)
            self._note(kept, state="starting")

    async def _live(self, kept: _Kept) -> str:
        """One life of a service; how it ended."""
        service = kept.service
        child = await start_process(
            ProcessSpec(
                argv=leashed(service.argv), log=service.log, grace=service.grace
            )
        )
        try:
            self._note(kept, mark=mark_of(child.pid))
            found = await child.wait_for_line(service.ready, within=service.within)
            line = found.string
            self._note(kept, state="ready", line=line)
            self._say(f"{service.name}: {line}")
            if not kept.ready.done():
                kept.ready.set_result(line)
            code = await child.wait()
            return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        finally:
            await asyncio.shield(child.stop())

    def _note(self, kept: _Kept, **changes: object) -> None:
        kept.state = msgspec.structs.replace(kept.state, **changes)
        self._changed()


class SupervisorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor writes down: itself, its services, whether all is up."""

    supervisor: ProcessMark
    ready: bool
    services: tuple[ServiceState, ...] = ()


def write_record(path: Path, record: SupervisorRecord) -> None:
    """Write it down, whole.

    Raises:
        FileError: It cannot be written.
    """
    write_durably(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def read_record(path: Path) -> SupervisorRecord | None:
    """What the last supervisor wrote; ``None`` if none ever did.

    Raises:
        UnreadableFileError: Something else; it is kept.
    """
    if not path.is_file():
        return None
    return read_json(path, SupervisorRecord, what="supervisor record")


async def end_recorded(record: SupervisorRecord, *, grace: float) -> list[str]:
    """End whatever of a record still runs, the supervisor first; their names.

    Only the very processes that were recorded are touched.

    Args:
        record: Of a supervisor of this machine.
        grace: Seconds that the supervisor has to stop its services; they have the
            same again.
    """
    ended = []
    if await end_process(record.supervisor, grace=grace):
        ended.append("supervisor")
    marks = {one.name: one.mark for one in record.services if one.mark is not None}
    found = await asyncio.gather(
        *(end_process(mark, grace=grace) for mark in marks.values())
    )
    ended += [name for name, ran in zip(marks, found, strict=True) if ran]
    return ended
