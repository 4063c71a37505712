"""A referendum of many ends in blocks whose work does not grow with its voters."""

import functools
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
from ballot_box import TERMS, Assembly

from sealift.frame import Overlay, PageStore, Signed, WeightMeter
from sealift.protocol import StakeDecision, Tally

SAMPLE = 40
FORGOTTEN = 1_000
FEW, MANY = 2_000, 20_000


class CountingStore(PageStore):
    """A state that counts how often it is read."""

    reads = 0

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(key)


@dataclass
class Referendum:
    """What was voted, on paper, and how its last blocks went.

    ``works`` has for every block from the closing one on: reads of the state,
    writes of it, weight of calls; ``left`` the entries that stood after it.
    """

    expected: Tally
    decisions: list[StakeDecision]
    works: list[tuple[int, int, int]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    leftovers: list[bytes] = field(default_factory=list)


@functools.cache
def referendum(voters: int) -> Referendum:
    """All vote; the first ones by sealed calls, and some of them think again."""
    dice = random.Random(voters)
    holdings = [dice.randrange(50, 10_000) for _ in range(voters)]
    hall = Assembly(
        holdings, msgspec.structs.replace(TERMS, period=8, quorum=TERMS.threshold)
    )
    store = CountingStore(bits=12, key=b"p" * 32)
    store.apply(dict(hall.world.store.items(b"")))
    hall.world.store = store
    people, stakes = hall.people, list(holdings)

    poll = hall.propose(people[-1])
    moved = [(who, who + 1, 7) for who in range(0, SAMPLE, 2)]
    calls = [hall.transfer(people[a], people[b], amount) for a, b, amount in moved]
    assert set(hall.outcomes(*calls)) == {"ok"}
    for giver, _, amount in moved:  # who got something had less before
        stakes[giver] -= amount

    hall.to(poll["opens_at"] - 1)
    ballots = {who: dice.random() < 0.6 for who in range(voters)}
    first = [hall.vote(people[who], poll, not ballots[who]) for who in range(SAMPLE)]
    assert set(hall.outcomes(*first)) == {"ok"}
    again = [hall.vote(people[who], poll, ballots[who]) for who in range(SAMPLE)]
    assert set(hall.outcomes(*again)) == {"ok"}
    vote_unsealed(hall, ballots, range(SAMPLE, voters))

    ayes = sum(stakes[who] for who, aye in ballots.items() if aye)
    result = Referendum(
        expected=Tally(
            ayes=ayes,
            nays=sum(stakes) - ayes,
            electorate=sum(holdings),
            voters=voters,
        ),
        decisions=hall.decisions,
    )
    hall.to(poll["closes_at"] - 1)
    assert hall.decisions == []
    while not result.left or result.left[-1]:
        store.reads = 0
        outcome = hall.block()
        assert outcome.hook_failures == ()
        result.works.append((store.reads, len(outcome.changes), outcome.weight))
        result.left.append(len(store.items(b"democracy/shares/")))
        assert len(hall.decisions) == 1
    result.leftovers = hall.leftovers()
    return result


def vote_unsealed(hall: Assembly, ballots: dict[int, bool], who: Any) -> None:
    """The pallet's own call, in the last block, without envelope and signature."""
    world = hall.world
    overlay, info = Overlay.over(world.store), world.context().block
    for number in who:
        outcome = world.runtime.dispatch(
            overlay,
            info,
            Signed(account=hall.people[number].id),
            world.runtime.encode_call("democracy.vote", poll=0, aye=ballots[number]),
            meter=WeightMeter(1_000),
        )
        assert outcome.failure is None
    world.store.apply(overlay.changes)


def test_many_votes_are_counted_as_one_would_by_hand() -> None:
    result = referendum(MANY)
    (decision,) = result.decisions
    assert decision.tally == result.expected
    assert decision.passed == (result.expected.ayes > result.expected.nays)


def test_the_closing_block_works_as_much_for_few_voters_as_for_many() -> None:
    few, many = referendum(FEW), referendum(MANY)
    assert few.works[0] == many.works[0]
    reads, writes, weight = many.works[0]
    assert reads < 3 * FORGOTTEN
    assert writes < FORGOTTEN + 30
    assert weight == 0


def test_everything_is_forgotten_so_much_in_a_block_and_no_more() -> None:
    few, many = referendum(FEW), referendum(MANY)
    assert many.left == list(range(MANY - FORGOTTEN, -1, -FORGOTTEN))
    assert few.left == list(range(FEW - FORGOTTEN, -1, -FORGOTTEN))
    for later in many.works[1:]:
        assert later[1] <= FORGOTTEN + 2
        assert all(a <= b for a, b in zip(later, many.works[0], strict=True))
    assert few.leftovers == many.leftovers == []
