"""Third-party wheels as pure data: what they put into ``site/``."""

import io
import zipfile
from collections.abc import Mapping

from ._errors import BundlePathError, WheelError
from ._zip import MAX_FILES, ZIP_FAULTS, check_path

#: Most bytes that all wheels together may unpack to: 512 MiB.
MAX_SITE_BYTES = 512 * 1024 * 1024
_PURE = {"purelib", "platlib"}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def unpack_wheels(wheels: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of ``site/``, without that prefix.

    ``name.data/purelib`` and ``platlib`` are merged as installers do; scripts,
    headers and data are left out, since nothing of them is imported. Nothing
    is executed, and no bytecode, link or path outside is accepted.

    Args:
        wheels: File name to content.

    Raises:
        WheelError: Not a wheel, too large, or two wheels hold the same path.
        BundlePathError: A path that may not be written.
    """
    site: dict[str, bytes] = {}
    budget = MAX_SITE_BYTES
    for name in sorted(wheels, key=str.encode):
        for path, content in _read_wheel(name, wheels[name], budget).items():
            if path in site:
                raise WheelError("two wheels hold the same file", got=f"{name}: {path}")
            site[path] = content
            budget -= len(content)
    _check_no_file_is_folder(site)
    return site


def _read_wheel(name: str, data: bytes, budget: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(name, members, budget)
            for info in members:
                path = _site_path(info)
                if path is None:
                    continue
                check_path(path)
                if path in files:
                    raise WheelError("wheel holds a file twice", got=f"{name}: {path}")
                files[path] = archive.read(info)
    except ZIP_FAULTS as error:
        raise WheelError(f"{name} is not a readable wheel ({error})") from error
    return files


def _check_members(name: str, members: list[zipfile.ZipInfo], budget: int) -> None:
    if len(members) > MAX_FILES:
        raise WheelError(
            f"{name} has too many members", got=len(members), expected=f"≤ {MAX_FILES}"
        )
    total = sum(info.file_size for info in members)
    if total > budget:
        raise WheelError(
            f"{name} unpacks to too many bytes", got=total, expected=f"≤ {budget}"
        )
    for info in members:
        if info.compress_type not in _METHODS:
            raise WheelError(f"{name} is compressed in another way", got=info.filename)
        if info.create_system == _UNIX and (info.external_attr >> 16) & _LINK == _LINK:
            raise WheelError(f"{name} holds a link", got=info.filename)


_UNIX = 3
_LINK = 0o120000


def _site_path(info: zipfile.ZipInfo) -> str | None:
    """Where a member goes under ``site/``; ``None`` if it is not imported."""
    path = info.filename
    if path.endswith("/") and info.file_size == 0:
        return None
    parts = path.split("/")
    if not parts[0].endswith(".data"):
        return path
    if len(parts) > len(("x.data", "purelib")) and parts[1] in _PURE:
        return "/".join(parts[2:])
    return None


def _check_no_file_is_folder(site: Mapping[str, bytes]) -> None:
    for path in site:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in site:
                raise BundlePathError("a file stands where a folder is", got=parent)
