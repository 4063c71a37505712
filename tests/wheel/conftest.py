"""The wheel, built and installed as a user does, far from the sources."""

import os
import re
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


def readme_commands(program: str) -> list[list[str]]:
    """How the README says to install, word by word."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^\$ {program} (.+)$", text, re.MULTILINE)
    return [line.split() for line in found]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh venv with the locked packages and the wheel.

    The README's three commands, in the checkout; the wheel goes elsewhere.
    """
    home = tmp_path_factory.mktemp("user")
    run_there(sys.executable, "-m", "venv", home / "venv", cwd=home)
    programs = home / "venv" / "bin"
    pip = [programs / "pip", "--disable-pip-version-check"]
    for words in readme_commands("pip"):
        there = [re.sub(r"^dist\b", str(home / "dist"), word) for word in words]
        run_there(*pip, *there, cwd=ROOT)
    return programs


@pytest.fixture(scope="session")
def wheel(installed: Path) -> Path:
    """The wheel, built by hatchling as pinned, without an isolated environment."""
    (found,) = (installed.parent.parent / "dist").glob("*.whl")
    return found


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
