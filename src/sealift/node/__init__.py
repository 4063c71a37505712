"""L1 engines over the ledger: ``solo``, embedded, for a laptop and for tests.

Blocks, commits and the RPC are CometBFT's, so that one relay and one client
serve this engine and the real one. One key orders a solo chain.
"""

from ._application import Application, BlockOutcome, ExecutedBlock
from ._chain import (
    ChainTip,
    CommittedBlock,
    SoloChain,
    genesis_tip,
    light_block_of,
    solo_validators,
    trust_root_of,
)
from ._durable import DurableChain
from ._errors import (
    ChainCorruptError,
    ChainStoreError,
    ConfigInvalidError,
    ForeignChainError,
    HeightUnknownError,
    HomeNotEmptyError,
    MempoolFullError,
    NotNextBlockError,
    TxAlreadyKnownError,
    WrongValidatorError,
)
from ._history import ProvenEntry, StateHistory
from ._mempool import Mempool, MempoolLimits
from ._store import SoloStore, StoredBlock, TxPlace

__all__ = [
    "Application",
    "BlockOutcome",
    "ChainCorruptError",
    "ChainStoreError",
    "ChainTip",
    "CommittedBlock",
    "ConfigInvalidError",
    "DurableChain",
    "ExecutedBlock",
    "ForeignChainError",
    "HeightUnknownError",
    "HomeNotEmptyError",
    "Mempool",
    "MempoolFullError",
    "MempoolLimits",
    "NotNextBlockError",
    "ProvenEntry",
    "SoloChain",
    "SoloStore",
    "StateHistory",
    "StoredBlock",
    "TxAlreadyKnownError",
    "TxPlace",
    "WrongValidatorError",
    "genesis_tip",
    "light_block_of",
    "solo_validators",
    "trust_root_of",
]
