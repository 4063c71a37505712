"""The rules of epochs by themselves: over many schedules and key stores."""

from typing import Any

import msgspec
import pytest
from enclave_world import CHAIN, CODE_A, SHARD, entry, schedule
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import encode
from sealift.crypto import sha256
from sealift.enclave import (
    KeysContradictedError,
    NoKeysError,
    ScheduleNotBroughtError,
    WrongEpochError,
)
from sealift.enclave._epochs import (
    check_epoch,
    epoch_of,
    missing_epochs,
    secrets_of,
    settle_epochs,
    staged_here,
    taken_epochs,
    with_package,
)
from sealift.enclave._keystore import KeyStore
from sealift.enclave._view import ChainView, follow_view
from sealift.protocol import (
    EpochKeys,
    Frontier,
    KeyEpoch,
    KeyPackage,
    RotationDue,
    Schedule,
    ScheduleRecord,
    StagedEpoch,
    record_key,
    rotation_demand,
    schedule_key,
)
from sealift.provisioning import epoch_public


def keys(number: int, salt: bytes = b"") -> EpochKeys:
    made = [sha256(name + bytes([number]) + salt) for name in (b"h", b"s", b"r")]
    return EpochKeys(
        epoch=number, shielding_secret=made[0], state_key=made[1], root_key=made[2]
    )


def store(*epochs: EpochKeys, **changes: Any) -> KeyStore:
    return KeyStore(
        chain_id=CHAIN,
        shard=SHARD,
        seed=b"s" * 32,
        hpke_seed=b"h" * 32,
        tls_public=b"",
        tls_secret=b"",
        epochs=epochs,
        **changes,
    )


def acting(*starts: int, grace: int = 3, **changes: Any) -> Schedule:
    epochs = tuple(
        KeyEpoch(
            epoch=number,
            keys=epoch_public(keys(number)),
            valid_from=start,
            grace=grace if number else 0,
        )
        for number, start in enumerate(starts)
    )
    return schedule(entry(0, CODE_A, 1), epochs=epochs, **changes)


def due(number: int, **changes: Any) -> RotationDue:
    fields: dict[str, Any] = {
        "epoch": number,
        "why": "order",
        "generation": 0,
        "not_before": 0,
        "grace": 3,
    }
    return RotationDue(**(fields | changes))


def staged(one: EpochKeys) -> StagedEpoch:
    return StagedEpoch(
        epoch=one.epoch,
        keys=epoch_public(one),
        due=due(one.epoch),
        staged_at=1,
        holders=(),
    )


def package(*epochs: EpochKeys) -> KeyPackage:
    return KeyPackage(
        epochs=epochs,
        checkpoint=b"",
        schedule=bytes(32),
        frontier=Frontier(confirmed=1, root=bytes(32), generation=0),
    )


def view(shown: Schedule | None, height: int) -> ChainView:
    return ChainView(height=height, time=0, schedule=shown)


#: First blocks of up to five epochs.
STARTS = st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted)


class TestHeights:
    @given(starts=STARTS, grace=st.integers(0, 10))
    def test_one_epoch_a_block_and_never_an_earlier_one_again(
        self, starts: list[int], grace: int
    ) -> None:
        shown = acting(*starts, grace=grace)
        numbers = [epoch_of(shown, height) for height in range(60)]
        assert numbers == sorted(numbers)
        for height, number in enumerate(numbers):
            taken = taken_epochs(shown, height)
            if height < starts[0]:
                assert (number, taken) == (0, ())
            else:
                assert number == taken[-1]
                assert len(taken) <= 2

    @given(starts=STARTS, held=st.sets(st.integers(0, 4)), height=st.integers(0, 60))
    def test_without_a_key_that_a_block_needs_it_is_missing(
        self, starts: list[int], held: set[int], height: int
    ) -> None:
        shown = acting(*starts)
        mine = store(*(keys(number) for number in sorted(held)))
        lacking = missing_epochs(mine, shown, height)
        needed = {epoch_of(shown, height), *taken_epochs(shown, height)}
        assert set(lacking) == needed - held

    def test_before_any_schedule_there_is_the_first_epoch(self) -> None:
        assert epoch_of(None, 7) == 0
        assert taken_epochs(None, 7) == ()
        assert missing_epochs(store(), None, 7) == (0,)

    @given(
        starts=STARTS,
        head=st.integers(0, 60),
        height=st.integers(0, 60),
        said=st.integers(0, 5),
    )
    def test_what_is_followed_has_one_epoch_what_is_ahead_no_lower_one(
        self, starts: list[int], head: int, height: int, said: int
    ) -> None:
        shown = acting(*starts)
        right = epoch_of(shown, height)
        fits = said == right or (height > head and said > right)
        if fits:
            check_epoch(view(shown, head), said, height, what="diff")
        else:
            with pytest.raises(WrongEpochError):
                check_epoch(view(shown, head), said, height, what="diff")

    def test_the_next_epochs_keys_at_a_height_of_the_last(self) -> None:
        with pytest.raises(WrongEpochError):
            check_epoch(view(acting(1, 20), 30), 1, 19, what="diff")
        check_epoch(view(acting(1, 20), 30), 1, 20, what="diff")


class TestSettling:
    def test_staged_keys_that_act_become_the_shards(self) -> None:
        mine = store(keys(0), staged=keys(1), demand=b"d" * 32)
        done = settle_epochs(mine, acting(1, 20))
        assert done.epochs == (keys(0), keys(1))
        assert (done.staged, done.demand) == (None, None)

    def test_others_under_their_number_never_were(self) -> None:
        mine = store(keys(0), staged=keys(1, b"mine"), demand=b"d" * 32)
        done = settle_epochs(mine, acting(1, 20))
        assert (done.epochs, done.staged) == ((keys(0),), None)

    @pytest.mark.parametrize(
        "shown",
        [
            None,
            acting(1),
            acting(1, staged=staged(keys(1))),
            acting(1, staged=staged(keys(1, b"theirs"))),
            acting(1, rotation=due(1)),
        ],
        ids=["no schedule", "nothing", "mine staged", "theirs staged", "due"],
    )
    def test_until_an_epoch_acts_nothing_is_thrown_away(
        self, shown: Schedule | None
    ) -> None:
        mine = store(keys(0), staged=keys(1), demand=b"d" * 32)
        assert settle_epochs(mine, shown) == mine

    def test_nothing_staged_nothing_done(self) -> None:
        mine = store(keys(0))
        assert settle_epochs(mine, acting(1, 20)) is mine

    def test_twice_is_once(self) -> None:
        mine = store(keys(0), staged=keys(1))
        once = settle_epochs(mine, acting(1, 20))
        assert settle_epochs(once, acting(1, 20)) == once

    def test_a_proof_that_is_ahead_of_the_record_finds_staged_keys(self) -> None:
        first, second = acting(1, 20).epochs
        mine = store(keys(0), staged=keys(1))
        assert secrets_of(mine, first) == keys(0)
        assert secrets_of(mine, second) == keys(1)
        other = store(keys(0), staged=keys(1, b"other"))
        for lacking in (other, store(keys(0))):
            with pytest.raises(NoKeysError):
                secrets_of(lacking, second)

    def test_these_very_keys_are_held_or_not(self) -> None:
        mine = store(keys(0), staged=keys(1))
        assert staged_here(mine, staged(keys(1)))
        assert not staged_here(mine, staged(keys(1, b"theirs")))
        assert not staged_here(mine, staged(keys(2)))
        assert not staged_here(mine, None)
        assert not staged_here(store(keys(0)), staged(keys(1)))


class TestPackages:
    @given(held=st.sets(st.integers(0, 4)), got=st.integers(1, 5))
    def test_a_store_only_grows(self, held: set[int], got: int) -> None:
        shown = acting(1, 10, 20, 30, 40)
        mine = store(*(keys(number) for number in sorted(held)))
        done = with_package(
            mine, package(*(keys(number) for number in range(got))), shown, shown
        )
        want = sorted(held | set(range(got)))
        assert [one.epoch for one in done.epochs] == want
        assert done.epochs == tuple(keys(number) for number in want)

    def test_other_keys_than_those_that_are_held(self) -> None:
        shown = acting(1, 10)
        for number in (0, 1):
            got = [keys(0), keys(1)]
            got[number] = keys(number, b"other")
            with pytest.raises(KeysContradictedError):
                with_package(store(keys(0), keys(1)), package(*got), shown, shown)

    def test_the_staged_one_replaces_one_that_lost_the_race(self) -> None:
        shown = acting(1, rotation=due(1), staged=staged(keys(1)))
        mine = store(keys(0), staged=keys(1, b"mine"), demand=rotation_demand(shown))
        done = with_package(mine, package(keys(0), keys(1)), shown, shown)
        assert (done.staged, done.demand) == (keys(1), None)

    def test_my_own_that_comes_back_to_me_stays_mine(self) -> None:
        shown = acting(1, rotation=due(1), staged=staged(keys(1)))
        mine = store(keys(0), staged=keys(1), demand=rotation_demand(shown))
        assert with_package(mine, package(keys(0), keys(1)), shown, shown) == mine

    def test_one_that_acts_meanwhile_is_the_shards_at_once(self) -> None:
        then = acting(1, staged=staged(keys(1)))
        done = with_package(
            store(keys(0)), package(keys(0), keys(1)), then, acting(1, 20)
        )
        assert (done.epochs, done.staged) == ((keys(0), keys(1)), None)

    def test_candidates_of_a_birth_that_was_anothers_go(self) -> None:
        mine = store(candidate=keys(0, b"mine"))
        done = with_package(mine, package(keys(0)), acting(1), acting(1))
        assert (done.epochs, done.candidate) == ((keys(0),), None)


class TestDemands:
    def test_no_rotation_no_demand(self) -> None:
        assert rotation_demand(acting(1)) is None

    @pytest.mark.parametrize(
        "other",
        [
            {"serial": 9},
            {"rotation": due(1, not_before=4)},
            {"rotation": due(1, generation=1)},
            {"rotation": due(1, why="cancel")},
            {"shard": b"o" * 32},
            {"chain_id": "other"},
        ],
    )
    def test_every_demand_has_a_name_of_its_own(self, other: dict[str, Any]) -> None:
        shown = acting(1, rotation=due(1))
        changed = msgspec.structs.replace(shown, **other)
        assert rotation_demand(shown) != rotation_demand(changed)

    def test_what_is_staged_meanwhile_changes_none(self) -> None:
        shown = acting(1, rotation=due(1))
        with_staged = msgspec.structs.replace(shown, staged=staged(keys(1)))
        assert rotation_demand(shown) == rotation_demand(with_staged)


# --- what a later L1 knows more of ---


class LaterSchedule(Schedule, tag="Schedule"):
    """The schedule of an L1 runtime that came after this code."""

    more: int = 7


class LaterRecord(ScheduleRecord, tag="ScheduleRecord"):
    """Its record."""

    more: int = 7


def test_a_record_and_a_schedule_with_more_fields_are_still_followed() -> None:
    """Oasis #5432: new fields of descriptors broke old enclaves."""
    known = acting(5)
    later = encode(LaterSchedule(**msgspec.structs.asdict(known)))
    record = LaterRecord(height=9, generation=0, schedule=sha256(later))
    values = {record_key(known.shard): encode(record), schedule_key(known.shard): later}
    place = {"chain_id": known.chain_id, "shard": known.shard}
    begun = ChainView(height=8, time=0)
    view = follow_view(begun, 9, 100, values, **place)
    assert view.schedule == known
    assert view.schedule_digest == sha256(later)
    next_record = LaterRecord(height=10, generation=0, schedule=sha256(later))
    only = {record_key(known.shard): encode(next_record)}
    assert follow_view(view, 10, 102, only, **place).schedule == known
    other = LaterRecord(height=10, generation=0, schedule=sha256(later + b"x"))
    with pytest.raises(ScheduleNotBroughtError):
        follow_view(view, 10, 102, {record_key(known.shard): encode(other)}, **place)
