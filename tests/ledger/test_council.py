"""The workers' vote: one platform, one vote, of those who have long been there."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealift.ledger._council import MAX_MOTIONS
from sealift.ledger._errors import (
    MotionClosedError,
    MotionLimitError,
    MotionLiveError,
    MotionOpenError,
    NoCouncilError,
    OperatorRefusedError,
    OrderSerialError,
    SeatRefusedError,
    UnknownMotionError,
)
from sealift.protocol import (
    AllOf,
    EntryStatus,
    Ratio,
    SudoAuthority,
    WorkersAuthority,
)

SEAT_AGE = 4
PERIOD = 12
HALF = Ratio(numerator=1, denominator=2)
TERMS = WorkersAuthority(threshold=HALF, seat_age=SEAT_AGE, period=PERIOD)


def council_shard(world: Any, *instances: Any, **rules: Any) -> bytes:
    """A born shard whose workers vote, with seats that are old enough."""
    operators = tuple(world.account(name) for name in ("operator", "other-operator"))
    config = world.config(
        operators=operators, policy={"max_age_blocks": rules.pop("max_age", 1000)}
    )
    rules = {"authority": TERMS} | rules
    shard = world.born_shard(*instances, config=config, **rules)
    world.blocks_until(world.height + SEAT_AGE)
    return shard


@pytest.fixture
def seated(world: Any) -> Any:
    """Three platforms with a seat each."""
    world.one, world.two, world.three = (
        world.instance(name) for name in ("one", "two", "three")
    )
    world.shard = council_shard(world, world.one, world.two, world.three)
    return world


def order(world: Any, **fields: Any) -> Any:
    """An upgrade, far enough ahead for a vote."""
    operators = tuple(world.account(name) for name in ("operator", "other-operator"))
    at = world.next + 40
    base = {
        "config": world.config(world.CODE_B, operators=operators),
        "release_from": at,
        "upgrade_at": at + 1,
    }
    return world.upgrade_order(world.shard, **(base | fields))


def propose(world: Any, motion: Any, instance: Any) -> None:
    world.call(
        "council.propose",
        by=instance.operator,
        order=motion,
        signing_key=instance.key,
    )


def vote(world: Any, motion: Any, instance: Any, *, aye: bool = True, **by: Any) -> Any:
    return world.call(
        "council.vote",
        by=by.get("by", instance.operator),
        shard=motion.shard,
        order=motion.digest(),
        signing_key=instance.key,
        aye=aye,
    )


def close(world: Any, motion: Any) -> None:
    world.call("council.close", shard=motion.shard, order=motion.digest())


def scheduled(world: Any) -> list[Any]:
    entries = world.schedule(world.shard).entries
    return [e.generation for e in entries if e.status is EntryStatus.PENDING]


def test_a_majority_of_platforms_decides(seated: Any) -> None:
    motion = order(seated)
    propose(seated, motion, seated.one)
    assert scheduled(seated) == []
    vote(seated, motion, seated.two)
    assert scheduled(seated) == [1]
    assert "council.MotionEnded" in seated.events()
    assert "enclave_bridge.GenerationScheduled" in seated.events()


def test_half_is_no_majority(world: Any) -> None:
    world.one, world.two = world.instance("one"), world.instance("two")
    world.shard = council_shard(world, world.one, world.two)
    motion = order(world)
    propose(world, motion, world.one)
    assert scheduled(world) == []
    vote(world, motion, world.two)
    assert scheduled(world) == [1]


def test_one_enclave_alone_schedules_nothing(seated: Any) -> None:
    """W pallets: a registered enclave could schedule any upgrade at once."""
    motion = order(seated)
    propose(seated, motion, seated.one)
    for _ in range(3):
        vote(seated, motion, seated.one)
    assert scheduled(seated) == []


def test_one_platform_votes_under_two_keys_and_counts_once(world: Any) -> None:
    world.one, world.two = world.instance("one"), world.instance("two")
    twin = world.instance("twin", operator="other-operator")
    twin.machine = world.one.machine
    world.three = world.instance("three")
    world.shard = council_shard(world, world.one, world.two, twin, world.three)
    motion = order(world)
    propose(world, motion, world.one)
    vote(world, motion, twin)
    assert scheduled(world) == []
    vote(world, motion, world.three)
    assert scheduled(world) == [1]


def test_a_vote_is_changed_until_the_end(seated: Any) -> None:
    motion = order(seated)
    propose(seated, motion, seated.one)
    vote(seated, motion, seated.one, aye=False)
    vote(seated, motion, seated.two)
    assert scheduled(seated) == []
    vote(seated, motion, seated.one)
    assert scheduled(seated) == [1]


def test_who_came_after_the_motion_has_no_seat_in_it(seated: Any) -> None:
    motion = order(seated)
    propose(seated, motion, seated.one)
    late = seated.instance("late")
    seated.register(seated.shard, late)
    seated.blocks_until(seated.height + SEAT_AGE)
    with pytest.raises(SeatRefusedError):
        vote(seated, motion, late)


def test_who_came_shortly_before_has_none_either(seated: Any) -> None:
    late = seated.instance("late")
    seated.register(seated.shard, late)
    motion = order(seated)
    with pytest.raises(SeatRefusedError):
        propose(seated, motion, late)
    propose(seated, motion, seated.one)
    vote(seated, motion, seated.two)
    assert scheduled(seated) == [1], "nor does it raise what a majority is"


def test_vote_of_a_lapsed_attestation(world: Any) -> None:
    """It was cast in time, and does not count when the motion is decided."""
    world.one, world.two, world.three = (
        world.instance(name) for name in ("one", "two", "three")
    )
    world.shard = council_shard(
        world, world.one, world.two, world.three, max_age=SEAT_AGE + 8
    )
    motion = order(world)
    propose(world, motion, world.one)
    world.register(world.shard, world.two)
    world.register(world.shard, world.three)
    world.blocks_until(world.height + 7)
    vote(world, motion, world.two)
    assert scheduled(world) == [], "the proposer's attestation has lapsed"
    vote(world, motion, world.three)
    assert scheduled(world) == [1]


def test_a_break_in_attestation_costs_the_seat(world: Any) -> None:
    world.one, world.two = world.instance("one"), world.instance("two")
    world.shard = council_shard(world, world.one, world.two, max_age=SEAT_AGE + 2)
    world.register(world.shard, world.two)
    world.blocks_until(world.height + 2)
    world.register(world.shard, world.one)  # too late: it had lapsed
    motion = order(world)
    with pytest.raises(SeatRefusedError):
        propose(world, motion, world.one)
    propose(world, motion, world.two)
    assert scheduled(world) == [1], "the only seat there is"


def test_a_motion_lapses_when_its_electorates_generation_changes(seated: Any) -> None:
    """Motion passed by a replaced electorate."""
    operators = tuple(seated.account(name) for name in ("operator", "other-operator"))
    seated.register(seated.shard, seated.three)
    first = order(
        seated,
        release_from=seated.next + 6,
        upgrade_at=seated.next + 9,
        config=seated.config(operators=operators, min_isv_svn=1),
    )
    propose(seated, first, seated.one)
    vote(seated, first, seated.two)
    second = order(seated)
    propose(seated, second, seated.one)
    seated.blocks_until(first.upgrade_at)
    with pytest.raises(MotionClosedError):
        vote(seated, second, seated.two)
    close(seated, second)
    assert "council.MotionEnded" in seated.events()
    assert scheduled(seated) == []


def test_a_motion_expires(seated: Any) -> None:
    motion = order(seated)
    propose(seated, motion, seated.one)
    seated.blocks_until(seated.height + PERIOD)
    with pytest.raises(MotionClosedError):
        vote(seated, motion, seated.two)
    close(seated, motion)
    with pytest.raises(UnknownMotionError):
        vote(seated, motion, seated.two)


def test_a_motion_that_stands_is_not_closed(seated: Any) -> None:
    motion = order(seated)
    propose(seated, motion, seated.one)
    with pytest.raises(MotionLiveError):
        close(seated, motion)


def test_a_motion_is_overtaken_by_another_act(seated: Any) -> None:
    """What was proposed before a cancel is not passed after it."""
    first, second = order(seated), order(seated, expiry=seated.height + 30)
    propose(seated, first, seated.one)
    propose(seated, second, seated.one)
    vote(seated, first, seated.two)
    with pytest.raises(MotionClosedError):
        vote(seated, second, seated.two)
    with pytest.raises(OrderSerialError):
        propose(seated, second, seated.one)


def test_only_the_instances_own_operator_votes_for_it(seated: Any) -> None:
    motion = order(seated)
    with pytest.raises(OperatorRefusedError):
        seated.call(
            "council.propose",
            by="alice",
            order=motion,
            signing_key=seated.one.key,
        )
    propose(seated, motion, seated.one)
    with pytest.raises(OperatorRefusedError):
        vote(seated, motion, seated.two, by="other-operator")


def test_an_order_is_before_the_council_once(seated: Any) -> None:
    motion = order(seated)
    propose(seated, motion, seated.one)
    with pytest.raises(MotionOpenError):
        propose(seated, motion, seated.two)


def test_a_seat_cannot_fill_the_table_for_ever(seated: Any) -> None:
    """Governance flooding: the table is bounded, and makes room by itself."""
    for number in range(MAX_MOTIONS):
        config = seated.config(
            bytes([number]) * 32, operators=(seated.account("operator"),)
        )
        propose(seated, order(seated, config=config), seated.one)
    with pytest.raises(MotionLimitError):
        propose(seated, order(seated), seated.two)
    seated.blocks_until(seated.height + PERIOD + 1)
    propose(seated, order(seated), seated.two)


def test_workers_have_no_vote_where_they_do_not_decide(world: Any) -> None:
    world.one = world.instance("one")
    authority = SudoAuthority(key=world.account("authority"))
    world.shard = council_shard(world, world.one, authority=authority)
    with pytest.raises(NoCouncilError):
        propose(world, order(world), world.one)


def test_workers_and_a_key_together(world: Any) -> None:
    """The vote is noted on L1 and waits for the key, or the other way round."""
    world.one, world.two = world.instance("one"), world.instance("two")
    authority = AllOf(members=(TERMS, SudoAuthority(key=world.account("authority"))))
    world.shard = council_shard(world, world.one, world.two, authority=authority)
    motion = order(world)
    propose(world, motion, world.one)
    vote(world, motion, world.two)
    assert scheduled(world) == []
    world.submit(motion)
    assert scheduled(world) == [1]


def test_the_key_first_and_the_workers_then(world: Any) -> None:
    world.one, world.two = world.instance("one"), world.instance("two")
    authority = AllOf(members=(TERMS, SudoAuthority(key=world.account("authority"))))
    world.shard = council_shard(world, world.one, world.two, authority=authority)
    motion = order(world)
    world.submit(motion)
    propose(world, motion, world.one)
    assert scheduled(world) == []
    vote(world, motion, world.two)
    assert scheduled(world) == [1]


def test_a_passed_motion_that_cannot_be_carried_out_says_so(seated: Any) -> None:
    """Its notice ran out while it was voted on."""
    motion = order(seated, release_from=seated.next + 6, upgrade_at=seated.next + 7)
    propose(seated, motion, seated.one)
    seated.blocks_until(motion.release_from - 1)
    vote(seated, motion, seated.two)
    assert "enclave_bridge.OrderFailed" in seated.events()
    assert scheduled(seated) == []


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    ballots=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12),
    numerator=st.integers(1, 4),
)
def test_the_council_counts_as_a_plain_reading_does(
    new_world: Any, ballots: Any, numerator: int
) -> None:
    world = new_world()
    instances = [world.instance(f"i{n}") for n in range(5)]
    terms = WorkersAuthority(
        threshold=Ratio(numerator=numerator, denominator=5),
        seat_age=SEAT_AGE,
        period=50,
    )
    world.shard = council_shard(world, *instances, authority=terms)
    motion = order(world)
    propose(world, motion, instances[0])
    said = {0: True}
    for number, aye in ballots:
        if sum(said.values()) > numerator:
            break
        said[number] = aye
        vote(world, motion, instances[number], aye=aye)
    assert (scheduled(world) == [1]) is (sum(said.values()) > numerator)
