"""An authority of one shard must not be a burden to all the others."""

import msgspec
from notebook import runtime

from sealift.base import AccountId, encode
from sealift.ledger._errors import ScheduleFullError
from sealift.ledger._orders import MAX_SCHEDULE_BYTES, record_cancel, record_upgrade
from sealift.protocol import CancelOrder, Schedule, ShardConfig, UpgradeOrder
from sealift.testing import World

HEIGHT = 100


def planned_and_cancelled(schedule: Schedule, config: ShardConfig) -> Schedule:
    common = {"chain_id": schedule.chain_id, "shard": schedule.shard, "expiry": HEIGHT}
    order = UpgradeOrder(
        serial=schedule.serial,
        predecessor=0,
        config=config,
        release_from=HEIGHT + 10,
        upgrade_at=HEIGHT + 20,
        **common,
    )
    planned = record_upgrade(schedule, order, height=HEIGHT)
    last = planned.entries[-1].generation
    cancel = CancelOrder(serial=planned.serial, generation=last, **common)
    return record_cancel(planned, cancel)[0]


def if_there_is_room(schedule: Schedule, config: ShardConfig) -> Schedule | None:
    try:
        return planned_and_cancelled(schedule, config)
    except ScheduleFullError:
        return None


def test_cancelled_entries_cannot_pile_up_in_every_block_of_the_chain(
    world: World,
) -> None:
    """Only entries that stand ahead are counted; the dead stay for ever.

    Each block decodes, encodes, hashes and commits to every shard's schedule, and
    an enclave that has to have 4 MiB proven follows no more.
    """
    operators = tuple(AccountId(i.to_bytes(32, "big")) for i in range(400))
    config = msgspec.structs.replace(
        world.config(world.release(runtime())), operators=operators
    )
    schedule = world.schedule_now()
    most = MAX_SCHEDULE_BYTES // len(encode(config))
    taken = 0
    while (after := if_there_is_room(schedule, config)) is not None:
        schedule, taken = after, taken + 1
        assert taken <= most
    assert taken > 10
    assert len(encode(schedule)) < MAX_SCHEDULE_BYTES
