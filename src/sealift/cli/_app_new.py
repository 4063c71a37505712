"""Makes the folder of a new application: all of it, or nothing."""

import keyword
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealift.base import SealiftError
from sealift.transport.files import (
    FileExistsAlreadyError,
    create_durably,
    make_folder,
    refuse_write,
    sync_folder,
)

from ._app_template import FILES

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
#: Pallets that every shard has, and what else a package may not be called.
STANDARD: Final = frozenset({
    "balances", "democracy", "effects", "enclave_update", "frame", "sudo", "system",
    "timestamp",
})  # fmt: skip
_TAKEN: Final = frozenset({
    "app", "conftest", "msgspec", "pytest", "sealift", "tests", "typing_extensions",
})  # fmt: skip


class ApplicationNameError(SealiftError):
    """No application may have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApplication:
    """What was made: the folder, and its files relative to it."""

    folder: Path
    files: tuple[Path, ...]


def make_application(name: str, parent: Path) -> NewApplication:
    """Make ``parent/name``: made beside and renamed, and never over anything.

    Raises:
        ApplicationNameError: Not a name for a package and a pallet.
        FileExistsAlreadyError: Something is there; it is left as it is.
        FileError: It cannot be written.
    """
    _require_name(name)
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise FileExistsAlreadyError(
            "something is there already, and is left as it is",
            got=str(folder),
            hint="Choose another name, or another folder with --in",
        )
    make_folder(parent)
    try:
        fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=parent))
    except OSError as error:
        refuse_write(error, folder)
    try:
        fresh.chmod(0o755)
        files = _fill(fresh, name)
        try:
            fresh.rename(folder)
        except OSError as error:
            refuse_write(error, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(parent)
    return NewApplication(folder=folder, files=files)


def _fill(folder: Path, name: str) -> tuple[Path, ...]:
    kind = "".join(part.capitalize() for part in name.split("_"))
    files = []
    for path, text in FILES.items():
        file = Path(path.format(name=name))
        make_folder((folder / file).parent)
        create_durably(folder / file, text.format(name=name, kind=kind).encode())
        files.append(file)
    return tuple(files)


def _require_name(name: str) -> None:
    if not _NAME.match(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise ApplicationNameError(
            "not a name for a package",
            got=name[:80],
            expected="a-z, then a-z, 0-9 and _, at most 31, no word of Python's",
            hint=f"Say {_suggestion(name)}",
        )
    if name in STANDARD | _TAKEN or name in sys.stdlib_module_names:
        raise ApplicationNameError(
            "the name is taken: by a standard pallet, or a module that enclaves import",
            got=name,
            hint=f"Say my_{name}"[:60],
        )


def _suggestion(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:31]
    return plain if _NAME.match(plain) and not keyword.iskeyword(plain) else "my_app"
