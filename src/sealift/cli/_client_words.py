"""What commands of a shard's users share: options, arguments, results."""

from collections.abc import Mapping
from typing import Final

import click
import msgspec

from sealift.client import OK, CallResult

from ._errors import EXIT_REFUSED
from ._output import emit

_SECONDS: Final = 60.0

worker_option = click.option(
    "--worker", "workers", multiple=True, help="URL of a worker, beside the card's."
)
within_option = click.option(
    "--within",
    type=click.FloatRange(min=0.1),
    default=_SECONDS,
    show_default=True,
    help="Seconds to wait.",
)


def parse_arguments(
    words: tuple[str, ...], args_json: str | None
) -> Mapping[str, object]:
    """Arguments of a call from ``name=value`` words and a JSON object.

    A value is JSON if it can be read as such, else text; numbers and hexadecimal
    text are understood by the runtime's metadata.
    """
    found: dict[str, object] = {}
    if args_json is not None:
        try:
            found.update(msgspec.json.decode(args_json, type=dict[str, object]))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise click.BadParameter(
                f"--args is not a JSON object ({error})"
            ) from error
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not name=value")
        found[name] = _value(text)
    return found


def _value(text: str) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text
    if isinstance(value, float) or (isinstance(value, int) and value >= 2**63):
        return text  # digits may be hexadecimal, too
    return value


def show_result(ctx: click.Context, result: CallResult, *, as_json: bool) -> None:
    """A receipt; exit code 1 if the shard refused the call."""
    emit(
        {
            "outcome": result.outcome,
            "message": result.message,
            "block": result.height,
            "index": result.index,
            "confirmed": result.confirmed,
            "call_id": result.call_id,
            "nonce": result.nonce,
            "events": [
                {"name": name, "fields": fields} for name, fields in result.events
            ],
        },
        as_json=as_json,
    )
    if result.outcome != OK:
        ctx.exit(EXIT_REFUSED)
