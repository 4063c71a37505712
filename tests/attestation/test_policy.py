"""Policies narrow what is genuine, and say all they did not like."""

import dataclasses
from typing import Any

import pytest

from sealift.attestation import (
    AttestedHeights,
    JudgedQuote,
    PolicyRefusedError,
    Rule,
    VerifiedQuote,
    attest_verdict,
    judge,
    policy_failures,
    render_collateral,
    verify_quote,
)
from sealift.base import InvariantError
from sealift.protocol import AttestationPolicy

HEIGHTS = AttestedHeights(attested_at=50, judged_at=60)


@pytest.fixture
def outdated(sim: Any) -> VerifiedQuote:
    """A genuine quote: OutOfDate, two advisories, evaluation number 2."""
    sim.intel.set_tcb_status("OutOfDate", advisories=("INTEL-SA-1", "INTEL-SA-2"))
    return verify_quote(sim.quote(), **sim.arguments)


def refused(quote: VerifiedQuote, policy: Any, heights: Any = HEIGHTS) -> list[Rule]:
    with pytest.raises(PolicyRefusedError) as error:
        judge(quote, policy, heights=heights)
    return [each.rule for each in error.value.failures]


def test_what_the_policy_accepts_is_judged(outdated: Any, lenient: Any) -> None:
    judged = judge(outdated, lenient(), heights=HEIGHTS)
    assert judged.evidence is outdated
    assert judged.heights == HEIGHTS


def test_the_policy_message_fits(outdated: Any) -> None:
    assert refused(outdated, AttestationPolicy()) == [Rule.TCB_STATUS_ACCEPTED]
    wide = AttestationPolicy(accepted_tcb_statuses=("OutOfDate",))
    assert judge(outdated, wide, heights=HEIGHTS).evidence is outdated


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"accepted_tcb_statuses": ("UpToDate",)}, Rule.TCB_STATUS_ACCEPTED),
        ({"accepted_tcb_statuses": ()}, Rule.TCB_STATUS_ACCEPTED),
        ({"rejected_advisories": ("INTEL-SA-2",)}, Rule.ADVISORY_REJECTED),
        ({"min_tcb_evaluation_number": 3}, Rule.TCB_EVALUATION_NUMBER),
        ({"max_age_blocks": 9}, Rule.MAXIMUM_AGE),
        ({"not_before": 51}, Rule.NOT_BEFORE),
    ],
)
def test_each_rule_refuses_alone(
    change: dict[str, Any], rule: Rule, outdated: Any, lenient: Any
) -> None:
    assert refused(outdated, lenient(**change)) == [rule]


@pytest.mark.parametrize(
    "change",
    [
        {"accepted_tcb_statuses": ("OutOfDate",)},
        {"rejected_advisories": ("INTEL-SA-3",)},
        {"min_tcb_evaluation_number": 2},
        {"max_age_blocks": 10},
        {"not_before": 50},
    ],
)
def test_each_limit_itself_is_accepted(
    change: dict[str, Any], outdated: Any, lenient: Any
) -> None:
    judge(outdated, lenient(**change), heights=HEIGHTS)


def test_all_broken_rules_are_named_with_seen_and_wanted(
    outdated: Any, lenient: Any
) -> None:
    strict = lenient(
        accepted_tcb_statuses=("UpToDate", "SWHardeningNeeded"),
        rejected_advisories=("INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-7"),
        min_tcb_evaluation_number=18,
        max_age_blocks=1,
        not_before=55,
    )
    with pytest.raises(PolicyRefusedError) as error:
        judge(outdated, strict, heights=HEIGHTS)
    shown = [(f.rule, f.got, f.expected) for f in error.value.failures]
    assert shown == [
        (Rule.TCB_STATUS_ACCEPTED, "OutOfDate", "UpToDate, SWHardeningNeeded"),
        (Rule.ADVISORY_REJECTED, "INTEL-SA-1, INTEL-SA-2", "none"),
        (Rule.TCB_EVALUATION_NUMBER, "2", "≥ 18"),
        (Rule.MAXIMUM_AGE, "10 blocks", "0 … 1"),
        (Rule.NOT_BEFORE, "attested at 50", "≥ 55"),
    ]


def test_an_attestation_from_the_future_is_refused(outdated: Any, lenient: Any) -> None:
    future = AttestedHeights(attested_at=61, judged_at=60)
    assert refused(outdated, lenient(), future) == [Rule.MAXIMUM_AGE]


def test_without_a_chain_heights_are_owed(outdated: Any, lenient: Any) -> None:
    judged = judge(outdated, lenient(max_age_blocks=0, not_before=99), heights=None)
    assert judged.heights is None
    assert refused(outdated, lenient(min_tcb_evaluation_number=3), None) == [
        Rule.TCB_EVALUATION_NUMBER
    ]


def test_a_registry_record_is_judged_like_the_quote(lenient: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Record:
        status: str = "OutOfDate"
        advisories: tuple[str, ...] = ("INTEL-SA-1",)
        tcb_evaluation_data_number: int = 4

    assert policy_failures(Record(), lenient(), heights=HEIGHTS) == ()
    (broken,) = policy_failures(
        Record(), lenient(rejected_advisories=("INTEL-SA-1",)), heights=HEIGHTS
    )
    assert broken.rule is Rule.ADVISORY_REJECTED


def test_a_judged_quote_cannot_be_made_elsewhere(outdated: Any) -> None:
    with pytest.raises(InvariantError):
        JudgedQuote(evidence=outdated, heights=None, seal=object())


def test_the_verdict_tells_genuine_from_accepted(sim: Any, lenient: Any) -> None:
    sim.intel.set_tcb_status("OutOfDate", advisories=("INTEL-SA-1",))
    files = {
        "quote": sim.quote(),
        "collateral": render_collateral(sim.collateral()),
        "root": sim.root.root_der,
        "now": sim.now,
    }
    genuine = attest_verdict(**files, policy=None)
    assert (genuine.verdict, genuine.genuine) == ("accept", True)
    assert genuine.reason == "genuine, TCB status OutOfDate"
    assert genuine.mrenclave == "aa" * 32
    assert genuine.anchor == "insecure-sim"
    narrow = lenient(accepted_tcb_statuses=("UpToDate",))
    refusal = attest_verdict(**files, policy=narrow)
    assert (refusal.verdict, refusal.genuine) == ("reject", True)
    assert refusal.refused_rules == ("accepted TCB statuses",)
    assert "got OutOfDate, expected UpToDate" in refusal.reason
    assert refusal.advisories == ("INTEL-SA-1",)
