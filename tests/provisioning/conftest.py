"""The world of :mod:`mura_world`, with one instance of either generation."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("mura_world")  # its asserts count, also under -O

from mura_world import NEW, OLD, Node, Talk, World, epoch_keys  # noqa: E402 - its path is set above

from sealift.crypto import rsa_generate  # noqa: E402 - stands behind the former


@pytest.fixture(scope="session")
def vendor() -> bytes:
    return rsa_generate()


@pytest.fixture
def world(tmp_path: Path, vendor: bytes) -> World:
    return World(tmp_path / "intel", vendor)


@pytest.fixture
def provider(world: World) -> Node:
    """An instance of generation 0 that holds the keys of epoch 0."""
    node = Node(world, "provider", OLD, epochs=(epoch_keys(0),))
    world.register(node, node.register().statement)
    return node


@pytest.fixture
def requester(world: World) -> Node:
    """An instance of generation 1, whose notice has run."""
    return Node(world, "requester", NEW)


@pytest.fixture
def talk(world: World, provider: Node, requester: Node) -> Talk:
    return Talk(world, provider, requester)


@pytest.fixture
def node(world: World) -> Callable[..., Node]:
    """``node(name, code, …)``: one more instance."""

    def make(name: str, code: bytes, **options: Any) -> Node:
        return Node(world, name, code, **options)

    return make
