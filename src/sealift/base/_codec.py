"""The canonical codec: MessagePack of array-like tagged structs.

One value has one encoding. Whatever is signed, quoted or hashed is decoded
with :func:`canonical_decode`, which refuses every other encoding of the same
value; whatever is only carried may use :func:`decode`, which ignores fields
that a later version appended (facts: old enclaves ignore what is additive).
"""

from typing import TypeVar, dataclass_transform

import msgspec

from ._errors import DecodeError, NonCanonicalError, TooLargeError

#: No message is larger unless its own limit says otherwise: 4 MiB.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class _KeywordOnly(msgspec.StructMeta):
    """Hands ``kw_only`` down, which msgspec does not inherit."""

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, object],
        **options: bool,
    ) -> "_KeywordOnly":
        options.setdefault("kw_only", True)
        # msgspec checks its own options, whatever its stub knows of them
        return super().__new__(cls, name, bases, namespace, **options)  # type: ignore[arg-type]


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,)
)
class Message(
    msgspec.Struct,
    metaclass=_KeywordOnly,
    frozen=True,
    kw_only=True,
    array_like=True,
    tag=True,
    gc=False,
):
    """Base of everything that crosses a trust boundary.

    Encoded as ``[class name, field, field, …]``. Frozen, keyword-only.
    Fields are only ever appended, with a default.
    """


_encoder = msgspec.msgpack.Encoder(order="deterministic")

T = TypeVar("T")


def encode(value: object) -> bytes:
    """The canonical encoding of a value (maps sorted by key)."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes, *, limit: int = MAX_MESSAGE_BYTES) -> T:
    """Parse bytes into a value of ``kind``; total over all bytes.

    Args:
        kind: The wanted type; constraints of its fields are checked.
        data: Any bytes.
        limit: Most bytes that are looked at.

    Raises:
        TooLargeError: More than ``limit`` bytes.
        DecodeError: Not a value of that type.
    """
    if len(data) > limit:
        raise TooLargeError(
            f"{_name(kind)} is too large", got=f"{len(data)} B", expected=f"≤ {limit} B"
        )
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError) as error:
        raise DecodeError(f"not a {_name(kind)} ({error})", got=data) from error


def canonical_decode(
    kind: type[T], data: bytes, *, limit: int = MAX_MESSAGE_BYTES
) -> T:
    """Parse the one canonical encoding of a value.

    Raises:
        NonCanonicalError: A value, but not in its canonical encoding.
        TooLargeError: More than ``limit`` bytes.
        DecodeError: Not a value of that type.
    """
    value = decode(kind, data, limit=limit)
    if encode(value) != data:
        raise NonCanonicalError(f"{_name(kind)} is not in canonical encoding", got=data)
    return value


def parse_hex(text: str, *, length: int | None = 32) -> bytes:
    """Parse hexadecimal, with or without ``0x``.

    Raises:
        DecodeError: Not hexadecimal, or not ``length`` bytes.
    """
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise DecodeError(
            "not hexadecimal", got=text[:80], expected="digits 0-9 a-f"
        ) from error
    if length is not None and len(value) != length:
        raise DecodeError(
            "wrong length of hexadecimal",
            got=f"{len(value)} bytes",
            expected=f"{length} bytes",
        )
    return value


def _name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))
