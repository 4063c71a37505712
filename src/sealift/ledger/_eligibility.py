"""Whether a registered instance may speak for a generation of its shard."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from sealift.attestation import (
    AttestationError,
    AttestedHeights,
    PolicyRefusedError,
    policy_failures,
)
from sealift.base import AccountId, Height
from sealift.frame import PalletError
from sealift.protocol import (
    AttestationPolicy,
    EnclaveRecord,
    ScheduleEntry,
    ShardStatus,
)

from ._errors import (
    OperatorRefusedError,
    SvnTooLowError,
    WrongFingerprintForShardError,
    WrongVendorError,
)


class _Recorded:
    """A registry record as a policy looks at it."""

    __slots__ = ("advisories", "status", "tcb_evaluation_data_number")

    def __init__(self, record: EnclaveRecord) -> None:
        self.status: str = record.tcb_status
        self.advisories: tuple[str, ...] = record.advisories
        self.tcb_evaluation_data_number: int = record.tcb_evaluation_number


class Forecast(NamedTuple):
    """What an entry and a status make of one instance.

    ``refusal`` is the name of the first refusal, ``None`` if there is none;
    ``sentence`` tells all of them.
    """

    signing_key: AccountId
    refusal: str | None
    sentence: str


def require_eligible(
    record: EnclaveRecord,
    entry: ScheduleEntry,
    status: ShardStatus,
    *,
    height: Height,
) -> None:
    """Return if the instance runs this generation and is currently attested.

    1. Its code is the entry's on its platform.
    2. Its vendor and product are those that the entry names, if it names any.
    3. Its security version is not below the entry's, nor the shard's floor.
    4. Its account is one of the operators, if the entry names any.
    5. The entry's policy, narrowed by the floors, accepts the recorded
       attestation at ``height``: TCB, advisories, age, ``not_before``.

    Raises:
        WrongFingerprintForShardError: 1.
        WrongVendorError: 2.
        SvnTooLowError: 3.
        OperatorRefusedError: 4.
        PolicyRefusedError: 5, with every broken rule.
    """
    for refusal in _refusals(record, entry, status, height=height):
        raise refusal


def is_eligible(
    record: EnclaveRecord,
    entry: ScheduleEntry,
    status: ShardStatus,
    *,
    height: Height,
) -> bool:
    """Whether :func:`require_eligible` would return."""
    return not any(True for _ in _refusals(record, entry, status, height=height))


def forecast(
    records: Iterable[EnclaveRecord],
    entry: ScheduleEntry,
    status: ShardStatus,
    *,
    height: Height,
) -> tuple[Forecast, ...]:
    """Who would be eligible under an entry and a status, and who not, and why.

    For showing who falls out before an act is decided (DESIGN §12). In the order
    of ``records``; all broken rules are told, not only the first.
    """
    return tuple(_forecast(one, entry, status, height) for one in records)


def unbroken_since(
    record: EnclaveRecord,
    known: EnclaveRecord | None,
    entry: ScheduleEntry,
    *,
    height: Height,
) -> Height:
    """Since when the instance has been attested without a break.

    The former attestation counts on if it had not lapsed at ``height`` under the
    entry that admits the new one, and was of the same code on the same machine.

    Args:
        record: As it is registered in block ``height``.
        known: As it was registered before, if it was.
        entry: Which admits it.
        height: This block.
    """
    if known is None or _same_seat(known) != _same_seat(record):
        return height
    if height - known.attested_at > entry.config.attestation.max_age_blocks:
        return height
    # a record from before this was kept vouches for its last attestation only
    return known.unbroken_since or known.attested_at


def _same_seat(record: EnclaveRecord) -> tuple[str, bytes, bytes]:
    return (record.platform, record.platform_id, record.fingerprint)


def _forecast(
    record: EnclaveRecord, entry: ScheduleEntry, status: ShardStatus, height: Height
) -> Forecast:
    found = list(_refusals(record, entry, status, height=height))
    return Forecast(
        signing_key=record.statement.signing_key,
        refusal=found[0].code if found else None,
        sentence="; ".join(str(one) for one in found) or "accepted",
    )


def _refusals(
    record: EnclaveRecord, entry: ScheduleEntry, status: ShardStatus, *, height: Height
) -> Iterator[PalletError | AttestationError]:
    """Every rule of :func:`require_eligible` that is broken, in its order."""
    config = entry.config
    wanted = config.code.get(record.platform)
    if record.fingerprint != wanted:  # 1
        yield WrongFingerprintForShardError(
            f"generation {entry.generation} runs another code on {record.platform}",
            got=record.fingerprint,
            expected=wanted or "no code for this platform",
        )
    if config.mr_signer not in (None, record.mr_signer):  # 2
        yield WrongVendorError(
            "code is another vendor's", got=record.mr_signer, expected=config.mr_signer
        )
    if config.isv_prod_id not in (None, record.isv_prod_id):
        yield WrongVendorError(
            "code is another product",
            got=record.isv_prod_id,
            expected=config.isv_prod_id,
        )
    floor = max(config.min_isv_svn, status.min_isv_svn)
    if record.isv_svn < floor:  # 3
        yield SvnTooLowError(
            "ISV_SVN is below the floor", got=record.isv_svn, expected=f"≥ {floor}"
        )
    if config.operators and record.operator not in config.operators:  # 4
        yield OperatorRefusedError(
            "account is not among the operators of this generation",
            got=record.operator,
        )
    failures = policy_failures(  # 5
        _Recorded(record),
        narrowed(config.attestation, status),
        heights=AttestedHeights(attested_at=record.attested_at, judged_at=height),
    )
    if failures:
        yield PolicyRefusedError("attestation policy refuses", failures)


def narrowed(policy: AttestationPolicy, status: ShardStatus) -> AttestationPolicy:
    """The policy under the floors of a status; none of it widens."""
    rejected = {*policy.rejected_advisories, *status.rejected_advisories}
    return msgspec.structs.replace(
        policy,
        rejected_advisories=tuple(sorted(rejected)),
        min_tcb_evaluation_number=max(
            policy.min_tcb_evaluation_number, status.min_tcb_evaluation_number
        ),
        not_before=Height(max(policy.not_before, status.not_before)),
    )
