"""Any past state, whatever order it is asked for in."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import Height
from sealift.frame import SimpleTreeStore, verify_ics23
from sealift.node import DurableChain, HeightUnknownError, StateHistory
from sealift.node._history import NEAR
from sealift.node._state_log import ChangeLog

BLOCKS = 30


def write_many(
    chain: DurableChain, blocks: int
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Root and whole state after each block, kept by the test itself."""
    chance = random.Random(7)
    after = [(chain.store.first_app_hash, chain.store.entries())]
    state = dict(after[0][1])
    for h in range(1, blocks + 1):
        txs = {
            b"k%d=%s" % (chance.randrange(12), chance.choice([b"", b"%d" % h]))
            for _ in range(chance.randrange(6))
        }
        block = chain.produce(now=chain.genesis.genesis_time, txs=sorted(txs))
        for key, value in block.changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        after.append((block.app_hash, dict(state)))
    return after


def test_random_reads_at_random_heights_give_what_stood_there(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    after = write_many(chain, BLOCKS)
    chance = random.Random(9)
    for _ in range(300):
        height = chance.randrange(BLOCKS + 1)
        key = b"k%d" % chance.randrange(13)
        root, state = after[height]
        found = chain.read_state(key, height=Height(height), prove=True)
        assert found.value == state.get(key)
        assert found.proof is not None
        verify_ics23(root, key, found.value, found.proof)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_tree_moves_to_the_same_state_on_every_path(heights: list[int]) -> None:
    states = [{b"n": b"%d" % h, b"h%d" % h: b"x"} for h in range(9)]

    class Record:
        def changes_between(
            self, low: Height, high: Height
        ) -> dict[bytes, bytes | None]:
            moved: dict[bytes, bytes | None] = dict.fromkeys(states[low])
            return moved | states[high]

        def reversal_between(
            self, low: Height, high: Height
        ) -> dict[bytes, bytes | None]:
            moved: dict[bytes, bytes | None] = dict.fromkeys(states[high])
            return moved | states[low]

    history = StateHistory(
        record=Record(), entries=states[8], height=Height(8), first=Height(0)
    )
    for height in heights:
        assert history.read(b"n", height=Height(height), prove=False).value == (
            b"%d" % height
        )


def test_sequential_reads_ask_the_disk_for_one_block_each(
    make_chain: Callable[..., DurableChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain()
    write_many(chain, BLOCKS)
    asked: list[int] = []
    for name in ("changes_between", "reversal_between"):
        real = getattr(ChangeLog, name)

        def counted(
            self: ChangeLog, low: Height, high: Height, real: object = real
        ) -> object:
            asked.append(high - low)
            return real(self, low, high)  # type: ignore[operator]

        monkeypatch.setattr(ChangeLog, name, counted)
    for h in range(1, BLOCKS):
        for key in (b"k1", b"k2", b"absent"):
            chain.read_state(key, height=Height(h), prove=True)
    assert asked[0] == BLOCKS - 1
    assert asked[1:] == [1] * (BLOCKS - 2)


def test_many_readers_far_apart_stay_right(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    now = chain.genesis.genesis_time
    for _ in range(700):
        chain.produce(now=now, txs=())
    for offset in range(5):
        for start in (1, 150, 300, 450, 600, 690):
            height = Height(start + offset)
            found = chain.read_state(b"height", height=height, prove=False)
            assert found.value == b"%d" % height
    assert len(chain.history._kept) <= 3 + NEAR
    assert sum(not chain.history.is_near(one) for one in chain.history._kept) <= 3


def test_heights_that_are_not_there(make_chain: Callable[..., DurableChain]) -> None:
    chain = make_chain()
    chain.produce(now=chain.genesis.genesis_time, txs=())
    for height in (2, 2**62):
        with pytest.raises(HeightUnknownError):
            chain.read_state(b"alpha", height=Height(height), prove=False)
    with pytest.raises(HeightUnknownError):
        chain.store.block(Height(0))
    assert chain.read_state(b"height", height=Height(0), prove=False).value is None
    assert chain.read_state(b"alpha", height=Height(0), prove=False).value == b"1"


def test_root_is_the_newest_states(make_chain: Callable[..., DurableChain]) -> None:
    chain = make_chain()
    write_many(chain, 3)
    tree = SimpleTreeStore()
    tree.apply(chain.store.entries())
    assert chain._history.root == tree.root() == chain.chain.tip.app_hash
    assert chain._history.height == 3
