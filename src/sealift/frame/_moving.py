"""A map on the move from one item to another, over many blocks."""

from collections.abc import Callable
from typing import Generic, TypeVar, cast

from ._errors import StorageMissingError, StorageValueError
from ._storage import Codec, HasStorage, StorageMap, check_name

K = TypeVar("K")
V = TypeVar("V")
Old = TypeVar("Old")

#: One step moves so many records, or a page more.
STEP_RECORDS = 1000
#: One step looks at so many pages at most.
STEP_PAGES = 4096
_CURSOR_BYTES = 4


class MigratingMap(StorageMap[K, V], Generic[K, V, Old]):
    """A map whose records still lie, in part, in an older map of another name.

    Law: at any moment it reads like a map whose records were all converted at
    once: what is not moved yet is converted as it is read. What is written moves.

    For an application whose records cannot be migrated ahead of the upgrade by
    :class:`sealift.frame.RecordMigration`. The pallet hands its ``migrate_step`` on
    to :meth:`step`; once that is done, a later version may declare a plain
    ``StorageMap`` of the new name.

    Args:
        name: Name of the map; another than ``before``.
        key: Key type, that of both maps.
        value: Value type.
        before: Name of the older map; the pallet does not declare it any more.
        old: Value type of the older map.
        change: New record of an old one; depends on key and record alone.
    """

    def __init__(
        self,
        name: str,
        *,
        key: type[K],
        value: type[V],
        before: str,
        old: type[Old],
        change: Callable[[K, Old], V],
    ) -> None:
        super().__init__(name, key=key, value=value)
        if check_name(before, "storage item") == name:
            raise StorageValueError("a map cannot move to its own name", got=name)
        self._before = before
        self._value = value
        self._key_type = key
        self._old: Codec[Old] = Codec(old, before)
        self._old_kind = old
        self._change = change

    def of(self, pallet: str) -> "MigratingMap[K, V, Old]":
        """The same item in a named pallet."""
        twin = MigratingMap(
            self.name,
            key=self._key_type,
            value=self._value,
            before=self._before,
            old=self._old_kind,
            change=self._change,
        )
        twin.bind(pallet)
        return twin

    def get(self, ctx: HasStorage, key: K) -> V:
        """The record under a key, wherever it lies.

        Raises:
            StorageMissingError: There is none.
        """
        found = self.find(ctx, key)
        if found is None:
            raise StorageMissingError(
                f"{self.pallet}.{self.name} has no such entry", got=key
            )
        return found

    def find(self, ctx: HasStorage, key: K) -> V | None:
        """The record under a key, wherever it lies, or ``None``."""
        found = super().find(ctx, key)
        if found is not None:
            return found
        raw = ctx.storage.get(self._old_key(key))
        return None if raw is None else self._change(key, self._old.decode(raw))

    def put(self, ctx: HasStorage, key: K, value: V) -> None:
        """Store a record in the new map."""
        super().put(ctx, key, value)
        self._forget_old(ctx, key)

    def delete(self, ctx: HasStorage, key: K) -> None:
        """Forget a record, wherever it lies."""
        super().delete(ctx, key)
        self._forget_old(ctx, key)

    def contains(self, ctx: HasStorage, key: K) -> bool:
        """Whether there is a record under the key, wherever it lies."""
        return super().contains(ctx, key) or (
            ctx.storage.get(self._old_key(key)) is not None
        )

    def items(self, ctx: HasStorage) -> list[tuple[K, V]]:
        """All records, in the byte order of their keys; reads the whole state."""
        found = {
            raw[len(self._prefix_before) :]: None
            for raw, _ in ctx.storage.items(self._prefix_before)
        }
        found |= {
            raw[len(self.prefix) :]: None for raw, _ in ctx.storage.items(self.prefix)
        }
        keys = [cast("K", self._read_key(raw)) for raw in sorted(found)]
        return [(key, self.get(ctx, key)) for key in keys]

    def step(
        self, ctx: HasStorage, cursor: bytes | None, *, records: int = STEP_RECORDS
    ) -> bytes | None:
        """Move the next records; for ``Pallet.migrate_step``.

        Args:
            ctx: The step's context.
            cursor: What the step before returned.
            records: About so many are moved; whole pages of the state at a time.

        Returns:
            Where the next step goes on; ``None``: all records have moved.
        """
        storage = ctx.storage
        number = 0 if cursor is None else int.from_bytes(cursor, "big")
        end = min(storage.page_count, number + STEP_PAGES)
        moved = 0
        while number < end and moved < records:
            for at, raw in storage.page_items(number, self._prefix_before):
                rest = at[len(self._prefix_before) :]
                key = cast("K", self._read_key(rest))
                new = self._change(key, self._old.decode(raw))
                storage.put(self.prefix + rest, self._codec.encode(new))
                storage.delete(at)
                moved += 1
            number += 1
        if number >= storage.page_count:
            return None
        return number.to_bytes(_CURSOR_BYTES, "big")

    @property
    def _prefix_before(self) -> bytes:
        return f"{self.pallet}/{self._before}/".encode()

    def _old_key(self, key: K) -> bytes:
        return self._prefix_before + self.key(key)[len(self.prefix) :]

    def _forget_old(self, ctx: HasStorage, key: K) -> None:
        old = self._old_key(key)
        if ctx.storage.get(old) is not None:
            ctx.storage.delete(old)
