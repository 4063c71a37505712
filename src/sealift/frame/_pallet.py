"""What application authors write: pallets, their calls and their events."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ._errors import PalletError, RuntimeDefinitionError
from ._event import Event
from ._records import RecordMigration, check_records
from ._storage import StorageMap, StorageValue, check_name

if TYPE_CHECKING:
    from ._context import Context

F = TypeVar("F", bound=Callable[..., None])

_MARK = "__sealift_call__"
#: Attribute that marks a method as a getter; its value says whether it is public.
GETTER_MARK = "__sealift_getter__"
#: Pallet name under which the runtime keeps its own entries.
RESERVED_PALLET = "frame"


def call(*, weight: int) -> Callable[[F], F]:
    """Mark a pallet's method as a call of the runtime.

    The method takes ``(self, ctx, *, …)``: all arguments keyword-only and
    annotated with types msgspec can decode; it returns nothing. It keeps one
    rhythm: origin, checks, effects, event.

    Args:
        weight: Work charged before the call runs; data-dependent work is
            charged by ``ctx.charge``.

    Raises:
        RuntimeDefinitionError: A negative weight.
    """
    if weight < 0:
        raise RuntimeDefinitionError("weight of a call is negative", got=weight)

    def mark(method: F) -> F:
        setattr(method, _MARK, weight)
        return method

    return mark


class Pallet:
    """A part of a runtime: storage, calls, events, errors, hooks.

    Pallets never import each other; what one needs of another is given to its
    constructor by the composition root, typed by a small Protocol.

    A pallet may define ``genesis(self, ctx)`` or
    ``genesis(self, ctx, config: SomeStruct)``; the annotation of ``config`` is
    the type the genesis configuration of this pallet is checked against.
    """

    #: Name in calls, storage keys and events.
    name: ClassVar[str]
    #: Version of the storage layout; raise it together with a migration.
    storage_version: ClassVar[int] = 1
    #: Oldest stored version that ``on_runtime_upgrade`` accepts; ``None``
    #: means the one just before ``storage_version``.
    migrates_from: ClassVar[int | None] = None
    #: What becomes of single records of older layouts, before
    #: ``on_runtime_upgrade`` runs; of any size, for it is done ahead of the upgrade.
    record_migrations: ClassVar[tuple[RecordMigration, ...]] = ()
    #: Every event class this pallet emits.
    events: ClassVar[tuple[type[Event], ...]] = ()
    #: The errors callers may see, for the metadata.
    errors: ClassVar[tuple[type[PalletError], ...]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        name = getattr(cls, "name", None)
        if name is None:
            return
        check_name(name, "pallet")
        for attribute, item in storage_items(cls):
            if item.pallet == name:
                continue
            if item.pallet:
                setattr(cls, attribute, item.of(name))
            else:
                item.bind(name)
        check_records(
            name,
            cls.storage_version,
            cls.record_migrations,
            {item.name: item for _, item in storage_items(cls)},
        )

    def on_initialize(self, ctx: "Context") -> None:
        """Run first in every block, as root."""

    def on_finalize(self, ctx: "Context") -> None:
        """Run last in every block, as root."""

    def pre_upgrade(self, ctx: "Context") -> bytes:
        """Check the old layout; what it returns is given to ``post_upgrade``.

        It reads; what it writes or emits is dropped.
        """
        del ctx
        return b""

    def on_runtime_upgrade(self, ctx: "Context", from_version: int) -> None:
        """Migrate the storage from ``from_version`` (0: pallet is new).

        What ``record_migrations`` declare is done already.
        """

    def post_upgrade(self, ctx: "Context", before: bytes) -> None:
        """Check the new layout; raise to refuse the upgrade."""

    def migrate_step(
        self, ctx: "Context", from_version: int, cursor: bytes | None
    ) -> bytes | None:
        """Do a bounded part of a migration that takes many blocks, as root.

        A pallet that overrides this is asked first in every block, beginning with
        that of the upgrade, until it returns ``None``; meanwhile its reads must be
        right in both layouts (:class:`sealift.frame.MigratingMap` sees to it). Its
        next version must wait until it is done.

        Args:
            ctx: The block's; it may weigh as much as the hooks of one phase.
            from_version: The layout that the upgrade found.
            cursor: What the step before returned; ``None``: this is the first.
        """
        del ctx, from_version, cursor
        return None


def storage_items(
    cls: type[Pallet],
) -> list[tuple[str, "StorageValue[object] | StorageMap[object, object]"]]:
    """Attribute name and item of every storage item, bases first.

    Raises:
        RuntimeDefinitionError: Two items of one name.
    """
    found: dict[str, StorageValue[object] | StorageMap[object, object]] = {}
    for base in reversed(cls.__mro__):
        found |= {
            attribute: value
            for attribute, value in vars(base).items()
            if isinstance(value, StorageValue | StorageMap)
        }
    names = [item.name for item in found.values()]
    if len(set(names)) != len(names):
        raise RuntimeDefinitionError(
            f"pallet {cls.__name__} has two storage items of one name", got=names
        )
    return list(found.items())


def steps(pallet: Pallet) -> bool:
    """Whether a pallet migrates step by step."""
    return type(pallet).migrate_step is not Pallet.migrate_step


def declared_calls(pallet: Pallet) -> dict[str, tuple[Callable[..., None], int]]:
    """Bound method and weight of every call, by name, in order of definition."""
    found: dict[str, tuple[Callable[..., None], int]] = {}
    for base in reversed(type(pallet).__mro__):
        for name, value in vars(base).items():
            weight = getattr(value, _MARK, None)
            if weight is not None:
                found[check_name(name, "call")] = (getattr(pallet, name), weight)
    return found


def declared_getters(pallet: Pallet) -> dict[str, tuple[Callable[..., object], bool]]:
    """Bound method and publicity of every getter, by name, in order."""
    found: dict[str, tuple[Callable[..., object], bool]] = {}
    for base in reversed(type(pallet).__mro__):
        for name, value in vars(base).items():
            public = getattr(value, GETTER_MARK, None)
            if isinstance(public, bool):
                found[check_name(name, "getter")] = (getattr(pallet, name), public)
    return found
