"""``sealift attest verify`` on the DCAP vectors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sealift.relay import Timestamp
from sealift.transport.clock import format_time


def _ids() -> list[str]:
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("SEALIFT_VECTORS", root / "shared" / "vectors"))
    file = folder / "dcap" / "cases.json"
    if not file.is_file():
        return ["absent"]  # the fixture `vectors` skips or fails
    return [each["id"] for each in json.loads(file.read_text())]


@pytest.fixture(scope="session")
def cases(vectors: Path) -> dict[str, Any]:
    folder = vectors / "dcap"
    return {
        each["id"]: each
        | {key: folder / each[key] for key in ("quote", "collateral", "root")}
        for each in json.loads((folder / "cases.json").read_text())
    }


def words(case: Any, **changes: Any) -> list[str]:
    given = {key: case[key] for key in ("quote", "collateral", "root")}
    given |= {"at": case["now"], **changes}
    flat = [[f"--{key}", str(value)] for key, value in given.items()]
    return ["attest", "verify", *(word for pair in flat for word in pair)]


def strict(case: Any) -> str:
    said = case["strict"]
    return str(said["verdict"] if isinstance(said, dict) else said)


@pytest.mark.parametrize("name", _ids())
def test_every_case_has_its_exit_code_and_claims(
    name: str, cases: dict[str, Any], sealift: Any
) -> None:
    case = cases[name]
    said = sealift(*words(case), "--json")
    rejected = strict(case).startswith("reject")
    assert said.code == (1 if rejected else 0)
    assert said.err == ""
    verdict = said.json
    assert verdict["verdict"] == ("reject" if rejected else "accept")
    if rejected:
        assert verdict["reason"]
        assert verdict["refused_rules"]
    else:
        assert verdict["status"] == strict(case)
        assert len(verdict["mrenclave"] or verdict["mr_td"]) in {64, 96}


def _good(cases: dict[str, Any]) -> Any:
    return cases["001-sgx-phala-2025"]


def test_a_time_may_be_rfc_3339(cases: dict[str, Any], sealift: Any) -> None:
    case = _good(cases)
    text = format_time(Timestamp(seconds=case["now"], nanos=0))
    one = sealift(*words(case, at=text), "--json")
    other = sealift(*words(case), "--json")
    offset = sealift(*words(case, at=text.replace("Z", "+00:00")), "--json")
    assert one == other == offset
    assert one.json["judged_at"] == text


def test_the_time_decides(cases: dict[str, Any], sealift: Any) -> None:
    late = sealift(*words(_good(cases), at="2035-01-01T00:00:00Z"), "--json")
    assert late.code == 1
    assert "TCB info validity" in late.json["refused_rules"]
    now = sealift(*words(_good(cases))[:-2])  # no --at: now
    assert now.code == 1


def test_a_policy_narrows(cases: dict[str, Any], sealift: Any, tmp_path: Path) -> None:
    case = next(each for each in cases.values() if strict(each) == "OutOfDate")
    policy = tmp_path / "policy.json"
    policy.write_text("{}")
    strictly = sealift(*words(case, policy=policy), "--json")
    assert strictly.code == 1
    assert strictly.json["genuine"]
    assert strictly.json["refused_rules"] == ["accepted TCB statuses"]
    policy.write_text('{"accepted_tcb_statuses": ["OutOfDate"]}')
    assert sealift(*words(case, policy=policy)).code == 0
    policy.write_text('{"accepted_tcb_statusses": ["OutOfDate"]}')
    wrong = sealift(*words(case, policy=policy))
    assert wrong.code == 4
    assert "accepted_tcb_statusses" in wrong.err


def test_people_get_lines(cases: dict[str, Any], sealift: Any) -> None:
    said = sealift(*words(_good(cases)))
    assert said.code == 0
    lines = dict(line.split(None, 1) for line in said.out.splitlines())
    assert lines["verdict"] == "accept"
    assert lines["status"] == strict(_good(cases))


@pytest.mark.parametrize("what", ["quote", "collateral", "root"])
def test_damaged_files_are_a_verdict_and_missing_ones_are_not(
    cases: dict[str, Any], sealift: Any, tmp_path: Path, what: str
) -> None:
    case = _good(cases)
    broken = tmp_path / "broken"
    broken.write_bytes(Path(case[what]).read_bytes()[:100])
    damaged = sealift(*words(case, **{what: broken}), "--json")
    assert damaged.code == 1
    assert damaged.json["verdict"] == "reject"
    missing = sealift(*words(case, **{what: tmp_path / "none"}))
    assert missing.code == 4
    assert missing.out == ""
    assert missing.err.count("\n") == 1


@pytest.mark.process
def test_as_a_program(cases: dict[str, Any]) -> None:
    bad = next(each for each in cases.values() if strict(each).startswith("reject"))
    for case, code in ((_good(cases), 0), (bad, 1)):
        command = [sys.executable, "-c", "from sealift.cli import main; main()"]
        done = subprocess.run(
            [*command, *words(case)], check=False, capture_output=True, text=True
        )
        assert done.returncode == code
        assert done.stderr == ""
