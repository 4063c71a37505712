"""The standard pallets, composed: where an application's runtime begins."""

from sealift.frame import Pallet

from ._balances import Balances
from ._effects import Effects
from ._enclave_update import EnclaveUpdate
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
        self.balances = Balances(accounts=self.system, effects=self.effects)
        self.sudo = Sudo()
        self.enclave_update = EnclaveUpdate(sudo=self.sudo)

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
        )
