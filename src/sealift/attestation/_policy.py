"""Policy: which genuine evidence a shard accepts (DESIGN §7).

A policy can only narrow: roots are measured, ``Revoked`` never verifies, and a
debug enclave is never accepted, which no field can change.
"""

from dataclasses import InitVar, dataclass
from typing import Final, Protocol

from sealift.base import Height, InvariantError

from ._rules import Failure, PolicyRefusedError, Rule, failure
from ._verify import VerifiedEvidence

_SEAL: Final = object()


class Policy(Protocol):
    """The five values of an ``AttestationPolicy``."""

    @property
    def accepted_tcb_statuses(self) -> tuple[str, ...]:
        """Names of TCB statuses; any other is refused."""

    @property
    def rejected_advisories(self) -> tuple[str, ...]:
        """Advisories of which none may apply."""

    @property
    def min_tcb_evaluation_number(self) -> int:
        """The least TCB evaluation data number."""

    @property
    def max_age_blocks(self) -> int:
        """For how many blocks an attestation counts."""

    @property
    def not_before(self) -> Height:
        """The first height at which an attestation counts."""


class Attested(Protocol):
    """What a policy looks at: verified evidence, or the registry's record of it."""

    @property
    def status(self) -> str:
        """The TCB status."""

    @property
    def advisories(self) -> tuple[str, ...]:
        """The advisories that apply."""

    @property
    def tcb_evaluation_data_number(self) -> int:
        """The number of the TCB info that judged it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedHeights:
    """When evidence was put on L1, and the height at which it is judged."""

    attested_at: Height
    judged_at: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuote:
    """Verified evidence that a policy accepts. Only :func:`judge` makes it."""

    evidence: VerifiedEvidence
    heights: AttestedHeights | None
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise InvariantError("only judge makes a JudgedQuote")


def judge(
    evidence: VerifiedEvidence, policy: Policy, *, heights: AttestedHeights | None
) -> JudgedQuote:
    """Accept evidence under a policy.

    Args:
        evidence: Verified.
        policy: The five values.
        heights: None where there is no chain (a quote in a file): the caller
            then owes ``max_age_blocks`` and ``not_before``.

    Raises:
        PolicyRefusedError: With every broken rule, what was seen and wanted.
    """
    found = policy_failures(evidence, policy, heights=heights)
    if found:
        raise PolicyRefusedError("attestation policy refuses", found)
    return JudgedQuote(evidence=evidence, heights=heights, seal=_SEAL)


def policy_failures(
    attested: Attested, policy: Policy, *, heights: AttestedHeights | None
) -> tuple[Failure, ...]:
    """The rules of a policy that an attestation breaks; empty if accepted."""
    found: list[Failure] = []
    if attested.status not in policy.accepted_tcb_statuses:
        accepted = ", ".join(policy.accepted_tcb_statuses) or "none at all"
        found.append(failure(Rule.TCB_STATUS_ACCEPTED, attested.status, accepted))
    rejected = sorted(set(attested.advisories) & set(policy.rejected_advisories))
    if rejected:
        found.append(failure(Rule.ADVISORY_REJECTED, ", ".join(rejected), "none"))
    number = attested.tcb_evaluation_data_number
    if number < policy.min_tcb_evaluation_number:
        wanted = f"≥ {policy.min_tcb_evaluation_number}"
        found.append(failure(Rule.TCB_EVALUATION_NUMBER, number, wanted))
    if heights is None:
        return tuple(found)
    age = heights.judged_at - heights.attested_at
    if not 0 <= age <= policy.max_age_blocks:
        wanted = f"0 … {policy.max_age_blocks}"
        found.append(failure(Rule.MAXIMUM_AGE, f"{age} blocks", wanted))
    if heights.attested_at < policy.not_before:
        seen = f"attested at {heights.attested_at}"
        found.append(failure(Rule.NOT_BEFORE, seen, f"≥ {policy.not_before}"))
    return tuple(found)
