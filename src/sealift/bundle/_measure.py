"""MRENCLAVE of a set of files, by SGX's own records (facts/attestation §3.4).

Layout, in ``docs/spec/bundle.md``: files in canonical order (bytes of the
path), each starting on a new 4,096-byte page with a header that binds path and
length, padded with zeros to whole pages. Every page is a read-only regular
page, added by EADD and measured whole by sixteen EEXTENDs.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sealift.base import Fingerprint

PAGE_BYTES = 4096
CHUNK_BYTES = 256
#: SECINFO.FLAGS of every page: R (1), page type REG (2) in bits 8-15.
PAGE_FLAGS = 0x201
_SSA_FRAME_PAGES = 1
_HEADER = struct.Struct("<8sIQ")
_MAGIC = b"SEALIFT1"

_ECREATE = struct.Struct("<8sLQ44s")
_EADD = struct.Struct("<8sQQ40s")
_EEXTEND = struct.Struct("<8sQ48s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What SGX would measure.

    ``pages`` counts 4,096-byte pages, ``size`` is SECS.SIZE in bytes: the least
    power of two that holds them.
    """

    mrenclave: Fingerprint
    pages: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first page in which two sets of files differ.

    ``offset`` is that of the first differing byte within the file, or ``None``
    if the file stands on one side only (``reason`` says which).
    """

    page: int
    path: str
    offset: int | None
    reason: str


def measure(files: Mapping[str, bytes]) -> Measurement:
    """MRENCLAVE of these files (ECREATE, then EADD and EEXTEND per page)."""
    pages = sum(_pages_of(path, files[path]) for path in files)
    size = PAGE_BYTES
    while size < pages * PAGE_BYTES:
        size *= 2
    digest = hashlib.sha256(_ECREATE.pack(b"ECREATE\0", _SSA_FRAME_PAGES, size, b""))
    address = 0
    for path in canonical_order(files):
        for page in _layout(path, files[path]):
            digest.update(_page_records(address, page))
            address += PAGE_BYTES
    return Measurement(mrenclave=Fingerprint(digest.digest()), pages=pages, size=size)


def canonical_order(files: Mapping[str, bytes]) -> list[str]:
    """Paths by the bytes of their UTF-8: the order of zip and measurement."""
    return sorted(files, key=str.encode)


def first_difference(
    left: Mapping[str, bytes], right: Mapping[str, bytes]
) -> Difference | None:
    """The first page that differs, in the order of measurement, or ``None``."""
    page = 0
    for path in canonical_order({**left, **right}):
        if path not in right:
            return Difference(page=page, path=path, offset=None, reason="only in first")
        if path not in left:
            return Difference(
                page=page, path=path, offset=None, reason="only in second"
            )
        if left[path] != right[path]:
            return _difference_in(path, left[path], right[path], page)
        page += _pages_of(path, left[path])
    return None


def _difference_in(path: str, left: bytes, right: bytes, page: int) -> Difference:
    same = min(len(left), len(right))
    offset = next((i for i in range(same) if left[i] != right[i]), same)
    header = _HEADER.size + len(path.encode())
    if len(left) != len(right):
        reason = f"length {len(left)} against {len(right)} bytes"
        return Difference(page=page, path=path, offset=offset, reason=reason)
    return Difference(
        page=page + (header + offset) // PAGE_BYTES,
        path=path,
        offset=offset,
        reason=f"byte {left[offset]:#04x} against {right[offset]:#04x}",
    )


def _pages_of(path: str, content: bytes) -> int:
    return -(-(_HEADER.size + len(path.encode()) + len(content)) // PAGE_BYTES)


def _layout(path: str, content: bytes) -> Iterator[bytes]:
    name = path.encode()
    stream = _HEADER.pack(_MAGIC, len(name), len(content)) + name + content
    for start in range(0, len(stream), PAGE_BYTES):
        yield stream[start : start + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")


def _page_records(address: int, page: bytes) -> bytes:
    records = [_EADD.pack(b"EADD\0\0\0\0", address, PAGE_FLAGS, b"")]
    for start in range(0, PAGE_BYTES, CHUNK_BYTES):
        records.append(_EEXTEND.pack(b"EEXTEND\0", address + start, b""))
        records.append(page[start : start + CHUNK_BYTES])
    return b"".join(records)
