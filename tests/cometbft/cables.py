"""What validators reach each other through, in two kinds: each can be cut."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from sealift.node.cometbft import NodePlan


class Cables(Protocol):
    """Between all validators of a network; whole at the beginning."""

    #: Whether who is cut off keeps its connections: nothing arrives, no more.
    silent: bool

    def __init__(
        self, plans: Sequence[NodePlan], ports: Iterator[int], folder: Path
    ) -> None: ...

    def address(self, dialler: NodePlan, target: NodePlan) -> str:
        """Where the one reaches the other."""

    def host(self, name: str) -> str:
        """The address that a validator waits for its peers at."""

    def inside(self, name: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program where a validator is."""

    async def open(self, stack: AsyncExitStack) -> None:
        """Lay them, until the stack unwinds."""

    def cut(self, here: Collection[str], there: Collection[str]) -> None:
        """Nothing passes between the two sides, in either direction."""

    def mend(self) -> None:
        """Everything passes again."""


class Wire:
    """A TCP proxy between two peers; a cut one takes no connection."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.whole = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._joined, "127.0.0.1", self.port)

    def cut(self) -> None:
        """From now on nothing passes; who is connected loses the connection."""
        self.whole = False
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        self.whole = True

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _joined(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self.whole:
            writer.close()
            return
        self._tasks.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            back, far = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(pump(reader, far), pump(back, writer))
        except (OSError, asyncio.CancelledError):
            pass  # a peer went, or the wire was cut
        finally:
            self._tasks.discard(task)
            for one in (writer, far):
                if one is not None:
                    one.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until the one side ends or the other is gone."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


class Proxies(Cables):
    """Each dials each other through a proxy of this process; works everywhere."""

    silent = False

    def __init__(
        self, plans: Sequence[NodePlan], ports: Iterator[int], folder: Path
    ) -> None:
        del folder
        self.wires = {
            (a.name, b.name): Wire(next(ports), b.p2p_port)
            for a in plans
            for b in plans
            if a is not b
        }

    def address(self, dialler: NodePlan, target: NodePlan) -> str:
        return f"127.0.0.1:{self.wires[dialler.name, target.name].port}"

    def host(self, name: str) -> str:
        del name
        return "127.0.0.1"

    def inside(self, name: str, argv: Sequence[str]) -> list[str]:
        del name
        return list(argv)

    async def open(self, stack: AsyncExitStack) -> None:
        for wire in self.wires.values():
            await wire.open()
            stack.push_async_callback(wire.close)

    def cut(self, here: Collection[str], there: Collection[str]) -> None:
        for (a, b), wire in self.wires.items():
            if (a in here and b in there) or (a in there and b in here):
                wire.cut()

    def mend(self) -> None:
        for wire in self.wires.values():
            wire.mend()
