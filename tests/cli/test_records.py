"""What commands read of a shard's government."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sealift.base import Height
from sealift.cli._endorse import _interval
from sealift.cli._gov_status import government_row
from sealift.cli._orders import UpgradeWords, upgrade_order
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
from sealift.relay import RpcRemoteError


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


WORDS = UpgradeWords(
    code={"insecure-sim": b"g" * 32},
    at="+1000",
    release_from=None,
    bundle=None,
    source="",
    emergency=False,
    attestation=None,
    min_isv_svn=None,
    max_instances=None,
    operators=(),
    mr_signer=None,
    prod_id=None,
    identity=(None, None),
)


@pytest.mark.parametrize(
    ("interval", "at", "release"),
    [
        (0.0, "+1000", 106),  # unknown: the notice of 1 block, and 5 for the way
        (6.0, "+1000", 106),
        (1.0, "+1000", 106),
        (0.25, "+1000", 121),  # five seconds
        (0.04, "+1000", 226),
        (1e-9, "+9000", 601),  # whatever a node says
        (0.04, "+60", 133),  # half of what is there
        (0.04, "+7", 106),
    ],
)
def test_an_order_has_time_to_get_into_a_block_also_where_blocks_are_fast(
    interval: float, at: str, release: int
) -> None:
    words = replace(WORDS, at=at)
    order = upgrade_order(made_at(7), Height(100), words, interval=interval)
    assert order.release_from == release
    assert order.upgrade_at > release


def test_a_node_that_does_not_tell_how_fast_blocks_are_keeps_no_order_back() -> None:
    async def pruned() -> int:
        raise RpcRemoteError("height is not available")

    chain: Any = SimpleNamespace(node=SimpleNamespace(height=pruned))
    assert asyncio.run(_interval(chain)) == 0
