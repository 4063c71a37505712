"""Strangers ask for states of long ago: it costs them time, and nobody else."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kv import KvApplication
from test_solo_node_rpc import get, post, running

from sealift.base import ChainId, Height
from sealift.client._evidence import NodeSource
from sealift.crypto import sha256
from sealift.frame import verify_ics23
from sealift.node import (
    ChainStoreError,
    DurableChain,
    PastStates,
    SoloConfig,
    SoloNode,
    StateBusyError,
    init_solo,
)
from sealift.node._history import NEAR
from sealift.node._past import _MOST_FAR, _MOST_READERS
from sealift.node._state_log import ChangeLog
from sealift.relay import Timestamp
from sealift.transport.rpc import L1Client

BLOCKS = 40
#: Longer than any story takes; on the loop itself, nobody ever lets go.
PATIENCE = 5.0
Story = Callable[[SoloNode, L1Client], Coroutine[Any, Any, None]]


class Disk:
    """Reads of long ago wait until the test lets go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.reading = 0
        self.let_go: list[bool] = []

    async def busy(self) -> None:
        while not self.reading:
            await asyncio.sleep(0.005)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    held = Disk()
    for name in ("changes_between", "reversal_between"):
        real = getattr(ChangeLog, name)

        def slowly(
            self: ChangeLog, low: Height, high: Height, real: Any = real
        ) -> object:
            if low <= BLOCKS - NEAR:
                held.reading += 1
                held.let_go.append(held.go.wait(PATIENCE))
            return real(self, low, high)

        monkeypatch.setattr(ChangeLog, name, slowly)
    yield held
    held.go.set()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    init_solo(
        home,
        chain_id=ChainId("solo-test"),
        genesis_time=Timestamp(seconds=1_700_000_000),
        accounts={"faucet": None},
        app_state=lambda _: b'{"alpha": "1"}',
        application=KvApplication(),
        entropy=lambda n: sha256(bytes([n]))[:n],
        config=SoloConfig(block_ms=0, port=0),
    )
    return home


@pytest.fixture
def tell(home: Path) -> Callable[[Story], None]:
    def run(story: Story) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), running(home) as (node, l1):
                while node.chain.height < BLOCKS:
                    await node.produce()
                await story(node, l1)

        asyncio.run(main())

    return run


async def ask(node: SoloNode, height: int) -> dict[str, Any]:
    """A stranger's query, who does not ask twice."""
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "abci_query",
        "params": {"data": b"height".hex(), "height": str(height), "prove": True},
    }
    _, answer = await post(node, json.dumps(call).encode())
    found: dict[str, Any] = answer["result"]["response"]
    return found


def busy(answers: list[dict[str, Any]]) -> int:
    return sum(one["codespace"] == "sealift/StateBusyError" for one in answers)


async def proven(node: SoloNode, l1: L1Client, height: int) -> bool:
    entry = await l1.abci_query(b"height", height=Height(height))
    block = node.chain.store.block(Height(height))
    verify_ics23(block.app_hash, entry.key, entry.value, entry.proof)
    return entry.value == b"%d" % height


def test_a_reading_of_long_ago_holds_up_nobody(
    tell: Callable[[Story], None], disk: Disk
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        stranger = asyncio.create_task(ask(node, 3))
        await disk.busy()
        for height in range(BLOCKS, BLOCKS - NEAR, -1):
            assert await proven(node, l1, height)
        assert (await node.produce()).height == BLOCKS + 1
        assert (await get(node, "/status"))[0] == 200
        assert not stranger.done()
        disk.go.set()
        assert (await stranger)["code"] == 0
        assert disk.let_go == [True]
        assert await proven(node, l1, 3)  # kept
        assert disk.reading == 1

    tell(story)


def test_only_a_few_of_long_ago_are_made_and_the_rest_is_refused_by_name(
    tell: Callable[[Story], None], disk: Disk
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        strangers = [asyncio.create_task(ask(node, h)) for h in range(1, 21)]
        done: list[asyncio.Task[dict[str, Any]]] = []
        while len(done) < 20 - _MOST_FAR:
            await asyncio.sleep(0.005)
            done = [one for one in strangers if one.done()]
        assert busy([one.result() for one in done]) == 20 - _MOST_FAR
        said = done[0].result()["log"]
        assert f"one of the last {NEAR}" in said
        assert "Ask again in a second" in said
        assert await proven(node, l1, BLOCKS - 1)
        disk.go.set()
        answers = await asyncio.gather(*strangers)
        assert busy(answers) == 20 - _MOST_FAR
        assert all(disk.let_go)

    tell(story)


def test_many_readers_of_one_height_have_it_made_once(
    tell: Callable[[Story], None], disk: Disk
) -> None:
    async def story(node: SoloNode, _: L1Client) -> None:
        many = _MOST_READERS + 8
        strangers = [asyncio.create_task(ask(node, 3)) for _ in range(many)]
        while sum(one.done() for one in strangers) < 8:
            await asyncio.sleep(0.005)
        disk.go.set()
        answers = await asyncio.gather(*strangers)
        assert busy(answers) == 8
        assert disk.reading == 1

    tell(story)


def test_the_last_states_are_made_once_however_often_they_are_asked_for(
    make_chain: Callable[..., DurableChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain()
    for _ in range(BLOCKS):
        chain.produce(now=chain.genesis.genesis_time, txs=())
    begun: list[Height] = []
    real = chain.history.begin
    monkeypatch.setattr(
        chain.history,
        "begin",
        lambda at, *, near: begun.append(at) or real(at, near=near),
    )

    async def main() -> None:
        past = PastStates(chain.history)
        for _ in range(5):
            for height in range(BLOCKS, BLOCKS - NEAR, -1):
                entry = await past.read(
                    b"height", height=Height(height), prove=True, wait=False
                )
                assert entry.value == b"%d" % height
        assert len(begun) == NEAR
        newest = await past.read(b"height", height=None, prove=False, wait=False)
        assert newest.height == BLOCKS
        assert len(begun) == NEAR

    asyncio.run(main())


def test_a_walk_through_the_past_leaves_little_behind(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    for _ in range(BLOCKS):
        chain.produce(now=chain.genesis.genesis_time, txs=())

    async def main() -> None:
        past = PastStates(chain.history)
        for height in range(BLOCKS + 1):
            entry = await past.read(
                b"height", height=Height(height), prove=False, wait=True
            )
            assert entry.value == (b"%d" % height if height else None)
            assert len(chain.history._kept) <= NEAR + 3
        for _ in range(NEAR):
            chain.produce(now=chain.genesis.genesis_time, txs=())
        assert len(chain.history._kept) <= 3

    asyncio.run(main())


def test_an_exporter_comes_through_while_strangers_crowd(
    tell: Callable[[Story], None], disk: Disk
) -> None:
    """It asks again; evidence needs states of long ago."""

    async def story(node: SoloNode, l1: L1Client) -> None:
        strangers = [asyncio.create_task(ask(node, h)) for h in range(1, 10)]
        await disk.busy()
        exporting = asyncio.create_task(
            NodeSource(l1).state(b"height", Height(BLOCKS // 2))
        )
        await asyncio.sleep(0.1)
        assert not exporting.done()
        disk.go.set()
        entry = await exporting
        assert entry.value == b"%d" % (BLOCKS // 2)
        assert busy(await asyncio.gather(*strangers))

    tell(story)


def test_a_node_that_stops_waits_for_its_reader_and_refuses_the_line(
    home: Path, disk: Disk
) -> None:
    async def main() -> list[dict[str, Any]]:
        async with running(home) as (node, _):
            while node.chain.height < BLOCKS:
                await node.produce()
            strangers = [asyncio.create_task(ask(node, h)) for h in (3, 9)]
            await disk.busy()
            while len(node._methods._past._making) < 2:
                await asyncio.sleep(0.005)
            asyncio.get_running_loop().call_later(0.1, disk.go.set)
        return await asyncio.gather(*strangers)

    answers = asyncio.run(main())
    assert disk.let_go == [True]
    assert [one["code"] for one in answers] == [0, 1]
    assert "this node is stopping" in answers[1]["log"]


def test_a_disk_that_fails_is_told_to_whoever_asked_and_to_nobody_else(
    make_chain: Callable[..., DurableChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain()
    for _ in range(BLOCKS):
        chain.produce(now=chain.genesis.genesis_time, txs=())

    def fails(*_: object) -> None:
        raise ChainStoreError("the disk is gone")

    async def main() -> None:
        past = PastStates(chain.history)
        with monkeypatch.context() as patch:
            patch.setattr(chain.store.past, "reversal_between", fails)
            with pytest.raises(StateBusyError, match="it is being made"):
                await past.read(b"k", height=Height(3), prove=True, wait=False)
            with pytest.raises(ChainStoreError, match="the disk is gone"):
                await past.read(b"k", height=Height(3), prove=True, wait=True)
        entry = await past.read(b"height", height=Height(3), prove=True, wait=True)
        assert entry.value == b"3"
        await past.close()
        with pytest.raises(StateBusyError, match="stopping"):
            await past.read(b"k", height=Height(9), prove=True, wait=True)

    asyncio.run(main())
