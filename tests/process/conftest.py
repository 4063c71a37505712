"""One stage is built for the session; every test gets a fresh copy of it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cast import copy_stage, make_template

from sealift.cli._demo_stage import Stage


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """What a stage has in common: vendor, bundles, the chain's first block."""
    return make_template(tmp_path_factory.mktemp("template") / "stage")


@pytest.fixture
def make_stage(template: Stage, tmp_path: Path) -> Callable[..., Stage]:
    """Fresh stages on which nothing has run."""
    count = iter(range(100))

    def make(**options: int) -> Stage:
        return copy_stage(template, tmp_path / f"stage{next(count)}", **options)

    return make


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    """A fresh stage."""
    return make_stage()
