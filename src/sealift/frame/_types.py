"""Types as data: what may be part of consensus, described for clients.

A ``TypeSpec`` says enough of a type that somebody who holds only the runtime's
metadata can encode and decode its values. Describing a type is also the check
that it may take part in consensus: no floats, no sets (their order depends on
a hash seed), no clocks, nothing untyped, structs as arrays.
"""

import enum
import types
import typing
from collections.abc import Iterable

import msgspec

from sealift.base import Message, encode

from ._errors import RuntimeDefinitionError

_SCALARS: dict[object, str] = {
    bool: "bool",
    int: "int",
    bytes: "bytes",
    str: "str",
    None: "none",
    types.NoneType: "none",
}


class TypeSpec(Message, kw_only=True):
    """One type.

    ``kind`` is one of bool, int, bytes, str, none, choice, list, tuple, map,
    union, struct. ``name`` is the NewType's name, or the struct's. ``low`` and
    ``high`` bound a number, or a length; ``parts`` are element types or a
    union's members; ``choices`` are an enumeration's names and values.
    """

    kind: str
    name: str = ""
    low: int | None = None
    high: int | None = None
    parts: tuple["TypeSpec", ...] = ()
    choices: tuple[tuple[str, str | int], ...] = ()


class FieldSpec(Message, kw_only=True):
    """A field or argument; ``default`` is its encoding, if there is one."""

    name: str
    spec: TypeSpec
    default: bytes | None = None


class StructSpec(Message, kw_only=True):
    """A struct: encoded as an array, the tag (if any) before the fields."""

    name: str
    tag: str | None
    fields: tuple[FieldSpec, ...]


def first_line(doc: str | None) -> str:
    """The first line of a docstring, for metadata."""
    return (doc or "").strip().partition("\n")[0]


class TypeRegistry:
    """Describes types; collects the structs they are made of, by name."""

    def __init__(self) -> None:
        self._specs: dict[str, StructSpec] = {}
        self._classes: dict[str, type[msgspec.Struct]] = {}

    def structs(self) -> tuple[StructSpec, ...]:
        """All structs met so far, sorted by name."""
        return tuple(self._specs[name] for name in sorted(self._specs))

    def describe(self, kind: object, where: str) -> TypeSpec:
        """The description of a type.

        Args:
            kind: The type, as annotated.
            where: What it is the type of, for the refusal.

        Raises:
            RuntimeDefinitionError: The type may not be part of consensus.
        """
        if kind in _SCALARS:
            return TypeSpec(kind=_SCALARS[kind])
        if isinstance(kind, typing.NewType):
            inner = self.describe(kind.__supertype__, where)
            return msgspec.structs.replace(inner, name=kind.__name__)
        if isinstance(kind, type):
            return self._describe_class(kind, where)
        return self._describe_form(kind, where)

    def field(
        self, name: str, kind: object, where: str, default: bytes | None
    ) -> FieldSpec:
        """The description of a field or argument."""
        spec = self.describe(kind, f"{where}.{name}")
        return FieldSpec(name=name, spec=spec, default=default)

    def _describe_class(self, kind: type, where: str) -> TypeSpec:
        if issubclass(kind, enum.Enum):
            pairs = [(member.name, member.value) for member in kind]
            if not all(type(value) in (str, int) for _, value in pairs):
                raise RuntimeDefinitionError(f"enumeration of {where} is not plain")
            return TypeSpec(kind="choice", name=kind.__name__, choices=tuple(pairs))
        if issubclass(kind, msgspec.Struct):
            self._add_struct(kind, where)
            return TypeSpec(kind="struct", name=kind.__name__)
        raise RuntimeDefinitionError(
            f"type of {where} may not be part of consensus",
            got=kind.__name__,
            hint="Floats, sets, clocks and untyped values differ between machines",
        )

    def _describe_form(self, kind: object, where: str) -> TypeSpec:
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return _constrained(self.describe(args[0], where), args[1:], where)
        if origin in (typing.Union, types.UnionType):
            return TypeSpec(kind="union", parts=self._describe_all(args, where))
        if origin is typing.Literal and all(type(arg) in (str, int) for arg in args):
            choices = tuple((str(arg), arg) for arg in args)
            return TypeSpec(kind="choice", choices=choices)
        if origin is list or (origin is tuple and args[1:] == (Ellipsis,)):
            return TypeSpec(kind="list", parts=self._describe_all(args[:1], where))
        if origin is tuple:
            return TypeSpec(kind="tuple", parts=self._describe_all(args, where))
        if origin is dict:
            parts = self._describe_all(args, where)
            if parts[0].kind == "str" or _texts(parts[0]):
                return TypeSpec(kind="map", parts=parts)
        raise RuntimeDefinitionError(
            f"type of {where} may not be part of consensus", got=kind
        )

    def _describe_all(
        self, kinds: Iterable[object], where: str
    ) -> tuple[TypeSpec, ...]:
        return tuple(self.describe(kind, where) for kind in kinds)

    def _add_struct(self, cls: type[msgspec.Struct], where: str) -> None:
        name = cls.__name__
        known = self._classes.get(name)
        if known is cls:
            return
        config = cls.__struct_config__
        if known is not None:
            raise RuntimeDefinitionError(
                f"two structs of one name in {where}",
                got=f"{cls.__module__}.{name}",
                expected=f"{known.__module__}.{name}",
            )
        if not config.array_like or not (config.tag is None or type(config.tag) is str):
            raise RuntimeDefinitionError(
                f"struct of {where} is not a Message", got=name
            )
        self._classes[name] = cls
        fields = tuple(
            self.field(field.name, field.type, name, _default_of(field))
            for field in msgspec.structs.fields(cls)
        )
        self._specs[name] = StructSpec(name=name, tag=config.tag, fields=fields)


def _texts(spec: TypeSpec) -> bool:
    return spec.kind == "choice" and all(
        type(value) is str for _, value in spec.choices
    )


def _default_of(field: msgspec.structs.FieldInfo) -> bytes | None:
    if field.default is not msgspec.NODEFAULT:
        return encode(field.default)
    if field.default_factory is not msgspec.NODEFAULT:
        return encode(field.default_factory())
    return None


def _constrained(spec: TypeSpec, notes: Iterable[object], where: str) -> TypeSpec:
    low, high = spec.low, spec.high
    for note in notes:
        if not isinstance(note, msgspec.Meta):
            continue
        if note.pattern is not None or note.multiple_of is not None:
            raise RuntimeDefinitionError(
                f"constraint of {where} cannot be described to clients",
                got=note,
                hint="Bound it by size, and check the rest in the call",
            )
        if spec.kind == "int":
            low = _whole(note.ge, low)
            high = _whole(note.le, high)
            low = low if note.gt is None else int(note.gt) + 1
            high = high if note.lt is None else int(note.lt) - 1
        else:
            low = low if note.min_length is None else note.min_length
            high = high if note.max_length is None else note.max_length
    return msgspec.structs.replace(spec, low=low, high=high)


def _whole(bound: float | None, otherwise: int | None) -> int | None:
    return otherwise if bound is None else int(bound)
