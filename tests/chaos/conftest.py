"""``--campaign-runs``, ``-swaps`` and ``-seed``: how long, and which campaign."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "explorer"))

from sealift.cli._chaos_ground import Ground, make_ground
from sealift.transport.clock import WallClock

RUNS = 6
SWAPS = 4
SEED = 20261123


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("campaign")
    group.addoption("--campaign-runs", type=int, default=RUNS)
    group.addoption("--campaign-swaps", type=int, default=SWAPS)
    group.addoption("--campaign-seed", type=int, default=SEED)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, option, few in (
        ("seed", "--campaign-runs", RUNS),
        ("swap_seed", "--campaign-swaps", SWAPS),
    ):
        if name in metafunc.fixturenames:
            # Not known where this folder is not named on the command line.
            runs = metafunc.config.getoption(option, default=few)
            first = metafunc.config.getoption("--campaign-seed", default=SEED)
            metafunc.parametrize(name, range(first, first + runs))


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """What the runs have in common: vendor, bundles, a chain, a shard with business."""
    folder = tmp_path_factory.mktemp("ground") / "ground"
    return asyncio.run(make_ground(folder, WallClock(), block_ms=250))
