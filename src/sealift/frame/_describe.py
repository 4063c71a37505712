"""Describes a runtime's pallets: the metadata, and the check of their types."""

import inspect
import typing
from collections.abc import Callable, Iterable

from sealift.base import encode

from ._arguments import argument_types
from ._errors import RuntimeDefinitionError
from ._metadata import (
    CallSpec,
    GetterSpec,
    NoteSpec,
    PalletSpec,
    RuntimeMetadata,
    StorageSpec,
)
from ._pallet import (
    Pallet,
    declared_calls,
    declared_getters,
    storage_items,
)
from ._storage import StorageMap, StorageValue
from ._types import FieldSpec, TypeRegistry, TypeSpec, first_line


def describe_runtime(
    name: str, version: int, pallets: Iterable[Pallet]
) -> RuntimeMetadata:
    """The metadata of a runtime.

    Raises:
        RuntimeDefinitionError: A type that may not be part of consensus, or
            two different structs of one name.
    """
    registry = TypeRegistry()
    specs = tuple(_describe_pallet(pallet, registry) for pallet in pallets)
    return RuntimeMetadata(
        name=name, version=version, pallets=specs, types=registry.structs()
    )


def _describe_pallet(pallet: Pallet, registry: TypeRegistry) -> PalletSpec:
    for event in pallet.events:
        registry.describe(event, f"{pallet.name}.{event.__name__}")
    return PalletSpec(
        name=pallet.name,
        doc=first_line(type(pallet).__doc__),
        storage_version=pallet.storage_version,
        calls=_describe_calls(pallet, registry),
        storage=tuple(
            _describe_item(pallet.name, item, registry)
            for _, item in storage_items(type(pallet))
        ),
        events=tuple(
            NoteSpec(name=event.__name__, doc=first_line(event.__doc__))
            for event in pallet.events
        ),
        errors=tuple(
            NoteSpec(name=error.__name__, doc=first_line(error.__doc__))
            for error in pallet.errors
        ),
        getters=tuple(_describe_getters(pallet, registry)),
    )


def _describe_calls(pallet: Pallet, registry: TypeRegistry) -> tuple[CallSpec, ...]:
    calls = []
    for name, (method, weight) in declared_calls(pallet).items():
        label = f"{pallet.name}.{name}"
        args = tuple(
            _describe_argument(field, kind, default, label, registry)
            for field, kind, default in argument_types(method, label)
        )
        doc = first_line(method.__doc__)
        calls.append(CallSpec(name=name, doc=doc, weight=weight, args=args))
    return tuple(calls)


def _describe_getters(pallet: Pallet, registry: TypeRegistry) -> Iterable[GetterSpec]:
    for name, (method, public) in declared_getters(pallet).items():
        label = f"{pallet.name}.{name}"
        args = tuple(
            _describe_argument(field, kind, default, label, registry)
            for field, kind, default in argument_types(
                method, label, leading=1 if public else 2
            )
        )
        answer = _describe_answer(method, label, registry)
        doc = first_line(method.__doc__)
        yield GetterSpec(name=name, doc=doc, public=public, args=args, answer=answer)


def _describe_answer(
    method: Callable[..., object], label: str, registry: TypeRegistry
) -> TypeSpec | None:
    """The type of an answer; ``None`` if it has none that can be described.

    Answers are no part of consensus, so this is no reason to refuse a runtime.
    """
    hints = typing.get_type_hints(method, include_extras=True)
    try:
        return registry.describe(hints.get("return", object), label)
    except RuntimeDefinitionError:
        return None


def _describe_argument(
    name: str, kind: object, default: object, label: str, registry: TypeRegistry
) -> FieldSpec:
    raw = None
    if default is not inspect.Parameter.empty:
        try:
            raw = encode(default)
        except TypeError as error:
            raise RuntimeDefinitionError(
                f"default of {label}.{name} cannot be encoded ({error})"
            ) from error
    return registry.field(name, kind, label, raw)


def _describe_item(
    pallet: str,
    item: StorageValue[object] | StorageMap[object, object],
    registry: TypeRegistry,
) -> StorageSpec:
    label = f"{pallet}.{item.name}"
    key = None
    if isinstance(item, StorageMap):
        key = registry.describe(item.key_kind, f"key of {label}")
    value = registry.describe(item.kind, label)
    return StorageSpec(name=item.name, key=key, value=value, default=item.default)
