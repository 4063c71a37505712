"""The running node, spoken to by the client and by hand."""

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from node_kv import KvApplication

from sealift.base import ChainId, Height
from sealift.crypto import sha256
from sealift.node import SoloConfig, SoloNode, TxNotFoundError, init_solo, run_solo
from sealift.relay import (
    ChainRelay,
    RelayRules,
    RpcRemoteError,
    Timestamp,
    TrustRoot,
    verify_block,
    verify_state,
    verify_tx,
)
from sealift.relay.rpc import parse_reply
from sealift.transport.clock import WallClock
from sealift.transport.rpc import (
    Backoff,
    L1Client,
    StateQueryError,
    TxNotIncludedError,
    TxRejectedError,
)

RULES = RelayRules(trusting_period=14 * 24 * 3600)
BACKOFF = Backoff(attempts=1, jitter=lambda: 0.5)
Story = Callable[[SoloNode, L1Client], Coroutine[Any, Any, None]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def root(home: Path) -> TrustRoot:
    return init_solo(
        home,
        chain_id=ChainId("solo-test"),
        genesis_time=Timestamp(seconds=1_700_000_000),
        accounts={"faucet": None},
        app_state=lambda _: b'{"alpha": "1"}',
        application=KvApplication(),
        entropy=lambda n: sha256(bytes([n]))[:n],
        config=SoloConfig(block_ms=0, port=0),
    )


@asynccontextmanager
async def running(
    home: Path, config: SoloConfig | None = None
) -> AsyncIterator[tuple[SoloNode, L1Client]]:
    async with (
        run_solo(
            home, application=KvApplication(), clock=WallClock(), config=config
        ) as node,
        L1Client(node.url, backoff=BACKOFF) as l1,
    ):
        yield node, l1


async def post(node: SoloNode, body: bytes) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url, data=io.BytesIO(body)) as response,
    ):
        raw = await response.read()
        return response.status, json.loads(raw) if raw else None


async def get(node: SoloNode, path: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{node.url}{path}") as response,
    ):
        return response.status, json.loads(await response.read())


def tell(home: Path, story: Story, config: SoloConfig | None = None) -> None:
    async def main() -> None:
        async with running(home, config) as (node, l1):
            await story(node, l1)

    asyncio.run(main())


def test_relay_follows_the_chain_over_rpc_from_its_trust_root(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        digests = []
        for h in range(2, 7):
            tx = b"key%d=%d" % (h, h)
            digests.append((await l1.broadcast_tx_sync(tx)).hash)
            await node.produce()
        relay = ChainRelay.bootstrap(
            root, await l1.light_block(Height(1)), rules=RULES, now=None
        )
        for h in range(2, 7):
            relay.advance(await l1.light_block(Height(h)), now=None)
        for h in range(2, 6):
            block = (await l1.block(Height(h))).block
            results = await l1.block_results(Height(h))
            verify_block(
                relay.header_at(Height(h)),
                relay.header_at(Height(h + 1)),
                block.txs,
                [one.committed() for one in results.txs_results],
            )
            after = relay.header_at(Height(h + 1))
            entry = await l1.abci_query(b"key%d" % h, height=Height(h))
            assert entry.value == b"%d" % h
            verify_state(after, entry.key, entry.value, entry.proof)
            absent = await l1.abci_query(b"key%d" % (h + 1), height=Height(h))
            assert absent.value is None
            verify_state(after, absent.key, None, absent.proof)
        found = await l1.tx(digests[0], prove=True)
        assert found is not None
        assert found.proof is not None
        assert verify_tx(relay.header_at(Height(2)), found.proof) == b"key2=2"
        assert (await l1.validators()).validators == (
            node.chain.genesis.validators.validators
        )
        assert (await l1.genesis()) == node.chain.genesis
        status = await l1.status()
        assert status.sync_info.latest_block_height == 6
        assert status.sync_info.earliest_block_hash == root.header_hash
        assert not (await l1.commit(Height(6))).canonical
        assert (await l1.commit(Height(5))).canonical

    tell(home, story)


def test_refused_and_failing_transactions_are_told_apart(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        with pytest.raises(TxRejectedError, match="NotAnAssignmentError"):
            await l1.broadcast_tx_sync(b"no assignment")
        with pytest.raises(TxNotIncludedError):
            await l1.wait_for_tx(bytes(32), within=0.05, poll=0.01)
        await l1.broadcast_tx_sync(b"fail=1")
        await node.produce()
        found = await l1.wait_for_tx(sha256(b"fail=1"))
        assert (found.height, found.tx_result.code) == (2, 7)

    tell(home, story)


def test_timer_makes_empty_blocks_and_commit_waits_for_one(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        tx = b64encode(b"slow=1").decode()
        body = {"jsonrpc": "2.0", "id": 1, "method": "broadcast_tx_commit"}
        status, answer = await post(
            node, json.dumps(body | {"params": {"tx": tx}}).encode()
        )
        assert status == 200
        height = int(answer["result"]["height"])
        assert answer["result"]["tx_result"]["code"] == 0
        assert (await l1.abci_query(b"slow", height=Height(height))).value == b"1"
        async for event in l1.new_blocks():
            if event.block.header.height > height + 2:
                break

    tell(home, story, SoloConfig(block_ms=20, port=0))


def test_two_subscribers_see_every_block(home: Path, root: TrustRoot) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        async def take(client: L1Client, ready: asyncio.Event) -> list[int]:
            seen = []
            ready.set()
            async for event in client.new_blocks():
                assert (
                    event.block_id.hash
                    == node.chain.store.block(event.block.header.height).block_id.hash
                )
                seen.append(event.block.header.height)
                if len(seen) == 3:
                    return seen
            return seen

        async with L1Client(node.url, backoff=BACKOFF) as other:
            ready = [asyncio.Event(), asyncio.Event()]
            tasks = [
                asyncio.create_task(take(client, event))
                for client, event in zip((l1, other), ready, strict=True)
            ]
            await asyncio.gather(*(event.wait() for event in ready))
            while not all(task.done() for task in tasks):
                await node.produce()
                await asyncio.sleep(0.02)
            for task in tasks:
                seen = task.result()
                assert seen == list(range(seen[0], seen[0] + 3))

    tell(home, story)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"not json", -32700),
        (b"[" * 100_000, -32700),
        (b"17", -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"block","params":{"height":"x"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"block","params":{"height":-1}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"block","params":{"height":"99"}}', -32603),
        (b'{"jsonrpc":"2.0","id":1,"method":"tx","params":{"hash":"AAAA"}}', -32603),
        (
            b'{"id":1,"method":"broadcast_tx_sync","params":{"tx":"not base64!"}}',
            -32602,
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"broadcast_tx_sync","params":{"tx":"'
            + b64encode(bytes(1024 * 1024 + 1))
            + b'"}}',
            -32602,
        ),
        (b"[" + b",".join([b'{"id":1}'] * 11) + b"]", -32600),
    ],
)
def test_garbage_gets_an_error_in_the_envelope_and_the_node_goes_on(
    home: Path, root: TrustRoot, body: bytes, code: int
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        _, answer = await post(node, body)
        assert answer["error"]["code"] == code
        assert answer["jsonrpc"] == "2.0"
        await node.produce()
        assert await l1.height() == 2

    tell(home, story)


def test_body_beyond_the_limit_is_refused_and_the_node_goes_on(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        status, answer = await post(node, bytes(5 * 1024 * 1024))
        assert (status, answer["error"]["code"]) == (413, -32600)
        assert await l1.height() == 1

    tell(home, story)


def test_batch_is_answered_in_order_and_notifications_are_not(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        batch = [
            {"jsonrpc": "2.0", "id": "a", "method": "health", "params": {}},
            {"jsonrpc": "2.0", "method": "health"},
            {"jsonrpc": "2.0", "id": "b", "method": "nothing"},
            {"jsonrpc": "2.0", "id": 3, "method": "block", "params": {"height": "1"}},
        ]
        _, answer = await post(node, json.dumps(batch).encode())
        assert [one["id"] for one in answer] == ["a", "b", 3]
        assert answer[0]["result"] == {}
        assert answer[1]["error"]["code"] == -32601
        assert answer[2]["result"]["block"]["header"]["height"] == "1"
        assert (await post(node, b'{"jsonrpc":"2.0","method":"health"}'))[1] is None

    tell(home, story)


def test_calls_by_uri(home: Path, root: TrustRoot) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        assert (await get(node, "/health"))[1] == {
            "jsonrpc": "2.0",
            "id": -1,
            "result": {},
        }
        _, sent = await get(node, '/broadcast_tx_sync?tx="uri=1"')
        await get(node, "/broadcast_tx_sync?tx=0x" + b"hex=2".hex())
        _, waiting = await get(node, "/unconfirmed_txs?limit=1")
        assert waiting["result"]["n_txs"] == "1"
        assert waiting["result"]["total"] == "2"
        assert (await get(node, "/num_unconfirmed_txs"))[1]["result"]["total"] == "2"
        await node.produce()
        _, block = await get(node, "/block?height=2")
        assert block["result"]["block"]["data"]["txs"] == [
            b64encode(b"uri=1").decode(),
            b64encode(b"hex=2").decode(),
        ]
        _, tx = await get(node, f"/tx?hash=0x{sent['result']['hash']}&prove=true")
        assert tx["result"]["index"] == 0
        _, query = await get(node, '/abci_query?path="/store"&data="hex"&prove=true')
        assert query["result"]["response"]["value"] == b64encode(b"2").decode()
        _, other = await get(node, '/abci_query?path="/p2p/filter"&data="hex"')
        assert other["result"]["response"]["code"] == 1
        assert other["result"]["response"]["value"] is None
        _, header = await get(node, '/header?height="2"')
        assert header["result"]["header"] == block["result"]["block"]["header"]
        by_hash = block["result"]["block_id"]["hash"]
        assert (await get(node, f"/block_by_hash?hash=0x{by_hash}"))[1] == block
        assert (await get(node, f"/header_by_hash?hash=0x{by_hash}"))[1] == header
        _, chain = await get(node, "/blockchain?minHeight=1&maxHeight=9")
        assert [m["header"]["height"] for m in chain["result"]["block_metas"]] == [
            "2",
            "1",
        ]
        for path, status, code in (
            ("/nothing", 404, -32601),
            ("/block?height=99", 500, -32603),
            ("/block?height=abc", 500, -32602),
            ("/tx?hash=zz", 500, -32602),
            ("/abci_query?data=0xzz", 500, -32602),
            ("/validators?page=2", 500, -32603),
            ("/abci_query?data=%22%5C", 500, -32602),
            ("/tx?hash=0x00&prove=maybe", 500, -32602),
            ("/block_by_hash?hash=0x00", 500, -32603),
        ):
            got, answer = await get(node, path)
            assert (got, answer["error"]["code"]) == (status, code), path

    tell(home, story)


def test_state_that_does_not_exist_is_refused_by_name(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        with pytest.raises(StateQueryError, match="HeightUnknownError"):
            await l1.abci_query(b"alpha", height=Height(7))
        with pytest.raises(StateQueryError, match="ProofUnavailableError"):
            await l1.abci_query(b"", height=Height(1))
        with pytest.raises(RpcRemoteError, match="HeightUnknownError"):
            await l1.block(Height(7))

    tell(home, story)


def test_copies_are_refused_while_they_wait_and_after(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        await l1.broadcast_tx_sync(b"a=1")
        with pytest.raises(RpcRemoteError, match="TxAlreadyKnownError"):
            await l1.broadcast_tx_sync(b"a=1")
        await node.produce()
        with pytest.raises(RpcRemoteError, match="TxAlreadyKnownError"):
            await l1.broadcast_tx_sync(b"a=1")

    tell(home, story)


def test_websocket_takes_any_method_and_refuses_strange_subscriptions(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{node.url}/websocket") as socket,
        ):

            async def ask(method: str, **params: object) -> Any:
                await socket.send_str(
                    json.dumps({"id": 1, "method": method, "params": params})
                )
                return json.loads((await socket.receive()).data)

            assert (await ask("health"))["result"] == {}
            assert "error" in await ask("subscribe", query="tm.event='Tx'")
            assert "error" in await ask("subscribe")
            assert "error" in await ask("unsubscribe", query="tm.event='NewBlock'")
            for i in range(5):
                query = "tm.event" + " " * i + "='NewBlock'"
                assert (await ask("subscribe", query=query))["result"] == {}
            assert "error" in await ask("subscribe", query=" tm.event='NewBlock'")
            assert (await ask("unsubscribe", query="tm.event='NewBlock'"))[
                "result"
            ] == {}
            assert (await ask("unsubscribe_all"))["result"] == {}
            await socket.send_bytes(b"garbage")
            assert json.loads((await socket.receive()).data)["error"]["code"] == -32700
            await node.produce()
            assert (await ask("status"))["result"]["sync_info"][
                "latest_block_height"
            ] == "2"

    tell(home, story)


def test_subscriber_that_does_not_read_delays_nobody(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{node.url}/websocket") as socket,
        ):
            await socket.send_str(
                json.dumps(
                    {
                        "id": 1,
                        "method": "subscribe",
                        "params": {"query": "tm.event='NewBlock'"},
                    }
                )
            )
            await socket.receive()
            await l1.broadcast_tx_sync(b"large=" + bytes(900_000))
            for _ in range(300):
                await node.produce()
            assert await l1.height() == 301

    tell(home, story)


def shapes(value: Any) -> Any:
    """Keys and JSON types, without values."""
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shapes(value[0])] if value else []
    return type(value).__name__


def missing(recorded: Any, ours: Any, where: str = "") -> list[str]:
    """Places where a recorded answer has a key or type that ours has not."""
    if isinstance(recorded, dict):
        if not isinstance(ours, dict):
            return [where]
        return [
            place
            for key, item in recorded.items()
            for place in (
                missing(item, ours[key], f"{where}.{key}")
                if key in ours
                else [f"{where}.{key}"]
            )
        ]
    if isinstance(recorded, list):
        if not isinstance(ours, list):
            return [where]
        return missing(recorded[0], ours[0], where) if recorded and ours else []
    if recorded == "NoneType" or ours == "NoneType":
        return []
    return [] if recorded == ours else [where]


@pytest.mark.parametrize(
    "case",
    [
        ("status", "status", {}),
        ("genesis", "genesis", {}),
        ("block_at_height_1", "block", {"height": "1"}),
        ("block_at_height_10", "block", {"height": "2"}),
        ("block_results_at_height_10", "block_results", {"height": "2"}),
        ("blockchain_from_1_to_10", "blockchain", {"maxHeight": "3"}),
        ("commit_at_height_10", "commit", {"height": "2"}),
        ("consensus_params", "consensus_params", {"height": "2"}),
        ("abci_info", "abci_info", {}),
        ("abci_query_with_existing_key", "abci_query", {"data": "616c706861"}),
        ("abci_query_with_non_existent_key", "abci_query", {"data": "00"}),
        ("broadcast_tx_sync", "broadcast_tx_sync", {"tx": "bmV3PTE="}),
        ("net_info", "net_info", {}),
    ],
)
def test_answers_have_the_keys_and_types_of_recorded_ones(
    home: Path, root: TrustRoot, vectors: Path, case: tuple[str, str, dict[str, str]]
) -> None:
    fixture, method, params = case
    folder = vectors / "cometbft" / "informalsystems-tendermint-rs"
    path = folder / "rpc_kvstore_v0_38" / "incoming" / f"{fixture}.json"
    recorded = json.loads(path.read_bytes())

    async def story(node: SoloNode, l1: L1Client) -> None:
        await l1.broadcast_tx_sync(b"a=1")
        await node.produce()
        await node.produce()
        body = {"jsonrpc": "2.0", "id": "x", "method": method, "params": params}
        _, ours = await post(node, json.dumps(body).encode())
        parse_reply(json.dumps(ours).encode()).open()
        assert missing(shapes(recorded), shapes(ours)) == []

    tell(home, story)


def test_new_block_event_has_the_recorded_shape(
    home: Path, root: TrustRoot, vectors: Path
) -> None:
    folder = vectors / "cometbft" / "informalsystems-tendermint-rs"
    path = folder / "rpc_kvstore_v0_38" / "incoming" / "subscribe_newblock_0.json"
    recorded = json.loads(path.read_bytes())

    async def story(node: SoloNode, l1: L1Client) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{node.url}/websocket") as socket,
        ):
            query = {"query": "tm.event = 'NewBlock'"}
            await socket.send_str(
                json.dumps({"id": "x", "method": "subscribe", "params": query})
            )
            assert json.loads((await socket.receive()).data)["result"] == {}
            await node.produce()
            event = json.loads((await socket.receive()).data)
            assert missing(shapes(recorded), shapes(event)) == []
            assert event["result"]["query"] == query["query"]
            assert event["id"] == "x"

    tell(home, story)


def test_cancelled_caller_leaves_no_block_that_is_durable_but_unseen(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        for turn in range(20):
            node.submit(b"turn%d=1" % turn)
            making = asyncio.create_task(node.produce())
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making
        while node.mempool.total_bytes:
            await node.produce()
        assert node.chain.height == node.chain.store.height

    tell(home, story)


def test_node_stops_at_once_though_somebody_listens(
    home: Path, root: TrustRoot
) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with running(home) as (node, _):
                socket = await session.ws_connect(f"{node.url}/websocket")
                begun = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - begun < 1.5
            assert (await socket.receive()).type in {
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
            }

    asyncio.run(main())


def test_transaction_that_became_invalid_is_told_to_who_waits_for_it(
    home: Path, root: TrustRoot
) -> None:
    async def story(node: SoloNode, l1: L1Client) -> None:
        node.submit(b"other=1")
        assert node.submit(b"late=1").code == 0
        waiting = asyncio.create_task(node.included(sha256(b"late=1")))
        await asyncio.sleep(0)
        real = node.mempool.reap
        node.mempool.reap = (
            lambda **limits: (  # type: ignore[method-assign]
                b"once/late=1",
                *real(**limits)[:1],
            )
        )
        await node.produce()
        with pytest.raises(TxNotFoundError, match="thrown out"):
            await waiting

    tell(home, story)
