"""Building a bundle from the file system (DESIGN §6, invariant 9).

Same source, lock and target give the same bytes on any machine: what is read
is content only, never times, modes, owners or the order of a folder; wheels
come by hash from the lock, chosen by an explicit list of platforms and not by
what this machine could also run.
"""

import ast
import importlib.resources
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sealift.base import SealiftError
from sealift.bundle import Bundle, Manifest, check_path, make_bundle
from sealift.crypto import sha256

from .files import (
    UnreadableFileError,
    make_folder,
    read_or_explain,
    refuse_write,
    write_durably,
)

#: Packages of Sealift that may stand in an enclave (DESIGN §3).
ENCLAVE_WING = frozenset({
    "base", "crypto", "protocol", "frame", "relay", "attestation", "bundle",
    "ledger", "stf", "provisioning", "enclave",
})  # fmt: skip
#: The oldest C library that bundles are built for.
_GLIBC_FLOOR = 28
_GLIBC_OLDEST = 5
_MUSL = ("musllinux_1_2", "musllinux_1_1")
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".git"}

_LOCK_LINE = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)==\S+\s*(;[^\\]*)?", re.MULTILINE
)
_LOCK_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class BuildError(SealiftError):
    """A bundle cannot be built from these sources."""


class WheelFetchError(SealiftError):
    """A wheel of the lock cannot be had, or is not the one the lock names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInputs:
    """Everything that a bundle is made of, beside its manifest.

    ``application`` is the folder of the application's sources, ``lock`` the
    text of a hash-checked requirements lock, ``wheel_cache`` a folder of the
    user's. ``metadata`` is the runtime metadata.
    """

    application: Path
    lock: bytes
    wheel_cache: Path
    metadata: bytes


def running_target() -> str:
    """The target of this interpreter, e.g. ``cp311-manylinux_x86_64``.

    It stands for CPython, its minor version, a C library family (glibc 2.28 or
    later, or musl 1.2) and a machine.
    """
    library = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"{version}-{library}_{platform.machine()}"


def enclave_lock() -> bytes:
    """The lock of what runs inside the enclave, as shipped with this release.

    Raises:
        BuildError: Neither an installed wheel nor a checkout has it.
    """
    root = importlib.resources.files("sealift")
    packaged = root / "_data" / "enclave.txt"
    if packaged.is_file():
        return packaged.read_bytes()
    checkout = _source_root().parent.parent / "requirements" / "enclave.txt"
    if checkout.is_file():
        return checkout.read_bytes()
    raise BuildError(
        "the lock of the enclave's dependencies is missing",
        expected="sealift/_data/enclave.txt or requirements/enclave.txt",
        hint="Reinstall sealift.",
    )


def user_wheel_cache() -> Path:
    """Where fetched wheels are kept: ``$XDG_CACHE_HOME/sealift/wheels``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sealift" / "wheels"


def build_bundle(manifest: Manifest, inputs: BuildInputs) -> Bundle:
    """An unsigned bundle.

    Args:
        manifest: Its ``target`` must be this interpreter's; its ``metadata``
            the SHA-256 of ``inputs.metadata``.
        inputs: What it is made of.

    Raises:
        BuildError: Sources that cannot run in an enclave; another target.
        WheelFetchError: A wheel cannot be had.
        BundleFormatError: A path or manifest that may not stand in a bundle.
    """
    if manifest.target != running_target():
        raise BuildError(
            "bundles are built by the interpreter that runs them",
            got=manifest.target,
            expected=running_target(),
        )
    app = collect_application(inputs.application)
    return make_bundle(
        manifest,
        sealift=collect_sealift([manifest.enclave_entry], app),
        app=app,
        wheels=fetch_wheels(inputs.lock, manifest.target, inputs.wheel_cache),
        metadata=inputs.metadata,
    )


def write_bundle(path: Path, data: bytes) -> None:
    """Write a bundle file: whole or not at all.

    Raises:
        FileError: It cannot be written; what was there is untouched.
    """
    make_folder(path.parent)
    write_durably(path, data)


def collect_application(folder: Path) -> dict[str, bytes]:
    """All files of an application's folder, by relative path.

    Caches (``__pycache__`` and the like) and hidden files are left out; a
    stray ``.pyc`` elsewhere is refused.

    Raises:
        BuildError: No such folder, a link, or a module named like one of the
            standard library or like Sealift.
        BundlePathError: A path that may not stand in a bundle.
        UnreadableFileError: A file or folder of it cannot be read.
    """
    if not folder.is_dir():
        raise BuildError("there is no application folder", got=folder)
    files: dict[str, bytes] = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        check_path(name)
        files[name] = read_or_explain(path, what="application file")
    taken = {"sealift", *sys.stdlib_module_names}
    for name in files:
        if name.endswith(".py") and name.partition("/")[0].removesuffix(".py") in taken:
            raise BuildError(
                "module has the name of another that enclaves import",
                got=name,
                hint="Rename it.",
            )
    if not files:
        raise BuildError("the application folder is empty", got=folder)
    return files


def collect_sealift(
    entries: Iterable[str], app: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Sealift's own sources that an enclave imports, by path in ``sealift/``.

    The import closure, by reading the sources, of the entry points
    (``module:attribute``) and of all modules of the application.

    Raises:
        BuildError: It reaches the host wing, or a module that is not there.
    """
    root = _source_root()
    wanted = {"sealift"}
    for entry in entries:
        module = entry.partition(":")[0]
        if module.split(".")[0] == "sealift":
            if _find_module(root, module) is None:
                raise BuildError("there is no such module", got=module)
            wanted.add(module)
    for path, source in app.items():
        if path.endswith(".py"):
            package = path.rpartition("/")[0].replace("/", ".")
            wanted |= _imports(source, path, package)
    files: dict[str, bytes] = {}
    pending = sorted(wanted)
    while pending:
        module = pending.pop()
        found = _find_module(root, module)
        if found is None:
            continue
        name = found.relative_to(root).as_posix()
        if name in files:
            continue
        _check_wing(name)
        files[name] = found.read_bytes()
        is_package = found.name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        pending.extend(sorted(_imports(files[name], name, package)))
        pending.extend(_parents(module))
    return files


def fetch_wheels(lock: bytes, target: str, cache: Path) -> dict[str, bytes]:
    """The wheels of a lock for a target, by file name.

    Taken from the cache or fetched by pip; in either case each is compared
    with the hashes of the lock, and every unconditional requirement is there.

    Raises:
        WheelFetchError: pip fails, or a wheel is not one the lock names.
        FileError: The cache cannot be written.
    """
    folder = cache / sha256(target.encode() + b"\0" + lock).hex()
    if not folder.is_dir():
        make_folder(cache)
        try:
            _download(lock, target, folder)
        except OSError as error:
            refuse_write(error, folder)
    text = lock.decode()
    allowed = set(_LOCK_HASH.findall(text))
    wheels = {path.name: path.read_bytes() for path in sorted(folder.glob("*.whl"))}
    for name, content in wheels.items():
        if sha256(content).hex() not in allowed:
            raise WheelFetchError(
                "wheel is not one that the lock names",
                got=f"{name}, SHA-256 {sha256(content).hex()}",
                hint=f"Remove {folder}; it is fetched again.",
            )
    have = {_normalised(name.partition("-")[0]) for name in wheels}
    for name, marker in _LOCK_LINE.findall(text):
        if not marker and _normalised(name) not in have:
            raise WheelFetchError(
                "wheel of the lock is missing",
                got=name,
                hint=f"Remove {folder}; it is fetched again.",
            )
    return wheels


def platform_tags(target: str) -> list[str]:
    """The wheel platforms that a target accepts, the most wanted first.

    Raises:
        BuildError: Not a target that Sealift knows.
    """
    library, _, machine = target.partition("-")[2].partition("_")
    if library == "musllinux" and machine:
        return [f"{tag}_{machine}" for tag in _MUSL]
    if library != "manylinux" or not machine:
        raise BuildError(
            "unknown target", got=target, expected="e.g. cp311-manylinux_x86_64"
        )
    tags = []
    for minor in range(_GLIBC_FLOOR, _GLIBC_OLDEST - 1, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY:
            tags.append(f"{_LEGACY[minor]}_{machine}")
    return tags


def _download(lock: bytes, target: str, folder: Path) -> None:
    version = target.partition("-")[0]
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        fresh = Path(scratch, "wheels")
        fresh.mkdir()
        locked = Path(scratch, "lock.txt")
        locked.write_bytes(lock)
        command = [
            sys.executable, "-m", "pip", "download", "--quiet",
            "--disable-pip-version-check", "--require-hashes", "--no-deps",
            "--only-binary", ":all:", "--implementation", "cp",
            "--python-version", f"{version[2]}.{version[3:]}",
            "--abi", version, "--abi", "abi3", "--abi", "none",
            *(word for tag in platform_tags(target) for word in ("--platform", tag)),
            "--requirement", str(locked), "--dest", str(fresh),
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - our own interpreter, fixed words
            command, check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise WheelFetchError(
                f"pip cannot fetch the wheels of the lock ({last[0]})",
                hint="It needs a package index, or PIP_FIND_LINKS, and pip itself.",
            )
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():  # another build was first
                raise


def _source_root() -> Path:
    """The folder of the ``sealift`` package."""
    return Path(__file__).resolve().parent.parent


def _walk(folder: Path) -> list[Path]:
    found = []
    for base, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [n for n in folders if n not in _IGNORED and n[0] != "."]
        for name in (*folders, *names):
            path = Path(base, name)
            if path.is_symlink():
                raise BuildError("application holds a link", got=path)
        found += [Path(base, name) for name in names if name[0] != "."]
    return found


def _refuse_folder(error: OSError) -> NoReturn:
    """What cannot be read is not left out: the bundle would be another."""
    raise UnreadableFileError(
        f"application folder cannot be read ({error.strerror})", got=error.filename
    ) from error


def _find_module(root: Path, module: str) -> Path | None:
    parts = module.split(".")[1:]
    as_module = root.joinpath(*parts).with_suffix(".py")
    as_package = root.joinpath(*parts, "__init__.py")
    if as_package.is_file():
        return as_package
    return as_module if parts and as_module.is_file() else None


def _check_wing(name: str) -> None:
    top = name.partition("/")[0]
    if "/" in name and top not in ENCLAVE_WING:
        raise BuildError(
            "an enclave cannot import the host wing",
            got=f"sealift.{top}",
            expected=sorted(ENCLAVE_WING),
        )


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _imports(source: bytes, path: str, package: str) -> set[str]:
    """Names under ``sealift`` that a source may import, modules or not."""
    try:
        tree = ast.parse(source, filename=path)
    except (SyntaxError, ValueError) as error:
        raise BuildError(f"{path} is not Python ({error})") from error
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] == "sealift"}


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
