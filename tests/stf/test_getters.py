"""Reading: what is one's own, what is everybody's, and nothing else."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import AccountId, encode
from sealift.frame import Context, Pallet, RuntimeDefinitionError, StorageValue
from sealift.protocol import MAX_VALIDITY
from sealift.stf import (
    GetterArgumentsError,
    GetterBoundsError,
    GetterFailedError,
    GetterRefusedError,
    UnknownGetterError,
    getter,
)
from sealift.stf._getters import BoundGetter


class Library(Pallet):
    """Getters of all kinds."""

    name = "library"
    counter: StorageValue[int] = StorageValue("counter", int, default=0)

    @getter(public=True)
    def add(self, ctx: Context, *, a: int, b: int = 5) -> int:
        return a + b

    @getter(public=False)
    def whoami(self, ctx: Context, reader: AccountId) -> bytes:
        return reader

    @getter(public=True)
    def writes(self, ctx: Context) -> int:
        self.counter.put(ctx, self.counter.get(ctx) + 1)
        return self.counter.get(ctx)

    @getter(public=True)
    def breaks(self, ctx: Context) -> int:
        raise KeyError("bug")

    @getter(public=True)
    def unencodable(self, ctx: Context) -> int:
        return object()

    @getter(public=True)
    def toils(self, ctx: Context) -> int:
        ctx.charge(10**9)
        return 0

    @getter(public=True)
    def starves(self, ctx: Context) -> int:
        raise MemoryError


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    return make_world(Library())


def read(world: Any, who: Any, name: str, *args: object, **fields: Any) -> Any:
    return msgspec.msgpack.decode(world.ask(who, name, *args, **fields))


def test_a_reader_sees_own_funds_and_nonce(world: Any) -> None:
    world.run(
        world.sealed(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    )
    assert read(world, world.alice, "balances.free") == 999
    assert read(world, world.alice, "balances.account") == [999, 0]
    assert read(world, world.alice, "system.nonce") == 1
    assert read(world, world.bob, "balances.free") == 1001
    assert read(world, world.carol, "balances.free") == 0
    assert read(world, world.carol, "balances.issuance") == 2000


def test_nobody_can_name_another_account(world: Any) -> None:
    for name in ("balances.free", "balances.account", "system.nonce"):
        with pytest.raises(GetterArgumentsError):
            read(world, world.bob, name, world.alice.id)


def test_a_receipt_is_for_the_caller_only(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    world.run(world.seal(world.alice, body))
    call_id = body.call_id()
    assert read(world, world.alice, "system.receipt", call_id) == [
        world.alice.id,
        11,
        0,
        "ok",
    ]
    assert read(world, world.bob, "system.receipt", call_id) is None
    assert read(world, world.alice, "system.receipt", b"x" * 32) is None


def test_private_getters_learn_who_asks_and_public_ones_take_arguments(
    world: Any,
) -> None:
    assert read(world, world.alice, "library.whoami") == world.alice.id
    assert read(world, world.alice, "library.add", 1) == 6
    assert read(world, world.alice, "library.add", 1, 2) == 3


def test_what_a_getter_writes_is_dropped(world: Any) -> None:
    root = world.store.root()
    assert read(world, world.alice, "library.writes") == 1
    assert read(world, world.alice, "library.writes") == 1
    assert world.store.root() == root


@pytest.mark.parametrize("name", ["library.nothing", "balances.transfer", "free", ""])
def test_only_what_is_marked_as_a_getter_is_one(world: Any, name: str) -> None:
    with pytest.raises(UnknownGetterError):
        world.ask(world.alice, name)


@pytest.mark.parametrize(
    "args", [b"", b"\x90", b"\x93\x01\x02\x03", b"\x91\xa1x", b"\xdc\x00\x01\x01"]
)
def test_arguments_that_do_not_fit_are_refused(world: Any, args: bytes) -> None:
    with pytest.raises(GetterArgumentsError):
        world.ask(world.alice, "library.add", args=args)


def test_deep_arguments_are_refused_before_anything_recurses(world: Any) -> None:
    with pytest.raises(GetterArgumentsError):
        world.ask(world.alice, "library.add", args=b"\x91" * 5000)


@given(raw=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_arguments_or_refused(raw: bytes) -> None:
    bound = BoundGetter("library.add", Library().add, public=True)
    try:
        found = bound.arguments(raw)
    except GetterArgumentsError:
        return
    assert raw in (encode(list(found.values())), encode(list(found.values())[:1]))


@pytest.mark.parametrize("name", ["breaks", "unencodable", "toils"])
def test_a_getter_that_fails_is_refused_and_the_enclave_goes_on(
    world: Any, name: str
) -> None:
    with pytest.raises(GetterFailedError):
        world.ask(world.alice, f"library.{name}")
    assert read(world, world.alice, "library.add", 1) == 6


def test_a_starved_process_ends_also_while_it_reads(world: Any) -> None:
    with pytest.raises(MemoryError):
        world.ask(world.alice, "library.starves")


def test_state_that_is_too_old_and_getters_that_are_too_late_are_refused(
    world: Any,
) -> None:
    height = world.height
    for fields in (
        {"min_height": height + 1},
        {"valid_until": height - 1},
        {"valid_until": height + MAX_VALIDITY + 1},
    ):
        with pytest.raises(GetterBoundsError):
            world.ask(world.alice, "balances.free", **fields)
    world.ask(world.alice, "balances.free", min_height=height, valid_until=height)
    with pytest.raises(GetterRefusedError):
        world.ask(world.alice, "balances.free", min_height=height + 1)


def test_the_table_says_who_may_read_what(world: Any) -> None:
    table = world.executor.getters()
    assert {name for name, public in table.items() if not public} == {
        "balances.account",
        "balances.free",
        "democracy.my_vote",
        "library.whoami",
        "system.nonce",
        "system.receipt",
    }


def test_a_client_that_holds_only_metadata_can_ask_and_read(world: Any) -> None:
    metadata = world.runtime.metadata()
    args = metadata.encode_getter("library.add", {"a": 2, "b": 4})
    answer = world.ask(world.alice, "library.add", args=args)
    assert metadata.decode_answer("library.add", answer) == 6
    for name, public in world.executor.getters().items():
        assert metadata.getter(name).public is public


def test_a_method_with_another_shape_cannot_be_a_getter(
    make_world: Callable[..., Any],
) -> None:
    class Positional(Pallet):
        name = "positional"

        @getter(public=True)
        def bad(self, ctx: Context, account: AccountId) -> int:
            return 0

    class Missing(Pallet):
        name = "missing"

        @getter(public=False)
        def bad(self, ctx: Context) -> int:
            return 0

    class Untyped(Pallet):
        name = "untyped"

        @getter(public=True)
        def bad(self, ctx: Context, *, a) -> int:
            return 0

    for pallet in (Positional(), Missing(), Untyped()):
        with pytest.raises(RuntimeDefinitionError):
            make_world(pallet)
