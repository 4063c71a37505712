"""A world with one shard in it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# Their asserts count, also under -O.
pytest.register_assert_rewrite("enclave_world", "rotation_world", "snapshot_forge")

from enclave_world import World  # noqa: E402 - its path is set above


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def make_world() -> Callable[..., World]:
    return World
