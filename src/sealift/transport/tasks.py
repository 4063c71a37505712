"""Tasks that belong together: how they end."""

import asyncio
from collections.abc import Sequence

from sealift.base import SealiftError


def first_of(errors: BaseExceptionGroup[SealiftError]) -> SealiftError:
    """The first error of a group of tasks, by which the group ended."""
    found: SealiftError | BaseExceptionGroup[SealiftError] = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def until_one_ends(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the first of some tasks; none of them is left behind.

    Raises:
        Exception: What it ended by, if by an exception.
    """
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
