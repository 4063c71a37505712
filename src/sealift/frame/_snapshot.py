"""Snapshots of pages in chunks, each of which is verified by itself.

The head lists the digests of all groups of pages and is verified against the
root. A chunk is a run of pages; where it cuts a group, it carries the digests
of the group's other pages. So any chunk can come from any peer, in any order,
again and again.
"""

import hashlib
from collections.abc import Iterator, Sequence

from sealift.base import Message

from ._errors import SnapshotIncompleteError, SnapshotRefusedError
from ._pages import MAX_PAGE_BITS, MIN_PAGE_BITS, PageStore, group_bits, root_of_groups

#: A chunk holds about so many bytes of pages: 1 MiB.
CHUNK_BYTES = 1024 * 1024

_DIGEST_BYTES = 32


class SnapshotHead(Message, kw_only=True):
    """What every chunk is verified against: 32 bytes for each group."""

    bits: int
    groups: bytes


class SnapshotChunk(Message, kw_only=True):
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


def export_chunk(
    store: PageStore, first: int, *, size: int = CHUNK_BYTES
) -> SnapshotChunk:
    """The chunk that begins with page ``first``.

    Args:
        store: A store that does not change meanwhile: use ``copy()``.
        first: Number of the first page; 0, then ``end`` of the chunk before.
        size: Bytes of pages after which the chunk ends; at least one page.

    Raises:
        SnapshotRefusedError: There is no such page.
    """
    pages = store.pages()
    if not 0 <= first < len(pages):
        raise SnapshotRefusedError(
            "no such page", got=first, expected=f"0 … {len(pages) - 1}"
        )
    end = first
    held = 0
    while end < len(pages) and (end == first or held + len(pages[end]) <= size):
        held += len(pages[end])
        end += 1
    start_group, end_group = _group_edges(store.bits, first, end)
    digests = store.digests()
    return SnapshotChunk(
        first=first,
        pages=tuple(pages[first:end]),
        before=b"".join(digests[start_group:first]),
        after=b"".join(digests[end:end_group]),
    )


def export_chunks(
    store: PageStore, *, size: int = CHUNK_BYTES
) -> Iterator[SnapshotChunk]:
    """All chunks in order; the store must not change meanwhile."""
    first = 0
    while first < len(store.pages()):
        chunk = export_chunk(store, first, size=size)
        first = chunk.end
        yield chunk


class SnapshotImport:
    """Collects verified chunks into a store; any order, repeats are harmless.

    1. The head has this shard's number of pages and leads to the root.
    2. A chunk's pages, with the digests it carries, give the head's groups.
    3. The store is handed out when every page has come.

    The root vouches for what is on the pages.

    Args:
        head: Head of the snapshot.
        root: Unkeyed root that was confirmed for the wanted height.
        bits: Page bits of the shard's genesis.
        key: Page key of the shard.

    Raises:
        SnapshotRefusedError: Step 1.
    """

    def __init__(
        self, *, head: SnapshotHead, root: bytes, bits: int, key: bytes
    ) -> None:
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
        if root_of_groups(self._groups) != root:
            raise SnapshotRefusedError(
                "snapshot is of another root",
                got=root_of_groups(self._groups),
                expected=root,
            )
        self._store = PageStore(bits=bits, key=key)
        self._missing = bytearray(b"\x01" * (1 << bits))

    def add(self, chunk: SnapshotChunk) -> None:
        """Verify a chunk and take its pages.

        Raises:
            SnapshotRefusedError: Step 2; nothing was taken.
        """
        # 2.
        bits = self._store.bits
        if not chunk.pages or not 0 <= chunk.first < chunk.end <= 1 << bits:
            raise SnapshotRefusedError("chunk has no pages, or no such pages")
        start, end = _group_edges(bits, chunk.first, chunk.end)
        digests = [
            *_split(chunk.before),
            *(hashlib.sha256(page).digest() for page in chunk.pages),
            *_split(chunk.after),
        ]
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
        self._store.put_pages(chunk.first, chunk.pages)
        self._missing[chunk.first : chunk.end] = bytes(len(chunk.pages))

    def next_missing(self) -> int | None:
        """The first page that has not come, or ``None`` if all have."""
        at = self._missing.find(1)
        return None if at < 0 else at

    def finish(self) -> PageStore:
        """The whole store.

        Raises:
            SnapshotIncompleteError: Step 3: pages are missing.
        """
        # 3.
        missing = self.next_missing()
        if missing is not None:
            raise SnapshotIncompleteError("snapshot is not whole", got=f"no {missing}")
        return self._store


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
