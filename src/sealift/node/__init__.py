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
    ChainStoppedError,
    ChainStoreError,
    ConfigInvalidError,
    ForeignChainError,
    HeightUnknownError,
    HomeNotEmptyError,
    MempoolFullError,
    NotNextBlockError,
    StateBusyError,
    TxAlreadyKnownError,
    TxNotFoundError,
    ValidatorsNotFixedError,
    WrongValidatorError,
)
from ._history import ProvenEntry, StateHistory
from ._home import SoloConfig, SoloHome, init_solo
from ._ledger import LedgerApplication, ledger_consensus_params
from ._mempool import Mempool, MempoolLimits
from ._methods import ICS23_SIMPLE
from ._node import SOLO_NOTICE, SoloNode, run_solo
from ._params import InvalidParamsError
from ._past import PastStates
from ._server import RPC_CODES, SubscriptionError
from ._store import SoloStore, StoredBlock, TxPlace

__all__ = [
    "ICS23_SIMPLE",
    "RPC_CODES",
    "SOLO_NOTICE",
    "Application",
    "BlockOutcome",
    "ChainCorruptError",
    "ChainStoppedError",
    "ChainStoreError",
    "ChainTip",
    "CommittedBlock",
    "ConfigInvalidError",
    "DurableChain",
    "ExecutedBlock",
    "ForeignChainError",
    "HeightUnknownError",
    "HomeNotEmptyError",
    "InvalidParamsError",
    "LedgerApplication",
    "Mempool",
    "MempoolFullError",
    "MempoolLimits",
    "NotNextBlockError",
    "PastStates",
    "ProvenEntry",
    "SoloChain",
    "SoloConfig",
    "SoloHome",
    "SoloNode",
    "SoloStore",
    "StateBusyError",
    "StateHistory",
    "StoredBlock",
    "SubscriptionError",
    "TxAlreadyKnownError",
    "TxNotFoundError",
    "TxPlace",
    "ValidatorsNotFixedError",
    "WrongValidatorError",
    "genesis_tip",
    "init_solo",
    "ledger_consensus_params",
    "light_block_of",
    "run_solo",
    "solo_validators",
    "trust_root_of",
]
