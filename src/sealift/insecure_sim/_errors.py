"""What the simulated CPU, Intel and process start can refuse."""

from sealift.base import SealiftError


class SimStateError(SealiftError):
    """The simulator's folder cannot be read; it is kept as it is."""


class EinitError(SealiftError):
    """The simulated CPU does not start this enclave."""


class EgetkeyError(SealiftError):
    """The simulated CPU does not derive this key."""


class TargetMismatchError(SealiftError):
    """A bundle built for another interpreter or C library."""
