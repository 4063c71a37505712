"""Telling a running worker something: a socket in its home, for its operator alone.

One request a connection: a line of JSON, then so many bytes as it says. What comes
back are lines of JSON, the last of which says that it is the last. Mode 0600: who
may read the sealed keys may stage a bundle or have a snapshot made, nobody else.
"""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec

from sealift.base import SealiftError
from sealift.bundle import MAX_BUNDLE_BYTES
from sealift.transport.files import PRIVATE_MODE
from sealift.transport.http import error_body
from sealift.transport.tasks import until_one_ends

from ._errors import ControlError

SOCKET_FILE: Final = "control.sock"
#: What ``worker status`` shows of an instance.
INSTANCE_FIELDS: Final = (
    "mrenclave", "role", "state", "waits_for", "version", "generation", "imported",
    "lag", "state_height",
)  # fmt: skip
_MOST_LINE: Final = 64 * 1024
#: Connections at once, and seconds in which a request must have come whole.
_MOST_CLIENTS: Final = 8
_REQUEST_SECONDS: Final = 60.0


class StageRequest(msgspec.Struct, frozen=True, kw_only=True, tag="stage"):
    """Stage a bundle, whose ``size`` bytes follow; ``gramine`` is its folder."""

    size: int
    gramine: str = ""


class SnapshotRequest(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """Make a snapshot of the state as it is now; nothing follows."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far an instance is, and what it waits for.

    ``role`` is current, staged, previous or retired; ``state`` one of starting,
    down, notice, keys, state, following, ready, migrating, running, previous,
    retired. With ``last`` nothing more follows.
    """

    fingerprint: str
    version: str
    role: str
    state: str
    waits_for: str = ""
    generation: int | None = None
    upgrade_at: int | None = None
    head: int = 0
    imported: int | None = None
    state_height: int | None = None
    last: bool = False

    @property
    def lag(self) -> int | None:
        """Blocks of L1 that it has not verified."""
        return None if self.imported is None else max(self.head - 1 - self.imported, 0)

    def shown(self) -> dict[str, object]:
        """As ``worker status`` shows it."""
        shown = {name: getattr(self, name) for name in INSTANCE_FIELDS[1:]}
        return {"mrenclave": self.fingerprint, **shown}


class Made(msgspec.Struct, frozen=True, kw_only=True, tag="made"):
    """A snapshot was made: its name, and the block after which it is."""

    name: str
    height: int

    @property
    def last(self) -> bool:
        """Nothing more follows."""
        return True


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Why not; nothing follows."""

    code: str
    message: str
    hint: str = ""


_Asked: TypeAlias = StageRequest | SnapshotRequest
_Word: TypeAlias = Progress | Made | Refusal
_Told = TypeVar("_Told", Progress, Made)


class Operated(Protocol):
    """What an operator may ask of a running worker."""

    def stage(self, data: bytes, gramine: Path | None) -> AsyncGenerator[Progress]:
        """Stage a bundle, under Gramine with its folder, and say how it goes."""

    async def snapshot(self) -> Made:
        """Make a snapshot of the state as it is now."""


@contextmanager
def _short_path(home: Path) -> Iterator[str]:
    """The socket's path by the home's descriptor: others may be too long for one."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_FILE}"
    finally:
        os.close(descriptor)


@asynccontextmanager
async def control_socket(home: Path, worker: Operated) -> AsyncIterator[None]:
    """Hear requests while in the block. The home's lock must be held.

    Args:
        home: Where the socket is; one that an earlier run left is replaced.
        worker: Does what is asked.

    Raises:
        ControlError: There can be no socket.
    """
    path = home / SOCKET_FILE
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        _bind(listening, home)
        listening.setblocking(False)  # noqa: FBT003 - positional only
        served = _Server(worker)
        server = await asyncio.start_unix_server(
            served.serve, sock=listening, limit=_MOST_LINE
        )
    except OSError as error:
        listening.close()
        raise ControlError(
            f"the worker has no socket to be told anything ({error.strerror})",
            got=str(path),
        ) from error
    except ControlError:
        listening.close()
        raise
    try:
        yield
    finally:
        server.close()
        await served.end()
        with suppress(OSError):
            path.unlink()


def _bind(listening: socket.socket, home: Path) -> None:
    with _short_path(home) as short:
        listening.bind(short)
        Path(short).chmod(PRIVATE_MODE)  # nobody connects before it listens


def _make_way(path: Path) -> None:
    """Remove the socket of an earlier run, and nothing else."""
    if path.is_socket():
        path.unlink()
    elif path.exists():
        raise ControlError(
            "something else is where the worker's socket should be",
            got=str(path),
            hint="Move it away.",
        )


class _Server:
    def __init__(self, worker: Operated) -> None:
        self._worker = worker
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            if len(self._tasks) > _MOST_CLIENTS:
                raise ControlError(
                    "too many ask at once", expected=f"≤ {_MOST_CLIENTS}"
                )
            async with asyncio.timeout(_REQUEST_SECONDS):
                asked, data = await _request(reader)
            await self._tell(reader, writer, self._words(asked, data))
        except SealiftError as error:
            with suppress(OSError):
                await _say(writer, Refusal(**error_body(error)))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # it has gone; what was done stays done
        finally:
            if task is not None:
                self._tasks.discard(task)
            writer.close()

    def _words(self, asked: _Asked, data: bytes) -> AsyncGenerator[Progress | Made]:
        if isinstance(asked, SnapshotRequest):
            return self._made()
        gramine = Path(asked.gramine) if asked.gramine else None
        return self._worker.stage(data, gramine)

    async def _made(self) -> AsyncGenerator[Made]:
        yield await self._worker.snapshot()

    async def _tell(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        said: AsyncGenerator[Progress | Made],
    ) -> None:
        """Say how it goes, until all is said or nobody listens any more."""
        begun = asyncio.Event()

        async def tell() -> None:
            async with aclosing(said) as words:
                async for word in words:
                    begun.set()
                    await _say(writer, word)

        async def gone() -> None:
            await begun.wait()  # whoever goes before that has it done all the same
            await reader.read(1)

        await until_one_ends((asyncio.create_task(tell()), asyncio.create_task(gone())))

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> tuple[_Asked, bytes]:
    try:
        line = await reader.readline()
        asked = msgspec.json.decode(line, type=_Asked)
    except (ValueError, msgspec.MsgspecError) as error:  # too long, or nonsense
        raise ControlError(
            "this is no request", hint="Use the `sealift` that the worker runs."
        ) from error
    if isinstance(asked, SnapshotRequest):
        return asked, b""
    if not 0 < asked.size <= MAX_BUNDLE_BYTES:
        raise ControlError(
            "no bundle has this size",
            got=f"{asked.size} B",
            expected=f"1 to {MAX_BUNDLE_BYTES} B",
        )
    return asked, await reader.readexactly(asked.size)


async def _say(writer: asyncio.StreamWriter, word: _Word) -> None:
    writer.write(msgspec.json.encode(word) + b"\n")
    await writer.drain()


def worker_listens(home: Path) -> bool:
    """Whether a worker that runs on a home can be told something."""
    try:
        with (
            _short_path(home) as short,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
        ):
            probe.connect(short)
    except OSError:
        return False
    return True


async def stage_in_running(
    home: Path, data: bytes, *, gramine: Path | None = None
) -> AsyncGenerator[Progress]:
    """Have the running worker of a home stage a bundle; how it goes.

    Whoever stops listening leaves the staging as it is.

    Args:
        home: The worker's.
        data: The bundle's file.
        gramine: Under Gramine: the folder that was signed.

    Raises:
        ControlError: It cannot be told, or it has refused, by its own words.
    """
    asked = StageRequest(size=len(data), gramine=str(gramine) if gramine else "")
    hint = "What is staged goes on when it runs again; see `sealift worker status`."
    async with aclosing(_told(home, asked, Progress, data=data, hint=hint)) as words:
        async for word in words:
            yield word


async def snapshot_in_running(home: Path) -> Made:
    """Have the running worker of a home make a snapshot; it may take its time.

    Whoever stops waiting leaves the snapshot to be made.

    Args:
        home: The worker's.

    Raises:
        ControlError: It cannot be told, or it has refused, by its own words.
    """
    hint = "What it had written of the snapshot goes when it runs again."
    async with aclosing(_told(home, SnapshotRequest(), Made, hint=hint)) as words:
        return await anext(words)


async def _told(
    home: Path, asked: _Asked, kind: type[_Told], *, data: bytes = b"", hint: str
) -> AsyncGenerator[_Told]:
    """Ask, and hear what is said, until its last word; never none.

    Raises:
        ControlError: Why there is no last word; if the worker ends, with ``hint``.
    """
    try:
        with _short_path(home) as short:
            reader, writer = await asyncio.open_unix_connection(short, limit=_MOST_LINE)
    except OSError as error:
        raise ControlError(
            f"the worker of {home} cannot be told anything ({error.strerror})",
            expected="a running worker, and its user's or root's rights",
        ) from error
    try:
        writer.write(msgspec.json.encode(asked) + b"\n" + data)
        with suppress(OSError):  # a refusal may come before all is said
            await writer.drain()
        async for word in _words(reader):
            if not isinstance(word, kind):
                raise ControlError(
                    "the worker answers another question",
                    got=type(word).__name__,
                    expected=kind.__name__,
                )
            yield word
            if word.last:
                return
    finally:
        writer.close()
    raise ControlError("the worker has ended meanwhile", hint=hint)


async def _words(reader: asyncio.StreamReader) -> AsyncIterator[Progress | Made]:
    while True:
        try:
            line = await reader.readline()
            if not line:
                return
            word = msgspec.json.decode(line, type=_Word)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise ControlError(f"the worker talks nonsense ({error})") from error
        if isinstance(word, Refusal):
            raise ControlError(
                f"the worker refused ({word.code}): {word.message}", hint=word.hint
            )
        yield word
