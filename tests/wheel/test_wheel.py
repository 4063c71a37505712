"""What a user installs works without the sources at hand."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.wheel


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} <= {
        "sealift",
        next(n for n in names if n.endswith("/METADATA")).split("/")[0],
    }
    assert "sealift/py.typed" in names
    assert not [n for n in names if n.endswith((".pyc", ".pyo")) or "__pycache__" in n]
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "sealift").rglob("*.py")
    }
    packed = {n for n in names if n.endswith(".py") and "/_data/" not in n}
    assert packed == sources


def test_examples_and_the_enclaves_lock_are_package_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        lock = archive.read("sealift/_data/enclave.txt")
        packed = {
            name.removeprefix("sealift/_data/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("sealift/_data/examples/")
        }
    assert lock == (ROOT / "requirements" / "enclave.txt").read_bytes()
    for version in ("v1", "v2"):
        name = f"examples/auction/{version}/sealift.toml"
        assert packed[name] == (ROOT / name).read_bytes()
        name = f"examples/auction/{version}/app/auction/runtime.py"
        assert packed[name] == (ROOT / name).read_bytes()


def test_it_runs_from_where_it_was_installed(
    installed: Path, empty: Path, run: Run
) -> None:
    ask = "import sealift; print(sealift.__file__)"
    said = run(installed / "python", "-c", ask, cwd=empty).stdout.strip()
    assert Path(said).is_relative_to(installed.parent)


def test_its_dependencies_are_those_of_the_lock(
    installed: Path, empty: Path, run: Run
) -> None:
    run(installed / "pip", "check", cwd=empty)


def test_help_is_there(installed: Path, empty: Path, run: Run) -> None:
    said = run(installed / "sealift", "--help", cwd=empty).stdout
    assert "demo" in said
    assert run(installed / "sealift", "--version", cwd=empty).stdout.strip()
    run(installed / "python", "-m", "sealift", "--help", cwd=empty)


def test_a_refusal_has_its_exit_code(installed: Path, empty: Path, run: Run) -> None:
    done = run(installed / "sealift", "measure", "no-such.bundle", cwd=empty, code=4)
    assert "Traceback" not in done.stderr


def test_the_nine_steps_run_from_the_wheel(
    installed: Path, empty: Path, run: Run
) -> None:
    said = run(
        installed / "sealift",
        "demo",
        "--json",
        "--accounts",
        "50",
        "--rate",
        "5",
        cwd=empty,
        timeout=280,
    )
    report = json.loads(said.stdout)
    assert report["ok"] is True
    assert list(empty.iterdir()) == []


def test_a_handover_under_kill_9_runs_from_the_wheel(
    installed: Path, empty: Path, run: Run
) -> None:
    words = ["chaos", "--seed", "1", "--runs", "1", "--json"]
    said = run(installed / "sealift", *words, cwd=empty, timeout=280)
    found = json.loads(said.stdout)
    assert found["runs"] == 1
    assert sum(found["kills"].values()) >= 1
    assert found["violations"] == []
    assert list(empty.iterdir()) == []


def test_the_manifest_template_for_gramine_is_package_data(wheel: Path) -> None:
    name = "sealift.manifest.template"
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(f"sealift/_data/gramine/{name}")
    assert packed == (ROOT / "deploy" / "gramine" / name).read_bytes()
