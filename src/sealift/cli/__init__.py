"""The command line: parse, call, print."""

from ._errors import EXIT_CODES, exit_code, exit_code_of
from ._main import COMMANDS, main, run_cli, sealift

__all__ = [
    "COMMANDS",
    "EXIT_CODES",
    "exit_code",
    "exit_code_of",
    "main",
    "run_cli",
    "sealift",
]
