"""Numbers of refusals in results of transactions: the one mapping table.

Codes are consensus (``last_results_hash`` covers them): a number is never
reused, a class keeps its number for ever. 0 is success.
"""

from types import MappingProxyType

from sealift.base import SealiftError

#: The codespace of all our codes.
CODESPACE = "sealift"
#: A refusal without a number of its own.
UNLISTED = 1

_BASE = ("DecodeError", "NonCanonicalError", "TooLargeError")
_TRANSACTIONS = (
    "TransactionTooLargeError",
    "TransactionFormatError",
    "WrongChainError",
    "TransactionSignatureError",
    "TransactionExpiredError",
    "NonceError",
    "FeeError",
    "BlockFullError",
)
_FRAME = (
    "PalletError",
    "BadOriginError",
    "UnknownCallError",
    "CallArgumentsError",
    "WeightExceededError",
    "DispatchDepthError",
    "StorageMissingError",
    "StorageValueError",
    "UndeclaredEventError",
    "CallPanickedError",
    "RecordCollisionError",
    "RecordTooLargeError",
)
_SYSTEM = (
    "RuntimeUpgradeError",
    "InsufficientFundsError",
    "ExistentialDepositError",
    "NotRootKeyError",
)
_ATTESTATION = (
    "AttestationError",
    "CertificateFormatError",
    "QuoteFormatError",
    "QuoteRefusedError",
    "CollateralFormatError",
    "CollateralRefusedError",
    "CollateralOlderError",
    "TrustAnchorError",
    "PolicyRefusedError",
)
_TEEREX = (
    "UnknownFmspcError",
    "CollateralRootError",
    "CollateralTeeError",
    "RegistrationChainError",
    "RegistrationBlockError",
    "RegistrationReplayedError",
    "QuoteBindingError",
    "ChallengeUsedError",
    "UnknownProviderError",
    "WrongFingerprintForShardError",
    "SvnTooLowError",
    "OperatorRefusedError",
    "TooManyInstancesError",
    "NotRegisteredError",
    "UrlError",
    "WrongVendorError",
    "LongestAgeError",
)
_BRIDGE = (
    "UnknownShardError",
    "ShardRulesError",
    "ShardLimitError",
    "ShardNotBornError",
    "ShardMaintenanceError",
    "CiphertextSizeError",
    "NothingShieldedError",
    "OrderForeignError",
    "OrderSerialError",
    "OrderExpiredError",
    "OrderSignatureError",
    "PredecessorError",
    "NoticeError",
    "ScheduleFullError",
    "CancelTooLateError",
    "NotPendingError",
    "FloorLoweredError",
    "NoGenerationError",
    "EpochPublishedError",
    "EpochOrderError",
    "StatementForeignError",
    "StatementSignatureError",
    "WrongGenerationError",
    "VoidedGenerationError",
    "ConfirmationRangeError",
    "StaleConfirmationError",
    "BrokenRootChainError",
    "DisputedRangeError",
    "CertificateError",
    "VendorOrderError",
    "OrderOpenError",
    "PostponementError",
    "RulesFixedError",
    "NoChangeError",
    "RotationError",
    "EffectsMismatchError",
    "EffectsRangeError",
    "EffectsDoneError",
    "EffectsRepeatedError",
    "EffectsFullError",
    "DisputedEffectsError",
    "NoRotationError",
    "RotationEarlyError",
    "EpochStagedError",
    "KeyPolicyError",
    "NothingStagedError",
    "StagedKeysError",
    "EpochHeldError",
    "RotationDemandError",
    "EffectsRefutedError",
    "RotationAttestationError",
    "AttestationAgeError",
    "RehearsalTermsError",
    "RehearsalClosedError",
    "RehearsalForeignError",
    "RehearsalFormError",
    "RehearsalStaleError",
    "RehearsalsFullError",
)
_COUNCIL = (
    "NoCouncilError",
    "MotionOpenError",
    "MotionLimitError",
    "MotionClosedError",
    "MotionLiveError",
    "UnknownMotionError",
    "SeatRefusedError",
)
_VALIDATORS = (
    "ValidatorsFixedError",
    "ValidatorKeyError",
    "ValidatorPowerError",
    "ValidatorLimitError",
    "ValidatorChangeError",
    "LastValidatorError",
    "UnknownValidatorError",
)

#: First number of each family; families only grow at their end.
_FAMILIES = (
    (10, _BASE),
    (20, _TRANSACTIONS),
    (40, _FRAME),
    (80, _SYSTEM),
    (100, _ATTESTATION),
    (140, _TEEREX),
    (200, _BRIDGE),
    (300, _COUNCIL),
    (340, _VALIDATORS),
)

#: Number of each error class, by name.
CODES = MappingProxyType(
    {
        name: start + place
        for start, names in _FAMILIES
        for place, name in enumerate(names)
    }
)


def code_of(name: str) -> int:
    """The number of an error class; :data:`UNLISTED` if it has none."""
    return CODES.get(name, UNLISTED)


def code_of_error(error: SealiftError) -> int:
    """The number of an error."""
    return code_of(error.code)
