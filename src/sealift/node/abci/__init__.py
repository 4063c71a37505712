"""The ledger behind CometBFT: ABCI 2.0 (v0.38) on a unix socket.

CometBFT orders, keeps and serves the blocks; this process executes them and
keeps the state. ``sealift node cometbft`` runs both halves as one, ``sealift node
abci`` only this one: ``proxy_app = "unix://S"`` in CometBFT's ``config.toml``, or
``--proxy_app``, finds it. Facts and their sources: facts/cometbft.md.
"""

from ._application import ABCI_VERSION, AbciApplication
from ._errors import (
    AbciFormatError,
    AbciGenesisError,
    AbciOrderError,
    AbciSocketError,
    AbciVersionError,
)
from ._server import AbciServer, run_abci
from ._store import AbciStore, StoredHead
from ._translate import APP_VERSION

__all__ = [
    "ABCI_VERSION",
    "APP_VERSION",
    "AbciApplication",
    "AbciFormatError",
    "AbciGenesisError",
    "AbciOrderError",
    "AbciServer",
    "AbciSocketError",
    "AbciStore",
    "AbciVersionError",
    "StoredHead",
    "run_abci",
]
