"""The insecure simulator: real formats, real processes, no protection.

It exists so that everything runs on a laptop and in CI. Its root is not
Intel's, and production bundles measure Intel's; nothing here can make a
verifier believe otherwise.
"""

from ._errors import (
    EgetkeyError,
    EinitError,
    EnclaveDiedError,
    SimStateError,
    TargetMismatchError,
)
from ._intel import COLLATERAL_SECONDS, FMSPC, SimIntel, SimTcbStatus
from ._machine import SimIdentity, SimKey, SimMachine

__all__ = [
    "COLLATERAL_SECONDS",
    "FMSPC",
    "EgetkeyError",
    "EinitError",
    "EnclaveDiedError",
    "SimIdentity",
    "SimIntel",
    "SimKey",
    "SimMachine",
    "SimStateError",
    "SimTcbStatus",
    "TargetMismatchError",
]
