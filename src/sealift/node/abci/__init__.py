"""The ledger behind CometBFT: ABCI 2.0 (v0.38) on a unix socket.

CometBFT orders, keeps and serves the blocks; this process executes them and
keeps the state. ``sealift node cometbft`` runs both halves as one, ``sealift node
abci`` only this one: ``proxy_app = "unix://S"`` in CometBFT's ``config.toml``, or
``--proxy_app``, finds it. Facts and their sources: facts/cometbft.md.
"""

from ._application import AbciApplication
from ._engine import ABCI_VERSION
from ._errors import (
    AbciConnectionsError,
    AbciFormatError,
    AbciGenesisError,
    AbciOrderError,
    AbciSocketError,
    AbciValidatorsError,
    AbciVersionError,
)
from ._frames import AbciFrameReader
from ._proto import render_choice
from ._server import AbciServer, run_abci
from ._store import AbciStore, StoredHead
from ._translate import APP_VERSION

__all__ = [
    "ABCI_VERSION",
    "APP_VERSION",
    "AbciApplication",
    "AbciConnectionsError",
    "AbciFormatError",
    "AbciFrameReader",
    "AbciGenesisError",
    "AbciOrderError",
    "AbciServer",
    "AbciSocketError",
    "AbciStore",
    "AbciValidatorsError",
    "AbciVersionError",
    "StoredHead",
    "render_choice",
    "run_abci",
]
