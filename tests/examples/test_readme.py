"""What the examples' README shows is true."""

import ast
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALLOWED = {
    "sealift.base",
    "sealift.frame",
    "sealift.stf",
    "msgspec",
    "typing",
    "collections.abc",
}


@pytest.fixture(scope="module")
def listings() -> ModuleType:
    """All Python of the README, as one module."""
    text = (EXAMPLES / "README.md").read_text()
    source = "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    module = ModuleType("readme_notes")
    sys.modules["readme_notes"] = module
    exec(compile(source, "examples/README.md", "exec"), module.__dict__)
    return module


def test_the_notes_of_the_readme_survive_their_upgrade(
    listings: ModuleType, make_shard: Callable[..., Any]
) -> None:
    shard = make_shard(listings.runtime)
    alice, bob = shard.alice, shard.bob
    assert shard.outcomes(
        shard.sealed(alice, "notes.write", text="buy milk"),
        shard.sealed(bob, "notes.tear_up"),
    ) == ["ok", "NoNoteError"]

    def mine(who: Any) -> Any:
        return msgspec.msgpack.decode(shard.ask(who, "notes.mine"))

    assert (mine(alice), mine(bob)) == ("buy milk", None)
    shard.upgrade(listings.runtime_v2)
    shard.run()
    shard.restart()
    assert (mine(alice), mine(bob)) == ("buy milk", None)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_auction_imports_only_what_an_application_may(version: str) -> None:
    for path in (EXAMPLES / "auction" / version / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= ALLOWED, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module in ALLOWED, path


@pytest.mark.parametrize(("version", "number"), [("v1", 1), ("v2", 2)])
def test_sealift_toml_names_a_runtime_that_is_there(
    request: pytest.FixtureRequest, version: str, number: int
) -> None:
    project = tomllib.loads(
        (EXAMPLES / "auction" / version / "sealift.toml").read_text()
    )
    assert project["runtime"] == "auction.runtime:runtime"
    assert (project["name"], project["isv_svn"]) == ("auction", number)
    runtime = request.getfixturevalue(version).runtime
    assert (runtime.name, runtime.version) == ("auction", number)


def test_the_metadata_of_both_versions_can_be_made(
    v1: ModuleType, v2: ModuleType
) -> None:
    assert v1.runtime.metadata().digest() != v2.runtime.metadata().digest()
