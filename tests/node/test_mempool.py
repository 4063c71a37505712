"""The mempool: order, limits, copies, ejection."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_kv import KvApplication

from sealift.base import TooLargeError
from sealift.crypto import sha256
from sealift.node import (
    Mempool,
    MempoolFullError,
    MempoolLimits,
    TxAlreadyKnownError,
)
from sealift.relay.rpc import ExecTxResult

ALL = {"max_bytes": 10**9, "max_gas": -1}


@pytest.fixture
def application() -> KvApplication:
    return KvApplication()


@pytest.fixture
def make(application: KvApplication) -> Callable[..., Mempool]:
    return lambda **limits: Mempool(application, MempoolLimits(**limits))


def test_order_of_arrival_is_kept(make: Callable[..., Mempool]) -> None:
    pool = make()
    txs = [b"k%d=1" % (i * 7919 % 100) for i in range(100)]
    for tx in txs:
        assert pool.add(tx).code == 0
    assert pool.reap(**ALL) == tuple(txs)
    assert pool.first(3) == tuple(txs[:3])
    assert pool.total_bytes == sum(map(len, txs))


def test_reaping_takes_nothing_away_until_a_block_has_it(
    make: Callable[..., Mempool],
) -> None:
    pool = make()
    for i in range(4):
        pool.add(b"k=%d" % i)
    taken = pool.reap(**ALL)
    assert pool.reap(**ALL) == taken
    pool.update(taken[:2])
    assert pool.reap(**ALL) == taken[2:]
    assert pool.total_bytes == 6


def test_block_limits_cut_the_queue_but_do_not_reorder_it(
    make: Callable[..., Mempool],
) -> None:
    pool = make()
    txs = (b"a=" + bytes(10), b"b=" + bytes(1000), b"c=1")
    for tx in txs:
        pool.add(tx)
    assert pool.reap(max_bytes=100, max_gas=-1) == txs[:1]
    assert pool.reap(max_bytes=10**6, max_gas=2) == txs[:2]
    assert pool.reap(max_bytes=10**6, max_gas=0) == ()
    assert pool.reap(max_bytes=0, max_gas=-1) == ()


def test_refused_transaction_takes_no_room_and_may_come_again(
    make: Callable[..., Mempool],
) -> None:
    pool = make()
    for _ in range(2):
        assert pool.add(b"no assignment").code == 1
    assert len(pool) == 0
    assert pool.total_bytes == 0


def test_too_many_too_much_and_too_large(make: Callable[..., Mempool]) -> None:
    few = make(txs=2)
    few.add(b"a=1")
    few.add(b"b=1")
    with pytest.raises(MempoolFullError):
        few.add(b"c=1")
    small = make(total_bytes=10)
    small.add(b"a=12345")
    with pytest.raises(MempoolFullError):
        small.add(b"b=12345")
    small.update([b"a=12345"])
    assert small.add(b"b=12345").code == 0
    with pytest.raises(TooLargeError):
        make(tx_bytes=4).add(b"a=123")


def test_no_transaction_waits_that_wants_more_gas_than_a_block_has(
    make: Callable[..., Mempool],
) -> None:
    pool = make(tx_gas=0)
    with pytest.raises(TooLargeError, match="gas"):
        pool.add(b"a=1")
    assert (len(pool), pool.total_bytes) == (0, 0)
    for enough in (1, -1):
        assert make(tx_gas=enough).add(b"a=1").code == 0


def test_copies_are_refused_and_memory_of_them_is_bounded(
    make: Callable[..., Mempool],
) -> None:
    pool = make(remembered=2)
    pool.add(b"a=1")
    with pytest.raises(TxAlreadyKnownError):
        pool.add(b"a=1")
    pool.update([b"a=1"])
    with pytest.raises(TxAlreadyKnownError):
        pool.add(b"a=1")
    pool.update([b"b=1", b"c=1"])
    assert pool.add(b"a=1").code == 0  # forgotten; the application judges again


def test_what_a_block_made_invalid_is_thrown_out(
    make: Callable[..., Mempool], application: KvApplication
) -> None:
    pool = make()
    pool.add(b"a=1")
    pool.add(b"b=1")
    application.store.apply({b"once/a": b"set"})
    assert pool.update([]) == (sha256(b"a=1"),)
    assert pool.reap(**ALL) == (b"b=1",)
    assert application.checked[-2:] == [(b"a=1", True), (b"b=1", True)]
    application.store.apply({b"once/a": None})
    assert pool.add(b"a=1").code == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_any_history_keeps_bytes_order_and_no_copies(
    steps: list[tuple[bool, int]],
) -> None:
    pool = Mempool(KvApplication(), MempoolLimits(txs=4, total_bytes=40))
    model: list[bytes] = []
    included: set[bytes] = set()
    for adds, number in steps:
        tx = b"key%d=" % number + bytes(number)
        if adds:
            try:
                verdict: ExecTxResult | None = pool.add(tx)
            except (MempoolFullError, TxAlreadyKnownError):
                verdict = None
            if verdict is not None:
                assert tx not in model
                assert tx not in included
                model.append(tx)
        else:
            taken = model[:number]
            pool.update(taken)
            included |= set(taken)
            model = model[number:]
        assert pool.reap(**ALL) == tuple(model)
        assert pool.total_bytes == sum(map(len, model)) <= 40
        assert len(pool) == len(model) <= 4
