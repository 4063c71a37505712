"""Who runs a block: ``config_at`` against a model that plays history forward."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sealift.crypto import sha256
from sealift.protocol import (
    EntryStatus,
    EpochKeysPublic,
    KeyEpoch,
    NoEpochError,
    NoGenerationError,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SudoAuthority,
    accepted_epochs,
    config_at,
    epoch_at,
    next_upgrade,
)

MODEST = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)
RAN = {EntryStatus.ACTIVE, EntryStatus.RETIRED}
AT = 40


def entry(generation: int, since: int, status: EntryStatus, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "generation": generation,
        "predecessor": generation - 1 if generation else None,
        "config": ShardConfig(code={"insecure-sim": sha256(bytes([generation]))}),
        "order": bytes(32),
        "recorded_at": 1,
        "release_from": 2,
        "upgrade_at": since,
        "since": since,
        "status": status,
    }
    return ScheduleEntry(**(values | changes))


def schedule(*entries: ScheduleEntry) -> Schedule:
    return Schedule(
        chain_id="c",
        shard=b"S" * 32,
        rules=ShardRules(
            authority=SudoAuthority(key=b"a" * 32),
            genesis=bytes(32),
            min_notice=1,
            rescue_after=5,
        ),
        serial=0,
        entries=entries,
        status=ShardStatus(),
    )


@st.composite
def schedules(draw: Any) -> Schedule:
    """Any statuses and any heights, not only those that a ledger would make."""
    count = draw(st.integers(0, 5))
    return schedule(
        *(
            entry(
                generation,
                draw(st.integers(0, AT)),
                draw(st.sampled_from(EntryStatus)),
                upgrade_at=draw(st.integers(0, AT)),
            )
            for generation in range(count)
        )
    )


def play(history: Schedule) -> dict[int, int]:
    """The model: walk the blocks, and let later generations take over for good."""
    runs: dict[int, int] = {}
    current: int | None = None
    for height in range(AT + 5):
        for each in history.entries:
            begins = each.status in RAN and each.since == height
            if begins and (current is None or each.generation > current):
                current = each.generation
        if current is not None:
            runs[height] = current
    return runs


@MODEST
@given(history=schedules())
def test_invariant_1_one_generation_for_a_block(history: Schedule) -> None:
    runs = play(history)
    for height in range(AT + 5):
        if height in runs:
            assert config_at(history, height).generation == runs[height]
        else:
            with pytest.raises(NoGenerationError):
                config_at(history, height)


@MODEST
@given(history=schedules(), order=st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_matter(history: Schedule, order: Any) -> None:
    assume(play(history))
    entries = list(history.entries)
    order.shuffle(entries)
    shuffled = msgspec.structs.replace(history, entries=tuple(entries))
    assert config_at(shuffled, AT) == config_at(history, AT)


@MODEST
@given(history=schedules(), first=st.integers(0, AT), second=st.integers(0, AT))
def test_generations_never_go_back(history: Schedule, first: int, second: int) -> None:
    low, high = sorted((first, second))
    assume(low in play(history))
    later = config_at(history, high).generation
    assert config_at(history, low).generation <= later


@MODEST
@given(history=schedules(), height=st.integers(0, AT))
def test_pending_and_withdrawn_entries_never_run(
    history: Schedule, height: int
) -> None:
    assume(height in play(history))
    assert config_at(history, height).status in RAN


def test_a_rescued_shard_runs_old_code_under_a_new_number() -> None:
    history = schedule(
        entry(0, 1, EntryStatus.RETIRED),
        entry(1, 20, EntryStatus.VOID),
        entry(2, 20, EntryStatus.ACTIVE, upgrade_at=25),
    )
    assert [config_at(history, h).generation for h in (1, 19, 20, 24, 25)] == [
        0,
        0,
        2,
        2,
        2,
    ]


def test_before_its_birth_nobody_runs_a_shard() -> None:
    with pytest.raises(NoGenerationError):
        config_at(schedule(entry(0, 5, EntryStatus.ACTIVE)), 4)


def test_an_entry_by_its_number() -> None:
    history = schedule(
        entry(0, 1, EntryStatus.ACTIVE), entry(1, 9, EntryStatus.PENDING)
    )
    assert history.entry(1).since == 9
    with pytest.raises(NoGenerationError):
        history.entry(2)


@MODEST
@given(history=schedules(), height=st.integers(0, AT))
def test_the_next_upgrade_is_the_soonest_pending_one(
    history: Schedule, height: int
) -> None:
    ahead = sorted(
        each.upgrade_at
        for each in history.entries
        if each.status is EntryStatus.PENDING and each.upgrade_at > height
    )
    found = next_upgrade(history, height)
    if not ahead:
        assert found is None
    else:
        assert found is not None
        assert found.upgrade_at == ahead[0]
        assert found.status is EntryStatus.PENDING


def test_an_upgrade_at_this_very_height_is_not_ahead() -> None:
    history = schedule(entry(1, 9, EntryStatus.PENDING))
    assert next_upgrade(history, 8) is not None
    assert next_upgrade(history, 9) is None


@MODEST
@given(history=schedules(), serial=st.integers(0, 9))
def test_the_digest_sees_every_change(history: Schedule, serial: int) -> None:
    changed = msgspec.structs.replace(history, serial=serial)
    assert (changed.digest() == history.digest()) == (serial == history.serial)


# --- key epochs ---


def epoch(number: int, valid_from: int, *, grace: int = 0) -> KeyEpoch:
    return KeyEpoch(
        epoch=number,
        keys=EpochKeysPublic(
            shielding_key=sha256(b"shielding %d" % number),
            state_key_commitment=sha256(b"state %d" % number),
            root_key_commitment=sha256(b"root %d" % number),
        ),
        valid_from=valid_from,
        grace=grace,
    )


def with_epochs(*epochs: KeyEpoch) -> Schedule:
    base = schedule(entry(0, 1, EntryStatus.ACTIVE))
    return msgspec.structs.replace(base, epochs=epochs)


def test_an_unborn_shard_has_no_keys() -> None:
    with pytest.raises(NoEpochError):
        epoch_at(with_epochs(), 5)
    with pytest.raises(NoEpochError):
        epoch_at(with_epochs(epoch(0, 6)), 5)
    assert accepted_epochs(with_epochs(epoch(0, 6)), 5) == ()


def test_the_grace_of_an_epoch_begins_with_it_and_ends() -> None:
    found = with_epochs(epoch(0, 1), epoch(1, 10, grace=3))
    taken = {height: accepted_epochs(found, height) for height in range(8, 15)}
    assert taken[9] == (0,)
    assert taken[10] == taken[12] == (0, 1)
    assert taken[13] == (1,)


@MODEST
@given(
    steps=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=5),
    height=st.integers(0, 40),
)
def test_one_epoch_makes_a_block_and_at_most_one_more_is_taken(
    steps: Any, height: int
) -> None:
    """Never an epoch that does not act yet, nor one whose successor's is over."""
    epochs, at = [epoch(0, 2)], 2
    for step, grace in steps:
        at += step
        epochs.append(epoch(len(epochs), at, grace=grace))
    found = with_epochs(*epochs)
    acting = [one.epoch for one in epochs if one.valid_from <= height]
    if not acting:
        assert accepted_epochs(found, height) == ()
        return
    current = epoch_at(found, height)
    assert current.epoch == acting[-1]
    taken = accepted_epochs(found, height)
    assert taken[-1] == current.epoch
    in_grace = height < current.valid_from + current.grace and current.epoch > 0
    assert taken == ((current.epoch - 1, current.epoch) if in_grace else taken[-1:])
