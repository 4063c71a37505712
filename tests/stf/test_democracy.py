"""The life of a poll, and what is no poll."""

from typing import Any

import msgspec
import pytest
from ballot_box import (
    CONFIG,
    PLACE,
    SUDO,
    TERMS,
    Assembly,
    entry,
    load_world,
    pause,
    schedule,
    upgrade,
)

from sealift.base import Height, decode, encode
from sealift.frame import Context, EmittedEvent, Pallet, Runtime, Signed
from sealift.protocol import (
    MAX_EFFECTS_BYTES,
    AllOf,
    AnyOf,
    CancelOrder,
    EntryStatus,
    PostponeOrder,
    Ratio,
    RehearsalsOrder,
    RulesOrder,
    ShardRules,
    StakeDecision,
    Tally,
    WithdrawOrder,
)
from sealift.stf import (
    MARGIN,
    MAX_ORDER_BYTES,
    MAX_POLLS,
    RESERVED_BYTES,
    RESERVED_EFFECTS,
    NoStakeError,
    NoStakeVoteError,
    OrderTooLargeError,
    PollExistsError,
    PollNotOpenError,
    ShieldedFunds,
    StandardPallets,
    TooManyPollsError,
    UnknownPollError,
)
from sealift.stf._democracy import MAX_RESULTS

replace = msgspec.structs.replace


@pytest.fixture
def hall() -> Assembly:
    """Five people with 100, 200, … 500 tokens."""
    return Assembly([100, 200, 300, 400, 500])


def ended(hall: Assembly, poll: Any, *votes: tuple[int, bool]) -> StakeDecision:
    """The decision of a poll in which these people voted."""
    hall.to(poll["opens_at"] - 1)
    calls = [hall.vote(hall.people[who], poll, aye) for who, aye in votes]
    assert set(hall.outcomes(*calls)) <= {"ok"}
    hall.to(poll["closes_at"])
    return hall.decisions[-1]


# --- a poll's life ---


def test_a_poll_has_a_window_a_time_of_votes_and_an_end(hall: Assembly) -> None:
    a, b, *_ = hall.people
    poll = hall.propose(a)
    assert poll["proposed_at"] == 11
    assert (poll["opens_at"], poll["closes_at"]) == (15, 18)
    told = {}
    for height in range(12, 20):
        told[height] = hall.outcomes(hall.vote(b, poll))[0]
    assert told == {
        12: "PollNotOpenError",
        13: "PollNotOpenError",
        14: "PollNotOpenError",
        15: "ok",
        16: "ok",
        17: "ok",
        18: "UnknownPollError",
        19: "UnknownPollError",
    }
    assert hall.results() == [(0, "rejected")]


def test_the_order_leaves_as_an_effect_of_the_closing_block(hall: Assembly) -> None:
    order = pause()
    poll = hall.propose(hall.people[0], order)
    hall.to(poll["opens_at"] - 1)
    hall.block(hall.vote(hall.people[4], poll), hall.vote(hall.people[3], poll, False))
    effects = {}
    while hall.height < poll["closes_at"] + 2:
        outcome = hall.block()
        effects[hall.height] = outcome.effects
    decision = StakeDecision(
        order=order,
        passed=True,
        tally=Tally(ayes=500, nays=400, electorate=1500, voters=2),
    )
    assert effects == {16: (), 17: (), 18: (decision,), 19: (), 20: ()}
    assert hall.block().effects_before == 18


def test_a_rejected_order_is_told_as_well(hall: Assembly) -> None:
    decision = ended(hall, hall.propose(hall.people[0]), (4, False), (3, True))
    assert not decision.passed
    assert hall.results() == [(0, "rejected")]


def terms() -> RehearsalsOrder:
    return RehearsalsOrder(
        **PLACE,
        serial=0,
        required=1,
        postpone_by=10,
        effective_at=Height(10_000),
        expiry=Height(10_000),
    )


def test_terms_of_rehearsals_leave_the_shard_only_if_they_pass(hall: Assembly) -> None:
    """An older L1 could not read the effect, nor what waits behind it."""
    first, second = hall.people[0], hall.people[1]
    poll = hall.propose(first, terms())
    hall.to(poll["opens_at"] - 1)
    assert hall.outcomes(hall.vote(hall.people[4], poll, False)) == ["ok"]
    hall.to(poll["closes_at"] + 2)
    assert hall.results() == [(0, "rejected")]
    assert hall.decisions == []
    decision = ended(hall, hall.propose(second, terms()), (4, True))
    assert (decision.order, decision.passed) == (terms(), True)


def test_a_tie_does_not_pass(hall: Assembly) -> None:
    poll = hall.propose(hall.people[0])
    decision = ended(hall, poll, (4, True), (3, False), (0, False))
    assert (decision.tally.ayes, decision.tally.nays) == (500, 500)
    assert not decision.passed


def test_a_changed_vote_counts_once_where_it_is_now(hall: Assembly) -> None:
    poll = hall.propose(hall.people[0])
    hall.to(poll["opens_at"] - 1)
    c = hall.people[2]
    for aye in (True, False, False, True, False):
        assert hall.outcomes(hall.vote(c, poll, aye)) == ["ok"] or hall.height > 17
    hall.to(poll["closes_at"])
    assert hall.decisions[0].tally.voters == 1


def test_all_changes_in_one_block_leave_one_vote(hall: Assembly) -> None:
    poll = hall.propose(hall.people[0])
    votes = [(2, True), (2, False), (2, False), (2, True), (2, False), (1, True)]
    tally = ended(hall, poll, *votes).tally
    assert (tally.ayes, tally.nays, tally.voters) == (200, 300, 2)


def test_with_too_few_voters_no_numbers_are_told() -> None:
    hall = Assembly([100, 200, 300], replace(TERMS, min_voters=3))
    one = ended(hall, hall.propose(hall.people[0]), (1, True), (2, True))
    assert (one.passed, one.tally) == (True, None)
    two = ended(hall, hall.propose(hall.people[0]), (0, True), (1, True), (2, True))
    assert two.tally is not None
    results = hall.ask(hall.people[0], "results")
    assert [result[-1] is None for result in results] == [True, False]


def test_a_vote_nobody_took_part_in_is_rejected(hall: Assembly) -> None:
    decision = ended(hall, hall.propose(hall.people[0]))
    assert not decision.passed
    assert decision.tally == Tally(ayes=0, nays=0, electorate=1500, voters=0)


def test_without_a_quorum_in_the_terms_one_vote_decides() -> None:
    hall = Assembly(
        [1, 999], replace(TERMS, quorum=Ratio(numerator=0, denominator=1), deposit=0)
    )
    assert ended(hall, hall.propose(hall.people[0]), (0, True)).passed


def test_heights_that_bring_nothing_are_made_up_for(hall: Assembly) -> None:
    """An instance executes every block; but nothing hangs on one of them."""
    poll = hall.propose(hall.people[0])
    hall.world.run(height=poll["closes_at"] + 7)
    assert hall.results() == [(0, "rejected")]
    assert hall.world.pallet("democracy").running.find(hall.world.context()) is None


def test_several_polls_run_beside_each_other(hall: Assembly) -> None:
    polls = [
        hall.propose(hall.people[number], pause(expiry=1_000 + number))
        for number in range(3)
    ]
    hall.to(polls[-1]["opens_at"] - 1)
    a, b, c, *_ = hall.people
    hall.block(
        hall.vote(a, polls[0]),
        hall.vote(a, polls[2], False),
        hall.vote(b, polls[1], False),
        hall.vote(c, polls[2]),
        hall.vote(c, polls[1]),
    )
    hall.to(polls[-1]["closes_at"])
    assert [(d.tally.ayes, d.tally.nays) for d in hall.decisions] == [
        (100, 0),
        (300, 200),
        (300, 100),
    ]
    assert hall.results() == [(0, "rejected"), (1, "passed"), (2, "passed")]


# --- deposits ---


def reserved(hall: Assembly, who: Any) -> int:
    return hall.world.pallet("balances").funds(hall.world.context(), who.id).reserved


def issuance(hall: Assembly) -> int:
    return hall.world.pallet("balances").issuance(hall.world.context())


def test_the_deposit_comes_back_with_the_quorum(hall: Assembly) -> None:
    a = hall.people[0]
    poll = hall.propose(a)
    assert reserved(hall, a) == 10
    ended(hall, poll, (3, False))
    assert (hall.total(a), reserved(hall, a), issuance(hall)) == (100, 0, 1500)
    hall.world.check_issuance()


def test_the_deposit_burns_without_the_quorum(hall: Assembly) -> None:
    a = hall.people[0]
    ended(hall, hall.propose(a), (1, True))
    assert (hall.total(a), reserved(hall, a), issuance(hall)) == (90, 0, 1490)
    hall.world.check_issuance()


def test_the_deposit_counts_as_stake_of_who_set_it_aside(hall: Assembly) -> None:
    assert ended(hall, hall.propose(hall.people[0]), (0, True)).tally.ayes == 100


def test_who_has_no_deposit_proposes_nothing(hall: Assembly) -> None:
    poor = load_world().Person("poor")
    assert hall.outcomes(hall.proposing(poor)) == ["InsufficientFundsError"]
    assert hall.polls() == []


def test_a_burnt_deposit_does_not_change_anothers_electorate() -> None:
    """One poll ends in the block in which the other opens."""
    hall = Assembly([100, 200], replace(TERMS, stake_age=3, period=3))
    first = hall.propose(hall.people[0])
    hall.to(first["closes_at"] - 4)
    second = hall.propose(hall.people[1], pause(expiry=999))
    assert second["opens_at"] == first["closes_at"]
    hall.to(second["opens_at"])
    assert issuance(hall) == 290
    hall.block(hall.vote(hall.people[0], second), hall.vote(hall.people[1], second))
    hall.to(second["closes_at"])
    tally = hall.decisions[-1].tally
    assert tally.electorate == 300
    assert tally.ayes == 300
    hall.world.check_issuance()


class Thief(Pallet):
    """An application that spends what others have reserved."""

    name = "thief"

    def __init__(self) -> None:
        self.victim = b""
        self.balances: Any = None

    def on_finalize(self, ctx: Context) -> None:
        if self.victim:
            self.balances.pay(ctx, self.victim, b"t" * 32, 10)
            self.victim = b""


@pytest.mark.parametrize("votes", [(), ((4, True),)])
def test_no_poll_hangs_on_a_deposit_that_is_gone(votes: Any) -> None:
    thief = Thief()
    hall = Assembly([100, 200, 300, 400, 500], pallets=(thief,))
    thief.balances = hall.world.pallet("balances")
    poll = hall.propose(hall.people[0])
    thief.victim = hall.people[0].id
    ended(hall, poll, *votes)
    assert hall.results() == [(0, "passed" if votes else "rejected")]
    hall.world.check_issuance()


# --- what can't be proposed ---


def refused(hall: Assembly, order: Any) -> str:
    before = reserved(hall, hall.people[4])
    (outcome,) = hall.outcomes(hall.proposing(hall.people[4], order))
    if outcome != "ok":
        assert reserved(hall, hall.people[4]) == before
    return outcome


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"chain_id": "other"}, "OrderElsewhereError"),
        ({"shard": b"x" * 32}, "OrderElsewhereError"),
        ({"serial": 1}, "OrderStaleError"),
        ({"expiry": 10}, "OrderExpiredError"),
        ({"expiry": 18 + MARGIN - 1}, "OrderExpiredError"),
        ({"expiry": 18 + MARGIN}, "ok"),
    ],
)
def test_an_order_for_elsewhere_or_another_time_is_no_proposal(
    hall: Assembly, change: dict[str, Any], outcome: str
) -> None:
    assert refused(hall, pause(**change)) == outcome


@pytest.mark.parametrize(
    ("rules", "change", "outcome"),
    [
        ({}, {"release_from": 18 + MARGIN + 5}, "ok"),
        ({}, {"release_from": 18 + MARGIN + 4}, "OrderHeightsError"),
        ({}, {"release_from": 600}, "OrderHeightsError"),
        ({}, {"emergency": True}, "OrderHeightsError"),
        (
            {"emergency_notice": 2, "emergency_floor": 2},
            {"emergency": True, "release_from": 18 + MARGIN + 2},
            "ok",
        ),
        (
            {"emergency_notice": 2, "emergency_floor": 2},
            {"emergency": True, "release_from": 18 + MARGIN + 1},
            "OrderHeightsError",
        ),
        (
            {"emergency_notice": 2, "emergency_floor": 2},
            {"release_from": 18 + MARGIN + 2},
            "OrderHeightsError",
        ),
    ],
)
def test_the_vote_ends_early_enough_for_the_notice(
    rules: dict[str, Any], change: dict[str, Any], outcome: str
) -> None:
    hall = Assembly([100, 200, 300, 400, 500], **rules)
    assert refused(hall, upgrade(**change)) == outcome


def other_rules(**changes: Any) -> RulesOrder:
    rules = ShardRules(authority=SUDO, genesis=b"g" * 32, min_notice=5, rescue_after=9)
    return RulesOrder(
        **{**PLACE, "serial": 0, "expiry": 900, "rules": rules, **changes}
    )


def test_other_rules_are_voted_on_at_the_longest_notice() -> None:
    for effective_at, outcome in ((18 + MARGIN + 50, "ok"), (71, "OrderHeightsError")):
        hall = Assembly([100] * 5, rules_notice=50)
        assert refused(hall, other_rules(effective_at=effective_at)) == outcome


@pytest.mark.parametrize(
    ("status", "upgrade_at", "put_off_to", "outcome"),
    [
        (EntryStatus.PENDING, 60, 70, "ok"),
        (EntryStatus.PENDING, 18 + MARGIN, 70, "OrderHeightsError"),
        (EntryStatus.CANCELLED, 60, 70, "OrderHeightsError"),
        (EntryStatus.PENDING, 60, 20, "OrderHeightsError"),
    ],
)
def test_only_an_entry_that_will_be_pending_is_cancelled_or_put_off(
    status: EntryStatus, upgrade_at: int, put_off_to: int, outcome: str
) -> None:
    entries = (entry(), entry(1, status=status, upgrade_at=upgrade_at))
    more = {**PLACE, "serial": 0, "expiry": 900, "generation": 1}
    hall = Assembly([100] * 5, entries=entries)
    assert refused(hall, PostponeOrder(upgrade_at=put_off_to, **more)) == outcome
    if put_off_to == 70:
        assert refused(hall, CancelOrder(**more)) == outcome
    unknown = CancelOrder(**{**more, "generation": 7})
    assert refused(hall, unknown) == "OrderHeightsError"


def test_an_order_of_any_kind_is_decided_by_stake() -> None:
    entries = (entry(), entry(1, status=EntryStatus.PENDING, upgrade_at=400))
    more = {**PLACE, "serial": 0, "expiry": 900}
    orders = [
        upgrade(),
        CancelOrder(generation=1, **more),
        PostponeOrder(generation=1, upgrade_at=450, **more),
        pause(),
        other_rules(effective_at=300),
        WithdrawOrder(**more),
    ]
    hall = Assembly([100, 200, 300, 400, 500], entries=entries)
    for order in orders:
        hall.propose(hall.people[4], order)
        number = hall.polls()[-1]["poll"]
        assert hall.ask(hall.people[0], "order", number) == msgspec.msgpack.decode(
            encode(order)
        )
    kinds = [poll["kind"] for poll in hall.polls()]
    assert kinds == [type(order).__name__ for order in orders]
    hall.to(hall.polls()[-1]["closes_at"])
    assert [decision.order for decision in hall.decisions] == orders
    assert hall.ask(hall.people[0], "order", 0) is None


@pytest.mark.parametrize("raw", [b"", b"\x91" * 300, b"junk", encode(["StatusOrder"])])
def test_bytes_that_are_no_order_are_no_proposal(hall: Assembly, raw: bytes) -> None:
    call = hall.world.sealed(hall.people[0], "democracy.propose", order=raw)
    assert hall.outcomes(call) == ["OrderKindError"]


def test_a_second_encoding_of_an_order_is_no_order(hall: Assembly) -> None:
    raw = encode(pause())
    longer = bytes([raw[0] + 1]) + raw[1:] + b"\x00"
    call = hall.world.sealed(hall.people[0], "democracy.propose", order=longer)
    assert hall.outcomes(call) == ["OrderKindError"]


def big(size: int) -> Any:
    """An order of exactly so many bytes."""
    order = upgrade(config=replace(CONFIG, operators=(b"o" * 32,) * (size // 34 - 20)))
    rest = size - len(encode(order))
    for text in (rest - 2, rest - 1, rest):
        made = replace(order, source="x" * text) if text <= 256 else None
        if made is not None and len(encode(made)) == size:
            return made
    operators = (b"o" * 32,) * (len(order.config.operators) + (rest - 200) // 34)
    order = replace(order, config=replace(CONFIG, operators=operators))
    rest = size - len(encode(order))
    return replace(order, source="x" * (rest - 1))


def test_an_order_too_large_for_a_decision_is_no_proposal(hall: Assembly) -> None:
    fits, exceeds = big(MAX_ORDER_BYTES), big(MAX_ORDER_BYTES + 1)
    assert len(encode(fits)) == MAX_ORDER_BYTES
    assert refused(hall, exceeds) == "OrderTooLargeError"
    assert refused(hall, fits) == "ok"


def test_all_polls_may_end_in_one_block_with_the_largest_orders() -> None:
    assert RESERVED_EFFECTS >= MAX_POLLS
    order = big(MAX_ORDER_BYTES)
    most = 2**63 - 1
    tally = Tally(ayes=most, nays=most, electorate=most, voters=most)
    effect = StakeDecision(order=order, passed=True, tally=tally)
    assert MAX_POLLS * len(encode(effect)) <= RESERVED_BYTES < MAX_EFFECTS_BYTES
    hall = Assembly([10_000, 1])
    calls = [
        hall.proposing(hall.people[0], replace(order, expiry=9_000 + number))
        for number in range(MAX_POLLS)
    ]
    assert hall.outcomes(*calls) == ["ok"] * MAX_POLLS
    hall.to(hall.polls()[0]["closes_at"])
    assert len(hall.decisions) == MAX_POLLS
    assert hall.leftovers() == []


def test_without_a_vote_by_stake_there_are_no_polls(hall: Assembly) -> None:
    call = hall.proposing(hall.people[0])
    outcome = hall.world.run(call)  # no schedule was seen yet
    assert outcome.receipts[0].receipt.outcome == "NoStakeVoteError"
    hall.schedule = schedule(SUDO)
    assert refused(hall, pause()) == "NoStakeVoteError"


@pytest.mark.parametrize(
    "rules",
    [
        {"authority": AnyOf(members=(SUDO, TERMS))},
        {"authority": AllOf(members=(SUDO, AnyOf(members=(TERMS, SUDO))))},
        {"authority": SUDO, "emergency": AnyOf(members=(SUDO, TERMS))},
    ],
)
def test_the_terms_are_found_wherever_they_stand(rules: dict[str, Any]) -> None:
    hall = Assembly([100] * 5)
    hall.schedule = schedule(**rules)
    poll = hall.propose(hall.people[0])
    assert poll["closes_at"] == poll["proposed_at"] + TERMS.stake_age + TERMS.period


# --- room ---


def test_an_order_is_voted_on_once_at_a_time(hall: Assembly) -> None:
    a, b, *_ = hall.people
    poll = hall.propose(a)
    assert hall.outcomes(hall.proposing(b)) == ["PollExistsError"]
    hall.to(poll["closes_at"])
    assert hall.outcomes(hall.proposing(b)) == ["ok"]


def test_so_many_polls_and_no_more(hall: Assembly) -> None:
    rich = hall.people[4]
    calls = [
        hall.proposing(rich, pause(expiry=500 + number))
        for number in range(MAX_POLLS + 1)
    ]
    outcomes = hall.outcomes(*calls)
    assert outcomes == ["ok"] * MAX_POLLS + ["TooManyPollsError"]
    assert reserved(hall, rich) == 10 * MAX_POLLS
    hall.to(hall.polls()[0]["closes_at"])
    assert hall.total(rich) == 500 - 10 * MAX_POLLS
    hall.propose(rich, pause(expiry=777))
    assert [number for number, _ in hall.results()] == list(range(MAX_POLLS))


def test_results_are_kept_for_the_last_polls_only(hall: Assembly) -> None:
    hall = Assembly([100_000])
    for number in range(MAX_RESULTS + 3):
        hall.propose(hall.people[0], pause(expiry=5_000 + number))
        hall.schedule = schedule(serial=number + 1)
        hall.block()
        hall.schedule = schedule(serial=0)
    assert [number for number, _ in hall.results()] == list(range(3, MAX_RESULTS + 3))


# --- lapses ---


@pytest.mark.parametrize("at", ["window", "votes", "closing"])
def test_a_poll_lapses_when_another_act_raised_the_serial(
    hall: Assembly, at: str
) -> None:
    a = hall.people[0]
    poll = hall.propose(a)
    hall.to({"window": 12, "votes": 15, "closing": 17}[at])
    if at != "window":
        hall.block(hall.vote(hall.people[4], poll)) if at == "votes" else None
    hall.schedule = schedule(serial=1)
    outcome = hall.block()
    assert outcome.effects == ()
    assert hall.results() == [(0, "lapsed")]
    assert (reserved(hall, a), issuance(hall)) == (0, 1500)
    assert hall.outcomes(hall.vote(a, poll)) == ["UnknownPollError"]
    hall.to(poll["closes_at"] + 3)
    assert hall.decisions == []
    assert hall.leftovers() == []


def test_a_poll_lapses_when_its_terms_are_no_more(hall: Assembly) -> None:
    for authority in (replace(TERMS, period=9), SUDO):
        hall.schedule = schedule()
        hall.propose(hall.people[0])
        hall.schedule = schedule(authority)
        hall.block()
    assert [outcome for _, outcome in hall.results()] == ["lapsed", "lapsed"]


def test_a_lapse_leaves_polls_that_stand_alone(hall: Assembly) -> None:
    """Only one poll of the two was for the serial that is current now."""
    first = hall.propose(hall.people[0])
    hall.schedule = schedule(serial=1)
    hall.block()
    second = hall.propose(hall.people[1], pause(serial=1))
    hall.to(second["closes_at"])
    assert hall.results() == [(0, "lapsed"), (1, "rejected")]
    assert first["order"] != second["order"]


def test_what_fails_for_one_poll_leaves_the_others_alone(
    hall: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    hall.propose(hall.people[0])
    calls = [hall.proposing(hall.people[1], pause(expiry=700))]
    hall.block(*calls)
    pallet = hall.world.pallet("democracy")
    close, broken = pallet._close, [True]

    def sometimes(ctx: Context, poll: Any, electorate: int) -> None:
        if poll.number == 0 and broken[0]:
            raise KeyError
        close(ctx, poll, electorate)

    monkeypatch.setattr(pallet, "_close", sometimes)
    hall.to(20)
    assert hall.results() == [(1, "rejected")]
    assert hall.outcomes(hall.vote(hall.people[0], 0)) == ["PollNotOpenError"]
    broken[0] = False
    hall.block()
    assert hall.results() == [(1, "rejected"), (0, "rejected")]


# --- what is told ---


def test_everybody_sees_polls_and_only_voters_their_votes(hall: Assembly) -> None:
    a, b, c, *_ = hall.people
    poll = hall.propose(a)
    assert hall.my_vote(b, poll) == [200, None]
    hall.to(poll["opens_at"] - 1)
    before = hall.polls()
    hall.block(hall.vote(b, poll, True), hall.vote(c, poll, False))
    assert hall.polls() == before
    assert hall.my_vote(b, poll) == [200, True]
    assert hall.my_vote(c, poll) == [300, False]
    assert hall.my_vote(a, poll) == [100, None]
    assert hall.my_vote(a, 99) is None
    hall.to(poll["closes_at"])
    assert hall.my_vote(b, poll) is None
    assert hall.polls() == []


def test_receipts_tell_of_proposals_and_votes(hall: Assembly) -> None:
    def told(outcome: Any) -> list[Any]:
        return [
            (event.name, msgspec.msgpack.decode(event.data)[1:])
            for receipt in outcome.receipts
            for event in (decode(EmittedEvent, e) for e in receipt.receipt.events)
        ]

    assert told(hall.block(hall.proposing(hall.people[0]))) == [
        ("democracy.Proposed", [0])
    ]
    hall.to(14)
    assert told(hall.block(hall.vote(hall.people[0], 0, False))) == [
        ("democracy.Voted", [0, False])
    ]


@pytest.mark.parametrize("poll", [-1, 2**63, "0", None])
def test_a_poll_that_cannot_be_is_unknown(hall: Assembly, poll: Any) -> None:
    args = msgspec.msgpack.encode([poll, True])
    raw = hall.world.sealed(hall.people[0], "democracy.vote", args=args)
    assert hall.outcomes(raw)[0] in ("UnknownPollError", "CallArgumentsError")


def test_every_rule_raises_its_own_error(hall: Assembly) -> None:
    hall.block()
    world, pallet = hall.world, hall.world.pallet("democracy")
    ctx = world.context(Signed(account=hall.people[0].id))
    with pytest.raises(OrderTooLargeError):
        pallet.propose(ctx, order=bytes(MAX_ORDER_BYTES + 1))
    with pytest.raises(UnknownPollError):
        pallet.vote(ctx, poll=0, aye=True)
    for number in range(MAX_POLLS):
        pallet.propose(ctx, order=encode(pause(expiry=100 + number)))
    with pytest.raises(PollExistsError):
        pallet.propose(ctx, order=encode(pause(expiry=100)))
    with pytest.raises(TooManyPollsError):
        pallet.propose(ctx, order=encode(pause(expiry=99)))
    with pytest.raises(PollNotOpenError):
        pallet.vote(ctx, poll=0, aye=True)
    stranger = world.context(Signed(account=b"z" * 32))
    for key, value in ctx.storage.changes.items():
        stranger.storage.put(key, value)
    stranger.block = replace(stranger.block, height=16)
    with pytest.raises(NoStakeError):
        pallet.vote(stranger, poll=0, aye=True)
    world.pallet("enclave_update").observe(ctx, schedule(SUDO))
    with pytest.raises(NoStakeVoteError):
        pallet.propose(ctx, order=encode(pause()))


# --- in maintenance, and across upgrades ---


def test_holders_can_end_the_maintenance_they_voted_for(hall: Assembly) -> None:
    """Else a shard that only stake governs could never be resumed."""
    order = pause(status=replace(pause().status, mode="normal"))
    assert hall.outcomes(hall.proposing(hall.people[0], order), mode="maintenance") == [
        "ok"
    ]
    poll = hall.polls()[0]
    while hall.height < poll["opens_at"] - 1:
        hall.block(mode="maintenance")
    calls = [hall.vote(who, poll) for who in hall.people]
    assert hall.outcomes(*calls, mode="maintenance") == ["ok"] * 5
    hall.to(poll["closes_at"])
    assert hall.decisions[0].passed


def test_a_poll_survives_restart_and_upgrade(hall: Assembly) -> None:
    poll = hall.propose(hall.people[0])
    hall.to(poll["opens_at"] - 1)
    hall.block(hall.vote(hall.people[4], poll))
    hall.world.restart()
    hall.world.upgrade(
        Runtime(name="test", version=2, pallets=StandardPallets().pallets)
    )
    hall.block(hall.vote(hall.people[3], poll, False))
    hall.world.restart()
    hall.to(poll["closes_at"])
    tally = hall.decisions[0].tally
    assert (tally.ayes, tally.nays, tally.voters) == (500, 400, 2)


# --- what is kept, and what is cleared away ---


def test_without_a_poll_nothing_is_kept_of_transfers(hall: Assembly) -> None:
    a, b, *_ = hall.people
    hall.block(hall.transfer(a, b, 5))
    assert hall.leftovers() == []
    assert hall.world.store.items(b"democracy/") == []


def test_entries_of_an_ended_poll_are_cleared_away_in_bounded_steps(
    hall: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.stf._stake.MAX_FORGOTTEN", 2)
    poll = hall.propose(hall.people[0])
    hall.to(poll["opens_at"] - 1)
    hall.block(*(hall.vote(who, poll) for who in hall.people))
    assert len(hall.world.store.items(b"democracy/shares/")) == 5
    hall.to(poll["closes_at"] - 1)
    left = []
    for _ in range(4):
        hall.block()
        left.append(len(hall.world.store.items(b"democracy/shares/")))
    assert left == [3, 1, 0, 0]
    assert hall.leftovers() == []


def test_polls_that_end_together_are_cleared_one_after_the_other(
    hall: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.stf._stake.MAX_FORGOTTEN", 3)
    orders = [pause(expiry=600 + number) for number in range(3)]
    hall.block(*(hall.proposing(hall.people[0], order) for order in orders))
    _, *others = hall.people
    # the third poll has no entry at all when it ends
    hall.to(14)
    hall.block(*(hall.vote(who, number) for number in (0, 1) for who in others[:2]))
    hall.schedule = schedule(serial=1)
    steps = []
    for _ in range(3):
        hall.block()
        steps.append(len(hall.world.store.items(b"democracy/shares/")))
    assert steps == [1, 0, 0]
    assert hall.leftovers() == []


def test_a_transfer_pays_for_what_the_polls_keep_of_it(hall: Assembly) -> None:
    a, b, *_ = hall.people
    plain = hall.block(hall.transfer(a, b, 1)).weight
    hall.propose(hall.people[4])
    watched = hall.block(hall.transfer(a, b, 1)).weight
    assert plain < watched <= plain + 100


def test_deposits_from_l1_are_watched_and_never_refused(hall: Assembly) -> None:
    poll = hall.propose(hall.people[0])
    late = load_world().Person("late")
    deposit = ShieldedFunds(beneficiary=late.id, amount=10**6)
    assert hall.block(deposit).deposits[0].failure is None
    hall.to(poll["opens_at"] - 1)
    assert hall.outcomes(hall.vote(late, poll)) == ["NoStakeError"]
    hall.to(poll["closes_at"])
    assert hall.decisions[0].tally.electorate == 1500 + 10**6
