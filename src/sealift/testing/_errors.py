"""What a test may have to expect of a world."""

from sealift.base import SealiftError


class WorldError(SealiftError):
    """The world was asked for something that is not in it (yet)."""


class RefusedError(SealiftError):
    """An enclave or L1 refused.

    Attributes:
        name: Name of the refusing side's error class.
    """

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(f"{name}: {message}")


class CrashError(SealiftError):
    """The host died where the test wanted it to; its disk is as it was then."""
