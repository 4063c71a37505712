"""A bad migration is found before XYZ; what is said of it tells nothing else."""

import dataclasses
from typing import Any

import pytest
from shadow_world import Notes2, NotesStepped, Upgrade, runtime

from sealift.enclave import DivergedStateError, _rehearse, _shadow
from sealift.frame import MigrationGapError, Pallet
from sealift.protocol import EntryStatus
from sealift.protocol import ecall as e


@pytest.fixture
def upgrade() -> Upgrade:
    made = Upgrade()
    run_notice(made)
    return made


def run_notice(upgrade: Upgrade) -> None:
    """Up to the block from which keys are released."""
    while upgrade.new.status().head - 1 < upgrade.xyz - 8:
        upgrade.block()
        upgrade.hand()


def verdict(upgrade: Upgrade) -> Any:
    reply = upgrade.rehearse()
    assert isinstance(reply, e.Rehearsed), reply
    said = reply.statement
    said.verify(upgrade.new.status().signing_key, reply.signature)
    assert said.signing_key == upgrade.new.status().signing_key
    return said


def test_a_good_rehearsal_says_where_and_how_far_and_nothing_more(
    upgrade: Upgrade,
) -> None:
    state = upgrade.new.status()
    said = verdict(upgrade)
    assert (said.good, said.check) == (True, "")
    assert (said.generation, said.order) == (1, b"o" * 32)
    assert (said.upgrade_at, said.height) == (upgrade.xyz, state.state_height)
    assert said.size.bit_count() == 1
    assert said.size // 2 < state.accounts_bytes <= said.size
    assert upgrade.new.status() == state


def test_it_grows_with_the_real_blocks_that_come(upgrade: Upgrade) -> None:
    first = verdict(upgrade)
    seen = [first.blocks]
    for number in range(6):
        upgrade.block("write", at=number, text="in the shadow")
        upgrade.new.follow()
        seen.append(verdict(upgrade).blocks)
        upgrade.hand()
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] == 6
    assert verdict(upgrade).height == first.height
    root = upgrade.new.status().root
    assert root == upgrade.old.roots[upgrade.new.status().state_height]


def test_blocks_that_wait_above_the_copy_are_executed_too(upgrade: Upgrade) -> None:
    for number in range(3):
        upgrade.block("write", at=number, text="before it was asked")
    upgrade.block()
    upgrade.new.follow()
    said = verdict(upgrade)
    assert said.blocks >= 3
    assert said.height == upgrade.new.status().state_height


def test_no_more_blocks_than_the_bound(
    upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rehearse, "MAX_BLOCKS", 2)
    verdict(upgrade)
    for _ in range(5):
        upgrade.block()
        upgrade.hand()
    assert verdict(upgrade).blocks == 2
    assert upgrade.new.enclave._shard.rehearsal.store is None
    assert upgrade.new.enclave._shard.rehearsal.waiting == []


def test_asking_again_costs_nothing(
    upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = upgrade.rehearse()
    executor = upgrade.new.enclave._shard.executor
    monkeypatch.setattr(executor, "rehearse", None)
    monkeypatch.setattr(executor, "execute_block", None)
    for _ in range(3):
        assert upgrade.rehearse() == first


def test_what_was_rehearsed_leaves_no_trace_in_block_xyz(upgrade: Upgrade) -> None:
    verdict(upgrade)
    for number in range(3):
        upgrade.block("write", at=number, text=f"note {number}")
        upgrade.hand()
        verdict(upgrade)
    upgrade.to_xyz()
    other = upgrade.instance(b"other")
    other.offer(upgrade.new.export())
    upgrade.new.run()
    other.run()
    assert upgrade.new.status().state_height == upgrade.xyz
    assert upgrade.new.status().root == other.status().root
    assert upgrade.new.enclave._shard.rehearsal is None


@pytest.mark.parametrize("hook", ["pre_upgrade", "on_runtime_upgrade", "post_upgrade"])
def test_a_hook_that_refuses_is_named_and_nothing_of_the_state_is(hook: str) -> None:
    pallet = Notes2()
    pallet.fault = hook
    upgrade = Upgrade(code=runtime(2, pallet))
    run_notice(upgrade)
    said = verdict(upgrade)
    assert (said.good, said.check, said.blocks) == (False, f"notes.{hook}", 0)


def test_a_record_that_does_not_migrate_is_named_by_its_item() -> None:
    upgrade = Upgrade()
    upgrade.block("write", at=1, text="bad secret")
    upgrade.hand()
    run_notice(upgrade)
    said = verdict(upgrade)
    assert (said.good, said.check) == (False, "record:notes.notes")


def test_a_record_that_comes_later_turns_a_good_verdict_and_a_mended_one_turns_it_back(
    upgrade: Upgrade,
) -> None:
    assert verdict(upgrade).good
    upgrade.block("write", at=1, text="bad secret")
    upgrade.block()
    upgrade.hand()
    said = verdict(upgrade)
    assert (said.good, said.check) == (False, "record:notes.notes")
    assert said.height == upgrade.new.status().state_height
    upgrade.block("write", at=1, text="mended")
    upgrade.block()
    upgrade.hand()
    assert verdict(upgrade).good


def test_a_migration_that_loops_is_found() -> None:
    pallet = Notes2()
    pallet.fault = "loop"
    upgrade = Upgrade(code=runtime(2, pallet))
    run_notice(upgrade)
    set_limit(upgrade, 20_000)
    assert verdict(upgrade).check == "notes.on_runtime_upgrade"


def set_limit(upgrade: Upgrade, weight: int) -> None:
    executor = upgrade.new.enclave._shard.executor
    limits = dataclasses.replace(executor._bench.limits, migration_weight=weight)
    executor._bench = dataclasses.replace(executor._bench, limits=limits)


class GapNotes(Pallet):
    name = "notes"
    storage_version = 3


def test_code_that_does_not_take_the_state_over_is_found() -> None:
    upgrade = Upgrade(code=runtime(2, GapNotes()))
    run_notice(upgrade)
    assert verdict(upgrade).check == MigrationGapError.code


def test_a_step_that_fails_is_named() -> None:
    pallet = NotesStepped()
    upgrade = Upgrade(code=runtime(2, pallet))
    run_notice(upgrade)
    upgrade.block()
    upgrade.new.follow()
    pallet.fault = "step"
    said = verdict(upgrade)
    assert (said.good, said.check) == (False, "notes.migrate_step")


def test_a_block_that_raises_is_said_to(
    upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a secret of the state")

    upgrade.block()
    upgrade.new.follow()
    monkeypatch.setattr(upgrade.new.enclave._shard.executor, "execute_block", broken)
    said = verdict(upgrade)
    assert (said.good, said.check, said.blocks) == (False, "shadow-block", 0)


def test_what_ends_a_process_ends_it_in_a_rehearsal_too(upgrade: Upgrade) -> None:
    pallet = next(p for p in upgrade.code.pallets if isinstance(p, Notes2))
    pallet.fault = "interpreter"
    upgrade.block("fill", first=0, count=1, text="x")
    upgrade.block()
    upgrade.new.follow()
    with pytest.raises(SystemError):
        upgrade.rehearse()


def test_a_call_that_fails_is_no_reason_to_refuse_an_upgrade(upgrade: Upgrade) -> None:
    """Or any user could prevent every upgrade."""
    upgrade.block("erase", at=10_000)
    upgrade.block()
    upgrade.new.follow()
    said = verdict(upgrade)
    assert said.good
    assert said.blocks > 0


def test_before_the_notice_has_run_nothing_is_rehearsed() -> None:
    upgrade = Upgrade()
    upgrade.block()
    upgrade.hand()
    assert upgrade.shadow is not None
    answer = upgrade.rehearse()
    assert answer.reason == "not-mine"
    assert "notice" in answer.detail


def test_without_a_pending_entry_there_is_nothing_to_rehearse(upgrade: Upgrade) -> None:
    assert upgrade.rehearse(upgrade.old).reason == "not-mine"
    verdict(upgrade)
    upgrade.put(EntryStatus.CANCELLED)
    upgrade.l1.block()
    upgrade.l1.block()
    upgrade.new.follow()
    assert upgrade.rehearse().reason == "not-mine"
    assert upgrade.new.enclave._shard.rehearsal is None


def test_from_xyz_on_there_is_nothing_to_rehearse(upgrade: Upgrade) -> None:
    upgrade.to_xyz()
    assert upgrade.rehearse().reason == "not-mine"
    upgrade.new.run()
    assert upgrade.rehearse().reason == "not-mine"


def test_a_postponed_entry_is_rehearsed_again(upgrade: Upgrade) -> None:
    first = verdict(upgrade)
    upgrade.block()
    upgrade.hand()
    upgrade.xyz += 3
    upgrade.put(EntryStatus.PENDING)
    upgrade.block()
    upgrade.block()
    upgrade.hand()
    again = verdict(upgrade)
    assert again.upgrade_at == first.upgrade_at + 3
    assert again.height > first.height


def test_a_copy_that_has_moved_on_far_is_rehearsed_on_again(
    upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rehearse, "AGAIN_AFTER", 3)
    first = verdict(upgrade)
    for _ in range(4):
        upgrade.block()
        upgrade.hand()
    assert verdict(upgrade).height >= first.height + 3


def test_without_keys_or_copy_there_is_nothing_to_rehearse(upgrade: Upgrade) -> None:
    bare = upgrade.instance(b"bare")
    assert upgrade.rehearse(bare).reason == "no-state"
    held = bare.enclave._shard
    held.keys = type(held.keys)(
        **{
            name: getattr(held.keys, name)
            for name in held.keys.__struct_fields__
            if name != "epochs"
        },
        epochs=(),
    )
    assert upgrade.rehearse(bare).reason == "no-keys"


def test_while_the_shadow_is_made_it_says_so(
    upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = upgrade.instance(b"late")
    late.offer(upgrade.old.export())
    monkeypatch.setattr(_shadow, "STEP_RECORDS", 5)
    answers = [upgrade.rehearse(late) for _ in range(30)]
    assert answers[0].reason == "behind"
    assert isinstance(answers[-1], e.Rehearsed)


def test_a_copy_whose_next_block_is_not_there_any_more_waits(upgrade: Upgrade) -> None:
    upgrade.block()
    upgrade.block()
    upgrade.new.follow()
    upgrade.new.enclave._shard.queue.clear()
    assert upgrade.rehearse().reason == "behind"
    upgrade.hand()
    upgrade.block()
    upgrade.hand()
    assert verdict(upgrade).good


def test_a_void_copy_is_not_rehearsed_on(upgrade: Upgrade) -> None:
    upgrade.new.enclave._shard.state.diverged = "another root was confirmed"
    with pytest.raises(DivergedStateError):
        upgrade.rehearse()
