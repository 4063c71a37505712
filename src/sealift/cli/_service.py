"""Commands that run until they are asked to end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from sealift.transport.process import wait_for_stop

from ._chain import stop_code
from ._errors import EXIT_OK


async def until_stopped(serving: Coroutine[Any, Any, None]) -> int:
    """Run a service until it fails or somebody asks this process to end.

    Whatever it holds is let go of before this returns or raises.

    Returns:
        The exit code: Ctrl-C 130, SIGTERM 0; 0 if it ended by itself.
    """
    stopped = asyncio.create_task(wait_for_stop())
    await asyncio.sleep(0)  # who reads "ready" may ask to end at once
    task = asyncio.create_task(serving)
    try:
        await asyncio.wait((stopped, task), return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await task
            return EXIT_OK
        return stop_code(stopped.result())
    finally:
        for one in (stopped, task):
            one.cancel()
        await asyncio.gather(stopped, task, return_exceptions=True)
