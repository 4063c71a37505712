"""A demo as a process, and what it has started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SEALIFT = (sys.executable, "-m", "sealift")
#: A demo of this size suits a busy machine.
SMALL = ("--accounts", "60", "--rate", "6", "--block-ms", "500")
SECONDS = 600


def run(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A command of Sealift that ends by itself."""
    return subprocess.run(
        [*SEALIFT, *words], capture_output=True, text=True, timeout=timeout, check=False
    )


def report_of(folder: Path, *words: str) -> dict[str, Any]:
    """A small demo's report; nothing that it started outlives it, whatever happens."""
    child = subprocess.Popen(
        [*SEALIFT, "demo", "--json", *words, *SMALL],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGTERM)  # it stops its own processes
        out, err = child.communicate(timeout=60)
    assert child.returncode == 0, (out, err)
    found: dict[str, Any] = json.loads(out)
    return found


def living(folder: Path) -> list[int]:
    """Processes, other than this one, that were started for something in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if str(folder).encode() in line and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found
