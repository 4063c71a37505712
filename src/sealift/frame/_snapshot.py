"""Snapshots of pages in chunks, each of which is verified by itself.

The head lists the digests of all groups of pages and is verified against the
root. A chunk is a run of pages; where it cuts a group, it carries the digests
of the group's other pages. So any chunk can come from any peer, in any order,
again and again.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from sealift.base import Digest, Message

from ._errors import SnapshotRefusedError
from ._pages import MAX_PAGE_BITS, MIN_PAGE_BITS, PageStore, group_bits, root_of_groups

#: A chunk holds about so many bytes of pages: 1 MiB.
CHUNK_BYTES = 1024 * 1024

_DIGEST_BYTES = 32


class SnapshotHead(Message, kw_only=True):
    """What every chunk is verified against: 32 bytes for each group."""

    bits: int
    groups: bytes


class SnapshotPages(Message, kw_only=True):
    """A run of pages.

    ``before`` and ``after`` are digests of the pages of the first and last
    group that are not in the run, 32 bytes each.
    """

    first: int
    pages: tuple[bytes, ...]
    before: bytes
    after: bytes

    @property
    def end(self) -> int:
        """The number of the page after the run: ``first`` of the next chunk."""
        return self.first + len(self.pages)


def snapshot_head(store: PageStore) -> SnapshotHead:
    """The head of a store's snapshot."""
    return SnapshotHead(bits=store.bits, groups=b"".join(store.groups()))


def snapshot_starts(store: PageStore, *, size: int = CHUNK_BYTES) -> tuple[int, ...]:
    """The first page of every chunk, the first of them 0.

    Args:
        store: What is to be exported.
        size: Bytes of pages after which a chunk ends; it has at least one page.
    """
    ends = list(accumulate(map(len, store.pages())))
    starts = [0]
    held = 0
    while (end := max(bisect_right(ends, held + size), starts[-1] + 1)) < len(ends):
        starts.append(end)
        held = ends[end - 1]
    return tuple(starts)


def snapshot_pages(store: PageStore, first: int, end: int) -> SnapshotPages:
    """The chunk of the pages ``first`` … ``end - 1``.

    Args:
        store: A store that does not change meanwhile: use ``copy()``.
        first: Its first page.
        end: The page after its last.

    Raises:
        SnapshotRefusedError: There are no such pages.
    """
    pages = store.pages()
    if not 0 <= first < end <= len(pages):
        raise SnapshotRefusedError(
            "no such pages",
            got=f"{first} … {end - 1}",
            expected=f"0 … {len(pages) - 1}",
        )
    start_group, end_group = _group_edges(store.bits, first, end)
    digests = store.digests()
    return SnapshotPages(
        first=first,
        pages=tuple(pages[first:end]),
        before=b"".join(digests[start_group:first]),
        after=b"".join(digests[end:end_group]),
    )


class SnapshotVerifier:
    """What a verified head says of every chunk; it holds no pages.

    1. The head has this shard's number of pages, and a digest for each group.
    2. A chunk's pages, with the digests it carries, give the head's groups.

    The caller owes that :attr:`root` is the one that is wanted: it vouches for
    all that is on the pages.

    Args:
        head: Head of the snapshot.
        bits: Page bits of the shard's genesis.

    Raises:
        SnapshotRefusedError: Step 1.
    """

    def __init__(self, head: SnapshotHead, *, bits: int) -> None:
        # 1.
        self._groups = _split(head.groups)
        if head.bits != bits or not MIN_PAGE_BITS <= bits <= MAX_PAGE_BITS:
            raise SnapshotRefusedError(
                "snapshot has another number of pages", got=head.bits, expected=bits
            )
        if len(self._groups) != 1 << (bits - group_bits(bits)):
            raise SnapshotRefusedError(
                "snapshot head is of the wrong length", got=len(self._groups)
            )
        self._bits = bits

    @property
    def root(self) -> Digest:
        """The unkeyed root that the head leads to."""
        return root_of_groups(self._groups)

    def verify(self, chunk: SnapshotPages) -> Sequence[bytes]:
        """The digests of a chunk's pages, which are the snapshot's.

        Raises:
            SnapshotRefusedError: Step 2.
        """
        # 2.
        bits = self._bits
        if not chunk.pages or not 0 <= chunk.first < chunk.end <= 1 << bits:
            raise SnapshotRefusedError("chunk has no pages, or no such pages")
        start, end = _group_edges(bits, chunk.first, chunk.end)
        own = [hashlib.sha256(page).digest() for page in chunk.pages]
        digests = [*_split(chunk.before), *own, *_split(chunk.after)]
        if len(digests) != end - start or len(chunk.before) != _DIGEST_BYTES * (
            chunk.first - start
        ):
            raise SnapshotRefusedError("chunk carries the wrong number of digests")
        size = 1 << group_bits(bits)
        for at in range(0, len(digests), size):
            group = hashlib.sha256(b"".join(digests[at : at + size])).digest()
            if group != self._groups[(start + at) // size]:
                raise SnapshotRefusedError(
                    "chunk is not of this snapshot", got=f"pages from {start + at}"
                )
        return own


def _group_edges(bits: int, first: int, end: int) -> tuple[int, int]:
    """First page of the first group, and page after the last group, of a run."""
    shift = group_bits(bits)
    return first >> shift << shift, ((end - 1 >> shift) + 1) << shift


def _split(digests: bytes) -> Sequence[bytes]:
    if len(digests) % _DIGEST_BYTES:
        raise SnapshotRefusedError("digests are cut", got=f"{len(digests)} bytes")
    return [
        digests[at : at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)
    ]
