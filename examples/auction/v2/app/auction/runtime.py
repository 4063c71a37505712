"""The runtime that the bundle names: standard pallets and the auction."""

from sealift.frame import Runtime
from sealift.stf import StandardPallets

from .pallet import Auction

standard = StandardPallets()
runtime = Runtime(
    name="auction",
    version=2,
    pallets=[*standard.pallets, Auction(currency=standard.balances)],
)
