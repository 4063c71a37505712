"""The composition of version 2."""

from sealift.ledger._balances import Balances
from sealift.ledger._ports import QuoteVerifier
from sealift.ledger._runtime import LedgerPallets, assemble
from sealift.ledger._system import System

from ._bridge import BoundedBridge
from ._teerex import ForgettingTeerex

#: The version's number.
SECOND_RUNTIME = 2


def compose(verifier: QuoteVerifier) -> LedgerPallets:
    """Make version 2 of the L1 runtime.

    Args:
        verifier: Judges quotes and collateral.
    """
    system, balances = System(version=SECOND_RUNTIME), Balances()
    bridge = BoundedBridge(vault=balances)
    teerex = ForgettingTeerex(verifier=verifier, hashes=system, shards=bridge)
    bridge.ages = teerex
    return assemble(
        SECOND_RUNTIME, bridge=bridge, system=system, balances=balances, teerex=teerex
    )
