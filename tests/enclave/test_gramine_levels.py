"""New microcode under Gramine: the sealed keys stay, another instance begins.

The enclave, its files, the worker's folders and database are the real ones; L1 and
the process are doubles.
"""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest
from enclave_world import SHARD, Host, World

from sealift.base import Height, decode, encode
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.crypto import rsa_generate, system_entropy
from sealift.enclave import GramineSgx
from sealift.enclave._keystore import SealedKeyStore
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.protocol import EnclaveRecord, RegistrationStatement, enclave_key
from sealift.relay import LightBlock
from sealift.testing import AttestationTree
from sealift.worker import (
    CONFIG_FILE,
    TEMPLATE,
    SealingKeyChangedError,
    StoreError,
    WorkerStore,
    load_config,
)
from sealift.worker import _run as run_module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._ground import HomeDisk
from sealift.worker._lives import BegunLife, begin_life

PEER = "http://peer:7000"


class NoRecords:
    """An L1 whose registry has what the test puts there."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    async def wait_for_height(self, height: int) -> Height:
        return Height(5)

    async def prove(self, key: bytes, height: int) -> tuple[bytes | None, bytes]:
        return self.values.get(key), b"proof"


class Home:
    """A worker's home on a machine with Gramine; each start is a new process."""

    def __init__(self, path: Path, world: World) -> None:
        self.world = world
        self.path = path / "home"
        self.path.mkdir()
        text = TEMPLATE.format(
            rpc="http://127.0.0.1:1", shard=SHARD.hex(), genesis="", bundle="b",
            sim="s", machine="m", port=0, upstream="",
        )  # fmt: skip
        (self.path / CONFIG_FILE).write_text(text)
        self.machine = SimMachine(SimIntel(path / "sim"), "one", entropy=system_entropy)
        measured = measure({"sealift.manifest.sgx": b"manifest"})
        tbs = make_tbs(measured, isv_prod_id=1, isv_svn=1, date=dt.date(2026, 1, 1))
        self.identity = self.machine.einit(
            measured, sign_sigstruct(tbs, rsa_generate())
        )
        self.l1 = NoRecords()

    def start(self, upstream: str = "") -> BegunLife:
        tree = AttestationTree(self.machine, self.identity)
        platform: Any = GramineSgx(opener=tree.open)
        host = Host(self.world.l1, platform, start=False, seed=b"again")
        host.entropy = system_entropy  # type: ignore[method-assign]
        host.boot()

        class Carrier:
            async def call(self, payload: bytes) -> bytes:
                return host.enclave.handle(payload)

        channel = EnclaveChannel(Carrier())

        async def start(config: Any, store: WorkerStore) -> Any:
            return await run_module._start(
                channel,
                HomeDisk(config),
                shard=SHARD,
                store=store,
                at=decode(LightBlock, self.world.l1.light(1)),
            )

        begun = asyncio.run(
            begin_life(
                load_config(self.path),
                self.l1,  # type: ignore[arg-type]
                fingerprint=self.identity.mrenclave,
                start=start,
                upstream=upstream,
            )
        )
        begun.store.add_holders(begun.started.signing_key)
        begun.store.close()
        return begun

    def holders(self, begun: BegunLife, *more: bytes) -> set[bytes]:
        """Whom an instance knows to hold the keys; it learns of more."""
        code = self.identity.mrenclave
        store = WorkerStore(begun.config.database, shard=SHARD, fingerprint=code)
        store.add_holders(*more)
        names = set(store.holder_keys())
        store.close()
        return names

    def new_microcode(self) -> None:
        self.machine.install_microcode(bytes(n + 1 for n in self.machine.cpu_svn))

    def files(self) -> dict[str, bytes]:
        return {
            str(one.relative_to(self.path)): one.read_bytes()
            for one in sorted(self.path.rglob("*"))
            if one.is_file() and not one.name.startswith("worker.db-")
        }


def record(key: bytes, url: str) -> bytes:
    statement = RegistrationStatement(
        chain_id="test-chain",
        shard=SHARD,
        operator=bytes(32),
        signing_key=key,
        tls_key=bytes(32),
        hpke_key=bytes(32),
        block_height=1,
        block_hash=bytes(32),
    )
    made = EnclaveRecord(
        statement=statement,
        operator=bytes(32),
        platform="gramine-sgx",
        fingerprint=bytes(32),
        mr_signer=bytes(32),
        isv_prod_id=1,
        isv_svn=1,
        platform_id=bytes(32),
        tcb_status="UpToDate",
        advisories=(),
        tcb_evaluation_number=1,
        registered_at=1,
        attested_at=1,
        url=url,
    )
    return encode(made)


@pytest.fixture
def home(tmp_path: Path, world: World) -> Home:
    return Home(tmp_path, world)


def test_on_the_same_level_the_same_instance_goes_on(home: Home) -> None:
    first = home.start()
    again = home.start()
    assert again.started.signing_key == first.started.signing_key
    assert again.config.life == 0
    assert not (home.path / "lives").exists()


def test_new_microcode_leaves_the_old_keys_and_begins_beside_them(home: Home) -> None:
    first = home.start()
    before = home.files()
    home.new_microcode()
    second = home.start(PEER)
    assert second.config.life == 1
    assert second.upstream == PEER
    assert second.started.signing_key != first.started.signing_key
    after = home.files()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {
        "lives/1/key_store.sealed",
        "lives/1/worker.db",
    }
    # and from then on it is the second that goes on, across restarts
    again = home.start()
    assert again.started.signing_key == second.started.signing_key
    assert again.upstream == PEER  # it has no keys yet, and knows whom to ask
    home.new_microcode()
    assert home.start(PEER).config.life == 2


def test_without_a_peer_nothing_begins_and_nothing_is_lost(home: Home) -> None:
    """Its keys may be the only ones there are."""
    first = home.start()
    before = home.files()
    old = home.machine.state()
    home.new_microcode()
    for _ in range(3):
        with pytest.raises(SealingKeyChangedError, match="level has changed") as error:
            home.start()
        assert "Nothing was overwritten" in error.value.hint
    assert home.files() == before
    # the old microcode comes back: so does the instance
    home.machine._replace(old)
    assert home.start().started.signing_key == first.started.signing_key


def test_the_old_level_brings_back_the_old_instance_also_after_a_new_one(
    home: Home,
) -> None:
    first = home.start()
    old = home.machine.state()
    home.new_microcode()
    home.start(PEER)
    before = home.files()
    home.machine._replace(old)
    back = home.start(PEER)
    assert back.config.life == 0
    assert back.started.signing_key == first.started.signing_key
    later = home.files()
    kept = "lives/1/key_store.sealed"
    assert later[kept] == before[kept]


def test_a_peer_is_found_on_l1_among_those_known_to_hold_the_keys(
    home: Home,
) -> None:
    first = home.start()
    me, other = bytes(first.started.signing_key), bytes([7]) * 32
    home.holders(first, other)
    home.l1.values[enclave_key(me)] = record(me, "http://myself:1")
    home.new_microcode()
    with pytest.raises(SealingKeyChangedError):
        home.start()  # the other is not announced, and one does not ask oneself
    home.l1.values[enclave_key(other)] = record(other, PEER)
    for _ in range(2):
        assert home.start().upstream == PEER


def test_a_new_instance_knows_all_that_the_old_one_knew_to_hold_the_keys(
    home: Home,
) -> None:
    """The first of them may be away for good."""
    first = home.start()
    me, others = first.started.signing_key, [bytes([n]) * 32 for n in (7, 8)]
    home.holders(first, *others)
    for key in others:
        home.l1.values[enclave_key(key)] = record(key, f"http://{key[0]}:1")
    home.new_microcode()
    begun = home.start()
    assert begun.upstream == "http://7:1"
    names = home.holders(begun)
    assert names.issuperset(others)
    assert me not in names


def test_a_new_instance_that_ends_at_once_knows_whom_it_was_to_ask(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.start()
    home.new_microcode()
    real = WorkerStore.put_meta

    def killed(store: WorkerStore, name: str, value: bytes) -> None:
        if name == "signing_key":
            raise KeyboardInterrupt
        real(store, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerStore, "put_meta", killed)
        with pytest.raises(KeyboardInterrupt):
            home.start(PEER)
    assert home.start().upstream == PEER


@pytest.mark.parametrize(("name", "value"), [("cpu_svn", b"\xff" * 16), ("isv_svn", 9)])
def test_a_host_that_claims_a_new_level_makes_nobody_discard_anything(
    name: str, value: object, home: Home
) -> None:
    """It writes another level into the header, which nothing has authenticated."""
    first = home.start()
    path = home.path / "key_store.sealed"
    honest = path.read_bytes()
    outer = decode(SealedKeyStore, honest)
    forged = encode(msgspec.structs.replace(outer, **{name: value}))
    path.write_bytes(forged)
    with pytest.raises(SealingKeyChangedError):
        home.start()
    assert path.read_bytes() == forged
    begun = home.start(PEER)  # what an honest worker would do of it
    assert begun.started.signing_key != first.started.signing_key
    assert path.read_bytes() == forged
    # the forger has gained an instance that knows nothing; the old one is all there
    path.write_bytes(honest)
    (home.path / "lives").rename(home.path / "set-aside")
    assert home.start().started.signing_key == first.started.signing_key


def test_any_other_damage_is_no_reason_to_begin_anew(home: Home) -> None:
    """A store that is cut or altered on the same level stays an error."""
    home.start()
    path = home.path / "key_store.sealed"
    honest = path.read_bytes()
    for damaged in (honest[:-1], honest[:-1] + bytes([honest[-1] ^ 1]), b"", b"\xc1"):
        path.write_bytes(damaged)
        with pytest.raises(StoreError) as error:
            home.start(PEER)
        assert not isinstance(error.value, SealingKeyChangedError)
        assert path.read_bytes() == damaged
        assert not (home.path / "lives").exists()
    path.write_bytes(honest)
    home.start()
