"""What every test may use."""

import os
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
