"""The insecure simulator: real formats, real processes, no protection.

It exists so that everything runs on a laptop and in CI. Its root is not
Intel's, and production bundles measure Intel's; nothing here can make a
verifier believe otherwise.
"""

from sealift.transport.enclave_process import EnclaveDiedError, RunningEnclave

from ._errors import (
    EgetkeyError,
    EinitError,
    SimStateError,
    TargetMismatchError,
)
from ._intel import COLLATERAL_SECONDS, FMSPC, SimIntel, SimTcbStatus
from ._machine import SimIdentity, SimKey, SimMachine
from ._pccs import pccs_app
from ._platform import PLATFORM_KIND, SimPlatform, StartOptions

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
