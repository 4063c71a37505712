"""Worlds with a history, made once; tests read them and never go on with them."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sealift.frame import Runtime
from sealift.testing import World

ROOT = Path(__file__).resolve().parents[2]


def _auction(version: int) -> ModuleType:
    name = f"evidence_auction_v{version}"
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
    return _auction(1).runtime


@pytest.fixture(scope="session")
def v2() -> Runtime:
    return _auction(2).runtime


@pytest.fixture(scope="session")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """``new_world(**options)``: a world of its own."""

    def make(**options: object) -> World:
        return World(tmp_path_factory.mktemp("world") / "intel", **options)

    return make


@pytest.fixture(scope="session")
def upgraded(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    """Born, upgraded by a key, handed over, confirmed by the new generation."""
    world = new_world()
    old = world.begin(world.release(v1))
    world.blocks(4)
    entry = world.schedule(world.release(v2))
    world.run_until(entry.release_from)
    new = world.worker("new", world.releases[1], upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at + 8)
    return world
