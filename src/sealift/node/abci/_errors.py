"""Why CometBFT's messages are refused; each ends the connection."""

from sealift.base import SealiftError


class AbciFormatError(SealiftError):
    """Bytes that are no ABCI 2.0 request, or no frame of one."""


class AbciVersionError(SealiftError):
    """The consensus engine speaks another version of ABCI."""


class AbciGenesisError(SealiftError):
    """A genesis with which this engine cannot begin the ledger."""


class AbciOrderError(SealiftError):
    """A message that does not follow the one before, as ABCI orders them."""


class AbciValidatorsError(SealiftError):
    """The engine orders by other validators than the ledger's state knows."""


class AbciConnectionsError(SealiftError):
    """More connections than one node opens: another program is at the socket."""


class AbciSocketError(SealiftError):
    """The unix socket cannot be opened."""
