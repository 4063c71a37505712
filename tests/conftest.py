"""What every test may use."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of external vectors; required where ``CI`` is set."""
    folder = Path(os.environ.get("SEALIFT_VECTORS", ROOT.parent / "shared" / "vectors"))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"external vectors are required in CI, and {folder} is absent")
        pytest.skip(f"external vectors are absent: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Where a program is; without it a test is skipped, but in CI it fails."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None and os.environ.get("CI"):
            pytest.fail(f"{name} is required in CI and not on PATH")
        if found is None:
            pytest.skip(f"{name} is not on PATH")
        return found

    return find
