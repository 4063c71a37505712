"""What is next about keys: nothing is asked, made or said out of turn."""

import pytest
from doubles import (
    CODE,
    ME,
    due,
    entry,
    epoch,
    frontier,
    record,
    schedule,
    staged,
    status,
)
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import AccountId, Epoch, Fingerprint, Height
from sealift.protocol import EntryStatus, Schedule
from sealift.worker._epochs import (
    KeyView,
    Step,
    held_epochs,
    is_live,
    next_step,
    rank_of,
)

OTHER = AccountId(b"\x0c" * 32)
ELSE = Fingerprint(b"\x0e" * 32)
NEXT = entry(1, since=100, status=EntryStatus.PENDING, release_from=Height(50))
RETIRED = entry(0, status=EntryStatus.RETIRED)


def view(what: Schedule, *held: int, imported: int = 10, **changes: object) -> KeyView:
    fields: dict[str, object] = {
        "schedule": what,
        "frontier": frontier(),
        "imported": Height(imported),
        "code": CODE,
        "me": ME,
        "held": frozenset(held),
        **changes,
    }
    return KeyView(**fields)


def test_while_nothing_is_owed_nothing_is_done() -> None:
    assert next_step(view(schedule(), 0)) is Step.WAIT


def test_before_the_birth_nothing_is_done() -> None:
    unborn = schedule(epochs=(), rotation=due())
    assert next_step(view(unborn, frontier=None)) is Step.WAIT
    assert next_step(view(unborn)) is Step.WAIT


def test_a_due_rotation_is_staged_by_the_code_that_runs() -> None:
    assert next_step(view(schedule(rotation=due()), 0)) is Step.STAGE


@pytest.mark.parametrize(
    "changes",
    [
        {"code": ELSE},
        {"frontier": None},
    ],
)
def test_others_than_the_running_code_do_not_stage(changes: dict[str, object]) -> None:
    assert next_step(view(schedule(rotation=due()), 0, **changes)) is Step.WAIT


def test_the_old_generation_does_not_make_what_the_new_one_shall_have() -> None:
    new = entry(1, since=5, code=ELSE)
    owed = schedule(entries=(RETIRED, new), rotation=due(why="upgrade", generation=1))
    assert next_step(view(owed, 0)) is Step.WAIT
    assert next_step(view(owed, 0, code=ELSE)) is Step.WAIT  # confirmed nothing yet
    confirmed = frontier(9, generation=1)
    assert next_step(view(owed, 0, code=ELSE, frontier=confirmed)) is Step.STAGE


def test_code_whose_frontier_is_its_predecessors_waits() -> None:
    """It runs the newest block, and blocks before its own are unconfirmed."""
    new = entry(1, since=8, code=ELSE)
    owed = schedule(entries=(RETIRED, new), rotation=due())
    late = view(owed, 0, code=ELSE, frontier=frontier(5))
    assert next_step(late) is Step.WAIT


def test_what_another_staged_is_fetched_then_acknowledged_once() -> None:
    there = schedule(staged=staged(1, OTHER))
    assert next_step(view(there, 0)) is Step.FETCH
    assert next_step(view(there, 0, 1)) is Step.HOLD
    done = schedule(staged=staged(1, OTHER, ME))
    assert next_step(view(done, 0, 1)) is Step.WAIT


def test_who_staged_it_and_forgot_it_fetches_it_back() -> None:
    there = schedule(staged=staged(1, ME, OTHER))
    assert next_step(view(there, 0)) is Step.FETCH


def test_a_staged_epoch_of_a_later_generation_is_not_asked_for_by_the_old() -> None:
    new = entry(1, since=5, code=ELSE)
    there = schedule(
        entries=(RETIRED, new), staged=staged(1, OTHER, generation=1, why="upgrade")
    )
    assert next_step(view(there, 0)) is Step.WAIT
    assert next_step(view(there, 0, code=ELSE)) is Step.FETCH


def test_the_acting_epoch_comes_first() -> None:
    there = schedule(epochs=(epoch(0), epoch(1, 5)), staged=staged(2, OTHER))
    lacking = view(there, 0)
    assert lacking.lacking == (1,)
    assert next_step(lacking) is Step.FETCH
    assert next_step(view(there, 0, 1)) is Step.FETCH  # now the staged one
    assert next_step(view(there, 0, 1, 2)) is Step.HOLD


def test_retired_code_neither_asks_for_keys_nor_is_it_ill_without() -> None:
    new = entry(1, since=5, code=ELSE)
    there = schedule(entries=(RETIRED, new), epochs=(epoch(0), epoch(1, 6)))
    old = view(there, 0)
    assert next_step(old) is Step.WAIT
    assert not old.lacking
    assert view(there, 0, code=ELSE).lacking == (1,)


def test_before_its_notice_has_run_the_next_code_does_not_ask() -> None:
    ahead = entry(
        1, since=100, code=ELSE, status=EntryStatus.PENDING, release_from=Height(50)
    )
    there = schedule(entries=(entry(), ahead), epochs=(epoch(0), epoch(1, 6)))
    assert next_step(view(there, imported=49, code=ELSE)) is Step.WAIT
    assert next_step(view(there, imported=50, code=ELSE)) is Step.FETCH


@pytest.mark.parametrize(
    "kind", [EntryStatus.CANCELLED, EntryStatus.LAPSED, EntryStatus.VOID]
)
def test_withdrawn_code_does_not_ask(kind: EntryStatus) -> None:
    gone = entry(1, since=5, code=ELSE, status=kind)
    there = schedule(entries=(entry(), gone), epochs=(epoch(0), epoch(1, 6)))
    assert next_step(view(there, code=ELSE)) is Step.WAIT


def test_held_are_those_that_act_and_the_one_for_later() -> None:
    acting = (Epoch(0), Epoch(1))
    assert held_epochs(status(epochs=acting)) == {0, 1}
    assert held_epochs(status(epochs=acting, staged=Epoch(2))) == {0, 1, 2}


def test_an_epoch_whose_calls_are_still_taken_is_needed_too() -> None:
    there = schedule(epochs=(epoch(0), epoch(1, 9)))
    grace = view(there, 1, missing=frozenset({0}))
    assert grace.lacking == (0,)
    assert next_step(grace) is Step.FETCH


def test_code_that_comes_next_gets_what_is_staged_and_says_nothing_yet() -> None:
    """L1 takes the word of the running generation only, and the fee of all."""
    ahead = entry(
        1, since=100, code=ELSE, status=EntryStatus.PENDING, release_from=Height(5)
    )
    there = schedule(entries=(entry(), ahead), staged=staged(1, OTHER))
    assert next_step(view(there, 0, code=ELSE)) is Step.FETCH
    assert next_step(view(there, 0, 1, code=ELSE)) is Step.WAIT
    assert next_step(view(there, 0, 1)) is Step.HOLD


def test_keys_of_a_stager_that_died_are_given_up_where_l1_gives_them_up() -> None:
    there = schedule(staged=staged(1, OTHER), rotation=due())  # staged at 5
    alive = {"frontier": frontier(54)}
    assert next_step(view(there, 0, imported=54, **alive)) is Step.FETCH
    late = view(there, 0, imported=55, **alive)
    assert next_step(late) is Step.STAGE
    assert next_step(late, give_up=False) is Step.FETCH
    holder = schedule(staged=staged(1, OTHER, ME), rotation=due())
    assert next_step(view(holder, 0, 1, imported=55, **alive)) is Step.WAIT


def test_turns_are_all_different_and_others_in_each_epoch() -> None:
    keys = frozenset(AccountId(bytes([n]) * 32) for n in range(8))
    firsts = set()
    for number in range(40):
        ranks = {key: rank_of(key, keys, epoch=number) for key in keys}
        assert sorted(ranks.values()) == list(range(8))
        firsts.add(min(ranks, key=ranks.__getitem__))
    assert len(firsts) > 4


def test_who_knows_nobody_else_is_the_first() -> None:
    assert rank_of(ME, frozenset(), epoch=1) == 0
    assert rank_of(ME, frozenset({ME}), epoch=1) == 0


def test_an_instance_counts_while_its_attestation_does() -> None:
    limit = entry().config.attestation.max_age_blocks
    there = schedule()
    assert is_live(record(), there, Height(limit))
    assert not is_live(record(), there, Height(limit + 2))
    assert not is_live(record(fingerprint=ELSE), there, Height(10))
    old = schedule(entries=(RETIRED, entry(1, since=5, code=ELSE)))
    assert is_live(record(), old, Height(10))  # it holds the keys still
    gone = schedule(entries=(entry(0, status=EntryStatus.VOID),))
    assert not is_live(record(), gone, Height(10))


@given(
    held=st.frozensets(st.integers(0, 4), max_size=4),
    stage=st.one_of(st.none(), st.integers(1, 4)),
    owed=st.booleans(),
    imported=st.integers(1, 200),
    code=st.sampled_from([CODE, ELSE]),
)
def test_keys_are_made_only_where_none_are_staged_or_they_are_given_up(
    held: frozenset[int], stage: int | None, owed: bool, imported: int, code: bytes
) -> None:
    there = schedule(
        entries=(entry(), NEXT),
        staged=None if stage is None else staged(stage, OTHER),
        rotation=due() if owed else None,
    )
    step = next_step(view(there, *held, imported=imported, code=code))
    if step is Step.STAGE:
        assert owed or stage is not None
        assert stage is None or imported >= 55
        assert 0 in held
    if step is Step.HOLD:
        assert stage in held
