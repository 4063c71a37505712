"""Behind CometBFT: a ledger without the next L1 runtime halts, is updated, resumes."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import comet
import pytest
from abci_client import (
    GENESIS,
    INFO,
    Connection,
    block,
    commit,
    finalize,
    info,
    init,
    open_driver,
    query,
    run_block,
)

from sealift.base import Height, canonical_decode
from sealift.frame import storage_key
from sealift.ledger import (
    FIRST_RUNTIME,
    RUNTIME_VERSIONS,
    DcapVerifier,
    ledger_call,
    transaction,
    version_table,
)
from sealift.ledger._errors import UnknownRuntimeVersionError
from sealift.node import LedgerApplication
from sealift.node.abci import AbciApplication, run_abci
from sealift.transport.process import ChildProcess, ProcessSpec, child_process

SECOND = 2
AT = 6
OLD_PROGRAM = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])
HERE = Path(__file__).parent


def plan(nonce: int, height: int = AT) -> bytes:
    inner = ledger_call("system.set_code", version=SECOND, height=Height(height))
    return transaction(
        comet.FAUCET,
        chain_id=comet.CHAIN,
        nonce=nonce,
        valid_until=Height(100_000),
        call=ledger_call("sudo.sudo", call=inner),
    )


def txs_of(height: int) -> tuple[bytes, ...]:
    """Of every block: the plan in the first, then transfers."""
    return (plan(0),) if height == 1 else (comet.transfer(height - 1),)


def old_driver(path: Path) -> AbciApplication:
    application = LedgerApplication(DcapVerifier(), OLD_PROGRAM)
    return AbciApplication.open(path, application=application)


def version(driver: AbciApplication, *, height: int = 0) -> int:
    key = storage_key("system", "version")
    return canonical_decode(int, query(driver, key, height=height).value)


def straight_through(path: Path, last: int) -> list[bytes]:
    driver = open_driver(path)
    init(driver)
    roots = [
        run_block(driver, height, *txs_of(height)) for height in range(1, last + 1)
    ]
    driver.close()
    return roots


def test_it_halts_by_name_and_the_updated_one_has_the_roots_of_the_others(
    tmp_path: Path,
) -> None:
    wanted = straight_through(tmp_path / "others", AT + 4)
    driver = old_driver(tmp_path / "ours")
    init(driver)
    for height in range(1, AT):
        run_block(driver, height, *txs_of(height))
    for _ in range(2):
        with pytest.raises(UnknownRuntimeVersionError, match=f"block {AT}"):
            finalize(driver, AT, *txs_of(AT))
        assert info(driver).last_block_height == AT - 1
        assert version(driver) == FIRST_RUNTIME
        driver.close()
        driver = old_driver(tmp_path / "ours")
    driver.close()
    driver = open_driver(tmp_path / "ours")  # the program is updated
    assert info(driver).last_block_app_hash == wanted[AT - 2]
    for height in range(AT, AT + 5):
        assert run_block(driver, height, *txs_of(height)) == wanted[height - 1]
        driver.close()
        driver = open_driver(tmp_path / "ours")
        assert info(driver).last_block_app_hash == wanted[height - 1]
    assert version(driver) == SECOND
    assert version(driver, height=AT - 1) == FIRST_RUNTIME
    driver.close()
    with pytest.raises(UnknownRuntimeVersionError):
        old_driver(tmp_path / "ours")


def test_a_ledger_whose_state_is_lost_is_made_again_by_replay(tmp_path: Path) -> None:
    """CometBFT is told height 0 and replays: version 1 for the old blocks, then 2."""
    wanted = straight_through(tmp_path / "lost", AT + 4)
    (tmp_path / "lost").unlink()
    assert straight_through(tmp_path / "lost", AT + 4) == wanted


def test_kill_9_in_the_upgrade_block_before_and_after_it_is_durable(
    tmp_path: Path,
) -> None:
    wanted = straight_through(tmp_path / "others", AT + 2)
    driver = open_driver(tmp_path / "ours")
    init(driver)
    for height in range(1, AT):
        run_block(driver, height, *txs_of(height))
    assert finalize(driver, AT, *txs_of(AT)).app_hash == wanted[AT - 1]
    driver.close()  # executed, answered, not durable
    driver = open_driver(tmp_path / "ours")
    assert info(driver).last_block_height == AT - 1
    assert version(driver) == FIRST_RUNTIME
    finalize(driver, AT, *txs_of(AT))
    driver.persist()  # durable, the engine was not told
    driver.close()
    driver = open_driver(tmp_path / "ours")
    assert info(driver).last_block_app_hash == wanted[AT - 1]
    assert version(driver) == SECOND
    for height in (AT + 1, AT + 2):
        assert finalize(driver, height, *txs_of(height)).app_hash == wanted[height - 1]
        commit(driver)
    driver.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, as a unix socket needs it."""
    with tempfile.TemporaryDirectory(prefix="slu-") as made:
        yield Path(made)


async def drive(folder: Path, first: int, last: int) -> str:
    """Blocks as CometBFT sends them; how the last one was answered."""
    one = await Connection.open(folder / "s")
    if first == 1:
        await one.ask("init_chain", **GENESIS)
    kind = ""
    for height in range(first, last + 1):
        kind, said = await one.ask("finalize_block", **block(height, txs_of(height)))
        if kind == "exception":
            kind = str(said["error"])
            break
        await one.ask("commit")
    with contextlib.suppress(ConnectionError):  # it may be gone already
        await one.close()
    return kind


def test_the_engine_is_told_and_the_server_ends_by_name(folder: Path) -> None:
    async def main() -> None:
        application = LedgerApplication(DcapVerifier(), OLD_PROGRAM)
        async with run_abci(
            folder / "home", socket=folder / "s", application=application
        ) as server:
            said = await drive(folder, 1, AT)
            assert said.startswith("UnknownRuntimeVersionError")
            assert f"expected version {SECOND}" in said
            with pytest.raises(UnknownRuntimeVersionError):
                await asyncio.wait_for(server.failed(), 10)
            one = await Connection.open(folder / "s")
            kind, asked = await one.ask("info", **INFO)  # what is durable is told on
            assert (kind, int(str(asked["last_block_height"]))) == ("info", AT - 1)
            await one.close()

    asyncio.run(main())


@pytest.mark.process
def test_the_process_ends_with_an_exit_code_and_resumes_updated(folder: Path) -> None:
    old = [str(HERE / "old_node.py")]
    new = ["-m", "sealift"]

    @contextlib.asynccontextmanager
    async def process(program: list[str]) -> AsyncIterator[ChildProcess]:
        where = ["node", "abci", str(folder / "home"), f"--socket={folder / 's'}"]
        argv = [sys.executable, *program, *where]
        async with child_process(ProcessSpec(argv=argv, log=folder / "log")) as child:
            await child.wait_for_line(r"^ready unix:///", within=30)
            yield child

    async def main() -> None:
        for first in (1, AT):
            async with process(old) as child:
                assert "UnknownRuntimeVersionError" in await drive(folder, first, AT)
                assert await asyncio.wait_for(child.wait(), 10) == 1
                assert f"block {AT} is executed by a version" in child.output()
                assert "install a release that has it" in child.output()
                assert "Traceback" not in child.output()
        async with process(new) as child:
            assert await drive(folder, AT, AT + 3) == "finalize_block"
            assert await child.stop() == 0

    asyncio.run(main())
    driver = open_driver(folder / "home" / "ledger" / "state.sqlite")
    wanted = straight_through(folder / "others", AT + 3)
    assert (driver.height, driver.app_hash) == (AT + 3, wanted[-1])
    driver.close()


@pytest.mark.cometbft
@pytest.mark.timeout(1800)
def test_a_real_node_halts_is_updated_resumes_and_replays(homes: comet.Homes) -> None:
    """CometBFT itself, with the ledger of an old program, then of a new one."""

    @contextlib.asynccontextmanager
    async def ledger(program: list[str]) -> AsyncIterator[ChildProcess]:
        where = ["node", "abci", str(homes.home.root), f"--socket={homes.socket}"]
        argv = [sys.executable, *program, *where]
        log = homes.ledger.parent / "ledger.log"
        async with child_process(ProcessSpec(argv=argv, log=log)) as app:
            await app.wait_for_line(r"^ready unix://", within=30)
            yield app

    async def old_life() -> int:
        async with (
            ledger([str(HERE / "old_node.py")]) as app,
            comet.comet_process(homes) as (node, l1),
        ):
            await comet.wait_for_height(l1, 2)
            at = int(await l1.height()) + 12
            await comet.send(l1, [plan(0, at), *map(comet.transfer, range(1, 4))])
            assert await asyncio.wait_for(app.wait(), 60) == 1
            assert f"block {at} is executed by a version" in app.output()
            await asyncio.wait_for(node.wait(), 60)
        return at

    async def new_life(at: int, upto: int) -> list[bytes]:
        """App hashes as the headers have them, of blocks 1 to ``upto``."""
        async with (
            ledger(["-m", "sealift"]),
            comet.comet_process(homes) as (_, l1),
        ):
            await comet.wait_for_height(l1, upto + 1)
            key = storage_key("system", "version")
            for height, wanted in ((at - 1, FIRST_RUNTIME), (at, SECOND)):
                entry = await l1.abci_query(key, height=Height(height))
                assert entry.value is not None
                assert canonical_decode(int, entry.value) == wanted
            relay = await comet.follow(l1, Height(upto + 1))
            return [
                bytes(relay.header_at(Height(height + 1)).header.app_hash)
                for height in range(1, upto + 1)
            ]

    at = asyncio.run(old_life())
    first = asyncio.run(new_life(at, at + 3))
    again = asyncio.run(new_life(at, at + 5))  # everything restarted
    assert again[: len(first)] == first
    shutil.rmtree(homes.ledger)  # the state is lost: made again from the blocks
    assert asyncio.run(new_life(at, at + 7))[: len(again)] == again
