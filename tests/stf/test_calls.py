"""What becomes of calls: executed, refused, copied, forgotten."""

from collections.abc import Callable
from typing import Any

import pytest

from sealift.base import decode
from sealift.frame import (
    Context,
    EmittedEvent,
    Pallet,
    PalletError,
    Runtime,
    RuntimeDefinitionError,
    call,
)
from sealift.protocol import (
    MAX_VALIDITY,
    SealedReceipt,
    open_receipt,
    seal_receipt,
)
from sealift.stf import (
    BlockFullError,
    CallExpiredError,
    CallRefusedError,
    Executor,
    FingerprintPinError,
    Limits,
    MaintenanceError,
    NonceAheadError,
    NonceConsumedError,
    ShardRuntimeError,
    ShieldedFunds,
    StandardPallets,
    ValidityTooLongError,
)
from sealift.stf._admission import check_admission, check_room


class AngryError(PalletError):
    """It was angry.

    Nobody knows why.
    """


class Mischief(Pallet):
    """Calls that do what calls must not."""

    name = "mischief"
    errors = (AngryError,)

    @call(weight=10)
    def angry(self, ctx: Context) -> None:
        raise AngryError("no", got={"a", "b", "c"})

    @call(weight=10)
    def panics(self, ctx: Context) -> None:
        raise KeyError("something with an address", object())

    @call(weight=10)
    def starves(self, ctx: Context) -> None:
        raise MemoryError

    @call(weight=10)
    def sinks(self, ctx: Context) -> None:
        self.sinks(ctx)

    @call(weight=150)
    def bulky(self, ctx: Context) -> None:
        pass

    @call(weight=10)
    def works(self, ctx: Context, *, hard: int) -> None:
        ctx.charge(hard)


@pytest.fixture
def wild(make_world: Callable[..., Any]) -> Any:
    return make_world(Mischief())


def transfer(world: Any, who: Any, amount: int = 1, **more: Any) -> bytes:
    return world.sealed(
        who, "balances.transfer", dest=world.bob.id, amount=amount, **more
    )


def nonce(world: Any, who: Any) -> int:
    return world.pallet("system").account(world.context(), who.id).nonce


def test_a_transfer_moves_tokens_and_its_receipt_says_ok(world: Any) -> None:
    outcome = world.run(transfer(world, world.alice, 7))
    receipt = outcome.receipts[0].receipt
    assert (receipt.outcome, receipt.height, receipt.index) == ("ok", 11, 0)
    assert [decode(EmittedEvent, e).name for e in receipt.events] == [
        "balances.Transferred"
    ]
    assert world.free(world.alice) == 993
    assert world.free(world.bob) == 1007
    assert outcome.counts.succeeded == outcome.counts.calls == 1


def test_a_failed_call_consumes_its_nonce_and_nothing_else(world: Any) -> None:
    outcome = world.run(transfer(world, world.alice, 5000))
    receipt = outcome.receipts[0].receipt
    assert receipt.outcome == "InsufficientFundsError"
    assert receipt.message == "The account has less free than the amount."
    assert nonce(world, world.alice) == 1
    assert world.free(world.alice) == 1000
    assert outcome.counts.failed == 1


def test_an_unknown_call_fails_by_name_and_consumes_its_nonce(world: Any) -> None:
    raw = world.sealed(world.alice, "casino.roulette", args=b"\x90")
    assert world.outcomes(raw) == ["UnknownCallError"]
    assert nonce(world, world.alice) == 1


def test_arguments_that_do_not_fit_fail_by_name(world: Any) -> None:
    raw = world.sealed(world.alice, "balances.transfer", args=b"\x91" * 200)
    assert world.outcomes(raw) == ["CallArgumentsError"]
    assert nonce(world, world.alice) == 1


def test_a_copy_yields_the_first_ones_receipt_in_the_same_block(world: Any) -> None:
    raw = transfer(world, world.alice, 7)
    outcome = world.run(raw, transfer(world, world.bob), raw)
    first, _, copy = outcome.receipts
    assert copy == first
    assert world.free(world.alice) == 993
    assert (outcome.counts.succeeded, outcome.counts.copies) == (2, 1)


def test_a_copy_yields_the_first_ones_receipt_blocks_later(world: Any) -> None:
    raw = transfer(world, world.alice, 7)
    world.run(transfer(world, world.bob), raw)
    later = [world.run(raw).receipts[0].receipt for _ in range(3)]
    assert {(r.outcome, r.height, r.index) for r in later} == {("ok", 11, 1)}
    assert world.free(world.alice) == 993


def test_a_resealed_copy_is_still_a_copy(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=7)
    outcome = world.run(world.seal(world.alice, body), world.seal(world.alice, body))
    first, copy = outcome.receipts
    assert copy.receipt == first.receipt
    assert copy.envelope != first.envelope
    assert world.free(world.alice) == 993


def test_a_copy_of_a_failed_call_does_not_try_again(world: Any) -> None:
    raw = transfer(world, world.alice, 1500)
    assert world.outcomes(raw) == ["InsufficientFundsError"]
    world.run(ShieldedFunds(beneficiary=world.alice.id, amount=1000))
    assert world.outcomes(raw) == ["InsufficientFundsError"]
    assert world.free(world.alice) == 2000


def test_two_calls_of_one_nonce_the_second_is_refused(world: Any) -> None:
    one = transfer(world, world.alice, 7, nonce=0)
    two = transfer(world, world.alice, 8, nonce=0)
    assert world.outcomes(one, two) == ["ok", "NonceConsumedError"]
    assert world.free(world.alice) == 993


def test_calls_out_of_order_wait_for_nobody_but_may_come_again(world: Any) -> None:
    first, second = transfer(world, world.alice, 7), transfer(world, world.alice, 8)
    assert world.outcomes(second, first, second) == ["NonceAheadError", "ok", "ok"]
    assert world.free(world.alice) == 985


def test_equal_envelopes_in_one_block_never_seal_two_receipts_under_one_key(
    world: Any,
) -> None:
    first, second = transfer(world, world.alice, 7), transfer(world, world.alice, 8)
    world.run(first)
    outcome = world.run(second, second, first, second, first)
    sealed: dict[tuple[bytes, int], SealedReceipt] = {}
    for entry in outcome.receipts:
        one = seal_receipt(
            entry.receipt,
            reply_key=entry.reply_key,
            envelope=entry.envelope,
            block_hash=b"b" * 32,
        )
        assert sealed.setdefault((one.envelope, one.index), one) == one
        opened = open_receipt(one, reply_key=b"r" * 32, block_hash=b"b" * 32)
        assert opened == entry.receipt


def test_a_receipt_is_forgotten_only_after_its_call_expired(world: Any) -> None:
    raw = transfer(world, world.alice, 7, valid_until=14)
    assert world.outcomes(raw) == ["ok"]
    for _ in range(3):
        assert world.outcomes(raw) == ["ok"]
    assert world.height == 14
    assert world.outcomes(raw) == ["NonceConsumedError"]
    for place in (b"system/receipts/", b"system/chunks/"):
        assert world.store.items(place) == []
    assert world.free(world.alice) == 993


def test_receipts_of_many_expiries_and_blocks_are_all_forgotten(world: Any) -> None:
    for _ in range(4):
        world.run(
            *(
                transfer(world, who, 1, valid_until=world.height + offset)
                for who in (world.alice, world.bob)
                for offset in (1, 3, 3, 6)
            )
        )
    assert len(world.store.items(b"system/receipts/")) > 10
    world.run(height=world.height + 100)  # heights that were never executed
    assert world.store.items(b"system/receipts/") == []
    assert world.store.items(b"system/chunks/") == []
    assert world.pallet("system").pending.get(world.context()) == ()


def test_forgetting_is_bounded_and_goes_on_in_the_next_block(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.stf._system.MAX_FORGOTTEN", 2)
    for _ in range(3):
        calls = [transfer(world, world.alice, 1, valid_until=20) for _ in range(2)]
        world.run(*calls)
    left = []
    world.height = 19
    for _ in range(4):
        world.run()
        left.append(len(world.store.items(b"system/receipts/")))
    assert left == [4, 2, 0, 0]


def test_expired_and_overlong_calls_are_refused_and_keep_their_nonce(
    world: Any,
) -> None:
    height = world.height + 1
    assert world.outcomes(
        transfer(world, world.alice, nonce=0, valid_until=height - 1),
        transfer(world, world.alice, nonce=0, valid_until=height + MAX_VALIDITY + 1),
    ) == ["CallExpiredError", "ValidityTooLongError"]
    assert nonce(world, world.alice) == 0
    height = world.height + 1
    assert world.outcomes(
        transfer(world, world.alice, nonce=0, valid_until=height),
        transfer(world, world.alice, nonce=1, valid_until=height + MAX_VALIDITY),
    ) == ["ok", "ok"]


def test_a_pin_to_this_fingerprint_holds_and_to_another_refuses(world: Any) -> None:
    assert world.outcomes(
        transfer(world, world.alice, nonce=0, pin=b"x" * 32),
        transfer(world, world.alice, nonce=0, pin=b"f" * 32),
    ) == ["FingerprintPinError", "ok"]
    assert nonce(world, world.alice) == 1


def test_in_maintenance_calls_fail_by_name_and_nothing_is_lost(world: Any) -> None:
    done = transfer(world, world.alice, 7)
    world.run(done)
    raw = transfer(world, world.alice, 8)
    deposit = ShieldedFunds(beneficiary=world.carol.id, amount=5)
    outcome = world.run(raw, done, deposit, mode="maintenance")
    assert [r.receipt.outcome for r in outcome.receipts] == ["MaintenanceError", "ok"]
    assert world.free(world.alice) == 993
    assert world.free(world.carol) == 5
    assert world.outcomes(raw) == ["ok"]
    assert world.free(world.alice) == 985


def test_a_refused_envelope_gets_a_receipt_in_its_place(world: Any) -> None:
    outcome = world.run(b"junk", transfer(world, world.alice), b"")
    assert [(r.receipt.index, r.receipt.outcome) for r in outcome.receipts] == [
        (0, "EnvelopeError"),
        (1, "ok"),
        (2, "EnvelopeError"),
    ]
    assert [r.reply_key is None for r in outcome.receipts] == [True, False, True]
    assert outcome.counts.refused == 2


def test_each_admission_rule_raises_its_own_error(world: Any) -> None:
    def admit(**changes: Any) -> None:
        fields = {
            "nonce": 0,
            "height": 20,
            "maintenance": False,
            "code": {b"f" * 32},
            **changes,
        }
        pin = fields.pop("pin", None)
        valid_until = fields.pop("valid_until", 30)
        body = world.body(
            world.alice,
            "balances.transfer",
            dest=world.bob.id,
            amount=1,
            nonce=4,
            valid_until=valid_until,
            pin=pin,
        )
        check_admission(body, **fields)

    admit(nonce=4)
    with pytest.raises(NonceConsumedError):
        admit(nonce=5)
    with pytest.raises(NonceAheadError):
        admit(nonce=3)
    with pytest.raises(MaintenanceError):
        admit(nonce=4, maintenance=True)
    with pytest.raises(CallExpiredError):
        admit(nonce=4, valid_until=19)
    with pytest.raises(ValidityTooLongError):
        admit(nonce=4, valid_until=20 + MAX_VALIDITY + 1)
    with pytest.raises(FingerprintPinError):
        admit(nonce=4, pin=b"x" * 32)
    with pytest.raises(CallRefusedError):
        admit(nonce=5)


def test_what_a_call_says_of_its_failure_is_the_same_on_every_machine(
    wild: Any,
) -> None:
    outcome = wild.run(
        wild.sealed(wild.alice, "mischief.angry"),
        wild.sealed(wild.alice, "mischief.panics"),
    )
    receipts = [r.receipt for r in outcome.receipts]
    assert [(r.outcome, r.message) for r in receipts] == [
        ("AngryError", "It was angry."),
        ("CallPanickedError", "KeyError"),
    ]
    assert nonce(wild, wild.alice) == 2


@pytest.mark.parametrize(
    ("name", "error"), [("starves", MemoryError), ("sinks", RecursionError)]
)
def test_a_starved_process_ends_instead_of_failing_a_call(
    wild: Any, name: str, error: type[BaseException]
) -> None:
    root = wild.store.root()
    with pytest.raises(error):
        wild.run(
            transfer(wild, wild.alice), wild.sealed(wild.alice, f"mischief.{name}")
        )
    assert wild.store.root() == root


def test_a_full_block_refuses_calls_and_they_come_again(
    make_world: Callable[..., Any],
) -> None:
    limits = Limits(block_weight=300, call_weight=200, base_weight=100)
    world = make_world(limits=limits)
    calls = [
        transfer(world, who, 1)
        for who in (world.alice, world.bob, world.alice, world.bob)
    ]
    outcome = world.run(*calls)
    assert [r.receipt.outcome for r in outcome.receipts] == [
        "ok",
        "ok",
        BlockFullError.code,
        BlockFullError.code,
    ]
    assert outcome.weight == 260 <= limits.block_weight
    assert world.outcomes(*calls[2:]) == ["ok", "ok"]
    assert world.free(world.alice) == 998


def test_a_call_never_fails_for_good_because_of_the_calls_before_it(
    make_world: Callable[..., Any],
) -> None:
    limits = Limits(block_weight=1000, call_weight=600, base_weight=100)
    world = make_world(Mischief(), limits=limits)

    def works(who: Any, hard: int) -> bytes:
        return world.sealed(who, "mischief.works", hard=hard)

    heavy, light = works(world.alice, 500), works(world.bob, 500)
    assert world.outcomes(heavy, light) == ["ok", "BlockFullError"]
    assert world.outcomes(light) == ["ok"]
    # too heavy for any block: that is its own fault
    assert world.outcomes(works(world.alice, 601)) == ["WeightExceededError"]
    assert nonce(world, world.alice) == 2


def test_a_call_that_finds_no_room_takes_none_from_the_next(
    make_world: Callable[..., Any],
) -> None:
    limits = Limits(block_weight=450, call_weight=300, base_weight=100)
    world = make_world(Mischief(), limits=limits)
    outcome = world.run(
        world.sealed(world.alice, "mischief.bulky"),
        world.sealed(world.bob, "mischief.bulky"),
        transfer(world, world.alice),
    )
    assert [r.receipt.outcome for r in outcome.receipts] == [
        "ok",
        "BlockFullError",
        "ok",
    ]
    assert outcome.weight == 380


def test_room_is_checked_to_the_last_unit_of_weight() -> None:
    check_room(7, left=7)
    with pytest.raises(BlockFullError):
        check_room(8, left=7)
    with pytest.raises(BlockFullError):
        check_room(0, left=-1)


def test_deposits_and_calls_take_effect_in_the_order_of_the_block(world: Any) -> None:
    deposit = ShieldedFunds(beneficiary=world.carol.id, amount=50)
    early = world.sealed(world.carol, "balances.transfer", dest=world.bob.id, amount=50)
    late = world.sealed(world.carol, "balances.transfer", dest=world.bob.id, amount=50)
    outcome = world.run(early, deposit, late)
    assert [(r.receipt.index, r.receipt.outcome) for r in outcome.receipts] == [
        (0, "InsufficientFundsError"),
        (2, "ok"),
    ]
    assert outcome.counts.deposits == 1
    world.check_issuance()


def test_a_deposit_that_cannot_be_counted_is_reported_and_changes_nothing(
    world: Any,
) -> None:
    deposit = ShieldedFunds(beneficiary=world.carol.id, amount=2**63 - 1)
    outcome = world.run(deposit)
    assert outcome.deposits[0].failure.code == "IssuanceOverflowError"
    assert world.free(world.carol) == 0
    world.check_issuance()


def test_an_idle_block_changes_nothing(world: Any) -> None:
    world.run(transfer(world, world.alice))
    assert [dict(world.run().changes) for _ in range(3)] == [{}, {}, {}]


def test_the_state_that_a_block_reads_stays_untouched(world: Any) -> None:
    before = world.store.items(b"")
    outcome = world.run(transfer(world, world.alice), apply=False)
    assert world.store.items(b"") == before
    assert list(outcome.changes) == sorted(outcome.changes)


def test_a_runtime_without_the_standard_pallets_is_no_shards_runtime() -> None:
    standard = StandardPallets()
    for pallets in ((), standard.pallets[1:], standard.pallets[:-1]):
        runtime = Runtime(name="bare", version=1, pallets=pallets)
        with pytest.raises(ShardRuntimeError):
            Executor(runtime, chain_id="c", shard=b"s" * 32, fingerprint=b"f" * 32)


def test_a_standard_pallet_cannot_be_there_twice() -> None:
    standard = StandardPallets()
    with pytest.raises(RuntimeDefinitionError):
        Runtime(name="double", version=1, pallets=[*standard.pallets, standard.system])


def test_events_of_copies_cannot_fill_the_frame_that_receipts_leave_in(
    make_world: Any,
) -> None:
    """A few large events, copied a thousand times in a block, would stop a shard."""
    plain = make_world()
    raw = transfer(plain, plain.alice, 7)
    size = sum(map(len, plain.run(raw).receipts[0].receipt.events))
    assert size > 0
    bounded = make_world(limits=Limits(told_bytes=2 * size))
    copies = [transfer(bounded, bounded.alice, 7)] * 5
    receipts = [one.receipt for one in bounded.run(*copies).receipts]
    assert [bool(one.events) for one in receipts] == [True, True, False, False, False]
    assert {one.outcome for one in receipts} == {"ok"}
    (later,) = bounded.run(transfer(bounded, bounded.bob)).receipts
    assert later.receipt.events, "the next block has room of its own"
