"""A generation that never comes is void, and the shard goes on."""

from typing import Any

import pytest

from sealift.ledger._errors import (
    CertificateError,
    VoidedGenerationError,
    WrongFingerprintForShardError,
    WrongGenerationError,
)
from sealift.ledger._succession import rescue
from sealift.protocol import EntryStatus, config_at

PENDING, ACTIVE, RETIRED, CANCELLED, LAPSED, VOID = EntryStatus
RESCUE_AFTER = 10


@pytest.fixture
def late(world: Any) -> Any:
    """A born shard at XYZ; the new generation holds keys and does not come."""
    world.one = world.instance("one")
    world.two = world.instance("two", world.CODE_B)
    world.shard = world.born_shard(world.one)
    world.xyz = world.upgrade(world.shard, code=world.CODE_B)
    world.register(world.shard, world.two)
    world.blocks_until(world.xyz)
    world.confirm(world.shard, world.one, world.xyz - 1, generation=0)
    return world


def statuses(world: Any) -> Any:
    return [entry.status for entry in world.schedule(world.shard).entries]


def test_rescue_comes_at_its_block_and_not_before(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER - 1)
    assert statuses(late) == [RETIRED, ACTIVE]
    late.block()
    assert statuses(late) == [RETIRED, VOID, ACTIVE]
    assert "enclave_bridge.GenerationVoided" in late.events()
    rescuer = late.schedule(late.shard).entries[-1]
    first = late.schedule(late.shard).entries[0]
    assert (rescuer.generation, rescuer.predecessor) == (2, 0)
    assert rescuer.config == first.config
    assert rescuer.since == late.xyz
    assert rescuer.recorded_at == rescuer.upgrade_at == late.height
    assert late.record(late.shard).generation == 2


def test_the_rescuer_runs_the_unconfirmed_blocks_from_xyz_on(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER)
    schedule = late.schedule(late.shard)
    assert config_at(schedule, late.xyz - 1).generation == 0
    for height in range(late.xyz, late.height + 5):
        assert config_at(schedule, height).generation == 2
    late.confirm(late.shard, late.one, late.height)
    assert late.frontier(late.shard).generation == 2


def test_a_generation_that_confirmed_once_is_not_voided(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER - 2)
    late.confirm(late.shard, late.two, late.xyz)
    late.blocks_until(late.xyz + RESCUE_AFTER + 20)
    assert statuses(late) == [RETIRED, ACTIVE]


def test_the_voided_ones_confirmations_are_refused_by_name(late: Any) -> None:
    """It wakes up when its predecessor has taken over."""
    late.blocks_until(late.xyz + RESCUE_AFTER)
    with pytest.raises(VoidedGenerationError):
        late.confirm(late.shard, late.two, late.xyz, generation=1)
    with pytest.raises(WrongFingerprintForShardError):
        late.confirm(late.shard, late.two, late.xyz, generation=2)
    with pytest.raises(WrongGenerationError):
        late.confirm(late.shard, late.two, late.xyz, generation=0)


def test_the_voided_code_cannot_register_any_more(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER)
    with pytest.raises(WrongFingerprintForShardError):
        late.register(late.shard, late.two)


def test_what_followed_the_voided_one_lapses(late: Any) -> None:
    late.upgrade(late.shard, code=late.CODE_C, release_from=100, upgrade_at=110)
    late.upgrade(late.shard, release_from=120, upgrade_at=130)
    late.blocks_until(late.xyz + RESCUE_AFTER)
    assert statuses(late) == [RETIRED, VOID, LAPSED, LAPSED, ACTIVE]
    assert late.events().count("enclave_bridge.GenerationLapsed") == 2


def test_a_successor_that_ran_already_falls_with_the_voided_one(late: Any) -> None:
    """Two upgrades, close together; neither ever confirms a block."""
    soon = late.next + 5
    late.upgrade(late.shard, code=late.CODE_C, release_from=soon, upgrade_at=soon + 1)
    late.blocks_until(soon + 1)
    assert statuses(late) == [RETIRED, RETIRED, ACTIVE]
    late.blocks_until(late.xyz + RESCUE_AFTER)
    assert statuses(late) == [RETIRED, VOID, VOID, ACTIVE]
    assert config_at(late.schedule(late.shard), soon + 2).generation == 3


def test_the_rescuer_is_not_rescued(late: Any) -> None:
    """There is nobody else; it waits for its machine."""
    late.blocks_until(late.xyz + RESCUE_AFTER + 5 * RESCUE_AFTER)
    assert statuses(late) == [RETIRED, VOID, ACTIVE]


def test_an_upgrade_after_a_rescue_follows_the_rescuer(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER)
    late.upgrade(late.shard, code=late.CODE_B)
    entry = late.schedule(late.shard).entries[-1]
    assert (entry.generation, entry.predecessor) == (3, 2)


def test_a_rescue_owes_a_rotation(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER)
    due = late.schedule(late.shard).rotation
    assert (due.why, due.epoch, due.generation) == ("rescue", 1, 2)


def test_a_rescue_owes_keys_that_what_lapses_with_it_never_had(late: Any) -> None:
    """It may have been given the old ones, though it never ran."""
    rescued_at = late.xyz + RESCUE_AFTER
    late.upgrade(late.shard, code=late.CODE_C, release_from=rescued_at, upgrade_at=110)
    late.blocks_until(rescued_at)
    assert statuses(late) == [RETIRED, VOID, LAPSED, ACTIVE]
    due = late.schedule(late.shard).rotation
    assert (due.why, due.generation) == ("rescue", 3)


def test_no_certificate_leads_to_a_void_or_rescuing_generation(late: Any) -> None:
    late.blocks_until(late.xyz + RESCUE_AFTER)
    root = late.frontier(late.shard).root
    for successor in (1, 2):
        with pytest.raises(CertificateError):
            late.post_certificate(
                late.shard,
                late.one,
                successor=successor,
                height=late.xyz - 1,
                root=root,
            )


def test_open_votes_of_the_voided_one_are_forgotten(world: Any) -> None:
    one, two = world.instance("one"), world.instance("two")
    news = [world.instance(n, world.CODE_B) for n in ("three", "four")]
    shard = world.born_shard(one, two, root_quorum=2)
    xyz = world.upgrade(shard, code=world.CODE_B)
    for each in news:
        world.register(shard, each)
    world.blocks_until(xyz)
    for each in (one, two):
        world.confirm(shard, each, xyz - 1, generation=0)
    world.confirm(shard, news[0], xyz, generation=1)
    world.blocks_until(xyz + RESCUE_AFTER)
    assert world.store.items(b"enclave_bridge/votes/") == []
    for each in (one, two):
        world.confirm(shard, each, xyz)
    assert world.frontier(shard).confirmed == xyz


def test_a_dispute_of_the_voided_one_does_not_bind_the_rescuer(world: Any) -> None:
    one, two = world.instance("one"), world.instance("two")
    news = [world.instance(n, world.CODE_B) for n in ("three", "four")]
    shard = world.born_shard(one, two, root_quorum=2)
    xyz = world.upgrade(shard, code=world.CODE_B)
    for each in news:
        world.register(shard, each)
    world.blocks_until(xyz)
    for each in (one, two):
        world.confirm(shard, each, xyz - 1, generation=0)
    world.confirm(shard, news[0], xyz, generation=1)
    world.confirm(shard, news[1], xyz, generation=1, root=b"x" * 32)
    world.blocks_until(xyz + RESCUE_AFTER)
    for each in (one, two):
        world.confirm(shard, each, xyz)
    assert world.frontier(shard).confirmed == xyz


def test_nothing_is_rescued_before_the_shards_birth(world: Any) -> None:
    world.shard = world.create_shard()
    xyz = world.upgrade(world.shard)
    world.blocks_until(xyz + 3 * RESCUE_AFTER)
    assert statuses(world) == [RETIRED, ACTIVE]
    schedule = world.schedule(world.shard)
    assert rescue(schedule, height=10**6, confirmed=None) == (schedule, None)


def test_rescue_when_the_old_generation_was_late_itself(world: Any) -> None:
    """Blocks before XYZ are the old one's, blocks from XYZ on the rescuer's."""
    one = world.instance("one")
    world.shard = world.born_shard(one)
    xyz = world.upgrade(world.shard)
    world.blocks_until(xyz + RESCUE_AFTER)
    assert statuses(world) == [RETIRED, VOID, ACTIVE]
    with pytest.raises(WrongGenerationError):
        world.confirm(world.shard, one, xyz, generation=2)
    world.confirm(world.shard, one, xyz - 1, generation=0)
    world.confirm(world.shard, one, world.height, generation=2)
