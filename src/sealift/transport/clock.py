"""The wall clock, as an object to pass on, and times as people write them."""

import re
import time
from typing import Final, Protocol

from sealift.base import DecodeError, SealiftError, UnixSeconds
from sealift.relay import Timestamp
from sealift.relay.rpc import TIME

_NANOS: Final = 1_000_000_000
_UNIX = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,9}))?", re.ASCII)


class TimeFormatError(SealiftError):
    """A text that is neither an RFC 3339 time nor Unix seconds."""


class Clock(Protocol):
    """Where the host wing reads the time; tests pass their own."""

    def now(self) -> Timestamp:
        """The time of day, which may jump in both directions."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""
        ...


class WallClock:
    """The operating system's clock."""

    def now(self) -> Timestamp:
        """The time of day."""
        nanos = time.time_ns()
        return Timestamp(seconds=nanos // _NANOS, nanos=nanos % _NANOS)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


def unix_seconds(clock: Clock) -> UnixSeconds:
    """The time of day in whole seconds."""
    return UnixSeconds(clock.now().seconds)


def parse_time(text: str) -> Timestamp:
    """A time given as RFC 3339 or as Unix seconds, here and everywhere.

    Args:
        text: ``2026-11-23T05:00:00Z``, with an offset and up to nine digits
            after the point if wanted, or ``1795410000``, ``1795410000.5``.

    Raises:
        TimeFormatError: Neither of the two.
    """
    unix = _UNIX.fullmatch(text.strip())
    try:
        if unix is not None:
            seconds, fraction = unix.groups()
            return TIME.parse(
                TIME.render(
                    Timestamp(
                        seconds=int(seconds), nanos=int((fraction or "").ljust(9, "0"))
                    )
                )
            )
        return TIME.parse(text.strip().upper())
    except (DecodeError, OverflowError) as error:
        raise TimeFormatError(
            "not a time",
            got=repr(text[:60]),
            expected="RFC 3339 (2026-11-23T05:00:00Z) or Unix seconds",
        ) from error


def format_time(time_: Timestamp) -> str:
    """RFC 3339 in UTC."""
    return str(TIME.render(time_))
