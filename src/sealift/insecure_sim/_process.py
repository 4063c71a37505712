"""One child process: inherited descriptors only, ended and reaped by its pidfd.

A pidfd names exactly this process, also after its number was given to another;
the event loop is told of its end without threads, and nobody blocks in
``waitpid`` (facts/performance §8, trap 8).
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ._errors import EnclaveDiedError

_ENVIRONMENT = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


class ChildProcess:
    """A started process; made by :func:`spawn` within a running event loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal), or ``None`` while it runs."""
        return self._ended.result() if self._ended.done() else None

    def kill(self) -> None:
        """SIGKILL to this process and no other."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until it has ended; return the exit code."""
        return await asyncio.shield(self._ended)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(self._process.wait())


def spawn(
    command: Sequence[str],
    descriptors: tuple[int, ...],
    folder: Path,
    stderr: int | None,
) -> ChildProcess:
    """Start a process with these descriptors and no environment of ours.

    Args:
        command: Absolute program and its words.
        descriptors: Inherited under the same numbers; no others are.
        folder: Its working directory.
        stderr: A descriptor for its stderr; ``None``: nobody reads it.

    Raises:
        EnclaveDiedError: The program cannot be started.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the caller's fixed words
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if stderr is None else stderr,
            pass_fds=descriptors,
            close_fds=True,
            cwd=folder,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(command, error) from error
    try:
        return ChildProcess(process)
    except OSError as error:
        process.kill()
        process.wait()
        raise _not_started(command, error) from error


def _not_started(command: Sequence[str], error: OSError) -> EnclaveDiedError:
    return EnclaveDiedError(
        f"no enclave process can be started ({error.strerror})", got=command[0]
    )
