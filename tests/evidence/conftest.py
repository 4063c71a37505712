"""Worlds with a history, made once; tests read them and never go on with them."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from histories import (
    HOSTS,
    STAKE,
    holders_upgrade,
    hosts_upgrade,
    key_then_holders,
    key_upgrades,
    vendor_upgrades,
    vulnerability_day,
)

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


# --- histories of real enclaves (histories.py) ---


@pytest.fixture(scope="session")
def key_history(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    world = new_world()
    key_upgrades(world, v1, v2)
    return world


@pytest.fixture(scope="session")
def holders_history(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    world = new_world(rules={"authority": STAKE, "effects_quorum": 2})
    holders_upgrade(world, v1, v2)
    return world


@pytest.fixture(scope="session")
def few_history(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    world = new_world()
    key_then_holders(world, v1, v2)
    return world


@pytest.fixture(scope="session")
def hosts_history(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    world = new_world(rules={"authority": HOSTS})
    hosts_upgrade(world, v1, v2)
    return world


@pytest.fixture(scope="session")
def vendor_history(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    world = new_world()
    vendor_upgrades(world, v1, v2)
    return world


@pytest.fixture(scope="session")
def day_history(new_world: Callable[..., World], v1: Runtime, v2: Runtime) -> World:
    world = new_world()
    vulnerability_day(world, v1, v2)
    return world
