"""Getters: what of a shard's state its users may read, and who may."""

import inspect
import typing
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from sealift.base import AccountId, encode
from sealift.frame import (
    MAX_ARGUMENT_DEPTH,
    Context,
    Pallet,
    RuntimeDefinitionError,
    depth_exceeds,
)

from ._errors import GetterArgumentsError, UnknownGetterError

F = TypeVar("F", bound=Callable[..., object])

_MARK = "__sealift_getter__"
_FIXARRAY = 0x90
_ARITY_MASK = 0x0F
_MAX_ARGUMENTS = 15


def getter(*, public: bool) -> Callable[[F], F]:
    """Mark a pallet's method as a signed read, named ``pallet.method``.

    A private getter is ``(self, ctx, reader, *, …)``: ``reader`` is the account
    that signed, and what is returned should be its own. A public getter is
    ``(self, ctx, *, …)``: it isn't told who asks and answers everybody the
    same. All other arguments are keyword-only and annotated. It returns what
    msgspec can encode; whatever it writes is dropped.

    Args:
        public: Whether everybody may read it.
    """

    def mark(method: F) -> F:
        setattr(method, _MARK, public)
        return method

    return mark


class BoundGetter:
    """One getter of a runtime; its decoder is built once.

    Args:
        name: ``pallet.method``.
        method: The bound method.
        public: Whether it isn't told who asks.

    Raises:
        RuntimeDefinitionError: Its signature is not that of a getter.
    """

    __slots__ = ("_decode", "_method", "name", "public")

    def __init__(
        self, name: str, method: Callable[..., object], *, public: bool
    ) -> None:
        self.name = name
        self.public = public
        self._method = method
        fields = _argument_fields(name, method, positional=1 if public else 2)
        shape = msgspec.defstruct(
            "Arguments", fields, frozen=True, array_like=True, gc=False
        )
        self._decode = msgspec.msgpack.Decoder(shape).decode

    def arguments(self, raw: bytes) -> dict[str, object]:
        """Parse the arguments; total over all bytes.

        Raises:
            GetterArgumentsError: Not the canonical encoding of them.
        """
        if depth_exceeds(raw, MAX_ARGUMENT_DEPTH):
            raise GetterArgumentsError(f"arguments of {self.name} are nested too deep")
        try:
            value = self._decode(raw)
        except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
            raise GetterArgumentsError(
                f"not arguments of {self.name} ({error})", got=raw
            ) from error
        # trailing arguments with defaults may be left out
        given = list(msgspec.structs.astuple(value))[: raw[0] & _ARITY_MASK]
        if raw[0] & ~_ARITY_MASK != _FIXARRAY or encode(given) != raw:
            raise GetterArgumentsError(
                f"arguments of {self.name} are not in canonical encoding", got=raw
            )
        return msgspec.structs.asdict(value)

    def read(
        self, ctx: Context, reader: AccountId, arguments: dict[str, object]
    ) -> bytes:
        """The encoded answer; a private getter gets to know ``reader``."""
        if self.public:
            return encode(self._method(ctx, **arguments))
        return encode(self._method(ctx, reader, **arguments))


class GetterTable:
    """All getters of a runtime's pallets.

    Args:
        pallets: The pallets of the runtime.

    Raises:
        RuntimeDefinitionError: A method that is not a getter is marked as one.
    """

    def __init__(self, pallets: Iterable[Pallet]) -> None:
        self._getters = {
            bound.name: bound for pallet in pallets for bound in _getters_of(pallet)
        }

    def __getitem__(self, name: str) -> BoundGetter:
        """The getter of that name.

        Raises:
            UnknownGetterError: There is none.
        """
        bound = self._getters.get(name)
        if bound is None:
            raise UnknownGetterError("no such getter", got=name)
        return bound

    def names(self) -> dict[str, bool]:
        """Every getter's name, and whether it is public."""
        return {name: bound.public for name, bound in sorted(self._getters.items())}


def _getters_of(pallet: Pallet) -> Iterable[BoundGetter]:
    found: dict[str, bool] = {}
    for base in reversed(type(pallet).__mro__):
        for short_name, value in vars(base).items():
            public = getattr(value, _MARK, None)
            if isinstance(public, bool):
                found[short_name] = public
    for short_name, public in found.items():
        yield BoundGetter(
            f"{pallet.name}.{short_name}", getattr(pallet, short_name), public=public
        )


def _argument_fields(
    name: str, method: Callable[..., object], *, positional: int
) -> list[tuple[str, type] | tuple[str, type, object]]:
    parameters = list(inspect.signature(method).parameters.values())
    hints = typing.get_type_hints(method, include_extras=True)
    leading, rest = parameters[:positional], parameters[positional:]
    fields: list[tuple[str, type] | tuple[str, type, object]] = []
    for parameter in rest:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name not in hints:
            raise RuntimeDefinitionError(
                f"argument {parameter.name} of getter {name} is not keyword-only "
                "and annotated"
            )
        kind = hints[parameter.name]
        if parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, parameter.default))
    if (
        len(leading) != positional
        or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in leading)
        or len(fields) > _MAX_ARGUMENTS
    ):
        raise RuntimeDefinitionError(
            f"signature of getter {name} does not fit",
            expected="(self, ctx, *, …) if public, else (self, ctx, reader, *, …)",
        )
    return fields
