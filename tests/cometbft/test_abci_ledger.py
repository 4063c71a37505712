"""ABCI's order and crashes, message by message, over the real ledger."""

import logging
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from abci_client import (
    GENESIS,
    commit,
    finalize,
    info,
    init,
    open_driver,
    parse_info,
    query,
    run_block,
)
from comet import account_key, app_state, receiver, transfer

from sealift.base import ChainId, Height, InvariantError
from sealift.frame import Context, verify_ics23
from sealift.ledger import DcapVerifier, LedgerGenesisError
from sealift.ledger._system import System
from sealift.node import (
    ChainCorruptError,
    ChainStoreError,
    ExecutedBlock,
    ForeignChainError,
    LedgerApplication,
    NotNextBlockError,
)
from sealift.node.abci import (
    AbciApplication,
    AbciGenesisError,
    AbciOrderError,
    AbciStore,
    AbciVersionError,
)
from sealift.node.abci._messages import (
    ACCEPT,
    REJECT,
    CheckTxRequest,
    VerifyVoteExtensionRequest,
)
from sealift.relay import Timestamp, UnsupportedKeyError
from sealift.relay.rpc import GenesisDoc

Opened = Callable[[Path], AbciApplication]


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = []

    def make(path: Path) -> AbciApplication:
        made.append(open_driver(path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def file(folder: Path) -> Path:
    return folder / "state.sqlite"


def after_death(folder: Path, name: str) -> Path:
    """The files as a process leaves them that is killed now."""
    copy = folder / name
    copy.mkdir()
    for one in folder.glob("state.sqlite*"):
        shutil.copy(one, copy / one.name)
    return file(copy)


def test_life_of_a_ledger(opened: Opened, tmp_path: Path) -> None:
    driver = opened(file(tmp_path))
    assert (info(driver).last_block_height, info(driver).last_block_app_hash) == (
        0,
        b"",
    )
    first = init(driver)
    hashes = [first]
    for height in range(1, 5):
        done = finalize(driver, height, transfer(height - 1))
        assert [one.code for one in done.tx_results] == [0]
        assert info(driver).last_block_height == height - 1  # not committed yet
        commit(driver)
        hashes.append(done.app_hash)
        assert info(driver).last_block_height == height
        assert info(driver).last_block_app_hash == done.app_hash
    assert len(set(hashes)) == 5
    again = opened(after_death(tmp_path, "dead"))
    assert (again.height, again.app_hash) == (4, hashes[4])
    assert run_block(again, 5, transfer(4)) == run_block(driver, 5, transfer(4))


def test_finalize_twice_before_the_commit_is_as_once(
    opened: Opened, tmp_path: Path
) -> None:
    driver = opened(file(tmp_path))
    init(driver)
    run_block(driver, 1)
    other = finalize(driver, 2, transfer(0), transfer(1), salt=b"other")
    one = finalize(driver, 2, transfer(0))
    assert finalize(driver, 2, transfer(0)) == one
    assert other.app_hash != one.app_hash
    commit(driver)
    assert driver.app_hash == one.app_hash
    assert query(driver, account_key(receiver(1))).log == "does not exist"


def test_init_chain_is_sent_again_until_the_first_commit(
    opened: Opened, tmp_path: Path
) -> None:
    driver = opened(file(tmp_path))
    first = init(driver)
    done = finalize(driver, 1, transfer(0))
    assert init(driver) == first
    with pytest.raises(AbciOrderError, match="without FinalizeBlock"):
        driver.persist()
    assert finalize(driver, 1, transfer(0)) == done
    commit(driver)
    with pytest.raises(AbciOrderError, match="InitChain"):
        init(driver)


@pytest.mark.parametrize("instant", ["finalized", "persisted", "adopted"])
@pytest.mark.parametrize("height", [1, 3])
def test_death_leaves_the_block_before_or_the_whole_block(
    opened: Opened, tmp_path: Path, instant: str, height: int
) -> None:
    driver = opened(file(tmp_path))
    init(driver)
    hashes = [b""]
    hashes += [run_block(driver, at, transfer(at - 1)) for at in range(1, height)]
    hashes.append(finalize(driver, height, transfer(height - 1)).app_hash)
    if instant != "finalized":
        driver.persist()
    if instant == "adopted":
        driver.adopt()
    again = opened(after_death(tmp_path, "dead"))
    there = height - 1 if instant == "finalized" else height
    assert (info(again).last_block_height, info(again).last_block_app_hash) == (
        there,
        hashes[there],
    )
    if not there:
        init(again)
    if there < height:
        assert run_block(again, height, transfer(height - 1)) == hashes[height]
    if instant == "persisted":
        driver.adopt()
    if instant == "finalized":
        commit(driver)
    assert run_block(again, height + 1) == run_block(driver, height + 1)


def test_log_cut_at_any_byte_is_the_state_after_some_block(
    opened: Opened, tmp_path: Path
) -> None:
    driver = opened(file(tmp_path))
    init(driver)
    hashes = [b""] + [run_block(driver, h, transfer(h - 1)) for h in range(1, 6)]
    log = (tmp_path / "state.sqlite-wal").read_bytes()
    chance = random.Random(7)
    heights = set()
    for cut in sorted(chance.sample(range(len(log)), 20)):
        dead = after_death(tmp_path, f"cut-{cut}")
        dead.with_name("state.sqlite-wal").write_bytes(log[:cut])
        again = opened(dead)
        assert again.app_hash == hashes[again.height]
        heights.add(again.height)
    assert len(heights) > 2


def test_messages_out_of_order_are_refused(opened: Opened, tmp_path: Path) -> None:
    driver = opened(file(tmp_path))
    with pytest.raises(AbciOrderError, match="no InitChain"):
        finalize(driver, 1)
    with pytest.raises(AbciOrderError, match="no InitChain"):
        driver.persist()
    with pytest.raises(AbciOrderError, match="no InitChain"):
        driver.check_tx(CheckTxRequest(tx=transfer(0), type=0))
    init(driver)
    with pytest.raises(AbciOrderError, match="out of turn"):
        finalize(driver, 2)
    with pytest.raises(InvariantError, match="not durable"):
        driver.adopt()
    run_block(driver, 1)
    for wrong in (1, 3):
        with pytest.raises(AbciOrderError, match="out of turn"):
            finalize(driver, wrong)
    with pytest.raises(AbciOrderError, match="Commit without"):
        driver.persist()
    run_block(driver, 2)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"abci_version": "1.0.0"}, r"1\.0\.0"),
        ({"abci_version": ""}, "another ABCI"),
        ({"version": "0.37.15"}, "another CometBFT"),
        ({"version": "0.38.20"}, "another CometBFT"),  # before the security release
        ({"version": "0.39.4"}, "another CometBFT"),
        ({"version": "1.0.1"}, "another CometBFT"),
        ({"version": "0.38"}, "another CometBFT"),
        ({"version": ""}, "another CometBFT"),
        ({"version": "0.38.25x"}, "another CometBFT"),
        ({"version": "0.38." + "9" * 5000}, "another CometBFT"),
        ({"block_version": 12}, "block protocol"),
        ({"block_version": 0}, "block protocol"),
    ],
    ids=str,
)
def test_engine_of_another_version_is_refused_by_name(
    opened: Opened, tmp_path: Path, changed: dict[str, object], rule: str
) -> None:
    driver = opened(file(tmp_path))
    with pytest.raises(AbciVersionError, match=rule) as told:
        driver.info(parse_info(**changed))
    assert told.value.hint == "Run CometBFT v0.38.25"


@pytest.mark.parametrize("version", ["0.38.21", "0.38.25", "v0.38.26-rc1", "0.38.99+x"])
def test_later_releases_of_the_line_are_answered(
    opened: Opened, tmp_path: Path, version: str
) -> None:
    driver = opened(file(tmp_path))
    assert driver.info(parse_info(version=version)).last_block_height == 0


def with_params(**changed: object) -> dict[str, object]:
    params = GENESIS["consensus_params"]
    assert isinstance(params, dict)
    return {"consensus_params": params | changed}


@pytest.mark.parametrize(
    "changed",
    [
        {"initial_height": 5},
        with_params(version={"app": 0}),
        with_params(abci={"vote_extensions_enable_height": 1}),
        {"chain_id": ""},
        {"chain_id": "x" * 300},
    ],
    ids=["initial-height", "app-version", "vote-extensions", "no-name", "long-name"],
)
def test_genesis_that_the_engine_cannot_begin_with(
    opened: Opened, tmp_path: Path, changed: dict[str, object]
) -> None:
    driver = opened(file(tmp_path))
    with pytest.raises((AbciGenesisError, LedgerGenesisError, ForeignChainError)) as it:
        init(driver, **changed)
    if "chain_id" not in changed:
        assert it.type is AbciGenesisError
    with pytest.raises(AbciOrderError):
        finalize(driver, 1)


def test_genesis_out_of_range_is_refused(opened: Opened, tmp_path: Path) -> None:
    driver = opened(file(tmp_path))
    evidence = {"max_age_duration": {"seconds": 2**62}}
    with pytest.raises(AbciGenesisError, match="out of range"):
        init(driver, **with_params(evidence=evidence))


@pytest.mark.parametrize(
    "changed",
    [
        {"validators": [{"pub_key": {"secp256k1": bytes(33)}, "power": 1}]},
        {"validators": [{"pub_key": {"ed25519": bytes(31)}, "power": 1}]},
        with_params(validator={"pub_key_types": ["ed25519", "secp256k1"]}),
    ],
    ids=["secp256k1", "short", "allowed"],
)
def test_validators_without_ed25519_keys_are_refused(
    opened: Opened, tmp_path: Path, changed: dict[str, object]
) -> None:
    with pytest.raises(UnsupportedKeyError):
        init(opened(file(tmp_path)), **changed)


def test_foreign_ledger_genesis_is_refused(opened: Opened, tmp_path: Path) -> None:
    driver = opened(file(tmp_path))
    with pytest.raises(ForeignChainError):
        init(driver, chain_id="another")
    with pytest.raises(LedgerGenesisError):
        init(driver, app_state_bytes=b"{}")
    init(driver, app_state_bytes=b" " + app_state() + b"\n")


def test_state_is_proven_at_every_height(opened: Opened, tmp_path: Path) -> None:
    driver = opened(file(tmp_path))
    key = account_key(receiver(1))
    early = query(driver, key)
    assert (early.code, early.codespace) == (1, "sealift/HeightUnknownError")
    roots = [init(driver)]
    roots += [run_block(driver, h, transfer(h - 1)) for h in range(1, 6)]
    for driver_now in (driver, opened(after_death(tmp_path, "dead"))):
        for height in (4, 1, 5, 2, 3):
            found = query(driver_now, key, height=height)
            assert (found.code, found.height, found.key) == (0, height, key)
            assert found.log == ("exists" if height >= 2 else "does not exist")
            assert found.proof_ops is not None
            (op,) = found.proof_ops.ops
            assert (op.type, op.key) == ("ics23:simple", key)
            value = found.value if height >= 2 else None
            verify_ics23(roots[height], key, value, op.data)
        assert query(driver_now, key).height == 5
        for height in (-1, 6, 2**62):
            refused = query(driver_now, key, height=height)
            assert (refused.code, refused.value) == (1, b"")
    assert query(driver, key, path="/p2p/filter/id/x").code == 1
    assert query(driver, b"").code == 1  # no proof for the empty key


def test_query_sees_no_executed_block_before_its_commit(
    opened: Opened, tmp_path: Path
) -> None:
    driver = opened(file(tmp_path))
    init(driver)
    run_block(driver, 1)
    finalize(driver, 2, transfer(0))
    key = account_key(receiver(0))
    assert query(driver, key).log == "does not exist"
    driver.persist()
    assert query(driver, key).height == 1
    driver.adopt()
    assert query(driver, key).log == "exists"


def test_mempool_verdicts_start_anew_after_a_commit(
    opened: Opened, tmp_path: Path
) -> None:
    driver = opened(file(tmp_path))
    init(driver)

    def check(nonce: int, kind: int = 0) -> int:
        return driver.check_tx(CheckTxRequest(tx=transfer(nonce), type=kind)).code

    assert [check(0), check(1)] == [0, 0]
    assert check(1) != 0
    run_block(driver, 1, transfer(0))
    assert [check(1, 1), check(2)] == [0, 0]
    assert check(0) != 0
    assert driver.check_tx(CheckTxRequest(tx=b"garbage", type=0)).code != 0


def test_vote_extensions_are_refused_but_the_empty_one(
    opened: Opened, tmp_path: Path
) -> None:
    driver = opened(file(tmp_path))
    for extension, status in ((b"", ACCEPT), (b"x", REJECT)):
        vote = VerifyVoteExtensionRequest(vote_extension=extension)
        assert driver.verify_vote_extension(vote).status == status


class Forgetful(LedgerApplication):
    def finalize_block(self, **block: object) -> ExecutedBlock:
        done = super().finalize_block(**block)
        return ExecutedBlock(app_hash=done.app_hash, changes=done.changes)


def test_hook_that_fails_is_told_loudly(
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(self: System, ctx: Context) -> None:
        raise ZeroDivisionError("a bug in a hook")

    driver = opened(file(tmp_path))
    init(driver)
    monkeypatch.setattr(System, "on_finalize", broken)
    run_block(driver, 1, transfer(0))
    # chains of other tests may run beside this one; ours is at block 1
    errors = [one for one in caplog.records if one.levelno >= logging.ERROR]
    (told,) = [one for one in errors if "block 1:" in one.getMessage()]
    assert "hook of pallet system failed in block 1" in told.getMessage()


@pytest.mark.parametrize(
    ("gas", "warned"), [(-1, True), (5_000_001, True), (5_000_000, False), (1, False)]
)
def test_genesis_that_allows_more_than_the_ledger_executes_is_warned_of(
    opened: Opened,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    gas: int,
    warned: bool,
) -> None:
    block = {"max_bytes": 4_194_304, "max_gas": gas}
    init(opened(file(tmp_path)), **with_params(block=block))
    told = [one for one in caplog.records if "max_gas" in one.getMessage()]
    assert bool(told) is warned


def test_application_that_forgets_a_result_stops_everything(tmp_path: Path) -> None:
    driver = AbciApplication.open(file(tmp_path), application=Forgetful(DcapVerifier()))
    try:
        init(driver)
        with pytest.raises(InvariantError, match="did not answer"):
            finalize(driver, 1, transfer(0))
        with pytest.raises(AbciOrderError):
            driver.persist()
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE state SET value = x'c1' WHERE key = (SELECT MAX(key) FROM state)", 1),
        ("DELETE FROM state WHERE key = (SELECT MAX(key) FROM state)", 1),
        ("UPDATE head SET app_hash = x'00'", 1),
        ("UPDATE head SET genesis = x'c0'", 1),
        ("PRAGMA user_version = 7", 2),
        ("PRAGMA user_version = 0", 2),
    ],
)
def test_altered_state_is_refused_and_kept(
    tmp_path: Path, statement: str, error: int
) -> None:
    driver = open_driver(file(tmp_path))
    init(driver)
    run_block(driver, 1, transfer(0))
    driver.close()
    db = sqlite3.connect(file(tmp_path), isolation_level=None)
    db.execute(statement)
    db.close()
    before = file(tmp_path).read_bytes()
    with pytest.raises(ChainCorruptError if error == 1 else ForeignChainError):
        open_driver(file(tmp_path))
    assert file(tmp_path).read_bytes() == before


def test_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file(tmp_path).write_bytes(b"not a database at all, only text" * 100)
    with pytest.raises(ChainCorruptError):
        open_driver(file(tmp_path))
    assert file(tmp_path).read_bytes().startswith(b"not a database")
    with pytest.raises(ChainStoreError):
        open_driver(tmp_path)


def test_store_takes_only_the_next_block(tmp_path: Path) -> None:
    genesis = GenesisDoc(genesis_time=Timestamp(seconds=1), chain_id=ChainId("c"))
    store = AbciStore.open(file(tmp_path))
    try:
        with pytest.raises(NotNextBlockError):
            store.append(Height(1), app_hash=b"h", changes={})
        assert store.head is None
        store.begin(genesis, first={b"a": b"0"}, app_hash=b"1", changes={b"a": b"1"})
        with pytest.raises(NotNextBlockError):
            store.begin(genesis, first={}, app_hash=b"2", changes={})
        for wrong in (1, 3):
            with pytest.raises(NotNextBlockError):
                store.append(Height(wrong), app_hash=b"x", changes={b"a": b"x"})
        store.append(Height(2), app_hash=b"2", changes={b"a": None, b"b": b"2"})
        assert store.head is not None
        assert (store.head.height, store.head.app_hash) == (2, b"2")
        assert store.entries() == {b"b": b"2"}
        span = (Height(0), Height(2))
        assert store.changes_between(*span) == {b"a": None, b"b": b"2"}
        assert store.reversal_between(*span) == {b"a": b"0", b"b": None}
    finally:
        store.close()
