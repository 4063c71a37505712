"""The ledger behind a real CometBFT: one format, and no crash makes two states."""

import asyncio
import contextlib
import shutil
import signal

import pytest
from comet import (
    CHAIN,
    PARAMS,
    START_BALANCE,
    Homes,
    account_key,
    comet_process,
    follow,
    ledger_process,
    receiver,
    require_undisturbed,
    send,
    transfer,
    wait_for_height,
)

from sealift.base import Height
from sealift.frame import ProofInvalidError
from sealift.ledger import DcapVerifier
from sealift.node import (
    LedgerApplication,
    SoloChain,
    genesis_tip,
    ledger_consensus_params,
)
from sealift.node.abci import APP_VERSION
from sealift.relay import (
    ChainRelay,
    MerkleProofError,
    ResultsMismatchError,
    RpcRemoteError,
    TxsMismatchError,
    tx_hash,
    verify_results,
    verify_state,
    verify_tx,
    verify_txs,
)
from sealift.relay.rpc import (
    ABCI_INFO,
    BLOCKCHAIN,
    CONSENSUS_PARAMS_RESULT,
    TX_SEARCH,
)
from sealift.transport.keys import read_validator_key
from sealift.transport.process import child_process
from sealift.transport.rpc import (
    L1Client,
    NodeUnreachableError,
    StateQueryError,
    TxRejectedError,
)

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(1800)]
HEADERS = 22


def test_relay_verifies_real_headers_blocks_results_and_state(homes: Homes) -> None:
    async def main() -> None:
        async with ledger_process(homes), comet_process(homes) as (_, l1):
            await wait_for_height(l1, 2)
            await send(l1, [transfer(nonce) for nonce in range(5)])
            # accepted by the mempool, fails in the block
            late = transfer(5, amount=START_BALANCE)
            await send(l1, [late])
            with pytest.raises(TxRejectedError, match="nonce"):
                await l1.broadcast_tx_sync(transfer(99))
            with pytest.raises(TxRejectedError):
                await l1.broadcast_tx_sync(b"garbage")
            found = await l1.wait_for_tx(tx_hash(late))
            assert found.tx_result.code != 0
            await wait_for_height(l1, max(HEADERS, found.height + 2))
            relay = await follow(l1, await l1.height())
            assert relay.head.height >= HEADERS
            assert await require_undisturbed(l1, relay) == 6

            await check_transactions(l1, relay, found.height, late)
            await check_state(l1, relay, found.height)
            await check_other_answers(l1, found.height)
            await check_solo_makes_the_same_blocks(l1, relay, homes)

    asyncio.run(main())


async def check_other_answers(l1: L1Client, height: Height) -> None:
    """Our parsers read what the real node writes, methods that no relay needs too."""
    info = await l1.call("abci_info", ABCI_INFO)
    assert (info.data, info.app_version) == ("sealift", APP_VERSION)
    assert info.last_block_height >= height
    params = await l1.call("consensus_params", CONSENSUS_PARAMS_RESULT, height="1")
    assert params.consensus_params == ledger_consensus_params(PARAMS)
    chain = await l1.call("blockchain", BLOCKCHAIN, minHeight="1", maxHeight="5")
    assert [one.header.height for one in chain.block_metas] == [5, 4, 3, 2, 1]
    found = await l1.call("tx_search", TX_SEARCH, query=f"tx.height={height}")
    assert found.total_count == len((await l1.block(height)).block.txs) > 0
    heights: list[int] = []
    async with asyncio.timeout(20), contextlib.aclosing(l1.new_blocks()) as events:
        async for event in events:
            heights.append(event.block.header.height)
            if len(heights) == 3:
                break
    assert heights == [heights[0], heights[0] + 1, heights[0] + 2]


async def check_transactions(
    l1: L1Client, relay: ChainRelay, height: Height, tx: bytes
) -> None:
    following = relay.header_at(Height(height + 1))
    block = (await l1.block(height)).block
    results = [one.committed() for one in (await l1.block_results(height)).txs_results]
    with pytest.raises(TxsMismatchError):
        verify_txs(relay.header_at(height), block.txs[:-1])
    with pytest.raises(ResultsMismatchError):
        verify_results(following, results[:-1])
    proven = await l1.tx(tx_hash(tx), prove=True)
    assert proven is not None
    assert proven.proof is not None
    assert verify_tx(relay.header_at(height), proven.proof) == tx
    with pytest.raises(MerkleProofError):
        verify_tx(following, proven.proof)


async def check_state(l1: L1Client, relay: ChainRelay, height: Height) -> None:
    key, absent = account_key(receiver(0)), account_key(receiver(1234))
    following = relay.header_at(Height(height + 1))
    there = await l1.abci_query(key, height=height)
    assert there.value is not None
    verify_state(following, key, there.value, there.proof)
    with pytest.raises(ProofInvalidError):
        verify_state(following, key, there.value + b"\x00", there.proof)
    with pytest.raises(ProofInvalidError):
        verify_state(following, key, None, there.proof)
    missing = await l1.abci_query(absent, height=height)
    assert missing.value is None
    verify_state(following, absent, None, missing.proof)
    # before the transfer, and the newest
    early = await l1.abci_query(key, height=Height(1))
    assert early.value is None
    verify_state(relay.header_at(Height(2)), key, None, early.proof)
    assert (await l1.abci_query(key)).value == there.value
    with pytest.raises(StateQueryError):
        await l1.abci_query(key, height=Height(1_000_000))


async def check_solo_makes_the_same_blocks(
    l1: L1Client, relay: ChainRelay, homes: Homes
) -> None:
    """The embedded engine with this key and these times: the same bytes."""
    genesis = await l1.genesis()
    application = LedgerApplication(DcapVerifier())
    solo = SoloChain(
        secret=read_validator_key(homes.validator_key),
        genesis=genesis,
        application=application,
        tip=genesis_tip(genesis, application.init_chain(genesis).app_hash),
    )
    same = 0
    for height in range(1, relay.head.height):
        found = await l1.block(Height(height))
        commit = (await l1.block(Height(height + 1))).block.last_commit
        now = commit.signatures[0].timestamp
        made = solo.produce_block(now, found.block.txs)
        assert made.block == found.block
        assert made.block_id == found.block_id
        assert made.app_hash == relay.header_at(Height(height + 1)).header.app_hash
        if commit.round:
            break  # the embedded engine never needs a second round
        assert made.commit == commit
        same += 1
    assert same >= 10
    assert genesis.chain_id == CHAIN


@pytest.mark.parametrize(
    ("instant", "block", "said"),
    [
        pytest.param("executed", "busy", "real", id="in-FinalizeBlock"),
        pytest.param(
            "finalized", "busy", "real", id="between-FinalizeBlock-and-Commit"
        ),
        pytest.param("finalized", "first", "real", id="before-the-first-Commit"),
        pytest.param("persisted", "first", "mock", id="in-the-first-Commit"),
        pytest.param("persisted", "busy", "mock", id="in-Commit-once-durable"),
    ],
)
def test_kill_9_of_the_ledger(
    homes: Homes, instant: str, block: str, said: str
) -> None:
    async def first_life() -> None:
        async with ledger_process(homes, instant, block) as app:
            if block == "first":  # dies before there is an RPC
                async with child_process(homes.comet()) as node:
                    assert await app.wait() == -signal.SIGKILL
                    await asyncio.wait_for(node.wait(), 30)
                return
            async with comet_process(homes) as (_, l1):
                await wait_for_height(l1, 2)
                with contextlib.suppress(NodeUnreachableError, RpcRemoteError):
                    await send(l1, [transfer(nonce) for nonce in range(3)])
                assert await app.wait() == -signal.SIGKILL

    async def second_life() -> None:
        async with ledger_process(homes), comet_process(homes) as (node, l1):
            assert f"Replay last block using {said} app" in node.output()
            relay = await follow(l1, await l1.height())
            before = await require_undisturbed(l1, relay)
            assert (before > 0) == (block == "busy")  # the block is there, once
            await wait_for_height(l1, await l1.height() + 1)
            await send(l1, [transfer(nonce) for nonce in range(before, before + 2)])
            last = await l1.wait_for_tx(tx_hash(transfer(before + 1)))
            await wait_for_height(l1, last.height + 2)
            relay = await follow(l1, await l1.height())
            assert await require_undisturbed(l1, relay) == before + 2
            for nonce in range(before + 2):
                key = account_key(receiver(nonce))
                entry = await l1.abci_query(key, height=last.height)
                assert entry.value is not None
                verify_state(
                    relay.header_at(Height(last.height + 1)),
                    key,
                    entry.value,
                    entry.proof,
                )

    asyncio.run(first_life())
    asyncio.run(second_life())


def test_lost_state_is_made_again_from_the_blocks(homes: Homes) -> None:
    async def life(nonces: range) -> None:
        async with ledger_process(homes), comet_process(homes) as (_, l1):
            await wait_for_height(l1, 2)
            await send(l1, [transfer(nonce) for nonce in nonces])
            last = await l1.wait_for_tx(tx_hash(transfer(nonces[-1])))
            await wait_for_height(l1, last.height + 2)
            relay = await follow(l1, await l1.height())
            assert await require_undisturbed(l1, relay) == nonces.stop
            hashes.append(relay.header_at(last.height).hash)
            heights.append(last.height)
            assert relay.header_at(heights[0]).hash == hashes[0]

    heights: list[Height] = []
    hashes: list[bytes] = []
    asyncio.run(life(range(3)))
    shutil.rmtree(homes.ledger)
    asyncio.run(life(range(3, 5)))
    assert heights[0] < heights[1]


def test_kill_9_of_the_node_while_the_ledger_lives(homes: Homes) -> None:
    async def main() -> None:
        seen: dict[int, bytes] = {}
        sent = 0
        async with ledger_process(homes) as app:
            for life in range(3):
                async with comet_process(homes) as (node, l1):
                    await wait_for_height(l1, (await l1.height()) + 2)
                    await send(l1, [transfer(sent + one) for one in range(3)])
                    sent += 3
                    await l1.wait_for_tx(tx_hash(transfer(sent - 1)))
                    top = await l1.height()
                    await asyncio.sleep(0.05 * life)
                    relay = await follow(l1, top)
                    for at in range(1, top + 1):
                        digest = relay.header_at(Height(at)).hash
                        assert seen.setdefault(at, digest) == digest
                    assert await node.kill() == -signal.SIGKILL
            async with comet_process(homes) as (_, l1):
                await wait_for_height(l1, max(seen) + 2)
                relay = await follow(l1, await l1.height())
                for at, digest in seen.items():
                    assert relay.header_at(Height(at)).hash == digest
                assert await require_undisturbed(l1, relay) == sent
            assert app.exit_code is None

    asyncio.run(main())
