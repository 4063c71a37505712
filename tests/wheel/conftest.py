"""The wheel, built and installed as a user does, far from the sources."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """The user's, without what would lead Python back to the sources."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COV", "PYTEST", "VIRTUAL_ENV", "SEALIFT"))
    }


def run_there(
    *command: str | Path, cwd: Path, timeout: float = 900, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(),
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by hatchling as pinned, without an isolated environment."""
    out = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    flags = ["--no-deps", "--no-build-isolation", "--quiet"]
    run_there(*pip, "wheel", *flags, "--wheel-dir", out, ROOT, cwd=out)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh venv that holds the locked packages and the wheel."""
    home = tmp_path_factory.mktemp("user")
    run_there(sys.executable, "-m", "venv", home / "venv", cwd=home)
    programs = home / "venv" / "bin"
    pip = [programs / "pip", "--disable-pip-version-check", "install", "--quiet"]
    lock = ROOT / "requirements" / "run.txt"
    run_there(*pip, "--require-hashes", "-r", lock, cwd=home)
    run_there(*pip, "--no-deps", wheel, cwd=home)
    return programs


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder without anything in it, to work in."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command; its exit code must be ``code``."""
    return run_there
