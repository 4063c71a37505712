"""Orders, notice, promotion: decisions don't replay, nor act in secret."""

from typing import Any

import pytest

from sealift.base import encode
from sealift.crypto import sha256
from sealift.frame import BadOriginError
from sealift.ledger import ledger_call, shard_id_of
from sealift.ledger._errors import (
    CancelTooLateError,
    FloorLoweredError,
    InsufficientFundsError,
    NoticeError,
    NotPendingError,
    OrderExpiredError,
    OrderForeignError,
    OrderSerialError,
    OrderSignatureError,
    PredecessorError,
    ScheduleFullError,
    ShardLimitError,
    ShardMaintenanceError,
    ShardRulesError,
    UnknownShardError,
)
from sealift.ledger._orders import (
    MAX_PENDING,
    MAX_SCHEDULE_BYTES,
    owe_rotation,
    record_upgrade,
)
from sealift.ledger._rotation import activate, stage
from sealift.ledger._succession import promote
from sealift.protocol import (
    EntryStatus,
    EpochKeysPublic,
    HandoverPolicy,
    NoGenerationError,
    config_at,
)

PENDING, ACTIVE, RETIRED, CANCELLED, LAPSED, VOID = EntryStatus


@pytest.fixture
def ready(world: Any) -> Any:
    """A shard, not yet born: schedules don't need keys."""
    world.shard = world.create_shard()
    return world


def statuses(world: Any) -> Any:
    return [entry.status for entry in world.schedule(world.shard).entries]


def running(world: Any, height: Any = None) -> Any:
    height = world.height if height is None else height
    return config_at(world.schedule(world.shard), height).generation


# birth of a schedule


def test_a_shard_runs_its_first_generation_from_the_next_block(ready: Any) -> None:
    created = ready.height
    schedule = ready.schedule(ready.shard)
    assert ready.record(ready.shard) is None
    with pytest.raises(NoGenerationError):
        config_at(schedule, created)
    ready.block()
    record = ready.record(ready.shard)
    assert (record.height, record.generation) == (created + 1, 0)


def test_a_shards_id_does_not_follow_from_its_code(new_world: Any) -> None:
    ids = set()
    for code in (b"A" * 32, b"B" * 32):
        world = new_world()
        ids.add(world.create_shard(world.config(code)))
    assert len(ids) == 1
    world = new_world()
    assert world.create_shard() != world.create_shard()
    assert shard_id_of("x", b"a" * 32, 0) != shard_id_of("y", b"a" * 32, 0)


def test_an_order_in_the_block_of_the_creation_writes_no_record_yet(
    world: Any,
) -> None:
    twin = world.create_shard()
    shard = shard_id_of("test-chain", world.account("alice"), 1)
    template = world.status_order(twin, min_isv_svn=1)
    order = world.signed(world.replace(template, shard=shard))
    arguments = {"rules": world.rules(), "config": world.config()}
    results = world.block(
        world.tx("enclave_bridge.create_shard", **arguments),
        world.tx("enclave_bridge.submit_order", order=order),
    )
    assert [result.ok for result in results] == [True, True]
    assert world.record(shard) is None
    world.block()
    assert world.record(shard).generation == 0
    assert world.schedule(shard).status.min_isv_svn == 1


def test_shards_cost_and_are_limited(new_world: Any) -> None:
    world = new_world(shard_price=10**9)
    with pytest.raises(InsufficientFundsError):
        world.create_shard()
    world = new_world(shard_price=5, max_shards=2)
    world.create_shard()
    world.create_shard()
    with pytest.raises(ShardLimitError):
        world.create_shard()


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        ({"codes": {}}, {}),
        ({"codes": {"my-platform": b"A" * 32}}, {}),
        ({"policy": {"accepted_tcb_statuses": ()}}, {}),
        ({"policy": {"accepted_tcb_statuses": ("Revoked",)}}, {}),
        ({"policy": {"rejected_advisories": ("x" * 20_000,)}}, {}),
        ({"max_instances": 1}, {"root_quorum": 2}),
        ({}, {"root_quorum": 1000}),
        ({}, {"rescue_after": 2**30}),
    ],
)
def test_rules_that_no_shard_could_live_by_are_refused(
    world: Any, config: Any, rules: Any
) -> None:
    with pytest.raises(ShardRulesError):
        world.create_shard(world.config(**config), **rules)


# the record


def test_the_record_is_written_in_every_block_and_names_the_schedule_beside_it(
    ready: Any,
) -> None:
    for _ in range(3):
        ready.block()
        record = ready.record(ready.shard)
        assert record.height == ready.height
        assert record.schedule == ready.schedule(ready.shard).digest()
    ready.upgrade(ready.shard)
    record = ready.record(ready.shard)
    assert record.height == ready.height
    assert record.schedule == ready.schedule(ready.shard).digest()


def test_the_record_of_block_xyz_names_the_new_generation(ready: Any) -> None:
    xyz = ready.upgrade(ready.shard)
    ready.blocks_until(xyz - 1)
    assert ready.record(ready.shard).generation == 0
    ready.block()
    assert ready.record(ready.shard).generation == 1
    assert "enclave_bridge.GenerationActivated" in ready.events()
    assert statuses(ready) == [RETIRED, ACTIVE]
    assert [running(ready, h) for h in (xyz - 1, xyz)] == [0, 1]


# what an order must be


def test_an_upgrade_order_is_recorded_whole(ready: Any) -> None:
    order = ready.upgrade_order(ready.shard)
    ready.submit(order)
    schedule = ready.schedule(ready.shard)
    entry = schedule.entries[-1]
    assert (entry.generation, entry.predecessor, entry.status) == (1, 0, PENDING)
    assert (entry.config, entry.order) == (order.config, order.digest())
    assert entry.recorded_at == ready.height
    assert (entry.release_from, entry.upgrade_at) == (
        order.release_from,
        order.upgrade_at,
    )
    assert entry.since == order.upgrade_at
    assert schedule.serial == 1


def test_nobody_but_the_authority_decides(ready: Any) -> None:
    """peers: one registered enclave schedules any upgrade at once."""
    order = ready.upgrade_order(ready.shard, release_from=50, upgrade_at=60)
    for name in ("alice", "operator", "root"):
        with pytest.raises(OrderSignatureError):
            ready.submit(order, signed_by=name)
    ready.submit(order, by="bob")  # anybody may carry it


def test_root_has_no_say_in_a_shard(ready: Any) -> None:
    order = ready.signed(ready.upgrade_order(ready.shard))
    inner = ledger_call("enclave_bridge.submit_order", order=order)
    with pytest.raises(BadOriginError):
        ready.call("sudo.sudo", by="root", call=inner)


@pytest.mark.parametrize("field", ["config", "upgrade_at", "release_from", "serial"])
def test_a_signed_order_cannot_be_altered(ready: Any, field: Any) -> None:
    order = ready.upgrade_order(ready.shard)
    signed = ready.signed(order)
    others = {
        "config": ready.config(ready.CODE_C),
        "upgrade_at": order.upgrade_at + 1,
        "release_from": order.release_from + 1,
        "serial": 1,
    }
    altered = ready.replace(order, **{field: others[field]})
    with pytest.raises(OrderSignatureError):
        ready.call(
            "enclave_bridge.submit_order", order=ready.replace(signed, order=altered)
        )


def test_invariant_11_a_decision_does_not_replay(ready: Any) -> None:
    order = ready.upgrade_order(ready.shard)
    ready.submit(order)
    with pytest.raises(OrderSerialError):
        ready.submit(order)


def test_invariant_11_a_decision_does_not_replay_after_a_cancel(ready: Any) -> None:
    order = ready.upgrade_order(ready.shard)
    ready.submit(order)
    cancel = ready.cancel_order(ready.shard, 1)
    ready.submit(cancel)
    with pytest.raises(OrderSerialError):
        ready.submit(order)
    with pytest.raises(OrderSerialError):
        ready.submit(cancel)


def test_invariant_11_a_decision_does_not_count_on_another_shard_or_chain(
    ready: Any,
) -> None:
    other = ready.create_shard()
    order = ready.upgrade_order(ready.shard)
    foreign = ready.replace(order, chain_id="other-chain")
    with pytest.raises(OrderForeignError):
        ready.submit(foreign)
    moved = ready.replace(ready.signed(order), order=ready.replace(order, shard=other))
    with pytest.raises(OrderSignatureError):
        ready.call("enclave_bridge.submit_order", order=moved)
    with pytest.raises(UnknownShardError):
        ready.submit(ready.replace(order, shard=b"n" * 32))


def test_an_order_signed_before_another_act_is_overtaken(ready: Any) -> None:
    early = ready.upgrade_order(ready.shard)
    ready.submit(ready.status_order(ready.shard, min_isv_svn=1))
    with pytest.raises(OrderSerialError):
        ready.submit(early)


def test_a_kept_order_expires(ready: Any) -> None:
    order = ready.upgrade_order(
        ready.shard, expiry=ready.height + 3, release_from=100, upgrade_at=101
    )
    ready.blocks_until(ready.height + 3)
    with pytest.raises(OrderExpiredError):
        ready.submit(order)


def test_an_order_counts_in_the_block_of_its_expiry(ready: Any) -> None:
    ready.submit(ready.upgrade_order(ready.shard, expiry=ready.next))


def test_notice_is_enforced_to_the_block(ready: Any) -> None:
    """peers: an upgrade at once."""
    earliest = ready.next + 5
    with pytest.raises(NoticeError):
        ready.upgrade(ready.shard, release_from=earliest - 1, upgrade_at=earliest + 9)
    earliest = ready.next + 5
    with pytest.raises(NoticeError):
        ready.upgrade(ready.shard, release_from=earliest, upgrade_at=earliest)
    earliest = ready.next + 5
    ready.upgrade(ready.shard, release_from=earliest, upgrade_at=earliest + 1)


def test_an_order_for_no_code_is_refused(ready: Any) -> None:
    with pytest.raises(ShardRulesError):
        ready.upgrade(ready.shard, config=ready.config(codes={}))


def test_an_order_names_the_last_standing_generation(ready: Any) -> None:
    ready.upgrade(ready.shard, release_from=50, upgrade_at=60)
    with pytest.raises(PredecessorError):
        ready.upgrade(ready.shard, predecessor=0, release_from=70, upgrade_at=80)
    with pytest.raises(PredecessorError):
        ready.upgrade(ready.shard, predecessor=7, release_from=70, upgrade_at=80)
    ready.upgrade(ready.shard, release_from=70, upgrade_at=80)


def test_entries_ahead_are_strictly_ascending(ready: Any) -> None:
    ready.upgrade(ready.shard, release_from=50, upgrade_at=60)
    for upgrade_at in (59, 60):
        with pytest.raises(NoticeError):
            ready.upgrade(ready.shard, release_from=40, upgrade_at=upgrade_at)
    ready.upgrade(ready.shard, release_from=40, upgrade_at=61)


def test_a_schedule_cannot_be_stuffed(ready: Any) -> None:
    for number in range(MAX_PENDING):
        ready.upgrade(ready.shard, release_from=50, upgrade_at=60 + number)
    with pytest.raises(ScheduleFullError):
        ready.upgrade(ready.shard, release_from=50, upgrade_at=100)


def test_a_thousand_upgrades_are_refused_in_time_and_wedge_nothing(
    ready: Any,
) -> None:
    """Upgrades end by name while there is room for all that is owed still."""
    one = ready.instance("one")
    ready.collateral()
    ready.register(ready.shard, one)
    ready.publish_key(ready.shard, one)
    schedule = ready.schedule(ready.shard)
    order = ready.upgrade_order(ready.shard)
    height = ready.height

    def rotated(schedule: Any, why: Any) -> Any:
        """The rotation that is owed, staged and acting."""
        schedule = owe_rotation(
            schedule,
            why,
            generation=schedule.entries[-1].generation,
            not_before=0,
            grace=0,
        )
        epoch = schedule.rotation.epoch
        public = EpochKeysPublic(
            shielding_key=sha256(b"s%d" % epoch),
            state_key_commitment=sha256(b"c%d" % epoch),
            root_key_commitment=sha256(b"r%d" % epoch),
        )
        schedule = stage(
            schedule, public, schedule.rotation, signing_key=one.key, height=height
        )
        schedule, acting = activate(schedule, {one.key}, height=height)
        assert acting is not None
        return schedule

    def upgraded(schedule: Any) -> Any:
        """One generation more, decided and running, with keys of its own."""
        nonlocal height
        release = height + schedule.rules.longest_notice
        following = ready.replace(
            order,
            serial=schedule.serial,
            predecessor=schedule.entries[-1].generation,
            release_from=release,
            upgrade_at=release + 1,
        )
        after = record_upgrade(schedule, following, height=height)
        height = release + 1
        after, promoted = promote(after, height=height)
        assert promoted == after.entries[-1].generation
        return rotated(after, "upgrade")

    refused = 0
    for _ in range(1_000):
        try:
            schedule = upgraded(schedule)
        except ScheduleFullError:
            refused += 1
    assert 0 < refused < 900
    for _ in range(50):  # vulnerability days go on
        schedule = rotated(schedule, "order")
    assert config_at(schedule, height) == schedule.entries[-1]
    assert len(encode(schedule)) <= MAX_SCHEDULE_BYTES


def test_several_entries_ahead_run_one_after_the_other(ready: Any) -> None:
    first = ready.upgrade(ready.shard, code=ready.CODE_B)
    second = ready.upgrade(
        ready.shard, code=ready.CODE_C, release_from=first, upgrade_at=first + 2
    )
    seen = {}
    while ready.height < second + 1:
        ready.block()
        seen[ready.height] = ready.record(ready.shard).generation
        assert statuses(ready).count(ACTIVE) == 1
    assert [seen[h] for h in (first - 1, first, second - 1, second)] == [0, 1, 1, 2]


# cancels


def test_a_cancelled_upgrade_never_runs(ready: Any) -> None:
    xyz = ready.upgrade(ready.shard)
    ready.submit(ready.cancel_order(ready.shard, 1))
    ready.blocks_until(xyz + 2)
    assert statuses(ready) == [ACTIVE, CANCELLED]
    assert running(ready) == 0


def test_a_cancel_counts_in_the_last_block_before_xyz(ready: Any) -> None:
    xyz = ready.upgrade(ready.shard)
    ready.blocks_until(xyz - 2)
    ready.submit(ready.cancel_order(ready.shard, 1))
    assert ready.height == xyz - 1
    ready.block()
    assert ready.record(ready.shard).generation == 0


def test_a_cancel_in_block_xyz_is_too_late(ready: Any) -> None:
    xyz = ready.upgrade(ready.shard)
    ready.blocks_until(xyz - 1)
    with pytest.raises(CancelTooLateError):
        ready.submit(ready.cancel_order(ready.shard, 1))
    assert ready.height == xyz
    assert running(ready) == 1


def test_what_runs_or_is_dead_cannot_be_cancelled(ready: Any) -> None:
    with pytest.raises(CancelTooLateError):
        ready.submit(ready.cancel_order(ready.shard, 0))
    ready.upgrade(ready.shard)
    ready.submit(ready.cancel_order(ready.shard, 1))
    with pytest.raises(NotPendingError):
        ready.submit(ready.cancel_order(ready.shard, 1))
    with pytest.raises(NoGenerationError):
        ready.submit(ready.cancel_order(ready.shard, 9))


def test_a_cancelled_predecessor_takes_its_successors_along(ready: Any) -> None:
    first = ready.upgrade(ready.shard, code=ready.CODE_B)
    last = ready.upgrade(ready.shard, release_from=first, upgrade_at=first + 5)
    ready.upgrade(ready.shard, release_from=last, upgrade_at=last + 5)
    ready.submit(ready.cancel_order(ready.shard, 1))
    assert statuses(ready) == [ACTIVE, CANCELLED, LAPSED, LAPSED]
    ready.blocks_until(last + 6)
    assert running(ready) == 0


def test_generation_numbers_are_not_used_twice(ready: Any) -> None:
    ready.upgrade(ready.shard)
    ready.submit(ready.cancel_order(ready.shard, 1))
    ready.upgrade(ready.shard)
    entry = ready.schedule(ready.shard).entries[-1]
    assert (entry.generation, entry.predecessor) == (2, 0)


def test_a_cancel_after_release_owes_a_rotation(world: Any) -> None:
    shard = world.born_shard(world.instance("one"))
    xyz = world.upgrade(shard, release_from=world.next + 5, upgrade_at=world.next + 20)
    world.blocks_until(xyz - 10)
    world.submit(world.cancel_order(shard, 1))
    due = world.schedule(shard).rotation
    assert (due.why, due.epoch, due.generation) == ("cancel", 1, 0)
    assert "enclave_bridge.GenerationCancelled" in world.events()


def test_a_cancel_before_release_costs_nothing(world: Any) -> None:
    shard = world.born_shard(world.instance("one"))
    world.upgrade(shard)
    world.submit(world.cancel_order(shard, 1))
    assert world.schedule(shard).rotation is None


def test_an_upgrade_owes_the_new_generations_own_keys(world: Any) -> None:
    shard = world.born_shard(world.instance("one"))
    world.blocks_until(world.upgrade(shard))
    due = world.schedule(shard).rotation
    assert (due.why, due.epoch, due.generation) == ("upgrade", 1, 1)


def test_an_upgrade_that_passes_every_secret_owes_nothing(world: Any) -> None:
    passing = HandoverPolicy(shielding="pass", state="pass", root="pass")
    shard = world.born_shard(world.instance("one"), handover=passing)
    world.blocks_until(world.upgrade(shard))
    assert world.schedule(shard).rotation is None


def test_a_shard_without_keys_owes_no_other_ones(ready: Any) -> None:
    ready.blocks_until(ready.upgrade(ready.shard))
    assert ready.schedule(ready.shard).rotation is None


def test_a_due_entry_of_another_predecessor_lapses(ready: Any) -> None:
    """Cannot come about by orders; the rule stands in promotion all the same."""
    ready.upgrade(ready.shard)
    schedule = ready.schedule(ready.shard)
    orphan = ready.replace(schedule.entries[-1], predecessor=7)
    crafted = ready.replace(schedule, entries=(schedule.entries[0], orphan))
    after, promoted = promote(crafted, height=orphan.upgrade_at)
    assert promoted is None
    assert [entry.status for entry in after.entries] == [ACTIVE, LAPSED]


# status


def test_floors_only_rise(ready: Any) -> None:
    ready.submit(ready.status_order(ready.shard, min_isv_svn=3))
    with pytest.raises(FloorLoweredError):
        ready.submit(ready.status_order(ready.shard, min_isv_svn=2))
    ready.submit(
        ready.status_order(ready.shard, min_isv_svn=3, min_tcb_evaluation_number=9)
    )
    with pytest.raises(FloorLoweredError):
        ready.submit(ready.status_order(ready.shard, min_isv_svn=4))


def test_floors_raised_in_one_block_do_not_fall_in_the_same(ready: Any) -> None:
    first = ready.status_order(ready.shard, min_isv_svn=5)
    second = ready.replace(
        ready.status_order(ready.shard, min_isv_svn=4), serial=first.serial + 1
    )
    results = ready.block(
        *(
            ready.tx("enclave_bridge.submit_order", order=ready.signed(order))
            for order in (first, second)
        )
    )
    assert [result.error for result in results] == ["", "FloorLoweredError"]
    ready.block()
    assert ready.schedule(ready.shard).status.min_isv_svn == 5


def test_a_status_acts_from_the_next_block(world: Any) -> None:
    one = world.instance("one")
    shard = world.born_shard(one)
    world.block()
    order = world.signed(world.status_order(shard, mode="maintenance"))
    call = {"shard": shard, "ciphertext": b"sealed"}
    results = world.block(
        world.tx("enclave_bridge.submit_order", order=order),
        world.tx("enclave_bridge.invoke", **call),
    )
    assert [result.ok for result in results] == [True, True]
    assert world.schedule(shard).status.mode == "normal"
    world.call("enclave_bridge.invoke", **call)  # it may be somebody's way out
    with pytest.raises(ShardMaintenanceError):
        world.call(
            "enclave_bridge.shield_funds",
            shard=shard,
            beneficiary=b"b" * 32,
            amount=1,
        )
    world.confirm(shard, one, world.height)  # what is final is still confirmed
    world.submit(world.status_order(shard, mode="normal"))
    world.call("enclave_bridge.invoke", **call)


def test_maintenance_touches_no_entry(ready: Any) -> None:
    ready.upgrade(ready.shard)
    before = ready.schedule(ready.shard).entries
    ready.submit(ready.status_order(ready.shard, mode="maintenance"))
    ready.block()
    assert ready.schedule(ready.shard).entries == before
