"""Pages: the state of a shard as a fixed number of byte strings.

A page is the MessagePack map of its entries in key order; it is leaf, unit of
snapshots and unit of sealed state at once. The page of a key is a keyed hash
of it, so that nobody outside can fill one page by choosing keys. The root is
two levels of SHA-256 over the pages' digests. It is unkeyed: what leaves the
enclave as root is keyed above.
"""

import hashlib
from collections.abc import Iterator

import msgspec

from sealift.base import Digest

from ._errors import StorageValueError
from ._state import Changes

#: Pages of a shard are 2 to the power of at least and at most so much.
MIN_PAGE_BITS = 1
MAX_PAGE_BITS = 24
#: What shards have unless their genesis says otherwise.
DEFAULT_PAGE_BITS = 16

_EMPTY = b"\x80"
_NUMBER_BYTES = 4

_decode = msgspec.msgpack.Decoder(dict[bytes, bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


class PageStore:
    """Entries on pages behind the ``StateStore`` port.

    Args:
        bits: There are ``2**bits`` pages; fixed in the shard's genesis.
        key: Secret of the shard (16 to 64 bytes) that spreads keys over pages.
    """

    def __init__(self, *, bits: int, key: bytes) -> None:
        if not MIN_PAGE_BITS <= bits <= MAX_PAGE_BITS:
            raise StorageValueError(
                "bad number of page bits",
                got=bits,
                expected=f"{MIN_PAGE_BITS} … {MAX_PAGE_BITS}",
            )
        self._bits = bits
        self._key = key
        self._mask = (1 << bits) - 1
        self._pages = [_EMPTY] * (1 << bits)
        # groups of about the square root of the number of pages
        self._group_bits = (bits + 1) // 2
        empty = hashlib.sha256(_EMPTY).digest()
        self._digests = [empty] * (1 << bits)
        group = hashlib.sha256(empty * (1 << self._group_bits)).digest()
        self._groups = [group] * (1 << (bits - self._group_bits))
        self._hasher = hashlib.blake2b(key=key, digest_size=_NUMBER_BYTES)
        self._dirty: set[int] = set()

    def page_of(self, key: bytes) -> int:
        """The number of the page that holds a key."""
        hasher = self._hasher.copy()
        hasher.update(key)
        return int.from_bytes(hasher.digest(), "big") & self._mask

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, or ``None``."""
        page = self._pages[self.page_of(key)]
        return None if page is _EMPTY else _decode(page).get(key)

    def items(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """All entries under a prefix, in key order; decodes every page."""
        return sorted(
            (key, value)
            for page in self._pages
            if page is not _EMPTY and prefix in page
            for key, value in _decode(page).items()
            if key.startswith(prefix)
        )

    def apply(self, changes: Changes) -> None:
        """Write and delete entries; untouched pages are shared with copies."""
        by_page: dict[int, list[tuple[bytes, bytes | None]]] = {}
        page_of = self.page_of
        for key, value in changes.items():
            by_page.setdefault(page_of(key), []).append((key, value))
        for number, entries in by_page.items():
            page = _decode(self._pages[number])
            for key, value in entries:
                if value is None:
                    page.pop(key, None)
                else:
                    page[key] = value
            raw = _encode(dict(sorted(page.items()))) if page else _EMPTY
            self._pages[number] = raw
            self._digests[number] = hashlib.sha256(raw).digest()
            self._dirty.add(number >> self._group_bits)

    def root(self) -> Digest:
        """The unkeyed accumulator over all pages."""
        size = 1 << self._group_bits
        for group in self._dirty:
            start = group * size
            self._groups[group] = hashlib.sha256(
                b"".join(self._digests[start : start + size])
            ).digest()
        self._dirty.clear()
        return Digest(hashlib.sha256(b"".join(self._groups)).digest())

    def pages(self) -> Iterator[bytes]:
        """All pages in order."""
        return iter(self._pages)
