"""The ABCI socket: four connections of one CometBFT node to one ledger."""

import asyncio
import contextlib
import logging
import os
import socket as sockets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from sealift.base import InvariantError, SealiftError
from sealift.ledger import LedgerGenesisError, LedgerHeightError
from sealift.node import Application, ForeignChainError
from sealift.relay import UnsupportedKeyError
from sealift.transport.files import hold_lock, make_folder

from ._application import AbciApplication
from ._errors import (
    AbciConnectionsError,
    AbciFormatError,
    AbciGenesisError,
    AbciOrderError,
    AbciSocketError,
    AbciValidatorsError,
)
from ._frames import AbciFrameReader
from ._messages import (
    ABORT,
    ApplySnapshotChunkRequest,
    ApplySnapshotChunkResponse,
    CheckTxRequest,
    CommitRequest,
    EchoRequest,
    EchoResponse,
    ExceptionResponse,
    ExtendVoteRequest,
    ExtendVoteResponse,
    FinalizeBlockRequest,
    FlushRequest,
    FlushResponse,
    InfoRequest,
    InitChainRequest,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    LoadSnapshotChunkRequest,
    LoadSnapshotChunkResponse,
    OfferSnapshotRequest,
    OfferSnapshotResponse,
    PrepareProposalRequest,
    ProcessProposalRequest,
    QueryRequest,
    Request,
    Response,
    VerifyVoteExtensionRequest,
    parse_request,
    render_response,
)

T = TypeVar("T")
_CHUNK: Final = 1 << 16
#: Others than the owner could drive the ledger through the socket.
_OWNER_ONLY: Final = 0o177
#: Requests with one answer. There are no snapshots and no vote extensions yet.
_FIXED: Final[Mapping[type[Request], Response]] = {
    FlushRequest: FlushResponse(),
    ListSnapshotsRequest: ListSnapshotsResponse(),
    OfferSnapshotRequest: OfferSnapshotResponse(result=ABORT),
    LoadSnapshotChunkRequest: LoadSnapshotChunkResponse(),
    ApplySnapshotChunkRequest: ApplySnapshotChunkResponse(result=ABORT),
    ExtendVoteRequest: ExtendVoteResponse(),
}
#: After a failure of these the state is in doubt: only a new process goes on.
_DECISIVE: Final = (InitChainRequest, FinalizeBlockRequest, CommitRequest)
#: But not after these: nothing was done, and the next node may do better.
_REFUSALS: Final = (
    AbciGenesisError,
    AbciOrderError,
    AbciValidatorsError,
    ForeignChainError,
    LedgerGenesisError,
    LedgerHeightError,
    UnsupportedKeyError,
)
#: What a node opens: consensus, mempool, query, snapshot.
MOST_CONNECTIONS: Final = 4
#: So long a further one waits: the node before may have died just now, and its
#: last request is not done yet.
PATIENCE_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


class AbciServer:
    """Answers the connections of one node; made by :func:`run_abci`.

    Guarantees answers in the order of the requests of a connection, none later
    than its ``Flush``; one request at a time that touches the working state,
    while ``Info`` and ``Query`` are answered at once from what is durable.

    A refusal is an ``Exception`` response and the end of its connection, which
    stops the node; the server goes on and serves the next one. An ``InitChain``,
    ``FinalizeBlock`` or ``Commit`` that fails half done ends the server too. No
    more than one node's connections are served at a time.

    Args:
        application: What the messages act on.
        patience: Seconds that a connection too many waits for a place.
    """

    def __init__(
        self, application: AbciApplication, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._application = application
        self._patience = patience
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)
        self._turn = asyncio.Lock()
        self._connections: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def application(self) -> AbciApplication:
        """What stands behind the socket."""
        return self._application

    async def failed(self) -> None:
        """Wait until the state is in doubt; never returns normally.

        Raises:
            SealiftError: Why; the process should end.
        """
        await asyncio.shield(self._failure)

    def connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take a connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """End all connections; what is being written is finished first."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._application.stop_reading()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # looked at: failed() may never run

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with self._place():
                await self._converse(reader, writer)
        except ConnectionError as error:
            _log.info("the node closed a connection (%s)", error)
        except SealiftError as error:
            _log.error("refused: %s", error)
            await _refuse(writer, error)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError as error:
            raise AbciConnectionsError(
                "all connections of a node are taken",
                got=MOST_CONNECTIONS + 1,
                expected=f"≤ {MOST_CONNECTIONS}",
                hint="One ledger serves one node; stop the other program",
            ) from error
        try:
            yield
        finally:
            self._places.release()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        frames, answers = AbciFrameReader(), bytearray()
        try:
            while data := await reader.read(_CHUNK):
                for message in frames.feed(data):
                    request = parse_request(message)
                    answers += render_response(await self._handle(request))
                    if isinstance(request, FlushRequest) or len(answers) > _CHUNK:
                        await _write(writer, answers)
                await _write(writer, answers)
        finally:  # what was answered before a refusal is told before it
            writer.write(bytes(answers))
        if frames.pending:
            raise AbciFormatError(
                "connection ended within a message",
                got=f"{frames.pending} B of it",
                expected="a whole message",
            )

    async def _handle(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except SealiftError as error:
            if isinstance(request, _DECISIVE) and not isinstance(error, _REFUSALS):
                self._fail(error)
            raise

    async def _answer(self, request: Request) -> Response:
        fixed = _FIXED.get(type(request))
        if fixed is not None:
            return fixed
        read = await self._read(request)
        if read is not None:
            return read
        async with self._turn:
            return await self._act(request)

    async def _read(self, request: Request) -> Response | None:
        """What needs no turn."""
        application = self._application
        match request:
            case EchoRequest():
                return EchoResponse(message=request.message)
            case InfoRequest():
                return application.info(request)
            case QueryRequest():
                return await application.query(request)
            case VerifyVoteExtensionRequest():
                return application.verify_vote_extension(request)
            case _:
                return None

    async def _act(self, request: Request) -> Response:
        application = self._application
        match request:
            case CheckTxRequest():
                return application.check_tx(request)
            case PrepareProposalRequest():
                return await _in_thread(lambda: application.prepare_proposal(request))
            case ProcessProposalRequest():
                return await _in_thread(lambda: application.process_proposal(request))
            case InitChainRequest():
                return application.init_chain(request)
            case FinalizeBlockRequest():
                return await _in_thread(lambda: application.finalize_block(request))
            case CommitRequest():
                await _in_thread(application.persist)
                return application.adopt()
            case _:
                raise InvariantError("nobody answers", got=type(request).__name__)


@contextlib.asynccontextmanager
async def run_abci(
    home: Path,
    *,
    socket: Path,
    application: Application,
    patience: float = PATIENCE_SECONDS,
) -> AsyncIterator[AbciServer]:
    """Serve the ledger of a home on a unix socket while in the block.

    Args:
        home: Folder of the ledger's state; made if it is not there.
        socket: Where CometBFT's ``proxy_app`` points (``unix://…``); a socket
            that a dead process left there is replaced.
        application: The state machine, without state.
        patience: Seconds that a connection too many waits for a place.

    Raises:
        FileLockedError: Another process runs on this home.
        ChainStoreError: The state cannot be read.
        AbciSocketError: The socket cannot be opened, or another process answers
            on it.
    """
    make_folder(home)
    with hold_lock(home / "lock"):
        driver = AbciApplication.open(home / "state.sqlite", application=application)
        try:
            server = AbciServer(driver, patience=patience)
            listening = await _listen(server, socket)
            try:
                yield server
            finally:
                listening.close()
                await server.close()
                _unlink_socket(socket)
        finally:
            driver.close()


async def _listen(server: AbciServer, path: Path) -> asyncio.Server:
    return await asyncio.start_unix_server(server.connected, sock=_bind(path))


def _require_dead(path: Path) -> None:
    """Return unless somebody listens on the socket: it is not ours to replace."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass  # it listens, and is busy
        except OSError:
            return
    raise AbciSocketError(
        f"another process answers on {path}",
        got="a live socket",
        expected="none, or one that a dead process left",
        hint="Stop that process, or give this ledger another socket",
    )


def _bind(path: Path) -> sockets.socket:
    _require_dead(path)
    bound = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    mask = os.umask(_OWNER_ONLY)
    try:
        _unlink_socket(path)
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise AbciSocketError(
            f"no socket can be opened at {path}",
            got=error.strerror or str(error),
            hint="A path of at most 107 bytes where nothing else stands",
        ) from error
    finally:
        os.umask(mask)
    return bound


def _unlink_socket(path: Path) -> None:
    if path.is_socket():
        path.unlink()


async def _write(writer: asyncio.StreamWriter, answers: bytearray) -> None:
    """Hand them over together: a system call for each would cost as much as it."""
    if answers:
        writer.write(bytes(answers))
        answers.clear()
        await writer.drain()


async def _refuse(writer: asyncio.StreamWriter, error: SealiftError) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(render_response(ExceptionResponse(error=f"{error.code}: {error}")))
        await writer.drain()


async def _in_thread(work: Callable[[], T]) -> T:
    """Wait for a thread; a cancelled caller does not leave it behind."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
