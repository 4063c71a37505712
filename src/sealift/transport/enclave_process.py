"""An enclave's process and the channel to it: frames, and nothing else inherited.

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
from typing import Self

from sealift.base import SealiftError, frame
from sealift.bundle import Manifest, VerifiedBundle

_ENVIRONMENT = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


_PREFIX = 4


class EnclaveDiedError(SealiftError):
    """The enclave process has ended, or closed its end of the channel."""


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
    streams: tuple[int, int] | None = None,
) -> ChildProcess:
    """Start a process with these descriptors and no environment of ours.

    Args:
        command: Absolute program and its words.
        descriptors: Inherited under the same numbers; no others are.
        folder: Its working directory.
        stderr: A descriptor for its stderr; ``None``: nobody reads it.
        streams: Descriptors for stdin and stdout; ``None``: neither has any.

    Raises:
        EnclaveDiedError: The program cannot be started.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the caller's fixed words
            command,
            stdin=subprocess.DEVNULL if streams is None else streams[0],
            stdout=subprocess.DEVNULL if streams is None else streams[1],
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


class RunningEnclave:
    """An enclave's process, and the channel of frames to it.

    Made by a platform that started it; an async context manager that kills it.

    Args:
        bundle: What runs.
        process: Where.
        host: The host's end of the channel.
        frame_limit: Most bytes of one reply.
        platform_task: What answers the process as its platform, if the host does.
        reading: What the replies come by, if it is another than they go by.
    """

    def __init__(
        self,
        *,
        bundle: VerifiedBundle,
        process: ChildProcess,
        host: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        frame_limit: int,
        platform_task: asyncio.Task[None] | None = None,
        reading: asyncio.BaseTransport | None = None,
    ) -> None:
        self.bundle = bundle
        self._process = process
        self._reader, self._writer = host
        self._platform_task = platform_task
        self._reading = reading
        self._frame_limit = frame_limit
        self._turn = asyncio.Lock()

    @property
    def manifest(self) -> Manifest:
        """The manifest of what runs."""
        return self.bundle.bundle.manifest

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not been seen to end."""
        return self._process.returncode is None

    async def call(self, payload: bytes) -> bytes:
        """Send one frame and wait for the one that answers it; in turn.

        A call that is cancelled leaves the channel out of step, so the
        process is killed.

        Raises:
            EnclaveDiedError: The process has ended or closed the channel, or
                announces more than the frame limit.
        """
        async with self._turn:
            try:
                self._writer.write(frame(payload))
                await self._writer.drain()
                return await self._read_reply()
            except (asyncio.IncompleteReadError, OSError) as error:
                await self.kill()
                raise EnclaveDiedError(
                    "the enclave process has ended",
                    got=f"exit code {self._process.returncode}",
                    hint="Start it with a file for diagnostics to see why.",
                ) from error
            except (asyncio.CancelledError, EnclaveDiedError):
                await self.kill()
                raise

    async def _read_reply(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(_PREFIX), "little")
        if size > self._frame_limit:
            raise EnclaveDiedError(
                "reply of the enclave is too large",
                got=f"{size} B",
                expected=f"≤ {self._frame_limit} B",
            )
        return await self._reader.readexactly(size)

    async def stop(self, *, grace: float = 5.0) -> int:
        """Close the host channel, wait, kill if need be; return the exit code.

        Args:
            grace: Seconds that the process has to end by itself.
        """
        self._writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._process.wait()
        return await self.kill()

    async def kill(self) -> int:
        """SIGKILL to this process alone, and reap it; return the exit code."""
        self._process.kill()
        code = await self._process.wait()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._reading is not None:
            self._reading.close()
        if self._platform_task is not None:
            self._platform_task.cancel()
            await asyncio.wait([self._platform_task])
        return code

    async def wait(self) -> int:
        """Wait until the process has ended by itself; return the exit code."""
        return await self._process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
