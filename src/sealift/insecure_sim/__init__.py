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
from ._pccs import pccs_app
from ._platform import PLATFORM_KIND, RunningEnclave, SimPlatform, StartOptions

__all__ = [
    "COLLATERAL_SECONDS",
    "FMSPC",
    "PLATFORM_KIND",
    "EgetkeyError",
    "EinitError",
    "EnclaveDiedError",
    "RunningEnclave",
    "SimIdentity",
    "SimIntel",
    "SimKey",
    "SimMachine",
    "SimPlatform",
    "SimStateError",
    "SimTcbStatus",
    "StartOptions",
    "TargetMismatchError",
    "pccs_app",
]
