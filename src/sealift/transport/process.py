"""Supervised child processes: started, awaited, stopped by their own pid, reaped.

A child writes to a log file of its own, so it outlives nobody's pipe; the
parent reads that file to learn when it is ready. Everything is awaited on the
event loop: no call here blocks it.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealift.base import SealiftError

_POLL_SECONDS: Final = 0.02
_TAIL_BYTES: Final = 2_000
_LOG_LIMIT: Final = 64 * 1024 * 1024


class ProcessStartError(SealiftError):
    """A child process could not be started at all."""


class ProcessNotReadyError(SealiftError):
    """A child process did not say in time that it is ready, or ended first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to start.

    Attributes:
        argv: Program and arguments; never a shell.
        log: File that gets its standard output and error, appended.
        cwd: Its working folder.
        env: Its whole environment; ``None`` inherits ours.
        grace: Seconds between asking it to end and ending it.
    """

    argv: Sequence[str]
    log: Path
    cwd: Path | None = None
    env: Mapping[str, str] | None = None
    grace: float = 5.0


class ChildProcess:
    """One child, in a process group of its own; made by :func:`child_process`."""

    def __init__(
        self, spec: ProcessSpec, process: asyncio.subprocess.Process, start: int
    ) -> None:
        self._spec = spec
        self._process = process
        self._start = start

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal); ``None`` while it runs."""
        return self._process.returncode

    def output(self) -> str:
        """What it has written since it was started."""
        with self._spec.log.open("rb") as log:
            log.seek(self._start)
            return log.read(_LOG_LIMIT).decode(errors="replace")

    async def wait_for_line(self, pattern: str, *, within: float) -> re.Match[str]:
        """The first line that matches; how a child says that it is ready.

        Args:
            pattern: Regular expression, searched in each whole line.
            within: Most seconds to wait.

        Raises:
            ProcessNotReadyError: Not in time, or it ended first.
        """
        wanted = re.compile(pattern)
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while True:
            ended = self.exit_code is not None  # before the last look at the log
            for line in self.output().splitlines(keepends=True):
                found = wanted.search(line.rstrip("\n"))
                if found is not None and line.endswith("\n"):
                    return found
            if ended or loop.time() >= end:
                raise ProcessNotReadyError(
                    f"{Path(self._spec.argv[0]).name} did not become ready",
                    got=f"exit code {self.exit_code}, output:\n{self._tail()}",
                    expected=f"a line like {pattern!r} within {within} s",
                    hint=f"See {self._spec.log}",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def wait(self) -> int:
        """Wait until it ends; its exit code (negative: by that signal)."""
        return await self._process.wait()

    async def stop(self) -> int:
        """Ask it and its group to end; after the grace, end what is left.

        Harmless if it has ended.

        Returns:
            Its exit code.
        """
        if self.exit_code is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._spec.grace):
                    return await self._process.wait()
            except TimeoutError:
                return await self.kill()
        return await self._process.wait()

    async def kill(self) -> int:
        """End it and all it has started at once; reap it.

        Returns:
            Its exit code.
        """
        if self.exit_code is None:
            self._signal(signal.SIGKILL)
        return await self._process.wait()

    def _signal(self, which: signal.Signals) -> None:
        """Send to the group; ``Popen.send_signal`` would reap the child first.

        An exit code that it took from the loop's watcher would be lost.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, which)

    def _tail(self) -> str:
        return self.output()[-_TAIL_BYTES:]


async def start_process(spec: ProcessSpec) -> ChildProcess:
    """Start a child; the caller must stop it.

    Raises:
        ProcessStartError: No such program, or the log cannot be opened.
    """
    try:
        with spec.log.open("ab") as log:
            start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                cwd=spec.cwd,
                env=None if spec.env is None else dict(spec.env),
                start_new_session=True,
            )
    except OSError as error:
        raise ProcessStartError(
            f"cannot start {spec.argv[0]} ({error.strerror})", got=str(spec.log)
        ) from error
    return ChildProcess(spec, process, start)


@contextlib.asynccontextmanager
async def child_process(spec: ProcessSpec) -> AsyncIterator[ChildProcess]:
    """A child that runs while in the block and never after it.

    Raises:
        ProcessStartError: It cannot be started.
    """
    child = await start_process(spec)
    try:
        yield child
    finally:
        await asyncio.shield(child.stop())


async def wait_for_stop() -> signal.Signals:
    """Return when somebody asks this process to end: SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[signal.Signals] = loop.create_future()

    def ask(which: signal.Signals) -> None:
        if not asked.done():
            asked.set_result(which)

    wanted = (signal.SIGINT, signal.SIGTERM)
    for one in wanted:
        loop.add_signal_handler(one, ask, one)
    try:
        return await asked
    finally:
        for one in wanted:
            loop.remove_signal_handler(one)
