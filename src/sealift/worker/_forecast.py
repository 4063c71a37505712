"""What will drop a worker out of its shard, before it does; pure (DESIGN §7).

Policies change under notice. So what L1 has on record of an instance is judged by
the generation that runs, and also by the one that comes next.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sealift.base import Height
from sealift.protocol import (
    EnclaveRecord,
    NoGenerationError,
    Schedule,
    ScheduleEntry,
    config_at,
    next_upgrade,
)

#: Of a maximum age, this part may have passed: a worker attests again at half.
AGE_PART: Final = 0.75
#: Collateral that expires within so many seconds is a risk.
COLLATERAL_SECONDS: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """One rule that this instance breaks, or soon will.

    ``blocks`` is how many are left until it counts; 0: it counts already.
    """

    rule: str
    detail: str
    hint: str
    blocks: int

    def __str__(self) -> str:
        when = "now" if not self.blocks else f"in {self.blocks} blocks"
        return f"{self.rule}, {when}: {self.detail}. {self.hint}"


_UPDATE: Final = "Update microcode and platform software, then attest again."
_CODE: Final = "Run code that the entry names, by its vendor and version."


def forecast(
    record: EnclaveRecord, schedule: Schedule, height: Height
) -> tuple[Risk, ...]:
    """Every rule that would refuse this instance, now and at the next upgrade.

    1. For the generation that runs and for the next one: TCB status, advisories,
    TCB evaluation number, operator. They are of the machine and its operator, so
    they count for the worker that takes over on it, too. 2. Where the entry names
    this very code also: version, vendor, product, age and ``not_before``. The
    shard's floors act from the next block on for both.

    Args:
        record: The instance, as L1's registry has it.
        schedule: The shard's.
        height: The height at which it is judged.
    """
    risks: dict[tuple[str, str], Risk] = {}
    for entry, blocks in _turns(schedule, height):
        found = [*_of_machine(record, entry, schedule, blocks)]
        if entry.config.code.get(record.platform) == record.fingerprint:
            found += _of_code(record, entry, schedule, blocks)
            found += _of_age(record, entry, schedule, height, blocks)
        for risk in found:  # what counts now is not told again for later
            risks.setdefault((risk.rule, risk.detail), risk)
    return tuple(risks.values())


def collateral_risk(seconds_left: int | None) -> tuple[Risk, ...]:
    """Whether L1's collateral of this platform lasts.

    Args:
        seconds_left: Until it expires; ``None``: L1 has none that holds.
    """
    if seconds_left is not None and seconds_left > COLLATERAL_SECONDS:
        return ()
    detail = (
        "L1 has no collateral of this platform that is valid"
        if seconds_left is None
        else f"L1's collateral of this platform expires in {seconds_left // 3600} h"
    )
    hint = "The next registration brings fresh collateral; see that one is made."
    return (Risk(rule="collateral", detail=detail, hint=hint, blocks=0),)


def _turns(schedule: Schedule, height: Height) -> list[tuple[ScheduleEntry, int]]:
    turns = []
    with contextlib.suppress(NoGenerationError):
        turns.append((config_at(schedule, height), 0))
    ahead = next_upgrade(schedule, height)
    if ahead is not None:
        turns.append((ahead, ahead.upgrade_at - height))
    return turns


def _of_machine(
    record: EnclaveRecord, entry: ScheduleEntry, schedule: Schedule, blocks: int
) -> Iterator[Risk]:
    policy, status = entry.config.attestation, schedule.status
    whose = f"generation {entry.generation}"
    if record.tcb_status not in policy.accepted_tcb_statuses:
        accepted = ", ".join(policy.accepted_tcb_statuses) or "none at all"
        detail = f"{record.tcb_status}, and {whose} accepts {accepted}"
        yield Risk(rule="tcb-status", detail=detail, hint=_UPDATE, blocks=blocks)
    rejected = set(policy.rejected_advisories) | set(status.rejected_advisories)
    if hit := sorted(rejected & set(record.advisories)):
        detail = f"{', '.join(hit)} applies, and {whose} rejects it"
        yield Risk(rule="advisory", detail=detail, hint=_UPDATE, blocks=blocks)
    number = max(policy.min_tcb_evaluation_number, status.min_tcb_evaluation_number)
    if record.tcb_evaluation_number < number:
        detail = (
            f"judged by TCB evaluation {record.tcb_evaluation_number}, and {whose} "
            f"wants ≥ {number}"
        )
        hint = "Attest again under newer collateral."
        yield Risk(rule="tcb-evaluation", detail=detail, hint=hint, blocks=blocks)
    operators = entry.config.operators
    if operators and record.operator not in operators:
        detail = f"{record.operator.hex()} is no operator of {whose}"
        hint = "Have the shard's authority name this account, or use one it names."
        yield Risk(rule="operator", detail=detail, hint=hint, blocks=blocks)


def _of_code(
    record: EnclaveRecord, entry: ScheduleEntry, schedule: Schedule, blocks: int
) -> Iterator[Risk]:
    config = entry.config
    whose = f"generation {entry.generation}"
    floor = max(config.min_isv_svn, schedule.status.min_isv_svn)
    if record.isv_svn < floor:
        detail = f"ISV_SVN {record.isv_svn}, and {whose} wants ≥ {floor}"
        yield Risk(rule="isv-svn", detail=detail, hint=_CODE, blocks=blocks)
    if config.mr_signer not in (None, record.mr_signer):
        detail = f"{whose} wants code of another vendor (MRSIGNER)"
        yield Risk(rule="mr-signer", detail=detail, hint=_CODE, blocks=blocks)
    if config.isv_prod_id not in (None, record.isv_prod_id):
        detail = f"product {record.isv_prod_id}, and {whose} wants {config.isv_prod_id}"
        yield Risk(rule="isv-prod-id", detail=detail, hint=_CODE, blocks=blocks)


def _of_age(
    record: EnclaveRecord,
    entry: ScheduleEntry,
    schedule: Schedule,
    height: Height,
    blocks: int,
) -> Iterator[Risk]:
    policy = entry.config.attestation
    whose = f"generation {entry.generation}"
    again = "The worker attests again by itself; if not, /healthz says why."
    floor = max(policy.not_before, schedule.status.not_before)
    if record.attested_at < floor:
        detail = f"attested at {record.attested_at}, and {whose} wants ≥ {floor}"
        yield Risk(rule="not-before", detail=detail, hint=again, blocks=blocks)
    age = height + blocks - record.attested_at
    if age > policy.max_age_blocks * AGE_PART:
        detail = (
            f"attested {age} blocks before {'then' if blocks else 'now'}, and "
            f"{whose} takes ≤ {policy.max_age_blocks}"
        )
        left = max(record.attested_at + policy.max_age_blocks - height, 0)
        yield Risk(
            rule="attestation-age",
            detail=detail,
            hint=again,
            blocks=max(left, blocks),
        )
