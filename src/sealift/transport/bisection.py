"""Driving a bisection with a node: the relay decides, this fetches."""

import contextlib
from collections.abc import Awaitable, Callable

from sealift.base import Height
from sealift.relay import ChainRelay, LightBlock, Timestamp, bisect


async def bisect_with(
    fetch: Callable[[Height], Awaitable[LightBlock]],
    relay: ChainRelay,
    target: Height,
    *,
    now: Timestamp | None,
) -> dict[Height, LightBlock]:
    """Move a relay's head to a height; the light blocks that were fetched for it.

    Raises:
        SealiftError: As :func:`sealift.relay.bisect`, and whatever ``fetch``
            raises; the head is what was verified.
    """
    fetched: dict[Height, LightBlock] = {}
    steps = bisect(relay, target, now=now)
    with contextlib.closing(steps), contextlib.suppress(StopIteration):
        wanted = next(steps)
        while True:
            fetched[wanted] = await fetch(wanted)
            wanted = steps.send(fetched[wanted])
    return fetched
