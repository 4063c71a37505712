"""mu-ra: handing a shard's keys to another enclave (DESIGN §8).

A state table, two generators of steps, and a driver that turns bytes and
proofs into bytes and wishes. Keys leave a provider only in step 7.
"""

from ._audit import verify_auditee
from ._entitled import (
    Standing,
    judge_auditee,
    judge_instance,
    provider_entry,
    requester_entry,
)
from ._epochs import EntitledEpochs, entitled_epochs, epoch_public
from ._errors import (
    AttestedTooEarlyError,
    AuditNonceError,
    ChallengeMismatchError,
    CheckpointMismatchError,
    CommitmentMismatchError,
    EarlierGenerationError,
    HandoverForbiddenError,
    IsvSvnTooLowError,
    KeyBindingError,
    MuRaVersionError,
    NoticeNotRunError,
    NotProvenError,
    NotScheduledError,
    OperatorNotListedError,
    ProviderNotEntitledError,
    ProvisioningError,
    RefusedByPeerError,
    SessionOrderError,
    VendorRevokedError,
    WrongShardError,
    WrongVendorError,
)
from ._ports import Instance, ProvenState
from ._session import MuRaSession, Output
from ._table import TABLE, Event, Row, State, next_state

__all__ = [
    "TABLE",
    "AttestedTooEarlyError",
    "AuditNonceError",
    "ChallengeMismatchError",
    "CheckpointMismatchError",
    "CommitmentMismatchError",
    "EarlierGenerationError",
    "EntitledEpochs",
    "Event",
    "HandoverForbiddenError",
    "Instance",
    "IsvSvnTooLowError",
    "KeyBindingError",
    "MuRaSession",
    "MuRaVersionError",
    "NotProvenError",
    "NotScheduledError",
    "NoticeNotRunError",
    "OperatorNotListedError",
    "Output",
    "ProvenState",
    "ProviderNotEntitledError",
    "ProvisioningError",
    "RefusedByPeerError",
    "Row",
    "SessionOrderError",
    "Standing",
    "State",
    "VendorRevokedError",
    "WrongShardError",
    "WrongVendorError",
    "entitled_epochs",
    "epoch_public",
    "judge_auditee",
    "judge_instance",
    "next_state",
    "provider_entry",
    "requester_entry",
    "verify_auditee",
]
