"""What operations.md says a worker and a call cost on L1, weighed again."""

import re
from pathlib import Path

import pytest

from sealift.ledger import LedgerParams
from sealift.protocol import INVOKE, SIZE_CLASSES
from sealift.testing._bench_cost import (
    CONFIRM,
    IDLE_BLOCKS,
    REGISTER,
    Costs,
    bench_cost,
    measure_costs,
)
from sealift.worker._confirm import CONFIRM_EVERY

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(
    encoding="utf-8"
)
SECTION = PAGE.split("## What it costs on L1")[1].split("\n## ")[0]
#: ECDSA signatures and times are a few bytes longer or shorter in each world.
NEARLY = 0.02


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.fixture(scope="module")
def costs() -> Costs:
    return measure_costs()


def test_every_kind_of_transaction_weighs_what_is_said(costs: Costs) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| ([\d,]+) \|", SECTION, re.MULTILINE)
    said = {call: number(size) for call, size in rows}
    others = {"enclave_bridge.create_shard"}  # the creator's, not a worker's
    assert set(said) == set(costs.each) - others
    for call, size in said.items():
        assert costs.each[call] == pytest.approx(size, rel=NEARLY), call


def test_what_is_said_of_a_call_is_what_was_weighed(costs: Costs) -> None:
    whole = costs.each[INVOKE] + costs.each[CONFIRM]
    for size in (costs.envelopes, costs.plain, whole, *SIZE_CLASSES[1:]):
        assert any(
            number(said) == pytest.approx(size, rel=NEARLY)
            for said in re.findall(r"\b\d[\d,]*\b", SECTION)
        ), size
    found = bench_cost()
    assert found["value"] == pytest.approx(whole, rel=NEARLY)
    assert found["unit"] == "B"
    assert found["ratio"] == pytest.approx(found["floor"] / found["value"])


def test_an_hour_is_what_its_transactions_weigh(costs: Costs) -> None:
    rows = re.findall(r"^\| (\d+) s \| ([\d,]+) \| ([\d,]+) \|", SECTION, re.MULTILINE)
    assert len(rows) == 2
    for seconds, idle, busy in rows:
        for said, calls in ((idle, False), (busy, True)):
            weighed = costs.worker_hour(block_seconds=float(seconds), busy=calls)
            assert number(said) == pytest.approx(weighed, rel=NEARLY)


def test_blocks_with_calls_are_confirmed_each_and_idle_ones_by_sixteens(
    costs: Costs,
) -> None:
    assert IDLE_BLOCKS == CONFIRM_EVERY  # as the worker does
    calls = costs.counted[INVOKE]
    assert calls < costs.counted[CONFIRM] <= calls + 6
    assert costs.counted[REGISTER] == 2
    assert LedgerParams().fee_per_byte == 1
