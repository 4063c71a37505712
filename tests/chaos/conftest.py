"""``--campaign-runs N`` and ``--campaign-seed S``: how long, and which campaign."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "explorer"))

from sealift.cli._chaos_ground import Ground, make_ground
from sealift.transport.clock import WallClock

RUNS = 10
SEED = 20261123


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("campaign")
    group.addoption("--campaign-runs", type=int, default=RUNS)
    group.addoption("--campaign-seed", type=int, default=SEED)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        # Not known where this folder is not named on the command line.
        runs = metafunc.config.getoption("--campaign-runs", default=RUNS)
        first = metafunc.config.getoption("--campaign-seed", default=SEED)
        metafunc.parametrize("seed", range(first, first + runs))


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """What the runs have in common: vendor, bundles, a chain, a shard with business."""
    folder = tmp_path_factory.mktemp("ground") / "ground"
    return asyncio.run(make_ground(folder, WallClock(), block_ms=250))
