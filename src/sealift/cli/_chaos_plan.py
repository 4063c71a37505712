"""What a run of the campaign does to whom, told by its seed alone."""

from dataclasses import dataclass
from typing import Final, Literal

from sealift.crypto import sha256

Victim = Literal[
    "L1 node", "old worker", "new worker", "old enclave", "new enclave", "worker"
]
#: Where each enclave has its worker. The order is what seeds choose by.
VICTIMS: Final[tuple[Victim, ...]] = (
    "L1 node",
    "old worker",
    "new worker",
    "old enclave",
    "new enclave",
)
#: Where one worker swaps its enclave.
SWAP_VICTIMS: Final[tuple[Victim, ...]] = (
    "L1 node",
    "worker",
    "old enclave",
    "new enclave",
)
#: Blocks from the order to the release of the keys, on to XYZ, and beyond it.
NOTICE: Final = 6
LEAD: Final = 30
AFTER: Final = 6
#: From the order to the last instant of a kill.
SPAN: Final = NOTICE + LEAD + AFTER
_MOST_MORE: Final = 2
_PARTS: Final = 100


@dataclass(frozen=True, slots=True)
class Kill:
    """Who is killed, and so many blocks (with a fraction) after the order."""

    victim: Victim
    after: float


class Chance:
    """Numbers that a seed gives, the same on every machine and Python."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound`` - 1."""
        self._count += 1
        text = f"sealift chaos {self._seed} {self._count}".encode()
        return int.from_bytes(sha256(text), "big") % bound


def plan(seed: int, among: tuple[Victim, ...] = VICTIMS) -> tuple[Kill, ...]:
    """One to three kills, in order; seeds in a row have each another victim first."""
    chance = Chance(seed)
    more = chance.below(_MOST_MORE + 1)
    victims = [among[seed % len(among)]]
    victims += [among[chance.below(len(among))] for _ in range(more)]
    kills = [Kill(one, chance.below(SPAN * _PARTS) / _PARTS) for one in victims]
    return tuple(sorted(kills, key=lambda kill: kill.after))
