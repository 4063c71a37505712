"""Bundles from where somebody else says they are: bounded, and hashed before read.

An order's source is written by whoever proposes. Nothing is parsed whose hash is
not the order's, no other machine is asked, and no device is read.
"""

import ipaddress
import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from sealift.base import Digest, Fingerprint, SealiftError
from sealift.bundle import MAX_BUNDLE_BYTES, Bundle, measure, parse_bundle
from sealift.crypto import sha256
from sealift.transport.bundle_folder import BundleFolderError, verify_folder

_SECONDS: Final = 120.0
_OK: Final = 200


class BundleSourceError(SealiftError):
    """A place that no bundle is taken from."""


class BundleUnreachableError(SealiftError):
    """A bundle cannot be had from where it should be."""


class BundleHashError(SealiftError):
    """Bytes that are not the bundle that was decided on; nothing of them was read."""


class NoActiveBundleError(SealiftError):
    """The bundle of the running generation is not there to compare with."""


async def fetch_bundle(source: str) -> bytes:
    """The bytes that a source names: a file, or an http(s) URL on this machine.

    Raises:
        BundleSourceError: Neither, or on another machine.
        BundleUnreachableError: No such bytes can be had.
        BundleFolderError: The file can't be read, is none, or is too large.
    """
    if not source:
        raise BundleSourceError(
            "the order does not say where its bundle is", hint="Give --bundle FILE"
        )
    if source.startswith(("http://", "https://")):
        return await _download(source)
    if "://" in source and not source.startswith("file://"):
        raise BundleSourceError(
            "not a source that is known",
            got=ascii(source)[1:-1],
            expected="http, https, or a file",
        )
    return read_bounded(Path(source.removeprefix("file://")))


def read_bounded(path: Path) -> bytes:
    """A file's bytes, if it is a regular file and no larger than a bundle.

    Raises:
        BundleFolderError: It is not, or cannot be read.
    """
    shown = ascii(str(path))[1:-1]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BundleFolderError("not a file", got=shown)
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no such path"
        raise BundleFolderError(f"{shown} cannot be read ({why})") from error
    return _bounded(data, shown)


def require_hash(data: bytes, wanted: Digest | None) -> Digest:
    """The SHA-256 of a bundle's bytes, if it is the wanted one.

    Raises:
        BundleHashError: It is another.
    """
    found = sha256(data)
    if wanted is not None and found != wanted:
        raise BundleHashError(
            "these bytes are not the order's bundle; nothing of them was read",
            got=found,
            expected=wanted.hex(),
            hint="Take it from another place, and ask who put this one there",
        )
    return found


def active_bundle(place: Path, wanted: Fingerprint) -> Bundle:
    """The bundle of a fingerprint: a file, or one of a folder of bundles.

    In a folder: unpacked under its MRENCLAVE, or any ``*.bundle``.

    Raises:
        NoActiveBundleError: None has that fingerprint.
        BundleFolderError, BundleFormatError: It cannot be read.
    """
    if not place.is_dir():
        bundle = parse_bundle(read_bounded(place))
        found = measure(bundle.files).mrenclave
        if found != wanted:
            raise NoActiveBundleError(
                "this is not the bundle that runs", got=found, expected=wanted.hex()
            )
        return bundle
    unpacked = place / wanted.hex()
    if unpacked.is_dir():
        return verify_folder(unpacked).bundle
    for path in sorted(place.glob("*.bundle")):
        try:
            bundle = parse_bundle(read_bounded(path))
        except SealiftError:
            continue  # another file of that name
        if measure(bundle.files).mrenclave == wanted:
            return bundle
    raise NoActiveBundleError(
        "no bundle there is the one that runs", got=str(place), expected=wanted.hex()
    )


async def _download(source: str) -> bytes:
    shown = ascii(source)[1:-1]
    _require_local(source, shown)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_SECONDS), auto_decompress=False
            ) as http,
            http.get(source, allow_redirects=False) as answer,
        ):
            if answer.status != _OK:
                raise BundleUnreachableError(
                    f"{shown} does not give the bundle", got=f"HTTP {answer.status}"
                )
            parts, size = [], 0
            async for part in answer.content.iter_chunked(1 << 16):
                size += len(part)
                if size > MAX_BUNDLE_BYTES:
                    break
                parts.append(part)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise BundleUnreachableError(
            f"{shown} cannot be reached",
            got=ascii(str(error) or type(error).__name__)[1:-1],
        ) from error
    if size > MAX_BUNDLE_BYTES:
        raise BundleFolderError("bundle is too large", got=shown)
    return b"".join(parts)


def _require_local(source: str, shown: str) -> None:
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname or "", parts.port
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise BundleSourceError(
            "a bundle is fetched from this machine alone",
            got=shown,
            expected="a URL on 127.0.0.1, [::1] or localhost",
            hint="Fetch it yourself, and give --bundle FILE: its hash is compared",
        )


def _bounded(data: bytes, shown: str) -> bytes:
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleFolderError(
            "bundle is too large", got=shown, expected=f"≤ {MAX_BUNDLE_BYTES} B"
        )
    return data
