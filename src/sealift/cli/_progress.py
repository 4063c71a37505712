"""How far something is: one line that changes, lines in a log, or lines of JSON."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import click
import msgspec

from ._output import shown_safely

#: Seconds between two lines where nobody watches a terminal.
_PAUSE: Final = 1.0


class ProgressLine:
    """Says how far it is, on stderr for people, on stdout for programs.

    Args:
        as_json: A line of JSON each time.
        now: Monotonic seconds.
    """

    def __init__(
        self, *, as_json: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._as_json = as_json
        self._now = now
        self._moving = not as_json and sys.stderr.isatty()
        self._width = 0
        self._last = ""
        self._due = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._moving and self._width:
            click.echo(err=True)

    def show(self, text: str, **fields: object) -> None:
        """Say it, if it is new."""
        text = shown_safely(text)
        if text == self._last:
            return
        if self._as_json:
            click.echo(msgspec.json.encode({"progress": fields}))
        elif self._moving:
            click.echo(f"\r{text.ljust(self._width)}", nl=False, err=True)
            self._width = len(text)
        elif self._now() >= self._due:
            click.echo(text, err=True)
            self._due = self._now() + _PAUSE
        else:
            return
        self._last = text
