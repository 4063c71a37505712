"""One node: our ledger in this process, CometBFT as its child, tied together."""

import asyncio
import contextlib
import os
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sealift.base import ChainId, Height
from sealift.node import Application, ConfigInvalidError
from sealift.node.abci import AbciServer, run_abci
from sealift.relay import RpcFormatError, RpcRemoteError
from sealift.transport.files import (
    UnreadableFileError,
    read_json,
    read_or_explain,
    write_durably,
)
from sealift.transport.keys import read_node_key
from sealift.transport.leash import leashed
from sealift.transport.marks import ProcessMark, end_process, mark_of
from sealift.transport.process import ChildProcess, ProcessSpec, child_process
from sealift.transport.rpc import Backoff, L1Client, NodeUnreachableError

from ._config import node_id
from ._engine import Engine
from ._errors import EngineStoppedError
from ._home import CometHome
from ._network import require_free

#: CometBFT finishes the block that it is in.
_GRACE: Final = 20.0
_POLL_SECONDS: Final = 0.1
_TAIL: Final = 400
#: What the ledger says is the better reason; it may come a moment later.
_SECOND_THOUGHT: Final = 0.5
_ANYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - what others wrote
#: Nothing else of our environment reaches it: CMT_… would change its configuration.
_ENVIRONMENT: Final = ("PATH", "HOME", "TMPDIR", "GOMAXPROCS", "GOMEMLIMIT")


@dataclass(frozen=True, slots=True)
class CometNode:
    """A node that answers; made by :func:`run_comet`."""

    url: str
    chain_id: ChainId
    height: Height
    server: AbciServer
    child: ChildProcess

    async def failed(self) -> None:
        """Wait until one of its two halves ends; never returns normally.

        Raises:
            EngineStoppedError: CometBFT has ended.
            SealiftError: The ledger's state is in doubt; says why.
        """
        await _first_failure(self.server, self.child)


@contextlib.asynccontextmanager
async def run_comet(
    home: CometHome, *, engine: Engine, application: Application
) -> AsyncIterator[CometNode]:
    """Run a node while in the block; entered when its RPC answers.

    1. The ledger's state is opened, under its lock. 2. A CometBFT that a killed
    predecessor left behind is ended. 3. CometBFT is started; it replays what the
    ledger lacks. 4. Its RPC answers, as this node's. On leaving, CometBFT ends
    first, then the ledger.

    Args:
        home: Made by :func:`init_node`.
        engine: From :func:`find_engine`.
        application: The state machine, without state.

    Raises:
        FileLockedError: Another process runs on this home.
        ConfigInvalidError: ``config.toml`` cannot be read, or lets the RPC listen
            at no fixed address.
        NodePortError: The RPC's port is taken.
        EngineStoppedError: CometBFT ended before it answered; with its last words.
        SealiftError: The ledger refused, as :func:`run_abci`.
    """
    url = rpc_url(home)
    known_as = node_id(read_node_key(home.node_key))
    with home.socket() as socket:
        async with run_abci(  # 1.
            home.ledger, socket=socket, application=application
        ) as server:
            await _end_leftover(home)  # 2.
            require_free(urlsplit(url).port or 0, what=f"the RPC of {home.root}")
            async with child_process(_spec(home, engine, socket)) as child:  # 3.
                _record(home, child.pid)
                failing = asyncio.create_task(_first_failure(server, child))
                answering = asyncio.create_task(_answer(url, known_as))  # 4.
                try:
                    await asyncio.wait(
                        (failing, answering), return_when=asyncio.FIRST_COMPLETED
                    )
                    if failing.done():
                        await failing
                    chain_id, height = await answering
                    yield CometNode(url, chain_id, height, server, child)
                finally:
                    for task in (failing, answering):
                        task.cancel()
                    await asyncio.gather(failing, answering, return_exceptions=True)


def rpc_url(home: CometHome) -> str:
    """Where the RPC of a node answers, as its configuration says.

    Raises:
        MissingFileError: There is no configuration.
        ConfigInvalidError: It says no fixed address.
    """
    raw = read_or_explain(
        home.config,
        what="configuration",
        hint="`sealift node init` or `sealift testnet up` makes one",
    )
    try:
        laddr = str(tomllib.loads(raw.decode())["rpc"]["laddr"])
        parts = urlsplit(laddr)
        host, port = parts.hostname or "", parts.port
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ConfigInvalidError(
            f"configuration cannot be read ({error})", got=str(home.config)
        ) from error
    if parts.scheme != "tcp" or not port:
        raise ConfigInvalidError(
            f"{home.config} lets the RPC listen at no fixed port",
            got=laddr[:80],
            expected="rpc.laddr like tcp://127.0.0.1:26657",
        )
    return f"http://{'127.0.0.1' if host in _ANYWHERE else host}:{port}"


def _spec(home: CometHome, engine: Engine, socket: Path) -> ProcessSpec:
    return ProcessSpec(
        argv=leashed(
            [
                str(engine.path),
                "start",
                "--home",
                str(home.root),
                "--proxy_app",
                f"unix://{socket}",
            ]
        ),
        log=home.log,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        grace=_GRACE,
    )


async def _answer(url: str, known_as: str) -> tuple[ChainId, Height]:
    """Wait until the RPC of that node answers."""
    patience = Backoff(attempts=1, jitter=lambda: 1.0)
    async with L1Client(url, backoff=patience, timeout=5.0) as l1:
        while True:
            with contextlib.suppress(
                NodeUnreachableError, RpcFormatError, RpcRemoteError
            ):
                found = await l1.status()
                if found.node_info.id == known_as:
                    info = found.sync_info
                    return found.node_info.network, info.latest_block_height
            await asyncio.sleep(_POLL_SECONDS)


async def _first_failure(server: AbciServer, child: ChildProcess) -> None:
    doubt = asyncio.create_task(server.failed())
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait((doubt, ended), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((doubt,), timeout=_SECOND_THOUGHT)
        if doubt.done():
            await doubt
        raise EngineStoppedError(
            "CometBFT has ended, and the node ends with it",
            got=f"exit code {child.exit_code}: {_last_words(child)}",
            hint="Its log is cometbft.log in the node's home",
        )
    finally:
        for task in (doubt, ended):
            task.cancel()


def _last_words(child: ChildProcess) -> str:
    return " ".join(child.output()[-_TAIL:].split()) or "it said nothing"


def _record(home: CometHome, pid: int) -> None:
    mark = mark_of(pid)
    if mark is not None:  # it may have ended already
        write_durably(home.process, msgspec.json.encode(mark) + b"\n")


async def _end_leftover(home: CometHome) -> None:
    """End a CometBFT of this home whose ledger was killed; it still holds its files."""
    if not home.process.is_file():
        return
    try:
        mark = read_json(home.process, ProcessMark, what="process record")
    except UnreadableFileError:
        return  # without it CometBFT's own lock on its files remains
    await end_process(mark, grace=_GRACE)
