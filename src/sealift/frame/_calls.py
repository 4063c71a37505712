"""Calls as bytes, their outcome, and how arguments are decoded for dispatch."""

import inspect
from collections.abc import Callable, Mapping

import msgspec

from sealift.base import Message, encode

from ._arguments import argument_types
from ._errors import CallArgumentsError, RuntimeDefinitionError

#: A call takes at most so many arguments (one byte of MessagePack header).
MAX_ARGUMENTS = 15
#: Arguments nested deeper are refused before any recursive decoder sees them.
MAX_ARGUMENT_DEPTH = 64

_FIXARRAY = 0x90
_ARITY_MASK = 0x0F


class RuntimeCall(Message, kw_only=True):
    """A call of a runtime by name.

    ``args`` is the canonical MessagePack array of the arguments in order of
    declaration; trailing arguments that have defaults may be left out, so that
    a later version goes on decoding calls made for an earlier one.
    """

    name: str
    args: bytes


class EmittedEvent(Message, kw_only=True):
    """An event as it was emitted: ``pallet.Event`` and its encoding."""

    name: str
    data: bytes


class CallFailure(Message, kw_only=True):
    """Why a call failed: the name of the error class, and a sentence.

    Only ``code`` is fit for consensus data; the sentence is for people.
    """

    code: str
    message: str


class Outcome(Message, kw_only=True):
    """What became of one call.

    A failed call has changed nothing and emitted nothing; its weight was
    spent all the same.
    """

    failure: CallFailure | None
    events: tuple[EmittedEvent, ...]
    weight: int

    @property
    def ok(self) -> bool:
        """Whether the call took effect."""
        return self.failure is None


class HooksOutcome(Message, kw_only=True):
    """What the hooks of a block did, and which of them failed.

    A hook that failed was rolled back by itself; the others ran.
    """

    events: tuple[EmittedEvent, ...]
    failures: tuple[tuple[str, CallFailure], ...]


class BoundCall:
    """One call of a runtime, ready for dispatch: decoder built once."""

    __slots__ = ("_decode", "_shape", "invoke", "name", "weight")

    def __init__(self, name: str, invoke: Callable[..., None], weight: int) -> None:
        self.name = name
        self.invoke = invoke
        self.weight = weight
        arguments = argument_types(invoke, name)
        if len(arguments) > MAX_ARGUMENTS:
            raise RuntimeDefinitionError(
                f"{name} has too many arguments",
                got=len(arguments),
                expected=f"≤ {MAX_ARGUMENTS}",
            )
        try:
            shape = msgspec.defstruct(
                "Arguments",
                [
                    (field, kind)
                    if default is inspect.Parameter.empty
                    else (field, kind, default)
                    for field, kind, default in arguments
                ],
                frozen=True,
                array_like=True,
                forbid_unknown_fields=True,
                gc=False,
            )
            self._shape = shape
            self._decode = msgspec.msgpack.Decoder(shape).decode
        except TypeError as error:
            raise RuntimeDefinitionError(
                f"arguments of {name} cannot be decoded ({error})"
            ) from error

    def arguments(self, raw: bytes) -> dict[str, object]:
        """Parse the arguments of a call; total over all bytes.

        Raises:
            CallArgumentsError: Not the canonical encoding of this call's
                arguments.
        """
        if len(raw) > MAX_ARGUMENT_DEPTH and depth_exceeds(raw, MAX_ARGUMENT_DEPTH):
            raise CallArgumentsError(
                f"arguments of {self.name} are nested too deep",
                expected=f"≤ {MAX_ARGUMENT_DEPTH} levels",
            )
        try:
            value = self._decode(raw)
        except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
            raise CallArgumentsError(
                f"not arguments of {self.name} ({error})", got=raw
            ) from error
        if encode(value) != raw and not self._is_canonical_prefix(value, raw):
            raise CallArgumentsError(
                f"arguments of {self.name} are not in canonical encoding", got=raw
            )
        return msgspec.structs.asdict(value)

    def encode(self, arguments: Mapping[str, object]) -> RuntimeCall:
        """The call with these arguments, which are already of the right types.

        Raises:
            CallArgumentsError: A name too many or too few, or a value that
                does not fit.
        """
        try:
            raw = encode(self._shape(**arguments))
        except (TypeError, OverflowError, UnicodeError) as error:
            raise CallArgumentsError(
                f"not arguments of {self.name} ({error})"
            ) from error
        self.arguments(raw)
        return RuntimeCall(name=self.name, args=raw)

    def _is_canonical_prefix(self, value: msgspec.Struct, raw: bytes) -> bool:
        if raw[0] & ~_ARITY_MASK != _FIXARRAY:
            return False
        given = list(msgspec.structs.astuple(value))[: raw[0] & _ARITY_MASK]
        return encode(given) == raw


#: Header byte → (bytes of length after it, children per length unit, payload?)
_SIZED = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),  # bin
    0xC7: (1, 0), 0xC8: (2, 0), 0xC9: (4, 0),  # ext (one type byte more)
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),  # str
    0xDC: (2, 1), 0xDD: (4, 1),  # array
    0xDE: (2, 2), 0xDF: (4, 2),  # map
}  # fmt: skip
_FIXED = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_EXT = frozenset((0xC7, 0xC8, 0xC9))


def _header(raw: bytes, at: int) -> tuple[int, int]:
    """Where the next header is, and how many children this one announces."""
    byte = raw[at]
    at += 1
    if byte <= 0x7F or byte >= 0xE0:  # noqa: PLR2004 - fixint
        return at, 0
    if byte <= 0x8F:  # noqa: PLR2004 - fixmap
        return at, 2 * (byte & 0x0F)
    if byte <= 0x9F:  # noqa: PLR2004 - fixarray
        return at, byte & 0x0F
    if byte <= 0xBF:  # noqa: PLR2004 - fixstr
        return at + (byte & 0x1F), 0
    if byte in _SIZED:
        width, children = _SIZED[byte]
        size = int.from_bytes(raw[at : at + width], "big")
        if children:
            return at + width, size * children
        return at + width + size + (byte in _EXT), 0
    return at + _FIXED.get(byte, 0), 0


def depth_exceeds(raw: bytes, limit: int) -> bool:
    """Whether MessagePack bytes nest deeper than ``limit``; not recursive.

    Interpreter recursion is bounded by how deep the stack already is, and so
    would make the outcome of a call depend on who executes it. This bound does
    not. Bytes that are not MessagePack give any answer.
    """
    open_counts = [1]
    at = 0
    while open_counts and at < len(raw):
        if open_counts[-1] == 0:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        at, children = _header(raw, at)
        if children:
            open_counts.append(children)
            if len(open_counts) > limit + 1:
                return True
    return False
