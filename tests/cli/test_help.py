"""The help is documentation: complete, and true."""

import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest

from sealift.cli import COMMANDS
from sealift.cli import sealift as program

#: What ends by being asked to, or writes a file that is its own answer.
SILENT = {
    "chain start", "chain trust-root", "worker run", "node cometbft", "node abci",
    "testnet up", "testnet logs", "insecure-sim pccs", "dev",
}  # fmt: skip
#: Others' commands, with tests of their own.
ELSEWHERE = {"demo", "bench"}


def _tree(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if name not in ELSEWHERE:
                yield from _tree(inner, (*path, name))
    else:
        yield " ".join(path), command


ALL = dict(_tree(program))


def test_the_commands_are_those_we_promise() -> None:
    groups: dict[str, set[str]] = {}
    for path in ALL:
        group, _, name = path.partition(" ")
        groups.setdefault(group, set()).add(name)
    assert groups == {
        "app": {"new", "check"},
        "dev": {""},
        "build": {""},
        "sign": {""},
        "measure": {""},
        "inspect": {""},
        "chain": {
            "init", "set-code", "set-validator", "start", "status", "trust-root",
            "validators",
        },
        "worker": {
            "init", "run", "request-keys", "join", "stage", "shielding-key",
            "signing-key", "mrenclave", "status", "check", "dump-ra",
        },
        "snapshot": {"create", "list", "verify", "fetch", "prune"},
        "client": {
            "new-account", "faucet", "shield", "unshield", "transfer", "balance",
            "call", "nonce", "ask", "list-workers",
        },
        "shard": {"create", "card", "status"},
        "gov": {
            "schedule", "cancel", "postpone", "rules", "rehearsals", "withdraw",
            "rotate-keys", "status", "history", "sign", "submit", "propose", "vote",
            "tally", "forecast", "review",
        },
        "node": {"engine", "init", "cometbft", "abci"},
        "testnet": {"up", "status", "down", "logs"},
        "insecure-sim": {"init", "pccs", "platform", "tcb-recovery", "revoke"},
        "gramine": {"fingerprint", "manifest"},
        "attest": {"verify"},
        "relay": {"evidence", "verify"},
        "evidence": {"export", "verify"},
        "audit": {""},
        "chaos": {""},
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_an_example_that_parses(path: str) -> None:
    """Each line of an example is a command line that exists, options and all."""
    text = (ALL[path].help or "").replace("\\\n", " ")
    assert "Example" in text, path
    examples = [
        line.strip().removeprefix("*/5 * * * *").strip()
        for line in text.partition("Example")[2].splitlines()
        if "sealift " in line
    ]
    assert any(example.startswith(f"sealift {path}") for example in examples)
    for example in examples:
        words = shlex.split(example.partition("||")[0])[1:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in ALL else words[0]
        command = ALL[name]
        rest = words[len(name.split()) :]
        rest = [word.replace("…", "0") for word in rest]
        files = [
            param for param in command.params if isinstance(param.type, click.Path)
        ]
        assert files is not None
        parser = command.make_parser(click.Context(command))
        parser.parse_args(list(rest))


@pytest.mark.parametrize("path", sorted(set(ALL) - SILENT))
def test_every_command_that_answers_answers_in_json(path: str) -> None:
    assert any("--json" in param.opts for param in ALL[path].params), path


@pytest.mark.parametrize("path", ALL)
def test_help_can_be_shown(path: str, sealift: Any) -> None:
    said = sealift(*path.split(), "--help")
    assert said.code == 0
    assert "Usage: sealift" in said.out
    assert "\\b" not in said.out


def test_the_first_page_imports_nothing_and_is_true(sealift: Any) -> None:
    said = sealift("--help")
    assert said.code == 0
    for name, (_, _, line) in COMMANDS.items():
        if name not in ELSEWHERE:
            assert name in said.out
            assert line in " ".join(said.out.split())


def test_the_version(sealift: Any) -> None:
    assert sealift("--version").out.startswith("sealift, version ")
