"""Why a CometBFT node is not started, or ends."""

from sealift.base import SealiftError


class EngineMissingError(SealiftError):
    """No CometBFT on this machine, where it is looked for."""


class EngineVersionError(SealiftError):
    """A CometBFT of another version than the pinned one, or no CometBFT."""


class EngineStoppedError(SealiftError):
    """The CometBFT process of a node has ended; the node ends with it."""


class NodePortError(SealiftError):
    """A port of a node that another process has taken, or none is free."""
