"""The arguments of calls and getters, read from their annotations."""

import inspect
import typing
from collections.abc import Callable

from ._errors import RuntimeDefinitionError


def argument_types(
    method: Callable[..., object], label: str, *, leading: int = 1
) -> list[tuple[str, object, object]]:
    """Name, type and default (``inspect.Parameter.empty``) of each argument.

    Args:
        method: The bound method.
        label: What it is, for the refusal.
        leading: Positional parameters that are given by the runtime (``ctx``).

    Raises:
        RuntimeDefinitionError: An argument is not keyword-only or not annotated.
    """
    try:
        hints = typing.get_type_hints(method, include_extras=True)
    except NameError as error:
        raise RuntimeDefinitionError(
            f"annotations of {label} cannot be resolved ({error})"
        ) from error
    parameters = list(inspect.signature(method).parameters.values())
    given = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(given) < leading:
        raise RuntimeDefinitionError(
            f"{label} does not take what it is given first", expected=leading
        )
    arguments = []
    for parameter in parameters[leading:]:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise RuntimeDefinitionError(
                f"argument {parameter.name} of {label} is not keyword-only",
                hint="Write (self, ctx, *, …)",
            )
        if parameter.name not in hints:
            raise RuntimeDefinitionError(
                f"argument {parameter.name} of {label} has no type"
            )
        arguments.append((parameter.name, hints[parameter.name], parameter.default))
    return arguments
