"""Values of described types: friendly form to wire form, and back.

The wire form is what MessagePack carries: ``None``, booleans, whole numbers,
bytes, text, lists, maps with text keys; a struct is the list of its tag and
fields. The friendly form is what people write in JSON or on a command line.
"""

import enum
from collections.abc import Mapping, Sequence, Sized

import msgspec

from sealift.base import DecodeError, parse_hex

from ._errors import ValueMismatchError
from ._types import FieldSpec, StructSpec, TypeSpec

_MIN_INT = -(2**63)
_MAX_INT = 2**64 - 1


def _mismatch(path: str, got: object, expected: str) -> ValueMismatchError:
    shown = got if isinstance(got, bytes) else repr(got)[:80]
    return ValueMismatchError(f"{path} does not fit", got=shown, expected=expected)


def describe(spec: TypeSpec) -> str:
    """A type for people: its name, or its kind, with its bounds."""
    text = spec.name or spec.kind
    if spec.low is not None or spec.high is not None:
        low = "…" if spec.low is None else spec.low
        high = "…" if spec.high is None else spec.high
        unit = "" if spec.kind == "int" else " long"
        text += f" ({low} … {high}{unit})" if low != high else f" ({low}{unit})"
    return text


class Values:
    """Converts values of described types.

    Args:
        structs: The structs that descriptions refer to, by name.
    """

    def __init__(self, structs: Mapping[str, StructSpec]) -> None:
        self._structs = structs

    def to_wire(self, spec: TypeSpec, value: object, path: str) -> object:
        """Friendly form to wire form.

        Raises:
            ValueMismatchError: The value is not of the type.
        """
        match spec.kind:
            case "choice":
                return _choice(spec, value, path)
            case "list" | "tuple" | "map":
                return self._container(spec, value, path, to_wire=True)
            case "union":
                return self._union_to_wire(spec, value, path)
            case "struct":
                return self.struct_to_wire(spec.name, value, path)
            case _:
                return _scalar(spec, value, path)

    def from_wire(self, spec: TypeSpec, wire: object, path: str) -> object:
        """Wire form to friendly form, checked.

        Raises:
            ValueMismatchError: The wire form is not of the type.
        """
        match spec.kind:
            case "choice":
                return _choice_name(spec, wire, path)
            case "list" | "tuple" | "map":
                return self._container(spec, wire, path, to_wire=False)
            case "union":
                return self._union_from_wire(spec, wire, path)
            case "struct":
                return self.struct_from_wire(spec.name, wire, path)
            case _:
                return _scalar_shown(spec, wire, path)

    def fields_to_wire(
        self, fields: Sequence[FieldSpec], values: Mapping[str, object], path: str
    ) -> list[object]:
        """Values by field name to a list, with the defaults of what is missing.

        Raises:
            ValueMismatchError: A value is missing, unknown or of another type.
        """
        unknown = sorted(set(values) - {field.name for field in fields})
        if unknown:
            raise ValueMismatchError(
                f"{path} takes no such values",
                got=", ".join(unknown)[:80],
                expected=", ".join(field.name for field in fields),
            )
        wire: list[object] = []
        for field in fields:
            if field.name in values:
                value = values[field.name]
                wire.append(self.to_wire(field.spec, value, f"{path}.{field.name}"))
            elif field.default is not None:
                wire.append(msgspec.msgpack.decode(field.default))
            else:
                raise ValueMismatchError(f"{path}.{field.name} is missing")
        return wire

    def fields_from_wire(
        self, fields: Sequence[FieldSpec], wire: object, path: str
    ) -> dict[str, object]:
        """A list to values by field name; trailing defaults may be missing.

        Raises:
            ValueMismatchError: Too many or too few values, or another type.
        """
        if not isinstance(wire, list) or len(wire) > len(fields):
            raise _mismatch(path, wire, f"{len(fields)} values")
        shown = {}
        for index, field in enumerate(fields):
            if index < len(wire):
                value = wire[index]
            elif field.default is not None:
                value = msgspec.msgpack.decode(field.default)
            else:
                raise ValueMismatchError(f"{path}.{field.name} is missing")
            shown[field.name] = self.from_wire(
                field.spec, value, f"{path}.{field.name}"
            )
        return shown

    def struct_to_wire(self, name: str, value: object, path: str) -> list[object]:
        """A struct, or a map of its fields, to wire form.

        Raises:
            ValueMismatchError: Not such a struct.
        """
        spec = self._struct(name, path)
        if isinstance(value, msgspec.Struct):
            if type(value).__name__ != name:
                raise _mismatch(path, value, name)
            values = msgspec.structs.asdict(value)
        elif isinstance(value, Mapping) and value.get("type", name) == name:
            values = {key: part for key, part in value.items() if key != "type"}
        else:
            raise _mismatch(path, value, f"{name} as a map of its fields")
        wire = self.fields_to_wire(spec.fields, values, path)
        return wire if spec.tag is None else [spec.tag, *wire]

    def struct_from_wire(self, name: str, wire: object, path: str) -> dict[str, object]:
        """The wire form of a struct to a map of its fields, with its ``type``.

        Raises:
            ValueMismatchError: Not such a struct.
        """
        spec = self._struct(name, path)
        if not isinstance(wire, list):
            raise _mismatch(path, wire, name)
        if spec.tag is not None:
            if not wire or wire[0] != spec.tag:
                raise _mismatch(path, wire, name)
            wire = wire[1:]
        return {"type": name, **self.fields_from_wire(spec.fields, wire, path)}

    def _struct(self, name: str, path: str) -> StructSpec:
        spec = self._structs.get(name)
        if spec is None:
            raise ValueMismatchError(f"{path} is of an undescribed type", got=name)
        return spec

    def _container(
        self, spec: TypeSpec, value: object, path: str, *, to_wire: bool
    ) -> object:
        convert = self.to_wire if to_wire else self.from_wire
        if spec.kind == "map":
            if not isinstance(value, dict):
                raise _mismatch(path, value, describe(spec))
            key_spec, value_spec = spec.parts
            _check_length(spec, value, path)
            return {
                str(convert(key_spec, key, path)): convert(
                    value_spec, part, f"{path}[{key!r}]"
                )
                for key, part in value.items()
            }
        if not isinstance(value, list | tuple):
            raise _mismatch(path, value, describe(spec))
        if spec.kind == "tuple":
            if len(value) != len(spec.parts):
                raise _mismatch(path, value, f"{len(spec.parts)} parts")
            specs: Sequence[TypeSpec] = spec.parts
        else:
            _check_length(spec, value, path)
            specs = spec.parts * len(value)
        return [
            convert(part_spec, part, f"{path}[{index}]")
            for index, (part_spec, part) in enumerate(zip(specs, value, strict=True))
        ]

    def _union_to_wire(self, spec: TypeSpec, value: object, path: str) -> object:
        if value is None and any(part.kind == "none" for part in spec.parts):
            return None
        parts = [part for part in spec.parts if part.kind != "none"]
        wanted = _named_type(value)
        if wanted is not None:
            parts = [part for part in parts if part.name == wanted] or parts
        if len(parts) == 1:
            return self.to_wire(parts[0], value, path)
        for part in parts:
            try:
                return self.to_wire(part, value, path)
            except ValueMismatchError:
                continue
        raise _mismatch(path, value, " or ".join(describe(part) for part in parts))

    def _union_from_wire(self, spec: TypeSpec, wire: object, path: str) -> object:
        for part in spec.parts:
            try:
                return self.from_wire(part, wire, path)
            except ValueMismatchError:
                continue
        raise _mismatch(path, wire, " or ".join(describe(part) for part in spec.parts))


def _named_type(value: object) -> str | None:
    """The type a value says it is of: a struct's name, or a map's ``type``."""
    if isinstance(value, msgspec.Struct):
        return type(value).__name__
    if isinstance(value, Mapping):
        named = value.get("type")
        return named if isinstance(named, str) else None
    return None


def _scalar(spec: TypeSpec, value: object, path: str) -> object:
    """A scalar, from itself or from text.

    Raises:
        ValueMismatchError: Another type, or out of bounds.
    """
    plain = _from_text(spec.kind, value, path) if isinstance(value, str) else value
    if _KINDS.get(type(plain)) != spec.kind:
        raise _mismatch(path, value, describe(spec))
    if isinstance(plain, int) and spec.kind == "int":
        low = _MIN_INT if spec.low is None else spec.low
        high = _MAX_INT if spec.high is None else spec.high
        if not low <= plain <= high:
            raise _mismatch(path, value, describe(spec))
    elif isinstance(plain, bytes | str):
        _check_length(spec, plain, path)
    return plain


def _scalar_shown(spec: TypeSpec, wire: object, path: str) -> object:
    """A scalar from the wire; bytes are shown as ``0x…``.

    Raises:
        ValueMismatchError: Another type, or out of bounds.
    """
    if _KINDS.get(type(wire)) != spec.kind:
        raise _mismatch(path, wire, describe(spec))
    plain = _scalar(spec, wire, path)
    return "0x" + plain.hex() if isinstance(plain, bytes) else plain


_KINDS: Mapping[type, str] = {
    type(None): "none",
    bool: "bool",
    int: "int",
    bytes: "bytes",
    str: "str",
}
_WORDS = {"true": True, "false": False}


def _from_text(kind: str, text: str, path: str) -> object:
    if kind == "bytes":
        try:
            return parse_hex(text, length=None)
        except DecodeError:
            raise _mismatch(path, text, "hexadecimal") from None
    if kind == "int":
        try:
            return int(text, 10)
        except ValueError:
            raise _mismatch(path, text, "a whole number") from None
    if kind == "bool":
        return _WORDS.get(text, text)
    return text


def _check_length(spec: TypeSpec, value: Sized, path: str) -> None:
    low, high = spec.low or 0, spec.high
    if len(value) < low or (high is not None and len(value) > high):
        raise _mismatch(path, f"length {len(value)}", describe(spec))


def _choice(spec: TypeSpec, value: object, path: str) -> str | int:
    """A choice by its name, else by its value; a typed one by its value alone.

    Raises:
        ValueMismatchError: None of the choices.
    """
    plain = value
    if isinstance(value, enum.Enum):
        plain = value.value
    else:
        for name, known in spec.choices:
            if plain == name:
                return known
    for _, known in spec.choices:
        if plain == known and type(plain) is type(known):
            return known
    names = ", ".join(name for name, _ in spec.choices)
    raise _mismatch(path, value, f"one of {names}")


def _choice_name(spec: TypeSpec, wire: object, path: str) -> str:
    for name, value in spec.choices:
        if value == wire and type(value) is type(wire):
            return name
    raise _mismatch(path, wire, describe(spec))
