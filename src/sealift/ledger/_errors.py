"""Why L1 refuses: one class for each rule, so that refusals have names."""

from sealift.base import SealiftError
from sealift.frame import PalletError


class LedgerGenesisError(SealiftError):
    """Genesis data that is malformed, or not that of the stored state."""


class LedgerHeightError(SealiftError):
    """A block out of turn: blocks are finalized one after the other, from 1."""


class LedgerQueryError(SealiftError):
    """A path that the ledger does not serve."""


class ProposalRefusedError(SealiftError):
    """A proposal with a transaction that no block can include at this place."""


class UnknownRuntimeVersionError(SealiftError):
    """The chain has reached a runtime version that this program does not have.

    The node halts here by name, with nothing lost; a program that has the version
    goes on.
    """


class TransactionError(PalletError):
    """The root of refusals before a call runs: no fee, no nonce, no effect."""


class TransactionTooLargeError(TransactionError):
    """More bytes than a transaction may have."""


class TransactionFormatError(TransactionError):
    """Not the canonical encoding of a signed transaction."""


class WrongChainError(TransactionError):
    """Signed for another chain."""


class TransactionSignatureError(TransactionError):
    """The signer did not sign this."""


class TransactionExpiredError(TransactionError):
    """Carried after the last block it was valid for."""


class NonceError(TransactionError):
    """Not the account's next nonce: a replay, or a transaction too early."""


class FeeError(TransactionError):
    """The account cannot pay the fee."""


class BlockFullError(TransactionError):
    """The block's weight is spent; the same transaction may come again."""


class RuntimeUpgradeError(PalletError):
    """A runtime upgrade that is not ahead, or not newer."""


class InsufficientFundsError(PalletError):
    """The account has less than it wants to give."""


class ExistentialDepositError(PalletError):
    """The receiving account would hold less than the least balance."""


class NotRootKeyError(PalletError):
    """Signed by another account than the root key."""


class UnknownFmspcError(PalletError):
    """The ledger has no collateral for this family of processors."""


class CollateralRootError(PalletError):
    """Collateral of a weaker root may not replace that of Intel's."""


class CollateralTeeError(PalletError):
    """Collateral of another TEE than SGX."""


class RegistrationChainError(PalletError):
    """The statement was made for another chain."""


class RegistrationBlockError(PalletError):
    """The statement names no recent block of this chain."""


class RegistrationReplayedError(PalletError):
    """The statement is not newer than the one the registry has of this key."""


class QuoteBindingError(PalletError):
    """The quote was made over something else: another's quote."""


class ChallengeUsedError(PalletError):
    """The challenge stands in another registration; it serves one session."""


class UnknownProviderError(PalletError):
    """The statement names no registered provider of this shard."""


class WrongFingerprintForShardError(PalletError):
    """No admissible entry of the shard's schedule names this code."""


class SvnTooLowError(PalletError):
    """The enclave's security version is below the floor."""


class OperatorRefusedError(PalletError):
    """The account is not among the operators, or not this instance's own."""


class TooManyInstancesError(PalletError):
    """As many instances as the shard allows are live."""


class NotRegisteredError(PalletError):
    """No instance of this shard is registered under this key."""


class UrlError(PalletError):
    """Not an address that workers could dial."""


class UnknownShardError(PalletError):
    """There is no such shard."""


class ShardRulesError(PalletError):
    """Rules or a configuration that no shard could live by."""


class ShardLimitError(PalletError):
    """This chain has as many shards as it takes."""


class ShardNotBornError(PalletError):
    """The shard has no keys yet, or had none when this block began."""


class ShardMaintenanceError(PalletError):
    """The shard is in maintenance; nothing is lost, try again later."""


class CiphertextSizeError(PalletError):
    """No sealed call has this size."""


class NothingShieldedError(PalletError):
    """Nothing cannot be shielded."""


class AttestationAgeError(PalletError):
    """A configuration accepts older attestations than the chain's rule allows."""


class LongestAgeError(PalletError):
    """The longest age may only be lowered, and not below the chain's memory."""


class RegistryQueueError(PalletError):
    """A migration left somebody out of the registry, or of its queue."""


class OrderForeignError(PalletError):
    """The order was signed for another chain or another shard."""


class OrderSerialError(PalletError):
    """The order's serial is not the current one: it replays, or is too late."""


class OrderExpiredError(PalletError):
    """The order's expiry has passed."""


class OrderSignatureError(PalletError):
    """The shard's authority did not sign this order."""


class PredecessorError(PalletError):
    """The order follows another generation than the last one that stands."""


class NoticeError(PalletError):
    """Less notice than the shard's rules demand."""


class ScheduleFullError(PalletError):
    """As many entries stand ahead, or as many bytes, as a schedule takes."""


class CancelTooLateError(PalletError):
    """The entry is active or was: nothing is left to cancel."""


class NotPendingError(PalletError):
    """The entry is already cancelled, lapsed or void."""


class FloorLoweredError(PalletError):
    """Floors only rise."""


class VendorOrderError(PalletError):
    """A vendor's word is for code of its own product, at no lower version."""


class OrderOpenError(PalletError):
    """As many orders wait for endorsements as a shard keeps."""


class PostponementError(PalletError):
    """An entry can only be put off, and not past the one that follows."""


class RulesFixedError(PalletError):
    """What was fixed when the shard was created never changes."""


class NoChangeError(PalletError):
    """No change of rules is pending."""


class RotationError(PalletError):
    """No instance could make or hold these keys."""


class NoCouncilError(PalletError):
    """Workers have no vote in this shard."""


class MotionOpenError(PalletError):
    """The order is before the council already."""


class MotionLimitError(PalletError):
    """As many motions stand as a shard's council takes."""


class MotionClosedError(PalletError):
    """The motion is over: expired, overtaken, or its electorate's time is."""


class MotionLiveError(PalletError):
    """The motion is not over."""


class UnknownMotionError(PalletError):
    """No such motion stands before the council."""


class SeatRefusedError(PalletError):
    """The instance has no seat: not of an operator, too new, or lapsed."""


class EpochPublishedError(PalletError):
    """The key epoch was published already."""


class EpochOrderError(PalletError):
    """Not an epoch that may be published now."""


class StatementForeignError(PalletError):
    """The statement was signed for another chain or another shard."""


class StatementSignatureError(PalletError):
    """The named signing key did not sign this statement."""


class WrongGenerationError(PalletError):
    """Another generation runs at this height."""


class VoidedGenerationError(PalletError):
    """The generation was voided by rescue; its confirmations do not count."""


class ConfirmationRangeError(PalletError):
    """The range does not begin at the frontier, or is not final yet."""


class StaleConfirmationError(PalletError):
    """The range is confirmed already; nothing happened."""


class BrokenRootChainError(PalletError):
    """``prev_root`` is not the frontier's root."""


class DisputedRangeError(PalletError):
    """Conflicting roots stand for this range; the authority must decide."""


class CertificateError(PalletError):
    """The handover certificate does not fit schedule or confirmed roots."""


class WrongVendorError(PalletError):
    """The code is not of the vendor, or the product, that the generation names."""


class EffectsMismatchError(PalletError):
    """The effects are none, too many, or not those that a statement names."""


class EffectsRefutedError(PalletError):
    """The confirmed root of the block's range says otherwise of its effects."""


class EffectsRangeError(PalletError):
    """The block of these effects is not final yet, or before the shard's birth."""


class EffectsDoneError(PalletError):
    """Effects up to this block were executed already; nothing happened."""


class EffectsRepeatedError(PalletError):
    """This platform said the same of the block before; nothing happened."""


class EffectsFullError(PalletError):
    """As many blocks' effects wait for agreement as a shard keeps."""


class DisputedEffectsError(PalletError):
    """Instances contradict each other on effects; the authority must decide."""


class NoRotationError(PalletError):
    """No rotation of the shard's keys is owed."""


class RotationDemandError(PalletError):
    """The keys were made for another rotation than the one that is owed."""


class RotationAttestationError(PalletError):
    """The keys were made under another registration than acts, or too early."""


class RotationEarlyError(PalletError):
    """The generation that owes the rotation has confirmed no block yet."""


class EpochStagedError(PalletError):
    """Keys of this epoch are staged, and not long enough to be given up."""


class KeyPolicyError(PalletError):
    """A key that should have stayed is another, or an old one comes again."""


class NothingStagedError(PalletError):
    """No keys are staged that an instance could hold."""


class StagedKeysError(PalletError):
    """Not the keys that are staged."""


class EpochHeldError(PalletError):
    """The instance said before that it holds these keys; nothing happened."""


class RehearsalTermsError(PalletError):
    """Terms of rehearsals by which a shard would stand still."""


class RehearsalClosedError(PalletError):
    """No rehearsals are taken of this generation: not yet, or no more."""


class RehearsalForeignError(PalletError):
    """A rehearsal for another order, or for another upgrade block."""


class RehearsalFormError(PalletError):
    """A rehearsal that tells finer than it may, or contradicts itself."""


class RehearsalStaleError(PalletError):
    """The platform's last rehearsal is as new: a replay, or an older one."""


class RehearsalsFullError(PalletError):
    """So many platforms have rehearsed well that no more are kept."""


class ValidatorsFixedError(PalletError):
    """The genesis says that the validators of this chain never change."""


class ValidatorKeyError(PalletError):
    """Not an Ed25519 public key; CometBFT would halt on others."""


class ValidatorPowerError(PalletError):
    """Voting power below zero, above what CometBFT counts, or stuck for ever."""


class ValidatorLimitError(PalletError):
    """More validators than the genesis allows."""


class ValidatorChangeError(PalletError):
    """More than a third of the voting power would change in one block."""


class LastValidatorError(PalletError):
    """Nobody would be left to order the chain."""


class UnknownValidatorError(PalletError):
    """Power is taken from a key that has none."""
