"""The L1 runtime's versions: who executes a block, and how the next one takes over."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import pytest

from sealift.frame import (
    BadOriginError,
    Context,
    ProofInvalidError,
    SimpleTreeStore,
    storage_key,
    verify_ics23,
)
from sealift.ledger import (
    FIRST_RUNTIME,
    NEWEST_RUNTIME,
    RUNTIME_VERSIONS,
    Ledger,
    LedgerGenesis,
    RuntimePlan,
    RuntimeVersion,
    _upgrade,
    ledger_call,
    parse_genesis,
    render_genesis,
    version_table,
)
from sealift.ledger._errors import (
    NotRootKeyError,
    RuntimeUpgradeError,
    UnknownRuntimeVersionError,
)
from sealift.ledger.v2 import SECOND_RUNTIME
from sealift.ledger.v2 import compose as compose_v2
from sealift.ledger.v2._teerex import ForgettingTeerex

#: A program of before there was a version 2.
OLD_PROGRAM = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])
AT = 30


def plan(world: Any, *, version: int = SECOND_RUNTIME, height: int = AT) -> None:
    world.as_root("system.set_code", version=version, height=height)


def replayed(
    world: Any, *, versions: Mapping[int, RuntimeVersion] = RUNTIME_VERSIONS
) -> list[bytes]:
    """App hashes of the state made again from the blocks, after each."""
    ledger = Ledger(
        genesis=world.genesis,
        store=SimpleTreeStore(),
        verifier=world.verifier,
        versions=versions,
    )
    ledger.init_chain()
    return [execute(ledger, world, height) for height in heights(world)]


def heights(world: Any, first: int = 1) -> range:
    return range(first, len(world.history) + 1)


def execute(ledger: Ledger, world: Any, height: int) -> bytes:
    block_hash, time, txs, _ = world.history[height - 1]
    done = ledger.finalize_block(
        height=height, block_hash=block_hash, time=time, proposer=b"p" * 20, txs=txs
    )
    ledger.commit()
    return done.app_hash


def roots(world: Any) -> list[bytes]:
    return [root for *_, root in world.history]


def lived(world: Any, *, until: int) -> None:
    """Registrations, votes and roots in every block, over any upgrade."""
    one, two = world.instance("one"), world.instance("two")
    shard = world.born_shard(one, two)
    if not world.read(RuntimePlan, storage_key("system", "plan")):
        plan(world)
    while world.height < until:
        if world.height % 3 == 0:
            world.register(shard, one)
        elif world.height % 3 == 1:
            world.confirm(shard, one, world.height)
        else:
            world.call("balances.transfer", dest=world.account("bob"), amount=5)


# who plans


def test_only_root_plans_and_only_what_is_newer_and_ahead(world: Any) -> None:
    with pytest.raises(BadOriginError):
        world.call("system.set_code", by="alice", version=2, height=AT)
    with pytest.raises(NotRootKeyError):
        world.call("sudo.sudo", by="alice", call=planned(2, AT))
    for version, height in ((1, AT), (0, AT), (2, world.next), (2, 0)):
        with pytest.raises(RuntimeUpgradeError):
            plan(world, version=version, height=height)
        assert world.ledger.plan is None


def planned(version: int, height: int) -> Any:
    return ledger_call("system.set_code", version=version, height=height)


def test_the_last_of_two_plans_counts(world: Any) -> None:
    plan(world, version=7, height=10)
    plan(world, height=12)
    world.blocks_until(11)
    assert world.ledger.runtime_version == FIRST_RUNTIME
    world.block()
    assert world.ledger.runtime_version == SECOND_RUNTIME


def test_a_plan_withdrawn_in_the_block_before_does_nothing(world: Any) -> None:
    plan(world, version=7, height=10)
    world.blocks_until(8)
    plan(world, version=FIRST_RUNTIME, height=0)
    assert "system.RuntimeUpgradeCancelled" in world.events()
    assert world.height == 9
    world.blocks_until(15)
    assert world.ledger.runtime_version == FIRST_RUNTIME


def test_a_plan_replaced_in_the_block_before_moves_the_height(world: Any) -> None:
    plan(world, height=10)
    world.blocks_until(8)
    plan(world, height=20)
    world.blocks_until(19)
    assert world.ledger.runtime_version == FIRST_RUNTIME
    world.block()
    assert world.ledger.runtime_version == SECOND_RUNTIME


def test_a_version_that_acts_cannot_be_planned_again(world: Any) -> None:
    plan(world, height=10)
    world.blocks_until(11)
    for version in (FIRST_RUNTIME, SECOND_RUNTIME):
        with pytest.raises(RuntimeUpgradeError):
            plan(world, version=version, height=50)


# nodes that have it not


def test_a_program_without_the_version_halts_by_name_and_loses_nothing(
    new_world: Any,
) -> None:
    undisturbed = new_world()
    lived(undisturbed, until=AT + 10)
    world = new_world(versions=OLD_PROGRAM)
    lived(world, until=AT - 1)
    assert not world.ledger.has_version(SECOND_RUNTIME)
    before = dict(world.store.items(b""))
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(UnknownRuntimeVersionError) as refused:
                world.block()
            assert f"block {AT}" in str(refused.value)
            assert f"version {SECOND_RUNTIME}" in str(refused.value)
        assert dict(world.store.items(b"")) == before
        assert world.ledger.query(storage_key("system", "plan"))[0] is not None
        world.restart()
        assert world.height == AT - 1
    world.versions = RUNTIME_VERSIONS  # the program is updated
    world.restart()
    for height in heights(undisturbed, AT):
        root = execute(world.ledger, undisturbed, height)
        assert root == undisturbed.history[height - 1][3]
    assert world.ledger.runtime_version == SECOND_RUNTIME


def test_a_program_of_before_does_not_open_a_state_of_after(world: Any) -> None:
    plan(world, height=5)
    world.blocks_until(6)
    world.versions = OLD_PROGRAM
    with pytest.raises(UnknownRuntimeVersionError):
        world.restart()
    world.versions = RUNTIME_VERSIONS
    world.restart()
    world.block()


def test_a_program_that_has_dropped_the_old_version_cannot_cross(world: Any) -> None:
    """To fall back on it, should the migration be refused, it must be there."""
    plan(world, height=5)
    world.blocks_until(4)
    world.versions = version_table(RUNTIME_VERSIONS[SECOND_RUNTIME])
    with pytest.raises(UnknownRuntimeVersionError):
        world.restart()


# the height


def test_the_new_version_begins_at_the_height_and_not_beside_it(new_world: Any) -> None:
    world = new_world()
    plan(world)
    world.blocks_until(AT - 1)
    assert world.ledger.plan == RuntimePlan(version=SECOND_RUNTIME, height=AT)
    assert (world.ledger.runtime_version, world.last.version) == (1, 1)
    assert world.store.get(storage_key("teerex", "longest_age")) is None
    world.block()
    assert (world.ledger.runtime_version, world.last.version) == (2, 2)
    assert world.last.upgraded
    assert world.ledger.plan is None
    assert world.events()[0] == "system.RuntimeUpgraded"
    assert world.store.get(storage_key("teerex", "longest_age")) is not None
    world.block()
    assert not world.last.upgraded


def test_the_first_block_of_a_version_is_lived_by_its_rules(
    new_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take-over first, then the hooks: somebody is forgotten in that very block."""
    monkeypatch.setattr("sealift.ledger.v2._teerex.FIRST_LONGEST_AGE", 10)
    world = new_world()
    one = world.instance("one")
    world.born_shard(one, config=world.config(policy={"max_age_blocks": 5}))
    plan(world)
    world.blocks_until(AT - 1)
    assert world.enclave(one) is not None
    world.block()
    assert world.events()[0] == "system.RuntimeUpgraded"
    assert "teerex.EnclaveForgotten" in world.events()
    assert world.enclave(one) is None


def test_until_the_commit_everybody_sees_the_version_before(world: Any) -> None:
    plan(world, height=10)
    world.blocks_until(9)
    tx = world.tx("balances.transfer", dest=world.account("bob"), amount=5)
    for _ in range(2):  # executed again before the commit: once more from the start
        done = world.ledger.finalize_block(
            height=10, block_hash=b"h" * 32, time=9_999, proposer=b"", txs=(tx,)
        )
        assert done.upgraded
        assert world.ledger.runtime_version == FIRST_RUNTIME
        assert world.ledger.plan is not None
        assert world.ledger.query(storage_key("teerex", "longest_age"))[0] is None

    world.ledger.commit()
    assert world.ledger.runtime_version == SECOND_RUNTIME
    assert world.ledger.query(storage_key("teerex", "longest_age"))[0] is not None


def test_a_state_made_again_from_blocks_is_the_same_at_every_height(
    new_world: Any,
) -> None:
    world = new_world()
    lived(world, until=AT + 12)
    assert world.ledger.runtime_version == SECOND_RUNTIME
    assert replayed(world) == roots(world)
    with pytest.raises(UnknownRuntimeVersionError):
        replayed(world, versions=OLD_PROGRAM)


def test_a_node_restarted_from_its_data_at_any_height_comes_to_the_same_roots(
    new_world: Any,
) -> None:
    world = new_world()
    copies: dict[int, dict[bytes, bytes]] = {}
    original = world.block

    def block(*txs: bytes) -> Any:
        results = original(*txs)
        copies[world.height] = dict(world.database)
        return results

    world.block = block  # type: ignore[method-assign]
    lived(world, until=AT + 8)
    for height in (AT - 9, AT - 2, AT - 1, AT, AT + 1, AT + 7):
        store = SimpleTreeStore()
        store.apply(copies[height])
        ledger = world.made(store)
        assert ledger.height == height
        for later in heights(world, height + 1):
            assert execute(ledger, world, later) == world.history[later - 1][3]


@pytest.mark.parametrize("off", [-1, 1])
def test_who_switches_a_block_early_or_late_is_found_out(
    new_world: Any, off: int
) -> None:
    """Its app hash is not the one in the chain's header: its proofs lead nowhere."""
    world = new_world()
    lived(world, until=AT + 3)
    with another_height(AT + off):
        wrong = Ledger(
            genesis=world.genesis, store=SimpleTreeStore(), verifier=world.verifier
        )
        wrong.init_chain()
        first = AT + min(off, 0)
        theirs = [execute(wrong, world, height) for height in range(1, first + 1)]
    ours = roots(world)[:first]
    assert theirs[:-1] == ours[:-1]
    assert theirs[-1] != ours[-1]
    key = storage_key("system", "version")
    value, proof = wrong.query(key, prove=True)
    assert proof is not None
    verify_ics23(theirs[-1], key, value, proof)
    with pytest.raises(ProofInvalidError):
        verify_ics23(ours[-1], key, value, proof)


@contextlib.contextmanager
def another_height(at: int) -> Iterator[None]:
    """A program that takes over at another block than the plan says."""
    true_plan = _upgrade.plan_in

    def off(overlay: Any) -> RuntimePlan | None:
        found = true_plan(overlay)
        return None if found is None else RuntimePlan(version=found.version, height=at)

    with mock.patch.object(_upgrade, "plan_in", off):
        yield


# migrations that fail


def with_teerex(kind: type[ForgettingTeerex]) -> Mapping[int, RuntimeVersion]:
    """A program whose version 2 has another registry."""

    def compose(verifier: Any) -> Any:
        with mock.patch("sealift.ledger.v2._runtime.ForgettingTeerex", kind):
            return compose_v2(verifier)

    return version_table(
        RUNTIME_VERSIONS[FIRST_RUNTIME],
        RuntimeVersion(number=SECOND_RUNTIME, compose=compose),
    )


class Raises(ForgettingTeerex):
    name = "teerex"

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        super().on_runtime_upgrade(ctx, from_version)
        raise ZeroDivisionError("a bug, half way")


class Loses(ForgettingTeerex):
    name = "teerex"

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        super().on_runtime_upgrade(ctx, from_version)
        self.enclaves.delete(ctx, self.queue.get(ctx, 0).signing_key)


class NoQueue(ForgettingTeerex):
    name = "teerex"

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        del from_version
        self.longest_age.put(ctx, 5_000)


class Refuses(ForgettingTeerex):
    name = "teerex"

    def pre_upgrade(self, ctx: Context) -> bytes:
        raise RuntimeUpgradeError("not this state")


class TooMuch(ForgettingTeerex):
    name = "teerex"

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        super().on_runtime_upgrade(ctx, from_version)
        ctx.charge(20 * 5_000_000)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Raises, "MigrationFailedError"),
        (Loses, "MigrationCheckError"),
        (NoQueue, "MigrationCheckError"),
        (Refuses, "MigrationCheckError"),
        (TooMuch, "MigrationFailedError"),
    ],
)
def test_a_migration_that_fails_leaves_nothing_and_the_old_version_goes_on(
    new_world: Any, kind: type[ForgettingTeerex], error: str
) -> None:
    world = new_world(versions=with_teerex(kind))
    lived(world, until=AT - 1)
    before = dict(world.store.items(b""))
    world.block()
    assert (world.last.version, world.last.upgraded) == (FIRST_RUNTIME, False)
    assert world.last.upgrade_failure is not None
    assert world.last.upgrade_failure.code == error
    assert world.events()[0] == "system.RuntimeUpgradeFailed"
    after = dict(world.store.items(b""))
    assert set(before) - set(after) == {storage_key("system", "plan")}
    every_block = storage_key("system", "block_hashes", AT.to_bytes(8, "big"))
    assert set(after) - set(before) == {every_block}
    for key, value in after.items():
        if key.startswith((b"teerex/", b"frame/")):
            assert value == before[key]
    assert world.ledger.plan is None
    lived_on = world.height + 5
    world.blocks_until(lived_on)
    assert world.ledger.runtime_version == FIRST_RUNTIME
    world.restart()
    world.block()
    plan(world, version=3, height=world.next + 5)  # a correction is the next


def test_a_failed_upgrade_is_the_same_for_whoever_makes_the_state_again(
    new_world: Any,
) -> None:
    world = new_world(versions=with_teerex(Raises))
    lived(world, until=AT + 5)
    assert replayed(world, versions=world.versions) == roots(world)


def test_a_bug_that_ends_the_process_ends_it_and_writes_nothing(world: Any) -> None:
    class Exhausted(ForgettingTeerex):
        name = "teerex"

        def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
            super().on_runtime_upgrade(ctx, from_version)
            raise MemoryError

    world.versions = with_teerex(Exhausted)
    world.restart()
    plan(world, height=6)
    world.blocks_until(5)
    before = dict(world.store.items(b""))
    with pytest.raises(MemoryError):
        world.block()
    assert dict(world.store.items(b"")) == before
    world.versions = RUNTIME_VERSIONS  # a machine with more memory
    world.restart()
    world.block()
    assert world.ledger.runtime_version == SECOND_RUNTIME


# chains that begin with a version


def test_a_chain_may_begin_with_the_newest_version(new_world: Any) -> None:
    world = new_world(runtime=NEWEST_RUNTIME)
    lived_without_plan = world.born_shard(world.instance("one"))
    assert world.enclave(world.instance("one")).statement.shard == lived_without_plan
    assert world.ledger.runtime_version == NEWEST_RUNTIME
    assert replayed(world) == roots(world)
    world.versions = OLD_PROGRAM
    with pytest.raises(UnknownRuntimeVersionError):
        world.restart()
    with pytest.raises(UnknownRuntimeVersionError):
        new_world(runtime=NEWEST_RUNTIME, versions=OLD_PROGRAM)


def test_the_genesis_of_a_first_version_is_what_it_always_was(world: Any) -> None:
    """Chains that began before versions had numbers go on."""
    assert world.genesis.runtime == FIRST_RUNTIME
    assert b"runtime" not in render_genesis(world.genesis)
    assert world.genesis.digest().hex() == (
        "53f33f59d4dc6615c36e4e1832957476440cf1c8244d2d87dcad8186e7de1043"
    )


def test_the_genesis_names_its_version(world: Any) -> None:
    later = parse_genesis(
        render_genesis(world.genesis).replace(b'"params"', b'"runtime":2,"params"')
    )
    assert isinstance(later, LedgerGenesis)
    assert later.runtime == SECOND_RUNTIME
    assert parse_genesis(render_genesis(later)) == later
    assert later.digest() != world.genesis.digest()
