"""Starting from a home: the right chain, the disk as the enclave wrote it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from doubles import CODE, ME, SHARD, FakeEnclave, LostError, refusal
from test_config import RIGHT, home_with

from sealift.attestation import TrustAnchor, parse_collateral
from sealift.base import Digest, Height, UnixSeconds, encode
from sealift.insecure_sim import (
    COLLATERAL_SECONDS,
    SimIntel,
    SimMachine,
    SimStateError,
)
from sealift.protocol import CollateralRecord
from sealift.protocol.ecall import Start, Started
from sealift.transport.files import MissingFileError
from sealift.transport.rpc import NodeUnreachableError
from sealift.worker import (
    KeyStoreMissingError,
    StoreError,
    WorkerStore,
    WrongChainError,
)
from sealift.worker import _run as run_module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._collateral import seconds_left
from sealift.worker._config import load_config
from sealift.worker._ground import HomeDisk
from sealift.worker._platform import InsecureSim
from sealift.worker._store import StoredSnapshot

TRUSTED = Digest(b"\x11" * 32)


class FakeNode:
    """A node of some chain, with some block at the trusted height."""

    url = "http://node"

    def __init__(self, network: str = "test") -> None:
        self.network = network
        self.refuse: Exception | None = None

    async def status(self):
        return SimpleNamespace(node_info=SimpleNamespace(network=self.network))

    async def light_block(self, height: int):
        if self.refuse is not None:
            raise self.refuse
        return SimpleNamespace(signed_header=SimpleNamespace(header=b"header"))


def test_a_node_of_another_chain_is_refused_by_name() -> None:
    with pytest.raises(WrongChainError, match="another chain") as caught:
        asyncio.run(run_module._check_chain(FakeNode("other"), "test"))
    assert (caught.value.got, caught.value.expected) == ("other", "test")
    asyncio.run(run_module._check_chain(FakeNode("test"), "test"))


class ComingUp(FakeNode):
    """A node that answers only from the so-manyth look on."""

    def __init__(self, come: int) -> None:
        super().__init__()
        self.come = come
        self.looks = 0

    async def status(self):
        self.looks += 1
        if self.looks < self.come:
            raise NodeUnreachableError("refused")
        return await super().status()


def test_a_node_that_is_coming_up_is_waited_for_and_one_that_does_not_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "_LOOK_AGAIN_SECONDS", 0.001)
    node = ComingUp(4)
    asyncio.run(run_module.wait_for_chain(node, within=5))
    assert node.looks == 4
    node = ComingUp(10**9)
    with pytest.raises(NodeUnreachableError):
        asyncio.run(run_module.wait_for_chain(node, within=0.02))
    assert node.looks > 1


def test_a_start_that_an_outage_cuts_off_begins_again_once_the_node_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "_LOOK_AGAIN_SECONDS", 0.001)
    tried: list[int] = []

    def live(*ends: Exception | None):
        async def one() -> None:
            tried.append(node.looks)
            end = ends[len(tried) - 1]
            if end is not None:
                node.looks = 0  # it is away again
                raise end

        return one

    def run(*ends: Exception | None, started: bool = False) -> list[int]:
        tried.clear()
        node.looks = 0
        asyncio.run(
            run_module.started_again(node, live(*ends), has_started=lambda: started)
        )
        return tried

    node, away = ComingUp(3), NodeUnreachableError("went away")
    assert run(None) == [3]
    assert run(away, away, None) == [3, 3, 3]
    with pytest.raises(NodeUnreachableError, match="went away"):
        run(away, away, away, None)  # for ever would tell nobody
    with pytest.raises(NodeUnreachableError):
        run(away, None, started=True)
    assert len(tried) == 1
    with pytest.raises(LostError):
        run(LostError("something else"), None)
    assert len(tried) == 1


def trusted(node: FakeNode, *, required: bool):
    return asyncio.run(
        run_module._trusted_block(node, Height(1), TRUSTED, required=required)
    )


def test_a_chain_of_the_same_name_with_another_first_block_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "header_hash_of", lambda _: Digest(bytes(32)))
    for required in (True, False):
        with pytest.raises(WrongChainError, match="is not the one the bundle trusts"):
            trusted(FakeNode(), required=required)
    monkeypatch.setattr(run_module, "header_hash_of", lambda _: TRUSTED)
    assert trusted(FakeNode(), required=True) is not None


def test_a_node_that_has_pruned_its_first_block_does_with_a_checkpoint() -> None:
    node = FakeNode()
    node.refuse = LostError("pruned")
    assert trusted(node, required=False) is None
    with pytest.raises(LostError):
        trusted(node, required=True)
    node.refuse = NodeUnreachableError("away")
    with pytest.raises(NodeUnreachableError):
        trusted(node, required=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return home_with(tmp_path, RIGHT)


def start(home: Path, fake: FakeEnclave) -> Started:
    store = WorkerStore(home / "worker.db", shard=SHARD, fingerprint=CODE)
    store.put_meta("checkpoint", b"checkpoint")
    disk = HomeDisk(load_config(home))
    try:
        return asyncio.run(
            run_module._start(
                EnclaveChannel(fake), disk, shard=SHARD, store=store, at=None
            )
        )
    finally:
        store.close()


def test_a_key_store_that_does_not_open_is_kept_byte_for_byte(home: Path) -> None:
    (home / "key_store.sealed").write_bytes(b"precious")
    fake = FakeEnclave(Start=lambda _: refusal("KeyStoreUnreadableError"))
    with pytest.raises(StoreError, match="KeyStoreUnreadableError") as caught:
        start(home, fake)
    assert "left as they are" in caught.value.hint
    assert (home / "key_store.sealed").read_bytes() == b"precious"


def test_a_start_brings_what_is_on_disk_and_keeps_what_comes_back(home: Path) -> None:
    (home / "key_store.sealed").write_bytes(b"before")
    fake = FakeEnclave(
        Start=lambda _: Started(signing_key=ME, key_store=b"after", head=Height(4))
    )
    assert start(home, fake).head == 4
    (asked,) = fake.asked
    assert isinstance(asked, Start)
    assert (asked.key_store, asked.checkpoint) == (b"before", b"checkpoint")
    assert asked.light_block is None
    assert (home / "key_store.sealed").read_bytes() == b"after"
    assert (home / "key_store.sealed").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("left", ["checkpoint", "born", "holders", "diff", "snapshot"])
def test_a_lost_key_store_is_no_reason_for_a_new_identity(
    home: Path, left: str
) -> None:
    """An operator who restored half a backup would else lose what the rest opens."""
    store = WorkerStore(home / "worker.db", shard=SHARD, fingerprint=CODE)
    match left:
        case "diff":
            store.commit_diff(Height(3), b"diff")
        case "snapshot":
            store.put_snapshot(StoredSnapshot(height=Height(3), name="3-" + "0" * 12))
        case _:
            store.put_meta(left, b"\x90")
    fake = FakeEnclave(Start=lambda _: refusal())
    disk = HomeDisk(load_config(home))
    with pytest.raises(KeyStoreMissingError, match=r"no key_store.sealed") as caught:
        asyncio.run(
            run_module._start(
                EnclaveChannel(fake), disk, shard=SHARD, store=store, at=None
            )
        )
    store.close()
    assert "Nothing was overwritten" in caught.value.hint
    assert not fake.asked
    assert not (home / "key_store.sealed").exists()


def test_a_new_home_begins_without_a_key_store(home: Path) -> None:
    store = WorkerStore(home / "worker.db", shard=SHARD, fingerprint=CODE)
    fake = FakeEnclave(
        Start=lambda _: Started(signing_key=ME, key_store=b"new", head=Height(1))
    )
    disk = HomeDisk(load_config(home))
    channel = EnclaveChannel(fake)
    asyncio.run(run_module._start(channel, disk, shard=SHARD, store=store, at=None))
    store.close()
    assert (home / "key_store.sealed").read_bytes() == b"new"


def test_what_is_free_is_told_and_a_home_that_is_gone_is_not_known(home: Path) -> None:
    disk = HomeDisk(load_config(home))
    free = disk.free_bytes()
    assert free is not None
    assert free > 0
    home.rename(home.with_name("gone"))
    assert disk.free_bytes() is None


def test_a_genesis_that_is_named_and_missing_is_told(home: Path) -> None:
    disk = HomeDisk(load_config(home))
    assert disk.key_store() is None
    with pytest.raises(MissingFileError, match="genesis blob"):
        disk.genesis()
    (home / "genesis.bin").write_bytes(b"blob")
    assert disk.genesis() == b"blob"


@pytest.mark.parametrize(
    ("sim", "machine", "words"),
    [
        ("elsewhere", "alpha", "no simulated Intel is here"),
        ("sim", "alhpa", "no such simulated machine"),
        ("sim", "../alpha", "no such simulated machine"),
    ],
)
def test_a_worker_starts_on_no_machine_that_was_not_made_before(
    tmp_path: Path, sim: str, machine: str, words: str
) -> None:
    SimMachine(SimIntel(tmp_path / "sim"), "alpha", entropy=bytes)
    text = RIGHT.replace('"/sim"', f'"{tmp_path / sim}"')
    text = text.replace('machine = "alpha"', f'machine = "{machine}"')
    home = tmp_path / "home"
    home.mkdir()
    config = load_config(home_with(home, text))
    with pytest.raises(SimStateError, match=words):
        InsecureSim(config)
    assert SimIntel(tmp_path / "sim").machines() == ["alpha"]
    assert not (tmp_path / "elsewhere").exists()


def test_collateral_that_holds_says_for_how_long_and_else_nothing(
    tmp_path: Path,
) -> None:
    intel = SimIntel(tmp_path)
    now = UnixSeconds(1_790_000_000)
    issued = parse_collateral(intel.collateral_json(now=now))
    known = CollateralRecord(
        collateral=encode(issued),
        recorded_at=Height(1),
        tcb_issued_at=now,
        qe_issued_at=now,
        tcb_evaluation_number=1,
        qe_evaluation_number=1,
        pck_crl_number=1,
        root_crl_number=1,
    )

    root = TrustAnchor(root_der=intel.root_der, kind="insecure-sim")

    def left(at: int, record: CollateralRecord = known) -> int | None:
        return seconds_left(record, roots=(root,), now=UnixSeconds(at))

    assert left(now) == COLLATERAL_SECONDS
    assert left(now + 86_400) == COLLATERAL_SECONDS - 86_400
    assert left(now + COLLATERAL_SECONDS + 1) is None
    assert left(now, msgspec.structs.replace(known, collateral=b"\xc1")) is None
    other = SimIntel(tmp_path / "other")
    foreign = TrustAnchor(root_der=other.root_der, kind="insecure-sim")
    assert seconds_left(known, roots=(foreign,), now=now) is None
    assert seconds_left(known, roots=(), now=now) is None
    assert seconds_left(known, roots=(foreign, root), now=now) == COLLATERAL_SECONDS


def dead(home: Path, words: str, *, limit: int = 0) -> str:
    """What is said of an enclave that left these last words."""
    text = RIGHT.replace("memory_limit = 0", f"memory_limit = {limit}")
    config = load_config(home_with(home, text))
    platform = object.__new__(InsecureSim)
    platform._config = config
    platform._log = home / "enclave.log"
    platform._log_begins = 0
    platform._log.write_text(words)
    return str(platform.gone(1))


def test_the_last_words_of_an_enclave_are_quoted(home: Path) -> None:
    said = dead(home, "Traceback\n  File\nValueError: no\n\n")
    assert said.startswith("the enclave process has ended: got exit code 1, ValueError")
    assert "start the worker again" in said
    assert "memory_limit" not in dead(home, "MemoryError\n")
    assert "memory_limit is 7 MiB: raise it" in dead(home, "MemoryError\n", limit=7)
