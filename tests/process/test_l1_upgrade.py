"""L1's runtime changes under real processes; everything is restarted, and goes on."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cast import SEALIFT, Cast, Ended, play

from sealift.base import Digest, Height
from sealift.cli._demo_stage import Stage, user_secret
from sealift.ledger import FIRST_RUNTIME, DcapVerifier
from sealift.node import LedgerApplication, SoloHome
from sealift.relay import block_id_of
from sealift.transport.keys import write_account_key

pytestmark = pytest.mark.process

SECOND = 2
OLD_PROGRAM = (sys.executable, str(Path(__file__).with_name("old_program.py")))


async def l1_status(cast: Cast) -> dict[str, Any]:
    url = cast.parts["chain"].url
    return answer(
        await cast.run_once("status", "chain", "status", "--rpc", url, "--json")
    )


def answer(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.output
    line = next(one for one in ended.output.splitlines() if one.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


async def set_code(cast: Cast, *words: str, by: str = "authority") -> Ended:
    home = SoloHome(cast.stage.chain)
    return await cast.run_once(
        "set-code",
        *("chain", "set-code", *words, "--json"),
        *("--key", str(home.account_key(by)), "--rpc", cast.parts["chain"].url),
    )


async def make_card(cast: Cast) -> Path:
    """A user's card of before: its trust root is block 1."""
    card = cast.stage.folder / "card.json"
    made = await cast.run_once(
        "card",
        *("shard", "card", "--shard", cast.stage.shard.hex(), "--json"),
        *("--bundle", str(cast.stage.old.path), "--rpc", cast.parts["chain"].url),
        *("--worker", cast.parts["old"].url, "-o", str(card)),
    )
    answer(made)
    write_account_key(cast.stage.folder / "user.json", user_secret(7))
    return card


async def asks(cast: Cast, card: Path) -> int:
    """A user reads a balance, proven from the card's trust root on."""
    key = str(cast.stage.folder / "user.json")
    words = ("client", "balance", "--card", str(card), "--key", key, "--json")
    return int(answer(await cast.run_once("balance", *words))["balance"])


async def restart_everything(cast: Cast, *workers: str) -> None:
    for name in workers:
        assert await cast.stop(name) == 0
    cast.kill("chain")  # it is supervised: it comes again by itself
    await asyncio.sleep(0.2)
    await cast.up("chain")
    for name in workers:
        cast.run_worker(name)
    for name in workers:
        await cast.up(name)


def roots_made_again(stage: Stage) -> None:
    """The ledger executed straight through has the roots of the chain's headers."""
    home = SoloHome(stage.chain)
    chain = home.open_chain(LedgerApplication(DcapVerifier()))
    fresh = LedgerApplication(DcapVerifier())
    fresh.init_chain(chain.genesis)
    versions = []
    for height in range(1, chain.height + 1):
        block = chain.store.block(Height(height)).block
        done = fresh.finalize_block(
            height=Height(height),
            block_hash=Digest(block_id_of(block).hash),
            time=block.header.time,
            proposer=block.header.proposer_address,
            txs=block.txs,
        )
        fresh.commit()
        versions.append(fresh.ledger.runtime_version)
        if height < chain.height:
            following = chain.store.block(Height(height + 1)).block.header
            assert done.app_hash == following.app_hash, height
    chain.close()
    assert {FIRST_RUNTIME, SECOND} == set(versions)


def test_a_node_of_an_old_program_halts_is_updated_and_everything_restarts(
    make_stage: Callable[..., Stage],
) -> None:
    """The enclave upgrade is at the very block at which L1's runtime changes."""
    stage = make_stage(block_ms=250)  # two commands are over before XYZ

    async def story(cast: Cast) -> None:
        await cast.stop("chain")
        cast.spawn("chain", "chain", "start", str(stage.chain), argv=OLD_PROGRAM)
        await cast.up("chain")
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(6)
        card = await make_card(cast)
        assert await asks(cast, card) > 0
        xyz = await cast.schedule(lead=60)

        refused = await set_code(cast, "2", "--at", str(xyz), by="carrier")
        assert refused.code == 1
        assert "not the root key" in refused.output
        planned = answer(await set_code(cast, "2", "--at", str(xyz)))
        assert planned["runtime_version"] == FIRST_RUNTIME
        assert planned["runtime_plan"]["at"] == xyz
        assert planned["runtime_plan"]["in_this_program"] is True
        assert planned["replaced"] is None

        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")

        chain = cast.parts["chain"]
        await cast.until(lambda: seen(len(chain.ended) >= 2), "the node to halt twice")
        for ended in chain.ended:
            assert ended.code == 1
            assert f"block {xyz} is executed by a version" in ended.output
            assert f"expected version {SECOND}" in ended.output
            assert "Traceback" not in ended.output
        assert "THE NODE WILL HALT THERE" in chain.log.read_text()
        status = await cast.until_status(  # it says what it waits for
            "old", lambda s: any("of the L1 node" in why for why in s["reasons"])
        )
        assert status["imported"] < xyz

        chain.argv = SEALIFT  # the program is updated
        await cast.reach(xyz + 3)
        await cast.until_confirmed(xyz + 2)
        after = await l1_status(cast)
        assert (after["runtime_version"], after["runtime_plan"]) == (SECOND, None)
        await restart_everything(cast, "old", "new")
        await cast.until_confirmed(cast.scan.height + 3)
        url = cast.parts["new"].url
        words = ("shard", "card", "--from", str(card), "--worker", url, "--json")
        answer(await cast.run_once("card", *words, "-o", str(card)))
        assert await asks(cast, card) > 0
        words = ("shard", "status", "--card", str(card), "--json")
        assert answer(await cast.run_once("shard", *words))["generation"] == 1
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("new", "old"):
            assert await cast.stop(name) == 0
        await cast.judge("old", "new", upgrade_at=xyz, upto=last)
        await cast.stop("chain")
        roots_made_again(stage)

    play(stage, story)


async def seen(value: object) -> object:
    return value


def test_killed_around_the_block_and_restarted_everything_goes_on(
    make_stage: Callable[..., Stage],
) -> None:
    """kill -9 of node and worker before, in and after the block; XYZ is one later."""
    stage = make_stage(block_ms=300)  # three commands are over before XYZ

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(6)
        xyz = await cast.schedule(lead=60)
        at = xyz - 1
        moved = answer(await set_code(cast, "2", "--at", str(at + 500)))
        assert moved["runtime_plan"]["in_blocks"] > 400
        cancelled = answer(await set_code(cast, "--cancel"))
        assert cancelled["runtime_plan"] is None
        assert cancelled["replaced"] == f"version 2 at block {at + 500}"
        answer(await set_code(cast, "2", "--at", str(at)))
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")
        for height in (at - 2, at - 1, at, at + 1):
            await cast.reach(height)
            cast.kill("chain")
            cast.kill("old")
            await asyncio.sleep(0.3)
            await cast.up("chain")
        await cast.up("old")
        await cast.until_confirmed(xyz + 3)
        await restart_everything(cast, "old", "new")
        await cast.until_confirmed(cast.scan.height + 3)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        for name in ("new", "old"):
            assert await cast.stop(name) == 0
        await cast.judge("old", "new", upgrade_at=xyz, upto=last)
        await cast.stop("chain")
        roots_made_again(stage)

    play(stage, story)
