"""`sealift testnet`: one folder, one command, and nothing that outlives it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealift.cli._testnet_home import TestnetError, TestnetHome, make_plan
from sealift.crypto import system_entropy
from sealift.transport.files import UnreadableFileError
from sealift.transport.marks import ProcessMark, mark_of, runs
from sealift.transport.supervise import SupervisorRecord, end_recorded, read_record

SEALIFT = (sys.executable, "-m", "sealift")


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEALIFT, *words],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | environ,
    )


def said(*words: str) -> Any:
    done = run(*words, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


class Network:
    """One local network, and all that was ever seen to run in it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "net"
        self.seen: set[ProcessMark] = set()

    def __call__(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        return run("testnet", command, "--home", str(self.home), *words)

    def record(self) -> SupervisorRecord:
        found = read_record(TestnetHome(self.home).record)
        assert found is not None
        marks = [found.supervisor, *(one.mark for one in found.services)]
        self.seen |= {mark for mark in marks if mark is not None}
        for validator in TestnetHome(self.home).read_plan().validators:
            path = TestnetHome(self.home).validator(validator.name).process
            if path.is_file():
                self.seen.add(msgspec.json.decode(path.read_bytes(), type=ProcessMark))
        return found

    def status(self) -> dict[str, Any]:
        self.record()
        found: dict[str, Any] = said("testnet", "status", "--home", str(self.home))
        return found

    def mark(self, name: str) -> ProcessMark:
        found = next(one for one in self.record().services if one.name == name)
        assert found.mark is not None
        return found.mark

    def until(self, what: str, within: float = 90) -> dict[str, Any]:
        deadline = time.monotonic() + within
        while (found := self.status())["state"] != what:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        return found

    def require_nothing_runs(self, within: float = 30) -> None:
        deadline = time.monotonic() + within
        while left := [mark for mark in self.seen if runs(mark)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


@pytest.fixture
def network(tmp_path: Path, comet_binary: Path) -> Iterator[Network]:
    assert comet_binary
    made = Network(tmp_path)
    yield made
    if (made.home / "supervisor.json").is_file():
        asyncio.run(end_recorded(made.record(), grace=20))


@pytest.mark.cometbft
@pytest.mark.timeout(600)
def test_a_network_is_used_killed_taken_up_again_and_stopped(network: Network) -> None:
    up = network("up", "--validators", "4", "--workers", "2", "--block-ms", "400")
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("ready http://127.0.0.1:")
    status = network.until("runs")
    shard = status["shard"]
    assert status["generation"] == 0
    assert [one["peers"] for one in status["validators"]] == [3, 3, 3, 3]
    assert all(one["votes"] for one in status["validators"])
    assert [one["follows"] for one in status["workers"]] == ["val0", "val1"]
    assert {one["ok"] for one in status["workers"]} == {True}
    # each compares its own node with the other three
    worker = said("worker", "status", str(network.home / "worker1"))
    assert len(worker["witnesses"]) == 3
    # a user of it
    keys, card = network.home / "keys", network.home / "card.json"
    moved = run(
        *("client", "transfer", str(keys / "bob.json"), "300", "--card", str(card)),
        *("--key", str(keys / "alice.json")),
    )
    assert moved.returncode == 0, moved.stderr

    # a validator and a worker die: both come back by themselves
    for name in ("val1", "worker1"):
        os.kill(network.mark(name).pid, signal.SIGKILL)
    time.sleep(1)
    status = network.until("runs")
    restarts = {one["name"]: one["restarts"] for one in status["validators"]}
    assert restarts == {"val0": 0, "val1": 1, "val2": 0, "val3": 0}
    log = network("logs", "supervisor").stdout
    assert "val1 ended by signal 9; it is started again in 0.5 s" in log

    # the supervisor is killed: nothing of it goes on, and nobody is left behind
    height = status["height"]
    os.kill(network.record().supervisor.pid, signal.SIGKILL)
    network.require_nothing_runs()
    done = network("status")
    assert done.returncode == 1
    assert "its supervisor was killed" in done.stdout

    again = network("up")
    assert again.returncode == 0, again.stderr
    status = network.until("runs")
    assert status["shard"] == shard
    assert status["height"] >= height
    assert network("up").stderr.startswith("it runs already, under pid")
    balance = said(
        *("client", "balance", "--card", str(card)),
        *("--key", str(keys / "bob.json")),
    )
    assert balance["balance"] == 1_000_300

    down = network("down")
    assert down.returncode == 0, down.stderr
    network.require_nothing_runs(within=1)
    assert "nothing of it was running" in network("down").stderr
    assert network("status").returncode == 1


@pytest.mark.cometbft
@pytest.mark.timeout(200)
def test_what_does_not_start_is_told_and_taken_back(network: Network) -> None:
    with socket.socket() as taken:
        assert network("up", "--validators", "1", "--workers", "0").returncode == 0
        assert network("down").returncode == 0
        plan = TestnetHome(network.home).read_plan()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", plan.validators[0].rpc))
        taken.listen()
        up = network("up")
        assert up.returncode == 3
        assert f"127.0.0.1:{plan.validators[0].rpc} is taken" in up.stderr
        assert "the RPC of val0" in up.stderr
        assert "Traceback" not in up.stderr
    network.record()
    network.require_nothing_runs()
    # a node that cannot start: its words are told, nothing goes on in the dark
    TestnetHome(network.home).validator("val0").config.write_text("[rpc")
    up = network("up")
    assert up.returncode == 3
    assert "configuration cannot be read" in up.stderr
    assert "Traceback" not in up.stderr
    network.record()
    network.require_nothing_runs()


def test_another_size_of_a_network_that_is_there_is_refused(
    tmp_path: Path, comet_binary: Path
) -> None:
    assert comet_binary
    plan = make_plan(
        chain_id="net", block_ms=500, validators=2, workers=1, entropy=system_entropy
    )
    (tmp_path / "testnet.json").write_bytes(msgspec.json.encode(plan))
    for words in (("--validators", "4"), ("--workers", "3"), ("--block-ms", "400")):
        done = run("testnet", "up", "--home", str(tmp_path), *words)
        assert done.returncode == 1
        assert f"another {words[0]}" in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(TestnetError):
        raise TestnetError("said above by the process")


def test_a_log_that_cannot_be_written_is_said_and_nothing_is_started(
    tmp_path: Path, comet_binary: Path
) -> None:
    assert comet_binary
    plan = make_plan(
        chain_id="net", block_ms=500, validators=1, workers=0, entropy=system_entropy
    )
    home = TestnetHome(tmp_path)
    home.plan.write_bytes(msgspec.json.encode(plan))
    home.log("supervisor").mkdir(parents=True)
    done = run("testnet", "up", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "log cannot be written" in done.stderr
    assert "Nothing was started" in done.stderr
    assert "Traceback" not in done.stderr
    assert not home.record.exists()


def test_a_network_of_another_version_is_kept(tmp_path: Path) -> None:
    plan = make_plan(
        chain_id="net", block_ms=500, validators=1, workers=0, entropy=system_entropy
    )
    home = TestnetHome(tmp_path)
    home.plan.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, version=9)))
    with pytest.raises(TestnetError, match="another version"):
        home.read_plan()
    for text in ("{", "[]", '{"version": 1}'):
        home.plan.write_text(text)
        with pytest.raises(UnreadableFileError):
            home.read_plan()
        assert home.plan.read_text() == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "--validators", "0"), "not in the range"),
        (("up", "--validators", "99"), "not in the range"),
        (("up", "--workers", "-1"), "not in the range"),
        (("up", "--block-ms", "1"), "not in the range"),
        (("up", "--validator", "4"), "No such option"),
        (("sideways",), "No such command"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], said: str) -> None:
    done = run("testnet", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for command in ("status", "down", "logs"):
        done = run("testnet", command, "--home", str(tmp_path / "none"))
        assert done.returncode == 4
        assert "local network is missing" in done.stderr
        assert "sealift testnet up" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_missing_engine_is_said_before_anything_is_made(tmp_path: Path) -> None:
    done = run(
        *("testnet", "up", "--home", str(tmp_path / "net")),
        SEALIFT_COMETBFT="/nowhere/cometbft",
    )
    assert done.returncode == 3
    assert "make cometbft" in done.stderr
    assert not (tmp_path / "net").exists()


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Path, comet_binary: Path
) -> None:
    assert comet_binary
    (tmp_path / "mine").write_text("mine")
    done = run("testnet", "up", "--home", str(tmp_path))
    assert done.returncode == 4
    assert "no local network" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_down_ends_nobody_who_was_not_recorded(tmp_path: Path) -> None:
    """A pid of the record that another process has now is left alone."""
    plan = make_plan(
        chain_id="net", block_ms=500, validators=1, workers=0, entropy=system_entropy
    )
    home = TestnetHome(tmp_path)
    home.plan.write_bytes(msgspec.json.encode(plan))
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        mark = mark_of(bystander.pid)
        assert mark is not None
        old = msgspec.structs.replace(mark, started=mark.started - 100)
        record = SupervisorRecord(supervisor=old, ready=True)
        home.record.write_bytes(msgspec.json.encode(record))
        done = run("testnet", "down", "--home", str(tmp_path))
        assert done.returncode == 0
        assert "nothing of it was running" in done.stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    # what cannot be read is kept, and nobody is ended by guessing
    home.record.write_text("?")
    done = run("testnet", "down", "--home", str(tmp_path))
    assert done.returncode == 4
    assert home.record.read_text() == "?"
