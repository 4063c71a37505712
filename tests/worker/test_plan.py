"""Which instances of a home should be up, by what L1 says."""

import pytest
from doubles import CODE, ME, ROOT, SHARD, entry, frontier, schedule

from sealift.base import Fingerprint, Generation, Height
from sealift.protocol import (
    EntryStatus,
    HandoverCertificate,
    Schedule,
    ScheduleEntry,
    ShardConfig,
)
from sealift.worker._plan import MOST_STAGED, Plan, generation_at, plan_for

NEW = Fingerprint(b"\x0e" * 32)
SIM = "insecure-sim"
OLD_RUNS = entry(0)
RETIRED = entry(0, status=EntryStatus.RETIRED)
AHEAD = entry(1, since=100, status=EntryStatus.PENDING, code=NEW)
RUNS = entry(1, since=100, code=NEW)
VOID = entry(1, since=100, status=EntryStatus.VOID, code=NEW)


def certificate(successor: int = 1) -> HandoverCertificate:
    return HandoverCertificate(
        chain_id="test",
        shard=SHARD,
        generation=Generation(successor - 1),
        successor=Generation(successor),
        height=Height(99),
        root=ROOT,
        signing_key=ME,
    )


def plan(
    *entries: ScheduleEntry,
    head: int,
    confirmed: tuple[int, int] | None = None,
    said: HandoverCertificate | None = None,
    platform: str = SIM,
) -> Plan:
    found = plan_for(
        schedule(entries=entries),
        head=Height(head),
        platform=platform,
        frontier=None if confirmed is None else frontier(*confirmed),
        certificate=said,
    )
    assert found is not None
    return found


def wanted(found: Plan, handed_over: int | None = None) -> tuple[bool, bool]:
    """Whether the old code and the new one should be up."""
    return found.wants(CODE, SIM, handed_over), found.wants(NEW, SIM, None)


def test_before_an_upgrade_the_code_that_runs_and_the_one_ahead() -> None:
    assert wanted(plan(OLD_RUNS, head=50)) == (True, False)
    assert wanted(plan(OLD_RUNS, AHEAD, head=50)) == (True, True)


def test_the_code_before_stays_until_it_has_handed_over() -> None:
    after = plan(RETIRED, RUNS, head=105)
    assert (after.running, after.previous) == (NEW, CODE)
    assert wanted(after) == (True, True)
    assert wanted(after, handed_over=1) == (False, True)
    assert wanted(after, handed_over=0) == (True, True)  # that was another time


@pytest.mark.parametrize(
    ("confirmed", "said", "over"),
    [
        (None, None, False),
        ((99, 0), certificate(), False),  # nothing of the new one is confirmed
        ((103, 1), None, False),  # its certificate is not there
        ((103, 1), certificate(2), False),
        ((103, 0), certificate(), False),
        ((103, 1), certificate(), True),
    ],
)
def test_handed_over_is_what_l1_has_both_of(
    confirmed: tuple[int, int] | None, said: HandoverCertificate | None, over: bool
) -> None:
    found = plan(RETIRED, RUNS, head=105, confirmed=confirmed, said=said)
    assert found.handed_over is over


def test_a_rescue_wants_the_old_code_again_and_the_void_one_no_more() -> None:
    rescue = entry(2, since=100, code=CODE, predecessor=Generation(0))
    found = plan(RETIRED, VOID, rescue, head=160)
    assert (found.generation, found.running) == (2, CODE)
    assert wanted(found, handed_over=1) == (True, False)
    assert found.previous is None


def test_no_code_takes_over_what_a_later_generation_made_of_the_state() -> None:
    before = plan(OLD_RUNS, AHEAD, head=50)
    assert before.last_for(CODE, SIM) is None
    assert before.last_for(NEW, SIM) is None
    after = plan(RETIRED, RUNS, head=105)
    assert after.last_for(CODE, SIM) == 99
    assert after.last_for(NEW, SIM) is None
    rescue = entry(2, since=100, code=CODE, predecessor=Generation(0))
    rescued = plan(RETIRED, VOID, rescue, head=160)
    assert rescued.last_for(CODE, SIM) is None
    assert rescued.last_for(NEW, SIM) == 99


def test_a_void_predecessor_is_not_kept() -> None:
    rescue = entry(2, since=100, code=CODE, predecessor=Generation(1))
    assert plan(RETIRED, VOID, rescue, head=160).previous is None


def test_few_upgrades_are_staged_at_once_the_soonest_first() -> None:
    codes = [Fingerprint(bytes([number]) * 32) for number in range(20, 25)]
    far = [
        entry(n, since=100 * n, status=EntryStatus.PENDING, code=codes[n])
        for n in (3, 1, 2, 4)
    ]
    found = plan(OLD_RUNS, *far, head=50)
    assert [one.generation for one in found.ahead] == [1, 2][:MOST_STAGED]
    assert not found.wants(codes[4], SIM, None)


def test_other_platforms_code_is_none_of_ours() -> None:
    other = entry(
        1,
        since=100,
        status=EntryStatus.PENDING,
        config=ShardConfig(code={"gramine-sgx": NEW}),
    )
    assert wanted(plan(OLD_RUNS, other, head=50)) == (True, False)


def test_before_the_birth_there_is_no_plan() -> None:
    unborn = schedule(entries=(entry(0, since=10),))
    assert (
        plan_for(unborn, head=Height(5), platform=SIM, frontier=None, certificate=None)
        is None
    )


def test_who_executed_a_block_for_which_generation() -> None:
    def at(code: Fingerprint, height: int, *entries: ScheduleEntry) -> int:
        seen: Schedule = schedule(entries=entries)
        return generation_at(seen, code, height, SIM)

    assert generation_at(None, CODE, 5, SIM) == -1
    assert at(CODE, 99, OLD_RUNS, AHEAD) == 0
    assert at(NEW, 99, OLD_RUNS, AHEAD) == -1
    assert at(NEW, 100, OLD_RUNS, AHEAD) == 1
    rescue = entry(2, since=100, code=CODE)
    assert at(CODE, 99, RETIRED, VOID, rescue) == 0
    assert at(CODE, 100, RETIRED, VOID, rescue) == 2
    assert at(NEW, 120, RETIRED, VOID, rescue) == -1
