"""Why a call fails, and why a runtime refuses to be built or migrated."""

from sealift.base import DecodeError, SealiftError


class PalletError(SealiftError):
    """The root of application errors: the call is rolled back and fails."""


class BadOriginError(PalletError):
    """The call was dispatched from an origin it does not accept."""


class UnknownCallError(PalletError):
    """This runtime has no call of that name."""


class CallArgumentsError(PalletError):
    """The arguments are not the canonical encoding of what the call takes."""


class WeightExceededError(PalletError):
    """The work would exceed what is left of the block's weight."""


class DispatchDepthError(PalletError):
    """Calls are wrapped in calls deeper than the limit."""


class StorageMissingError(PalletError):
    """A storage item without a default was read where nothing is stored."""


class StorageValueError(PalletError):
    """A value or key does not fit the declared type of its storage item."""


class UndeclaredEventError(PalletError):
    """A pallet emitted an event that no pallet of the runtime declares."""


class CallPanickedError(PalletError):
    """Application code raised an exception that is not a ``PalletError``.

    Its receipt names the exception's class only: messages of the interpreter
    and of libraries are no part of consensus.
    """


class RuntimeDefinitionError(SealiftError):
    """Pallets that do not make a runtime: duplicate names, untyped calls, floats."""


class GenesisError(SealiftError):
    """Genesis configuration that a pallet does not accept."""


class MigrationRefusedError(SealiftError):
    """The root of refusals to take a stored state over; nothing was written.

    ``check`` names what refused, by pallet and hook or item (``notes.post_upgrade``,
    ``record:notes.notes``), fit for everybody's ears; it is empty where no pallet did.
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        hint: str = "",
        check: str = "",
    ) -> None:
        super().__init__(what, got=got, expected=expected, hint=hint)
        self.check = check


class MigrationGapError(MigrationRefusedError):
    """The stored layout is older than the one this pallet migrates from."""


class StateTooNewError(MigrationRefusedError):
    """The stored layout was written by a later version than this code."""


class ForeignStateError(MigrationRefusedError):
    """The stored state belongs to another runtime, or to none."""


class MigrationCheckError(MigrationRefusedError):
    """A ``pre_upgrade`` or ``post_upgrade`` check failed."""


class MigrationFailedError(MigrationRefusedError):
    """A pallet's ``on_runtime_upgrade`` raised."""


class RecordMigrationError(MigrationRefusedError):
    """A declared record migration raised, or made what cannot be stored."""


class MigrationUnfinishedError(MigrationRefusedError):
    """A stepped migration has not come to its end, and this code would not end it."""


class RecordCollisionError(PalletError):
    """A renamed item's records would come where there are records already."""


class RecordTooLargeError(PalletError):
    """A record migration made a record that is longer than any may be."""


class ProofFormatError(DecodeError):
    """Bytes that are no ICS23 proof of a simple tree."""


class ProofInvalidError(SealiftError):
    """An ICS23 proof that does not show what it is said to show."""


class ProofUnavailableError(SealiftError):
    """ICS23 has no proof for this: an empty state, key or value."""


class MetadataLookupError(SealiftError):
    """The metadata knows no pallet or storage item of that name."""


class ValueMismatchError(SealiftError):
    """A value that is not of the type which the metadata describes."""


class SnapshotRefusedError(SealiftError):
    """A head or chunk that does not belong to the wanted state."""
