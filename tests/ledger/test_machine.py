"""Any order of orders, confirmations, joins and silence keeps the invariants."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sealift.base import SealiftError
from sealift.protocol import EntryStatus, NoGenerationError, config_at

DEAD = (EntryStatus.CANCELLED, EntryStatus.LAPSED, EntryStatus.VOID)
#: From each status, the only ones that may follow.
FOLLOWS = {
    EntryStatus.PENDING: {*DEAD, EntryStatus.ACTIVE, EntryStatus.PENDING}
    - {EntryStatus.VOID},
    EntryStatus.ACTIVE: {EntryStatus.ACTIVE, EntryStatus.RETIRED, EntryStatus.VOID},
    # a rescue retires the predecessor it revives as a new generation
    EntryStatus.RETIRED: {EntryStatus.RETIRED, EntryStatus.VOID},
    **{status: {status} for status in DEAD},
}


def machine_for(new_world: Any) -> Any:
    """A machine over the world of the tests."""

    class ShardMachine(RuleBasedStateMachine):
        """One shard, three codes, an authority, an attacker who replays."""

        @initialize()
        def begin(self) -> None:
            self.world = new_world()
            world = self.world
            codes = (world.CODE_A, world.CODE_B, world.CODE_C)
            self.instances = {code: world.instance(code.hex(), code) for code in codes}
            self.shard = world.born_shard(self.instances[world.CODE_A], rescue_after=4)
            self.acts = []
            self.serials = set()
            self.ran = {}
            self.records = {}
            self.before = world.schedule(self.shard)
            self.confirmed = world.frontier(self.shard)
            self.watch()

        def watch(self) -> None:
            """Check after every block, not only after every rule."""
            run = self.world.block

            def block(*txs: bytes) -> Any:
                results = run(*txs)
                self.check()
                return results

            self.world.block = block

        def attempt(self, act: Any) -> bool:
            try:
                act()
            except SealiftError:
                return False
            return True

        @rule(
            code=st.sampled_from("ABC"),
            wait=st.sampled_from([0, 1, 3, 20]),
            run=st.integers(1, 3),
            predecessor=st.none() | st.integers(0, 4),
        )
        def upgrade(self, code: Any, wait: Any, run: Any, predecessor: Any) -> None:
            world = self.world
            release = world.next + 5 + wait
            fields = {} if predecessor is None else {"predecessor": predecessor}
            order = world.upgrade_order(
                self.shard,
                code=code.encode() * 32,
                release_from=release,
                upgrade_at=release + run,
                **fields,
            )
            self.act(order)

        @rule(generation=st.integers(0, 6))
        def cancel(self, generation: Any) -> None:
            self.act(self.world.cancel_order(self.shard, generation))

        @rule(mode=st.sampled_from(["normal", "maintenance"]))
        def set_status(self, mode: Any) -> None:
            self.act(self.world.status_order(self.shard, mode=mode))

        def act(self, order: Any) -> None:
            """An accepted act's serial was never used before."""
            if self.attempt(lambda: self.world.submit(order)):
                assert order.serial not in self.serials
                self.serials.add(order.serial)
                self.acts.append(order)

        @precondition(lambda self: self.acts)
        @rule(data=st.data())
        def replay(self, data: Any) -> None:
            """Invariant 11."""
            order = data.draw(st.sampled_from(self.acts))
            assert not self.attempt(lambda: self.world.submit(order))

        @rule(code=st.sampled_from("ABC"))
        def join(self, code: Any) -> None:
            """Registering and touching never change the schedule's decisions."""
            world, instance = self.world, self.instances[code.encode() * 32]
            serial = world.schedule(self.shard).serial
            self.attempt(lambda: world.register(self.shard, instance))
            touch = {"shard": self.shard, "signing_key": instance.key}
            name = "enclave_bridge.touch_shard"
            self.attempt(lambda: world.call(name, by="operator", **touch))
            assert world.schedule(self.shard).serial == serial

        @rule(back=st.integers(0, 6), code=st.sampled_from("ABC"))
        def confirm(self, back: Any, code: Any) -> None:
            world, instance = self.world, self.instances[code.encode() * 32]
            last = world.height - back
            try:
                generation = config_at(world.schedule(self.shard), last).generation
            except NoGenerationError:
                return
            self.attempt(
                lambda: world.confirm(self.shard, instance, last, generation=generation)
            )

        @rule()
        def catch_up(self) -> None:
            """Honest workers: attested, each confirms the blocks of its own."""
            world = self.world
            for instance in self.instances.values():
                self.attempt(lambda each=instance: world.register(self.shard, each))
            first, head = world.frontier(self.shard).confirmed + 1, world.height
            for height in range(first, head + 1):
                entry = config_at(world.schedule(self.shard), height)
                last = height == head
                following = config_at(world.schedule(self.shard), height + 1)
                if not last and following.generation == entry.generation:
                    continue
                instance = self.instances[entry.config.code["insecure-sim"]]
                generation = entry.generation
                self.attempt(
                    lambda h=height, g=generation, each=instance: world.confirm(
                        self.shard, each, h, generation=g
                    )
                )

        @rule(count=st.integers(1, 6))
        def wait(self, count: Any) -> None:
            for _ in range(count):
                self.world.block()

        @rule()
        def restart(self) -> None:
            self.world.restart()
            assert self.world.ledger.app_hash == self.world.app_hash

        @invariant()
        def check(self) -> None:
            if not hasattr(self, "world"):
                return
            world = self.world
            schedule = world.schedule(self.shard)
            self.check_entries(schedule)
            self.check_history(schedule)
            record = world.record(self.shard)
            assert record.height == world.height
            running = config_at(schedule, world.height)
            assert record.generation == running.generation
            assert running.status is EntryStatus.ACTIVE
            assert record.schedule == schedule.digest()
            self.before = schedule

        def check_entries(self, schedule: Any) -> None:
            generations = [entry.generation for entry in schedule.entries]
            assert generations == list(range(len(generations)))
            statuses = [entry.status for entry in schedule.entries]
            assert statuses.count(EntryStatus.ACTIVE) == 1
            assert schedule.serial >= self.before.serial
            for old, new in zip(self.before.entries, schedule.entries, strict=False):
                assert world_equal(old, new)
                assert new.status in FOLLOWS[old.status]
            pending = [e for e in schedule.entries if e.status is EntryStatus.PENDING]
            times = [entry.upgrade_at for entry in pending]
            assert times == sorted(set(times))
            standing = (EntryStatus.PENDING, EntryStatus.ACTIVE)
            for entry in pending:
                assert schedule.entry(entry.predecessor).status in standing
                assert entry.upgrade_at > self.world.height
                assert (
                    entry.recorded_at + schedule.rules.min_notice
                    <= entry.release_from
                    < entry.upgrade_at
                )

        def check_history(self, schedule: Any) -> None:
            """Invariants 1 and 2: what ran stays, but for unconfirmed rescues."""
            frontier = self.world.frontier(self.shard)
            assert frontier.confirmed >= self.confirmed.confirmed
            for height in range(self.confirmed.confirmed + 1, frontier.confirmed + 1):
                self.ran.setdefault(height, config_at(schedule, height).generation)
            self.confirmed = frontier
            for height, generation in self.ran.items():
                assert config_at(schedule, height).generation == generation
            voided = {
                e.generation for e in schedule.entries if e.status is EntryStatus.VOID
            }
            self.records[self.world.height] = self.world.record(self.shard).generation
            for height, generation in self.records.items():
                now = config_at(schedule, height).generation
                if now != generation:
                    assert generation in voided
                    assert height > frontier.confirmed or height in self.ran

    return ShardMachine


def world_equal(old: Any, new: Any) -> bool:
    """Whether two versions of an entry differ in nothing but their status."""
    fields = set(type(old).__struct_fields__) - {"status"}
    return all(getattr(old, field) == getattr(new, field) for field in fields)


def test_invariants_1_2_and_11_hold_under_any_order_of_acts(new_world: Any) -> None:
    run_state_machine_as_test(
        machine_for(new_world),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.campaign
def test_invariants_1_2_and_11_hold_in_a_long_campaign(new_world: Any) -> None:
    run_state_machine_as_test(
        machine_for(new_world),
        settings=settings(
            max_examples=15,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
