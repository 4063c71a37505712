"""The diff of a block: its changed entries as bytes."""

from sealift.base import DecodeError, decode, encode

from ._state import Changes

_Entry = tuple[bytes, bytes | None]


def encode_diff(changes: Changes) -> bytes:
    """The canonical encoding of changes: pairs in key order."""
    return encode(sorted(changes.items()))


def parse_diff(raw: bytes, *, limit: int) -> dict[bytes, bytes | None]:
    """Parse a diff; total over all bytes.

    Args:
        raw: Bytes that ``encode_diff`` made.
        limit: Most bytes that are looked at.

    Raises:
        TooLargeError: More than ``limit`` bytes.
        DecodeError: Not the canonical encoding of a diff.
    """
    entries = decode(tuple[_Entry, ...], raw, limit=limit)
    changes = dict(entries)
    if encode_diff(changes) != raw:
        raise DecodeError("diff is not in canonical encoding", got=raw)
    return changes
