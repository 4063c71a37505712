"""``sealift demo`` as people run it: the nine steps by real decisions.

`make demos` plays every authority, with and without rotation; here are those two
that take every kind of decision between them.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from demo_processes import SEALIFT, living, report_of

from sealift.cli._demo_stage import AUTHORITIES

pytestmark = pytest.mark.process
#: In every report, whoever decided.
ALWAYS = {
    "no call was lost",
    "no call was executed twice",
    "calls were executed in L1's order",
    "every call was executed without error",
    "two workers gave each call the same receipt",
    "sealed state survived: nonces and secret bids are the users' own",
    "gap is at most one block",
}
BALLOTS = "ballots are as long as the calls around them"
HANDED_OVER = "sudo's word counts no more once the holders decide"
ROTATED = {
    "both new enclaves have the keys of epoch 1, neither old one has",
    "both new enclaves have the keys of epoch 2, neither old one has",
    "after its grace, a call under the keys before is refused",
}


def lines(report: dict) -> list[str]:
    return report["decision"]


def held(report: dict) -> set[str]:
    return {one["name"] for one in report["checks"] if one["ok"]}


@pytest.mark.timeout(900)
def test_holders_hosts_and_the_vendor_decide_together_and_rotate(
    tmp_path: Path,
) -> None:
    report = report_of(tmp_path, "--authority", "all-of", "--rotate")
    assert held(report) >= ALWAYS | ROTATED | {BALLOTS}
    for kind in ("UpgradeOrder", "StatusOrder"):
        begun = next(n for n, line in enumerate(lines(report)) if kind in line)
        said = "\n".join(lines(report)[begun:])
        said = said[: said.index("has carried")]
        for act in ("12 voters", "1 of 2 platforms", "2 of 2 platforms", "vendor"):
            assert act in said, (kind, act)
        assert said.count("not carried out: others have to be for it, too") == 3


@pytest.mark.timeout(900)
def test_sudo_hands_the_shard_to_its_holders(tmp_path: Path) -> None:
    report = report_of(tmp_path, "--authority", "sudo-then-stake")
    assert held(report) >= ALWAYS | {BALLOTS, HANDED_OVER}
    assert any("RulesOrder" in line for line in report["decision"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_it_twice_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    keep = tmp_path / "kept"
    words = ["--accounts", "60", "--rate", "2", "--json", "--keep", str(keep)]
    child = subprocess.Popen(
        [*SEALIFT, "demo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while len(set(living(keep)) - {child.pid}) < 3:  # chain, worker, enclave
            assert time.monotonic() < deadline, "it does not start"
            assert child.poll() is None, child.communicate()
            time.sleep(0.1)
        for _ in range(3):
            child.send_signal(number)
            time.sleep(0.2)
        _, err = child.communicate(timeout=60)
        assert living(keep) == []
        assert "Traceback" not in err
        assert child.returncode != 0
    finally:
        child.kill()
        for pid in living(keep):
            os.kill(pid, signal.SIGKILL)


def test_every_form_that_is_promised_is_offered() -> None:
    assert AUTHORITIES == (
        "sudo",
        "stake",
        "workers",
        "signer",
        "all-of",
        "sudo-then-stake",
    )
