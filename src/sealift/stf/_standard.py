"""The standard pallets, composed: where an application's runtime begins."""

from sealift.frame import Pallet

from ._balances import Balances
from ._democracy import Democracy
from ._effects import Effects
from ._enclave_update import EnclaveUpdate
from ._stake import StakeBook
from ._sudo import Sudo
from ._system import System
from ._timestamp import Timestamp


class StandardPallets:
    """The pallets that every shard's runtime has, wired to each other.

    Use::

        standard = StandardPallets()
        runtime = Runtime(
            name="auction",
            version=1,
            pallets=[*standard.pallets, Auction(currency=standard.balances)],
        )
    """

    def __init__(self) -> None:
        self.system = System()
        self.timestamp = Timestamp()
        self.effects = Effects()
        stake = StakeBook()
        self.balances = Balances(
            accounts=self.system, effects=self.effects, watcher=stake
        )
        self.sudo = Sudo()
        self.enclave_update = EnclaveUpdate(sudo=self.sudo)
        self.democracy = Democracy(
            currency=self.balances,
            stake=stake,
            schedules=self.enclave_update,
            effects=self.effects,
        )

    @property
    def pallets(self) -> tuple[Pallet, ...]:
        """All of them, in the order in which their hooks run."""
        return (
            self.timestamp,
            self.system,
            self.balances,
            self.sudo,
            self.enclave_update,
            self.effects,
            self.democracy,
        )
