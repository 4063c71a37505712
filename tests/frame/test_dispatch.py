"""Calls that fail, lie, panic or dig too deep change nothing and stop nothing."""

from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import Amount, InvariantError, encode
from sealift.frame import (
    MAX_ARGUMENT_DEPTH,
    NOBODY,
    ROOT,
    BadOriginError,
    CallArgumentsError,
    CallPanickedError,
    DispatchDepthError,
    Origin,
    Outcome,
    Overlay,
    PageStore,
    PalletError,
    RuntimeCall,
    Signed,
    SimpleTreeStore,
    StateStore,
    StorageMissingError,
    StorageValueError,
    UndeclaredEventError,
    UnknownCallError,
    WeightExceededError,
    WeightMeter,
    depth_exceeds,
    ensure_root,
    ensure_signed,
)


class World:
    """One runtime over one store, one block at a time."""

    def __init__(self, bank: ModuleType, store: StateStore) -> None:
        self.bank = bank
        self.runtime = bank.runtime()
        self.store = store
        self.runtime.apply_genesis(store, bank.block(0), bank.genesis())
        self.overlay = Overlay.over(store)
        self.meter = WeightMeter(10**6)

    def run(
        self, name: str, origin: Origin | None = None, **arguments: object
    ) -> Outcome:
        call = self.runtime.encode_call(name, **arguments)
        return self.raw(call, origin)

    def raw(self, call: RuntimeCall, origin: Origin | None = None) -> Outcome:
        origin = origin or Signed(account=self.bank.ALICE)
        return self.runtime.dispatch(
            self.overlay, self.bank.block(), origin, call, meter=self.meter
        )

    def free(self, account: bytes) -> int:
        ctx = self.runtime.context(self.overlay, self.bank.block())
        return self.bank.Bank.accounts.get(ctx, account).free

    def noise(self) -> list[tuple[int, str]]:
        ctx = self.runtime.context(self.overlay, self.bank.block())
        return self.bank.Trouble.noise.items(ctx)


@pytest.fixture(params=["tree", "pages"])
def world(request: pytest.FixtureRequest, bank: ModuleType) -> World:
    store = (
        SimpleTreeStore()
        if request.param == "tree"
        else PageStore(bits=8, key=bank.PAGE_KEY)
    )
    return World(bank, store)


def test_a_transfer_moves_funds_and_tells(world: World, bank: ModuleType) -> None:
    outcome = world.run("bank.transfer", dest=bank.BOB, amount=300)
    assert outcome.ok
    assert outcome.weight == 100
    assert (world.free(bank.ALICE), world.free(bank.BOB)) == (700, 300)
    (event,) = outcome.events
    assert event.name == "bank.Transferred"
    assert msgspec.msgpack.decode(event.data, type=bank.Transferred).amount == 300


def test_a_block_reaches_the_store_only_when_applied(
    world: World, bank: ModuleType
) -> None:
    before = world.store.root()
    world.run("bank.transfer", dest=bank.BOB, amount=300)
    assert world.store.root() == before
    world.store.apply(world.overlay.changes)
    assert world.store.root() != before
    assert world.store.get(bank.Bank.accounts.key(bank.BOB)) == encode(
        bank.Account(free=Amount(300))
    )


def test_a_failed_call_leaves_no_trace_but_its_weight(
    world: World, bank: ModuleType
) -> None:
    changes = dict(world.overlay.changes)
    outcome = world.run("bank.transfer", dest=bank.BOB, amount=1001)
    assert outcome.failure.code == "InsufficientFundsError"
    assert outcome.events == ()
    assert outcome.weight == 100
    assert dict(world.overlay.changes) == changes


def test_a_call_that_wrote_before_it_failed_is_rolled_back(world: World) -> None:
    world.run("trouble.fail", how="key")
    assert world.noise() == []


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("key", "KeyError"),
        ("zero", "ZeroDivisionError"),
        ("homemade", "HomemadeError"),
        ("stop", "StopIteration"),
        ("os", "OSError"),
        ("its own cause", "ZeroDivisionError"),
    ],
)
def test_a_bug_in_a_pallet_fails_the_call_and_names_only_its_class(
    world: World, how: str, name: str
) -> None:
    outcome = world.run("trouble.fail", how=how)
    assert outcome.failure.code == "CallPanickedError"
    assert outcome.failure.message == name
    assert world.noise() == []


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("memory", MemoryError),
        ("recursion", RecursionError),
        ("system", SystemError),
        ("invariant", InvariantError),
        ("interrupt", KeyboardInterrupt),
        ("hidden memory", Exception),
        ("memory behind a cause", Exception),
    ],
)
def test_what_ends_the_process_is_never_an_outcome(
    world: World, how: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        world.run("trouble.fail", how=how)
    assert world.noise() == []


def test_a_wrapper_does_not_turn_a_memory_error_into_an_outcome(world: World) -> None:
    inner = world.runtime.encode_call("trouble.fail", how="memory")
    with pytest.raises(MemoryError):
        world.run("sudo.try_twice", call=inner)


def test_another_refusal_of_sealift_keeps_its_name(world: World) -> None:
    assert world.run("trouble.parse", raw=b"\xc1").failure.code == "DecodeError"


def test_an_unsigned_call_cannot_spend(world: World, bank: ModuleType) -> None:
    for origin in (NOBODY, ROOT):
        outcome = world.run("bank.transfer", origin, dest=bank.BOB, amount=1)
        assert outcome.failure.code == "BadOriginError"
    with pytest.raises(BadOriginError):
        ensure_signed(NOBODY)
    with pytest.raises(BadOriginError):
        ensure_root(Signed(account=bank.ALICE))


def test_a_wrapper_fails_with_its_inner_call(world: World) -> None:
    inner = world.runtime.encode_call("trouble.fail", how="key")
    outcome = world.run("sudo.sudo", call=inner)
    assert outcome.failure.code == "CallPanickedError"
    assert world.noise() == []


def test_a_wrapper_may_catch_what_its_inner_call_did(
    world: World, bank: ModuleType
) -> None:
    ctx = world.runtime.context(world.overlay, bank.block())
    for name, arguments in (
        ("trouble.fail", {"how": "key"}),
        ("trouble.fail", {"how": "homemade"}),
    ):
        call = world.runtime.encode_call(name, **arguments)
        with pytest.raises(CallPanickedError):
            ctx.dispatch(call, ROOT)
    with pytest.raises(PalletError):
        ctx.dispatch(world.runtime.encode_call("bank.close"), ROOT)
    assert world.noise() == []


def test_a_wrapper_lends_root_and_passes_events_on(
    world: World, bank: ModuleType
) -> None:
    inscribe = world.runtime.encode_call("bank.inscribe", motto="hold", tries=2)
    assert not world.raw(inscribe).ok
    assert world.run("sudo.sudo", call=inscribe).ok
    move = world.runtime.encode_call("bank.transfer", dest=bank.BOB, amount=1)
    outcome = world.run("sudo.sudo_as", call=move)
    assert [event.name for event in outcome.events] == ["bank.Transferred"]
    assert outcome.weight == 105


def test_governance_learns_of_a_failure_and_goes_on(
    world: World, bank: ModuleType
) -> None:
    move = world.runtime.encode_call("bank.transfer", dest=bank.BOB, amount=600)
    outcome = world.run("sudo.try_twice", call=move)
    assert outcome.ok
    assert world.free(bank.BOB) == 600
    assert len(outcome.events) == 1


def test_calls_wrapped_too_deep_fail_before_the_stack_does(
    world: World, bank: ModuleType
) -> None:
    def wrapped(times: int) -> Outcome:
        call = world.runtime.encode_call("bank.transfer", dest=bank.BOB, amount=1)
        for _ in range(times):
            call = world.runtime.encode_call("sudo.sudo_as", call=call)
        return world.raw(call)

    assert wrapped(8).ok
    assert wrapped(9).failure.code == "DispatchDepthError"
    assert world.free(bank.BOB) == 1
    ctx = world.runtime.context(world.overlay, bank.block())
    ctx._depth = 8
    with pytest.raises(DispatchDepthError):
        ctx.dispatch(RuntimeCall(name="bank.close", args=b"\x90"), ROOT)


def test_unknown_calls_fail_by_name(world: World) -> None:
    for name in ("bank.steal", "bank", "", "bank.__init__", "frame.versions"):
        outcome = world.raw(RuntimeCall(name=name, args=b"\x90"))
        assert outcome.failure.code == "UnknownCallError"
    with pytest.raises(UnknownCallError):
        world.runtime.encode_call("bank.steal")
    with pytest.raises(UnknownCallError):
        world.runtime.call_weight(RuntimeCall(name="x.y", args=b""))


def test_work_beyond_the_blocks_weight_fails_and_is_not_done(
    world: World, bank: ModuleType
) -> None:
    world.meter = WeightMeter(250)
    assert world.run("trouble.work", steps=10).ok
    outcome = world.run("trouble.work", steps=20)
    assert outcome.failure.code == "WeightExceededError"
    assert world.meter.used <= 250
    left = world.meter.left
    assert world.run("bank.transfer", dest=bank.BOB, amount=1).weight == 0
    assert world.meter.left == left
    with pytest.raises(WeightExceededError):
        world.meter.charge(left + 1)
    with pytest.raises(WeightExceededError):
        world.meter.charge(-1)


def test_an_undeclared_event_fails_the_call(world: World, bank: ModuleType) -> None:
    outcome = world.run("trouble.emit_undeclared")
    assert outcome.failure.code == "UndeclaredEventError"
    ctx = world.runtime.context(world.overlay, bank.block())
    with pytest.raises(UndeclaredEventError):
        ctx.emit(bank.Forgotten(why="x"))


def test_reading_what_is_not_there_fails_by_name(
    world: World, bank: ModuleType
) -> None:
    assert world.run("trouble.read_unset").failure.code == "StorageMissingError"
    ctx = world.runtime.context(world.overlay, bank.block())
    with pytest.raises(StorageMissingError):
        bank.Trouble.noise.get(ctx, 5)


def test_a_value_that_could_not_be_read_again_is_not_stored(
    world: World, bank: ModuleType
) -> None:
    outcome = world.run("trouble.poison", key=-1, value="x")
    assert outcome.failure.code == "StorageValueError"
    ctx = world.runtime.context(world.overlay, bank.block())
    for bad in (-1, 2**63, "1", None):
        with pytest.raises(StorageValueError):
            bank.Bank.total.put(ctx, bad)
    with pytest.raises(StorageValueError):
        bank.Bank.accounts.put(ctx, "alice", bank.Account(free=Amount(1)))
    assert bank.Bank.total.get(ctx) == 1000


@pytest.mark.parametrize(
    "args",
    [
        b"",
        b"\x90",
        b"\xc0",
        b"\x91\xc4\x20" + b"b" * 32,
        b"\x92\xc4\x20" + b"b" * 32 + b"\xff",  # amount -1
        b"\x92\xc4\x1f" + b"b" * 31 + b"\x01",  # 31 bytes
        b"\x92\xc4\x20" + b"b" * 32 + b"\xcc\x01",  # 1, not in shortest form
        b"\x92\xc5\x00\x20" + b"b" * 32 + b"\x01",  # bin16 where bin8 does
        b"\xdc\x00\x02\xc4\x20" + b"b" * 32 + b"\x01",  # array16
        b"\x92\xc4\x20" + b"b" * 32 + b"\xcb\x3f\xf0" + bytes(6),  # 1.0
        b"\x92\xc4\x20" + b"b" * 32 + b"\x01\x00",  # bytes left over
        b"\x93\xc4\x20" + b"b" * 32 + b"\x01\x01",  # one argument too many
    ],
)
def test_arguments_in_any_other_encoding_are_refused(world: World, args: bytes) -> None:
    outcome = world.raw(RuntimeCall(name="bank.transfer", args=args))
    assert outcome.failure.code == "CallArgumentsError"


def test_an_earlier_version_s_shorter_arguments_go_on_working(world: World) -> None:
    bound = world.runtime._calls["bank.inscribe"]
    assert bound.arguments(encode(["hold"])) == {"motto": "hold", "tries": 1}
    assert bound.arguments(encode(["hold", 1])) == {"motto": "hold", "tries": 1}
    with pytest.raises(CallArgumentsError):
        bound.arguments(b"\xdc\x00\x01" + encode("hold"))
    with pytest.raises(CallArgumentsError):
        bound.arguments(b"\x91\xd9\x04hold")
    with pytest.raises(CallArgumentsError):
        world.runtime.encode_call("bank.inscribe", moto="typo")
    with pytest.raises(CallArgumentsError):
        world.runtime.encode_call("bank.inscribe", motto=5)


def nested(bank: ModuleType, depth: int) -> RuntimeCall:
    value = ["Leaf", 1]
    for _ in range(depth):
        value = ["Branch", [value]]
    return RuntimeCall(name="trouble.paint", args=encode(["red", value]))


def test_arguments_nested_too_deep_fail_the_call_and_not_the_stack(
    world: World, bank: ModuleType
) -> None:
    assert world.raw(nested(bank, 5)).ok
    outcome = world.raw(nested(bank, 400))
    assert outcome.failure.code == "CallArgumentsError"
    # hidden in an element that the struct would skip
    skipped = b"\x91" * 5000 + b"\x90"
    args = b"\x92\xa3red\x93\xa4Leaf\x01" + skipped
    outcome = world.raw(RuntimeCall(name="trouble.paint", args=args))
    assert outcome.failure.code == "CallArgumentsError"


def test_depth_is_counted_exactly() -> None:
    for depth in (1, 63, 64):
        assert not depth_exceeds(b"\x91" * depth + b"\x01", MAX_ARGUMENT_DEPTH)
    assert depth_exceeds(b"\x91" * 65 + b"\x01", MAX_ARGUMENT_DEPTH)
    flat = encode([[1, b"x" * 300, "y" * 40, {"k": [1.5, None, -7, 2**40]}]] * 100)
    assert not depth_exceeds(flat, 4)
    assert depth_exceeds(flat, 3)


msgpack = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=70)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=-1) if value else 0
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=-1) if value else 0
    return 0


@given(msgpack)
@settings(max_examples=150, deadline=None)
def test_depth_agrees_with_a_recursive_count(value: Any) -> None:
    raw = encode(value)
    depth = depth_of(value)
    assert not depth_exceeds(raw, depth)
    if depth:
        assert depth_exceeds(raw, depth - 1)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_arguments_give_an_outcome(bank: ModuleType, raw: bytes) -> None:
    runtime = bank.runtime()
    overlay = Overlay.over(SimpleTreeStore())
    for name in ("bank.transfer", "sudo.sudo", "trouble.paint"):
        outcome = runtime.dispatch(
            overlay,
            bank.block(),
            Signed(account=bank.ALICE),
            RuntimeCall(name=name, args=raw),
            meter=WeightMeter(10**6),
        )
        assert outcome.ok or outcome.failure.code
    depth_exceeds(raw, 5)


def test_hooks_run_in_order_and_a_failing_one_stops_nothing(
    world: World, bank: ModuleType
) -> None:
    done = world.runtime.initialize_block(world.overlay, bank.block(7))
    assert done.failures == ()
    assert world.noise() == [(7, "begun")]
    trouble = world.runtime.pallets[2]
    trouble.hook_error = bank.HomemadeError
    done = world.runtime.initialize_block(world.overlay, bank.block(8))
    ((pallet, failure),) = done.failures
    assert (pallet, failure.code) == ("trouble", "CallPanickedError")
    assert world.noise() == [(7, "begun")]
    world.runtime.finalize_block(world.overlay, bank.block(8))
    assert world.noise() == [(7, "begun"), (10_008, "done")]
    trouble.hook_error = MemoryError
    with pytest.raises(MemoryError):
        world.runtime.initialize_block(world.overlay, bank.block(9))
