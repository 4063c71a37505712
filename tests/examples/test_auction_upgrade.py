"""The auction is upgraded in the middle of its business."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from sealift.frame import (
    ForeignStateError,
    MigrationCheckError,
    Runtime,
    StateTooNewError,
)
from sealift.stf import StandardPallets


def read(shard: Any, who: Any, name: str, *args: object) -> Any:
    return msgspec.msgpack.decode(shard.ask(who, f"auction.{name}", *args))


@pytest.fixture
def shard(v1: ModuleType, make_shard: Callable[..., Any]) -> Any:
    """Version 1 with two open lots, one closed lot, and bids."""
    shard = make_shard(v1.runtime)
    lots = [("A clock", 12), ("A boat", 30), ("A house", 31)]
    shard.run(
        *(
            shard.sealed(
                shard.carol, "auction.open_lot", title=title, minimum=50, closes_at=at
            )
            for title, at in lots
        )
    )
    shard.run(
        shard.sealed(shard.alice, "auction.bid", lot=0, amount=60),
        shard.sealed(shard.alice, "auction.bid", lot=1, amount=300),
        shard.sealed(shard.bob, "auction.bid", lot=1, amount=400),
        shard.sealed(shard.bob, "auction.bid", lot=2, amount=77),
    )
    assert read(shard, shard.bob, "open_lots") == [1, 2]
    return shard


def accounts(shard: Any) -> list[Any]:
    return shard.pallet("system").all_accounts(shard.context())


def test_the_migration_keeps_every_bid_and_every_balance(
    shard: Any, v2: ModuleType
) -> None:
    before = accounts(shard)
    shard.upgrade(v2.runtime)
    outcome = shard.run()
    assert outcome.migration is not None
    assert [m.pallet for m in outcome.migration.migrated] == ["auction"]
    assert accounts(shard) == before
    shard.check_issuance()
    assert read(shard, shard.alice, "my_bid", 1)[1:] == [shard.alice.id, 300, 300, 0]
    assert read(shard, shard.bob, "my_bid", 1)[1:] == [shard.bob.id, 400, 400, 0]
    assert read(shard, shard.bob, "my_bid", 2)[1:] == [shard.bob.id, 77, 77, 0]
    assert read(shard, shard.alice, "my_bid", 2) is None
    assert read(shard, shard.bob, "outcome", 0)[1:] == [shard.alice.id, 60]
    assert shard.store.items(b"auction/bids/") == []
    assert shard.store.items(b"auction/bidders/") == []


def test_a_lot_of_version_1_keeps_first_price_after_the_upgrade(
    shard: Any, v2: ModuleType
) -> None:
    shard.upgrade(v2.runtime)
    while shard.height < 31:
        shard.run()
    assert read(shard, shard.bob, "outcome", 1)[1:] == [shard.bob.id, 400]
    assert shard.free(shard.alice) == 1000 - 60
    assert shard.free(shard.bob) == 1000 - 400 - 77
    assert shard.free(shard.carol) == 60 + 400 + 77
    shard.check_issuance()


def test_after_the_upgrade_and_a_restart_business_goes_on(
    shard: Any, v2: ModuleType
) -> None:
    shard.upgrade(v2.runtime)
    shard.run(shard.sealed(shard.alice, "auction.raise_bid", lot=1, amount=350))
    root = shard.store.root()
    shard.restart()
    assert shard.store.root() == root
    outcome = shard.run(
        shard.sealed(shard.alice, "auction.bid_up_to", lot=1, amount=360, ceiling=700)
    )
    assert outcome.migration is None
    assert outcome.receipts[0].receipt.outcome == "ok"
    while shard.height < 30:
        shard.run()
    # first price, raised just above what bob offered
    assert read(shard, shard.bob, "outcome", 1)[1:] == [shard.alice.id, 401]
    shard.check_issuance()


def test_a_call_encoded_for_version_1_executes_on_version_2(
    shard: Any, v1: ModuleType, v2: ModuleType
) -> None:
    old_bid = v1.runtime.encode_call("auction.bid", lot=1, amount=450).args
    old_lot = v1.runtime.encode_call(
        "auction.open_lot", title="A car", minimum=10, closes_at=40
    ).args
    sealed_before = [
        shard.sealed(shard.alice, "auction.bid", args=old_bid),
        shard.sealed(shard.carol, "auction.open_lot", args=old_lot),
    ]
    shard.upgrade(v2.runtime)
    assert shard.outcomes(*sealed_before) == ["ok", "ok"]
    assert read(shard, shard.alice, "my_bid", 1)[2:4] == [450, 450]
    assert read(shard, shard.alice, "lot", 3)[1:] == [
        shard.carol.id,
        "A car",
        10,
        40,
        "second-price",
    ]


def test_a_copy_of_a_call_of_version_1_yields_its_receipt_on_version_2(
    shard: Any, v2: ModuleType
) -> None:
    call = shard.sealed(shard.alice, "auction.bid", lot=1, amount=500)
    first = shard.run(call).receipts[0].receipt
    shard.upgrade(v2.runtime)
    again = shard.run(call).receipts[0].receipt
    assert (again.outcome, again.height, again.index) == ("ok", first.height, 0)
    assert read(shard, shard.alice, "my_bid", 1)[2] == 500


def test_a_call_pinned_to_version_1_is_refused_by_version_2(
    shard: Any, v2: ModuleType
) -> None:
    pinned = shard.sealed(shard.alice, "auction.bid", lot=1, amount=500, pin=b"f" * 32)
    shard.upgrade(v2.runtime)
    assert shard.outcomes(pinned) == ["FingerprintPinError"]


def test_a_call_that_only_version_2_knows_fails_on_version_1(
    shard: Any, v2: ModuleType
) -> None:
    new = v2.runtime.encode_call("auction.raise_bid", lot=1, amount=999).args
    call = shard.sealed(shard.bob, "auction.raise_bid", args=new)
    assert shard.outcomes(call) == ["UnknownCallError"]


def broken(v2: ModuleType, fault: Callable[[Any, Any], None]) -> Runtime:
    """Version 2 with a bug planted behind its migration."""
    standard = StandardPallets()
    auction = type(v2.runtime.pallets[-1])

    class Broken(auction):  # type: ignore[misc, valid-type]
        def on_runtime_upgrade(self, ctx: Any, from_version: int) -> None:
            super().on_runtime_upgrade(ctx, from_version)
            fault(self, ctx)

    return Runtime(
        name="auction",
        version=2,
        pallets=[*standard.pallets, Broken(currency=standard.balances)],
    )


def lose_a_bid(pallet: Any, ctx: Any) -> None:
    pallet.books.put(ctx, 1, pallet.books.get(ctx, 1)[:-1])


def lower_a_bid(pallet: Any, ctx: Any) -> None:
    first, *rest = pallet.books.get(ctx, 1)
    lower = msgspec.structs.replace(first, amount=1, ceiling=1)
    pallet.books.put(ctx, 1, (lower, *rest))


def lose_a_lot(pallet: Any, ctx: Any) -> None:
    pallet.open_now.put(ctx, (2,))


def spend_a_reserve(pallet: Any, ctx: Any) -> None:
    who = pallet.books.get(ctx, 1)[0].bidder
    pallet._currency.unreserve(ctx, who, 1)


@pytest.mark.parametrize(
    "fault", [lose_a_bid, lower_a_bid, lose_a_lot, spend_a_reserve]
)
def test_a_migration_that_loses_something_is_refused_and_changes_nothing(
    shard: Any, v1: ModuleType, v2: ModuleType, fault: Callable[[Any, Any], None]
) -> None:
    root = shard.store.root()
    entries = shard.store.items(b"")
    shard.upgrade(broken(v2, fault))
    with pytest.raises(MigrationCheckError, match="BidsLostError"):
        shard.run()
    assert shard.store.items(b"") == entries
    assert shard.store.root() == root
    shard.upgrade(v1.runtime)  # rescue: the old code takes the blocks
    shard.height -= 1
    call = shard.sealed(shard.alice, "auction.bid", lot=1, amount=500)
    assert shard.outcomes(call) == ["ok"]


def test_version_1_refuses_the_state_of_version_2(
    shard: Any, v1: ModuleType, v2: ModuleType
) -> None:
    shard.upgrade(v2.runtime)
    shard.run()
    shard.upgrade(v1.runtime)
    with pytest.raises(StateTooNewError):
        shard.run()


def test_another_application_refuses_the_auctions_state(shard: Any) -> None:
    shard.upgrade(Runtime(name="lottery", version=1, pallets=StandardPallets().pallets))
    with pytest.raises(ForeignStateError):
        shard.run()


def test_a_rehearsal_tells_and_leaves_the_state_alone(
    shard: Any, v2: ModuleType
) -> None:
    root = shard.store.root()
    shard.upgrade(v2.runtime)
    rehearsed = shard.executor.rehearse(shard.store, height=13, time=1)
    assert rehearsed.changes
    report = rehearsed.report
    assert (report.from_runtime, report.to_runtime) == (1, 2)
    assert shard.store.root() == root
    shard.run()
    assert shard.executor.rehearse(shard.store, height=14, time=1) is None


def test_second_price_and_ceilings_decide_new_lots(
    v2: ModuleType, make_shard: Callable[..., Any]
) -> None:
    shard = make_shard(v2.runtime)
    shard.run(
        shard.sealed(
            shard.carol, "auction.open_lot", title="x", minimum=50, closes_at=13
        ),
        shard.sealed(
            shard.carol,
            "auction.open_lot",
            title="y",
            minimum=50,
            closes_at=13,
            rule="first-price",
        ),
    )
    shard.run(
        shard.sealed(shard.alice, "auction.bid_up_to", lot=0, amount=60, ceiling=300),
        shard.sealed(shard.bob, "auction.bid", lot=0, amount=200),
        shard.sealed(shard.alice, "auction.bid_up_to", lot=1, amount=60, ceiling=300),
        shard.sealed(shard.bob, "auction.bid", lot=1, amount=200),
    )
    assert shard.free(shard.alice) == 400
    shard.run()
    assert read(shard, shard.bob, "outcome", 0)[1:] == [shard.alice.id, 200]
    assert read(shard, shard.bob, "outcome", 1)[1:] == [shard.alice.id, 201]
    assert shard.free(shard.alice) == 1000 - 401
    assert shard.free(shard.bob) == 1000
    shard.check_issuance()


def test_refusals_that_came_with_version_2(
    v2: ModuleType, make_shard: Callable[..., Any]
) -> None:
    shard = make_shard(v2.runtime)
    shard.run(
        shard.sealed(
            shard.carol, "auction.open_lot", title="x", minimum=50, closes_at=99
        )
    )
    assert shard.outcomes(
        shard.sealed(shard.alice, "auction.raise_bid", lot=0, amount=60),
        shard.sealed(shard.alice, "auction.bid_up_to", lot=0, amount=60, ceiling=59),
        shard.sealed(shard.alice, "auction.bid_up_to", lot=0, amount=60, ceiling=90),
        shard.sealed(shard.alice, "auction.raise_bid", lot=0, amount=60),
        shard.sealed(shard.alice, "auction.bid_up_to", lot=0, amount=70, ceiling=80),
        shard.sealed(shard.alice, "auction.raise_bid", lot=0, amount=95),
    ) == [
        "NoBidError",
        "CeilingError",
        "ok",
        "BidTooLowError",
        "BidTooLowError",
        "ok",
    ]
    assert shard.free(shard.alice) == 1000 - 95
