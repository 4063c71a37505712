"""Calls that a shard in maintenance still takes."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from sealift.frame import Pallet, RuntimeDefinitionError

F = TypeVar("F", bound=Callable[..., None])

_CALL_MARK = "__sealift_call__"
_MARK = "__sealift_escape__"


def escape(method: F) -> F:
    """Mark a call as one that maintenance does not refuse.

    For what nobody may be kept from: taking funds out, and deciding that the
    maintenance ends. The code alone says which calls these are; it stands above
    ``@call``.

    Raises:
        RuntimeDefinitionError: The method is no call.
    """
    if getattr(method, _CALL_MARK, None) is None:
        raise RuntimeDefinitionError(
            "only a call can be an escape",
            got=getattr(method, "__name__", method),
            hint="Write @escape above @call",
        )
    setattr(method, _MARK, True)
    return method


def escapes_of(pallets: Iterable[Pallet]) -> frozenset[str]:
    """Name of every call that maintenance does not refuse, ``pallet.call``."""
    return frozenset(
        f"{pallet.name}.{short_name}"
        for pallet in pallets
        for base in type(pallet).__mro__
        for short_name, value in vars(base).items()
        if getattr(value, _MARK, False)
    )
