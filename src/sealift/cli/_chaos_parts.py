"""Processes that are started again whenever they end, and how one kills them.

Everything is stopped by its own pid, also after a failure; should this process
itself be killed, the kernel asks what it started to end.
"""

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sealift.base import InvariantError, SealiftError
from sealift.transport.leash import leashed
from sealift.transport.process import (
    ChildProcess,
    ProcessNotReadyError,
    ProcessSpec,
    start_process,
)

from ._demo_parts import SEALIFT

READY: Final = r"^ready (https?://[0-9.]+:[0-9]+)"
#: Seconds before somebody waits no longer.
PATIENCE: Final = 120.0
_AGAIN_SECONDS: Final = 0.1


class ChaosError(SealiftError):
    """A run of the campaign did not get on."""


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in (task / "children").read_text().split()]
    return found


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended once."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """Its last words."""
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass(slots=True)
class Part:
    """A process that is started again whenever it ends, until it is stopped.

    Args:
        words: After ``argv``.
        log: Gets its output, appended.
        argv: The program.
    """

    words: tuple[str, ...]
    log: Path
    argv: tuple[str, ...] = SEALIFT
    child: ChildProcess | None = None
    url: str = ""
    wanted: bool = True
    ended: list[Ended] = field(default_factory=list)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    async def start(self) -> ChildProcess:
        """Start it once, on a leash."""
        argv = leashed((*self.argv, *self.words))
        self.child = await start_process(
            ProcessSpec(argv=argv, log=self.log, grace=PATIENCE)
        )
        return self.child

    async def supervise(self) -> None:
        """Keep it running."""
        while self.wanted:
            child = await self.start()
            with contextlib.suppress(ProcessNotReadyError):
                line = await child.wait_for_line(READY, within=PATIENCE)
                self.url = line.group(1)
                self.up.set()
            code = await child.wait()
            self.up.clear()
            self.ended.append(Ended(code, child.output()))
            await asyncio.sleep(_AGAIN_SECONDS)

    @property
    def pid(self) -> int:
        """The process id of its newest life.

        Raises:
            InvariantError: It was never started.
        """
        if self.child is None:
            raise InvariantError("not started", got=" ".join(self.words))
        return self.child.pid

    def strike(self, pid: int) -> bool:
        """SIGKILL to it or to what it cannot live without; whether that ran.

        Whoever waits for it to be up waits for its next life.
        """
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.up.clear()
        return True


class Parts:
    """The processes of one run by name; use :meth:`close` in a ``finally``.

    Args:
        folder: Gets their logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, Part] = {}

    def spawn(self, name: str, *words: str, argv: tuple[str, ...] = SEALIFT) -> Part:
        """Start something, and again whenever it ends."""
        part = Part(words=words, log=self.folder / f"{name}.log", argv=argv)
        self.parts[name] = part
        part.task = asyncio.create_task(part.supervise())
        return part

    async def up(self, name: str) -> str:
        """Until it has said its URL.

        Raises:
            ChaosError: It does not in time.
        """
        part = self.parts[name]
        try:
            async with asyncio.timeout(PATIENCE):
                await part.up.wait()
        except TimeoutError:
            raise ChaosError(f"the {name} does not come up", got=self.words()) from None
        return part.url

    async def stop(self, name: str) -> int:
        """Ask it to end and do not start it again; its exit code."""
        part = self.parts.pop(name)
        part.wanted = False
        code = 0
        if part.child is not None:
            code = await part.child.stop()
        if part.task is not None:
            part.task.cancel()
            await asyncio.gather(part.task, return_exceptions=True)
            if part.child is not None:  # it may have been started meanwhile
                await part.child.stop()
        return code

    def kill(self, name: str) -> bool:
        """SIGKILL to this one process alone; whether it ran."""
        part = self.parts[name]
        if part.child is None or part.child.exit_code is not None:
            return False
        return part.strike(part.pid)

    def kill_enclave(self, name: str) -> bool:
        """SIGKILL to the enclave of a worker; whether there was one."""
        part = self.parts[name]
        if part.child is None or part.child.exit_code is not None:
            return False
        struck = [part.strike(pid) for pid in children(part.pid)]
        return any(struck)

    def kill_one_enclave(self, name: str, code: str) -> bool:
        """SIGKILL to the enclave of one code, of the several of a worker.

        The worker lives on, and starts it again; if it was the only one, it ends.

        Args:
            name: The worker.
            code: The fingerprint in hex, by which its bundle's folder is named.
        """
        part = self.parts[name]
        if part.child is None or part.child.exit_code is not None:
            return False
        for pid in children(part.pid):
            with contextlib.suppress(OSError):
                if code.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def words(self) -> str:
        """The last words of all processes, to look into."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}"
            for log in sorted(self.folder.glob("*.log"))
        )

    async def close(self) -> None:
        """End everything, the last started first."""
        for name in reversed(list(self.parts)):
            await self.stop(name)
