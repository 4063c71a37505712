"""Effects: what leaves for L1, how much of it, and what never does."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealift.base import decode, encode
from sealift.frame import (
    BlockInfo,
    Context,
    EmittedEvent,
    Overlay,
    PageStore,
    Pallet,
    PalletError,
    Runtime,
    RuntimeDefinitionError,
    call,
)
from sealift.protocol import (
    MAX_EFFECTS,
    MAX_EFFECTS_BYTES,
    SIZE_CLASSES,
    PostponeOrder,
    StakeDecision,
    Unshield,
    effects_digest,
)
from sealift.stf import (
    RESERVED_BYTES,
    RESERVED_EFFECTS,
    EffectsFullError,
    EffectsPort,
    Executor,
    InsufficientFundsError,
    InsufficientReserveError,
    Limits,
    ShardBlock,
    ShieldedFunds,
    StandardPallets,
    escape,
)
from sealift.stf._effects import MAX_OUTSTANDING_BLOCKS
from sealift.stf._escapes import escapes_of

L1 = b"1" * 32
SLOW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def unshield(world: Any, who: Any, amount: int, **more: Any) -> bytes:
    return world.sealed(who, "balances.unshield", beneficiary=L1, amount=amount, **more)


def paid(amount: int) -> Unshield:
    return Unshield(beneficiary=L1, amount=amount)


class Faucet(Pallet):
    """Issues effects that nobody asked for, from calls and hooks."""

    name = "faucet"
    at_end = 0
    broken = False

    def __init__(self, effects: EffectsPort) -> None:
        self.effects = effects

    @call(weight=10)
    def pour(self, ctx: Context, *, count: int, fail: bool = False) -> None:
        for number in range(count):
            self.effects.issue(ctx, paid(number + 1))
        if fail:
            raise PalletError("no")

    @call(weight=10)
    def weigh(self, ctx: Context, *, size: int) -> None:
        self.effects.issue(ctx, bulky(size))

    def on_finalize(self, ctx: Context) -> None:
        for number in range(self.at_end):
            self.effects.issue(ctx, paid(number + 1), from_hook=True)
        if self.broken:
            raise PalletError("hook")


def bulky(size: int) -> StakeDecision:
    """An effect of about so many bytes, whatever it means."""
    order = PostponeOrder(
        chain_id="c",
        shard=b"s" * 32,
        serial=0,
        generation=0,
        upgrade_at=0,
        expiry=0,
    )
    big = msgspec.structs.replace(order, chain_id="c" * size)
    return StakeDecision(order=big, passed=False)


@pytest.fixture
def faucet_world(make_world: Callable[..., Any]) -> Any:
    def make(**more: Any) -> Any:
        world = make_world(**more)
        standard = StandardPallets()
        faucet = Faucet(standard.effects)
        runtime = Runtime(name="test", version=1, pallets=[*standard.pallets, faucet])
        world.upgrade(runtime, fingerprint=b"f" * 32)
        return world

    return make


def pour(world: Any, who: Any, count: int, **more: Any) -> bytes:
    return world.sealed(who, "faucet.pour", count=count, **more)


# --- unshielding ---


def test_unshielded_tokens_leave_the_shard_and_are_an_effect(world: Any) -> None:
    outcome = world.run(unshield(world, world.alice, 300))
    assert [r.receipt.outcome for r in outcome.receipts] == ["ok"]
    assert outcome.effects == (paid(300),)
    assert world.free(world.alice) == 700
    assert msgspec.msgpack.decode(world.ask(world.bob, "balances.issuance")) == 1700
    world.check_issuance()


def test_a_copied_unshield_is_paid_once(world: Any) -> None:
    raw = unshield(world, world.alice, 300)
    first = world.run(raw, raw)
    later = world.run(raw)
    assert (first.effects, later.effects) == ((paid(300),), ())
    assert [r.receipt.outcome for r in later.receipts] == ["ok"]
    assert world.free(world.alice) == 700


def test_a_copied_unshield_is_not_paid_by_the_code_after_an_upgrade(world: Any) -> None:
    raw = unshield(world, world.alice, 300)
    world.run(raw)
    standard = StandardPallets()
    world.upgrade(Runtime(name="test", version=2, pallets=standard.pallets))
    assert world.run(raw).effects == ()
    assert world.free(world.alice) == 700


@pytest.mark.parametrize("reserved", [0, 900])
def test_nobody_unshields_more_than_is_free(world: Any, reserved: int) -> None:
    ctx = world.context()
    world.pallet("balances").reserve(ctx, world.alice.id, reserved)
    world.store.apply(ctx.storage.changes)
    outcome = world.run(
        unshield(world, world.alice, 1001 - reserved), unshield(world, world.carol, 1)
    )
    assert [r.receipt.outcome for r in outcome.receipts] == [
        "InsufficientFundsError",
        "InsufficientFundsError",
    ]
    assert outcome.effects == ()
    assert world.pallet("balances").total.get(world.context()) == 2000


@pytest.mark.parametrize("amount", [0, -1, 2**63, "1", None, 1.0])
def test_unshielding_nothing_or_nonsense_is_refused(world: Any, amount: Any) -> None:
    args = msgspec.msgpack.encode([L1, amount])
    raw = world.sealed(world.alice, "balances.unshield", args=args)
    outcome = world.run(raw)
    assert outcome.receipts[0].receipt.outcome == "CallArgumentsError"
    assert outcome.effects == ()


def test_what_was_unshielded_can_be_shielded_again(world: Any) -> None:
    world.run(unshield(world, world.alice, 1000))
    world.run(ShieldedFunds(beneficiary=world.carol.id, amount=1000))
    assert (world.free(world.alice), world.free(world.carol)) == (0, 1000)
    world.check_issuance()


def test_the_receipt_tells_of_the_tokens_and_not_of_the_effect_twice(
    world: Any,
) -> None:
    outcome = world.run(
        unshield(world, world.alice, 300),
        world.sealed(world.bob, "balances.transfer", dest=world.alice.id, amount=3),
    )
    names = [
        [decode(EmittedEvent, event).name for event in entry.receipt.events]
        for entry in outcome.receipts
    ]
    assert names == [["balances.Unshielded"], ["balances.Transferred"]]
    sizes = {
        len(encode(entry.receipt)) // SIZE_CLASSES[0] for entry in outcome.receipts
    }
    assert sizes == {0}


def test_burnt_tokens_are_reserved_ones_and_leave_the_issuance(world: Any) -> None:
    ctx, balances = world.context(), world.pallet("balances")
    balances.reserve(ctx, world.alice.id, 100)
    balances.burn(ctx, world.alice.id, 60)
    assert balances.issuance(ctx) == 1940
    balances.check_issuance(ctx)
    with pytest.raises(InsufficientReserveError):
        balances.burn(ctx, world.alice.id, 41)


def test_passing_tokens_to_oneself_still_needs_them(world: Any) -> None:
    ctx, balances = world.context(), world.pallet("balances")
    with pytest.raises(InsufficientFundsError):
        balances.move(ctx, world.alice.id, world.alice.id, 1001)
    with pytest.raises(InsufficientReserveError):
        balances.pay(ctx, world.alice.id, world.alice.id, 1)


# --- maintenance ---


def test_in_maintenance_funds_can_be_taken_out_and_nothing_else_done(
    world: Any,
) -> None:
    def transfer(who: Any) -> bytes:
        return world.sealed(
            who, "balances.transfer", dest=world.carol.id, amount=1, nonce=0
        )

    wrapped = world.runtime.encode_call("balances.unshield", beneficiary=L1, amount=1)
    outcome = world.run(
        unshield(world, world.alice, 400),
        transfer(world.bob),
        world.sealed(world.sudo, "sudo.sudo", args=encode([wrapped])),
        world.sealed(world.carol, "balances.unshields", args=b"\x90"),
        mode="maintenance",
    )
    assert [r.receipt.outcome for r in outcome.receipts] == [
        "ok",
        "MaintenanceError",
        "MaintenanceError",
        "MaintenanceError",
    ]
    assert outcome.effects == (paid(400),)
    assert world.outcomes(transfer(world.bob)) == ["ok"]


class Hatch(Pallet):
    """An application's own way out."""

    name = "hatch"

    @escape
    @call(weight=10)
    def leave(self, ctx: Context) -> None:
        pass

    @call(weight=10)
    def stay(self, ctx: Context) -> None:
        pass


class BackHatch(Hatch):
    name = "back_hatch"


def test_an_application_marks_its_own_escapes(make_world: Any) -> None:
    world = make_world(Hatch(), BackHatch())
    assert world.outcomes(
        world.sealed(world.alice, "hatch.leave"),
        world.sealed(world.alice, "back_hatch.leave"),
        world.sealed(world.bob, "hatch.stay"),
        mode="maintenance",
    ) == ["ok", "ok", "MaintenanceError"]


def test_only_a_call_can_be_an_escape() -> None:
    def plain(ctx: Context) -> None:
        pass

    with pytest.raises(RuntimeDefinitionError):
        escape(plain)


def test_the_escapes_of_every_shard_are_known() -> None:
    assert "balances.unshield" in escapes_of(StandardPallets().pallets)
    assert "balances.transfer" not in escapes_of(StandardPallets().pallets)


# --- bounds ---


def test_the_effects_of_a_failed_call_do_not_leave(faucet_world: Any) -> None:
    world = faucet_world()
    outcome = world.run(
        pour(world, world.alice, 3, fail=True), pour(world, world.bob, 2)
    )
    assert [r.receipt.outcome for r in outcome.receipts] == ["PalletError", "ok"]
    assert outcome.effects == (paid(1), paid(2))
    failed = world.run(pour(world, world.alice, 3, fail=True))
    assert (failed.effects, failed.effects_before) == ((), 11)
    assert world.pallet("effects").last.get(world.context()) == 11


def test_the_effects_of_a_failed_hook_do_not_leave(faucet_world: Any) -> None:
    world = faucet_world()
    faucet = world.pallet("faucet")
    faucet.at_end, faucet.broken = 3, True
    outcome = world.run(pour(world, world.alice, 1))
    assert outcome.effects == (paid(1),)
    assert outcome.hook_failures[0][0] == "faucet"


def test_calls_and_hooks_issue_in_the_order_of_the_block(faucet_world: Any) -> None:
    world = faucet_world()
    world.pallet("faucet").at_end = 1
    outcome = world.run(
        pour(world, world.bob, 2), unshield(world, world.alice, 9), b"junk"
    )
    assert outcome.effects == (paid(1), paid(2), paid(9), paid(1))
    assert all(event.name != "effects.EffectIssued" for event in outcome.events)


def test_blocks_with_effects_are_a_chain(world: Any) -> None:
    told = []
    for amount in (5, None, 6, 7, None):
        calls = [] if amount is None else [unshield(world, world.alice, amount)]
        outcome = world.run(*calls)
        told.append((world.height, len(outcome.effects), outcome.effects_before))
        if amount is None:
            assert outcome.changes == {}
    assert told == [(11, 1, 0), (12, 0, 11), (13, 1, 11), (14, 1, 13), (15, 0, 14)]


def test_calls_never_take_the_places_of_hooks(faucet_world: Any) -> None:
    world = faucet_world()
    world.pallet("faucet").at_end = RESERVED_EFFECTS
    most = MAX_EFFECTS - RESERVED_EFFECTS
    outcome = world.run(
        pour(world, world.alice, most - 1),
        pour(world, world.bob, 2),
        unshield(world, world.alice, 5),
        unshield(world, world.bob, 6),
    )
    assert [r.receipt.outcome for r in outcome.receipts] == [
        "ok",
        "EffectsFullError",
        "ok",
        "EffectsFullError",
    ]
    assert len(outcome.effects) == MAX_EFFECTS
    assert outcome.hook_failures == ()
    # the nonce of who was refused is consumed, the tokens are not
    assert world.pallet("system").account(world.context(), world.bob.id).nonce == 2
    assert (world.free(world.alice), world.free(world.bob)) == (995, 1000)
    world.check_issuance()
    assert world.run(unshield(world, world.bob, 6)).effects[0] == paid(6)


def test_a_hook_that_wants_more_than_there_is_fails_by_itself(
    faucet_world: Any,
) -> None:
    world = faucet_world()
    world.pallet("faucet").at_end = MAX_EFFECTS
    outcome = world.run(unshield(world, world.alice, 5))
    assert outcome.effects == (paid(5),)
    ((pallet, failure),) = outcome.hook_failures
    assert (pallet, failure.code) == ("faucet", "EffectsFullError")


def test_bytes_are_bounded_as_places_are(faucet_world: Any) -> None:
    world = faucet_world()

    def weigh(who: Any, size: int) -> bytes:
        return world.sealed(who, "faucet.weigh", size=size)

    room = MAX_EFFECTS_BYTES - RESERVED_BYTES
    effects = world.pallet("effects")
    own = len(encode(bulky(70_000))) - 70_000
    exact = room - 3 - own
    assert world.outcomes(weigh(world.alice, exact + 1)) == ["EffectsFullError"]
    ctx = world.context()
    effects.issue(ctx, bulky(exact))
    with pytest.raises(EffectsFullError):
        effects.issue(ctx, paid(1))
    effects.issue(ctx, paid(1), from_hook=True)
    assert effects.used.get(ctx).count == 2


@given(
    wanted=st.lists(
        st.tuples(st.booleans(), st.integers(1, 2**62), st.integers(0, 9_000)),
        max_size=60,
    )
)
@SLOW
def test_no_mixture_of_effects_exceeds_the_bounds(
    world: Any, wanted: list[tuple[bool, int, int]]
) -> None:
    ctx, effects = world.context(), world.pallet("effects")
    taken = []
    for from_hook, amount, size in wanted:
        effect = bulky(size) if size > 4_000 else paid(amount)
        try:
            effects.issue(ctx, effect, from_hook=from_hook)
        except EffectsFullError:
            continue
        taken.append(effect)
    assert len(taken) <= MAX_EFFECTS
    assert len(encode(tuple(taken))) <= MAX_EFFECTS_BYTES
    assert len(ctx.emitted) == len(taken)


def test_the_places_of_a_block_are_there_again_in_the_next(faucet_world: Any) -> None:
    world = faucet_world(limits=Limits(hook_weight=10_000_000))
    most = MAX_EFFECTS - RESERVED_EFFECTS
    for _ in range(3):
        outcome = world.run(pour(world, world.alice, most))
        assert len(outcome.effects) == most
    world.run(effects_done=world.height)
    assert [key for key, _ in world.store.items(b"effects/")] == [
        b"effects/last/",
        b"effects/used/",
        b"effects/waiting/",
    ]


def outstanding(world: Any) -> dict[int, tuple[int, tuple[Unshield, ...]]]:
    found = world.executor.outstanding(world.store, height=world.height, time=1)
    return {one.height: (one.previous, one.effects) for one in found}


def test_the_state_keeps_effects_until_l1_has_executed_them(world: Any) -> None:
    """Who comes after the executor is gone finds there what is still to be said."""
    world.run(unshield(world, world.alice, 5))
    first = world.height
    world.run(effects_done=0)
    world.run(unshield(world, world.alice, 6), effects_done=0)
    second = world.height
    both = {first: (0, (paid(5),)), second: (first, (paid(6),))}
    assert outstanding(world) == both
    world.restart()
    assert outstanding(world) == both
    world.run(effects_done=first)
    assert outstanding(world) == {second: both[second]}
    world.run(effects_done=second)
    assert outstanding(world) == {}


def test_while_l1_lags_calls_get_no_more_effects(world: Any) -> None:
    """What waits is bounded; nothing is lost, and the user may call again."""
    for _ in range(MAX_OUTSTANDING_BLOCKS + 1):
        done = world.outcomes(unshield(world, world.alice, 1), effects_done=0)
        assert done == ["ok"]
    refused = world.outcomes(unshield(world, world.alice, 1), effects_done=0)
    assert refused == ["EffectsFullError"]
    oldest = min(outstanding(world))
    done = world.outcomes(unshield(world, world.alice, 1), effects_done=oldest)
    assert done == ["ok"]


def test_under_an_l1_that_does_not_say_the_last_ones_are_kept(world: Any) -> None:
    for _ in range(MAX_OUTSTANDING_BLOCKS + 3):
        assert world.outcomes(unshield(world, world.alice, 1)) == ["ok"]
    world.run()
    assert len(outstanding(world)) == MAX_OUTSTANDING_BLOCKS
    assert max(outstanding(world)) == world.height - 1


def test_effects_are_the_same_on_every_instance(world: Any) -> None:
    raws = [unshield(world, world.alice, 5), unshield(world, world.bob, 6)]
    one = world.run(*raws, apply=False)
    world.restart()
    two = world.run(*raws, height=world.height)
    assert effects_digest(one.effects) == effects_digest(two.effects)
    assert one.changes == two.changes


def test_invariant_11_an_effect_is_issued_once_across_restarts(world: Any) -> None:
    raw = unshield(world, world.alice, 5)
    told = []
    for _ in range(4):
        told += world.run(raw).effects
        world.restart()
    assert told == [paid(5)]


# --- a state from before there were effects ---


def test_a_state_without_these_pallets_is_taken_over(world: Any) -> None:
    standard = StandardPallets()
    old = tuple(p for p in standard.pallets if p.name not in ("effects", "democracy"))
    store = PageStore(bits=6, key=b"p" * 32)
    block = BlockInfo(chain_id="test-chain", height=10, time=1, shard=b"s" * 32)
    endowed = [{"account": world.alice.id, "free": 1000}]
    Runtime(name="test", version=1, pallets=old).apply_genesis(
        store,
        block,
        {"balances": {"endowments": endowed}, "sudo": {"key": world.sudo.id.hex()}},
    )
    world.store = store
    raw = unshield(world, world.alice, 5)
    world.upgrade(Runtime(name="test", version=1, pallets=StandardPallets().pallets))
    outcome = world.run(raw)
    assert outcome.migration is not None
    migrated = {one.pallet: one.from_version for one in outcome.migration.migrated}
    assert migrated["effects"] == 0
    assert set(migrated) <= {"effects", "democracy"}
    assert (outcome.effects, outcome.effects_before) == ((paid(5),), 0)
    assert world.run().migration is None


def test_the_executor_issues_for_its_own_block_only(world: Any) -> None:
    """Heights without the shard's items are executed as well, and say nothing."""
    executor: Executor = world.executor
    block = ShardBlock(height=99, block_hash=b"b" * 32, time=9, items=())
    outcome = executor.execute_block(world.store, block)
    assert (outcome.effects, outcome.effects_before) == ((), 0)
    assert Overlay.over(world.store).get(b"effects/last/") is None
