"""Invariant 7: killed between any two acts, and it comes to the same root."""

from collections.abc import Callable

import pytest
from story import History, Story

from sealift.testing import CrashError, WorldDisk, WorldWorker

#: Nobody does more in these stories; the tests stop at the last act themselves.
MANY = 400


def _claims_are_true(history: History, worker: WorldWorker) -> None:
    for said in worker.signed:
        if said.confirmation is not None:
            claim = said.confirmation
            assert claim.root == history.roots[claim.last]
            assert claim.generation == history.world.generation_at(claim.last)


def _replay_every_crash(
    history: History, worker: WorldWorker, disk: WorldDisk, *, crashes: int = 1
) -> tuple[int, set[str]]:
    """Kill before each act in turn, restart, and compare with the undisturbed."""
    died = set()
    for point in range(MANY):
        ghost = history.world.clone(worker, disk)
        begun = len(ghost.acts)
        for _ in range(crashes):
            ghost.crash_at = len(ghost.acts) + point
            try:
                ghost.step()
                break
            except CrashError as crash:
                died.add(str(crash).rpartition("could ")[2].rstrip("0123456789 …"))
                ghost.start()
        else:
            ghost.crash_at = None
        undisturbed = ghost.crash_at is not None
        ghost.crash_at = None
        ghost.step()
        for height, root in ghost.roots.items():
            assert root == history.roots[height], (point, height)
        _claims_are_true(history, ghost)
        if undisturbed:
            assert len(ghost.acts) > begun
            return point, died
    pytest.fail("the worker never came to an end")


def test_invariant_07_the_old_worker_killed_at_any_act_around_xyz(
    history: History,
) -> None:
    points, died = _replay_every_crash(history, history.old, history.old_before)
    assert points > 20
    assert {"import", "keep block", "execute", "confirm", "keep checkpoint"} <= died
    ghost = history.world.clone(history.old, history.old_before)
    ghost.step()
    assert ghost.status().root == history.roots[history.xyz - 1]


def test_invariant_07_the_new_worker_killed_at_any_act_around_xyz(
    history: History,
) -> None:
    points, died = _replay_every_crash(history, history.new, history.new_before)
    assert points > 20
    assert {"apply diff", "keep diff", "keep block", "execute", "confirm"} <= died


def test_invariant_07_a_newcomer_killed_while_it_fetches_the_state(
    history: History,
) -> None:
    points, died = _replay_every_crash(history, history.new, history.with_keys)
    assert points > 20
    assert {"import snapshot", "keep snapshot", "keep block"} <= died


def test_invariant_07_a_worker_that_is_killed_again_and_again(history: History) -> None:
    _replay_every_crash(history, history.new, history.new_before, crashes=3)


def _ends_like_the_undisturbed(history: History, disk: WorldDisk) -> None:
    ghost = history.world.clone(history.new, disk)
    ghost.step()
    assert ghost.status().state_height == history.last
    assert ghost.status().root == history.roots[history.last]


@pytest.mark.parametrize("disk", ["with_keys", "new_before"])
def test_invariant_07_every_root_up_to_the_last_block(
    history: History, disk: str
) -> None:
    _ends_like_the_undisturbed(history, getattr(history, disk))


def _goes_on_after_a_crash(story: Story, worker: WorldWorker) -> None:
    died = False
    for _ in range(6):
        story.business()
        if not worker.running:
            died = True
            story.business()
            worker.start()
    assert died
    story.settle()
    story.check_calls()
    story.check_chain_of_roots()
    assert story.world.frontier().generation == 1
    assert worker.running


@pytest.mark.parametrize(
    ("victim", "act"),
    [
        ("old", "import {last}"),
        ("old", "keep checkpoint {last}"),
        ("old", "keep block {last}"),
        ("old", "confirm {last} …"),
        ("old", "send confirmation {last}"),
        ("old", "send certificate {last}"),
        ("new", "apply diff {last}"),
        ("new", "keep diff {last}"),
        ("new", "import {xyz}"),
        ("new", "keep checkpoint {xyz}"),
        ("new", "keep block {xyz}"),
        ("new", "confirm {xyz} …"),
        ("new", "send confirmation {xyz}"),
    ],
)
def test_a_crash_at_the_very_handover_loses_no_call(
    story: Story, victim: str, act: str
) -> None:
    """Live: killed there, back after the next block; users wait, nothing is lost."""
    entry = story.schedule()
    story.join(entry)
    worker = story.world.workers[victim]
    story.business_until(entry.upgrade_at - 2)
    xyz = entry.upgrade_at
    worker.crash_before = act.format(last=xyz - 1, xyz=xyz)
    _goes_on_after_a_crash(story, worker)


@pytest.mark.parametrize("victim", ["old", "new"])
@pytest.mark.parametrize("point", range(0, 36, 4))
def test_a_crash_while_the_business_goes_on_loses_no_call(
    new_story: Callable[..., Story], victim: str, point: int
) -> None:
    """Live, and at acts in between."""
    story = new_story()
    entry = story.schedule()
    story.join(entry)
    worker = story.world.workers[victim]
    story.business_until(entry.upgrade_at - 2)
    worker.crash_at = len(worker.acts) + point
    _goes_on_after_a_crash(story, worker)
