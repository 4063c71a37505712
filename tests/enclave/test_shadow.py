"""Records are migrated ahead of XYZ, and nobody can tell from what comes of it."""

import dataclasses
from typing import Any

import msgspec
import pytest
from enclave_world import Host, entry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shadow_world import (
    Notes,
    Notes2,
    NotesStepped,
    Upgrade,
    papers,
    reading,
    runtime,
)

from sealift.base import decode, encode
from sealift.enclave import (
    DiffForgedError,
    DiffOfOtherCodeError,
    ForeignSnapshotError,
    NotServingError,
    StateRootMismatchError,
    _shadow,
)
from sealift.enclave._diff import _opened, seal_diff
from sealift.enclave._state import DiffHeader, SealedDiff
from sealift.frame import (
    STORAGE_VERSIONS,
    MigrationCheckError,
    MigrationFailedError,
    Pallet,
    RecordMigrationError,
    Runtime,
    StorageMap,
)
from sealift.protocol import EntryStatus
from sealift.protocol import ecall as e


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shadow, "STEP_RECORDS", 3)


@pytest.fixture
def upgrade() -> Upgrade:
    return Upgrade()


def executed(host: Host, xyz: int) -> e.Executed:
    host.follow()
    done = host.execute()
    assert isinstance(done, e.Executed)
    assert done.height == xyz
    return done


def eager(upgrade: Upgrade, seed: bytes = b"late") -> Host:
    """An instance that comes right at XYZ and has no shadow."""
    host = upgrade.instance(seed)
    host.offer(upgrade.new.export())
    assert host.enclave._shard.shadow is None
    return host


def opened(host: Host, diff: bytes) -> Any:
    """What a diff seals."""
    outer = decode(SealedDiff, diff)
    header = decode(DiffHeader, outer.header)
    return _opened(host.enclave._shard.keys.epoch(header.epoch), outer, header)


def test_the_shadow_is_ready_before_xyz_and_xyz_runs_on_it(upgrade: Upgrade) -> None:
    assert upgrade.new.status().shadow is None
    upgrade.block("write", at=3, text="changed")
    upgrade.hand()
    upgrade.to_xyz()
    new = upgrade.new
    assert new.status().shadow == 100
    assert upgrade.shadow.ready
    shadow = upgrade.shadow.pages.migrated()
    executed(new, upgrade.xyz)
    assert new.enclave._shard.state.store is shadow
    assert upgrade.shadow is None
    assert papers(new) == {**dict.fromkeys(range(60), "two words"), 3: "changed"}
    assert new.status().shadow is None


def test_no_read_is_answered_from_records_that_the_old_code_left(
    upgrade: Upgrade,
) -> None:
    """XYZ is followed, and not executed: new getters, old layout."""
    upgrade.to_xyz()
    new = upgrade.new
    new.follow()
    assert new.status().state_height == upgrade.xyz - 1
    with pytest.raises(NotServingError, match="not migrated"):
        new.read()
    executed(new, upgrade.xyz)
    assert new.read().state_height == upgrade.xyz


def test_the_shadow_is_made_in_bounded_steps(
    upgrade: Upgrade, small_steps: None
) -> None:
    seen = []
    upgrade.block()
    upgrade.new.follow()
    for _ in range(40):
        upgrade.new.execute()
        seen.append(upgrade.new.status().shadow)
        if seen[-1] == 100:
            break
    assert seen[0] < 100
    assert len(seen) > 4
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_no_shadow_is_made_while_no_upgrade_to_this_code_is_ahead(
    upgrade: Upgrade,
) -> None:
    upgrade.block()
    upgrade.hand()
    assert upgrade.shadow is not None
    assert upgrade.old.enclave._shard.shadow is None
    upgrade.put(EntryStatus.CANCELLED)
    upgrade.l1.block()
    upgrade.hand()
    upgrade.l1.block()
    upgrade.hand()
    assert upgrade.shadow is None


CALLS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.integers(0, 30),
            st.sampled_from(["x", "drop", "long " * 5, "two words"]),
        ),
        st.tuples(st.just("erase"), st.integers(0, 30), st.just("")),
        st.just(("", 0, "")),
    ),
    min_size=0,
    max_size=8,
)


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=CALLS, step=st.sampled_from([1, 7, 100]), last=st.booleans())
def test_shadow_and_eager_way_give_the_same_root_receipts_and_diff(
    monkeypatch: pytest.MonkeyPatch, calls: list[Any], step: int, last: bool
) -> None:
    monkeypatch.setattr(_shadow, "STEP_RECORDS", step)
    upgrade = Upgrade(notes=25)
    for name, at, text in calls:
        args = {"at": at, "text": text} if name == "write" else {"at": at}
        upgrade.block(name, **(args if name else {}))
        upgrade.hand(upto=upgrade.xyz - 1)
    while upgrade.l1.height < upgrade.xyz - 1:
        upgrade.block()
        upgrade.hand()
    upgrade.block("write", at=2, text="first of the new")
    if last:
        upgrade.block("write", at=4, text="second of the new")
    upgrade.to_xyz()
    other = eager(upgrade)
    assert upgrade.shadow is not None
    one, two = executed(upgrade.new, upgrade.xyz), executed(other, upgrade.xyz)
    assert upgrade.new.status().root == other.status().root
    assert [r.leaf() for r in one.receipts] == [r.leaf() for r in two.receipts]
    assert opened(upgrade.new, one.diff) == opened(other, two.diff)
    assert papers(upgrade.new) == papers(other)


def test_the_eager_way_inside_the_executor_is_the_same_too(upgrade: Upgrade) -> None:
    """The path of those who have a state without pages."""
    upgrade.to_xyz()
    state = upgrade.new.enclave._shard.state
    executor = upgrade.new.enclave._shard.executor
    taken = _shadow.take_over(None, executor, state)
    height, time = state.height + 1, state.time
    ahead = executor.rehearse(taken.store, height=height, time=time, before=state.store)
    at_once = executor.rehearse(state.store, height=height, time=time)
    assert ahead.report == at_once.report
    one, two = taken.store.copy(), state.store.copy()
    one.apply(ahead.changes)
    two.apply(at_once.changes)
    assert one.root() == two.root()
    assert len(ahead.changes) < 10 < len(at_once.changes)


def test_the_diff_of_xyz_does_not_hold_the_rewritten_records() -> None:
    upgrade = Upgrade(notes=2000)
    upgrade.to_xyz()
    done = executed(upgrade.new, upgrade.xyz)
    assert 0 < len(done.diff) < 4000
    assert decode(DiffHeader, decode(SealedDiff, done.diff).header).format == 2


def test_ordinary_diffs_are_those_of_the_earlier_release(upgrade: Upgrade) -> None:
    upgrade.to_xyz()
    executed(upgrade.new, upgrade.xyz)
    upgrade.block()
    after = upgrade.new.run()
    assert isinstance(after, e.Idle)
    formats = {
        height: decode(DiffHeader, decode(SealedDiff, diff).header).format
        for height, diff in (upgrade.old.diffs | upgrade.new.diffs).items()
    }
    assert formats.pop(upgrade.xyz) == 2
    assert set(formats.values()) == {1}


@pytest.mark.parametrize("follows", [True, False])
def test_a_restart_from_a_snapshot_before_xyz_comes_to_the_same_root(
    upgrade: Upgrade, follows: bool
) -> None:
    """Its own diffs, from disk; with or without a schedule that is ahead."""
    upgrade.new.snapshot = upgrade.snapshot
    upgrade.to_xyz()
    upgrade.new.diffs |= {
        height: diff
        for height, diff in upgrade.old.diffs.items()
        if height < upgrade.xyz
    }
    executed(upgrade.new, upgrade.xyz)
    upgrade.block("write", at=1, text="later")
    upgrade.block()
    upgrade.new.run()
    root, height = upgrade.new.status().root, upgrade.new.status().state_height
    assert height > upgrade.xyz
    if not follows:
        upgrade.new.checkpoint = None
    upgrade.new.restart()
    assert upgrade.new.status().state_height == height
    assert upgrade.new.status().root == root
    assert papers(upgrade.new)[1] == "later"
    upgrade.block()
    upgrade.new.run()
    assert upgrade.new.status().state_height > height


@pytest.mark.parametrize("when", ["executed", "durable"])
def test_a_kill_at_xyz_comes_back_to_the_same_root(upgrade: Upgrade, when: str) -> None:
    upgrade.new.snapshot = upgrade.snapshot
    upgrade.to_xyz()
    upgrade.new.diffs |= {
        height: diff
        for height, diff in upgrade.old.diffs.items()
        if height < upgrade.xyz
    }
    checkpoint = upgrade.new.checkpoint
    executed(upgrade.new, upgrade.xyz)
    root = upgrade.new.status().root
    if when == "executed":  # killed before anything of it was on the disk
        del upgrade.new.diffs[upgrade.xyz]
        upgrade.new.checkpoint = checkpoint
    upgrade.new.restart()
    upgrade.new.run()
    assert upgrade.new.status().state_height == upgrade.xyz
    assert upgrade.new.status().root == root


def test_another_instance_of_the_generation_applies_the_diff(upgrade: Upgrade) -> None:
    upgrade.to_xyz()
    other = eager(upgrade)
    other.follow()
    done = executed(upgrade.new, upgrade.xyz)
    other.call(e.DiffApply(diff=done.diff))
    assert other.status().root == upgrade.new.status().root
    assert papers(other) == papers(upgrade.new)


class OtherNotes2(Notes2):
    """Code of the same versions that migrates otherwise."""

    name = "notes"
    record_migrations = tuple(
        type(one).renamed("notes", from_version=1, to="papers")
        for one in Notes2.record_migrations
    )


class NextNotes(Pallet):
    name = "notes"
    storage_version = 3
    migrates_from = 1
    papers = StorageMap("papers", key=bytes, value=bytes)
    record_migrations = tuple(
        type(one).dropped("notes", from_version=1) for one in Notes2.record_migrations
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (runtime(1), DiffOfOtherCodeError),
        (runtime(3, NextNotes()), DiffOfOtherCodeError),
        (
            Runtime(name="other", version=2, pallets=runtime(2).pallets),
            DiffOfOtherCodeError,
        ),
        (runtime(2, OtherNotes2()), StateRootMismatchError),
    ],
)
def test_other_code_refuses_the_diff_by_name_and_keeps_its_state(
    upgrade: Upgrade, code: Runtime, error: type[Exception]
) -> None:
    upgrade.to_xyz()
    other = upgrade.instance(b"strange", runtime=code)
    other.offer(upgrade.new.export())
    done = executed(upgrade.new, upgrade.xyz)
    before = other.status()
    for _ in range(2):
        with pytest.raises(error):
            other.call(e.DiffApply(diff=done.diff))
        after = other.status()
        assert (after.root, after.state_height) == (before.root, before.state_height)
        store = other.enclave._shard.state.store
        assert Notes.notes.of("notes").items(runtime(1).context(*reading(store)))


def test_code_that_has_nothing_to_migrate_refuses_such_a_diff(
    upgrade: Upgrade,
) -> None:
    """The old code, which may have to rescue: it stays where it is."""
    upgrade.to_xyz()
    done = executed(upgrade.new, upgrade.xyz)
    before = upgrade.old.status()
    with pytest.raises(DiffOfOtherCodeError):
        upgrade.old.call(e.DiffApply(diff=done.diff))
    assert upgrade.old.status() == before


def test_the_shadow_survives_a_forged_diff_of_xyz(upgrade: Upgrade) -> None:
    upgrade.to_xyz()
    other = eager(upgrade)
    done = executed(other, upgrade.xyz)
    outer = decode(SealedDiff, done.diff)
    header = decode(DiffHeader, outer.header)
    for change in ({"format": 1}, {"salt": bytes(32)}):
        forged = encode(msgspec.structs.replace(header, **change))
        with pytest.raises(DiffForgedError):
            upgrade.new.call(
                e.DiffApply(diff=encode(msgspec.structs.replace(outer, header=forged)))
            )
    strange = encode(msgspec.structs.replace(header, format=9))
    with pytest.raises(ForeignSnapshotError):
        upgrade.new.call(
            e.DiffApply(diff=encode(msgspec.structs.replace(outer, header=strange)))
        )
    assert upgrade.shadow.ready
    upgrade.new.call(e.DiffApply(diff=done.diff))
    assert upgrade.new.status().root == other.status().root


def test_a_diff_that_leads_elsewhere_spoils_neither_state_nor_shadow(
    upgrade: Upgrade,
) -> None:
    upgrade.to_xyz()
    other = eager(upgrade)
    done = executed(other, upgrade.xyz)
    keys = other.enclave._shard.keys
    migrated, changes = opened(other, done.diff)
    trail = other.enclave._shard.state.trail[-1]
    bent = seal_diff(
        keys,
        0,
        trail,
        {**changes, b"notes/total/": b"\x01"},
        entropy=other.entropy,
        migrated=migrated,
    )
    before = upgrade.new.status().root
    with pytest.raises(StateRootMismatchError):
        upgrade.new.call(e.DiffApply(diff=bent))
    assert upgrade.new.status().root == before
    executed(upgrade.new, upgrade.xyz)
    assert upgrade.new.status().root == other.status().root


@pytest.mark.parametrize("shadowed", [True, False])
def test_a_record_that_does_not_migrate_refuses_xyz_by_name_and_rescue_is_possible(
    shadowed: bool,
) -> None:
    upgrade = Upgrade()
    upgrade.block("write", at=5, text="bad secret")
    upgrade.to_xyz()
    host = upgrade.new if shadowed else eager(upgrade)
    host.follow()
    before = host.status()
    for _ in range(2):
        with pytest.raises(RecordMigrationError) as caught:
            host.execute()
        assert "notes.notes" in str(caught.value)
        assert "secret" not in str(caught.value)
    assert host.status() == before
    rescuer = entry(
        2, b"A" * 32, upgrade.xyz, upgrade_at=upgrade.xyz + 4, predecessor=0
    )
    upgrade.put(EntryStatus.VOID, rescuer, old="retired")
    upgrade.l1.block()
    upgrade.l1.block()
    upgrade.old.run()
    assert upgrade.old.status().state_height == upgrade.l1.height - 1


def test_a_record_that_is_mended_before_xyz_is_no_obstacle() -> None:
    upgrade = Upgrade()
    upgrade.block("write", at=5, text="bad secret")
    upgrade.hand()
    upgrade.block()
    upgrade.hand()
    upgrade.block()
    upgrade.hand()
    assert upgrade.shadow.pages.refusal is not None
    upgrade.block("write", at=5, text="good")
    upgrade.to_xyz()
    other = eager(upgrade)
    executed(upgrade.new, upgrade.xyz)
    executed(other, upgrade.xyz)
    assert upgrade.new.status().root == other.status().root


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("pre_upgrade", MigrationCheckError),
        ("on_runtime_upgrade", MigrationFailedError),
        ("post_upgrade", MigrationCheckError),
        ("loop", MigrationFailedError),
    ],
)
def test_a_hook_that_refuses_or_loops_leaves_state_and_shadow(
    fault: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    pallet = Notes2()
    upgrade = Upgrade(code=runtime(2, pallet))
    light(upgrade.new, monkeypatch)
    upgrade.to_xyz()
    upgrade.new.follow()
    before = upgrade.new.status()
    pallet.fault = fault
    for _ in range(2):
        with pytest.raises(error) as caught:
            upgrade.new.execute()
        assert "secret" not in str(caught.value)
    assert upgrade.new.status() == before
    pallet.fault = ""
    executed(upgrade.new, upgrade.xyz)


def light(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a loop reaches soon."""
    executor = host.enclave._shard.executor
    limits = dataclasses.replace(executor._bench.limits, migration_weight=5000)
    bench = dataclasses.replace(executor._bench, limits=limits)
    monkeypatch.setattr(executor, "_bench", bench)


def test_memory_pressure_in_a_record_ends_the_process() -> None:
    upgrade = Upgrade()
    upgrade.block("write", at=5, text="starve")
    with pytest.raises(MemoryError):
        upgrade.to_xyz()


def test_a_shadow_of_a_state_that_was_replaced_is_made_anew(upgrade: Upgrade) -> None:
    upgrade.block()
    upgrade.hand()
    upgrade.new.execute()
    first = upgrade.shadow.pages
    upgrade.block("write", at=7, text="from the snapshot")
    upgrade.block()
    upgrade.old.run()
    upgrade.new.offer(upgrade.old.export())
    upgrade.to_xyz()
    assert upgrade.shadow.pages is not first
    executed(upgrade.new, upgrade.xyz)
    assert papers(upgrade.new)[7] == "from the snapshot"


def test_a_shadow_for_another_passage_is_not_used(upgrade: Upgrade) -> None:
    """The state came to another version while the shadow was there."""
    upgrade.block()
    upgrade.hand()
    assert upgrade.shadow is not None
    state = upgrade.new.enclave._shard.state
    key = STORAGE_VERSIONS.key("notes")
    state.store.apply({key: b"\x02"})
    executor = upgrade.new.enclave._shard.executor
    assert _shadow.kept(upgrade.shadow, executor, state) is None
    assert _shadow.take_over(upgrade.shadow, executor, state) is None


# --- migrations of many blocks ---


def test_a_stepped_migration_reads_right_in_between_and_after_a_restart() -> None:
    upgrade = Upgrade(code=runtime(2, NotesStepped()), notes=200)
    upgrade.new.snapshot = upgrade.snapshot
    upgrade.block("write", at=199, text="last")
    upgrade.to_xyz()
    upgrade.new.diffs |= {
        height: diff
        for height, diff in upgrade.old.diffs.items()
        if height < upgrade.xyz
    }
    other = eager(upgrade, b"other")
    upgrade.old.runtime = upgrade.code  # users see the new one's calls
    left = []
    for number in range(12):
        at = [0, 70, 140, 199][number % 4]
        upgrade.block("check", at=at, text="last" if at == 199 else "two words")
        upgrade.new.run()
        other.run()
        assert other.status().root == upgrade.new.status().root
        store = upgrade.new.enclave._shard.state.store
        left.append(len(store.items(b"notes/notes/")))
        if number == 1:
            upgrade.new.restart()
            upgrade.new.run()
            assert other.status().root == upgrade.new.status().root
    upgrade.block()
    upgrade.new.run()
    outcomes = [upgrade.new.opened(r).outcome for r in upgrade.new.receipts]
    assert outcomes
    assert set(outcomes) == {"ok"}
    assert left[0] > left[1] > 0
    assert left[-1] == 0


def test_a_stepped_migration_has_ordinary_diffs() -> None:
    upgrade = Upgrade(code=runtime(2, NotesStepped()))
    upgrade.to_xyz()
    other = eager(upgrade, b"other")
    for _ in range(5):
        upgrade.block()
    upgrade.new.run()
    other.follow()
    for height in sorted(upgrade.new.diffs):
        other.call(e.DiffApply(diff=upgrade.new.diffs[height]))
    assert other.status().root == upgrade.new.status().root
