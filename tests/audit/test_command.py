"""``sealift audit`` over a whole world in this process: what it says, and how it ends.

Only sockets and processes are doubles; ``tests/process`` has the real ones.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from audit_world import AuditWorld, Chain, Process

from sealift.base import Height
from sealift.bundle import encode_bundle
from sealift.cli import run_cli
from sealift.enclave import _execute
from sealift.transport.keys import write_account_key
from sealift.worker import CONFIG_FILE, TEMPLATE, WorkerConfig
from sealift.worker import _audit_home as glue

Run = Callable[..., tuple[int, dict[str, Any], str]]


class Account:
    """The operator's account, in a chain that moves only when it is asked to."""

    def __init__(self, audited: AuditWorld) -> None:
        self.audited = audited
        self.challenges: list[bytes] = []

    async def send(self, call: str, args: dict[str, object]) -> bytes:
        assert (call, args["amount"]) == ("balances.transfer", 1)
        self.challenges.append(args["dest"])  # type: ignore[arg-type]
        return b"hash"

    async def wait(self, _: bytes) -> SimpleNamespace:
        height = await self.audited.announce(self.challenges[-1])
        return SimpleNamespace(height=Height(height))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    (tmp_path / "shelf").mkdir()
    write_account_key(made / "operator.key", bytes(range(32)))
    return made


@pytest.fixture
def run(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """``run(audited, …)``: exit code, answer, remarks."""

    def command(audited: AuditWorld, *words: str) -> tuple[int, dict[str, Any], str]:
        world = audited.world
        files: dict[Path, Any] = {}
        for number, release in enumerate(audited.shelf.values()):
            path = tmp_path / "shelf" / f"v{number}.bundle"
            path.write_bytes(encode_bundle(release.bundle.bundle))
            files[path] = release
        running = audited.auditor_of.release
        own = next(path for path, one in files.items() if one is running)
        text = TEMPLATE.format(
            rpc="http://127.0.0.1:1", shard=world.shard.hex(), genesis="genesis.bin",
            bundle=own, sim=tmp_path, machine="alpha", port=0, upstream="",
        )  # fmt: skip
        (home / CONFIG_FILE).write_text(text)
        (home / "genesis.bin").write_bytes(world.genesis)
        (home / "key_store.sealed").write_bytes(
            audited.auditor_of.disk.key_store or b""
        )
        before = {path: path.read_bytes() for path in home.iterdir()}

        def host_of(config: WorkerConfig) -> Any:
            assert config.home != home, "nothing is unpacked in the home"

            @contextlib.asynccontextmanager
            async def enclave() -> AsyncIterator[Any]:
                release = files[config.bundle]
                process = Process(audited.process(release))
                yield SimpleNamespace(call=process.call, manifest=release.manifest)

            return SimpleNamespace(enclave=enclave)

        @contextlib.asynccontextmanager
        async def client(url: str, **_: Any) -> AsyncIterator[Any]:
            async def status() -> Any:
                return SimpleNamespace(
                    node_info=SimpleNamespace(network=audited.network)
                )

            async def height() -> Height:
                return world.height

            async def abci_query(key: bytes, *, prove: bool) -> Any:
                assert not prove, "a hint"
                value, _ = await Chain(world).prove(key, world.height - 1)
                return SimpleNamespace(value=value)

            yield SimpleNamespace(
                url=url, status=status, height=height, abci_query=abci_query
            )

        monkeypatch.setattr(glue, "host_of", host_of)
        monkeypatch.setattr(glue, "L1Client", client)
        monkeypatch.setattr(glue, "L1View", lambda _: Chain(world))
        monkeypatch.setattr(glue, "L1Account", lambda *_: Account(audited))
        capsys.readouterr()
        code = run_cli(["audit", str(home), "--from", "genesis", *words])
        out, err = capsys.readouterr()
        assert {path: path.read_bytes() for path in home.iterdir()} == before
        return code, json.loads(out) if out.startswith("{") else {"": out}, err

    return command


def test_everything_agrees(audited: AuditWorld, run: Run, tmp_path: Path) -> None:
    code, answer, _ = run(audited, "--bundles", str(tmp_path / "shelf"), "--json")
    assert code == 0
    assert answer["agrees"]
    assert answer["compared"] == answer["confirmed"]
    assert answer["difference"] is None
    assert answer["roots"] > 5
    assert [one["mrenclave"] for one in answer["generations"]] == [
        release.fingerprint.hex() for release in audited.releases
    ]
    code, answer, _ = run(audited, "--bundles", str(tmp_path / "shelf"))
    assert code == 0
    assert "generations:" in answer[""]


def test_what_differs_is_named_and_the_exit_code_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    audited = AuditWorld(tmp_path / "world")
    audited.write("one")
    audited.world.block()
    with monkeypatch.context() as lying:
        lying.setattr(_execute, "sealed_receipts", lambda *_: ())
        audited.write("two")
        height = audited.world.height
        audited.world.block()
    audited.world.blocks(6)
    code, answer, said = run(audited, "--json")
    assert code == 1
    found = answer["difference"]
    assert (found["block"], found["fact"]) == (height, "receipts root")
    assert found["mrenclave"] == audited.releases[0].fingerprint.hex()
    assert f"The receipts root differs at block {height}" in said
    assert found["expected"] in said
    assert found["got"] in said


def test_a_bundle_that_is_not_at_hand_is_named(audited: AuditWorld, run: Run) -> None:
    code, _, said = run(audited)
    assert code == 1
    assert audited.releases[0].fingerprint.hex() in said
    assert "--bundle FILE" in said


def test_a_node_of_another_chain_is_refused(audited: AuditWorld, run: Run) -> None:
    audited.network = "elsewhere"
    code, _, said = run(audited)
    assert code == 1
    assert "another chain" in said


def test_a_key_store_that_does_not_open_is_refused_and_kept(
    audited: AuditWorld, run: Run
) -> None:
    audited.auditor_of.disk.key_store = b"not sealed"
    code, _, said = run(audited)
    assert code == 1
    assert "KeyStoreUnreadableError" in said
