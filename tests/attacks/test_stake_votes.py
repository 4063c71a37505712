"""Attacks on the vote by stake: to count twice, to be heard, to overhear."""

import itertools
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stf"))

from ballot_box import TERMS, Assembly, load_world, pause, schedule

from sealift.base import encode
from sealift.frame import Context, Pallet, call, ensure_signed
from sealift.protocol import Ratio, seal_receipt
from sealift.stf import MAX_POLLS, BlockOutcome, ShieldedFunds

replace = msgspec.structs.replace


@pytest.fixture
def hall() -> Assembly:
    """Mallory with 300 tokens, a friend with none, and 700 of honest people."""
    return Assembly([300, 0, 400, 300])


def tally(hall: Assembly, poll: Any, *calls: bytes) -> Any:
    """What the poll comes to if these are in its first block of votes."""
    hall.to(poll["opens_at"] - 1)
    hall.block(*calls)
    hall.to(poll["closes_at"])
    hall.world.check_issuance()
    return hall.decisions[-1].tally


# --- counting twice ---


def test_tokens_sent_on_after_the_vote_do_not_vote_again(hall: Assembly) -> None:
    mallory, friend, honest, _ = hall.people
    poll = hall.propose(honest)
    result = tally(
        hall,
        poll,
        hall.vote(mallory, poll),
        hall.transfer(mallory, friend, 300),
        hall.vote(friend, poll),
        hall.transfer(friend, honest, 300),
        hall.vote(honest, poll, False),
    )
    assert (result.ayes, result.nays, result.voters) == (300, 400, 2)


def test_tokens_sent_on_before_the_vote_vote_for_who_had_them(hall: Assembly) -> None:
    mallory, friend, honest, _ = hall.people
    poll = hall.propose(honest)
    result = tally(
        hall,
        poll,
        hall.transfer(mallory, friend, 300),
        hall.vote(friend, poll),
        hall.vote(mallory, poll),
    )
    assert (result.ayes, result.voters) == (300, 1)


def test_tokens_on_the_move_in_the_window_vote_for_nobody(hall: Assembly) -> None:
    mallory, friend, honest, _ = hall.people
    poll = hall.propose(honest)
    hall.block(hall.transfer(mallory, friend, 200))
    hall.block(hall.transfer(friend, mallory, 150))
    result = tally(hall, poll, hall.vote(mallory, poll), hall.vote(friend, poll))
    assert (result.ayes, result.voters) == (100, 1)


def test_shielding_and_unshielding_adds_no_stake(hall: Assembly) -> None:
    mallory, friend, honest, _ = hall.people
    poll = hall.propose(honest)
    hall.to(poll["opens_at"] - 1)
    hall.block(hall.vote(mallory, poll), hall.unshield(mallory, 300))
    back = ShieldedFunds(beneficiary=friend.id, amount=300)
    assert hall.outcomes(back, hall.vote(friend, poll)) == ["NoStakeError"]
    hall.to(poll["closes_at"])
    result = hall.decisions[-1].tally
    assert (result.ayes, result.electorate) == (300, 1000)
    hall.world.check_issuance()


def test_shielding_in_the_window_adds_no_stake(hall: Assembly) -> None:
    mallory, _, honest, _ = hall.people
    poll = hall.propose(honest)
    hall.block(hall.unshield(mallory, 299))
    hall.block(ShieldedFunds(beneficiary=mallory.id, amount=10_000))
    result = tally(hall, poll, hall.vote(mallory, poll))
    assert result.ayes == 1


@pytest.mark.parametrize("returned_after", [0, 1, 2])
def test_funds_borrowed_for_a_block_are_no_stake(
    hall: Assembly, returned_after: int
) -> None:
    _, friend, lender, _ = hall.people
    hall.block(hall.transfer(lender, friend, 390))
    poll = hall.propose(friend)
    for _ in range(returned_after):
        hall.block()
    hall.block(hall.transfer(friend, lender, 370))
    assert hall.my_vote(friend, poll) == [20, None]
    result = tally(hall, poll, hall.vote(friend, poll), hall.vote(lender, poll, False))
    # what the lender had lent out when it was proposed is nobody's
    assert (result.ayes, result.nays) == (20, 10)


def test_funds_borrowed_when_the_poll_opens_are_no_stake(hall: Assembly) -> None:
    _, friend, lender, _ = hall.people
    poll = hall.propose(lender)
    hall.to(poll["opens_at"] - 1)
    outcomes = hall.outcomes(
        hall.transfer(lender, friend, 390),
        hall.vote(friend, poll),
        hall.transfer(friend, lender, 390),
        hall.vote(lender, poll),
    )
    assert outcomes == ["ok", "NoStakeError", "ok", "ok"]
    assert hall.my_vote(lender, poll) == [400, True]


class Lender(Pallet):
    """Lends within one call, as flash loans do."""

    name = "lender"

    def __init__(self) -> None:
        self.pallets: Any = None

    @call(weight=100)
    def flash(self, ctx: Context, *, source: bytes, amount: int, poll: int) -> None:
        borrower = ensure_signed(ctx.origin)
        balances, democracy = self.pallets
        balances.move(ctx, source, borrower, amount)
        democracy.vote(ctx, poll=poll, aye=True)
        balances.move(ctx, borrower, source, amount)


def test_a_flash_loan_does_not_vote() -> None:
    lender = Lender()
    hall = Assembly([300, 1, 400, 300], pallets=(lender,))
    lender.pallets = (hall.world.pallet("balances"), hall.world.pallet("democracy"))
    poor, rich = hall.people[1], hall.people[2]
    poll = hall.propose(rich)
    flash = hall.world.sealed(
        poor, "lender.flash", source=rich.id, amount=390, poll=poll["poll"]
    )
    result = tally(hall, poll, flash, hall.vote(rich, poll, False))
    assert (result.ayes, result.nays) == (1, 400)


def test_paying_oneself_costs_no_stake_and_brings_none(hall: Assembly) -> None:
    mallory, *_ = hall.people
    poll = hall.propose(hall.people[2])
    hall.block(hall.transfer(mallory, mallory, 300))
    result = tally(
        hall, poll, hall.transfer(mallory, mallory, 300), hall.vote(mallory, poll)
    )
    assert result.ayes == 300


def test_a_copied_vote_counts_once(hall: Assembly) -> None:
    mallory, *_ = hall.people
    poll = hall.propose(hall.people[2])
    raw, again = hall.vote(mallory, poll), hall.vote(mallory, poll)
    result = tally(hall, poll, raw, raw, again, raw)
    assert (result.ayes, result.voters) == (300, 1)


def test_an_old_vote_copied_after_a_change_does_not_change_it_back(
    hall: Assembly,
) -> None:
    mallory, *_ = hall.people
    poll = hall.propose(hall.people[2])
    aye, nay = hall.vote(mallory, poll), hall.vote(mallory, poll, False)
    result = tally(hall, poll, aye, nay, aye)
    assert (result.ayes, result.nays) == (0, 300)


def test_everybody_together_never_has_more_than_all_tokens(hall: Assembly) -> None:
    poll = hall.propose(hall.people[2])
    hall.to(poll["opens_at"] - 1)
    calls = []
    for source, dest in itertools.permutations(hall.people, 2):
        calls += [hall.vote(source, poll), hall.transfer(source, dest, 100)]
    hall.block(*calls)
    hall.to(poll["closes_at"])
    result = hall.decisions[-1].tally
    assert result.ayes + result.nays == result.electorate == 1000


# --- too late, too early, elsewhere ---


def test_a_vote_after_the_close_is_none(hall: Assembly) -> None:
    poll = hall.propose(hall.people[2])
    hall.to(poll["closes_at"] - 1)
    assert hall.outcomes(hall.vote(hall.people[0], poll)) == ["UnknownPollError"]
    assert hall.decisions[-1].tally.ayes == 0


def test_stake_got_after_the_start_does_not_vote(hall: Assembly) -> None:
    mallory, friend, *_ = hall.people
    poll = hall.propose(hall.people[2])
    hall.to(poll["opens_at"] - 1)
    deposit = ShieldedFunds(beneficiary=friend.id, amount=10**6)
    assert hall.outcomes(deposit, hall.vote(friend, poll)) == ["NoStakeError"]
    more = ShieldedFunds(beneficiary=mallory.id, amount=10**6)
    assert hall.outcomes(more, hall.vote(mallory, poll)) == ["ok"]
    hall.to(poll["closes_at"])
    assert hall.decisions[-1].tally.ayes == 300


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"chain_id": "another-chain"}, "OrderElsewhereError"),
        ({"shard": b"x" * 32}, "OrderElsewhereError"),
        ({"serial": 6}, "OrderStaleError"),
        ({"serial": 8}, "OrderStaleError"),
    ],
)
def test_a_proposal_from_another_shard_chain_or_serial_is_none(
    hall: Assembly, change: dict[str, Any], outcome: str
) -> None:
    hall.schedule = schedule(serial=7)
    order = pause(**{"serial": 7, **change})
    assert hall.outcomes(hall.proposing(hall.people[0], order)) == [outcome]


def test_invariant_11_an_order_that_was_decided_is_not_voted_on_again(
    hall: Assembly,
) -> None:
    """The act raised the serial, and the order names the old one."""
    order = pause()
    poll = hall.propose(hall.people[0], order)
    hall.to(poll["opens_at"] - 1)
    hall.block(*(hall.vote(who, poll) for who in hall.people if hall.total(who)))
    hall.to(poll["closes_at"])
    assert hall.decisions[0].passed
    hall.schedule = schedule(serial=1)
    assert hall.outcomes(hall.proposing(hall.people[0], order)) == ["OrderStaleError"]


def test_a_poll_across_a_change_of_rules_lapses(hall: Assembly) -> None:
    """Terms that were easier to meet must not decide under the new ones."""
    poll = hall.propose(hall.people[0])
    hall.to(poll["opens_at"] - 1)
    hall.block(hall.vote(hall.people[2], poll), hall.vote(hall.people[3], poll))
    hall.schedule = schedule(replace(TERMS, quorum=Ratio(numerator=1, denominator=1)))
    assert hall.block().effects == ()
    hall.to(poll["closes_at"] + 2)
    assert hall.decisions == []
    assert hall.results() == [(0, "lapsed")]
    assert hall.total(hall.people[0]) == 300


def test_flooding_with_proposals_costs_deposits_and_blocks_nobody_for_long(
    hall: Assembly,
) -> None:
    mallory, _, honest, _ = hall.people
    calls = [hall.proposing(mallory, pause(expiry=900 + n)) for n in range(40)]
    outcomes = hall.outcomes(*calls)
    assert outcomes.count("ok") == MAX_POLLS
    assert set(outcomes) == {"ok", "TooManyPollsError"}
    assert hall.outcomes(hall.proposing(honest)) == ["TooManyPollsError"]
    hall.to(hall.polls()[0]["closes_at"])
    assert hall.total(mallory) == 300 - MAX_POLLS * TERMS.deposit
    assert hall.outcomes(hall.proposing(honest)) == ["ok"]
    hall.to(hall.height + 8)
    assert hall.leftovers() == []
    hall.world.check_issuance()


def test_flooding_with_small_transfers_does_not_stretch_the_close(
    hall: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many entries there are, the closing block touches but a few."""
    monkeypatch.setattr("sealift.stf._stake.MAX_FORGOTTEN", 5)
    person = load_world().Person
    crowd = [person(f"sybil {number}") for number in range(60)]
    poll = hall.propose(hall.people[2])
    hall.block(*(hall.transfer(hall.people[0], who, 1) for who in crowd))
    hall.to(poll["opens_at"] - 1)
    hall.block(*(hall.transfer(who, hall.people[0], 1) for who in crowd))
    assert len(hall.world.store.items(b"democracy/shares/")) == 61
    hall.to(poll["closes_at"] - 1)
    changed = [len(hall.block().changes) for _ in range(14)]
    assert max(changed) <= 5 + 13
    assert hall.leftovers() == []


# --- overhearing ---


def shape(hall: Assembly, outcome: BlockOutcome) -> list[int]:
    """Sizes of the receipts that leave, as they leave."""
    return [
        len(
            seal_receipt(
                one.receipt,
                reply_key=one.reply_key,
                envelope=one.envelope,
                block_hash=b"b" * 32,
            ).sealed
        )
        for one in outcome.receipts
    ]


@pytest.fixture
def voting(hall: Assembly) -> tuple[Assembly, Any]:
    """Two polls are open."""
    hall.block(
        hall.proposing(hall.people[2]),
        hall.proposing(hall.people[2], pause(expiry=99)),
    )
    hall.to(hall.polls()[0]["opens_at"])
    return hall, hall.polls()[0]


def test_invariant_12_envelopes_and_receipts_do_not_tell_a_vote_from_a_transfer(
    voting: tuple[Assembly, Any],
) -> None:
    hall, poll = voting
    mallory, friend, honest, other = hall.people
    raws = [
        hall.vote(mallory, poll, True),
        hall.vote(other, poll, False),
        hall.transfer(honest, friend, 1),
        hall.vote(mallory, 77),  # fails: no such poll
        hall.transfer(other, friend, 10**9),  # fails: too much
        hall.unshield(honest, 5),
    ]
    outcome = hall.block(*raws)
    assert [one.receipt.outcome for one in outcome.receipts] == [
        "ok",
        "ok",
        "ok",
        "UnknownPollError",
        "InsufficientFundsError",
        "ok",
    ]
    assert len({len(raw) for raw in raws}) == 1
    assert len(set(shape(hall, outcome))) == 1


def test_invariant_12_aye_and_nay_differ_in_nothing_that_leaves() -> None:
    """Not even the encrypted diff, which the host sees, has another size."""
    told = []
    for ayes in itertools.product((True, False), repeat=3):
        hall = Assembly([300, 1, 4_000_000, 70_000])
        poll = hall.propose(hall.people[2])
        hall.to(poll["opens_at"] - 1)
        voters = [hall.people[0], hall.people[2], hall.people[3]]
        outcome = hall.block(
            *(hall.vote(who, poll, aye) for who, aye in zip(voters, ayes, strict=True))
        )
        changed = hall.block(
            *(
                hall.vote(who, poll, not aye)
                for who, aye in zip(voters, ayes, strict=True)
            )
        )
        told.append(
            [
                (
                    shape(hall, one),
                    [len(value or b"") for value in one.changes.values()],
                    len(encode(sorted(one.changes.items()))),
                    one.effects,
                    one.events,
                    one.orders,
                    one.counts,
                    one.weight,
                )
                for one in (outcome, changed)
            ]
        )
    assert all(one == told[0] for one in told)


def test_invariant_12_nothing_but_the_result_leaves_and_only_at_the_close(
    voting: tuple[Assembly, Any],
) -> None:
    hall, poll = voting
    seen = hall.polls()
    while hall.height < poll["closes_at"] - 1:
        outcome = hall.block(hall.vote(hall.people[0], poll))
        assert (outcome.effects, outcome.events, outcome.orders) == ((), (), ())
        assert hall.polls() == seen
        assert hall.results() == []
    closing = hall.block()
    assert len(closing.effects) == 2
    assert {event.name for event in closing.events} == {"democracy.PollEnded"}


def test_no_getter_tells_anothers_vote(voting: tuple[Assembly, Any]) -> None:
    hall, poll = voting
    mallory, friend, honest, _ = hall.people
    hall.block(hall.vote(honest, poll, False))
    before = hall.world.executor.getters()
    names = {name for name in before if name.startswith("democracy.")}
    assert {name for name in names if before[name]} == {
        "democracy.polls",
        "democracy.order",
        "democracy.results",
    }
    assert hall.my_vote(mallory, poll) == [300, None]
    assert hall.my_vote(friend, poll) == [0, None]


def test_a_lone_voter_is_not_exposed_by_the_tally() -> None:
    hall = Assembly([300, 700], replace(TERMS, min_voters=2))
    poll = hall.propose(hall.people[1])
    result = tally(hall, poll, hall.vote(hall.people[0], poll))
    assert result is None
    assert hall.ask(hall.people[0], "results")[0][-1] is None
