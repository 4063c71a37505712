"""The public layout of state, and overlays that forget what is rolled back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import AccountId, Amount
from sealift.frame import (
    Overlay,
    PageStore,
    RuntimeDefinitionError,
    SimpleTreeStore,
    StorageMap,
    StorageValue,
    StorageValueError,
    encode_key,
    storage_key,
)


class Ctx:
    def __init__(self) -> None:
        self.storage = Overlay.over(SimpleTreeStore())


def test_the_layout_is_public_and_fixed() -> None:
    assert storage_key("bank", "total") == b"bank/total/"
    assert storage_key("bank", "accounts", b"\x00/") == b"bank/accounts/\x00/"
    assert encode_key(b"ab") == b"ab"
    assert encode_key(1) == bytes(7) + b"\x01"
    assert encode_key("é") == b"\xc3\xa9"
    assert encode_key((b"ab", 1, "c")) == (
        b"\x00\x02ab" + b"\x00\x08" + bytes(7) + b"\x01" + b"\x00\x01c"
    )


@pytest.mark.parametrize("name", ["", "a/b", "A", "1a", "a" * 64, "a\n", "ä"])
def test_a_name_cannot_reach_into_another_item(name: str) -> None:
    with pytest.raises(RuntimeDefinitionError):
        storage_key(name, "x")
    with pytest.raises(RuntimeDefinitionError):
        storage_key("x", name)


@pytest.mark.parametrize(
    "key", [-1, 2**64, 1.5, None, True, [b"x"], "\ud800", (b"x" * 65536,)]
)
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(StorageValueError):
        encode_key(key)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (bytes, "ab"),
        (str, b"ab"),
        (int, "1"),
        (AccountId, 1),
        (tuple[bytes, int], (1, b"ab")),
        (tuple[bytes, int], (b"ab",)),
        (tuple[bytes, int], b"ab"),
        (tuple[bytes, tuple[str, int]], (b"ab", (1, "c"))),
    ],
)
def test_a_key_of_another_type_finds_and_stores_nothing(kind: Any, key: Any) -> None:
    table = StorageMap("t", key=kind, value=int).of("p")
    ctx = Ctx()
    for act in (table.find, table.delete, table.contains):
        with pytest.raises(StorageValueError):
            act(ctx, key)
    with pytest.raises(StorageValueError):
        table.put(ctx, key, 1)
    assert not ctx.storage.changes


key_parts = st.tuples(st.binary(max_size=9), st.integers(0, 2**64 - 1), st.text())


@given(key_parts, key_parts)
@settings(max_examples=100)
def test_tuple_keys_never_collide_and_are_read_back(one: Any, two: Any) -> None:
    assert (encode_key(one) == encode_key(two)) == (one == two)
    table = StorageMap("t", key=tuple[bytes, int, str], value=int).of("p")
    ctx = Ctx()
    table.put(ctx, one, 1)
    table.put(ctx, two, 2)
    assert dict(table.items(ctx)) == {one: 1, two: 2}


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x00\x05ab", b"\x00\x00" * 3])
def test_stored_keys_that_are_damaged_are_refused_by_name(raw: bytes) -> None:
    for key in (int, tuple[bytes, int]):
        table = StorageMap("t", key=key, value=int).of("p")
        ctx = Ctx()
        ctx.storage.put(b"p/t/" + raw, b"\x01")
        with pytest.raises(StorageValueError):
            table.items(ctx)


def test_items_come_in_byte_order_of_keys_whatever_the_history() -> None:
    table = StorageMap("t", key=int, value=int).of("p")
    ctx = Ctx()
    for number in (300, 2, 256, 1, 255):
        table.put(ctx, number, number)
    table.delete(ctx, 256)
    other = StorageMap("tt", key=int, value=int).of("p")
    other.put(ctx, 9, 9)
    assert table.items(ctx) == [(n, n) for n in (1, 2, 255, 300)]


def test_find_never_gives_the_default_and_get_does() -> None:
    item = StorageValue("v", Amount, default=Amount(7)).of("p")
    ctx = Ctx()
    assert (item.get(ctx), item.find(ctx), item.exists(ctx)) == (7, None, False)
    item.put(ctx, Amount(0))
    assert (item.get(ctx), item.find(ctx), item.exists(ctx)) == (0, 0, True)
    item.delete(ctx)
    assert item.get(ctx) == 7


def test_a_default_cannot_be_changed_through_what_get_gave() -> None:
    item = StorageValue("v", list[int], default=[1]).of("p")
    ctx = Ctx()
    item.get(ctx).append(2)
    assert item.get(ctx) == [1]


def test_a_default_outside_its_own_type_is_refused() -> None:
    with pytest.raises(StorageValueError):
        StorageValue("v", Amount, default=-1)


def test_damaged_values_are_refused_by_name() -> None:
    item = StorageValue("v", AccountId).of("p")
    ctx = Ctx()
    for raw in (b"", b"\xc1", b"\xc4\x01a", b"\x01"):
        ctx.storage.put(b"p/v/", raw)
        with pytest.raises(StorageValueError):
            item.get(ctx)


def test_keys_of_a_kind_that_has_no_order_are_refused() -> None:
    for key in (float, list[int], tuple[int, ...], bool, tuple[()], set[int]):
        with pytest.raises(RuntimeDefinitionError):
            StorageMap("t", key=key, value=int)


def test_translate_rewrites_and_deletes() -> None:
    old = StorageMap("t", key=int, value=int).of("p")
    new = StorageMap("t", key=int, value=str).of("p")
    ctx = Ctx()
    for number in range(5):
        old.put(ctx, number, number)
    seen = new.translate(ctx, int, lambda n: None if n == 3 else str(n * 2))
    assert seen == 5
    assert new.items(ctx) == [(0, "0"), (1, "2"), (2, "4"), (4, "8")]


keys = st.sampled_from([b"p/a/", b"p/b/1", b"p/b/2", b"p/b/3", b"q/b/1"])
writes = st.lists(st.tuples(keys, st.none() | st.binary(min_size=1, max_size=3)))
layers = st.lists(st.tuples(writes, st.booleans()), max_size=6)


@given(writes, layers)
@settings(max_examples=150, deadline=None)
def test_overlays_agree_with_a_dictionary(base: Any, calls: Any) -> None:
    for store in (SimpleTreeStore(), PageStore(bits=2, key=b"k" * 16)):
        store.apply(dict(base))
        model = {key: value for key, value in dict(base).items() if value is not None}
        block = Overlay.over(store)
        for changes, commits in calls:
            child = block.child()
            draft = dict(model)
            for key, value in changes:
                if value is None:
                    child.delete(key)
                    draft.pop(key, None)
                else:
                    child.put(key, value)
                    draft[key] = value
                assert child.get(key) == draft.get(key)
            assert child.items(b"p/b/") == sorted(
                (k, v) for k, v in draft.items() if k.startswith(b"p/b/")
            )
            if commits:
                child.commit_to(block)
                model = draft
            for key in (b"p/a/", b"p/b/1", b"q/b/1"):
                assert block.get(key) == model.get(key)
        store.apply(block.changes)
        assert store.items(b"") == sorted(model.items())
        assert store.items(b"p/b/") == sorted(
            (k, v) for k, v in model.items() if k.startswith(b"p/b/")
        )
