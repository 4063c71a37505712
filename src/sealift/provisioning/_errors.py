"""What ends a mu-ra session; every name stands for one broken rule of §8."""

from sealift.base import SealiftError


class ProvisioningError(SealiftError):
    """The root of all refusals in provisioning; no secret was sent."""


class MuRaVersionError(ProvisioningError):
    """No version of the protocol is spoken by both ends."""


class WrongShardError(ProvisioningError):
    """The other end is of another shard or chain."""


class SessionOrderError(ProvisioningError):
    """A message or a proof that has no place in this state of the session."""


class NotProvenError(ProvisioningError):
    """L1's state does not hold what the session needs, or it was not brought."""


class ChallengeMismatchError(ProvisioningError):
    """The registration names no challenge, or another session's."""


class KeyBindingError(ProvisioningError):
    """Keys of the channel, of the quote and of the registration differ."""


class NotScheduledError(ProvisioningError):
    """The fingerprint stands in no entry that may hold the shard's keys."""


class OperatorNotListedError(ProvisioningError):
    """The entry names its operators, and the instance's account is none of them."""


class NoticeNotRunError(ProvisioningError):
    """The entry's ``release_from`` is above the block that holds the challenge."""


class EarlierGenerationError(ProvisioningError):
    """The fingerprint belongs only to generations that have had their time."""


class ProviderNotEntitledError(ProvisioningError):
    """The provider is neither of the frontier's generation nor of the one before."""


class HandoverForbiddenError(ProvisioningError):
    """A generation up to the requester's does not hand its keys to a later one."""


class IsvSvnTooLowError(ProvisioningError):
    """The enclave's ISV_SVN is below the floor."""


class WrongVendorError(ProvisioningError):
    """The enclave is of another vendor or product than its entry says."""


class AttestedTooEarlyError(ProvisioningError):
    """Attested below the height from which instances may have an epoch's keys."""


class CommitmentMismatchError(ProvisioningError):
    """A received key is not the one that L1 has a commitment to."""


class CheckpointMismatchError(ProvisioningError):
    """The provider's chain or frontier is not the requester's."""


class RefusedByPeerError(ProvisioningError):
    """The other end refused, by name."""


class VendorRevokedError(ProvisioningError):
    """The code's vendor is revoked: it is not started for an audit either."""


class AuditNonceError(ProvisioningError):
    """An auditee's statement that was not made for this invitation."""
