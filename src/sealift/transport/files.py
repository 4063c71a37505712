"""Files that are whole or absent: durable writes, explained reads, locks.

Whatever cannot be read is kept: nothing here replaces a file without having
written the new one completely and durably beside it.
"""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import msgspec

from sealift.base import SealiftError

T = TypeVar("T")
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OPEN_TO_OTHERS: Final = 0o077


class FileError(SealiftError):
    """A file could not be read or written; what was there is untouched."""


class MissingFileError(FileError):
    """A file that has to be there is not."""


class FileExistsAlreadyError(FileError):
    """Something is there already, and is never overwritten."""


class UnreadableFileError(FileError):
    """A file is there but cannot be read; it is kept as it is."""


class DiskFullError(FileError):
    """No space left, or a quota or size limit is reached."""


class ExposedKeyError(FileError):
    """A private key file that others on this machine may read."""


class FileLockedError(FileError):
    """Another process holds the folder: two must never run on one."""


def write_durably(path: Path, data: bytes, *, mode: int = PUBLIC_MODE) -> None:
    """Replace a file: afterwards, also after a crash, all old or all new.

    Written beside, flushed to disk, renamed, and the folder flushed.

    Raises:
        DiskFullError: No space; the old file is untouched.
        FileError: Another failure; the old file is untouched.
    """
    _write_beside(path, data, mode, os.replace)


def create_durably(path: Path, data: bytes, *, mode: int = PUBLIC_MODE) -> None:
    """Write a file that must not be there yet; whole or not at all.

    Raises:
        FileExistsAlreadyError: Something is there, whatever it is.
        DiskFullError: No space; nothing was made.
        FileError: Another failure; nothing was made.
    """

    def link(fresh: str, target: Path) -> None:
        os.link(fresh, target)  # unlike a rename, refuses what exists
        Path(fresh).unlink()

    _write_beside(path, data, mode, link)


def write_private_key(path: Path, data: bytes) -> None:
    """Write a secret: mode 0600 from its first byte, never over another.

    Raises:
        FileExistsAlreadyError: Something is there.
        FileError: It cannot be written.
    """
    create_durably(path, data, mode=PRIVATE_MODE)


def read_or_explain(path: Path, *, what: str, hint: str = "") -> bytes:
    """All bytes of a file, or a sentence that says what to do.

    Args:
        path: The file.
        what: What the file is to the reader ("genesis").
        hint: What to do if it is missing.

    Raises:
        MissingFileError: It is not there.
        UnreadableFileError: It is there and cannot be read; it is kept.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{what} is missing", got=f"no file {path}", hint=hint
        ) from error
    except OSError as error:
        raise UnreadableFileError(
            f"{what} cannot be read ({error.strerror})",
            got=str(path),
            hint="It is kept as it is",
        ) from error


def read_private_key(path: Path, *, what: str, hint: str = "") -> bytes:
    """A secret file, if nobody else may read it.

    Raises:
        ExposedKeyError: Its mode lets others read or write it.
        MissingFileError: It is not there.
        UnreadableFileError: It cannot be read.
    """
    data = read_or_explain(path, what=what, hint=hint)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OPEN_TO_OTHERS:
        raise ExposedKeyError(
            f"{what} is open to others",
            got=f"{path} has mode {mode:04o}",
            expected=f"{PRIVATE_MODE:04o}",
            hint=f"chmod 600 {path}, and think of who may have read it",
        )
    return data


def read_json(path: Path, kind: type[T], *, what: str, hint: str = "") -> T:
    """A JSON file of a known shape.

    Raises:
        UnreadableFileError: Not JSON of that shape; it is kept.
        MissingFileError: It is not there.
    """
    return decode_json(
        read_or_explain(path, what=what, hint=hint), kind, path=path, what=what
    )


def decode_json(data: bytes, kind: type[T], *, path: Path, what: str) -> T:
    """The value of a JSON file that was read.

    Raises:
        UnreadableFileError: Not JSON of that shape; the file is kept.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise UnreadableFileError(
            f"{what} is not what it should be ({error})",
            got=str(path),
            hint="It is kept as it is",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable (names, not contents).

    Raises:
        FileError: The folder cannot be opened or flushed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        refuse_write(error, folder)


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """A folder and its parents, durable; one that is there is left alone.

    Raises:
        FileError: It cannot be made, or a file is in the way.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    try:
        folder.mkdir(mode=mode, exist_ok=True)
    except OSError as error:
        refuse_write(error, folder)
    sync_folder(folder.parent)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock file while in the block; the kernel frees it at any death.

    Raises:
        FileLockedError: Another process holds it.
        FileError: The file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
    except OSError as error:
        refuse_write(error, path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileLockedError(
                "another process runs on this folder",
                got=str(path.parent),
                hint="Stop it first; two would contradict each other",
            ) from error
        yield
    finally:
        os.close(descriptor)


def refuse_write(error: OSError, path: Path) -> NoReturn:
    """Raise the file error that an operating system's error means.

    Raises:
        DiskFullError: No space, quota or size limit.
        FileExistsAlreadyError: Something is there.
        FileError: Anything else.
    """
    if error.errno in _FULL:
        raise DiskFullError(
            f"no space to write {path}",
            got=error.strerror,
            hint="What was there before is untouched",
        ) from error
    if isinstance(error, FileExistsError):
        raise FileExistsAlreadyError(
            "something is there already", got=str(path), hint="Nothing is overwritten"
        ) from error
    raise FileError(
        f"{path} cannot be written ({error.strerror or error})",
        hint="What was there before is untouched",
    ) from error


def _write_beside(
    path: Path, data: bytes, mode: int, move: Callable[[str, Path], object]
) -> None:
    try:
        descriptor, fresh = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".new", dir=path.parent
        )
    except OSError as error:
        refuse_write(error, path)
    try:
        try:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        move(fresh, path)
    except OSError as error:
        with suppress(OSError):
            Path(fresh).unlink()
        refuse_write(error, path)
    sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
