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

VERSION = "0.38.25"
MODULE = "github.com/cometbft/cometbft/cmd/cometbft"
TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"


def version_of(binary: str | Path) -> str:
    asked = subprocess.run(
        [binary, "version"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return (asked.stdout + asked.stderr).strip()


@pytest.fixture(scope="session")
def comet_binary() -> Path:
    """On the PATH, kept from before, or fetched and built by the Go toolchain."""
    seen = []
    for found in (shutil.which("cometbft"), shutil.which("cometbft", path=TOOLS)):
        if found is not None:
            version = version_of(found)
            if version == VERSION:
                return Path(found)
            seen.append(f"{found} is {version}")
    if shutil.which("go") is None:
        got = "; ".join(seen) or "no cometbft"
        pytest.fail(f"CometBFT {VERSION} is needed: got {got}, and no go to build it")
    TOOLS.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["go", "install", f"{MODULE}@v{VERSION}"],
        check=False,
        env=os.environ | {"CGO_ENABLED": "0", "GOBIN": str(TOOLS)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    if built.returncode:
        pytest.fail(f"go install {MODULE}@v{VERSION} failed:\n{built.stderr[-2000:]}")
    version = version_of(TOOLS / "cometbft")
    if version != VERSION:
        pytest.fail(f"built CometBFT is {version}, expected {VERSION}")
    return TOOLS / "cometbft"


@pytest.fixture
def homes(comet_binary: Path) -> Iterator[Homes]:
    """In a folder with a short name: a unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="slc-") as folder:
        yield make_homes(Path(folder), comet_binary)
