"""The CometBFT binary of the pinned version, and a chain with our ledger."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from comet import Homes, make_homes

from sealift.node.cometbft import (
    ENGINE_MODULE,
    ENGINE_VERSION,
    EngineMissingError,
    EngineVersionError,
    find_engine,
)

TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"


@pytest.fixture(scope="session")
def comet_binary() -> Path:
    """The one that users run; as `make cometbft` does, built if there is none."""
    try:
        return find_engine(os.environ).path
    except (EngineMissingError, EngineVersionError) as error:
        if shutil.which("go") is None:
            pytest.fail(f"{error} There is no go to build it, either.")
    TOOLS.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["go", "install", f"{ENGINE_MODULE}@v{ENGINE_VERSION}"],
        check=False,
        env=os.environ | {"CGO_ENABLED": "0", "GOBIN": str(TOOLS)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    if built.returncode:
        pytest.fail(f"go install {ENGINE_MODULE} failed:\n{built.stderr[-2000:]}")
    return find_engine(os.environ).path


@pytest.fixture
def homes(comet_binary: Path) -> Iterator[Homes]:
    """In a folder with a short name: a unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="slc-") as folder:
        yield make_homes(Path(folder), comet_binary)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the validators were parted by: names of passed tests are not shown."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            if "::test_a_partition" in report.nodeid:
                wire = report.nodeid.partition("[")[2].removesuffix("]")
                terminalreporter.write_line(f"partition by {wire}: {outcome}")
