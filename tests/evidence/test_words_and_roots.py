"""Enclaves that say one thing to L1 and confirm another: words on effects, and roots.

The chain takes it: it counts words on effects, and words on roots, and compares
neither with the other. The verifier does.
"""

from collections.abc import Callable

import pytest
from ghosts import Ghost, haunted
from lineages import export, verify

from sealift.base import Digest, Height
from sealift.evidence import ActUnprovenError
from sealift.frame import Runtime
from sealift.protocol import (
    Ratio,
    StakeAuthority,
    StakeDecision,
    Tally,
    UpgradeOrder,
)
from sealift.relay import merkle_root
from sealift.testing import World

Make = Callable[..., World]
HALF = Ratio(numerator=1, denominator=2)
TENTH = Ratio(numerator=1, denominator=10)
REFUSED = "is none of the effects that blocks"


def decision(world: World) -> StakeDecision:
    at = world.height + 12
    order = world.order(
        UpgradeOrder,
        predecessor=0,
        config=world.config(world.releases[1]),
        release_from=Height(at),
        upgrade_at=Height(at + 2),
    )
    tally = Tally(ayes=70, nays=30, electorate=1000, voters=12)
    return StakeDecision(order=order, passed=True, tally=tally)


def decided_under(
    new_world: Make, v1: Runtime, effects_root: Digest | None, *, more: int = 0
) -> tuple[World, list[Ghost], int]:
    """Two tell a decision in a block; it is confirmed with ``more`` after it."""
    terms = StakeAuthority(threshold=HALF, quorum=TENTH, stake_age=1, period=5)
    world = new_world(rules={"authority": terms, "effects_quorum": 2})
    ghosts = haunted(world, v1, "one", "two")
    at = world.height
    effect = decision(world)
    for ghost in ghosts:
        ghost.effects(at, effect)
    ghosts[0].confirm(at + more, effects_root=effects_root)
    world.blocks(2)
    return world, ghosts, at


def test_the_confirmed_blocks_had_the_decision(new_world: Make, v1: Runtime) -> None:
    world, _, _ = decided_under(new_world, v1, None)
    assert len(world.schedule_now().entries) == 2
    assert verify(world, export(world)).acts


@pytest.mark.parametrize(
    ("claimed", "more"),
    [([], 0), ([b"other"], 0), ([], 1)],
    ids=["none in that block", "others in that block", "none in two blocks"],
)
def test_a_decision_that_the_confirmed_blocks_did_not_have(
    new_world: Make, v1: Runtime, claimed: list[bytes], more: int
) -> None:
    world, _, _ = decided_under(new_world, v1, merkle_root(claimed), more=more)
    assert len(world.schedule_now().entries) == 2, "the chain does not compare"
    with pytest.raises(ActUnprovenError, match=REFUSED):
        verify(world, export(world))


def test_a_later_word_ends_the_doubt_which_effects_blocks_had(
    new_world: Make, v1: Runtime
) -> None:
    """What a file cannot know yet is not refused; what it can know then is."""
    other = merkle_root([b"other"])
    world, ghosts, at = decided_under(new_world, v1, other, more=1)
    assert verify(world, export(world)).acts
    later, height = decision(world), world.height
    for ghost in ghosts:
        ghost.effects(height, later, previous=at)
    world.block()
    with pytest.raises(ActUnprovenError, match=REFUSED):
        verify(world, export(world))
