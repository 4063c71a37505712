"""Benchmarks' figures: budgets judged, releases compared, bad files refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sealift.cli._bench import NAMES, BenchError, bench
from sealift.cli._bench_report import (
    BUDGETS,
    BenchFileError,
    comparison_table,
    holds,
    parse_results,
    read_results,
)
from sealift.testing import _bench_gap, _bench_join, _bench_snapshot
from sealift.testing import bench as benches

ROOT = Path(__file__).parents[2]
FIGURES: dict[str, Any] = {
    "exec": {"value": 9000.0, "unit": "calls/s", "floor": 12000.0, "ratio": 0.75},
    "gap_ratio": {"value": 1.1, "unit": "x", "floor": 1.0, "ratio": 1.1},
    "memory": {"value": 200.0, "unit": "B/account", "floor": 56.0, "ratio": 0.28},
    "cost": {"value": 300, "unit": "B", "floor": 100, "ratio": 0.33},
}


def written(folder: Path, name: str, figures: Any) -> str:
    path = folder / name
    path.write_text(json.dumps(figures), encoding="utf-8")
    return str(path)


def run(*words: str) -> Any:
    return CliRunner().invoke(bench, words, env={"COLUMNS": "120"})


def test_every_name_is_one_and_only_one_benchmark() -> None:
    assert sorted(NAMES) == sorted(benches.BENCHMARKS)
    assert set(BUDGETS) <= set(NAMES)
    assert set(NAMES) > benches.LARGE


def test_every_budget_stands_on_the_page() -> None:
    page = (ROOT / "docs/budgets.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for name, budget in BUDGETS.items():
        (row,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        assert budget.text in row, name
    for name in NAMES:
        assert any(f"`{name}`" in line.split("|")[1] for line in rows), name


@pytest.mark.parametrize(
    ("name", "figure", "good", "bad"),
    [
        ("exec", "ratio", 0.6, 0.59),
        ("relay", "ratio", 0.8, 0.79),
        ("quote", "value", 9.9, 10.0),
        ("tally", "value", 3999.0, 4000.0),
        ("gap_1k", "value", 1.0, 1.01),
        ("gap_100k", "value", 1.0, 1.01),
        ("gap_1m", "value", 1.0, 1.01),
        ("gap_ratio", "ratio", 1.2, 1.21),
        ("snapshot", "ratio", 0.4, 0.39),
        ("memory", "value", 400.0, 400.1),
        ("join_ratio", "ratio", 1.2, 1.21),
    ],
)
def test_a_budget_is_kept_up_to_its_edge(
    name: str, figure: str, good: float, bad: float
) -> None:
    other = {"value": 0.0, "ratio": 0.0, "floor": 0.0}
    assert holds(name, other | {figure: good}) is True
    assert holds(name, other | {figure: bad}) is False
    assert holds(name, other | {figure: "fast"}) is False


def test_what_has_no_budget_is_not_judged() -> None:
    assert holds("cost", FIGURES["cost"]) is None


def test_figures_of_two_releases_side_by_side(tmp_path: Path) -> None:
    before = written(tmp_path, "0.1.0.json", FIGURES | {"votes": FIGURES["exec"]})
    now = {
        **FIGURES,
        "exec": FIGURES["exec"] | {"ratio": 0.5},
        "memory": FIGURES["memory"] | {"value": 100.0},
        "relay": FIGURES["exec"] | {"ratio": 0.9},
    }
    done = run("--from", written(tmp_path, "now.json", now), "--against", before)
    assert done.exit_code == 0, done.output
    lines = {line.split()[1]: line for line in done.output.splitlines() if "│" in line}
    assert all(
        word in lines["exec"] for word in ("0.75", "0.50", "-33%", "≥ 0.60", "NO")
    )
    assert all(word in lines["memory"] for word in ("200", "100", "-50%", "yes"))
    assert all(word in lines["relay"] for word in ("—", "0.90", "yes"))
    assert "+0%" in lines["gap_ratio"]
    assert "not run" in lines["votes"]
    assert "out of budget: exec" in done.output


def test_all_budgets_kept_is_said(tmp_path: Path) -> None:
    file = written(tmp_path, "now.json", FIGURES)
    done = run("--from", file, "--against", file)
    assert "budgets hold" in done.output
    assert run("--from", file).output.count("yes") == 3


def test_json_is_what_is_compared_with(tmp_path: Path) -> None:
    file = written(tmp_path, "now.json", FIGURES)
    done = run("--from", file, "--json")
    assert parse_results(done.output.encode(), "it") == FIGURES


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"exec": 1}',
        b'{"exec": {"value": 1}}',
        b'{"exec": {"value": 1, "floor": 1, "ratio": "good"}}',
        b'{"exec": {"value": [1], "floor": 1, "ratio": 1}}',
        b'{"a":' * 2000,
    ],
)
def test_a_file_of_something_else_is_refused_by_name(
    tmp_path: Path, raw: bytes
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(raw)
    with pytest.raises(BenchFileError):
        read_results(path)
    done = run("--from", str(path))
    assert isinstance(done.exception, BenchFileError)
    with pytest.raises(BenchFileError):
        read_results(tmp_path / "none.json")


def test_a_comparison_is_not_left_out_in_silence(tmp_path: Path) -> None:
    file = written(tmp_path, "now.json", FIGURES)
    done = run("--from", file, "--against", file, "--json")
    assert isinstance(done.exception, BenchError)
    assert "compares none" in str(done.exception)


@pytest.mark.parametrize(
    "words", [("--all", "--only", "exec"), ("--all", "--from", "x"), ()]
)
def test_names_all_and_a_file_exclude_each_other(words: tuple[str, ...]) -> None:
    done = run(*(words or ("--only", "exec", "--from", "x")))
    assert "exclude each other" in str(done.exception)


def test_benchmarks_of_state_at_size_do_what_they_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiny ones: each ends by itself if roots differ, calls are lost or XYZ is."""
    monkeypatch.setattr(_bench_gap, "BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(_bench_gap, "_ROUNDS", 2)
    monkeypatch.setattr(_bench_join, "_ROUNDS", 1)
    monkeypatch.setattr(_bench_snapshot, "_ROUNDS", 2)
    gap = _bench_gap.bench_gap(60)
    assert gap["unit"] == "blocks"
    assert gap["worst_ms"] > gap["block_ms"]
    many = _bench_gap.bench_gap_ratio(few=60, many=60)
    assert many["value"] == many["ratio"] == 1.0  # measured once for each number
    join = _bench_join.bench_join_ratio(few=3, many=6, accounts=60)
    assert join["value"] == join["ratio"] > 0
    assert _bench_join.bench_catchup(blocks=5, accounts=60)["value"] > 0
    assert _bench_snapshot.bench_snapshot(accounts=60)["size_mib"] > 0
    assert _bench_snapshot.bench_memory(accounts=60)["floor"] > 0


def test_figures_that_are_kept_are_figures_and_named_by_a_version() -> None:
    for file in sorted((ROOT / "benches").glob("*.json")):
        assert re.fullmatch(r"\d+\.\d+\.\d+", file.stem)
        found = read_results(file)
        assert set(found) <= set(NAMES), file.name
        comparison_table(found, found, than=file.name)
