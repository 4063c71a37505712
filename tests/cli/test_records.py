"""What commands read of a shard's government."""

import pytest

from sealift.base import Height
from sealift.cli._gov_status import government_row
from sealift.cli._records import Government
from sealift.protocol import (
    EntryStatus,
    NoGenerationError,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SudoAuthority,
)


def made_at(height: int, *, entries: int = 1) -> Schedule:
    first = ScheduleEntry(
        generation=0,
        predecessor=None,
        config=ShardConfig(code={"insecure-sim": b"f" * 32}),
        order=bytes(32),
        recorded_at=height,
        release_from=height,
        upgrade_at=height + 1,
        since=height + 1,
        status=EntryStatus.ACTIVE,
    )
    rules = ShardRules(
        authority=SudoAuthority(key=b"a" * 32),
        genesis=bytes(32),
        min_notice=1,
        rescue_after=5,
    )
    return Schedule(
        chain_id="c",
        shard=b"S" * 32,
        rules=rules,
        serial=0,
        entries=(first,) * entries,
        status=ShardStatus(),
    )


def government(schedule: Schedule, height: int) -> Government:
    return Government(
        height=Height(height),
        schedule=schedule,
        standing=schedule.status,
        orders=(),
        motions=(),
    )


@pytest.mark.parametrize("height", [7, 8, 9])
def test_a_shard_made_in_this_very_block_is_reviewed_by_its_first_code(
    height: int,
) -> None:
    assert government(made_at(7), height).running.generation == 0


def test_the_status_of_a_shard_made_in_this_very_block_names_its_first_code() -> None:
    row = government_row(government(made_at(7), 7))
    assert (row["proven_at"], row["generation"], row["next_generation"]) == (7, 0, None)


def test_a_schedule_without_entries_runs_nothing() -> None:
    with pytest.raises(NoGenerationError):
        assert government(made_at(7, entries=0), 9).running
