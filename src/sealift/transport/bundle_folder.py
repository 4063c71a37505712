"""Bundles on disk: content-addressed folders, read back whole.

The folder's name is the MRENCLAVE, so that versions run side by side. Whoever
starts an enclave reads it again and verifies every byte
(:func:`sealift.bundle.measure_folder`).
"""

import os
import stat
import tempfile
from pathlib import Path

from sealift.base import SealiftError
from sealift.bundle import (
    MAX_BUNDLE_BYTES,
    Bundle,
    VerifiedBundle,
    measure_folder,
    parse_bundle,
    unpack_plan,
    verify_bundle,
)

from .files import sync_folder

_FILE_MODE = 0o444
_FOLDER_MODE = 0o755


class BundleFolderError(SealiftError):
    """A bundle or its folder cannot be read, or holds what is no file."""


def read_bundle_file(path: Path) -> bytes:
    """The bytes of a bundle file, if it is not too large for one.

    Raises:
        BundleFolderError: It cannot be read or is too large.
    """
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise BundleFolderError(
                "bundle is too large",
                got=f"{path.stat().st_size} B",
                expected=f"≤ {MAX_BUNDLE_BYTES} B",
            )
        return path.read_bytes()
    except OSError as error:
        raise BundleFolderError(f"{path} cannot be read ({error.strerror})") from error


def install_bundle(data: bytes, root: Path) -> Path:
    """Unpack a signed bundle to ``root/<MRENCLAVE>``; return that folder.

    Whole or not at all: it is written beside and renamed. A folder that is
    there already is verified, not overwritten. Durable when it returns.

    Raises:
        BundleFormatError: Not a bundle.
        SigstructError: Not signed for this content.
        FolderDiffersError: The folder is there and differs.
        BundleFolderError: It cannot be read or written.
    """
    verified = verify_bundle(parse_bundle(data))
    folder = root / verified.fingerprint.hex()
    if not folder.exists():
        _write_folder(unpack_plan(verified.bundle), folder)
    verify_folder(folder)
    return folder


def install_bundle_at(bundle: Bundle, folder: Path) -> None:
    """Unpack a signed bundle to exactly this folder; else as :func:`install_bundle`.

    Raises:
        SigstructError: Not signed for this content.
        FolderDiffersError: The folder is there and differs.
        BundleFolderError: It holds another bundle, or cannot be read or written.
    """
    verified = verify_bundle(bundle)
    if not folder.exists():
        _write_folder(unpack_plan(verified.bundle), folder)
    found = verify_folder(folder)
    if found.measurement != verified.measurement:
        raise BundleFolderError(
            f"{folder} holds another bundle",
            got=found.fingerprint,
            expected=verified.fingerprint.hex(),
            hint="Choose another folder; nothing was overwritten.",
        )


def verify_folder(folder: Path) -> VerifiedBundle:
    """Read a bundle's folder and verify it as it is about to run.

    Raises:
        BundleFormatError, SigstructError, FolderDiffersError: As
            :func:`sealift.bundle.measure_folder`.
        BundleFolderError: It cannot be read, or holds links or devices.
    """
    return measure_folder(read_folder(folder))


def read_folder(folder: Path) -> dict[str, bytes]:
    """All files under a folder by relative path.

    Raises:
        BundleFolderError: It cannot be read, or something in it is neither
            file nor folder, or it holds more than a bundle can.
    """
    files: dict[str, bytes] = {}
    try:
        for base, folders, names in os.walk(folder, onerror=_fail):
            for name in (*folders, *names):
                path = Path(base, name)
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode):
                    files[path.relative_to(folder).as_posix()] = path.read_bytes()
                elif not stat.S_ISDIR(mode):
                    raise BundleFolderError(
                        "neither file nor folder", got=path.relative_to(folder)
                    )
    except OSError as error:
        raise BundleFolderError(
            f"{folder} cannot be read ({error.strerror})"
        ) from error
    if not files:
        raise BundleFolderError(f"{folder} holds no files")
    return files


def _fail(error: OSError) -> None:
    raise error


def _write_folder(files: dict[str, bytes], folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".unpack-", dir=folder.parent
        ) as scratch:
            fresh = Path(scratch, "bundle")
            for path, content in files.items():
                target = fresh / path
                target.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
                target.write_bytes(content)
                target.chmod(_FILE_MODE)
            os.sync()  # the name must not become durable before the contents
            _rename(fresh, folder)
    except OSError as error:
        raise BundleFolderError(
            f"bundle cannot be unpacked ({error.strerror})", got=folder
        ) from error


def _rename(fresh: Path, folder: Path) -> None:
    try:
        fresh.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if not folder.is_dir():  # another process was first: it is verified
            raise
