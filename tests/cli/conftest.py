"""The command line in this process: what it says, and with which exit code."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealift.cli import run_cli

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

from shard_world import Thread, World


@dataclass(frozen=True)
class Said:
    """Exit code, stdout and stderr of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


Sealift = Callable[..., Said]


@pytest.fixture
def sealift(capsys: pytest.CaptureFixture[str]) -> Sealift:
    """``sealift("chain", "status", …)``."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = run_cli([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(code=code, out=out, err=err)

    return call


@pytest.fixture(scope="session")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thread]:
    made = Thread(tmp_path_factory.mktemp("cli-world"))
    yield made
    made.close()


@pytest.fixture
def world(thread: Thread) -> Iterator[World]:
    yield thread.world
    thread.world.enclave.lies.clear()
    thread.world.enclave.confirm = True
