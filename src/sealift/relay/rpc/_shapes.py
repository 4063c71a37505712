"""Two-way JSON shapes: one table says how a value is read and written.

CometBFT's JSON: int64 and uint64 are strings, smaller integers numbers, bytes
base64 or upper-case hexadecimal, times RFC 3339 with up to nine digits.
Reading is total: any JSON gives a value or :class:`RpcFormatError`.
"""

import binascii
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, Generic, TypeVar

import msgspec

from sealift.relay._errors import RpcFormatError
from sealift.relay._types import ZERO_TIME_SECONDS, Timestamp

T = TypeVar("T")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = 80
_REQUIRED: Final = object()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,19})", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Shape(Generic[T]):
    """How one kind of value is read from and written to JSON."""

    read: Callable[[object, str], T]
    write: Callable[[T], object]

    def parse(self, value: object) -> T:
        """The value of decoded JSON.

        Raises:
            RpcFormatError: Another format; the message names the place.
        """
        return self.read(value, "")

    def render(self, value: T) -> object:
        """Plain JSON data, as CometBFT v0.38 would write it."""
        return self.write(value)


@dataclass(frozen=True, slots=True)
class Field:
    """One key of an object; built by :func:`key`."""

    name: str
    attribute: str
    read: Callable[[object, str], object]
    write: Callable[[object], object]
    default: object
    omit: bool


def key(
    name: str,
    shape: Shape[T],
    *,
    to: str = "",
    default: object = _REQUIRED,
    omit: bool = False,
) -> Field:
    """A key of an object.

    Args:
        name: The JSON key.
        shape: What stands there.
        to: The attribute, if named differently.
        default: What a missing key or ``null`` means; required if not given.
        omit: Whether the default is left out when written (``omitempty``).
    """

    def write(value: object) -> object:
        return shape.write(value)  # type: ignore[arg-type]

    return Field(name, to or name, shape.read, write, default, omit)


def record(make: Callable[..., T], *fields: Field) -> Shape[T]:
    """An object with these keys; other keys are ignored."""

    def read(value: object, where: str) -> T:
        if not isinstance(value, dict):
            raise wrong(where, value, "an object")
        found: dict[str, object] = {}
        for one in fields:
            item = value.get(one.name)
            place = f"{where}.{one.name}" if where else one.name
            if item is not None:
                found[one.attribute] = one.read(item, place)
            elif one.default is _REQUIRED:
                raise wrong(place, item, "a value")
            else:
                found[one.attribute] = one.default
        return make(**found)

    def write(value: T) -> object:
        out: dict[str, object] = {}
        for one in fields:
            item: object = getattr(value, one.attribute)
            if one.omit and item == one.default:
                continue
            out[one.name] = None if item is None else one.write(item)
        return out

    return Shape(read, write)


def inside(name: str, shape: Shape[T], *, empty: object = _REQUIRED) -> Shape[T]:
    """``{name: value}``, unwrapped."""
    box = record(_Box, key(name, shape, to="value", default=empty))

    def read(value: object, where: str) -> T:
        return box.read(value, where).value  # type: ignore[return-value]

    def write(value: T) -> object:
        return box.write(_Box(value=value))

    return Shape(read, write)


def many(shape: Shape[T]) -> Shape[tuple[T, ...]]:
    """An array."""

    def read(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise wrong(where, value, "an array")
        return tuple(shape.read(item, f"{where}[{i}]") for i, item in enumerate(value))

    return Shape(read, lambda value: [shape.write(item) for item in value])


def mapping(shape: Shape[T]) -> Shape[tuple[tuple[str, T], ...]]:
    """An object with any keys, as pairs."""

    def read(value: object, where: str) -> tuple[tuple[str, T], ...]:
        if not isinstance(value, dict):
            raise wrong(where, value, "an object")
        return tuple(
            (TEXT.read(name, where), shape.read(item, f"{where}.{name}"))
            for name, item in value.items()
        )

    return Shape(read, lambda value: {name: shape.write(item) for name, item in value})


def wrong(where: str, got: object, expected: str) -> RpcFormatError:
    """The refusal of what stands at a place."""
    return RpcFormatError(
        f"not CometBFT's JSON at {where or 'the top'}",
        got=shown(got),
        expected=expected,
    )


def shown(value: object) -> str:
    """A value for a refusal, short however long or deep the value is."""
    return _SHOWN.repr(value)[:80]


def number(low: int, high: int) -> Shape[int]:
    """An integer written as a JSON number (int32, uint32)."""

    def read(value: object, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise wrong(where, value, f"a number {low} … {high}")
        return value

    return Shape(read, int)


def decimal(low: int, high: int) -> Shape[int]:
    """An integer written as a JSON string (int64, uint64)."""

    def read(value: object, where: str) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            parsed = int(value)
        elif type(value) is int:
            parsed = value
        else:
            raise wrong(where, value, "an integer in a string")
        if not low <= parsed <= high:
            raise wrong(where, value, f"{low} … {high}")
        return parsed

    return Shape(read, str)


def hexadecimal(*lengths: int) -> Shape[bytes]:
    """Upper-case hexadecimal of one of these lengths in bytes (none: any)."""

    def read(value: object, where: str) -> bytes:
        try:
            data = binascii.unhexlify(value) if isinstance(value, str) else None
        except ValueError:
            data = None
        if data is None or (lengths and len(data) not in lengths):
            raise wrong(where, value, f"hexadecimal of {lengths or 'any'} bytes")
        return data

    return Shape(read, lambda value: value.hex().upper())


def base64(*lengths: int, null: bool = False) -> Shape[bytes]:
    """Base64 of one of these lengths in bytes; ``null``: empty is written null."""

    def read(value: object, where: str) -> bytes:
        try:
            data = (
                binascii.a2b_base64(value, strict_mode=True)
                if isinstance(value, str)
                else None
            )
        except ValueError:
            data = None
        if data is None or (lengths and len(data) not in lengths):
            raise wrong(where, value, f"base64 of {lengths or 'any'} bytes")
        return data

    def write(value: bytes) -> object:
        if null and not value:
            return None
        return binascii.b2a_base64(value, newline=False).decode("ascii")

    return Shape(read, write)


def _read_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, value, "a string")
    return value


def _read_flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(where, value, "true or false")
    return value


def _read_time(value: object, where: str) -> Timestamp:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong(where, value, "a time as in RFC 3339")
    text, fraction, sign, hours, minutes = match.groups()
    try:
        zone = UTC
        if sign:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            zone = timezone(-offset if sign == "-" else offset)
        point = datetime.fromisoformat(text).replace(tzinfo=zone)
        span = point - _EPOCH
    except (ValueError, OverflowError) as error:
        raise wrong(where, value, "a time that exists") from error
    seconds = span.days * 86_400 + span.seconds
    if seconds < ZERO_TIME_SECONDS:
        raise wrong(where, value, "a time from year 1 on")
    return Timestamp(seconds=seconds, nanos=int((fraction or "").ljust(9, "0")))


def _write_time(value: Timestamp) -> object:
    point = _EPOCH + timedelta(seconds=value.seconds)
    text = point.replace(tzinfo=None).isoformat()
    fraction = f".{value.nanos:09d}".rstrip("0") if value.nanos else ""
    return f"{text}{fraction}Z"


def _read_raw(value: object, where: str) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise wrong(where, value, "JSON") from error


def _write_raw(value: bytes) -> object:
    plain: object = msgspec.json.decode(value)
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    value: object


TEXT: Final = Shape(_read_text, str)
FLAG: Final = Shape(_read_flag, bool)
TIME: Final = Shape(_read_time, _write_time)
#: Any JSON, kept as its bytes.
RAW: Final = Shape(_read_raw, _write_raw)
INT64: Final = decimal(-(2**63), 2**63 - 1)
NOT_NEGATIVE: Final = decimal(0, 2**63 - 1)
UINT64: Final = decimal(0, 2**64 - 1)
INT32: Final = number(0, 2**31 - 1)
UINT32: Final = number(0, 2**32 - 1)
HEX: Final = hexadecimal()
HASH: Final = hexadecimal(0, 32)
ADDRESS: Final = hexadecimal(0, 20)
BASE64: Final = base64()
BASE64_NULL: Final = base64(null=True)
