"""Validators by governance on a real CometBFT, and our relay across the changes."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from comet import (
    CHAIN,
    FAUCET,
    RULES,
    Homes,
    comet_process,
    follow,
    ledger_process,
    make_homes,
    report_in,
    root_call,
    send,
    wait_for_height,
)

from sealift.base import Height
from sealift.cli._chain_validators import set_validator, validators
from sealift.ledger import DcapVerifier, LedgerParams
from sealift.node import LedgerApplication
from sealift.relay import (
    ChainRelay,
    TrustRoot,
    ValidatorSet,
    header_hash,
    tx_hash,
    validators_hash,
)
from sealift.transport.keys import write_account_key
from sealift.transport.rpc import L1Client

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(1800)]
#: A validator that never runs; it has little power.
SECOND = bytes(range(32))
GOVERNED = LedgerParams(fee_per_byte=1, max_validators=4)


@pytest.fixture
def governed(comet_binary: Path) -> Iterator[Homes]:
    with tempfile.TemporaryDirectory(prefix="slv-") as folder:
        yield make_homes(Path(folder), comet_binary, params=GOVERNED)


async def change(l1: L1Client, nonce: int, power: int) -> Height:
    tx = root_call(nonce, "validators.set_validator", public_key=SECOND, power=power)
    await send(l1, [tx])
    found = await l1.wait_for_tx(tx_hash(tx))
    assert found.tx_result.code == 0, found.tx_result.log
    await wait_for_height(l1, found.height + 3)
    return found.height


async def powers(l1: L1Client, height: int) -> dict[bytes, int]:
    found = await l1.validators(Height(height))
    return {one.public_key: one.power for one in found.validators}


def test_a_validator_comes_changes_and_goes_and_the_relay_follows(
    governed: Homes, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ledger_process(governed), comet_process(governed) as (_, l1):
            await wait_for_height(l1, 2)
            (own,) = await powers(l1, 1)
            decided = [await change(l1, n, power) for n, power in enumerate((2, 3, 0))]
            for height, before, after in zip(
                decided, ({}, {SECOND: 2}, {SECOND: 3}), (2, 3, 0), strict=True
            ):
                expected = {SECOND: after} if after else {}
                assert await powers(l1, height + 1) == {own: 10} | before
                assert await powers(l1, height + 2) == {own: 10} | expected
            top = await l1.height()
            relay = await follow(l1, top)  # header by header
            await check_headers(l1, relay, top)
            await skip(l1, decided, top)
            await require_same_states(l1, relay)

    asyncio.run(main())


async def check_headers(l1: L1Client, relay: ChainRelay, top: int) -> None:
    """CometBFT's hashes of the sets are ours, and ours of the ledger's state."""
    for height in range(1, top):
        header = relay.header_at(Height(height)).header
        following = await l1.validators(Height(height + 1))
        assert header.next_validators_hash == validators_hash(following)


async def skip(l1: L1Client, decided: list[Height], top: int) -> None:
    """From before each change to after it, and over all of them at once."""
    first = await l1.light_block(Height(1))
    root = TrustRoot(
        chain_id=CHAIN, height=Height(1), header_hash=header_hash(first.header)
    )
    for stops in (
        [top],
        [decided[0] + 3, decided[2] + 1, top],
        [h + 2 for h in decided],
    ):
        relay = ChainRelay.bootstrap(root, first, rules=RULES, now=None)
        for height in stops:
            relay.skip(await l1.light_block(Height(height)), now=None)
        assert relay.head.height == stops[-1]


async def require_same_states(l1: L1Client, relay: ChainRelay) -> None:
    """Blocks executed anew, with what their commits say of validators."""
    application = LedgerApplication(DcapVerifier())
    root = application.init_chain(await l1.genesis()).app_hash
    seen: set[bytes] = set()
    for height in range(1, relay.head.height + 1):
        verified = relay.header_at(Height(height))
        assert verified.header.app_hash == root, f"state before block {height}"
        assert application.next_validators == ValidatorSet.sorted(
            (await l1.validators(Height(height + 1))).validators
        )
        block = (await l1.block(Height(height))).block
        report = await report_in(l1, block)
        seen.update(report.absent)
        root = application.finalize_block(
            height=Height(height),
            block_hash=verified.hash,
            time=verified.header.time,
            proposer=verified.header.proposer_address,
            txs=block.txs,
            report=report,
        ).app_hash
        application.commit()
    assert len(seen) == 1  # the one that never ran


def test_the_commands_change_and_show_the_set(governed: Homes, tmp_path: Path) -> None:
    key = tmp_path / "sudo.json"
    write_account_key(key, FAUCET)
    other = tmp_path / "priv_validator_key.json"
    other.write_text(
        json.dumps(
            {
                "address": "00",
                "pub_key": {
                    "type": "tendermint/PubKeyEd25519",
                    "value": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                },
                "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": "x"},
            }
        )
    )

    def sealift(command: object, *words: object) -> dict[str, object]:
        said = CliRunner().invoke(command, [*map(str, words), "--json"])  # type: ignore[arg-type]
        assert said.exit_code == 0, said.output
        answer: dict[str, object] = json.loads(said.stdout)
        return answer

    async def main() -> None:
        async with ledger_process(governed), comet_process(governed) as (_, l1):
            await wait_for_height(l1, 2)
            url = l1.url
            made = await asyncio.to_thread(
                sealift, set_validator, other, 3, "--key", key, "--rpc", url
            )
            assert made["orders_from_block"] == int(str(made["decided_in_block"])) + 2
            await wait_for_height(l1, int(str(made["orders_from_block"])) + 3)
            shown = await asyncio.to_thread(sealift, validators, "--rpc", url)
            rows = shown["validators"]
            assert isinstance(rows, list)
            by_key = {row["public_key"]: row for row in rows}
            silent = by_key[SECOND.hex()]
            assert (silent["power"], silent["coming"]) == (3, 3)
            assert silent["missed"] > 0
            assert (shown["total_power"], shown["pending"]) == (13, False)

    asyncio.run(main())


def test_a_chain_of_changes_survives_kill_9_of_both(governed: Homes) -> None:
    """The engine replays a block that changed the set; nobody disagrees after."""

    async def life(nonce: int, power: int) -> None:
        async with (
            ledger_process(governed) as app,
            comet_process(governed) as (
                node,
                l1,
            ),
        ):
            await wait_for_height(l1, 2)
            tx = root_call(
                nonce, "validators.set_validator", public_key=SECOND, power=power
            )
            await send(l1, [tx])
            await l1.wait_for_tx(tx_hash(tx))
            await app.kill()
            await asyncio.wait_for(node.wait(), 30)

    for nonce, power in enumerate((3, 1, 0)):
        asyncio.run(life(nonce, power))

    async def after() -> None:
        async with ledger_process(governed), comet_process(governed) as (_, l1):
            await wait_for_height(l1, (await l1.height()) + 3)
            top = await l1.height()
            relay = await follow(l1, top)
            await require_same_states(l1, relay)
            changed = [
                (await powers(l1, one)) != (await powers(l1, two))
                for one, two in pairwise(range(1, top))
            ]
            assert sum(changed) == 3

    asyncio.run(after())
