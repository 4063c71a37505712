"""State as bytes: the port every commitment offers, and overlays over it.

A runtime writes into layers of byte overlays (call over block over store). A
failed call drops its layer; a whole block is handed to the store as one
mapping of changed keys. Key order, never insertion order, reaches a root.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

#: A set of changes: the new value of a key, or ``None`` if it was deleted.
Changes = Mapping[bytes, bytes | None]


class StateReader(Protocol):
    """Something that state can be read from."""

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, or ``None``."""
        ...

    def items(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        """All entries whose key starts with ``prefix``, in key order."""
        ...


class StateStore(StateReader, Protocol):
    """The port behind which a commitment to the whole state stands.

    Law: ``root()`` is a function of the set of entries alone, not of the
    history that led to them; ``get`` and ``items`` see exactly what ``apply``
    left.
    """

    def apply(self, changes: Changes) -> None:
        """Write and delete entries, all at once."""
        ...

    def root(self) -> bytes:
        """The 32 bytes that commit to every entry."""
        ...


@runtime_checkable
class PagedReader(StateReader, Protocol):
    """State on numbered pages, which can be read one by one.

    On which page an entry lies depends on its key alone.
    """

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        ...

    def page_of(self, key: bytes) -> int:
        """The number of the page that holds a key."""
        ...

    def page_items(self, number: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The entries of one page under a prefix, in key order."""
        ...


class Meter(Protocol):
    """What counts work."""

    def charge(self, weight: int) -> None:
        """Charge for work; raises if there is none left."""
        ...


class _CachedReader:
    """Reads of one block from a store, each key looked up once."""

    __slots__ = ("_seen", "_store")

    def __init__(self, store: StateReader) -> None:
        self._store = store
        self._seen: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        if key not in self._seen:
            self._seen[key] = self._store.get(key)
        return self._seen[key]

    def items(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        return self._store.items(prefix)

    @property
    def page_count(self) -> int:
        store = self._store
        return store.page_count if isinstance(store, PagedReader) else 1

    def page_of(self, key: bytes) -> int:
        store = self._store
        return store.page_of(key) if isinstance(store, PagedReader) else 0

    def page_items(self, number: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        store = self._store
        if isinstance(store, PagedReader):
            return store.page_items(number, prefix)
        return list(store.items(prefix))


class Overlay:
    """Changes over a reader, which stays untouched until they are committed.

    Use: ``Overlay.over(store)`` for a block, ``child()`` for a call,
    ``commit_to()`` to hand a child's changes to its parent; dropping a child is
    the rollback. What is below an overlay must not change while it lives.
    """

    __slots__ = ("_below", "_changes")

    def __init__(self, below: StateReader) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}

    @classmethod
    def over(cls, store: StateReader) -> "Overlay":
        """The bottom layer of one block; remembers what it read."""
        return cls(_CachedReader(store))

    def get(self, key: bytes) -> bytes | None:
        """The value under a key as seen through all layers."""
        if key in self._changes:
            return self._changes[key]
        return self._below.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write an entry in this layer."""
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        """Delete an entry in this layer; absent keys may be deleted."""
        self._changes[key] = None

    def items(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """All entries under a prefix, in key order, as they are now."""
        merged: dict[bytes, bytes | None] = dict(self._below.items(prefix))
        merged |= {
            key: value for key, value in self._changes.items() if key.startswith(prefix)
        }
        return sorted(
            (key, value) for key, value in merged.items() if value is not None
        )

    @property
    def page_count(self) -> int:
        """How many pages the state below has; 1 if it has none."""
        below = self._below
        return below.page_count if isinstance(below, PagedReader) else 1

    def page_of(self, key: bytes) -> int:
        """The number of the page that holds a key."""
        below = self._below
        return below.page_of(key) if isinstance(below, PagedReader) else 0

    def page_items(self, number: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The entries of one page under a prefix, in key order, as they are now.

        Bounded work, where :meth:`items` reads the whole state.
        """
        below = self._below
        merged: dict[bytes, bytes | None] = dict(
            below.page_items(number, prefix)
            if isinstance(below, PagedReader)
            else below.items(prefix)
        )
        merged |= {
            key: value
            for key, value in self._changes.items()
            if key.startswith(prefix) and self.page_of(key) == number
        }
        return sorted(
            (key, value) for key, value in merged.items() if value is not None
        )

    def child(self) -> "Overlay":
        """A new layer over this one."""
        return Overlay(self)

    def metered(self, meter: Meter, weight: int) -> "Overlay":
        """A new layer over this one in which every access costs ``weight``.

        For code that nobody called and that may run long: migrations. What loops
        over the state comes to an end so.
        """
        return _MeteredOverlay(self, meter, weight)

    def commit_to(self, parent: "Overlay") -> None:
        """Hand all changes of this layer to the one below it."""
        parent._changes.update(self._changes)  # noqa: SLF001 - same class
        self._changes = {}

    @property
    def changes(self) -> Changes:
        """What this layer wrote, for ``StateStore.apply`` and for diffs."""
        return self._changes


class _MeteredOverlay(Overlay):
    """An overlay whose accesses are charged, also those of layers over it."""

    __slots__ = ("_meter", "_weight")

    def __init__(self, below: Overlay, meter: Meter, weight: int) -> None:
        super().__init__(below)
        self._meter = meter
        self._weight = weight

    def get(self, key: bytes) -> bytes | None:
        self._meter.charge(self._weight)
        return super().get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._meter.charge(self._weight)
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self._meter.charge(self._weight)
        super().delete(key)

    def items(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        found = super().items(prefix)
        self._meter.charge(self._weight * (1 + len(found)))
        return found

    def page_items(self, number: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        found = super().page_items(number, prefix)
        self._meter.charge(self._weight * (1 + len(found)))
        return found
