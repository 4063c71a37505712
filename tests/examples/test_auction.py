"""Stories of the sealed-bid auction, told of both versions."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from sealift.base import decode
from sealift.frame import EmittedEvent
from sealift.stf import ShieldedFunds


@pytest.fixture(params=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> ModuleType:
    return request.getfixturevalue(request.param)


@pytest.fixture
def shard(version: ModuleType, make_shard: Callable[..., Any]) -> Any:
    return make_shard(version.runtime)


def open_lot(shard: Any, *, minimum: int = 100, blocks: int = 3, **more: Any) -> int:
    """Carol opens a lot that takes bids in the next ``blocks`` blocks."""
    closes_at = shard.height + 1 + blocks
    outcome = shard.run(
        shard.sealed(
            shard.carol,
            "auction.open_lot",
            title="A boat",
            minimum=minimum,
            closes_at=closes_at,
            **more,
        )
    )
    assert outcome.receipts[0].receipt.outcome == "ok"
    return closes_at


def read(shard: Any, who: Any, name: str, *args: object) -> Any:
    return msgspec.msgpack.decode(shard.ask(who, f"auction.{name}", *args))


def bid(shard: Any, who: Any, amount: int, lot: int = 0) -> bytes:
    return shard.sealed(who, "auction.bid", lot=lot, amount=amount)


def test_the_highest_bid_wins_pays_the_seller_and_frees_the_losers(shard: Any) -> None:
    closes_at = open_lot(shard)
    assert shard.outcomes(bid(shard, shard.alice, 300), bid(shard, shard.bob, 400)) == [
        "ok",
        "ok",
    ]
    assert (shard.free(shard.alice), shard.free(shard.bob)) == (700, 600)
    while shard.height < closes_at:
        shard.run()
    second_price = "v2" in shard.runtime.pallets[-1].__class__.__module__
    price = 300 if second_price else 400
    assert read(shard, shard.carol, "outcome", 0)[1:] == [shard.bob.id, price]
    assert shard.free(shard.alice) == 1000
    assert shard.free(shard.bob) == 1000 - price
    assert shard.free(shard.carol) == price
    shard.check_issuance()


def test_a_lot_takes_bids_in_its_last_block_and_none_in_the_next(shard: Any) -> None:
    closes_at = open_lot(shard, blocks=2)
    shard.run()
    assert shard.height == closes_at - 1
    assert read(shard, shard.alice, "open_lots") == [0]
    assert read(shard, shard.alice, "outcome", 0) is None
    assert shard.outcomes(bid(shard, shard.alice, 150)) == ["ok"]
    assert shard.height == closes_at
    assert read(shard, shard.alice, "open_lots") == []
    assert read(shard, shard.alice, "outcome", 0)[1] == shard.alice.id
    assert shard.outcomes(bid(shard, shard.bob, 200)) == ["LotClosedError"]


def test_a_bidder_cannot_read_anothers_bid(shard: Any) -> None:
    open_lot(shard)
    shard.run(bid(shard, shard.alice, 321))
    mine = read(shard, shard.alice, "my_bid", 0)
    assert 321 in (mine if isinstance(mine, list) else [mine])
    for name, public in shard.executor.getters().items():
        pallet, _, short = name.partition(".")
        if pallet != "auction":
            continue
        args = [] if short == "open_lots" else [0]
        answer = msgspec.msgpack.encode(read(shard, shard.bob, short, *args))
        assert msgspec.msgpack.encode(321) not in answer, name
        assert shard.alice.id not in answer, name
        assert public is (short != "my_bid")


def test_losing_bids_are_forgotten_when_the_lot_closes(shard: Any) -> None:
    closes_at = open_lot(shard, blocks=2)
    shard.run(bid(shard, shard.alice, 77_7), bid(shard, shard.bob, 888))
    while shard.height < closes_at:
        shard.run()
    assert read(shard, shard.alice, "my_bid", 0) is None
    left = [key for key, _ in shard.store.items(b"auction/")]
    assert {key.split(b"/")[1] for key in left} == {
        b"next_lot",
        b"lots",
        b"outcomes",
        b"open_now",
    }


def test_the_receipt_of_a_bid_tells_its_caller_and_nobody_learns_of_others(
    shard: Any,
) -> None:
    open_lot(shard)
    outcome = shard.run(bid(shard, shard.alice, 300), bid(shard, shard.bob, 200))
    for entry, amount, other in zip(
        outcome.receipts, (300, 200), (200, 300), strict=True
    ):
        events = [decode(EmittedEvent, raw) for raw in entry.receipt.events]
        assert [event.name for event in events] == ["auction.BidTaken"]
        values = msgspec.msgpack.decode(events[0].data)
        assert amount in values
        assert other not in values


def test_a_lot_without_bids_ends_without_a_winner(shard: Any) -> None:
    closes_at = open_lot(shard, blocks=1)
    shard.run()
    assert shard.height == closes_at
    assert read(shard, shard.bob, "outcome", 0)[1:] == [None, 0]


def test_the_first_of_equal_bids_wins(shard: Any) -> None:
    open_lot(shard, blocks=1)
    shard.run(bid(shard, shard.bob, 250), bid(shard, shard.alice, 250))
    assert read(shard, shard.carol, "outcome", 0)[1:] == [shard.bob.id, 250]


def test_raising_ones_own_bid_reserves_only_the_difference(shard: Any) -> None:
    open_lot(shard, blocks=9)
    shard.run(bid(shard, shard.alice, 600), bid(shard, shard.alice, 900))
    assert shard.free(shard.alice) == 100
    assert shard.outcomes(bid(shard, shard.alice, 900)) == ["BidTooLowError"]
    assert shard.outcomes(bid(shard, shard.alice, 1001)) == ["InsufficientFundsError"]
    assert shard.free(shard.alice) == 100
    shard.check_issuance()


def test_refusals_of_bids(shard: Any) -> None:
    open_lot(shard)
    shard.run(ShieldedFunds(beneficiary=shard.carol.id, amount=5000))
    assert shard.outcomes(
        bid(shard, shard.alice, 99),
        bid(shard, shard.carol, 500),
        bid(shard, shard.alice, 500, lot=7),
    ) == ["BidTooLowError", "OwnLotError", "NoSuchLotError"]


def test_a_lot_is_not_settled_early_and_not_twice(shard: Any) -> None:
    closes_at = open_lot(shard, blocks=1)
    early = shard.sealed(shard.bob, "auction.settle", lot=0)
    assert shard.outcomes(early) == ["LotStillOpenError"]
    assert shard.height == closes_at
    late = shard.sealed(shard.bob, "auction.settle", lot=0)
    assert shard.outcomes(late) == ["LotClosedError"]


def test_an_overdue_lot_is_settled_by_anybody(shard: Any) -> None:
    closes_at = open_lot(shard, blocks=2)
    shard.run(bid(shard, shard.alice, 300))
    shard.run(height=closes_at + 5)  # blocks that this shard never executed
    assert read(shard, shard.bob, "open_lots") == [0]
    late = shard.sealed(shard.bob, "auction.settle", lot=0)
    assert shard.outcomes(late) == ["ok"]
    assert read(shard, shard.bob, "outcome", 0)[1] == shard.alice.id
    shard.check_issuance()


def test_closing_heights_behind_or_far_ahead_are_refused(shard: Any) -> None:
    calls = [
        shard.sealed(
            shard.carol, "auction.open_lot", title="x", minimum=1, closes_at=height
        )
        for height in (shard.height + 1, shard.height + 200_000)
    ]
    assert shard.outcomes(*calls) == ["ClosingHeightError", "ClosingHeightError"]


def test_no_more_lots_close_together_than_one_block_can_settle(shard: Any) -> None:
    calls = [
        shard.sealed(
            shard.carol, "auction.open_lot", title="x", minimum=1, closes_at=100
        )
        for _ in range(17)
    ]
    outcomes = shard.outcomes(*calls)
    assert outcomes == ["ok"] * 16 + ["TooManyLotsError"]


def test_a_lot_has_no_more_bidders_than_one_block_can_settle(
    shard: Any, version: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_lot(shard)
    pallet = version.runtime.pallets[-1].__class__.__module__
    monkeypatch.setattr(f"{pallet}.MAX_BIDDERS", 1)
    assert shard.outcomes(bid(shard, shard.alice, 200), bid(shard, shard.bob, 300)) == [
        "ok",
        "TooManyBiddersError",
    ]
    assert shard.outcomes(bid(shard, shard.alice, 250)) == ["ok"]
