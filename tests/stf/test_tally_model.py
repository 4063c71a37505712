"""The tally against a model that remembers everything and shares no code with it."""

from dataclasses import dataclass, field
from typing import Any

from ballot_box import TERMS, Assembly, load_world, pause, schedule
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sealift.protocol import StakeDecision
from sealift.stf import MAX_POLLS, ShieldedFunds

PEOPLE = 5
WHO = st.integers(0, PEOPLE - 1)
AMOUNT = st.one_of(st.integers(0, 40), st.integers(0, 2_000))
KIND = st.sampled_from(
    ["vote", "vote", "transfer", "transfer", "propose", "deposit", "unshield"]
)
ACTS = st.lists(st.tuples(KIND, WHO, WHO, AMOUNT, st.booleans()), max_size=8)
BALLOTS = st.lists(st.booleans(), min_size=PEOPLE, max_size=PEOPLE)


@dataclass
class ModelPoll:
    """A poll as somebody would keep it on paper."""

    number: int
    serial: int
    proposer: int
    expiry: int
    start: int
    opens: int
    closes: int
    votes: dict[int, bool] = field(default_factory=dict)
    electorate: int = 0
    stake: dict[int, int] = field(default_factory=dict)


class Model(RuleBasedStateMachine):
    """Random business of a shard with polls; every total is written down.

    ``history`` has the totals of everybody after every single call, with the
    block in which it was made. A stake is looked up there: the least that an
    account had since its poll was proposed and before the block in which it
    opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.acts: list[Any] = []
        self.serial = 0
        self.next_poll = 0
        self.polls: list[ModelPoll] = []
        self.results: list[tuple[int, str]] = []
        self.tallies: list[tuple[bool, int, int, int, int]] = []
        self.history: list[tuple[int, list[int]]] = []

    @initialize(holdings=st.lists(AMOUNT, min_size=PEOPLE, max_size=PEOPLE))
    def begin(self, holdings: list[int]) -> None:
        load_world()
        self.hall = Assembly(holdings)
        self.free = list(holdings)
        self.reserved = [0] * PEOPLE
        self.history.append((self.hall.height, self.totals()))
        self.propose(0, 100_000)
        self.end_block()

    # --- what can happen in a block ---

    @rule(acts=ACTS, idle=st.integers(0, 2))
    def business(self, acts: list[tuple[str, int, int, int, bool]], idle: int) -> None:
        """A block full of calls, and some blocks without any."""
        for kind, who, dest, amount, aye in acts:
            if kind == "vote":
                self.vote(who, max(0, self.next_poll - 1 - amount % 3), aye=aye)
            elif kind == "propose":
                self.propose(who, 100_000 + amount % 7)
            elif kind == "transfer":
                self.transfer(who, dest, amount)
            elif kind == "deposit":
                self.deposit(who, amount)
            else:
                self.unshield(who, max(1, amount))
        for _ in range(1 + idle):
            self.end_block()

    @rule(ayes=BALLOTS, back=st.booleans())
    def poll_day(self, ayes: list[bool], back: bool) -> None:
        """Everybody votes, and everybody's tokens go round, as soon as one may."""
        if not self.polls:
            return
        while self.polls and self.hall.height + 1 < self.polls[-1].opens:
            self.end_block()
        people = range(PEOPLE)
        for poll in tuple(self.polls):
            for who in people:
                self.vote(who, poll.number, aye=ayes[who])
                self.transfer(who, (who + 1) % PEOPLE, self.free[who])
                if back:
                    self.vote(who, poll.number, aye=not ayes[who])
        self.end_block()
        for poll in tuple(self.polls):
            for who in people:
                self.vote(who, poll.number, aye=ayes[-1 - who])
        self.end_block()

    def transfer(self, source: int, dest: int, amount: int) -> None:
        people = self.hall.people
        self.calls.append(self.hall.transfer(people[source], people[dest], amount))
        self.acts.append(("transfer", source, dest, amount))

    def deposit(self, who: int, amount: int) -> None:
        person = self.hall.people[who]
        self.calls.append(ShieldedFunds(beneficiary=person.id, amount=amount))
        self.acts.append(("deposit", who, amount))

    def unshield(self, who: int, amount: int) -> None:
        self.calls.append(self.hall.unshield(self.hall.people[who], amount))
        self.acts.append(("unshield", who, amount))

    def propose(self, who: int, expiry: int) -> None:
        order = pause(self.serial, expiry=expiry)
        self.calls.append(self.hall.proposing(self.hall.people[who], order))
        self.acts.append(("propose", who, expiry))

    def vote(self, who: int, number: int, *, aye: bool) -> None:
        self.calls.append(self.hall.vote(self.hall.people[who], number, aye))
        self.acts.append(("vote", who, number, aye))

    @rule()
    def another_act(self) -> None:
        """Something else was decided: all polls lapse."""
        self.serial += 1
        self.hall.schedule = schedule(serial=self.serial)
        self.end_block()

    @rule()
    def restart(self) -> None:
        self.hall.world.restart()

    # --- the model ---

    def totals(self) -> list[int]:
        return [a + b for a, b in zip(self.free, self.reserved, strict=True)]

    def least(self, poll: ModelPoll, who: int) -> int:
        """From the proposal on, until the first block of votes begins."""
        window = self.history[poll.start :]
        return min(totals[who] for at, totals in window if at < poll.opens)

    def end_block(self) -> None:
        height = self.hall.height + 1
        self.hooks(height)
        expected = [self.act(height, *act) for act in self.acts]
        told = self.hall.outcomes(*self.calls)
        assert told == [one for one in expected if one is not None]
        self.calls, self.acts = [], []
        self.compare()

    def hooks(self, height: int) -> None:
        for poll in self.polls:
            if poll.opens == height:
                poll.electorate = sum(self.totals())
                poll.stake = {who: self.least(poll, who) for who in range(PEOPLE)}
        for poll in list(self.polls):
            burnt = 0
            if poll.serial != self.serial:
                outcome = "lapsed"
            elif poll.closes == height:
                ayes = sum(poll.stake[who] for who, aye in poll.votes.items() if aye)
                votes = sum(poll.stake[who] for who in poll.votes)
                quorum = votes * 5 >= poll.electorate
                passed = quorum and ayes * 2 > votes
                outcome = "passed" if passed else "rejected"
                self.tallies.append(
                    (passed, ayes, votes - ayes, poll.electorate, len(poll.votes))
                )
                burnt = 0 if quorum else TERMS.deposit
            else:
                continue
            self.reserved[poll.proposer] -= TERMS.deposit
            self.free[poll.proposer] += TERMS.deposit - burnt
            self.polls.remove(poll)
            self.results.append((poll.number, outcome))
            self.history.append((height, self.totals()))

    def act(self, height: int, kind: str, *given: Any) -> str | None:
        outcome = getattr(self, f"do_{kind}")(height, *given)
        self.history.append((height, self.totals()))
        return outcome

    def do_transfer(self, height: int, source: int, dest: int, amount: int) -> str:
        if self.free[source] < amount:
            return "InsufficientFundsError"
        self.free[source] -= amount
        self.free[dest] += amount
        # what one sends to oneself never left
        return "ok"

    def do_deposit(self, height: int, who: int, amount: int) -> None:
        self.free[who] += amount

    def do_unshield(self, height: int, who: int, amount: int) -> str:
        if self.free[who] < amount:
            return "InsufficientFundsError"
        self.free[who] -= amount
        return "ok"

    def do_propose(self, height: int, who: int, expiry: int) -> str:
        if any(poll.expiry == expiry for poll in self.polls):
            return "PollExistsError"
        if len(self.polls) >= MAX_POLLS:
            return "TooManyPollsError"
        if self.free[who] < TERMS.deposit:
            return "InsufficientFundsError"
        self.free[who] -= TERMS.deposit
        self.reserved[who] += TERMS.deposit
        self.polls.append(
            ModelPoll(
                number=self.next_poll,
                serial=self.serial,
                proposer=who,
                expiry=expiry,
                start=len(self.history) - 1,
                opens=height + TERMS.stake_age,
                closes=height + TERMS.stake_age + TERMS.period,
            )
        )
        self.next_poll += 1
        return "ok"

    def do_vote(self, height: int, who: int, number: int, aye: bool) -> str:
        found = [poll for poll in self.polls if poll.number == number]
        if not found:
            return "UnknownPollError"
        (poll,) = found
        if height < poll.opens:
            return "PollNotOpenError"
        if not poll.stake[who]:
            return "NoStakeError"
        poll.votes[who] = aye
        return "ok"

    # --- what must agree ---

    def compare(self) -> None:
        assert self.hall.results() == self.results[-16:]
        assert [
            (d.passed, d.tally.ayes, d.tally.nays, d.tally.electorate, d.tally.voters)
            for d in self.hall.decisions
            if isinstance(d, StakeDecision)
        ] == self.tallies
        assert [poll["poll"] for poll in self.hall.polls()] == [
            poll.number for poll in self.polls
        ]

    @invariant()
    def stakes_and_tokens_agree(self) -> None:
        if not self.history:
            return
        ctx = self.hall.world.context()
        balances = self.hall.world.pallet("balances")
        for who, person in enumerate(self.hall.people):
            funds = balances.funds(ctx, person.id)
            assert (funds.free, funds.reserved) == (
                self.free[who],
                self.reserved[who],
            )
            for poll in self.polls:
                stake = (
                    poll.stake[who]
                    if self.hall.height >= poll.opens
                    else self.least(poll, who)
                )
                assert self.hall.my_vote(person, poll.number) == [
                    stake,
                    poll.votes.get(who),
                ]
        balances.check_issuance(ctx)

    @invariant()
    def nobody_votes_with_more_than_there_is(self) -> None:
        for decision in self.hall.decisions if self.history else ():
            tally = decision.tally
            assert tally.ayes + tally.nays <= tally.electorate

    def teardown(self) -> None:
        """Whatever was begun ends, and leaves nothing behind."""
        if not self.history:
            return
        for _ in range(TERMS.stake_age + TERMS.period + 2):
            self.end_block()
        assert self.hall.leftovers() == []


Model.TestCase.settings = settings(
    max_examples=30, stateful_step_count=12, deadline=None
)
TestTheTallyIsThatOfTheModel = Model.TestCase
