"""The auction's two versions, side by side in one process."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, file: Path) -> ModuleType:
    """A module or package from a path, under a name of its own."""
    if name in sys.modules:
        return sys.modules[name]
    search = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=search
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_auction(version: int) -> ModuleType:
    """``runtime`` module of a version, which its bundle names ``auction.runtime``."""
    name = f"auction_v{version}"
    folder = ROOT / "examples" / "auction" / f"v{version}" / "app" / "auction"
    load(name, folder / "__init__.py")
    return importlib.import_module(f"{name}.runtime")


@pytest.fixture(scope="session")
def v1() -> ModuleType:
    """``auction.runtime`` of version 1."""
    return load_auction(1)


@pytest.fixture(scope="session")
def v2() -> ModuleType:
    """``auction.runtime`` of version 2."""
    return load_auction(2)


@pytest.fixture
def make_shard() -> Callable[..., Any]:
    """``make_shard(runtime)``: a shard in memory, as in the tests of ``stf``."""
    return load("stf_world", ROOT / "tests" / "stf" / "conftest.py").World
