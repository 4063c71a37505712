"""The L1 runtime: its pallets, and the state machine that engines drive.

Pure. The quote verifier is a port; the real one is :class:`DcapVerifier`.
"""

from ._authority import OpenOrder, collect, lacking
from ._bridge import MAX_CIPHERTEXT
from ._bridge_schedule import shard_id_of
from ._bridge_storage import vault_account
from ._codes import CODES, CODESPACE, UNLISTED, code_of, code_of_error
from ._council import CouncilVote, Motion
from ._draft import size_in_block
from ._effects import EffectsConflict, SignedEffects
from ._eligibility import Forecast, forecast, is_eligible, require_eligible
from ._errors import LedgerGenesisError, LedgerHeightError, ProposalRefusedError
from ._genesis import (
    FIRST_RUNTIME,
    LedgerGenesis,
    LedgerParams,
    parse_genesis,
    render_genesis,
)
from ._ledger import Ledger
from ._orders import verify_order
from ._outcomes import FinalizedBlock, LedgerTxResult, TxCheck
from ._ports import CollateralVerdict, Evidence, QuoteVerifier
from ._rehearsed import good_words, rehearsal_row, rehearsal_words
from ._roots import RootConflict, SignedConfirmation
from ._rules import verify_rules
from ._runtime import RUNTIME_NAME
from ._system import RuntimePlan
from ._teerex import PLATFORM_OF
from ._transactions import ledger_call, ledger_metadata, transaction
from ._validators import (
    NO_REPORT,
    Absences,
    EngineReport,
    Misbehavior,
    MisbehaviorKind,
    Offence,
)
from ._verifier import DcapVerifier
from ._versions import (
    NEWEST_RUNTIME,
    RUNTIME_VERSIONS,
    RuntimeVersion,
    version_table,
)

__all__ = [
    "CODES",
    "CODESPACE",
    "FIRST_RUNTIME",
    "MAX_CIPHERTEXT",
    "NEWEST_RUNTIME",
    "NO_REPORT",
    "PLATFORM_OF",
    "RUNTIME_NAME",
    "RUNTIME_VERSIONS",
    "UNLISTED",
    "Absences",
    "CollateralVerdict",
    "CouncilVote",
    "DcapVerifier",
    "EffectsConflict",
    "EngineReport",
    "Evidence",
    "FinalizedBlock",
    "Forecast",
    "Ledger",
    "LedgerGenesis",
    "LedgerGenesisError",
    "LedgerHeightError",
    "LedgerParams",
    "LedgerTxResult",
    "Misbehavior",
    "MisbehaviorKind",
    "Motion",
    "Offence",
    "OpenOrder",
    "ProposalRefusedError",
    "QuoteVerifier",
    "RootConflict",
    "RuntimePlan",
    "RuntimeVersion",
    "SignedConfirmation",
    "SignedEffects",
    "TxCheck",
    "code_of",
    "code_of_error",
    "collect",
    "forecast",
    "good_words",
    "is_eligible",
    "lacking",
    "ledger_call",
    "ledger_metadata",
    "parse_genesis",
    "rehearsal_row",
    "rehearsal_words",
    "render_genesis",
    "require_eligible",
    "shard_id_of",
    "size_in_block",
    "transaction",
    "vault_account",
    "verify_order",
    "verify_rules",
    "version_table",
]
