"""Several workers of one fingerprint run one shard."""

from collections.abc import Callable

import pytest
from story import Story

from sealift.testing import WorldWorker


def _second(story: Story, name: str = "second") -> WorldWorker:
    second = story.world.worker(name, story.a, upstream=story.old)
    second.request_keys(story.old)
    return second


def test_a_second_one_joins_late_and_comes_to_the_same_roots(story: Story) -> None:
    story.business(5)
    second = _second(story)
    assert second.status().state_height is None
    story.business(5)
    story.settle()
    assert second.executions, second.refusals
    assert second.executions[-1] == story.old.executions[-1]
    story.check_roots_agree()
    story.check_calls()
    assert second.disk.snapshot is not None


def test_their_receipts_are_the_same_bytes(story: Story) -> None:
    second = _second(story)
    story.business(5)
    story.settle()
    common = story.old.disk.receipts.keys() & second.disk.receipts.keys()
    assert len(common) >= 8
    for envelope in common:
        assert story.old.disk.receipts[envelope] == second.disk.receipts[envelope]
    roots = {}
    for worker in (story.old, second):
        for said in worker.signed:
            claim = said.confirmation
            if claim is not None:
                key = (claim.first, claim.last)
                assert roots.setdefault(key, claim.receipts_root) == claim.receipts_root


def test_the_second_goes_on_alone_when_the_first_is_gone(story: Story) -> None:
    second = _second(story)
    story.business(3)
    story.old.kill()
    story.business(4)
    story.settle()
    story.check_calls()
    assert story.world.frontier().confirmed >= story.calls[-1].height
    assert story.world.frontier().confirmed in second.roots


def test_the_first_comes_back_and_agrees(story: Story) -> None:
    _second(story)
    story.business(3)
    story.old.kill()
    story.business(3)
    story.old.restart()
    story.business(2)
    story.settle()
    story.check_roots_agree()
    story.check_calls()


def test_both_hand_over_to_two_of_the_next_generation(story: Story) -> None:
    _second(story)
    story.business(2)
    entry = story.schedule(upgrade_at=story.world.height + 14)
    story.join(entry)
    third = story.world.worker("third", story.b, upstream=story.world.workers["second"])
    third.request_keys(story.world.workers["second"])
    story.business_until(entry.upgrade_at + 3)
    story.settle()
    story.check_calls()
    story.check_roots_agree()
    new = story.world.workers["new"]
    assert new.executions[0] == third.executions[0] == entry.upgrade_at
    assert new.executions[-1] == third.executions[-1]


@pytest.mark.parametrize("provider", ["old", "new"])
def test_a_third_may_ask_either_generation_after_the_handover(
    story: Story, provider: str
) -> None:
    entry = story.schedule()
    new = story.join(entry)
    story.business_until(entry.upgrade_at + 3)
    third = story.world.worker("third", story.b, upstream=new)
    third.request_keys(story.world.workers[provider])
    story.business(4)
    story.settle()
    assert third.executions
    story.check_roots_agree()
    story.check_calls()


def test_two_platforms_must_agree_on_a_root_where_the_rules_say_so(
    new_story: Callable[..., Story],
) -> None:
    story = new_story(root_quorum=2)
    story.business(2)
    born = story.world.frontier().confirmed
    assert story.old.executions[-1] > born + 3, "executed, but alone"
    second = story.world.worker("second", story.a)
    second.request_keys(story.old)
    second.disk.genesis = story.world.genesis
    story.business(6)
    story.settle()
    assert second.executions[0] == born + 1, "from genesis: it trusts no one's state"
    assert story.world.frontier().confirmed > born + 6
    story.check_roots_agree()
    story.check_calls()
