"""Records of one layout made records of the next, each by itself.

What can be said of one record alone is declared, not programmed: an enclave can
then convert a million records long before the block of the upgrade, page by page,
and keep what it made current as single records change.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ._context import CallGuard
from ._errors import (
    RecordCollisionError,
    RecordMigrationError,
    RecordTooLargeError,
    RuntimeDefinitionError,
)
from ._state import Overlay
from ._storage import Codec, StorageMap, StorageValue, check_name, key_reader

K = TypeVar("K")
Old = TypeVar("Old")
New = TypeVar("New")

#: No migrated record is longer.
MAX_RECORD_BYTES = 1024 * 1024

#: One record's passage: what its key says, and its bytes; ``None``: it is dropped.
_Convert = Callable[[bytes, bytes], bytes | None]
_Item = StorageValue[object] | StorageMap[object, object]


class RecordMigration:
    """What becomes of the records of one storage item after ``from_version``.

    The function is pure: it depends on the key and the old record alone, not on
    other records, and is called as often and in whatever order it pleases. What
    needs a view of the whole (totals, indices) is written by ``on_runtime_upgrade``,
    which finds the records migrated already.

    Make one by :meth:`of_map`, :meth:`of_value`, :meth:`renamed` or :meth:`dropped`.
    """

    __slots__ = ("convert", "from_version", "item", "key", "new", "old", "to")

    def __init__(
        self,
        item: str,
        *,
        from_version: int,
        to: str | None,
        convert: _Convert | None = None,
        key: object = None,
        old: object = None,
        new: object = None,
    ) -> None:
        self.item = check_name(item, "storage item")
        self.to = None if to is None else check_name(to, "storage item")
        self.from_version = from_version
        self.convert = convert
        self.key = key
        self.old = old
        self.new = new

    @classmethod
    def of_map(
        cls,
        item: str,
        change: Callable[[K, Old], New | None],
        *,
        from_version: int,
        key: type[K],
        old: type[Old],
        new: type[New],
        to: str | None = None,
    ) -> "RecordMigration":
        """Every record of a map becomes what ``change`` makes of key and record.

        Args:
            item: Name of the map in the old layout.
            change: The pure function; ``None`` as new record drops it.
            from_version: The layout that has the old records; the next has the new.
            key: Key type of the map.
            old: What the records were written with.
            new: What they are from the next version on.
            to: The map's name from the next version on, if another.

        Raises:
            RuntimeDefinitionError: A type that cannot be stored.
        """
        read_key = key_reader(key)
        old_codec: Codec[Old] = Codec(old, item)
        new_codec: Codec[New] = Codec(new, item)

        def convert(at: bytes, raw: bytes) -> bytes | None:
            # the reader gives what the key type says
            made = change(read_key(at), old_codec.decode(raw))  # type: ignore[arg-type]
            return None if made is None else new_codec.encode(made)

        return cls(
            item,
            from_version=from_version,
            to=to or item,
            convert=convert,
            key=key,
            old=old,
            new=new,
        )

    @classmethod
    def of_value(
        cls,
        item: str,
        change: Callable[[Old], New | None],
        *,
        from_version: int,
        old: type[Old],
        new: type[New],
        to: str | None = None,
    ) -> "RecordMigration":
        """A value becomes what ``change`` makes of it; ``None`` drops it.

        Raises:
            RuntimeDefinitionError: A type that cannot be stored.
        """
        old_codec: Codec[Old] = Codec(old, item)
        new_codec: Codec[New] = Codec(new, item)

        def convert(_: bytes, raw: bytes) -> bytes | None:
            made = change(old_codec.decode(raw))
            return None if made is None else new_codec.encode(made)

        return cls(
            item,
            from_version=from_version,
            to=to or item,
            convert=convert,
            old=old,
            new=new,
        )

    @classmethod
    def renamed(cls, item: str, *, from_version: int, to: str) -> "RecordMigration":
        """An item has another name from the next version on, its records stay."""
        return cls(item, from_version=from_version, to=to)

    @classmethod
    def dropped(cls, item: str, *, from_version: int) -> "RecordMigration":
        """An item is gone from the next version on, with its records."""
        return cls(item, from_version=from_version, to=None)


class Route:
    """The passage of one item's records through all versions, in order."""

    __slots__ = ("_steps", "label", "prefix", "target")

    def __init__(
        self,
        pallet: str,
        item: str,
        steps: Iterable[RecordMigration | None],
        target: str | None,
    ) -> None:
        self.label = f"{pallet}.{item}"
        self.prefix = f"{pallet}/{item}/".encode()
        self.target = None if target is None else f"{pallet}/{target}/".encode()
        self._steps = tuple(steps)

    def convert(self, at: bytes, raw: bytes) -> bytes | None:
        """The new record of an old one; ``at`` is its key without the prefix."""
        now: bytes | None = raw
        for step in self._steps:
            if step is None:
                raise RecordCollisionError("another item takes this one's name")
            if now is None or step.to is None:
                return None
            if step.convert is not None:
                now = step.convert(at, now)
        if now is not None and len(now) > MAX_RECORD_BYTES:
            raise RecordTooLargeError(
                "migrated record is too large",
                got=f"{len(now)} B",
                expected=f"≤ {MAX_RECORD_BYTES} B",
            )
        return now


class RecordPlan:
    """What the records of one state go through to be of this code's layout.

    Law: :meth:`migrate` looks at one entry at a time, and where an entry goes
    (:meth:`target`) depends on its key alone; so entries may be converted in any
    order, and again when they change.
    """

    __slots__ = ("_routes",)

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: Mapping[bytes, Route] = {
            route.prefix: route
            for route in sorted(routes, key=lambda route: route.label)
        }

    def __bool__(self) -> bool:
        """Whether any record could change."""
        return bool(self._routes)

    @property
    def prefixes(self) -> tuple[bytes, ...]:
        """Under which keys there are records to convert."""
        return tuple(self._routes)

    def target(self, key: bytes) -> bytes | None:
        """Where the entry under a key goes; ``None`` if it is dropped."""
        prefix = _prefix(key)
        route = self._routes.get(prefix)
        if route is None:
            return key
        return None if route.target is None else route.target + key[len(prefix) :]

    def migrate(self, key: bytes, raw: bytes) -> tuple[bytes, bytes] | None:
        """The new entry of an old one; ``None`` if it is dropped.

        Raises:
            RecordMigrationError: Its function raised, or its record does not fit;
                names the item, and nothing of key and record.
        """
        prefix = _prefix(key)
        route = self._routes.get(prefix)
        if route is None:
            return key, raw
        at = key[len(prefix) :]
        made: bytes | None = None
        guard = CallGuard()
        with guard:
            made = route.convert(at, raw)
        if guard.failure is not None:
            raise RecordMigrationError(
                f"a record of {route.label} does not migrate",
                got=guard.failure.code,
                check=f"record:{route.label}",
            )
        if made is None or route.target is None:
            return None
        return route.target + at, made

    def run(self, overlay: Overlay) -> int:
        """Convert every record of a state at once.

        Returns:
            How many there were.

        Raises:
            RecordMigrationError: The first that does not migrate; the caller drops
                the overlay.
        """
        gone: list[bytes] = []
        made: dict[bytes, bytes] = {}
        for prefix in self._routes:
            for key, raw in overlay.items(prefix):
                entry = self.migrate(key, raw)
                gone.append(key)
                if entry is not None:
                    made[entry[0]] = entry[1]
        for key in gone:
            if key not in made:
                overlay.delete(key)
        for key, new in made.items():
            overlay.put(key, new)
        return len(gone)


def plan_routes(
    pallet: str, declared: Iterable[RecordMigration], old: int, new: int
) -> list[Route]:
    """The routes of one pallet's items from one storage version to another."""
    stages = _stages(declared, old, new)
    names = {name for stage in stages for name in (*stage, *_arrivals(stage))}
    return [_route(pallet, name, stages) for name in sorted(names)]


def check_records(
    pallet: str,
    storage_version: int,
    declared: Iterable[RecordMigration],
    items: Mapping[str, _Item],
) -> None:
    """Refuse declarations that cannot be meant.

    1. Each is of a layout before this code's, and one of its version and item.
    2. An item takes the name of none that has records in the same version.
    3. What one version made, the next reads.
    4. What is left in the end is what the pallet declares.

    Raises:
        RuntimeDefinitionError: They break one of these.
    """
    declared = tuple(declared)
    # 1.
    for one in declared:
        if not 1 <= one.from_version < storage_version:
            raise _wrong(
                pallet, one, one.from_version, f"from_version 1 … {storage_version - 1}"
            )
    places = [(one.from_version, one.item) for one in declared]
    if len(set(places)) != len(places):
        raise RuntimeDefinitionError(
            f"pallet {pallet} declares two record migrations of one item and version",
            got=sorted(places),
        )
    stages = _stages(declared, 1, storage_version)
    for at, stage in enumerate(stages):
        _check_names(pallet, stage)
        for one in stage.values():
            if one.to is not None:
                _check_chain(pallet, one, stages[at + 1 :], items)


def _stages(
    declared: Iterable[RecordMigration], old: int, new: int
) -> list[dict[str, RecordMigration]]:
    """What is declared of each version from ``old`` on, by item."""
    declared = tuple(declared)
    return [
        {one.item: one for one in declared if one.from_version == version}
        for version in range(old, new)
    ]


def _check_names(pallet: str, stage: Mapping[str, RecordMigration]) -> None:
    # 2.
    targets = [one.to for one in stage.values() if one.to is not None]
    for one in stage.values():
        taken = one.to in stage and one.to != one.item
        if taken or targets.count(str(one.to)) > 1:
            raise _wrong(pallet, one, one.to, "a name that is free")


def _check_chain(
    pallet: str,
    first: RecordMigration,
    later: Iterable[Mapping[str, RecordMigration]],
    items: Mapping[str, _Item],
) -> None:
    name, kind = str(first.to), first.new
    # 3.
    for stage in later:
        follower = stage.get(name)
        if follower is None:
            continue
        both = follower.convert is not None and first.convert is not None
        if both and follower.old != kind:
            raise _wrong(pallet, follower, follower.old, f"old={kind}")
        if follower.to is None or follower.convert is not None:
            return  # it is checked by itself
        name = follower.to
    # 4.
    item = items.get(name)
    if item is None:
        raise _wrong(
            pallet, first, f"{name} is not declared", "a storage item of the pallet"
        )
    if first.convert is None:
        return
    if item.kind != kind:
        raise _wrong(pallet, first, f"new={kind}", item.kind)
    key = item.key_kind if isinstance(item, StorageMap) else None
    if key != first.key:
        raise _wrong(pallet, first, f"key={first.key}", key)


def _wrong(
    pallet: str, one: RecordMigration, got: object, expected: object
) -> RuntimeDefinitionError:
    return RuntimeDefinitionError(
        f"record migration of {pallet}.{one.item} from version {one.from_version} "
        "does not fit",
        got=got,
        expected=expected,
    )


def _route(
    pallet: str, item: str, stages: Iterable[Mapping[str, RecordMigration]]
) -> Route:
    steps: list[RecordMigration | None] = []
    name: str | None = item
    for stage in stages:
        if name is None:
            break
        one = stage.get(name)
        if one is not None:
            steps.append(one)
            name = one.to
        elif name in _arrivals(stage):
            # records where a renamed item's are to come
            return Route(pallet, item, (*steps, None), None)
    return Route(pallet, item, steps, name)


def _arrivals(stage: Mapping[str, RecordMigration]) -> set[str]:
    """The names that items take in a version, where they had others before."""
    return {
        one.to for one in stage.values() if one.to is not None and one.to != one.item
    }


def _prefix(key: bytes) -> bytes:
    """``pallet/item/`` of a state key."""
    return key[: key.find(b"/", key.find(b"/") + 1) + 1]
