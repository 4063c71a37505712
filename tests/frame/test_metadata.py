"""Clients that have only the metadata make the same bytes, or are told why not."""

import enum
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import (
    MAX_MESSAGE_BYTES,
    DecodeError,
    Message,
    SealiftError,
    decode,
    encode,
)
from sealift.frame import (
    GETTER_MARK,
    MAX_DISPATCH_DEPTH,
    BlockInfo,
    CallArgumentsError,
    Context,
    EmittedEvent,
    Event,
    GenesisError,
    MetadataLookupError,
    Overlay,
    Pallet,
    Runtime,
    RuntimeCall,
    RuntimeDefinitionError,
    RuntimeMetadata,
    Signed,
    SimpleTreeStore,
    StorageValue,
    StorageValueError,
    StructSpec,
    TypeSpec,
    UnknownCallError,
    ValueMismatchError,
    WeightMeter,
    call,
    storage_key,
)
from sealift.frame._values import Values


@pytest.fixture(scope="module")
def runtime(bank: ModuleType) -> Runtime:
    return bank.runtime()


@pytest.fixture(scope="module")
def metadata(runtime: Runtime) -> RuntimeMetadata:
    """As a client has it: through the wire."""
    return decode(RuntimeMetadata, encode(runtime.metadata()))


def test_the_digest_binds_everything(
    runtime: Runtime, metadata: RuntimeMetadata, bank: ModuleType
) -> None:
    assert metadata == runtime.metadata()
    assert metadata.digest() == bank.runtime().metadata().digest()
    assert metadata.digest() != bank.runtime(2).metadata().digest()


def test_metadata_names_all_there_is(metadata: RuntimeMetadata) -> None:
    bank = metadata.pallet("bank")
    assert [c.name for c in bank.calls] == ["transfer", "close", "inscribe"]
    assert bank.calls[0].weight == 100
    assert bank.calls[0].doc == "Move funds from the signer to another account."
    dest, amount = bank.calls[0].args
    assert (dest.name, dest.spec.name, dest.spec.kind) == ("dest", "AccountId", "bytes")
    assert (dest.spec.low, dest.spec.high) == (32, 32)
    assert (amount.spec.low, amount.spec.high) == (0, 2**63 - 1)
    assert [item.name for item in bank.storage] == [
        "accounts",
        "total",
        "motto",
        "by_pair",
    ]
    assert [note.name for note in bank.events] == ["Transferred"]
    assert [note.name for note in bank.errors] == ["InsufficientFundsError"]


def test_friendly_calls_are_the_bytes_that_typed_ones_are(
    runtime: Runtime, metadata: RuntimeMetadata, bank: ModuleType
) -> None:
    typed = runtime.encode_call("bank.transfer", dest=bank.BOB, amount=5)
    for dest in (bank.BOB, bank.BOB.hex(), "0x" + bank.BOB.hex()):
        for amount in (5, "5"):
            made = metadata.encode_call(
                "bank.transfer", {"amount": amount, "dest": dest}
            )
            assert made == typed
    assert metadata.decode_call(typed).args == {
        "dest": "0x" + bank.BOB.hex(),
        "amount": 5,
    }


def test_calls_within_calls_are_friendly_too(
    runtime: Runtime, metadata: RuntimeMetadata, bank: ModuleType
) -> None:
    inner = {"name": "bank.inscribe", "args": {"motto": "hold"}}
    made = metadata.encode_call(
        "sudo.sudo", {"call": {"name": "sudo.sudo_as", "args": {"call": inner}}}
    )
    typed = runtime.encode_call("bank.inscribe", motto="hold")
    for name in ("sudo.sudo_as", "sudo.sudo"):
        typed = runtime.encode_call(name, call=typed)
    assert made == typed
    shown = metadata.decode_call(made).args["call"]["args"]["call"]
    assert shown["args"] == {"motto": "hold", "tries": 1}
    assert metadata.encode_call("sudo.sudo", {"call": typed}).name == "sudo.sudo"
    unknown = metadata.encode_call(
        "sudo.sudo", {"call": RuntimeCall(name="no.such", args=b"\x90")}
    )
    assert metadata.decode_call(unknown).args["call"]["args"] == "0x90"


def test_every_kind_of_value_goes_there_and_back(
    runtime: Runtime, metadata: RuntimeMetadata, bank: ModuleType
) -> None:
    friendly = {
        "colour": "RED",
        "tree": {
            "type": "Branch",
            "parts": [{"type": "Leaf", "weight": "7"}, {"type": "Branch", "parts": []}],
        },
        "note": "0xff",
        "table": {"b": [1, 2], "a": []},
    }
    made = metadata.encode_call("trouble.paint", friendly)
    tree = bank.Branch(parts=(bank.Leaf(weight=7), bank.Branch(parts=())))
    typed = {
        "colour": bank.Colour.RED,
        "tree": tree,
        "note": b"\xff",
        "table": {"a": [], "b": [1, 2]},
    }
    assert made == runtime.encode_call("trouble.paint", **typed)
    assert made == metadata.encode_call("trouble.paint", typed)
    assert made == metadata.encode_call("trouble.paint", friendly | {"colour": "red"})
    shown = metadata.decode_call(made).args
    assert metadata.encode_call("trouble.paint", shown) == made
    short = metadata.encode_call(
        "trouble.paint", {"colour": "BLUE", "tree": bank.Leaf(weight=1)}
    )
    assert runtime._calls["trouble.paint"].arguments(short.args)["note"] is None


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("bank.transfer", {}),
        ("bank.transfer", {"dest": "00" * 32}),
        ("bank.transfer", {"dest": "00" * 31, "amount": 1}),
        ("bank.transfer", {"dest": "zz" * 32, "amount": 1}),
        ("bank.transfer", {"dest": 7, "amount": 1}),
        ("bank.transfer", {"dest": "00" * 32, "amount": -1}),
        ("bank.transfer", {"dest": "00" * 32, "amount": 2**63}),
        ("bank.transfer", {"dest": "00" * 32, "amount": "1.5"}),
        ("bank.transfer", {"dest": "00" * 32, "amount": 1.0}),
        ("bank.transfer", {"dest": "00" * 32, "amount": True}),
        ("bank.transfer", {"dest": "00" * 32, "amount": None}),
        ("bank.transfer", {"dest": "00" * 32, "amount": 1, "memo": "x"}),
        ("trouble.paint", {"colour": "GREEN", "tree": {"type": "Leaf", "weight": 1}}),
        ("trouble.paint", {"colour": "RED", "tree": {"type": "Root", "weight": 1}}),
        ("trouble.paint", {"colour": "RED", "tree": {"type": "Leaf"}}),
        ("trouble.paint", {"colour": "RED", "tree": {"type": "Leaf", "x": 1}}),
        ("trouble.paint", {"colour": "RED", "tree": [1]}),
        ("sudo.sudo", {"call": {"name": "bank.close", "args": {"x": 1}}}),
        ("sudo.sudo", {"call": 5}),
    ],
    ids=range(19),
)
def test_wrong_arguments_are_refused_with_their_place(
    metadata: RuntimeMetadata, name: str, args: dict[str, object]
) -> None:
    with pytest.raises(CallArgumentsError):
        metadata.encode_call(name, args)


def test_unknown_names_are_refused(metadata: RuntimeMetadata) -> None:
    with pytest.raises(UnknownCallError):
        metadata.encode_call("bank.steal", {})
    with pytest.raises(UnknownCallError):
        metadata.decode_call(RuntimeCall(name="nope", args=b""))
    with pytest.raises(MetadataLookupError):
        metadata.pallet("nope")
    with pytest.raises(MetadataLookupError):
        metadata.storage("bank", "nope")
    with pytest.raises(DecodeError):
        metadata.decode_event(EmittedEvent(name="bank.Nope", data=b"\x90"))


@given(st.binary(max_size=120), st.sampled_from(["bank.transfer", "trouble.paint"]))
@settings(max_examples=200)
def test_any_call_is_shown_or_refused(
    metadata: RuntimeMetadata, runtime: Runtime, raw: bytes, name: str
) -> None:
    try:
        shown = metadata.decode_call(RuntimeCall(name=name, args=raw))
    except SealiftError:
        return
    assert metadata.encode_call(name, shown.args).name == name


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(-5, 2**64),
)
@settings(max_examples=100)
def test_metadata_and_runtime_agree_on_what_fits(
    metadata: RuntimeMetadata, runtime: Runtime, dest: bytes, amount: int
) -> None:
    def outcome(make: Callable[[], object]) -> object:
        try:
            return make()
        except CallArgumentsError:
            return None

    args = {"dest": dest, "amount": amount}
    assert outcome(lambda: metadata.encode_call("bank.transfer", args)) == outcome(
        lambda: runtime.encode_call("bank.transfer", **args)
    )


def test_deep_bytes_are_refused_for_display(metadata: RuntimeMetadata) -> None:
    deep = b"\x92\xa3red" + b"\x91" * 5000 + b"\x01"
    with pytest.raises(CallArgumentsError):
        metadata.decode_call(RuntimeCall(name="trouble.paint", args=deep))


def test_calls_wrapped_too_deep_to_run_are_shown_as_bytes(
    runtime: Runtime, metadata: RuntimeMetadata
) -> None:
    made = runtime.encode_call("bank.inscribe", motto="hold")
    for _ in range(400):
        made = runtime.encode_call("sudo.sudo", call=made)
    shown = metadata.decode_call(made).args["call"]
    for _ in range(MAX_DISPATCH_DEPTH):
        shown = shown["args"]["call"]
    assert shown["args"].startswith("0x")


def test_events_and_state_are_readable_from_metadata(
    runtime: Runtime, metadata: RuntimeMetadata, bank: ModuleType
) -> None:
    store = SimpleTreeStore()
    runtime.apply_genesis(store, bank.block(0), bank.genesis())
    overlay = Overlay.over(store)
    made = metadata.encode_call("bank.transfer", {"dest": "22" * 32, "amount": 4})
    (event,) = runtime.dispatch(
        overlay, bank.block(), Signed(account=bank.ALICE), made, meter=WeightMeter(100)
    ).events
    assert metadata.decode_event(event)["amount"] == 4
    key = metadata.storage_key("bank", "accounts", bank.ALICE.hex())
    assert key == storage_key("bank", "accounts", bank.ALICE)
    assert metadata.decode_storage("bank", "accounts", overlay.get(key)) == {
        "type": "Account",
        "free": 996,
        "moves": 1,
    }
    assert metadata.storage_key("bank", "total") == b"bank/total/"
    pair = metadata.storage_key("bank", "by_pair", ["x", "3"])
    assert pair == bank.Bank.by_pair.key(("x", 3))
    with pytest.raises(StorageValueError):
        metadata.storage_key("bank", "accounts", "22")
    with pytest.raises(StorageValueError):
        metadata.decode_storage("bank", "total", b"\xa1x")
    with pytest.raises(DecodeError):
        metadata.decode_event(EmittedEvent(name="bank.Transferred", data=b"\x90"))


def test_values_of_undescribed_types_are_refused() -> None:
    values = Values({})
    for spec in (
        TypeSpec(kind="struct", name="Nope"),
        TypeSpec(kind="float"),
        TypeSpec(kind="int"),
        TypeSpec(kind="tuple", parts=(TypeSpec(kind="int"),)),
        TypeSpec(kind="map", parts=(TypeSpec(kind="str"), TypeSpec(kind="int"))),
    ):
        for convert in (values.to_wire, values.from_wire):
            with pytest.raises(ValueMismatchError):
                convert(spec, [], "here")


def test_genesis_takes_plain_data(runtime: Runtime, bank: ModuleType) -> None:
    typed, plain = SimpleTreeStore(), SimpleTreeStore()
    runtime.apply_genesis(typed, bank.block(0), bank.genesis())
    deposits = [{"account": bank.ALICE.hex(), "amount": "1000"}]
    runtime.apply_genesis(plain, bank.block(0), {"bank": {"deposits": deposits}})
    assert typed.root() == plain.root()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bank": {}},
        {"bank": {"deposits": [{"account": "00", "amount": 1}]}},
        {"bank": {"deposits": [], "x": 1}},
        {"bank": 5},
        {"bank": {"deposits": []}, "sudo": {}},
        {"bank": {"deposits": []}, "nope": {}},
    ],
    ids=range(7),
)
def test_a_bad_genesis_is_refused_and_writes_nothing(
    runtime: Runtime, bank: ModuleType, config: dict[str, object]
) -> None:
    store = SimpleTreeStore()
    with pytest.raises(GenesisError):
        runtime.apply_genesis(store, bank.block(0), config)
    assert store.items(b"") == []


def test_a_second_genesis_is_refused(runtime: Runtime, bank: ModuleType) -> None:
    store = SimpleTreeStore()
    runtime.apply_genesis(store, bank.block(0), bank.genesis())
    with pytest.raises(GenesisError):
        runtime.apply_genesis(store, bank.block(0), bank.genesis())


class Mapped(msgspec.Struct):
    x: int


class Spin(enum.Enum):
    HALF = 0.5


class Twin(Message, kw_only=True):
    x: int


def twin() -> type[Message]:
    class Twin(Message, kw_only=True):
        x: str

    return Twin


@pytest.mark.parametrize(
    "kind",
    [
        float,
        set[int],
        frozenset[int],
        typing.Any,
        object,
        Mapped,
        Spin,
        dict[int, int],
        list[float],
        int | float,
        tuple[int, complex],
        msgspec.Raw,
        bytearray,
        list,
        tuple[Twin, twin()],
        Annotated[str, msgspec.Meta(pattern="a+")],
        list[Annotated[int, msgspec.Meta(multiple_of=2)]],
    ],
    ids=str,
)
def test_types_that_differ_between_machines_are_no_part_of_a_runtime(kind: Any) -> None:
    def stored() -> Pallet:
        class Bad(Pallet):
            name = "bad"
            item = StorageValue("item", kind)

        return Bad()

    def called() -> Pallet:
        class Bad(Pallet):
            name = "bad"

            @call(weight=1)
            def act(self, ctx: Context, *, item: kind) -> None: ...

        return Bad()

    for make in (stored, called):
        with pytest.raises(RuntimeDefinitionError):
            Runtime(name="x", version=1, pallets=[make()])


def test_pallets_that_make_no_runtime_are_refused(bank: ModuleType) -> None:
    class Same(Pallet):
        name = "bank"

    class Reserved(Pallet):
        name = "frame"

    class Borrows(Pallet):
        name = "borrows"
        events = (bank.Transferred,)

    class Positional(Pallet):
        name = "positional"

        @call(weight=1)
        def act(self, ctx: Context, item: int) -> None: ...

    class Untyped(Pallet):
        name = "untyped"

        @call(weight=1)
        def act(self, ctx: Context, *, item) -> None: ...

    class NoContext(Pallet):
        name = "no_context"

        @call(weight=1)
        def act(self) -> None: ...

    class UntypedGenesis(Pallet):
        name = "untyped_genesis"

        def genesis(self, ctx: Context, config) -> None: ...

    class BadDefault(Pallet):
        name = "bad_default"

        @call(weight=1)
        def act(self, ctx: Context, *, item: int = object()) -> None: ...

    for pallet in (
        Same,
        Reserved,
        Borrows,
        Positional,
        Untyped,
        NoContext,
        UntypedGenesis,
        BadDefault,
    ):
        with pytest.raises(RuntimeDefinitionError):
            Runtime(name="x", version=1, pallets=[bank.Bank(), pallet()])
    with pytest.raises(RuntimeDefinitionError):
        call(weight=-1)


def test_bad_pallet_and_item_names_are_refused_when_they_are_written() -> None:
    with pytest.raises(RuntimeDefinitionError):
        type("X", (Pallet,), {"name": "a/b"})
    with pytest.raises(RuntimeDefinitionError):
        StorageValue("A", int)
    items = {"one": StorageValue("x", int), "two": StorageValue("x", str)}
    with pytest.raises(RuntimeDefinitionError):
        type("X", (Pallet,), {"name": "twice", **items})


def test_a_subclass_under_another_name_has_its_own_storage(bank: ModuleType) -> None:
    class Second(bank.Bank):
        name = "second"
        events = ()

    assert Second.total.key() == b"second/total/"
    assert bank.Bank.total.key() == b"bank/total/"


def test_events_are_described_with_their_fields(metadata: RuntimeMetadata) -> None:
    (spec,) = (one for one in metadata.types if one.name == "Transferred")
    assert isinstance(spec, StructSpec)
    assert [field.name for field in spec.fields] == ["source", "dest", "amount"]
    assert issubclass(Event, Message)
    assert BlockInfo.__struct_fields__ == ("chain_id", "height", "time", "shard")


def test_getters_are_described_encoded_and_their_answers_shown(
    metadata: RuntimeMetadata, bank: ModuleType
) -> None:
    free, whole = metadata.pallet("bank").getters
    assert (free.name, free.public, [f.name for f in free.args]) == (
        "free",
        False,
        ["plus"],
    )
    assert (whole.name, whole.public, whole.args) == ("whole", True, ())
    assert metadata.encode_getter("bank.free", {}) == b"\x91\x00"
    assert metadata.encode_getter("bank.free", {"plus": "7"}) == b"\x91\x07"
    answer = encode(bank.Account(free=5))
    assert metadata.decode_answer("bank.free", answer) == {
        "type": "Account",
        "free": 5,
        "moves": 0,
    }
    assert metadata.decode_answer("bank.whole", b"\xc0") is None
    with pytest.raises(MetadataLookupError):
        metadata.encode_getter("bank.nope", {})
    with pytest.raises(CallArgumentsError):
        metadata.encode_getter("bank.free", {"minus": 1})
    for raw in (b"", b"\xc1", b"\xff", b"\x91" * 5000):
        with pytest.raises(DecodeError):
            metadata.decode_answer("bank.whole", raw)


def test_a_getter_whose_answer_has_no_type_is_shown_as_it_comes() -> None:
    class Loose(Pallet):
        name = "loose"

        def look(self, ctx: Context):
            return ctx

        def gaze(self, ctx: Context) -> object:
            return ctx

        setattr(look, GETTER_MARK, True)
        setattr(gaze, GETTER_MARK, True)

    metadata = Runtime(name="x", version=1, pallets=[Loose()]).metadata()
    for name in ("loose.look", "loose.gaze"):
        assert metadata.getter(name).answer is None
        assert metadata.decode_answer(name, b"\x91\x07") == [7]


def test_a_private_getter_that_takes_no_reader_is_refused() -> None:
    class NoReader(Pallet):
        name = "bad"

        def look(self, ctx: Context) -> int:
            return ctx.block.height

        setattr(look, GETTER_MARK, False)

    with pytest.raises(RuntimeDefinitionError):
        Runtime(name="x", version=1, pallets=[NoReader()])


def test_maps_may_be_keyed_by_a_choice_of_words() -> None:
    class Prices(Message, kw_only=True):
        of: dict[typing.Literal["tea", "rye"], int]

    class Shop(Pallet):
        name = "shop"
        prices = StorageValue("prices", Prices)

        @call(weight=1)
        def fix(self, ctx: Context, *, prices: Prices) -> None:
            self.prices.put(ctx, prices)

    runtime = Runtime(name="shop", version=1, pallets=[Shop()])
    made = runtime.metadata().encode_call(
        "shop.fix", {"prices": {"of": {"tea": 1, "rye": "2"}}}
    )
    assert made == runtime.encode_call(
        "shop.fix", prices=Prices(of={"rye": 2, "tea": 1})
    )
    with pytest.raises(CallArgumentsError):
        runtime.metadata().encode_call("shop.fix", {"prices": {"of": {"gin": 1}}})


class Swapped(enum.Enum):
    LEFT = "RIGHT"
    RIGHT = "LEFT"


def test_a_choice_whose_name_is_anothers_value_is_not_mistaken() -> None:
    class Turns(Pallet):
        name = "turns"

        @call(weight=1)
        def turn(self, ctx: Context, *, to: Swapped) -> None: ...

    runtime = Runtime(name="t", version=1, pallets=[Turns()])
    for to in Swapped:
        typed = runtime.encode_call("turns.turn", to=to)
        for friendly in (to, to.name):
            made = runtime.metadata().encode_call("turns.turn", {"to": friendly})
            assert made == typed
        assert runtime.metadata().decode_call(typed).args == {"to": to.name}


class Large(Message):
    motto: bytes


def test_a_genesis_may_be_larger_than_a_message(bank: ModuleType) -> None:
    class Holds(Pallet):
        name = "holds"
        motto = StorageValue("motto", bytes)

        def genesis(self, ctx: Context, config: Large) -> None:
            self.motto.put(ctx, config.motto)

    store = SimpleTreeStore()
    large = Large(motto=bytes(MAX_MESSAGE_BYTES))
    runtime = Runtime(name="t", version=1, pallets=[Holds()])
    runtime.apply_genesis(store, bank.block(0), {"holds": large})
    assert len(store.get(Holds.motto.key()) or b"") > MAX_MESSAGE_BYTES
