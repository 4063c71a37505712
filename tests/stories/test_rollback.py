"""The host rolls the old worker's disk back and starts it again."""

from collections.abc import Iterator

import pytest
from story import Story

from sealift.testing import RefusedError, WorldDisk, WorldWorker


@pytest.fixture
def handed_over(story: Story) -> Iterator[tuple[Story, int, dict[str, WorldDisk]]]:
    """A handover, with copies of the old worker's disk from before XYZ."""
    disks = {"newborn": story.old.disk.copy()}
    entry = story.schedule()
    disks["scheduled"] = story.old.disk.copy()
    story.join(entry)
    disks["keys given"] = story.old.disk.copy()
    story.business_until(entry.upgrade_at - 1)
    disks["last blocks"] = story.old.disk.copy()
    story.business_until(entry.upgrade_at)
    disks["stopped"] = story.old.disk.copy()
    story.business(4)
    yield story, entry.upgrade_at, disks
    story.settle()
    story.check_calls()
    story.check_chain_of_roots()
    story.check_roots_agree()


def _is_harmless(story: Story, ghost: WorldWorker, xyz: int) -> None:
    """It may do again what was done; nothing at or after XYZ, and no other root."""
    assert all(height < xyz for height in ghost.executions)
    for height, root in ghost.roots.items():
        assert root == story.old.roots[height]
    assert ghost.status().state_height == xyz - 1
    assert ghost.idle == "not-mine"
    for said in ghost.signed:
        assert said.confirmation is None or said.confirmation.last < xyz


@pytest.mark.parametrize(
    "when", ["newborn", "scheduled", "keys given", "last blocks", "stopped"]
)
def test_an_old_worker_from_an_old_disk_executes_nothing_from_xyz_on(
    handed_over: tuple[Story, int, dict[str, WorldDisk]], when: str
) -> None:
    story, xyz, disks = handed_over
    executed = len(story.old.executions)
    story.old.restart(disks[when])
    story.business(3)
    assert all(height < xyz for height in story.old.executions[executed:])
    assert story.old.status().state_height == xyz - 1
    assert story.old.idle == "not-mine"


def test_a_disk_pieced_together_from_several_moments_gains_nothing(
    handed_over: tuple[Story, int, dict[str, WorldDisk]],
) -> None:
    story, xyz, disks = handed_over
    for base in disks.values():
        for other in disks.values():
            mixed = base.copy()
            mixed.checkpoint = other.checkpoint
            ghost = story.world.clone(story.old, mixed)
            ghost.step()
            assert all(height < xyz for height in ghost.executions)
            assert all(
                root == story.old.roots[height] for height, root in ghost.roots.items()
            )


def test_without_its_checkpoint_it_begins_at_the_trust_root_and_stops_at_xyz(
    handed_over: tuple[Story, int, dict[str, WorldDisk]],
) -> None:
    story, xyz, disks = handed_over
    bare = WorldDisk(
        key_store=disks["keys given"].key_store, genesis=disks["keys given"].genesis
    )
    ghost = story.world.clone(story.old, bare)
    ghost.step()
    assert ghost.executions == list(range(story.old.executions[0], xyz))
    _is_harmless(story, ghost, xyz)


def test_the_rolled_back_one_does_not_answer_reads(
    handed_over: tuple[Story, int, dict[str, WorldDisk]],
) -> None:
    story, _, disks = handed_over
    ghost = story.world.clone(story.old, disks["last blocks"])
    ghost.step()
    with pytest.raises(RefusedError) as refused:
        story.alice.ask("auction.my_bid", 0, worker=ghost)
    assert refused.value.name == "NotServingError"


def test_its_host_may_stop_the_chain_before_xyz_and_it_still_ends_there(
    handed_over: tuple[Story, int, dict[str, WorldDisk]],
) -> None:
    """With the chain cut off at XYZ there is nothing that proves block XYZ."""
    story, xyz, disks = handed_over
    ghost = story.world.clone(story.old, disks["keys given"])
    ghost.step(upto=xyz)
    assert ghost.executions[-1] == xyz - 1
    ghost.step()
    _is_harmless(story, ghost, xyz)
