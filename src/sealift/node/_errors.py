"""Why the embedded engine stops, or does not start."""

from sealift.base import SealiftError


class ChainStoreError(SealiftError):
    """The chain's database could not be read or written; the node stops."""


class ChainCorruptError(ChainStoreError):
    """What the database holds is not a chain that this node made whole."""


class ForeignChainError(ChainStoreError):
    """The database belongs to another genesis, key or layout."""


class ChainStoppedError(SealiftError):
    """Making blocks has failed; only a new process goes on."""


class NotNextBlockError(SealiftError):
    """A block that does not follow the last one: never two at one height."""


class WrongValidatorError(SealiftError):
    """The key is not the one validator that this genesis names."""


class ValidatorsNotFixedError(SealiftError):
    """The embedded engine has one key; this genesis lets validators change."""


class HeightUnknownError(SealiftError):
    """A height that has not been reached, or is below the first one."""


class StateBusyError(SealiftError):
    """A state of long ago is not at hand; making it takes a while."""


class TxNotFoundError(SealiftError):
    """No durable block has that transaction (yet)."""


class MempoolFullError(SealiftError):
    """No room for another transaction until a block takes some."""


class TxAlreadyKnownError(SealiftError):
    """The transaction waits already, or stands in a recent block."""


class HomeNotEmptyError(SealiftError):
    """A chain is never made over what is there already."""


class ConfigInvalidError(SealiftError):
    """A file of the home that is not what the node wrote there."""
