"""How long a worker waits before it tries again what something was in the way of.

Trying is free until it reaches L1: from then on each try costs fees, also one
that fails later elsewhere. So pauses grow to minutes with the tries that were
paid for, and stay short otherwise.
"""

from typing import Final

#: Seconds before the first try again.
FIRST_SECONDS: Final = 0.5
#: The pause doubles at most so often while nothing was paid, …
_FREE_DOUBLINGS: Final = 3
#: … and so often otherwise: up to 256 seconds.
_PAID_DOUBLINGS: Final = 9


class Pauses:
    """The pauses between the tries of one step, until it succeeds."""

    def __init__(self) -> None:
        self._failed = 0
        self._paid = 0

    def after(self, *, paid: bool, reached_nobody: bool = False) -> float:
        """Seconds to wait after a try that failed.

        Args:
            paid: Whether it had sent a transaction to L1.
            reached_nobody: Whether it only found a peer away: asking on costs
                nothing, and it may be back at any moment.
        """
        if paid:
            self._paid += 1
        elif not reached_nobody:
            self._failed += 1
        if self._paid:
            return FIRST_SECONDS * float(2 ** min(self._paid, _PAID_DOUBLINGS))
        return FIRST_SECONDS * float(
            2 ** min(max(self._failed - 1, 0), _FREE_DOUBLINGS)
        )
