"""Real enclaves rehearse; without good words the old one goes on, over XYZ."""

from pathlib import Path
from typing import Any

import pytest
from story import Story

from sealift.frame import Context, Pallet, Runtime
from sealift.protocol import (
    EntryRehearsals,
    HandoverCertificate,
    certificate_key,
    rehearsals_key,
)
from sealift.testing import RefusedError, World
from sealift.testing._rehearse import post_rehearsal, rehearse

BY = 12


@pytest.fixture
def gated(tmp_path: Path, v1: Runtime, v2: Runtime) -> Story:
    """An auction whose upgrades take one good rehearsal."""
    return Story(World(tmp_path / "intel", runtime=3, rehearsals=(1, BY)), v1, v2)


def pending(story: Story) -> Any:
    entry = story.schedule(
        release_from=story.world.height + 3, upgrade_at=story.world.height + 12
    )
    return entry, story.join(entry)


def kept(story: Story) -> EntryRehearsals | None:
    key = rehearsals_key(story.world.shard, 1)
    return story.world.chain.read(EntryRehearsals, key)


def posted(story: Story, **how: Any) -> None:
    """The new worker's word stands on L1, one block later."""
    sent = post_rehearsal(story.world.workers["new"], **how)
    story.world.block()
    sent.check()


def certificate(story: Story) -> HandoverCertificate | None:
    key = certificate_key(story.world.shard)
    return story.world.chain.read(HandoverCertificate, key)


def nothing_lost(story: Story) -> None:
    story.settle()
    executed = [
        height for one in story.world.workers.values() for height in one.executions
    ]
    assert sorted(executed) == list(range(min(executed), story.world.height))
    story.check_calls()
    story.check_chain_of_roots()
    assert set(story.seen_after.values()) == {1}, "a gap of no block"
    story.world.chain.make_again()


def test_a_good_rehearsal_opens_the_gate_and_the_house_moves(gated: Story) -> None:
    entry, new = pending(gated)
    gated.business(2)
    posted(gated, milliseconds=8)
    known = kept(gated)
    assert known is not None
    (word,) = known.rehearsals
    assert (word.statement.good, word.statement.check) == (True, "")
    assert word.statement.size.bit_count() == 1
    gated.business_until(entry.upgrade_at + 3)
    assert gated.old.executions[-1] == entry.upgrade_at - 1
    assert new.executions[0] == entry.upgrade_at
    nothing_lost(gated)


def test_without_one_the_old_enclave_runs_over_xyz_and_hands_over_later(
    gated: Story,
) -> None:
    """No certificate at the first XYZ, no block is missed, and the new one waits."""
    world = gated.world
    entry, new = pending(gated)
    first = entry.upgrade_at
    gated.business_until(first + 4)
    assert world.schedule_now().entry(1).upgrade_at == first + BY
    assert gated.old.executions[-1] >= first + 2
    assert new.executions == []
    assert certificate(gated) is None
    posted(gated)
    gated.business_until(first + BY + 3)
    assert gated.old.executions[-1] == first + BY - 1
    assert new.executions[0] == first + BY
    said = certificate(gated)
    assert said is not None
    assert said.height == first + BY - 1
    nothing_lost(gated)


@pytest.mark.parametrize("off", [-2, -1, 0, 1])
def test_everything_restarts_around_the_block_of_the_postponement(
    gated: Story, off: int
) -> None:
    """What the disk says of XYZ is nothing; the proven schedule is."""
    world = gated.world
    entry, new = pending(gated)
    gated.business_until(entry.upgrade_at + off)
    world.chain.restart()
    for one in world.workers.values():
        one.restart()
    gated.business_until(entry.upgrade_at + 4)
    assert new.executions == []
    posted(gated)
    gated.business_until(entry.upgrade_at + BY + 3)
    assert gated.old.executions[-1] == entry.upgrade_at + BY - 1
    nothing_lost(gated)


def test_a_host_that_shows_the_old_schedule_gains_nothing(gated: Story) -> None:
    """A disk from before XYZ-1, replayed: the new enclave does not run the old XYZ."""
    world = gated.world
    entry, new = pending(gated)
    gated.business_until(entry.upgrade_at - 3)
    disk = new.disk.copy()
    gated.business_until(entry.upgrade_at + 3)
    clone = world.clone(new, disk)
    clone.step()
    assert clone.executions == []


def test_a_word_for_the_first_xyz_is_refused_after_the_postponement(
    gated: Story,
) -> None:
    world = gated.world
    entry, new = pending(gated)
    gated.business(1)
    old_word = rehearse(new)
    gated.business_until(entry.upgrade_at + 1)
    with pytest.raises(RefusedError, match="another order or upgrade block"):
        world.act(
            new.operator,
            "enclave_bridge.post_rehearsal",
            statement=old_word.statement,
            signature=old_word.signature,
            milliseconds=1,
        )
    assert rehearse(new).statement.upgrade_at == entry.upgrade_at + BY


def broken(runtime: Runtime) -> Runtime:
    """Version 2, with a migration whose check fails."""

    class Broken(Pallet):
        name = "broken"
        storage_version = 1

        def post_upgrade(self, ctx: Context, before: bytes) -> None:
            del ctx, before
            raise ValueError("the secret of alice is 12345")

    return Runtime(
        name=runtime.name,
        version=runtime.version,
        pallets=[*runtime.pallets, Broken()],
    )


def test_a_bad_migration_is_named_and_never_runs(
    tmp_path: Path, v1: Runtime, v2: Runtime
) -> None:
    """And what L1 is told of it has nothing of what it saw."""
    world = World(tmp_path / "intel", runtime=3, rehearsals=(1, BY))
    story = Story(world, v1, broken(v2))
    entry, new = pending(story)
    story.business(1)
    posted(story)
    known = kept(story)
    assert known is not None
    (word,) = known.rehearsals
    assert not word.statement.good
    assert word.statement.check == "broken.post_upgrade"
    everything = b"".join(
        tx
        for height in range(1, world.height)
        for tx in world.chain.block(height).block.txs
    )
    assert b"12345" not in everything
    story.business_until(entry.upgrade_at + 3)
    assert world.schedule_now().entry(1).upgrade_at == entry.upgrade_at + BY
    assert new.executions == []
    world.cancel(1)
    story.business(2)
    assert kept(story) is None
    nothing_lost(story)
