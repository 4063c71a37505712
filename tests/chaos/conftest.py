"""``--campaign-runs N`` and ``--campaign-seed S``: how long, and which campaign."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "process"))

from cast import copy_stage, make_template

from sealift.cli._demo_stage import Stage

RUNS = 12
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
def template(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """What the runs have in common: vendor, bundles, the chain's first block."""
    return make_template(tmp_path_factory.mktemp("template") / "stage")


@pytest.fixture
def stage(template: Stage, tmp_path: Path) -> Stage:
    """A fresh stage on which nothing has run."""
    return copy_stage(template, tmp_path / "stage")
