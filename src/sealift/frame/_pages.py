"""Pages: the state of a shard as a fixed number of byte strings.

A page is the MessagePack map of its entries in key order; it is leaf, unit of
snapshots and unit of sealed state at once. The page of a key is a keyed hash
of it, so that nobody outside can fill one page by choosing keys. The root is
two levels of SHA-256: over the digests of a group of neighbouring pages, then
over the groups. It is unkeyed: what leaves the enclave as root is keyed above.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from sealift.base import Digest, InvariantError

from ._errors import RuntimeDefinitionError
from ._state import Changes

#: Pages of a shard are 2 to the power of at least and at most so much.
MIN_PAGE_BITS = 1
MAX_PAGE_BITS = 24
#: What shards have unless their genesis says otherwise.
DEFAULT_PAGE_BITS = 16

_EMPTY = b"\x80"
_NUMBER_BYTES = 4
#: Pages that are written in one pass.
_PAGES_AT_A_TIME = 1024
_MIN_KEY, _MAX_KEY = 16, 64

_decode = msgspec.msgpack.Decoder(dict[bytes, bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


def group_bits(bits: int) -> int:
    """A group has two to the power of this many pages (about the square root)."""
    return (bits + 1) // 2


def root_of_groups(groups: Sequence[bytes]) -> Digest:
    """The root over the digests of all groups."""
    return Digest(hashlib.sha256(b"".join(groups)).digest())


def root_of_pages(digests: Sequence[bytes]) -> Digest:
    """The root over the digests of all pages; of a store, ``root()`` is cheaper."""
    size = 1 << group_bits(len(digests).bit_length() - 1)
    return root_of_groups(
        [
            hashlib.sha256(b"".join(digests[at : at + size])).digest()
            for at in range(0, len(digests), size)
        ]
    )


def _merged(raw: bytes, entries: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    """A page with entries written, or deleted where the value is ``None``."""
    page = _decode(raw)
    ordered = True
    for key, value in entries:
        if value is None:
            page.pop(key, None)
        else:
            ordered = ordered and (key in page or not page)
            page[key] = value
    return _encode(page if ordered else dict(sorted(page.items())))


class PageStore:
    """Entries on pages behind the ``StateStore`` port.

    Args:
        bits: There are ``2**bits`` pages; fixed in the shard's genesis.
        key: Secret of the shard (16 to 64 bytes) that spreads keys over pages.

    Raises:
        RuntimeDefinitionError: Bits or key out of range.
    """

    __slots__ = (
        "_digests",
        "_dirty",
        "_group_bits",
        "_groups",
        "_hasher",
        "_mask",
        "_pages",
        "bits",
    )

    def __init__(self, *, bits: int, key: bytes) -> None:
        if not MIN_PAGE_BITS <= bits <= MAX_PAGE_BITS:
            raise RuntimeDefinitionError(
                "bad number of page bits",
                got=bits,
                expected=f"{MIN_PAGE_BITS} … {MAX_PAGE_BITS}",
            )
        if not _MIN_KEY <= len(key) <= _MAX_KEY:
            raise RuntimeDefinitionError(
                "bad length of a page key",
                got=f"{len(key)} bytes",
                expected=f"{_MIN_KEY} … {_MAX_KEY} bytes",
            )
        self.bits = bits
        self._mask = (1 << bits) - 1
        self._hasher = hashlib.blake2b(key=key, digest_size=_NUMBER_BYTES)
        self._group_bits = group_bits(bits)
        empty = hashlib.sha256(_EMPTY).digest()
        group = hashlib.sha256(empty * (1 << self._group_bits)).digest()
        self._pages = [_EMPTY] * (1 << bits)
        self._digests = [empty] * (1 << bits)
        self._groups = [group] * (1 << (bits - self._group_bits))
        self._dirty: set[int] = set()

    def copy(self) -> "PageStore":
        """A snapshot: shares every page, and stays as it is when this changes."""
        twin = object.__new__(PageStore)
        twin.bits = self.bits
        twin._mask = self._mask
        twin._hasher = self._hasher
        twin._group_bits = self._group_bits
        twin._pages = self._pages.copy()
        twin._digests = self._digests.copy()
        twin._groups = self._groups.copy()
        twin._dirty = self._dirty.copy()
        return twin

    def empty_twin(self) -> "PageStore":
        """A store without entries, of the same shape and key."""
        twin = object.__new__(PageStore)
        twin.bits = self.bits
        twin._mask = self._mask
        twin._hasher = self._hasher
        twin._group_bits = self._group_bits
        empty = hashlib.sha256(_EMPTY).digest()
        twin._pages = [_EMPTY] * (1 << self.bits)
        twin._digests = [empty] * (1 << self.bits)
        twin._groups = [b""] * len(self._groups)
        twin._dirty = set(range(len(self._groups)))
        return twin

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        return 1 << self.bits

    def page_of(self, key: bytes) -> int:
        """The number of the page that holds a key."""
        hasher = self._hasher.copy()
        hasher.update(key)
        return int.from_bytes(hasher.digest(), "big") & self._mask

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, or ``None``."""
        page = self._pages[self.page_of(key)]
        return None if page == _EMPTY else _decode(page).get(key)

    def items(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """All entries under a prefix, in key order; reads every page."""
        return sorted(
            (key, value)
            for page in self._pages
            if page != _EMPTY and prefix in page
            for key, value in _decode(page).items()
            if key.startswith(prefix)
        )

    def page_items(self, number: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The entries of one page under a prefix, in key order."""
        page = self._pages[number]
        if page == _EMPTY or prefix not in page:
            return []
        return [
            (key, value)
            for key, value in _decode(page).items()
            if key.startswith(prefix)
        ]

    def share_page(self, number: int, other: "PageStore") -> None:
        """Have the very page that another store of this shape has there."""
        self._pages[number] = other.pages()[number]
        self._digests[number] = other.digests()[number]
        self._dirty.add(number >> self._group_bits)

    def fill_page(self, number: int, entries: Mapping[bytes, bytes]) -> None:
        """Replace one page by entries that all belong there, in key order."""
        raw = _encode(entries)
        self._put_page(number, raw, hashlib.sha256(raw).digest())

    def apply(self, changes: Changes) -> None:
        """Write and delete entries; untouched pages stay shared with copies.

        In passes, which keep the processor's caches warm, over so many pages that
        what is made on the way stays small.
        """
        by_page: dict[int, list[tuple[bytes, bytes | None]]] = {}
        numbers = map(self.page_of, changes)
        for number, entry in zip(numbers, changes.items(), strict=True):
            by_page.setdefault(number, []).append(entry)
        waiting = iter(by_page.items())
        while some := list(islice(waiting, _PAGES_AT_A_TIME)):
            raws = [_merged(self._pages[number], entries) for number, entries in some]
            digests = [hashlib.sha256(raw).digest() for raw in raws]
            for (number, _), raw, digest in zip(some, raws, digests, strict=True):
                self._put_page(number, raw, digest)

    def root(self) -> Digest:
        """The unkeyed accumulator over all pages."""
        return root_of_groups(self.groups())

    def groups(self) -> Sequence[bytes]:
        """The digests of all groups of pages; do not change them."""
        size = 1 << self._group_bits
        for group in self._dirty:
            start = group * size
            self._groups[group] = hashlib.sha256(
                b"".join(self._digests[start : start + size])
            ).digest()
        self._dirty.clear()
        return self._groups

    def pages(self) -> Sequence[bytes]:
        """All pages in order; do not change them."""
        return self._pages

    def digests(self) -> Sequence[bytes]:
        """SHA-256 of every page in order; do not change them."""
        return self._digests

    @property
    def size(self) -> int:
        """Bytes of all pages; looks at each (1 ms for 2^16)."""
        return sum(map(len, self._pages))

    def put_pages(
        self, first: int, pages: Sequence[bytes], digests: Sequence[bytes]
    ) -> None:
        """Replace whole pages, as a snapshot has them.

        Args:
            first: Number of the first page.
            pages: All pages of the run.
            digests: SHA-256 of each, which the caller has computed.

        Raises:
            InvariantError: There are not so many pages, or digests.
        """
        end = first + len(pages)
        if not 0 <= first < end <= len(self._pages) or len(digests) != len(pages):
            raise InvariantError("pages do not fit", got=f"{first} … {end - 1}")
        self._pages[first:end] = pages
        self._digests[first:end] = digests
        shift = self._group_bits
        self._dirty.update(range(first >> shift, (end - 1 >> shift) + 1))

    def _put_page(self, number: int, page: bytes, digest: bytes) -> None:
        self._pages[number] = page
        self._digests[number] = digest
        self._dirty.add(number >> self._group_bits)
