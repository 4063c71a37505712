"""Attacks on the trusted side, told to a whole world or to one part of it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from notebook import runtime

from sealift.testing import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world whose shard runs the notebook on the worker ``old``."""
    world = World(tmp_path)
    world.begin(world.release(runtime()))
    return world
