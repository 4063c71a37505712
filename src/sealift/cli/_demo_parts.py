"""What the demo shows while it runs, and the processes that it runs."""

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sealift.base import SealiftError
from sealift.transport.process import ChildProcess, ProcessSpec, start_process

from ._demo_stage import Stage

STEPS = (
    "the old worker runs",
    "the authority schedules the new fingerprint",
    "the new worker requests the keys",
    "the old enclave provisions the new one",
    "the new worker runs on its own port",
    "it announces itself on L1",
    "it follows the chain without executing",
    "at XYZ the old enclave stops by itself",
    "the new enclave executes from XYZ",
)
_READY = r"^ready (https?://[0-9.]+:[0-9]+)"
#: Seconds before the demo gives up waiting for something.
PATIENCE = 120.0
#: How the parts of Sealift are started.
SEALIFT: tuple[str, ...] = (sys.executable, "-m", "sealift")


class DemoError(SealiftError):
    """The demo could not be carried on."""


@dataclass(slots=True)
class Step:
    """One of the nine, and how long it took."""

    number: int
    name: str
    milliseconds: float | None = None


@dataclass(slots=True)
class Check:
    """Something that must hold at the end."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Progress:
    """What the live display shows."""

    steps: list[Step] = field(
        default_factory=lambda: [Step(n, name) for n, name in enumerate(STEPS, 1)]
    )
    current: int = 0
    note: str = "preparing"
    upgrade_at: int | None = None
    checks: list[Check] = field(default_factory=list)
    ports: dict[str, str] = field(default_factory=dict)
    decision: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def step(self, number: int) -> AsyncIterator[None]:
        """Time one of the nine steps, 1 … 9, and show that it runs."""
        step = self.steps[number - 1]
        self.current = number
        self.note = step.name
        began = time.monotonic()
        yield
        step.milliseconds = (time.monotonic() - began) * 1000

    def decided(self, line: str) -> None:
        """Note how the authority gets on."""
        self.decision.append(line)
        self.note = line

    def check(self, name: str, ok: bool, detail: str) -> None:  # noqa: FBT001
        """Note a check."""
        self.checks.append(Check(name, ok, detail))


class Processes:
    """The demo's child processes, stopped by their own pids whatever happens.

    Args:
        stage: Where they live.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._running: dict[str, ChildProcess] = {}

    async def start(self, name: str, *words: str) -> str:
        """Start a part of Sealift; the URL in its readiness line."""
        child = await start_process(
            ProcessSpec(
                argv=(*SEALIFT, *words),
                log=self._stage.folder / f"{name}.log",
            )
        )
        self._running[name] = child
        line = await child.wait_for_line(_READY, within=PATIENCE)
        return line.group(1)

    async def finish(self, name: str, *words: str) -> None:
        """Run a command of Sealift to its end; it must succeed.

        Raises:
            DemoError: It does not.
        """
        child = await start_process(
            ProcessSpec(
                argv=(*SEALIFT, *words),
                log=self._stage.folder / f"{name}.log",
            )
        )
        self._running[name] = child
        code = await child.wait()
        del self._running[name]
        if code:
            raise DemoError(
                f"`sealift {words[0]} {words[1]}` failed",
                got=f"exit code {code}: {child.output()[-600:]}",
                hint=f"Its log is {self._stage.folder / name}.log.",
            )

    async def stop(self, name: str) -> None:
        """Ask one to end, and wait."""
        child = self._running.pop(name)
        await child.stop()

    async def stop_all(self) -> None:
        """End whatever still runs, the last started first."""
        for name in reversed(list(self._running)):
            with contextlib.suppress(SealiftError):
                await self.stop(name)
