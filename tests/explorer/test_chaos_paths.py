"""Handovers as they really went, under kill -9, are paths of the explorer's model.

``traces/`` has some that ``sealift chaos --trace`` wrote; the campaign in
``tests/chaos`` follows those of its own runs. That a wrong one has no path is shown
by traces that were bent.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chaos_paths import ENCLAVES, NoPathError, Trace, follow

TRACES = Path(__file__).parent / "traces"
NAMES = sorted(path.name for path in TRACES.glob("*.json"))
Bend = Callable[[dict[str, Any]], None]


#: One with two workers, and one with one that swapped its enclave.
BENT = ("seed-1.json", "hot-swap-106.json")


def raw(name: str) -> dict[str, Any]:
    return json.loads((TRACES / name).read_text())


def followed(bent: dict[str, Any]) -> Any:
    return follow(Trace(bent["params"], bent["events"]).placed())


@pytest.mark.parametrize("name", NAMES)
def test_a_real_handover_is_a_path_of_the_model(name: str) -> None:
    walk = follow(Trace.read(TRACES / name))
    newest = walk.model.schedule(walk.world.chain[-1])
    epoch = newest.epochs[-1].epoch
    print(f"{len(walk.moves)} moves, {walk.world.height} blocks, epoch {epoch}")
    # Everything that a handover is made of was a move on the way.
    done = " | ".join(walk.moves)
    for part in (": schedule b", ": register b", "a gives keys to b", ": confirm by b"):
        assert part in done
    assert "b executes" in done


def test_together_the_traces_have_every_victim_and_a_state_that_fell_back() -> None:
    killed = {
        event["who"]
        for name in NAMES
        for event in raw(name)["events"]
        if event["what"] == "killed" and event["hit"]
    }
    assert killed == {
        "L1 node", "old worker", "new worker", "old enclave", "new enclave", "worker",
    }  # fmt: skip


# --- traces that were bent have no path ---


def acts_of(bent: dict[str, Any], what: str) -> list[tuple[dict[str, Any], list[Any]]]:
    return [
        (event, act)
        for event in bent["events"]
        if event["what"] == "block"
        for act in event["acts"]
        if act[0] == what
    ]


def the_old_one_executes_xyz(bent: dict[str, Any]) -> None:
    at = bent["params"]["upgrade_at"]
    bent["events"].append({"what": "executed", "who": "old", "height": at})


def the_new_one_executes_before_xyz(bent: dict[str, Any]) -> None:
    at = bent["params"]["upgrade_at"] - 1
    bent["events"].append({"what": "executed", "who": "new", "height": at})


def the_old_one_confirms_xyz(bent: dict[str, Any]) -> None:
    at = bent["params"]["upgrade_at"]
    for _, act in acts_of(bent, "confirm"):
        if act[2] <= at <= act[3]:
            act[1], act[4] = "old", 0


def the_new_one_confirms_before_xyz(bent: dict[str, Any]) -> None:
    at = bent["params"]["upgrade_at"]
    _, act = next(one for one in acts_of(bent, "confirm") if one[1][3] == at - 1)
    act[1] = "new"


def a_confirmation_is_left_out(bent: dict[str, Any]) -> None:
    event, act = acts_of(bent, "confirm")[3]
    event["acts"].remove(act)


def the_order_is_left_out(bent: dict[str, Any]) -> None:
    event, act = acts_of(bent, "schedule")[0]
    event["acts"].remove(act)


def the_order_stands_twice(bent: dict[str, Any]) -> None:
    event, act = acts_of(bent, "schedule")[0]
    later = next(
        e for e in bent["events"]
        if e["what"] == "block" and e["height"] == event["height"] + 2
    )  # fmt: skip
    later["acts"].append(list(act))


def nobody_ever_registered(bent: dict[str, Any]) -> None:
    for event, act in acts_of(bent, "register"):
        if act[1] == "new":
            event["acts"].remove(act)


def keys_come_before_their_release(bent: dict[str, Any]) -> None:
    """The challenge of the new one stands right behind the order."""
    ordered, _ = acts_of(bent, "schedule")[0]
    for event, act in acts_of(bent, "register"):
        if act[1] == "new":
            event["acts"].remove(act)
    ordered["acts"].append(["register", "new"])


def the_new_one_stages_before_it_runs(bent: dict[str, Any]) -> None:
    event = next(
        e for e in bent["events"]
        if e["what"] == "block" and e["height"] == bent["params"]["upgrade_at"] - 2
    )  # fmt: skip
    event["acts"].append(["stage", "new"])


def the_old_one_stages_the_next_keys(bent: dict[str, Any]) -> None:
    (_, act), *_ = acts_of(bent, "stage")
    act[1] = "old"


def the_old_one_holds_the_next_keys(bent: dict[str, Any]) -> None:
    last = [e for e in bent["events"] if e["what"] == "status" and e["who"] == "old"]
    bent["events"].append({**last[-1], "epochs": [0, 1]})


def a_state_falls_back_without_a_restart(bent: dict[str, Any]) -> None:
    last = [e for e in bent["events"] if e["what"] == "status" and e["who"] == "old"]
    bent["events"].append({**last[-1], "state": last[-1]["state"] - 1})


def the_certificate_is_of_another_block(bent: dict[str, Any]) -> None:
    (_, act), *_ = acts_of(bent, "certificate")
    act[2] -= 1


def a_block_is_missing(bent: dict[str, Any]) -> None:
    blocks = [e for e in bent["events"] if e["what"] == "block"]
    bent["events"].remove(blocks[-4])


def a_block_is_confirmed_that_is_not_proven(bent: dict[str, Any]) -> None:
    event, act = acts_of(bent, "confirm")[-1]
    act[3] = event["height"]


def the_new_generation_is_never_confirmed(bent: dict[str, Any]) -> None:
    for event in bent["events"]:
        if event["what"] == "block":
            event["acts"] = [
                act for act in event["acts"] if act[:2] != ["confirm", "new"]
            ]


BENDS: list[Bend] = [
    the_old_one_executes_xyz,
    the_new_one_executes_before_xyz,
    the_old_one_confirms_xyz,
    the_new_one_confirms_before_xyz,
    a_confirmation_is_left_out,
    the_order_is_left_out,
    the_order_stands_twice,
    nobody_ever_registered,
    keys_come_before_their_release,
    the_new_one_stages_before_it_runs,
    the_old_one_stages_the_next_keys,
    the_old_one_holds_the_next_keys,
    a_state_falls_back_without_a_restart,
    the_certificate_is_of_another_block,
    a_block_is_missing,
    a_block_is_confirmed_that_is_not_proven,
    the_new_generation_is_never_confirmed,
]


@pytest.mark.parametrize("name", BENT)
@pytest.mark.parametrize("bend", BENDS, ids=lambda bend: bend.__name__)
def test_a_trace_that_was_bent_has_no_path(bend: Bend, name: str) -> None:
    straight = raw(name)
    bent = copy.deepcopy(straight)
    bend(bent)
    assert bent != straight
    with pytest.raises(NoPathError) as caught:
        followed(bent)
    print(bend.__name__, "->", caught.value)
    assert ENCLAVES


@pytest.mark.parametrize("name", BENT)
def test_a_kill_may_take_back_what_was_not_on_disk(name: str) -> None:
    """Executed, not yet durable, killed: the state falls back, and goes on."""
    bent = raw(name)
    at = next(
        place
        for place, event in enumerate(bent["events"])
        if event["what"] == "status" and event["who"] == "old"
        and (event["state"] or 0) > bent["params"]["release_from"] - 4
    )  # fmt: skip
    seen = bent["events"][at]
    fallen = {**seen, "life": 90, "state": seen["state"] - 1}
    for later in bent["events"][at + 1 :]:
        if later["what"] == "status" and later["who"] == "old":
            later["life"] += 90
    bent["events"].insert(at + 1, fallen)
    walk = followed(bent)
    assert "roll a back" in walk.moves
