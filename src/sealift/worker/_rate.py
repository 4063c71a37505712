"""How many bytes a second go out or come in for snapshots: blocks come first."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

#: What may go at once after a pause, in seconds of the rate.
_BURST_SECONDS: Final = 0.25


class Bandwidth:
    """A token bucket of bytes; whoever takes too much waits until it is paid.

    Those who wait are served in their order, so that nobody is starved.

    Args:
        rate: Bytes a second of all together; 0: no limit.
        now: Monotonic seconds; by default the running loop's.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        rate: int,
        *,
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.rate = rate
        #: Bytes that were taken since the start.
        self.taken = 0
        self._now = now
        self._sleep = sleep
        self._paid_until = float("-inf")
        self._turn = asyncio.Lock()

    async def take(self, size: int) -> None:
        """Return when so many bytes may go."""
        self.taken += size
        if not self.rate:
            return
        async with self._turn:
            now = self._clock()
            begin = max(self._paid_until, now - _BURST_SECONDS)
            self._paid_until = begin + size / self.rate
            wait = self._paid_until - now
            if wait > 0:
                await self._sleep(wait)

    def _clock(self) -> float:
        return asyncio.get_running_loop().time() if self._now is None else self._now()
