"""Why a call, a getter or a runtime is refused before any pallet sees it."""

from sealift.base import SealiftError


class CallRefusedError(SealiftError):
    """The root of refusals that consume no nonce: the call took no effect."""


class UnknownEpochError(CallRefusedError):
    """The envelope names a key epoch that the shard does not have."""


class KeyEpochExpiredError(CallRefusedError):
    """The envelope is sealed to a key epoch whose time is over."""


class EnvelopeError(CallRefusedError):
    """The bytes on L1 are no envelope."""


class UnreadableCallError(CallRefusedError):
    """The opened bytes are not the canonical encoding of a call."""


class WrongShardError(CallRefusedError):
    """The call was signed for another shard or another chain."""


class NonceConsumedError(CallRefusedError):
    """Another call of this account had this nonce, or this one was long ago."""


class NonceAheadError(CallRefusedError):
    """Calls of this account with lower nonces have to come first."""


class MaintenanceError(CallRefusedError):
    """The shard is in maintenance; the call may be sent again after it."""


class CallExpiredError(CallRefusedError):
    """The block came after the last one for which the call is valid."""


class ValidityTooLongError(CallRefusedError):
    """The call wants to be valid for longer than receipts are remembered."""


class FingerprintPinError(CallRefusedError):
    """The call is pinned to another MRENCLAVE than the one that runs."""


class BlockFullError(CallRefusedError):
    """The block has too little weight left; the call may be sent again."""


class GetterRefusedError(SealiftError):
    """The root of refusals of a getter."""


class UnknownGetterError(GetterRefusedError):
    """This runtime has no getter of that name."""


class GetterArgumentsError(GetterRefusedError):
    """The arguments are not the canonical encoding of what the getter takes."""


class GetterBoundsError(GetterRefusedError):
    """The state is too old, or the head too young, for what the reader asked."""


class GetterFailedError(GetterRefusedError):
    """The getter itself failed; the sentence names why."""


class ShardRuntimeError(SealiftError):
    """A runtime that lacks what every shard's runtime has."""
