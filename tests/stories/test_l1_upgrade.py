"""L1's own runtime changes while a shard lives, moves house, and is asked for keys."""

from collections.abc import Callable

import pytest
from story import Story

from sealift.base import Height
from sealift.ledger import (
    FIRST_RUNTIME,
    RUNTIME_VERSIONS,
    ledger_call,
    version_table,
)
from sealift.ledger._errors import UnknownRuntimeVersionError
from sealift.protocol import EnclaveRecord, enclave_key
from sealift.testing import WorldError

SECOND = 2
#: A program of before there was a version 2.
OLD_PROGRAM = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])


def plan(story: Story, height: int, *, version: int = SECOND) -> None:
    """L1's root plans version 2; makes a block."""
    inner = ledger_call("system.set_code", version=version, height=Height(height))
    story.world.act("root", "sudo.sudo", call=inner)


def restart_everything(story: Story) -> None:
    """The node and every worker; each comes back to where it was."""
    world = story.world
    before = {name: one.status().root for name, one in world.workers.items()}
    version = world.chain.runtime_version
    world.chain.restart()
    for name, worker in world.workers.items():
        worker.restart()
        assert worker.status().root == before[name]
    assert world.chain.runtime_version == version


def goes_on(story: Story, xyz: int | None = None) -> None:
    """Nothing lost, doubled or reordered, in the shard; and L1's roots are right."""
    story.settle()
    executed = [
        height for one in story.world.workers.values() for height in one.executions
    ]
    assert sorted(executed) == list(range(min(executed), story.world.height))
    if xyz is not None:
        assert story.old.executions[-1] == xyz - 1
    story.check_calls()
    story.check_chain_of_roots()
    assert set(story.seen_after.values()) == {1}, "a gap of no block"
    story.world.chain.make_again()


def test_a_shard_lives_through_it_and_everything_restarts(story: Story) -> None:
    world = story.world
    at = world.height + 4
    plan(story, at)
    story.business_until(at - 1)
    assert world.chain.runtime_version == FIRST_RUNTIME
    restart_everything(story)
    story.business()
    assert world.chain.runtime_version == SECOND
    restart_everything(story)
    story.business()
    restart_everything(story)
    story.business(3)
    goes_on(story)


def test_who_lives_through_it_later_comes_to_the_same_shard_roots(
    story: Story,
) -> None:
    """A host from a disk of before, that is shown the blocks afterwards."""
    world, old = story.world, story.old
    at = world.height + 4
    plan(story, at)
    story.business_until(at - 2)
    disk = old.disk.copy()
    story.business_until(at + 4)
    assert world.chain.runtime_version == SECOND
    later = world.clone(old, disk)
    later.step()
    assert later.executions[0] < at < later.executions[-1] == old.executions[-1]
    assert {height: old.roots[height] for height in later.roots} == later.roots


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_an_enclave_upgrade_is_pending_across_the_same_blocks(
    story: Story, off: int
) -> None:
    """XYZ is the block before the L1 upgrade, the very same, or the one after."""
    world = story.world
    entry = story.schedule(release_from=world.height + 4, upgrade_at=world.height + 12)
    xyz = entry.upgrade_at
    at = xyz - off
    plan(story, at)
    new = story.join(entry)
    assert world.height < min(xyz, at) - 1
    story.business_until(min(xyz, at) - 1)
    restart_everything(story)
    story.business_until(max(xyz, at))
    restart_everything(story)
    story.business(3)
    assert world.chain.runtime_version == SECOND
    assert new.executions[0] == xyz
    assert world.frontier().generation == 1
    goes_on(story, xyz)
    for height in (min(xyz, at) - 1, at - 1, at, max(xyz, at)):
        world.chain.restart(height=height)
    restart_everything(story)
    story.business(2)
    goes_on(story, xyz)


@pytest.mark.parametrize("ahead", [1, 2])
def test_keys_are_handed_over_across_it(story: Story, ahead: int) -> None:
    """The challenge is in the block before it, or in the first of the new version.

    The release is by a state of the new version, about a registration that the old
    one took, or the new one by what the old one knew.
    """
    world = story.world
    entry = story.schedule(release_from=world.height + 4, upgrade_at=world.height + 20)
    at = entry.release_from + ahead
    plan(story, at)
    story.business_until(entry.release_from)
    new = world.worker("new", story.b, upstream=story.old)
    new.request_keys(story.old)
    record = world.chain.read(EnclaveRecord, enclave_key(new.signing_key))
    assert record is not None
    assert record.statement.provider == story.old.signing_key
    assert record.statement.block_height < at <= world.height
    assert record.attested_at == entry.release_from + 1
    assert new.status().epochs == (0,)
    world.chain.restart()
    story.old.restart()
    story.business_until(entry.upgrade_at - 1)
    restart_everything(story)
    story.business_until(entry.upgrade_at + 3)
    goes_on(story, entry.upgrade_at)


def test_a_node_without_the_version_halts_and_the_world_waits(
    new_story: Callable[..., Story],
) -> None:
    """Also an enclave upgrade at that very block: no block, no handover, no loss."""
    story = new_story(versions=OLD_PROGRAM)
    world = story.world
    entry = story.schedule(release_from=world.height + 4, upgrade_at=world.height + 12)
    xyz = entry.upgrade_at
    plan(story, xyz)
    new = story.join(entry)
    story.business_until(xyz - 1)
    for _ in range(2):
        with pytest.raises(UnknownRuntimeVersionError, match=f"block {xyz}"):
            world.block()
        world.chain.restart()
        assert world.height == xyz - 1
    for worker in world.workers.values():
        worker.restart()
    assert new.executions == []
    world.chain.restart(RUNTIME_VERSIONS)  # the program is updated
    story.business(3)
    restart_everything(story)
    story.business(2)
    goes_on(story, xyz)
    with pytest.raises(UnknownRuntimeVersionError):
        world.chain.restart(OLD_PROGRAM)


def test_a_node_from_a_copy_of_old_data_or_from_blocks_comes_to_the_same_roots(
    story: Story,
) -> None:
    world = story.world
    at = world.height + 4
    plan(story, at)
    story.business_until(at + 4)
    for height in (1, at - 2, at - 1, at, at + 1, world.height):
        world.chain.restart(height=height)
        story.business()
    world.chain.make_again()
    story.business()
    goes_on(story)
    with pytest.raises(UnknownRuntimeVersionError):
        world.chain.restart(OLD_PROGRAM, height=at - 1)


def test_a_program_whose_version_does_something_else_is_found_out(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released versions never change: else old blocks come to other roots."""
    world = story.world
    at = world.height + 3
    plan(story, at)
    story.business_until(at + 1)
    monkeypatch.setattr("sealift.ledger.v2._teerex.FIRST_LONGEST_AGE", 9_999)
    with pytest.raises(WorldError, match=f"block {at} comes to another root"):
        world.chain.make_again()
    monkeypatch.undo()
    world.chain.make_again()


def test_a_worker_killed_in_the_upgrade_block_comes_back(story: Story) -> None:
    world, old = story.world, story.old
    at = world.height + 4
    plan(story, at)
    story.business_until(at - 1)
    old.crash_before = f"keep block {at - 1}"
    story.business()
    assert old.executions[-1] == at - 2
    story.business()
    old.restart()
    story.business(2)
    story.settle()
    story.check_calls()
    world.chain.make_again()
