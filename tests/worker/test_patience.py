"""Pauses between tries: minutes where each costs fees, moments where none does."""

from hypothesis import given
from hypothesis import strategies as st

from sealift.worker._patience import FIRST_SECONDS, Pauses


def test_what_never_reaches_l1_is_tried_again_within_seconds() -> None:
    pauses = Pauses()
    assert [pauses.after(paid=False) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]


def test_a_peer_that_is_away_is_asked_again_at_once() -> None:
    pauses = Pauses()
    took = {pauses.after(paid=False, reached_nobody=True) for _ in range(50)}
    assert took == {FIRST_SECONDS}


def test_what_costs_fees_is_tried_again_after_minutes() -> None:
    pauses = Pauses()
    took = [pauses.after(paid=True, reached_nobody=True) for _ in range(12)]
    assert took[:4] == [1, 2, 4, 8]
    assert took[8:] == [256, 256, 256, 256]


def test_one_free_failure_in_between_does_not_make_it_cheap_again() -> None:
    pauses = Pauses()
    for _ in range(9):
        pauses.after(paid=True)
    assert pauses.after(paid=False, reached_nobody=True) == 256


@given(tries=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200))
def test_no_history_makes_a_pause_endless_or_none(
    tries: list[tuple[bool, bool]],
) -> None:
    pauses = Pauses()
    for paid, away in tries:
        assert 0.5 <= pauses.after(paid=paid, reached_nobody=away) <= 256
