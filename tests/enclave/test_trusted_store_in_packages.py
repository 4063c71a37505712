"""What a provider hands over of its relay: a header and the set that it announced."""

from typing import Any

import msgspec
import pytest
from enclave_world import World

from sealift.base import AccountId, decode
from sealift.enclave import _sessions as module
from sealift.enclave._sessions import SessionInstance
from sealift.provisioning import EntitledEpochs
from sealift.relay import HeaderNotKeptError, RelayCheckpoint, validators_hash


def checkpoint(world: World, height: int) -> RelayCheckpoint:
    shard: Any = world.host.enclave._shard
    instance = SessionInstance(shard, (), AccountId(bytes(32)))
    schedule = world.l1.ledger.shown()
    assert schedule is not None
    package = instance.key_package(
        checkpoint_at=height,
        entitled=EntitledEpochs(acting=schedule.epochs, staged=None),
    )
    return decode(RelayCheckpoint, package.checkpoint)


@pytest.fixture
def grown(world: World) -> World:
    world.host.run()
    world.confirm()
    world.host.run()
    return world


def test_header_and_validators_of_the_challenges_height(grown: World) -> None:
    head = grown.host.enclave._shard.relay.head.height
    for height in (head, head - 2):
        store = checkpoint(grown, height)
        assert store.header.height == height
        assert store.next_validators is not None
        digest = validators_hash(store.next_validators)
        assert digest == store.header.next_validators_hash
        assert store.evidence is None


def test_a_set_that_fits_no_frame_stays_out(
    grown: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SET_IN_PACKAGE", 0)
    head = grown.host.enclave._shard.relay.head.height
    assert checkpoint(grown, head).next_validators is None


def test_a_header_that_is_not_remembered(grown: World) -> None:
    head = grown.host.enclave._shard.relay.head.height
    with pytest.raises(HeaderNotKeptError):
        checkpoint(grown, head + 1)
    assert msgspec.structs.asdict(checkpoint(grown, head))["evidence"] is None
