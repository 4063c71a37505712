"""Specimens by release; every test works on a copy."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from revived import Specimen

from sealift.frame import Runtime

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RELEASES = sorted(
    path.name for path in HERE.iterdir() if (path / "specimen.json").is_file()
)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Of each release there is a specimen of."""
    return request.param


@pytest.fixture
def specimen(release: str, tmp_path: Path) -> Specimen:
    """A copy of a release's specimen: what opens it may write to it."""
    return Specimen.copy(HERE / release, tmp_path / "specimen")


@pytest.fixture(scope="session")
def v1() -> Runtime:
    """Version 1 of the example, as a runtime in this process."""
    name = "specimen_auction_v1"
    if name not in sys.modules:
        file = ROOT / "examples/auction/v1/app/auction/__init__.py"
        spec = importlib.util.spec_from_file_location(
            name, file, submodule_search_locations=[str(file.parent)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
    found: Runtime = importlib.import_module(f"{name}.runtime").runtime
    return found
