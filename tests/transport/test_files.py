"""Files are old or new, never half; what cannot be read is kept."""

import errno
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import SealiftError
from sealift.crypto import account_of
from sealift.transport.files import (
    DiskFullError,
    ExposedKeyError,
    FileError,
    FileExistsAlreadyError,
    FileLockedError,
    MissingFileError,
    UnreadableFileError,
    create_durably,
    hold_lock,
    make_folder,
    read_json,
    read_or_explain,
    read_private_key,
    sync_folder,
    write_durably,
    write_private_key,
)
from sealift.transport.keys import (
    read_account_key,
    read_validator_key,
    write_account_key,
    write_validator_key,
)

SEED = bytes(range(32))


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_write_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    write_durably(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["file"]


def test_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for write in (write_durably, create_durably):
        with pytest.raises(DiskFullError, match="No space left"):
            write(path, b"new" * 100)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(FileError, match="Input/output error"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_size_limit_of_the_real_kernel_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from sealift.transport.files import DiskFullError, write_durably
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            write_durably(Path(sys.argv[1]), bytes(100_000))
        except DiskFullError:
            sys.exit(42)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, timeout=60
    )
    assert done.returncode == 42
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from sealift.transport.files import write_durably
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_durably(Path(sys.argv[1]), b"new")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, timeout=60
    )
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_nothing_is_created_over_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_durably(path, b"old")
    with pytest.raises(FileExistsAlreadyError):
        create_durably(path, b"new")
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsAlreadyError):
        create_durably(dangling, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file", "link"]


def test_write_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        write_durably(tmp_path / "no" / "file", b"x")
    with pytest.raises(FileError):
        sync_folder(tmp_path / "no")


def test_missing_and_unreadable_files_are_told_apart_and_explained(
    tmp_path: Path,
) -> None:
    with pytest.raises(MissingFileError, match=r"ledger is missing.*Run init"):
        read_or_explain(tmp_path / "no", what="ledger", hint="Run init")
    with pytest.raises(UnreadableFileError, match="kept"):
        read_or_explain(tmp_path, what="ledger")
    path = tmp_path / "broken.json"
    path.write_bytes(b"{")
    with pytest.raises(UnreadableFileError):
        read_json(path, dict, what="state")
    assert path.read_bytes() == b"{"


def test_folders_are_made_with_their_parents_and_never_over_files(
    tmp_path: Path,
) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "file").touch()
    with pytest.raises(FileError):
        make_folder(tmp_path / "a" / "file")


def test_private_keys_are_never_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    old = os.umask(0)
    try:
        write_private_key(path, b"secret")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsAlreadyError):
        write_private_key(path, b"another")
    path.chmod(0o640)
    with pytest.raises(ExposedKeyError, match="0640"):
        read_private_key(path, what="key")


def test_key_files_give_back_what_was_written(tmp_path: Path) -> None:
    account, validator = tmp_path / "account.json", tmp_path / "validator.json"
    assert write_account_key(account, SEED) == account_of(SEED)
    write_validator_key(validator, SEED)
    assert read_account_key(account) == SEED
    assert read_validator_key(validator) == SEED
    with pytest.raises(UnreadableFileError):
        read_account_key(validator)
    with pytest.raises(UnreadableFileError):
        read_validator_key(account)


@pytest.mark.parametrize("name", ["account", "validator"])
def test_key_file_whose_parts_do_not_fit_is_refused_and_kept(
    tmp_path: Path, name: str
) -> None:
    write, read = {
        "account": (write_account_key, read_account_key),
        "validator": (write_validator_key, read_validator_key),
    }[name]
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, SEED)
    write(two, bytes(32))
    lines = one.read_text().splitlines()
    for at, line in enumerate(two.read_text().splitlines()):
        if line in lines or "address" in line:
            continue
        mixed = [*lines[:at], line, *lines[at + 1 :]]
        one.write_text("\n".join(mixed))
        with pytest.raises(UnreadableFileError):
            read(one)
        assert one.read_text() == "\n".join(mixed)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_in_a_key_file_are_a_value_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("keys") / "key"
    write_private_key(path, data)
    for read in (read_account_key, read_validator_key):
        with pytest.raises(SealiftError):
            read(path)


def test_lock_is_held_once_and_freed_by_death(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from sealift.transport.files import hold_lock
        with hold_lock(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=60)
    with hold_lock(path), pytest.raises(FileLockedError), hold_lock(path):
        pass
    with hold_lock(path):
        pass
    with pytest.raises(FileError), hold_lock(tmp_path / "no" / "lock"):
        pass
