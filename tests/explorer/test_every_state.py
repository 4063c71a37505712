"""Every state of a handover that a host can bring about, to a stated depth."""

import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from handover_model import CODE, KIND, Explored, Rules, Terms, World

from sealift.provisioning import EntitledEpochs, requester_entry


class BrokenError(Exception):
    """A state that breaks an invariant, and the moves that lead to it."""


def played(model: Explored, *moves: str) -> World:
    """The state that some moves lead to."""
    world = model.begin()
    for move in moves:
        world = dict(model.moves(world))[move]
    return world


#: The old code has executed everything, and the next block is XYZ.
EVE = (
    "block 1: schedule b",
    "block 2: nothing",
    *(f"show {height} to a" for height in (1, 2)),
    *(f"a executes {height}" for height in (1, 2)),
    "block 3: register b",
    *(f"show 3 to {name}" for name in ("a",)),
    "a executes 3",
)


def explore(
    model: Explored, *, states: int, begin: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Breadth first, so the first trace found is a shortest one.

    Returns how many states were visited, and to which depth all of them were.
    """
    first = played(model, *begin)
    before: dict[World, tuple[World, str] | None] = {first: None}
    waiting = deque([first])
    while waiting and len(before) < states:
        world = waiting.popleft()
        for what, after in model.moves(world):
            if after in before:
                continue
            before[after] = (world, what)
            broken = model.violation(after)
            if broken:
                raise BrokenError(broken + ":\n  " + "\n  ".join(trace(before, after)))
            waiting.append(after)
    return len(before), (len(trace(before, waiting[0])) if waiting else 10**6) - 1


def trace(before: dict[World, Any], world: World) -> list[str]:
    moves = []
    while (step := before[world]) is not None:
        world, what = step
        moves.append(what)
    return moves[::-1]


@pytest.mark.parametrize("begin", [(), EVE], ids=["from birth", "on the eve of XYZ"])
def test_no_state_that_a_host_can_reach_breaks_an_invariant(
    begin: tuple[str, ...],
) -> None:
    visited, depth = explore(Explored(Rules(), last=9), states=100_000, begin=begin)
    print(f"{visited} states, all to a depth of {depth}")
    assert visited >= 100_000
    assert depth >= 5


def test_no_state_of_a_gated_shard_breaks_an_invariant() -> None:
    """Postponements by rule are moves like any other; the old one never stops twice."""
    gated = Explored(Rules(), last=10, terms=Terms(postpone_by=2))
    visited, depth = explore(gated, states=60_000, begin=EVE)
    print(f"{visited} states, all to a depth of {depth}")
    assert visited >= 60_000
    assert depth >= 5


def test_over_a_postponed_block_the_old_one_goes_on_and_then_hands_over() -> None:
    """A trace that must exist: b takes over one postponement later."""
    model = Explored(Rules(), last=12, terms=Terms(postpone_by=2))
    world = played(model, *EVE)
    assert model.schedule(world.chain[-1]).entry(1).upgrade_at == 6, "it was 4"
    world = played(
        model,
        *EVE,
        "a gives keys to b",
        *(f"show {height} to b" for height in (1, 2, 3)),
        *(f"b executes {height}" for height in (1, 2, 3)),  # diffs
        "block 4: rehearse by b",
        "block 5: nothing",
        "block 6: nothing",
        *(f"show {height} to a" for height in (4, 5, 6)),
        *(f"a executes {height}" for height in (4, 5)),
        *(f"show {height} to b" for height in (4, 5, 6)),
        *(f"b executes {height}" for height in (4, 5, 6)),
    )
    assert {(4, 0), (5, 0), (6, 1)} <= world.executed
    follows = dict(model.moves(world))["a executes 6"]  # by b's diff
    assert follows.executed == world.executed


# --- planted bugs: each is found, by a short trace ---


def before_the_notice(standing: Any, record: Any, *, held_at: int) -> Any:
    return requester_entry(standing, record, held_at=10**6)


def whoever_is_named(standing: Any, record: Any, *, held_at: int) -> Any:
    """Dead entries name somebody as well."""
    for entry in standing.schedule.entries:
        if entry.config.code[KIND] == record.fingerprint:
            return entry
    return requester_entry(standing, record, held_at=held_at)


def every_epoch(standing: Any, record: Any, entry: Any) -> Any:
    return EntitledEpochs(acting=standing.schedule.epochs, staged=None)


def by_the_disk(entry: Any, me: Any, enclave: Any) -> bool:
    """The enclave goes on because its own state says so."""
    return me.mrenclave == CODE["a"] or entry.config.code[KIND] == me.mrenclave


def nobody_is_judged(*_: Any, **__: Any) -> None:
    """L1 takes keys from whoever brings them."""


def any_serial(schedule: Any, order: Any, *, height: int) -> None:
    """Whatever was once endorsed."""


BUGS = {
    "keys before the notice has run": (Rules(requester=before_the_notice), "3:"),
    "keys to the withdrawn": (
        Rules(requester=whoever_is_named, entitled=every_epoch),
        "3:",
    ),
    "the old one goes on by its disk": (Rules(mine=by_the_disk), "1:", EVE),
    "anybody stages the next keys": (Rules(eligible=nobody_is_judged), "8:"),
    "an order counts again after its cancel": (Rules(verify_order=any_serial), "11:"),
}


def nothing_is_asked(*_: Any) -> bool:
    """The gate stands open."""
    return True


def test_a_gate_that_stands_open_is_found() -> None:
    model = Explored(
        Rules(rehearsals=nothing_is_asked), last=10, terms=Terms(postpone_by=2)
    )
    with pytest.raises(BrokenError, match="gate: b took over"):
        explore(model, states=100_000, begin=EVE)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    rules, invariant, *begin = BUGS[bug]
    with pytest.raises(BrokenError) as caught:
        explore(Explored(rules, last=9), states=100_000, begin=(begin or [()])[0])
    print(bug, "->", caught.value)
    assert str(caught.value).startswith(invariant), caught.value
