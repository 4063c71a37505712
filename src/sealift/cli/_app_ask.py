"""An application's own word on itself, asked in a process of its own."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from sealift.base import SealiftError
from sealift.transport.leash import leashed

_PATIENCE: Final = 60.0
# Runs beside the application, never in the process that asks. What the
# application prints goes to stderr; the answer has the first stdout alone.
_QUESTION: Final = """
import importlib, inspect, json, os, sys, traceback
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.dont_write_bytecode = True
app, entry = sys.argv[1:3]
sys.path.insert(0, app)
from sealift.base import encode
from sealift.frame import Pallet

def place(error):
    if isinstance(error, SyntaxError):
        return error.filename or "", error.lineno or 1
    found = ("", 0)
    for frame in traceback.extract_tb(error.__traceback__):
        if os.path.abspath(frame.filename).startswith(app + os.sep):
            found = (frame.filename, frame.lineno or 1)
    return found

def describe(pallet):
    kind = type(pallet)
    try:
        file = inspect.getfile(kind)
    except (OSError, TypeError):
        file = ""
    hooks = ("on_runtime_upgrade", "migrate_step")
    hook = any(getattr(kind, h, None) is not getattr(Pallet, h, None) for h in hooks)
    return {
        "name": pallet.name, "file": file, "kind": kind.__qualname__,
        "storage_version": pallet.storage_version,
        "migrates_from": pallet.migrates_from,
        "migrates": hook or bool(getattr(kind, "record_migrations", ())),
    }

try:
    module, _, name = entry.partition(":")
    runtime = getattr(importlib.import_module(module), name)
    said = {
        "metadata": encode(runtime.metadata()).hex(),
        "pallets": [describe(pallet) for pallet in runtime.pallets],
    }
except BaseException as error:
    file, line = place(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said = {
        "error": type(error).__name__, "text": " ".join(text.split()),
        "file": file, "line": line,
    }
json.dump(said, answer)
answer.close()
"""


class ApplicationError(SealiftError):
    """An application's folder that no bundle can be made of."""


class AskedPallet(msgspec.Struct, frozen=True, kw_only=True):
    """A pallet of the runtime as its class says: where it stands, how it migrates."""

    name: str
    file: str
    kind: str
    storage_version: int
    migrates_from: int | None
    migrates: bool


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an application says about itself."""

    metadata: str
    pallets: tuple[AskedPallet, ...]


class _Failed(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    text: str
    file: str
    line: int


def ask_application(folder: Path, runtime: str) -> Asked:
    """Import an application in another process, and hear what it is made of.

    Args:
        folder: The folder with ``sealift.toml``.
        runtime: ``module:attribute`` of its runtime.

    Raises:
        ApplicationError: It cannot be imported; with the file and the line.
    """
    app = (folder / "app").resolve()
    command = leashed([sys.executable, "-c", _QUESTION, str(app), runtime])
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, fixed words
            command, check=False, capture_output=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise ApplicationError(
            f"the runtime {runtime} of {folder} is not made in time",
            got=f"nothing in {_PATIENCE:.0f} s",
            hint="Something in it runs, or waits, when it is imported.",
        ) from None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
        return msgspec.json.decode(done.stdout, type=Asked)
    try:
        failed = msgspec.json.decode(done.stdout, type=_Failed)
    except (msgspec.MsgspecError, UnicodeError):
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise ApplicationError(
            f"the runtime {runtime} of {folder} cannot be made",
            got=words[-1] if words else f"exit code {done.returncode}",
        ) from None
    raise ApplicationError(
        f"the runtime {runtime} of {folder} cannot be made",
        got=f"{_place(failed, app)}{failed.error}: {failed.text}",
        hint="Mend that line." if failed.file else "sealift.toml names the runtime.",
    )


def _place(failed: _Failed, app: Path) -> str:
    if not failed.file:
        return ""
    path = Path(failed.file)
    if path.is_relative_to(app):
        path = Path("app", path.relative_to(app))
    return f"{path}:{failed.line}: "
