"""Run a program that is asked to end when its parent dies, however it dies.

``leashed(argv)`` gives the command line. This file is also the program that runs
in between: it ties itself to its parent (prctl(2), PR_SET_PDEATHSIG) and becomes
the program. It needs nothing but Python's own library.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SET_PDEATHSIG: Final = 1
_WORDS: Final = 3


def leashed(argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` on a leash held by this process.

    The leash is held by the thread that starts it; start it from the main one.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def _become(parent: int, argv: Sequence[str]) -> None:
    """Replace this process by the program; returns only if it cannot.

    Raises:
        OSError: There is no such program.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        return  # it died before the leash was tied
    os.execvp(argv[0], list(argv))  # noqa: S606 - a program, never a shell


if __name__ == "__main__":
    if len(sys.argv) < _WORDS:
        sys.exit("leash.py PARENT PROGRAM [ARGUMENT …]")
    try:
        _become(int(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.exit(f"{Path(sys.argv[2]).name} cannot be started ({error.strerror})")
