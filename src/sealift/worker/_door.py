"""How many strangers a worker serves at once, and how many of one address.

The enclave does one thing at a time: whoever asks it stands before the blocks
that wait to be executed. So only a few stand there, and nobody's crowd takes all
the places.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ._carry import network_of
from ._errors import CrowdedError, CrowdOfPeerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """How many are served at once: all together, and of one address."""

    together: int
    per_address: int


class Door:
    """Lets so many in at a time; the rest is refused at once, nobody queues.

    Args:
        places: How many.
        what: What they are let in for, in refusals.
    """

    def __init__(self, places: Places, *, what: str) -> None:
        self._places = places
        self._what = what
        self._inside: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """How many are being served."""
        return self._inside.total()

    @contextmanager
    def entered(self, peer: str) -> Iterator[None]:
        """Hold a place while in the block.

        Args:
            peer: The address that asks.

        Raises:
            CrowdOfPeerError: This address has all the places it may have.
            CrowdedError: All places are taken.
        """
        network = network_of(peer)
        mine, places = self._inside[network], self._places
        if mine >= places.per_address:
            raise CrowdOfPeerError(
                f"too many {self._what} of this address at once",
                got=mine + 1,
                expected=f"≤ {places.per_address}",
                hint="Ask again when one of them is answered.",
            )
        if self.inside >= places.together:
            raise CrowdedError(
                f"too many {self._what} of all together at once",
                got=self.inside + 1,
                expected=f"≤ {places.together}",
                hint="Ask again in a second, or ask another worker.",
            )
        self._inside[network] += 1
        try:
            yield
        finally:
            self._inside[network] -= 1
            if not self._inside[network]:
                del self._inside[network]
