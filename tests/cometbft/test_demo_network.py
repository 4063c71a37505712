"""The demo's nine steps on four CometBFT validators: the same checks as on solo."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sealift.cli.invoke_bench import bench_invoke
from sealift.node.cometbft import EngineMissingError
from sealift.testing import bench

SEALIFT = (sys.executable, "-m", "sealift")
#: Of the checks that a report on solo has, without those of an authority.
CHECKS = {
    "restarted, the new workers go on",
    "restarted, worker old executes nothing from XYZ on",
    "restarted, worker old-2 executes nothing from XYZ on",
    "rolled back, the old worker executes nothing from XYZ on",
    "sealed state survived: nonces and secret bids are the users' own",
    "gap is at most one block",
    "no call was lost",
    "no call was executed twice",
    "calls were executed in L1's order",
    "every call was executed without error",
    "two workers gave each call the same receipt",
    "calls flowed around XYZ",
    "the first root of the new generation builds on the certified one",
}


def living(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line and int(entry.name) != os.getpid():
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.cometbft
@pytest.mark.timeout(900)
def test_the_nine_steps_on_four_validators(tmp_path: Path, comet_binary: Path) -> None:
    assert comet_binary
    keep = tmp_path / "demo"
    child = subprocess.Popen(
        [
            *SEALIFT,
            *("demo", "--engine", "cometbft", "--validators", "4", "--json"),
            *("--accounts", "40", "--rate", "4", "--block-ms", "800"),
            *("--keep", str(keep)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = child.communicate(timeout=800)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGTERM)  # it stops its own processes
        out, err = child.communicate(timeout=60)
    assert child.returncode == 0, (out[-3000:], err[-3000:])
    found: dict[str, Any] = json.loads(out)
    assert found["ok"] is True
    assert (found["engine"], found["validators"]) == ("cometbft", 4)
    assert {check["name"] for check in found["checks"]} == CHECKS
    assert {check["ok"] for check in found["checks"]} == {True}
    calls = found["calls"]
    assert calls["sent"] == calls["executed"] > 100
    assert calls["lost"] == calls["doubled"] == calls["reordered"] == 0
    # the workers are spread over the validators
    names = ("old", "old-2", "new", "new-2")
    followed = {
        line
        for name in names
        for line in (keep / f"worker-{name}" / "worker.toml").read_text().splitlines()
        if line.startswith("rpc = ")
    }
    assert len(followed) == 4
    assert not living(keep)


@pytest.mark.cometbft
@pytest.mark.timeout(300)
def test_calls_through_a_network_are_measured_with_their_shares(
    comet_binary: Path,
) -> None:
    assert comet_binary
    found = bench_invoke(1, calls=20)
    assert found["unit"] == "calls/s"
    assert 0 < float(str(found["value"])) < float(str(found["floor"]))
    assert float(str(found["latency_ms"])) > 0
    shares = [value for name, value in found.items() if name.startswith("share_")]
    assert len(shares) == 4
    assert abs(sum(float(str(one)) for one in shares) - 1) < 1e-6


def test_without_an_engine_the_other_benchmarks_are_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEALIFT_COMETBFT", str(tmp_path / "none"))
    networks = {"invoke_1", "invoke_4"}
    assert set(bench._runnable(large=True)) == set(bench.BENCHMARKS) - networks
    assert not networks & set(bench._runnable(large=False))
    with pytest.raises(EngineMissingError):
        bench_invoke(1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--validators", "4"), 2, "goes with --engine cometbft"),
        (("--engine", "cometbft", "--validators", "0"), 2, "not in the range"),
        (("--engine", "geth"), 2, "'solo', 'cometbft'"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], code: int, said: str) -> None:
    done = subprocess.run(
        [*SEALIFT, "demo", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in done.stderr


def test_a_missing_engine_is_said_before_anything_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SEALIFT, "demo", "--engine", "cometbft", "--keep", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SEALIFT_COMETBFT": "/nowhere/cometbft"},
    )
    assert done.returncode == 3
    assert "make cometbft" in done.stderr
    assert not (tmp_path / "demo").exists()
