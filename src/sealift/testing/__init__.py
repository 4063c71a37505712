"""A world in one process, to test applications and their upgrades in.

Real ledger, blocks, proofs, attestation, enclaves and mu-ra; only the host is a
double, and the machines are simulated (:mod:`sealift.insecure_sim`). See
``docs/testing.md``. Nothing in Sealift imports this package.
"""

from ._attestation_tree import AttestationTree
from ._chain import START_SECONDS, Sent, WorldChain
from ._disk import WorldDisk
from ._errors import CrashError, RefusedError, WorldError
from ._headers import HeaderChain
from ._release import Release
from ._user import UserCall, WorldUser
from ._worker import WorldWorker
from ._world import FUNDED, PROVISIONING_BLOCKS, World

__all__ = [
    "FUNDED",
    "PROVISIONING_BLOCKS",
    "START_SECONDS",
    "AttestationTree",
    "CrashError",
    "HeaderChain",
    "RefusedError",
    "Release",
    "Sent",
    "UserCall",
    "World",
    "WorldChain",
    "WorldDisk",
    "WorldError",
    "WorldUser",
    "WorldWorker",
]
