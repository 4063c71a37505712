"""A chain, a shard and a worker for the client's tests."""

import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from shard_world import Thread, World


@pytest.fixture(scope="session")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thread]:
    made = Thread(tmp_path_factory.mktemp("shard-world"))
    yield made
    made.close()


@pytest.fixture
def world(thread: Thread) -> Iterator[World]:
    yield thread.world
    thread.world.enclave.lies.clear()
    thread.world.enclave.confirm = True


@pytest.fixture
def play(thread: Thread) -> Callable[[Awaitable[Any]], Any]:
    """``play(coroutine)``: run it in the world."""
    return thread.play
