"""A node crosses a version of the L1 runtime, or halts there by name and resumes."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sealift.attestation import TrustAnchor
from sealift.base import AccountId, Amount, ChainId, Digest, Height, Nonce
from sealift.crypto import account_of
from sealift.frame import storage_key
from sealift.ledger import (
    FIRST_RUNTIME,
    NEWEST_RUNTIME,
    RUNTIME_VERSIONS,
    DcapVerifier,
    LedgerGenesis,
    LedgerParams,
    ledger_call,
    render_genesis,
    transaction,
    version_table,
)
from sealift.ledger._errors import UnknownRuntimeVersionError
from sealift.ledger.v2._teerex import ForgettingTeerex
from sealift.node import (
    ChainCorruptError,
    ChainStoppedError,
    DurableChain,
    LedgerApplication,
    SoloConfig,
    SoloHome,
    init_solo,
    run_solo,
)
from sealift.node._chain import CommittedBlock
from sealift.relay import block_id_of
from sealift.transport.clock import WallClock
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import Backoff, L1Client

CHAIN = ChainId("runtime-upgrade")
SECOND = 2
AT = 8
OLD_PROGRAM = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])


def application(versions: Any = RUNTIME_VERSIONS) -> LedgerApplication:
    return LedgerApplication(DcapVerifier(), versions)


def app_state(keys: dict[str, AccountId]) -> bytes:
    return render_genesis(
        LedgerGenesis(
            chain_id=CHAIN,
            accounts=((keys["faucet"], Amount(10**12)), (keys["sudo"], Amount(10**12))),
            sudo=keys["sudo"],
            anchors=(TrustAnchor(root_der=b"simulated", kind="insecure-sim"),),
            params=LedgerParams(),
        )
    )


@pytest.fixture
def home(tmp_path: Path) -> SoloHome:
    init_solo(
        tmp_path / "home",
        chain_id=CHAIN,
        genesis_time=WallClock().now(),
        accounts={"faucet": None, "sudo": None},
        app_state=lambda keys: app_state(dict(keys)),
        application=application(),
        entropy=os.urandom,
        config=SoloConfig(block_ms=0, port=0),
    )
    return SoloHome(tmp_path / "home")


def signed(home: SoloHome, by: str, nonce: int, call: Any) -> bytes:
    return transaction(
        read_account_key(home.account_key(by)),
        chain_id=CHAIN,
        nonce=Nonce(nonce),
        valid_until=Height(1000),
        call=call,
    )


def plan(home: SoloHome, *, height: int = AT, nonce: int = 0) -> bytes:
    inner = ledger_call("system.set_code", version=SECOND, height=Height(height))
    return signed(home, "sudo", nonce, ledger_call("sudo.sudo", call=inner))


def transfer(home: SoloHome, nonce: int) -> bytes:
    dest = account_of(bytes(31) + b"x")
    call = ledger_call("balances.transfer", dest=dest, amount=Amount(1000))
    return signed(home, "faucet", nonce, call)


def open_chain(home: SoloHome, app: LedgerApplication) -> DurableChain:
    return home.open_chain(app)


def grow(home: SoloHome, chain: DurableChain, until: int) -> list[CommittedBlock]:
    """A transfer in every block."""
    made = []
    while chain.height < until:
        txs: Sequence[bytes] = [transfer(home, chain.height - 1)]
        if chain.height == 1:
            txs = [*txs, plan(home)]
        made.append(chain.produce(now=WallClock().now(), txs=txs))
        assert all(one.code == 0 for one in made[-1].results)
    return made


def made_again(home: SoloHome) -> list[bytes]:
    """App hashes when the state is made again from the stored blocks."""
    chain = open_chain(home, application())
    fresh = application()
    fresh.init_chain(chain.genesis)
    found = []
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
        found.append(done.app_hash)
    chain.close()
    return found


def in_headers(home: SoloHome) -> list[bytes]:
    """The same as the chain itself says: each in the header that follows."""
    chain = open_chain(home, application())
    found = [
        chain.store.block(Height(height)).block.header.app_hash
        for height in range(2, chain.height + 1)
    ]
    found.append(chain.chain.tip.app_hash)
    chain.close()
    return found


def test_restarted_after_every_block_it_comes_to_the_roots_of_its_headers(
    home: SoloHome,
) -> None:
    """encointer-node #44: the chain upgraded, then a restart failed on the root."""
    for height in range(2, AT + 6):
        chain = open_chain(home, application())
        grow(home, chain, height)
        chain.close()
    chain = open_chain(home, application())
    assert chain.read_state(
        storage_key("system", "version"), height=Height(AT), prove=True
    ).value != (
        chain.read_state(
            storage_key("system", "version"), height=Height(AT - 1), prove=True
        ).value
    )
    chain.close()
    assert made_again(home) == in_headers(home)


def test_a_copy_of_its_data_goes_on_from_any_height(home: SoloHome) -> None:
    copies = {}
    for height in (AT - 2, AT - 1, AT, AT + 1):
        chain = open_chain(home, application())
        grow(home, chain, height)
        chain.close()
        copies[height] = home.root.with_name(f"copy{height}")
        shutil.copytree(home.root, copies[height])
    chain = open_chain(home, application())
    grow(home, chain, AT + 4)
    chain.close()
    assert made_again(home) == in_headers(home)
    for folder in copies.values():
        copy = SoloHome(folder)
        chain = open_chain(copy, application())
        grow(copy, chain, AT + 4)
        chain.close()
        assert made_again(copy) == in_headers(copy)


def test_a_node_without_the_version_halts_by_name_and_resumes(
    home: SoloHome, caplog: pytest.LogCaptureFixture
) -> None:
    async def old_program() -> None:
        async with (
            run_solo(
                home.root, application=application(OLD_PROGRAM), clock=WallClock()
            ) as node,
            L1Client(node.url, backoff=Backoff(attempts=1, jitter=lambda: 0)) as l1,
        ):
            node.submit(plan(home))
            while node.chain.height < AT - 1:
                await node.produce()
            with pytest.raises(UnknownRuntimeVersionError) as refused:
                await node.produce()
            assert f"block {AT}" in str(refused.value)
            with pytest.raises(UnknownRuntimeVersionError):
                await node.failed()
            with pytest.raises(ChainStoppedError, match=f"version {SECOND}"):
                node.submit(transfer(home, 0))
            assert await l1.height() == AT - 1  # what is durable is served on
            with pytest.raises(Exception, match=f"version {SECOND}"):
                await l1.broadcast_tx_sync(transfer(home, 0))

    asyncio.run(old_program())
    chain = open_chain(home, application(OLD_PROGRAM))  # started again: no better
    assert chain.height == AT - 1
    with pytest.raises(UnknownRuntimeVersionError):
        chain.produce(now=WallClock().now(), txs=[])
    chain.close()
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert sum("THE NODE WILL HALT THERE" in one for one in told) >= AT - 2
    chain = open_chain(home, application())  # the program is updated
    for _ in range(3):
        chain.produce(now=WallClock().now(), txs=[])
    chain.close()
    assert made_again(home) == in_headers(home)
    with pytest.raises(UnknownRuntimeVersionError):
        open_chain(home, application(OLD_PROGRAM))  # the program is not put back


def test_a_state_that_is_not_its_blocks_is_refused_by_name(home: SoloHome) -> None:
    """As of a program whose migration does something else."""
    chain = open_chain(home, application())
    grow(home, chain, AT)
    chain.close()

    class Late(LedgerApplication):
        def load(self, entries: Any, *, genesis: Any) -> bytes:
            return super().load(self.without_queue(entries), genesis=genesis)

        @staticmethod
        def without_queue(entries: Any) -> Any:
            gone = storage_key("teerex", "longest_age")
            return [(key, value) for key, value in entries if key != gone]

    with pytest.raises(ChainCorruptError):
        open_chain(home, Late(DcapVerifier()))


def test_crash_before_and_after_the_upgrade_block_is_durable(home: SoloHome) -> None:
    chain = open_chain(home, application())
    grow(home, chain, AT - 1)
    lost = chain.propose(now=WallClock().now(), txs=[])  # executed, not durable
    assert lost.height == AT
    chain.close()
    chain = open_chain(home, application())
    assert chain.height == AT - 1
    kept = chain.propose(now=WallClock().now(), txs=[])
    chain.persist(kept)  # durable, nobody was told
    chain.close()
    chain = open_chain(home, application())
    assert chain.height == AT
    assert chain.chain.tip.app_hash == kept.app_hash == lost.app_hash
    chain.produce(now=WallClock().now(), txs=[])
    chain.close()
    assert made_again(home) == in_headers(home)


@pytest.mark.parametrize(
    ("instant", "height"),
    [("migrating", AT - 1), ("executed", AT - 1), ("durable", AT)],
)
def test_kill_9_in_the_upgrade_block(home: SoloHome, instant: str, height: int) -> None:
    """The real process, at the instant; then the same chain goes on."""
    chain = open_chain(home, application())
    grow(home, chain, AT - 3)
    chain.close()
    script = Path(__file__).with_name("dying_upgrade.py")
    ended = subprocess.run(
        [sys.executable, script, instant, home.root],
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    chain = open_chain(home, application())
    assert chain.height == height
    while chain.height < AT + 3:
        chain.produce(now=WallClock().now(), txs=[])
    app = chain.chain.application
    assert isinstance(app, LedgerApplication)
    assert app.ledger.runtime_version == SECOND
    chain.close()
    assert made_again(home) == in_headers(home)


def test_a_program_that_has_it_says_so_once(
    home: SoloHome, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    chain = open_chain(home, application())
    grow(home, chain, AT + 1)
    chain.close()
    told = [one.getMessage() for one in caplog.records]
    assert sum("takes over at block" in one for one in told) == 1
    assert f"block {AT}: L1 runtime version {SECOND}" in told
    assert NEWEST_RUNTIME in RUNTIME_VERSIONS


def test_a_migration_that_fails_is_told_and_the_chain_goes_on(
    home: SoloHome,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: Any, ctx: Any, from_version: int) -> None:
        raise ZeroDivisionError

    chain = open_chain(home, application())
    grow(home, chain, AT - 1)
    monkeypatch.setattr(ForgettingTeerex, "on_runtime_upgrade", broken)
    grow(home, chain, AT + 2)
    chain.close()
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert any("could not take over" in one for one in told)
    chain = open_chain(home, application())
    app = chain.chain.application
    assert isinstance(app, LedgerApplication)
    assert app.ledger.runtime_version == FIRST_RUNTIME
    assert app.ledger.plan is None
    chain.close()
    assert made_again(home) == in_headers(home)
