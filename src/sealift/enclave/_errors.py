"""What an enclave refuses, one name for each attack or misuse."""

from sealift.base import SealiftError


class EnclaveError(SealiftError):
    """The root of the enclave's own refusals; a refused request changed nothing."""


class PlatformRefusedError(EnclaveError):
    """The platform refuses a quote, a key or its identity."""


class SealingLevelError(PlatformRefusedError):
    """The platform has no sealing key of that level: it cannot, or no more."""


class PlatformAnswerError(EnclaveError):
    """The platform's answer is not the one its request has."""


class VersionMismatchError(EnclaveError):
    """Host and enclave speak no common version of the ECALL table."""


class NotStartedError(EnclaveError):
    """Only ``Hello`` and ``Start`` come before ``Start``."""


class AlreadyStartedError(EnclaveError):
    """``Start`` happens once per process."""


class HaltedError(EnclaveError):
    """The enclave has stopped for good: the chain has forked."""


class KeyStoreUnreadableError(EnclaveError):
    """The sealed key store does not open here; it is kept as it is."""


class KeyStoreLevelError(KeyStoreUnreadableError):
    """The key store was sealed on a level of which this platform gives no key."""


class KeyStoreForeignError(EnclaveError):
    """The key store opens, but belongs to another shard or chain."""


class CheckpointForgedError(EnclaveError):
    """A checkpoint that this instance has not made for this shard."""


class SkippedBlockError(EnclaveError):
    """A block above the one that comes next."""


class RepeatedBlockError(EnclaveError):
    """A block below the one that comes next."""


class SkipNotAllowedError(EnclaveError):
    """A gap that holds, or may hold, a block that has to be executed here."""


class SkipIncompleteError(EnclaveError):
    """A path or a proof that a skip needs was not brought."""


class RecordMissingError(EnclaveError):
    """The shard's schedule record was not proven, or absent after its birth."""


class WrongRecordError(EnclaveError):
    """A schedule record of another block, or one its schedule contradicts."""


class ScheduleNotBroughtError(EnclaveError):
    """The record names a schedule that was neither seen nor brought."""


class WrongScheduleError(EnclaveError):
    """A schedule of another shard or chain."""


class DuplicateProofError(EnclaveError):
    """One key is proven twice in a request."""


class NoKeysError(EnclaveError):
    """This enclave does not hold the shard's keys."""


class NoStateError(EnclaveError):
    """This enclave holds no state of the shard."""


class StateExistsError(EnclaveError):
    """There is a state already, and what is offered would not advance it."""


class ShardBornError(EnclaveError):
    """The shard has keys already; they are to be requested, not made."""


class NotNamedError(EnclaveError):
    """The schedule does not name this code for this height."""


class GenesisMismatchError(EnclaveError):
    """The genesis blob is not the one that L1 has the digest of."""


class NoRotationDueError(EnclaveError):
    """New keys are wanted, but L1 wants none."""


class RotationTooEarlyError(EnclaveError):
    """The generation that a rotation is for has not confirmed a block yet."""


class NotQuotedError(EnclaveError):
    """Keys are made under a registration of this very process; it has made none."""


class StagedElsewhereError(EnclaveError):
    """Another instance's keys are staged; they are to be requested, not made."""


class NothingStagedError(EnclaveError):
    """No key epoch is staged on L1."""


class KeysContradictedError(EnclaveError):
    """Keys of an epoch that is held, and they are others."""


class WrongEpochError(EnclaveError):
    """A diff or snapshot under the keys of another epoch than its height's."""


class SnapshotOrderError(EnclaveError):
    """A chunk that can't come now: no such one, out of order, or none was begun."""


class SnapshotForgedError(EnclaveError):
    """A snapshot's header or chunk that no holder of the state key made so."""


class ForeignSnapshotError(EnclaveError):
    """A snapshot or diff of another shard, chain or format."""


class SnapshotContradictedError(EnclaveError):
    """A snapshot of a root or a block that L1 is proven to have decided otherwise."""


class OldSnapshotError(EnclaveError):
    """A snapshot that lies behind the state that is there."""


class StateRootMismatchError(EnclaveError):
    """What was loaded or executed leads to another root than it must."""


class DiffOrderError(EnclaveError):
    """A diff that does not follow the state that is there."""


class DiffForgedError(EnclaveError):
    """A diff that no holder of the state key made so."""


class DiffOfOtherCodeError(EnclaveError):
    """A diff that begins with record migrations which are not this code's."""


class StateUnconfirmedError(EnclaveError):
    """A state from elsewhere that L1's proven frontier does not cover."""


class DivergedStateError(EnclaveError):
    """This state is not the one that was confirmed, or its code was voided."""


class NotDurableError(EnclaveError):
    """More is said to be durable than was executed."""


class ConfirmRangeError(EnclaveError):
    """A range to confirm that this instance did not execute, or can't begin so."""


class NotServingError(EnclaveError):
    """This code does not run the shard now, so it answers no reads."""


class UnknownSessionError(EnclaveError):
    """No provisioning session of that number is open."""


class SessionLimitError(EnclaveError):
    """Too many provisioning sessions are open."""


class StaleProofError(EnclaveError):
    """Proofs against another state than the newest one that was followed."""


class AuditRoleError(EnclaveError):
    """An enclave takes part in an audit in one role, from its start, and only so."""


class AuditOrderError(EnclaveError):
    """A request that has no place at this point of an audit."""


class AuditChallengeError(EnclaveError):
    """What is shown as L1's present may be its past: the challenge is not in it."""


class AuditRootError(EnclaveError):
    """The measured trust root lies above the shard's birth: genesis is not in reach."""


class AuditRecordError(EnclaveError):
    """A record of an audit that was altered, dropped, repeated or reordered."""
