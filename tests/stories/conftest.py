"""Stories: the auction of ``examples/`` in a world of one process."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from story import History, Story

from sealift.frame import Runtime
from sealift.testing import World

ROOT = Path(__file__).resolve().parents[2]


def _auction(version: int) -> ModuleType:
    """``auction.runtime`` of a version; both live side by side here."""
    name = f"story_auction_v{version}"
    if name not in sys.modules:
        file = ROOT / f"examples/auction/v{version}/app/auction/__init__.py"
        spec = importlib.util.spec_from_file_location(
            name, file, submodule_search_locations=[str(file.parent)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{name}.runtime")


@pytest.fixture(scope="session")
def v1() -> Runtime:
    """Version 1 of the auction."""
    return _auction(1).runtime


@pytest.fixture(scope="session")
def v2() -> Runtime:
    """Version 2: another layout, a migration."""
    return _auction(2).runtime


@pytest.fixture
def new_story(tmp_path: Path, v1: Runtime, v2: Runtime) -> Callable[..., Story]:
    """``new_story(**options)``: a world with a born shard; one per call."""
    count = 0

    def make(*, operators: tuple[str, ...] = (), **options: object) -> Story:
        nonlocal count
        count += 1
        world = World(tmp_path / f"world-{count}", **options)
        return Story(world, v1, v2, operators=operators)

    return make


@pytest.fixture
def story(new_story: Callable[..., Story]) -> Story:
    """A world whose shard runs version 1 of the auction, with bids in it."""
    return new_story()


@pytest.fixture(scope="session")
def history(
    tmp_path_factory: pytest.TempPathFactory, v1: Runtime, v2: Runtime
) -> History:
    """A handover that went well; tests replay it and must not go on with it."""
    folder = tmp_path_factory.mktemp("history")
    return History(Story(World(folder / "world"), v1, v2))
