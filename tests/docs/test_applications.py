"""The page for authors is true: its listings run, its tables are the code's."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
from console import commands_of

from sealift.base import decode, encode
from sealift.cli import _app_check, _app_layout
from sealift.cli import sealift as program
from sealift.cli._app_layout import Comparison, Places
from sealift.cli._app_rules import RULES
from sealift.cli._app_source import judge_sources
from sealift.frame import RuntimeMetadata

PAGE = Path(__file__).parents[2] / "docs" / "applications.md"
TEXT = PAGE.read_text(encoding="utf-8")
SOURCE = "\n\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
TESTS = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def listings() -> ModuleType:
    """All Python of the page, as one module."""
    module = ModuleType("applications_page")
    sys.modules["applications_page"] = module
    exec(compile(SOURCE, str(PAGE), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", TESTS)
def test_every_test_of_the_page_passes(
    listings: ModuleType, tmp_path: Path, name: str
) -> None:
    test: Callable[[Path], None] = getattr(listings, name)
    test(tmp_path)


def test_there_are_tests_on_the_page() -> None:
    assert len(TESTS) == 3


def test_the_listings_pass_the_check() -> None:
    """What an application may do; the tests around it may do more."""
    parts = [
        part
        for part in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
        if "Runtime(name=" in part and "def test_" not in part
    ]
    assert len(parts) == 2
    found = judge_sources({"points/pallet.py": "\n".join(parts).encode()})
    assert found == []


def table_below(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    part = TEXT.split(f"\n{heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", part, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


def test_the_tables_name_every_rule_and_no_other() -> None:
    assert table_below("## What is refused in the sources") == set(RULES)
    modules = (Path(one.__file__).read_text() for one in (_app_check, _app_layout))
    kinds = "call|error|event|getter|isv|migration|pallet|runtime|storage"
    named = set(re.findall(rf'"((?:{kinds})-[a-z]+)"', "\n".join(modules)))
    assert len(named) == 14
    assert table_below("## Upgrading it") == named


def test_the_second_version_follows_the_first(listings: ModuleType) -> None:
    old, new = (
        decode(RuntimeMetadata, encode(runtime.metadata()))
        for runtime in (listings.runtime, listings.runtime_v2)
    )
    places = Places(PAGE.parent, (), "points.runtime:runtime")
    asked = [
        _app_layout.AskedPallet(
            name=pallet.name,
            file="",
            kind="",
            storage_version=pallet.storage_version,
            migrates_from=None,
            migrates=pallet.name == "points",
        )
        for pallet in new.pallets
    ]
    assert Comparison(old, new, asked, places).findings() == []
    back = Comparison(new, old, asked, places).findings()
    assert {one.rule for one in back} == {"runtime-version", "storage-version"}


@pytest.mark.parametrize("command", commands_of(TEXT))
def test_every_command_of_the_page_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    node: click.Command | None = program
    while isinstance(node, click.Group):
        node = node.get_command(click.Context(node), words.pop(0))
    assert node is not None
    node.make_parser(click.Context(node)).parse_args(words)
