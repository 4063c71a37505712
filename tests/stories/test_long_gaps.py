"""A newcomer after a long time: a few headers, and the same state as the others."""

import asyncio
from typing import Any

import pytest
from story import Story

from sealift.base import AccountId, Height, decode
from sealift.protocol.ecall import Followed
from sealift.relay import LightBlock
from sealift.testing import RefusedError, WorldChain, WorldWorker
from sealift.worker import _skip as module
from sealift.worker._feed import BlockFeed
from sealift.worker._skip import SkipPlanner


class ChainSource:
    """The world's chain as a worker reads its node; counts headers."""

    def __init__(self, chain: WorldChain) -> None:
        self.chain = chain
        self.headers: list[int] = []

    async def light_block(self, height: int) -> LightBlock:
        self.headers.append(height)
        return decode(LightBlock, self.chain.light_block(height))

    async def prove(self, key: bytes, height: int) -> tuple[bytes | None, bytes]:
        (proof,) = self.chain.prove(height, (key,))
        return proof.value, proof.proof


def planned(story: Story, head: int, signing_key: bytes) -> tuple[Any, ChainSource]:
    """What a real worker's planner would bring to this enclave."""
    source: Any = ChainSource(story.world.chain)
    feed = BlockFeed(
        source, shard=story.world.shard, signing_key=AccountId(signing_key)
    )
    planner = SkipPlanner(l1=source, feed=feed, shard=story.world.shard)
    plan = asyncio.run(planner.plan(Height(head), story.world.height))
    return plan, source


@pytest.fixture
def long_ago(story: Story, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Sixty blocks of business; a gap of twenty counts as long."""
    monkeypatch.setattr(module, "LONG_GAP", 20)
    story.business(60)
    return story


def skipping(story: Story, name: str, release: Any, **options: Any) -> Any:
    """A worker that skips before it follows."""
    world = story.world
    was = world.height
    worker = _paused(world, name, release, **options)
    plan, source = planned(story, worker.status().head, worker.signing_key)
    assert plan is not None
    target, request = plan
    followed = worker.call(request, Followed)
    worker.disk.checkpoint = followed.checkpoint
    assert worker.status().head == target + 1
    assert target > was - 10
    assert len(source.headers) < 10, "one validator: a few headers for any gap"
    worker.paused = False
    worker.step()
    return worker


def _paused(world: Any, name: str, release: Any, **options: Any) -> Any:
    """Started, and not yet following."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorldWorker, "step", lambda _: None)
        worker = world.worker(name, release, **options)
    worker.paused = True
    return worker


def test_a_newcomer_gets_keys_and_state_and_executes_like_the_others(
    long_ago: Story,
) -> None:
    world, old = long_ago.world, long_ago.old
    twin = skipping(long_ago, "twin", long_ago.a, upstream=old)
    assert twin.status().epochs == ()
    twin.request_keys(old)
    long_ago.business(5)
    assert twin.status().epochs == old.status().epochs
    assert twin.status().root == old.status().root
    assert twin.executions
    twin.restart()
    long_ago.business(3)
    assert twin.status().root == old.status().root
    assert world.height == twin.status().head


def test_the_next_generation_comes_by_a_skip_and_takes_over(long_ago: Story) -> None:
    world, old = long_ago.world, long_ago.old
    entry = long_ago.schedule()
    world.run_until(entry.release_from)
    new = skipping(long_ago, "new", long_ago.b, upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at + 3)
    new.restart()
    assert new.executions[0] == entry.upgrade_at
    assert old.executions[-1] == entry.upgrade_at - 1
    long_ago.business(2)
    assert new.status().root != old.status().root


def test_whoever_has_to_execute_is_not_brought_over(long_ago: Story) -> None:
    """A disk of long ago: state and keys are there, its own blocks are not."""
    world, old = long_ago.world, long_ago.old
    disk = old.disk.copy()
    long_ago.business(40)
    behind = world.clone(old, disk)
    plan, _ = planned(long_ago, behind.status().head, behind.signing_key)
    assert plan is not None
    with pytest.raises(RefusedError) as caught:
        behind.call(plan[1], Followed)
    assert caught.value.name == "SkipNotAllowedError"
    behind.step()
    assert behind.status().root == old.status().root


def test_a_short_gap_is_followed(story: Story) -> None:
    plan, _ = planned(story, story.old.status().head, story.old.signing_key)
    assert plan is None


def test_nothing_is_settled_while_nobody_confirms(long_ago: Story) -> None:
    """Blocks that wait for a confirmation may have to be executed by anybody."""
    frontier = long_ago.old.status().head
    long_ago.old.mute = True
    long_ago.business(30)
    plan, _ = planned(long_ago, frontier - 1, long_ago.old.signing_key)
    assert plan is None
