"""The real ledger behind the embedded engine."""

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sealift.attestation import TrustAnchor
from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    Height,
    InvariantError,
    Nonce,
    TooLargeError,
)
from sealift.crypto import account_of, sha256
from sealift.frame import Context, storage_key
from sealift.ledger import (
    DcapVerifier,
    LedgerGenesis,
    LedgerGenesisError,
    LedgerParams,
    ProposalRefusedError,
    ledger_call,
    render_genesis,
    transaction,
)
from sealift.ledger._system import System
from sealift.node import (
    ForeignChainError,
    LedgerApplication,
    SoloConfig,
    SoloHome,
    ValidatorsNotFixedError,
    init_solo,
    ledger_consensus_params,
    run_solo,
)
from sealift.relay import (
    BlockParams,
    ChainRelay,
    ConsensusParams,
    RelayRules,
    Timestamp,
    verify_block,
    verify_state,
)
from sealift.relay.rpc import GenesisDoc
from sealift.transport.clock import WallClock
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import Backoff, L1Client, TxRejectedError

CHAIN = ChainId("ledger-test")
PARAMS = LedgerParams(fee_per_byte=1)
RULES = RelayRules(trusting_period=14 * 24 * 3600)


def app_state(
    keys: dict[str, AccountId],
    chain: ChainId = CHAIN,
    params: LedgerParams = PARAMS,
) -> bytes:
    return render_genesis(
        LedgerGenesis(
            chain_id=chain,
            accounts=((keys["faucet"], Amount(10**12)),),
            sudo=keys["sudo"],
            anchors=(TrustAnchor(root_der=b"simulated", kind="insecure-sim"),),
            params=params,
        )
    )


@pytest.fixture
def home(tmp_path: Path) -> SoloHome:
    seeds = iter(range(100))
    init_solo(
        tmp_path / "home",
        chain_id=CHAIN,
        genesis_time=WallClock().now(),
        accounts={"faucet": None, "sudo": bytes(31) + b"s"},
        app_state=lambda keys: app_state(dict(keys)),
        application=LedgerApplication(DcapVerifier()),
        entropy=lambda n: sha256(bytes([next(seeds)]))[:n],
        config=SoloConfig(block_ms=0, port=0),
        consensus_params=ledger_consensus_params(PARAMS),
    )
    return SoloHome(tmp_path / "home")


def transfers(home: SoloHome, nonces: Sequence[int]) -> list[bytes]:
    secret = read_account_key(home.account_key("faucet"))
    return [
        transaction(
            secret,
            chain_id=CHAIN,
            nonce=Nonce(nonce),
            valid_until=Height(1000),
            call=ledger_call(
                "balances.transfer",
                dest=account_of(bytes(31) + b"x"),
                amount=Amount(1000),
            ),
        )
        for nonce in nonces
    ]


def test_transfers_are_executed_proven_and_survive_a_restart(home: SoloHome) -> None:
    heights: list[Height] = []

    async def first_life() -> None:
        async with (
            run_solo(
                home.root,
                application=LedgerApplication(DcapVerifier()),
                clock=WallClock(),
            ) as node,
            L1Client(node.url, backoff=Backoff(attempts=1, jitter=lambda: 0)) as l1,
        ):
            for tx in transfers(home, [0, 1, 2]):
                await l1.broadcast_tx_sync(tx)
            with pytest.raises(TxRejectedError, match="nonce"):
                await l1.broadcast_tx_sync(transfers(home, [9])[0])
            with pytest.raises(TxRejectedError):
                await l1.broadcast_tx_sync(b"garbage")
            block = await node.produce()
            assert [one.code for one in block.results] == [0, 0, 0]
            heights.append(block.height)

    async def second_life() -> None:
        async with (
            run_solo(
                home.root,
                application=LedgerApplication(DcapVerifier()),
                clock=WallClock(),
            ) as node,
            L1Client(node.url, backoff=Backoff(attempts=1, jitter=lambda: 0)) as l1,
        ):
            await l1.broadcast_tx_sync(transfers(home, [3])[0])
            last = await node.produce()
            assert [one.code for one in last.results] == [0]
            relay = ChainRelay.bootstrap(
                home.read_trust_root(),
                await l1.light_block(Height(1)),
                rules=RULES,
                now=None,
            )
            for height in range(2, last.height + 1):
                relay.advance(await l1.light_block(Height(height)), now=None)
            block = await l1.block(heights[0])
            results = await l1.block_results(heights[0])
            verified = verify_block(
                relay.header_at(heights[0]),
                relay.header_at(Height(heights[0] + 1)),
                block.block.txs,
                [one.committed() for one in results.txs_results],
            )
            assert len(verified.txs) == 3
            key = storage_key("balances", "accounts", account_of(bytes(31) + b"x"))
            entry = await l1.abci_query(key, height=heights[0])
            assert entry.value is not None
            verify_state(
                relay.header_at(Height(heights[0] + 1)), key, entry.value, entry.proof
            )

    asyncio.run(first_life())
    asyncio.run(second_life())


def test_mempool_keeps_the_order_of_nonces_over_blocks(home: SoloHome) -> None:
    async def main() -> None:
        application = LedgerApplication(DcapVerifier())
        async with run_solo(
            home.root, application=application, clock=WallClock()
        ) as node:
            for tx in transfers(home, range(4)):
                assert node.submit(tx).code == 0
            first = await node.produce()
            assert [one.code for one in first.results] == [0] * 4
            for tx in transfers(home, range(4, 8)):
                assert node.submit(tx).code == 0
            assert [one.code for one in (await node.produce()).results] == [0] * 4

    asyncio.run(main())


def made_home(
    root: Path, *, weight: int, consensus: ConsensusParams | None = None
) -> SoloHome:
    params = LedgerParams(fee_per_byte=1, max_block_weight=weight)
    init_solo(
        root,
        chain_id=CHAIN,
        genesis_time=WallClock().now(),
        accounts={"faucet": None, "sudo": None},
        app_state=lambda keys: app_state(dict(keys), params=params),
        application=LedgerApplication(DcapVerifier()),
        entropy=os.urandom,
        config=SoloConfig(block_ms=0, port=0),
        consensus_params=consensus,
    )
    return SoloHome(root)


@pytest.mark.parametrize(
    ("weight", "allowed", "sizes"),
    [
        (500, None, [2, 2, 1]),  # the ledger's word: the genesis sets no limit
        (500, -1, [2, 2, 1]),
        (500, 10**6, [2, 2, 1]),
        (600, 200, [1, 1, 1, 1, 1]),  # the genesis's
        (10**6, None, [5]),
    ],
)
def test_block_is_never_proposed_above_the_ledgers_weight(
    tmp_path: Path, weight: int, allowed: int | None, sizes: list[int]
) -> None:
    """What does not fit waits; in the block it would fail and be gone."""
    consensus = (
        None
        if allowed is None
        else ConsensusParams(
            block=BlockParams(max_bytes=-1, max_gas=allowed), app_version=1
        )
    )
    home = made_home(tmp_path / "home", weight=weight, consensus=consensus)

    async def main() -> None:
        application = LedgerApplication(DcapVerifier())
        async with run_solo(
            home.root, application=application, clock=WallClock()
        ) as node:
            for tx in transfers(home, range(5)):
                assert node.submit(tx).gas_wanted == 200
            for size in sizes:
                block = await node.produce()
                assert [one.code for one in block.results] == [0] * size
                assert sum(one.gas_wanted for one in block.results) <= weight
            assert len(node.mempool) == 0

    asyncio.run(main())


def test_transaction_that_fits_no_block_is_refused_at_once(tmp_path: Path) -> None:
    tight = ConsensusParams(
        block=BlockParams(max_bytes=2_048 + 300, max_gas=199), app_version=1
    )
    home = made_home(tmp_path / "home", weight=500, consensus=tight)

    async def main() -> None:
        application = LedgerApplication(DcapVerifier())
        async with run_solo(
            home.root, application=application, clock=WallClock()
        ) as node:
            with pytest.raises(TooLargeError, match="gas"):
                node.submit(transfers(home, [0])[0])
            with pytest.raises(TooLargeError, match="transaction is too large"):
                node.submit(bytes(295))
            assert len(node.mempool) == 0

    asyncio.run(main())


def test_hook_that_fails_is_told_loudly(
    home: SoloHome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The block goes on without it; nobody else would ever know."""

    def broken(self: System, ctx: Context) -> None:
        raise ZeroDivisionError("a bug in a hook")

    async def main() -> None:
        async with run_solo(
            home.root, application=LedgerApplication(DcapVerifier()), clock=WallClock()
        ) as node:
            assert (await node.produce()).height == 2

    monkeypatch.setattr(System, "on_finalize", broken)
    asyncio.run(main())
    # chains of other tests may run beside this one; ours is at block 2
    errors = [one for one in caplog.records if one.levelno >= logging.ERROR]
    (told,) = [one for one in errors if "block 2:" in one.getMessage()]
    assert "hook of pallet system failed in block 2" in told.getMessage()


def test_a_genesis_whose_validators_may_change_is_refused_at_its_birth(
    tmp_path: Path,
) -> None:
    """One key orders this chain: another would never sign, and it would stand."""
    params = LedgerParams(max_validators=4)
    with pytest.raises(ValidatorsNotFixedError, match="max_validators 0"):
        init_solo(
            tmp_path / "home",
            chain_id=CHAIN,
            genesis_time=WallClock().now(),
            accounts={"faucet": None, "sudo": bytes(31) + b"s"},
            app_state=lambda keys: app_state(dict(keys), params=params),
            application=LedgerApplication(DcapVerifier()),
            entropy=bytes,
            config=SoloConfig(block_ms=0, port=0),
            consensus_params=ledger_consensus_params(params),
        )


def test_root_cannot_add_a_validator_to_a_chain_of_one_key(home: SoloHome) -> None:
    async def main() -> None:
        async with run_solo(
            home.root, application=LedgerApplication(DcapVerifier()), clock=WallClock()
        ) as node:
            call = ledger_call(
                "sudo.sudo",
                call=ledger_call(
                    "validators.set_validator", public_key=b"k" * 32, power=1
                ),
            )
            by_root = {"chain_id": CHAIN, "valid_until": Height(1000), "call": call}
            secret = read_account_key(home.account_key("faucet"))
            rich = transaction(
                secret,
                chain_id=CHAIN,
                nonce=Nonce(0),
                valid_until=Height(1000),
                call=ledger_call(
                    "balances.transfer",
                    dest=account_of(bytes(31) + b"s"),
                    amount=Amount(10**6),
                ),
            )
            node.submit(rich)
            await node.produce()
            node.submit(transaction(bytes(31) + b"s", nonce=Nonce(0), **by_root))
            block = await node.produce()
            assert [one.info for one in block.results] == ["ValidatorsFixedError"]
            header = (await node.produce()).block.header
            assert header.next_validators_hash == header.validators_hash

    asyncio.run(main())


def test_solo_proposes_by_the_rule_of_the_network(
    home: SoloHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a mempool holds by mistake never stands in a block of either engine."""
    expected = transfers(home, [0, 1])
    junk = [b"", b"garbage", transfers(home, [7])[0]]

    async def main() -> None:
        application = LedgerApplication(DcapVerifier())
        async with run_solo(
            home.root, application=application, clock=WallClock()
        ) as node:
            for tx in expected:
                node.submit(tx)
            held = (junk[0], expected[0], junk[1], expected[1], expected[0], junk[2])
            monkeypatch.setattr(node.mempool, "reap", lambda **_: held)
            limits = {"max_bytes": 10**6, "max_gas": -1}
            with pytest.raises(ProposalRefusedError):
                application.require_proposal(held, **limits)
            application.require_proposal(expected, **limits)
            assert list((await node.produce()).block.txs) == expected

    asyncio.run(main())


def test_application_without_state_and_foreign_genesis_are_refused() -> None:
    application = LedgerApplication(DcapVerifier())
    with pytest.raises(InvariantError):
        application.check_tx(b"", recheck=False)
    keys = {"faucet": account_of(bytes(32)), "sudo": account_of(bytes(32))}
    with pytest.raises(ForeignChainError):
        application.init_chain(
            GenesisDoc(
                genesis_time=Timestamp(seconds=0),
                chain_id=CHAIN,
                app_state=app_state(keys, ChainId("another")),
            )
        )


def test_chain_that_begins_before_1970_is_refused_at_its_birth() -> None:
    """Its blocks would be executed, but not counted: no restart could go on."""
    keys = {"faucet": account_of(bytes(32)), "sudo": account_of(bytes(32))}
    for seconds in (-1, -62_135_596_800):
        genesis = GenesisDoc(
            genesis_time=Timestamp(seconds=seconds),
            chain_id=CHAIN,
            app_state=app_state(keys),
        )
        with pytest.raises(LedgerGenesisError, match="1970"):
            LedgerApplication(DcapVerifier()).init_chain(genesis)
