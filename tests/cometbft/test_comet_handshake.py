"""Node and ledger that do not fit: named by one of them, harmless to both."""

import asyncio
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from comet import (
    Homes,
    comet_process,
    follow,
    ledger_process,
    make_homes,
    require_undisturbed,
    send,
    transfer,
    wait_for_height,
)

from sealift.base import Height
from sealift.relay import tx_hash
from sealift.transport.process import ChildProcess, child_process

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(1800)]


async def grow(homes: Homes, nonces: range) -> int:
    """Both run until these transactions are in blocks; the last height."""
    async with ledger_process(homes), comet_process(homes) as (_, l1):
        return await include(l1, nonces)


async def include(l1: object, nonces: range) -> int:
    await wait_for_height(l1, 2)  # type: ignore[arg-type]
    await send(l1, [transfer(nonce) for nonce in nonces])  # type: ignore[arg-type]
    found = await l1.wait_for_tx(tx_hash(transfer(nonces[-1])))  # type: ignore[attr-defined]
    await wait_for_height(l1, found.height + 2)  # type: ignore[arg-type]
    return int(found.height)


async def refused_node(homes: Homes) -> str:
    """What a node says that ends by itself."""
    async with child_process(homes.comet()) as node:
        assert await asyncio.wait_for(node.wait(), 60) != 0
        return node.output()


async def require_goes_on(homes: Homes, app: ChildProcess, txs: int) -> None:
    """With the right node, the same ledger process takes up where it was."""
    async with comet_process(homes) as (_, l1):
        await include(l1, range(txs, txs + 1))
        relay = await follow(l1, await l1.height())
        assert await require_undisturbed(l1, relay) == txs + 1
    assert app.exit_code is None


def test_ledger_restored_from_an_older_copy_is_brought_up_again(homes: Homes) -> None:
    old = homes.ledger.parent / "old"
    asyncio.run(grow(homes, range(3)))
    shutil.copytree(homes.ledger, old)
    asyncio.run(grow(homes, range(3, 6)))
    shutil.rmtree(homes.ledger)
    old.rename(homes.ledger)

    async def main() -> None:
        async with ledger_process(homes) as app:
            await require_goes_on(homes, app, 6)

    asyncio.run(main())


def test_ledger_ahead_of_the_blocks_is_refused_and_kept(homes: Homes) -> None:
    """The node lost its blocks, or is restored from an older copy."""
    older, newest = homes.node.parent / "older", homes.node.parent / "newest"
    data = homes.node / "data"
    asyncio.run(grow(homes, range(1)))
    shutil.copytree(data, older)
    asyncio.run(grow(homes, range(1, 3)))
    shutil.copytree(data, newest)

    async def main() -> None:
        async with ledger_process(homes) as app:
            shutil.rmtree(data)
            older.rename(data)
            assert "is higher than" in await refused_node(homes)
            shutil.rmtree(data)
            data.mkdir()
            shutil.copy(newest / "priv_validator_state.json", data)
            assert "AppHash does not match" in await refused_node(homes)
            assert app.exit_code is None
            shutil.rmtree(data)
            newest.rename(data)
            await require_goes_on(homes, app, 3)

    asyncio.run(main())


def test_blocks_of_another_chain_are_refused_by_name(
    homes: Homes, comet_binary: Path
) -> None:
    """Its node has more blocks than our ledger, so it replays them to it."""
    asyncio.run(grow(homes, range(1)))
    foreign = make_homes(homes.node.parent / "f", comet_binary)
    higher = asyncio.run(grow(foreign, range(1)))

    async def more() -> None:
        async with ledger_process(foreign), comet_process(foreign) as (_, l1):
            await wait_for_height(l1, higher + 60)

    asyncio.run(more())
    foreign = replace(foreign, socket=homes.socket)

    async def main() -> None:
        async with ledger_process(homes) as app:
            said = await refused_node(foreign)
            assert "AbciValidatorsError" in said
            assert "other next validators" in app.output()
            await require_goes_on(homes, app, 1)

    asyncio.run(main())


def test_genesis_of_another_chain_is_refused_by_name(homes: Homes) -> None:
    path = homes.node / "config" / "genesis.json"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"chain_id": "another"}))

    async def main() -> None:
        async with ledger_process(homes) as app:
            assert "ForeignChainError" in await refused_node(homes)
            path.write_text(good)
            reset = [homes.binary, "unsafe-reset-all", "--home", homes.node]
            await asyncio.to_thread(subprocess.run, reset, check=True)
            await require_goes_on(homes, app, 0)

    asyncio.run(main())


def test_second_node_on_one_ledger_is_refused(homes: Homes, comet_binary: Path) -> None:
    """It would have our ledger execute its blocks between those of the first."""
    other = make_homes(homes.node.parent / "o", comet_binary)
    other = replace(other, socket=homes.socket)

    async def main() -> None:
        async with ledger_process(homes) as app, comet_process(homes) as (_, l1):
            await include(l1, range(2))
            assert "AbciConnectionsError" in await refused_node(other)
            at = await l1.height()
            await wait_for_height(l1, at + 2)
            relay = await follow(l1, Height(at))
            assert await require_undisturbed(l1, relay) == 2
            assert app.exit_code is None

    asyncio.run(main())
