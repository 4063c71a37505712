"""Whether a registered instance may speak for a generation of its shard."""

import msgspec

from sealift.attestation import (
    AttestationError,
    AttestedHeights,
    PolicyRefusedError,
    policy_failures,
)
from sealift.base import Height
from sealift.frame import PalletError
from sealift.protocol import (
    AttestationPolicy,
    EnclaveRecord,
    ScheduleEntry,
    ShardStatus,
)

from ._errors import OperatorRefusedError, SvnTooLowError, WrongFingerprintForShardError


class _Recorded:
    """A registry record as a policy looks at it."""

    __slots__ = ("advisories", "status", "tcb_evaluation_data_number")

    def __init__(self, record: EnclaveRecord) -> None:
        self.status: str = record.tcb_status
        self.advisories: tuple[str, ...] = record.advisories
        self.tcb_evaluation_data_number: int = record.tcb_evaluation_number


def require_eligible(
    record: EnclaveRecord,
    entry: ScheduleEntry,
    status: ShardStatus,
    *,
    height: Height,
) -> None:
    """Return if the instance runs this generation and is currently attested.

    1. Its code is the entry's on its platform.
    2. Its security version is not below the entry's, nor the shard's floor.
    3. Its account is one of the operators, if the entry names any.
    4. The entry's policy, narrowed by the floors, accepts the recorded
       attestation at ``height``: TCB, advisories, age, ``not_before``.

    Raises:
        WrongFingerprintForShardError: 1.
        SvnTooLowError: 2.
        OperatorRefusedError: 3.
        PolicyRefusedError: 4, with every broken rule.
    """
    config = entry.config
    wanted = config.code.get(record.platform)
    if record.fingerprint != wanted:  # 1
        raise WrongFingerprintForShardError(
            f"generation {entry.generation} runs another code on {record.platform}",
            got=record.fingerprint,
            expected=wanted or "no code for this platform",
        )
    floor = max(config.min_isv_svn, status.min_isv_svn)
    if record.isv_svn < floor:  # 2
        raise SvnTooLowError(
            "ISV_SVN is below the floor", got=record.isv_svn, expected=f"≥ {floor}"
        )
    if config.operators and record.operator not in config.operators:  # 3
        raise OperatorRefusedError(
            "account is not among the operators of this generation",
            got=record.operator,
        )
    failures = policy_failures(  # 4
        _Recorded(record),
        _narrowed(config.attestation, status),
        heights=AttestedHeights(attested_at=record.attested_at, judged_at=height),
    )
    if failures:
        raise PolicyRefusedError("attestation policy refuses", failures)


def is_eligible(
    record: EnclaveRecord,
    entry: ScheduleEntry,
    status: ShardStatus,
    *,
    height: Height,
) -> bool:
    """Whether :func:`require_eligible` would return."""
    try:
        require_eligible(record, entry, status, height=height)
    except (PalletError, AttestationError):
        return False
    return True


def _narrowed(policy: AttestationPolicy, status: ShardStatus) -> AttestationPolicy:
    return msgspec.structs.replace(
        policy,
        min_tcb_evaluation_number=max(
            policy.min_tcb_evaluation_number, status.min_tcb_evaluation_number
        ),
    )
