"""The one canonical STORED zip of a set of files.

Reading re-encodes and compares, so that exactly one sequence of bytes stands
for one set of files (facts/performance §7): no other order, time, mode, flag,
extra field, comment, compression, leading or trailing byte is accepted.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping

from ._errors import BundleFormatError, BundlePathError

#: Most bytes of a bundle: 256 MiB.
MAX_BUNDLE_BYTES = 256 * 1024 * 1024
#: Most files of a bundle.
MAX_FILES = 10_000

_MAX_PATH = 240
#: Headers of one member, with paths counted apart (more if not ASCII).
_MEMBER_BYTES = 30 + 46
#: Left for the SIGSTRUCT and for paths that are not ASCII: 16 MiB.
_ROOM = 16 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = (stat.S_IFREG | 0o644) << 16
#: What ``zipfile`` may raise on hostile bytes.
ZIP_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    EOFError,
    OSError,
    LookupError,
)


def check_path(path: str) -> None:
    """Return only if the path is plain, relative, and no compiled Python.

    Raises:
        BundlePathError: Absolute, with ``.``, ``..`` or empty parts,
            backslashes, unprintable characters, too long, or ``.pyc``.
    """
    parts = path.split("/")
    if (
        not path
        or len(path.encode("utf-8", "surrogatepass")) > _MAX_PATH
        or not path.isprintable()
        or "\\" in path
        or any(part in {"", ".", ".."} for part in parts)
    ):
        raise BundlePathError(
            "path may not stand in a bundle",
            got=repr(path[: _MAX_PATH + 1]),
            expected="a relative path of plain parts, at most 240 bytes",
        )
    if path.endswith((".pyc", ".pyo")) or "__pycache__" in parts:
        raise BundlePathError(
            "compiled Python may not stand in a bundle",
            got=path,
            expected="sources only",
            hint="Remove __pycache__ and .pyc files from the sources.",
        )


def check_size(files: Mapping[str, bytes]) -> None:
    """Return only if there is room for these files in a bundle.

    Raises:
        BundleFormatError: Too many files or bytes.
    """
    total = sum(
        len(content) + 2 * len(path) + _MEMBER_BYTES for path, content in files.items()
    )
    if len(files) >= MAX_FILES or total > MAX_BUNDLE_BYTES - _ROOM:
        raise BundleFormatError(
            "bundle is too large",
            got=f"{len(files)} files, {total} B",
            expected=f"< {MAX_FILES} files, ≤ {MAX_BUNDLE_BYTES - _ROOM} B",
        )


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """The canonical zip of these files.

    Raises:
        BundlePathError: A path that :func:`check_path` refuses.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for path in sorted(files, key=str.encode):
            check_path(path)
            info = zipfile.ZipInfo(path, _EPOCH)
            info.create_system = _UNIX
            info.external_attr = _MODE
            archive.writestr(info, files[path])
    return out.getvalue()


def read_zip(data: bytes) -> dict[str, bytes]:
    """The files of a canonical zip, in canonical order; total.

    Raises:
        BundlePathError: A path that :func:`check_path` refuses.
        BundleFormatError: Not a zip, or not the canonical one of its files.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleFormatError(
            "bundle is too large",
            got=f"{len(data)} B",
            expected=f"≤ {MAX_BUNDLE_BYTES} B",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, len(data))
            files = {info.filename: archive.read(info) for info in members}
    except ZIP_FAULTS as error:
        raise BundleFormatError(f"not a readable zip ({error})", got=data) from error
    if write_zip(files) != data:
        raise BundleFormatError(
            "bundle is not in canonical form",
            expected="sorted, stored members with fixed attributes, nothing else",
            hint="Build it with `sealift build`; do not repack it.",
        )
    return files


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MAX_FILES:
        raise BundleFormatError(
            "bundle has too many members", got=len(members), expected=f"≤ {MAX_FILES}"
        )
    seen: set[str] = set()
    total = 0
    for info in members:
        check_path(info.filename)
        if info.filename in seen:
            raise BundleFormatError("member stands twice", got=info.filename)
        if info.compress_type != zipfile.ZIP_STORED:
            raise BundleFormatError(
                "member is compressed", got=info.filename, expected="stored"
            )
        if stat.S_IFMT(info.external_attr >> 16) != stat.S_IFREG:
            raise BundleFormatError(
                "member is no regular file", got=info.filename, expected="a file"
            )
        seen.add(info.filename)
        total += info.file_size
    if total > size:
        raise BundleFormatError(
            "members claim more bytes than there are", got=total, expected=f"≤ {size}"
        )
