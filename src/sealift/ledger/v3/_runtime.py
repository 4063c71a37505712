"""The composition of version 3."""

from sealift.ledger._balances import Balances
from sealift.ledger._ports import QuoteVerifier
from sealift.ledger._runtime import LedgerPallets, assemble
from sealift.ledger._system import System
from sealift.ledger.v2._teerex import ForgettingTeerex

from ._bridge import RehearsedBridge

#: The version's number.
THIRD_RUNTIME = 3


def compose(verifier: QuoteVerifier) -> LedgerPallets:
    """Make version 3 of the L1 runtime.

    Args:
        verifier: Judges quotes and collateral.
    """
    system, balances = System(version=THIRD_RUNTIME), Balances()
    bridge = RehearsedBridge(vault=balances)
    teerex = ForgettingTeerex(verifier=verifier, hashes=system, shards=bridge)
    bridge.ages = teerex
    return assemble(
        THIRD_RUNTIME, bridge=bridge, system=system, balances=balances, teerex=teerex
    )
