"""`sealift demo`, as a newcomer runs it, and what it says when it cannot."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from demo_processes import living, run

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Generation,
    Height,
    Nonce,
    ShardId,
    StateRoot,
)
from sealift.bundle import parse_bundle, verify_bundle
from sealift.cli import _demo_load
from sealift.cli._application import ApplicationError, example, read_application
from sealift.cli._bench import NAMES, BenchError
from sealift.cli._bench_report import BUDGETS
from sealift.cli._demo_decide import Government
from sealift.cli._demo_load import ChainScan, Load, LoadError, SealingKeys
from sealift.cli._demo_report import _gap_blocks
from sealift.cli._demo_stage import DemoOptions, set_stage
from sealift.cli._demo_story import DemoError, Processes, Story, lead_after
from sealift.crypto import account_of, rsa_public_modulus, sha256
from sealift.ledger import ledger_call, transaction
from sealift.protocol import Confirmation, SudoAuthority
from sealift.relay.rpc import Event, ExecTxResult
from sealift.testing._bench_tally import bench_tally, bench_votes
from sealift.testing.bench import BENCHMARKS, bench_rotation
from sealift.transport.bundle_folder import read_bundle_file
from sealift.transport.clock import WallClock


@pytest.mark.process
@pytest.mark.timeout(900)
def test_an_enclave_is_upgraded_under_load_and_its_sealed_state_survives(
    tmp_path: Path,
) -> None:
    keep = tmp_path / "demo"
    done = run("demo", "--json", "--accounts", "1000", "--keep", str(keep))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)

    assert found["ok"] is True
    assert found["mrenclave_old"] != found["mrenclave_new"]
    assert found["gap_blocks"] <= 1
    calls = found["calls"]
    assert calls["sent"] == calls["executed"] > 100
    assert calls["lost"] == calls["doubled"] == calls["reordered"] == 0
    assert found["root_before"] != found["root_after"]
    assert [step["n"] for step in found["steps"]] == list(range(1, 10))
    took = {step["n"]: step["ms"] for step in found["steps"]}
    assert None not in took.values()
    # what these two wait for may be there already
    assert all(ms > 0 or n in {4, 9} for n, ms in took.items())
    assert {check["ok"] for check in found["checks"]} == {True}
    assert len(found["ports"]) == 5
    # nothing of it runs any more
    assert living(keep) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--accounts", "3"), "expected at least 40"),
        (("--rate", "0"), "expected above 0"),
        (("--block-ms", "1"), "expected 50 to 60000"),
        (("--block-ms", "soon"), "not a valid integer"),
        (("--acounts", "9"), "No such option"),
    ],
)
def test_a_wrong_flag_is_refused_with_what_was_expected(
    words: tuple[str, ...], said: str
) -> None:
    done = run("demo", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    done = run("demo", "--keep", str(tmp_path))
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_example_that_is_not_there() -> None:
    with pytest.raises(ApplicationError, match="missing"):
        example("no-such-example")


@pytest.mark.parametrize(
    "text", ["", "name = 1", "name = 'x'\nunknown = 2", "not toml ]["]
)
def test_an_application_file_that_says_something_else(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "sealift.toml").write_text(text)
    with pytest.raises(ApplicationError):
        read_application(tmp_path)


def test_a_part_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    class Place:
        folder = tmp_path

    async def attempt() -> None:
        await Processes(Place()).finish("part", "worker", "run", "/nowhere")  # type: ignore[arg-type]

    with pytest.raises(DemoError, match="worker run"):
        asyncio.run(attempt())


def test_a_benchmark_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner  # noqa: PLC0415

    from sealift.cli import _bench  # noqa: PLC0415

    monkeypatch.setattr(_bench.sys, "executable", "/bin/false")
    result = CliRunner().invoke(_bench.bench, ["--only", "quote"])
    assert isinstance(result.exception, BenchError)
    with pytest.raises(BenchError):
        raise result.exception


@pytest.mark.process
def test_the_benchmark_answers_in_json() -> None:
    done = run("bench", "--only", "quote", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"quote"}
    assert set(found["quote"]) == {"value", "unit", "floor", "ratio"}
    assert found["quote"]["unit"] == "ms"
    assert 0 < found["quote"]["ratio"] <= 1.5


def test_every_benchmark_has_a_name_a_row_and_a_function() -> None:
    page = Path(__file__).parents[2] / "docs" / "budgets.md"
    rows = re.findall(r"^\| `(\w+)` \|", page.read_text(), flags=re.MULTILINE)
    assert tuple(rows) == NAMES == tuple(BENCHMARKS)
    assert set(BUDGETS) <= set(NAMES)


@pytest.mark.parametrize(
    ("measure", "unit"),
    [
        (partial(bench_votes, voters=100, calls=5), "votes/s"),
        (partial(bench_tally, voters=100, calls=5), "ms"),
        (partial(bench_rotation, rounds=2), "ms"),
    ],
    ids=["votes", "tally", "rotation"],
)
def test_a_small_benchmark_runs_to_its_end(
    measure: Callable[[], dict[str, Any]], unit: str
) -> None:
    found = measure()
    assert set(found) == {"value", "unit", "floor", "ratio"}
    assert found["unit"] == unit
    assert min(found["value"], found["floor"], found["ratio"]) > 0


class TestGap:
    """The figure that the demo is judged by must not hide a gap."""

    class Scan:
        def __init__(self, late: int) -> None:
            self.late = late

        def confirmed_at(self, height: int) -> int | None:
            if height == 100:
                return None if self.late < 0 else 102 + self.late
            return height + 2

    def story(self, late: int) -> Any:
        class Fake:
            scan = self.Scan(late)

        return Fake()

    @pytest.mark.parametrize(("late", "gap"), [(0, 0), (1, 1), (7, 7)])
    def test_it_counts_blocks_beyond_the_median(self, late: int, gap: int) -> None:
        assert _gap_blocks(self.story(late), 100) == gap

    def test_a_block_that_was_never_confirmed_is_no_small_gap(self) -> None:
        assert _gap_blocks(self.story(-1), 100) > 1000


@pytest.mark.parametrize(
    ("seconds", "block_ms", "lead"),
    [(0.0, 500, 60), (8.5, 500, 60), (30.0, 500, 210), (12.0, 100, 420)],
)
def test_the_new_workers_get_time_by_how_fast_the_machine_is(
    seconds: float, block_ms: int, lead: int
) -> None:
    assert lead_after(seconds, block_ms) == lead


def test_the_order_gives_them_that_time(tmp_path: Path) -> None:
    options = DemoOptions(accounts=40, rate=1, block_ms=100)
    stage = set_stage(tmp_path / "stage", options, WallClock())
    hall: Any = SimpleNamespace(scan=SimpleNamespace(height=9), lead=77)
    authority = SudoAuthority(key=account_of(stage.keys["authority"]))
    ahead: Any = SimpleNamespace(serial=0, rules=SimpleNamespace(authority=authority))
    order = Government(stage, "sudo")._upgrade(hall, ahead)
    assert order.upgrade_at - order.release_from == 77


def test_before_anything_runs_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    options = DemoOptions(accounts=40, rate=1, block_ms=100)
    stage = set_stage(tmp_path / "stage", options, WallClock())
    story = Story(stage, options, None)  # type: ignore[arg-type]
    assert story.glimpse() == (0, 0, 0)
    with pytest.raises(DemoError):
        _ = story.scan
    with pytest.raises(DemoError):
        _ = story.load
    assert stage.old.fingerprint != stage.new.fingerprint
    modulus = rsa_public_modulus(stage.vendor).to_bytes(384, "little")
    assert stage.old.mr_signer == stage.new.mr_signer == sha256(modulus)
    for built in (stage.old, stage.new):
        signed = verify_bundle(parse_bundle(read_bundle_file(built.path))).sigstruct
        assert built.mr_signer == signed.mrsigner
        assert built.fingerprint == signed.mrenclave


class TestScan:
    """What the demo believes of roots must be L1's word, not that of one platform."""

    def scan(self, *events: tuple[str, ...], code: int = 0) -> ChainScan:
        """A block with a vote for blocks 3 … 5 for each tuple of events."""
        said = Confirmation(
            chain_id="sealift-demo",
            shard=ShardId(bytes(32)),
            generation=Generation(0),
            first=Height(3),
            last=Height(5),
            prev_root=StateRoot(bytes(32)),
            root=StateRoot(bytes(32)),
            receipts_root=Digest(bytes(32)),
            effects_root=Digest(bytes(32)),
            signing_key=AccountId(bytes(32)),
        )
        vote = ledger_call(
            "enclave_bridge.confirm", confirmation=said, signature=bytes(64), effects=()
        )
        tx = transaction(
            bytes(32),
            chain_id="sealift-demo",
            nonce=Nonce(0),
            valid_until=Height(90),
            call=vote,
        )
        results = tuple(
            ExecTxResult(
                code=code, events=tuple(Event(kind=k, attributes=()) for k in kinds)
            )
            for kinds in events
        )

        class L1:
            async def block(self, height: int) -> SimpleNamespace:
                header = SimpleNamespace(
                    height=height, time=SimpleNamespace(seconds=height, nanos=0)
                )
                txs = (tx,) * len(events)
                return SimpleNamespace(block=SimpleNamespace(header=header, txs=txs))

            async def block_results(self, _: int) -> SimpleNamespace:
                return SimpleNamespace(txs_results=results)

        return ChainScan(L1())  # type: ignore[arg-type]

    @pytest.fixture(autouse=True)
    def _headers_without_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_demo_load, "header_hash", lambda _: Digest(bytes(32)))

    def test_a_vote_that_lacks_others_confirms_nothing(self) -> None:
        scan = self.scan(("enclave_bridge.RootVoted",), ())
        asyncio.run(scan._read(9))
        assert scan.count("enclave_bridge.confirm") == 2
        assert scan.confirmations == []
        assert scan.confirmed_at(4) is None

    def test_the_vote_that_makes_the_quorum_confirms(self) -> None:
        root = ("enclave_bridge.RootConfirmed",)
        scan = self.scan(("enclave_bridge.RootVoted",), root)
        asyncio.run(scan._read(9))
        assert [at for at, _ in scan.confirmations] == [9]
        assert [scan.confirmed_at(h) for h in (2, 3, 5, 6)] == [None, 9, 9, None]
        refused = self.scan(root, code=1)
        asyncio.run(refused._read(9))
        assert refused.confirmations == []


def test_a_late_call_takes_no_nonce_and_is_none_of_the_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Load(
        account=None,  # type: ignore[arg-type]
        metadata=None,  # type: ignore[arg-type]
        shard=b"s" * 32,  # type: ignore[arg-type]
        shielding_key=_some_public_key(),
        users=1,
        scan=None,  # type: ignore[arg-type]
    )
    sealed: list[tuple[int, SealingKeys]] = []

    def seal(
        secret: bytes,
        user: int,
        nonce: int,
        call: str,
        args: dict[str, object],
        *,
        keys: SealingKeys,
    ) -> tuple[SimpleNamespace, bytes]:
        sealed.append((nonce, keys))
        return SimpleNamespace(receipts=[]), b"envelope"

    taken = [True, True, True, False]

    async def carry(*_: object) -> bool:
        load.send_failures.append("L1 took it not")
        return taken.pop(0)

    monkeypatch.setattr(load, "_seal", seal)
    monkeypatch.setattr(load, "_carry", carry)
    before = SealingKeys(Epoch(7), bytes(32))

    async def story() -> None:
        await load.send_as(b"secret", "a.b", {})
        await load.send_late(b"secret", "a.b", {}, before)
        await load.send_as(b"secret", "a.b", {})
        with pytest.raises(LoadError, match="took it not"):
            await load.send_as(b"secret", "a.b", {})

    asyncio.run(story())
    assert [nonce for nonce, _ in sealed] == [0, 1, 1, 2]
    assert [keys for _, keys in sealed] == [load.keys, before, load.keys, load.keys]
    assert len(load.calls) == 2


def test_a_worker_that_refuses_a_read_is_a_load_error() -> None:
    class Answer:
        status = 422

        async def read(self) -> bytes:
            return b"refused"

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

    class Session:
        def post(self, *_: object, **__: object) -> Answer:
            return Answer()

    class Reading:
        def encode_getter(self, *_: object) -> bytes:
            return b"\x90"

    class Scan:
        height = 5

    load = Load(
        account=None,  # type: ignore[arg-type]
        metadata=Reading(),  # type: ignore[arg-type]
        shard=b"s" * 32,  # type: ignore[arg-type]
        shielding_key=_some_public_key(),
        users=1,
        scan=Scan(),  # type: ignore[arg-type]
    )

    async def attempt() -> None:
        await load.ask(0, "system.nonce", {}, "http://x", Session())  # type: ignore[arg-type]

    with pytest.raises(LoadError, match="refused"):
        asyncio.run(attempt())


def _some_public_key() -> bytes:
    from sealift.crypto import HpkeSuite, hpke_generate, system_entropy  # noqa: PLC0415

    return hpke_generate(HpkeSuite.X25519, system_entropy).public


_PLAYING = """
import asyncio, sys
from types import SimpleNamespace
from sealift.cli import _demo, run_cli

class Story:
    def __init__(self, *_):
        pass
    async def play(self):
        try:
            print("playing", flush=True)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            print("processes stopped", flush=True)

_demo.set_stage = lambda *_: SimpleNamespace(old=SimpleNamespace(metadata=b""))
_demo.decode = lambda *_: None
_demo.Story = Story
sys.exit(run_cli(["demo", "--json"]))
"""


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_whoever_ends_the_demo_ends_its_processes(which: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PLAYING], stdout=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stdout is not None
            assert demo.stdout.readline() == "playing\n"
            demo.send_signal(which)
            said, _ = demo.communicate(timeout=20)
        finally:
            demo.kill()
    assert said == "processes stopped\n"
    assert demo.returncode == 130
