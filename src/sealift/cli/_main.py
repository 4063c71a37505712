"""``sealift``: finds the command, runs it, turns what happens into an exit code."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import click

from sealift import __version__
from sealift.base import InvariantError, SealiftError

from ._errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    exit_code,
    show_bug,
    show_refusal,
)

#: Commands, where they live, and a line on each; a module is imported when its
#: command is used.
COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "app": ("_app", "app", "Begin an application, and check it before a release."),
    "dev": ("_dev", "dev", "Run an application while you edit it; upgrade it live."),
    "build": ("_build", "build", "Build the measured bundle of an application."),
    "sign": ("_build", "sign", "Sign a bundle as its vendor, here or offline."),
    "measure": ("_build", "measure_command", "Print the MRENCLAVE of a bundle."),
    "inspect": ("_build", "inspect", "Say what a bundle says about itself."),
    "chain": ("_chain", "chain", "The embedded L1 chain: one key orders it."),
    "node": ("_node", "node", "A node of CometBFT with the ledger behind it."),
    "testnet": ("_testnet", "testnet", "A local network: validators and workers."),
    "insecure-sim": ("_sim", "insecure_sim", "The simulated platform; no protection."),
    "gramine": ("_gramine", "gramine", "A bundle as Gramine starts it, on SGX."),
    "shard": ("_shard", "shard", "Shards: confidential state machines on L1."),
    "worker": ("_worker", "worker", "Run an enclave of a shard, and look after it."),
    "snapshot": (
        "_snapshot",
        "snapshot",
        "A shard's state on disk, in sealed chunks.",
    ),
    "client": ("_client", "client", "Use a shard: sealed calls, signed reads, funds."),
    "gov": ("_gov", "gov", "Decide what code runs next, and see what was decided."),
    "attest": ("_attest", "attest", "Judge attestation evidence."),
    "relay": ("_relay", "relay", "The chain relay's verdict on single headers."),
    "evidence": ("_evidence", "evidence", "A shard's lineage, verified offline."),
    "audit": ("_audit", "audit", "Replay all blocks by the code that ran them."),
    "demo": ("_demo", "demo", "An upgrade under load, with real processes."),
    "chaos": ("_chaos", "chaos", "Handovers under kill -9: nothing may be lost."),
    "bench": ("_bench", "bench", "Measure the budgets, as ratios in one run."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those that this installation has."""
        del ctx
        return [name for name in COMMANDS if _installed(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        del ctx
        if cmd_name not in COMMANDS or not _installed(cmd_name):
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(f"sealift.cli.{module}"), attribute)
        if not isinstance(found, click.Command):
            raise InvariantError("not a command", got=cmd_name)
        _keep_examples(found)
        return found

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """One line for each command, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, COMMANDS[name][2]) for name in self.list_commands(ctx)]
            )


def _installed(name: str) -> bool:
    module = f"sealift.cli.{COMMANDS[name][0]}"
    return importlib.util.find_spec(module) is not None


@click.command(cls=LazyGroup)
@click.version_option(__version__, prog_name="sealift")
def sealift() -> None:
    r"""Confidential applications whose enclave code can change.

    \b
    A first look, all on this machine:
      sealift demo

    Exit codes: 0 done, 1 refused, 2 wrong usage, 3 unreachable or not in time,
    4 file or disk, 70 a bug, 130 Ctrl-C. SEALIFT_DEBUG=1 shows tracebacks.
    """


def _keep_examples(command: click.Command) -> None:
    """Docstrings are raw: let click see the mark before what must not be wrapped."""
    if command.help:
        command.help = command.help.replace("\\b\n", "\b\n")
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _keep_examples(inner)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Raises nothing of its own.

    Args:
        arguments: The words after the program's name.
    """
    try:
        returned = sealift.main(
            args=list(arguments), prog_name="sealift", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("sealift: interrupted", err=True)
        return EXIT_INTERRUPTED
    except InvariantError as error:
        show_bug(error)
        return EXIT_BUG
    except SealiftError as error:
        show_refusal(error, as_json="--json" in arguments)
        return exit_code(error)
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - the outermost edge says "a bug"
        show_bug(error)
        return EXIT_BUG
    return returned if isinstance(returned, int) else EXIT_OK


def main() -> NoReturn:
    """The entry point of the program ``sealift``."""
    _keep_examples(sealift)
    sys.exit(run_cli(sys.argv[1:]))


def _forget_stdout() -> None:
    """Whoever read our output has gone: nothing more can be said to him."""
    sys.stdout = None
