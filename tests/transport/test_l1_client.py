"""The L1 client against nodes that are away, slow, lying or come and go."""

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from sealift.base import Height
from sealift.relay import RpcFormatError, RpcRemoteError
from sealift.transport import rpc
from sealift.transport.http import Listening, serve
from sealift.transport.rpc import (
    Backoff,
    L1Client,
    NodeTimeoutError,
    NodeUnreachableError,
    StateNotAtHandError,
    StateQueryError,
    TxRejectedError,
    system_jitter,
)

Answer = Callable[[str, dict[str, Any]], Any]
KEY = "bNNlGls5R25wC3Sd8720F/3+7IZBhXcD22MNFtPk/v0="


class Node:
    """Answers whatever a test wants; counts calls."""

    def __init__(self, answer: Answer) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = json.loads(await request.read())
        self.calls.append((call["method"], call["params"]))
        found = self.answer(call["method"], call["params"])
        if isinstance(found, int):
            return web.Response(status=found)
        if isinstance(found, bytes):
            return web.Response(body=found)
        if asyncio.iscoroutine(found):
            found = await found
        return web.json_response({"jsonrpc": "2.0", "id": call["id"]} | found)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/", self.handle)
        return app


def tell(
    node: Node,
    story: Callable[[L1Client], Coroutine[Any, Any, None]],
    *,
    attempts: int = 1,
    timeout: float = 5.0,
) -> None:
    async def main() -> None:
        backoff = Backoff(attempts=attempts, first=0.001, jitter=lambda: 1.0)
        async with (
            serve(node.app()) as where,
            L1Client(where.url, backoff=backoff, timeout=timeout) as l1,
        ):
            await story(l1)

    asyncio.run(main())


def query(**fields: Any) -> dict[str, Any]:
    base = {"code": 0, "log": "", "key": None, "value": None, "height": "3"}
    return {"result": {"response": base | fields}}


def test_node_that_is_away_is_explained_after_all_attempts() -> None:
    async def main() -> None:
        async with serve(web.Application()) as where:
            gone = where.url
        pauses = []

        def jitter() -> float:
            pauses.append(1)
            return 0.0

        backoff = Backoff(attempts=4, first=0.001, jitter=jitter)
        async with L1Client(gone, backoff=backoff) as l1:
            with pytest.raises(NodeUnreachableError, match="Is it running"):
                await l1.status()
            assert gone in l1.url
        assert len(pauses) == 3

    asyncio.run(main())


def test_slow_node_is_a_timeout() -> None:
    node = Node(lambda _m, _p: asyncio.sleep(5, {"result": {}}))

    async def story(l1: L1Client) -> None:
        with pytest.raises(NodeTimeoutError):
            await l1.status()

    tell(node, story, timeout=0.05)


def test_unavailable_node_is_tried_again_until_it_answers() -> None:
    statuses = iter([503, 502, {"result": {}}])
    node = Node(lambda _m, _p: next(statuses))

    async def story(l1: L1Client) -> None:
        with pytest.raises(RpcFormatError):  # it answered: an empty status
            await l1.status()
        assert len(node.calls) == 3

    tell(node, story, attempts=5)


def test_refusals_are_not_tried_again() -> None:
    node = Node(lambda _m, _p: {"error": {"code": -32603, "message": "no"}})

    async def story(l1: L1Client) -> None:
        with pytest.raises(RpcRemoteError):
            await l1.block(Height(9))
        assert len(node.calls) == 1

    tell(node, story, attempts=5)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"id": 999, "result": {}}',
        {"result": None},
        {"result": {"block": 3}},
    ],
)
def test_answers_that_are_no_answers(answer: Any) -> None:
    async def story(l1: L1Client) -> None:
        with pytest.raises(RpcFormatError):
            await l1.block()

    tell(Node(lambda _m, _p: answer), story)


def test_refused_transaction_has_its_log_and_code() -> None:
    result = {"code": 5, "log": "not enough", "codespace": "ledger", "hash": "AB" * 32}

    async def story(l1: L1Client) -> None:
        with pytest.raises(TxRejectedError, match=r"ledger 5.*not enough"):
            await l1.broadcast_tx_sync(b"tx")

    tell(Node(lambda _m, _p: {"result": result}), story)


@pytest.mark.parametrize(
    "fields",
    [
        {"code": 1, "log": "pruned"},
        {"proofOps": None},
        {"proofOps": {"ops": []}},
        {"proofOps": {"ops": [{"type": "simple:v", "key": "", "data": "AA=="}]}},
    ],
)
def test_state_without_a_usable_proof_is_refused(fields: dict[str, Any]) -> None:
    async def story(l1: L1Client) -> None:
        with pytest.raises(StateQueryError):
            await l1.abci_query(b"key", height=Height(3))

    tell(Node(lambda _m, _p: query(**fields)), story)


BUSY = query(code=1, log="not at hand", codespace="sealift/StateBusyError")


def test_a_state_that_the_node_has_to_make_first_is_asked_for_again() -> None:
    node = Node(lambda _m, _p: BUSY if len(node.calls) < 4 else query())

    async def story(l1: L1Client) -> None:
        entry = await l1.abci_query(b"key", height=Height(3), prove=False)
        assert (entry.height, len(node.calls)) == (3, 4)

    tell(node, story)


def test_a_node_that_is_busy_for_ever_is_given_up_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc, "_BUSY_ATTEMPTS", 3)
    node = Node(lambda _m, _p: BUSY)

    async def story(l1: L1Client) -> None:
        with pytest.raises(StateNotAtHandError) as refused:
            await l1.abci_query(b"key", height=Height(3))
        assert "got not at hand, expected state after block 3" in str(refused.value)
        assert len(node.calls) == 3

    tell(node, story)


#: What CometBFT answers between a block and its results.
NO_RESULTS = {
    "error": {
        "code": -32603,
        "message": "Internal error",
        "data": "could not find results for height #10",
    }
}


def test_results_of_a_block_that_is_being_executed_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc, "_RESULTS_PAUSE", 0.001)
    results = {"result": {"height": "10", "txs_results": None, "app_hash": ""}}
    node = Node(lambda _m, _p: NO_RESULTS if len(node.calls) < 4 else results)

    async def story(l1: L1Client) -> None:
        assert (await l1.block_results(Height(10))).height == 10
        assert len(node.calls) == 4

    tell(node, story)
    lost = Node(lambda _m, _p: NO_RESULTS)

    async def in_vain(l1: L1Client) -> None:
        with pytest.raises(RpcRemoteError, match="could not find results"):
            await l1.block_results(Height(10))
        assert len(lost.calls) == 30

    tell(lost, in_vain)


def test_state_without_proof_is_given_only_where_none_was_asked_for() -> None:
    async def story(l1: L1Client) -> None:
        entry = await l1.abci_query(b"key", prove=False)
        assert (entry.value, entry.proof, entry.height) == (None, b"", 3)

    tell(Node(lambda _m, _p: query()), story)


def validators(total: int, size: int) -> Answer:
    def answer(_: str, params: dict[str, Any]) -> Any:
        one = {
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": KEY},
            "voting_power": "1",
        }
        assert params["per_page"] == "100"
        here = min(size, max(0, total - (int(params["page"]) - 1) * size))
        page = {"validators": [one] * here, "count": str(here), "total": str(total)}
        return {"result": page | {"block_height": "1"}}

    return answer


def test_validators_are_read_page_by_page() -> None:
    node = Node(validators(250, 100))

    async def story(l1: L1Client) -> None:
        found = await l1.validators(Height(1))
        assert len(found.validators) == 250
        assert [params["page"] for _, params in node.calls] == ["1", "2", "3"]

    tell(node, story)


def test_more_validators_than_there_are_is_no_answer() -> None:
    honest = validators(100, 100)

    def answer(method: str, params: dict[str, Any]) -> Any:
        found = honest(method, params)
        found["result"]["total"] = "99"
        return found

    async def story(l1: L1Client) -> None:
        with pytest.raises(RpcFormatError):
            await l1.validators(Height(1))

    tell(Node(answer), story)


@pytest.mark.parametrize(("total", "size"), [(5, 0), (10**9, 100)])
def test_endless_pages_of_validators_end(total: int, size: int) -> None:
    async def story(l1: L1Client) -> None:
        with pytest.raises(RpcFormatError):
            await l1.validators(Height(1))

    tell(Node(validators(total, size)), story)


def test_unknown_transaction_is_none_but_other_refusals_are_not() -> None:
    messages = iter(["tx (AA) not found", "indexing is disabled"])
    node = Node(
        lambda _m, _p: {
            "error": {
                "code": -32603,
                "message": "Internal error",
                "data": next(messages),
            }
        }
    )

    async def story(l1: L1Client) -> None:
        assert await l1.tx(bytes(32)) is None
        with pytest.raises(RpcRemoteError):
            await l1.tx(bytes(32))

    tell(node, story)


def test_subscription_comes_back_with_the_node(vectors: Any) -> None:
    folder = vectors / "cometbft" / "informalsystems-tendermint-rs"
    path = folder / "rpc_kvstore_v0_38" / "incoming" / "subscribe_newblock_0.json"
    event = path.read_text()
    lives = itertools.count()

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        message = await socket.receive()
        assert message.type is WSMsgType.TEXT
        assert json.loads(message.data)["method"] == "subscribe"
        await socket.send_str('{"jsonrpc":"2.0","id":1,"result":{}}')
        for _ in range(next(lives) + 1):
            await socket.send_str(event)
        await socket.close()
        return socket

    def application() -> web.Application:
        app = web.Application()
        app.router.add_get("/websocket", websocket)
        return app

    async def main() -> None:
        async with AsyncExitStack() as stack:
            where: Listening = await stack.enter_async_context(serve(application()))
            l1 = await stack.enter_async_context(
                L1Client(where.url, backoff=Backoff(first=0.001, jitter=lambda: 0.0))
            )
            seen = 0
            async for block in l1.new_blocks():
                assert block.block.header.height == 235
                seen += 1
                if seen == 4:  # one, then two, then one of three
                    await stack.aclose()
                    break
        assert next(lives) == 3

    asyncio.run(main())


def test_subscription_that_is_refused_is_told() -> None:
    async def websocket(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str('{"id":1,"error":{"code":-32603,"message":"no"}}')
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/websocket", websocket)

    async def main() -> None:
        async with (
            serve(app) as where,
            L1Client(where.url, backoff=Backoff(jitter=lambda: 0.0)) as l1,
        ):
            with pytest.raises(RpcRemoteError):
                await anext(l1.new_blocks())

    asyncio.run(main())


def test_pauses_grow_to_a_limit_with_jitter_between_half_and_all() -> None:
    low = Backoff(first=1.0, factor=2.0, longest=10.0, jitter=lambda: 0.0)
    high = Backoff(first=1.0, factor=2.0, longest=10.0, jitter=lambda: 1.0)
    assert [high.pause(n) for n in range(6)] == [1, 2, 4, 8, 10, 10]
    assert [low.pause(n) for n in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert high.pause(10_000) == 10
    assert all(0 <= system_jitter() <= 1 for _ in range(100))


@pytest.mark.parametrize("url", ["", "nonsense", "http://", "http://[::1"])
def test_address_that_is_none_is_an_unreachable_node(url: str) -> None:
    async def main() -> None:
        async with L1Client(url, backoff=Backoff(attempts=1, jitter=lambda: 0.0)) as l1:
            with pytest.raises(NodeUnreachableError):
                await l1.status()

    asyncio.run(main())
