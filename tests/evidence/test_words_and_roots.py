"""Roots come with what their blocks did outside: words that say otherwise are void.

L1 compares them; a chain whose validators don't is not believed.
"""

from collections.abc import Callable

import pytest
from ghosts import Ghost, haunted
from lineages import export, verify

from sealift.base import Height
from sealift.evidence import ActUnprovenError, RootChainError
from sealift.frame import Runtime
from sealift.ledger import _bridge_effects, _bridge_roots
from sealift.protocol import (
    Effect,
    Ratio,
    StakeAuthority,
    StakeDecision,
    Tally,
    Unshield,
    UpgradeOrder,
)
from sealift.testing import World

Make = Callable[..., World]
HALF = Ratio(numerator=1, denominator=2)
TENTH = Ratio(numerator=1, denominator=10)


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


def holders(new_world: Make, v1: Runtime) -> tuple[World, list[Ghost]]:
    terms = StakeAuthority(threshold=HALF, quorum=TENTH, stake_age=1, period=5)
    world = new_world(rules={"authority": terms, "effects_quorum": 2})
    return world, haunted(world, v1, "one", "two")


def test_the_confirmed_blocks_had_the_decision(new_world: Make, v1: Runtime) -> None:
    world, ghosts = holders(new_world, v1)
    at, effect = world.height, decision(world)
    for ghost in ghosts:
        ghost.effects(at, effect)
    ghosts[0].confirm(at)
    world.blocks(2)
    assert len(world.schedule_now().entries) == 2
    assert verify(world, export(world)).acts


@pytest.mark.parametrize("told", ["none", "another"])
def test_a_decision_that_the_confirmed_blocks_did_not_have(
    new_world: Make, v1: Runtime, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, ghosts = holders(new_world, v1)
    monkeypatch.setattr(_bridge_effects, "refutes", lambda *_, **__: False)
    at, effect = world.height, decision(world)
    others: dict[str, dict[int, Effect]] = {
        "none": {},
        "another": {at: Unshield(beneficiary=ghosts[0].key, amount=1)},
    }
    ghosts[0].confirm(at, effects=others[told])
    for ghost in ghosts:
        ghost.effects(at, effect)
    world.blocks(2)
    assert len(world.schedule_now().entries) == 2, "these validators look away"
    with pytest.raises(ActUnprovenError, match="was confirmed with other effects"):
        verify(world, export(world))


def test_a_confirmation_beside_effects_that_it_does_not_name(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a host could put in what the enclave never said."""
    world, ghosts = holders(new_world, v1)
    monkeypatch.setattr(_bridge_roots, "verify_facts", lambda *_: None)
    at = world.height
    given = Unshield(beneficiary=ghosts[0].key, amount=1)
    ghosts[0].confirm(at, effects={at: given}, hushed=True)
    world.blocks(2)
    with pytest.raises(RootChainError, match="names other effects than it brings"):
        verify(world, export(world))
