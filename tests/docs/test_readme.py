"""Every command of the README runs, in order, and the tour names all there are."""

import json
import re
import shutil
import sys
from pathlib import Path

import click
import pytest
from console import commands_of, sandbox

from sealift import __version__
from sealift.cli._main import sealift

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = commands_of(README)
MAKE = [command for command in COMMANDS if command.startswith("make ")]
#: Run by tests/wheel, in a venv of their own.
PIP = [command for command in COMMANDS if command.startswith("pip ")]
OTHERS = [command for command in COMMANDS if command not in (*MAKE, *PIP)]


def leaves(node: click.Command, path: str) -> set[str]:
    """Every command below one, as it is typed."""
    if not isinstance(node, click.Group):
        return {path}
    found = set()
    context = click.Context(node)
    for name in node.list_commands(context):
        inner = node.get_command(context, name)
        assert inner is not None, name
        found |= leaves(inner, f"{path} {name}")
    return found


def makefile() -> dict[str, tuple[str, str]]:
    """Targets of the Makefile: what they need, and what they do."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):([^\n=]*)\n((?:\t[^\n]*\n)*)", text, re.MULTILINE)
    return {name: (needs, recipe) for name, needs, recipe in found}


def test_the_two_commands_are_there() -> None:
    assert MAKE == ["make demo", "make test"]
    targets = makefile()
    assert "sealift demo $(ARGS)" in targets["demo"][1]
    needs = targets["test"][0].split()
    assert {"lint", "types", "unit", "wheel-test"} <= set(needs)
    assert set(needs) <= set(targets)
    for need in needs:
        assert targets[need][1].strip(), need


def test_the_wheel_is_installed_as_the_readme_says() -> None:
    """The wheel tests take their commands from here, so there must be some."""
    assert len(PIP) == 3
    assert f"sealift-{__version__}-" in PIP[-1]


def test_ci_runs_what_the_readme_says() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_tour_names_every_command_and_no_other() -> None:
    tour = README.split("## The command line")[1].split("\n## ")[0]
    named = re.findall(r"`(sealift [^`]+)`", tour)
    assert len(set(named)) == len(named)
    assert set(named) == leaves(sealift, "sealift")


def test_every_block_is_a_console_block() -> None:
    """What looks like a command is one, and is run."""
    fences = re.findall(r"^```(\w*)$", README, re.MULTILINE)[::2]
    assert set(fences) <= {"console", ""}
    assert len(OTHERS) > 20


@pytest.mark.process
@pytest.mark.timeout(900)
def test_every_command_runs_in_order(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    programs = Path(sys.executable).parent
    said: dict[str, str] = {}
    with sandbox(tmp_path, programs, sealift) as world:
        for command in OTHERS:
            said[command] = world.run(command)
        card = "--card card2.json --json"
        status = json.loads(world.run(f"sealift shard status {card}"))
        alice = json.loads(world.run(f"sealift client balance --key alice.json {card}"))
    assert status["generation"] == 1
    told = set(re.findall(r"`([\w.<>*/-]+)`", FILES))
    for home in ("old", "new", "chain", "sim"):
        left = {path.name for path in (tmp_path / home).iterdir()}
        named = {name.split("/")[0] for name in told}
        assert left <= named, home
    assert alice["balance"] == 800
