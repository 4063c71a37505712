"""The standard pallets: tokens, sudo, time, orders."""

from typing import Any

import msgspec
import pytest

from sealift.base import InvariantError, encode
from sealift.frame import (
    ROOT,
    BadOriginError,
    Context,
    GenesisError,
    Pallet,
    PalletError,
    Signed,
    StorageValue,
    call,
    ensure_root,
)
from sealift.protocol import (
    AnyOf,
    CancelOrder,
    EntryStatus,
    KeyEndorsement,
    PostponeOrder,
    RotationRequest,
    RulesOrder,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignedOrder,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    WithdrawOrder,
    sign_order,
)
from sealift.stf import (
    InsufficientFundsError,
    InsufficientReserveError,
    IssuanceOverflowError,
    NegativeAmountError,
    NotAuthorityError,
    NotSudoError,
    OrderElsewhereError,
    OrderExpiredError,
    OrderHeightsError,
    OrderKindError,
    OrderStaleError,
    ShieldedFunds,
)


def funds(world: Any, ctx: Any, who: Any) -> tuple[int, int]:
    found = world.pallet("balances").funds(ctx, who.id)
    return found.free, found.reserved


def test_reserved_tokens_cannot_be_spent_and_come_back(world: Any) -> None:
    ctx, balances = world.context(), world.pallet("balances")
    alice, bob = world.alice, world.bob
    balances.reserve(ctx, alice.id, 900)
    assert funds(world, ctx, alice) == (100, 900)
    with pytest.raises(InsufficientFundsError):
        balances.move(ctx, alice.id, bob.id, 101)
    with pytest.raises(InsufficientFundsError):
        balances.reserve(ctx, alice.id, 101)
    with pytest.raises(InsufficientReserveError):
        balances.unreserve(ctx, alice.id, 901)
    with pytest.raises(InsufficientReserveError):
        balances.pay(ctx, alice.id, bob.id, 901)
    balances.pay(ctx, alice.id, bob.id, 300)
    balances.unreserve(ctx, alice.id, 600)
    assert funds(world, ctx, alice) == (700, 0)
    assert funds(world, ctx, bob) == (1300, 0)
    balances.check_issuance(ctx)


def test_paying_oneself_changes_nothing_in_sum(world: Any) -> None:
    ctx, balances = world.context(), world.pallet("balances")
    balances.move(ctx, world.alice.id, world.alice.id, 1000)
    balances.reserve(ctx, world.alice.id, 10)
    balances.pay(ctx, world.alice.id, world.alice.id, 10)
    assert funds(world, ctx, world.alice) == (1000, 0)
    balances.check_issuance(ctx)


@pytest.mark.parametrize("method", ["reserve", "unreserve"])
def test_a_pallet_that_asks_for_less_than_nothing_fails_its_call(
    world: Any, method: str
) -> None:
    with pytest.raises(NegativeAmountError):
        getattr(world.pallet("balances"), method)(world.context(), world.alice.id, -1)


@pytest.mark.parametrize("method", ["move", "pay"])
def test_nobody_is_robbed_by_a_negative_amount(world: Any, method: str) -> None:
    with pytest.raises(NegativeAmountError):
        getattr(world.pallet("balances"), method)(
            world.context(), world.alice.id, world.bob.id, -1
        )


def test_a_negative_transfer_is_no_transfer(world: Any) -> None:
    args = encode([world.bob.id, -5])
    raw = world.sealed(world.alice, "balances.transfer", args=args)
    assert world.outcomes(raw) == ["CallArgumentsError"]


def test_issuance_cannot_overflow(world: Any) -> None:
    with pytest.raises(IssuanceOverflowError):
        world.pallet("balances").deposit(world.context(), world.alice.id, 2**63 - 1)


def test_an_audit_finds_tokens_from_nowhere(world: Any) -> None:
    ctx, system = world.context(), world.pallet("system")
    account = system.account(ctx, world.alice.id)
    system.put_account(
        ctx, world.alice.id, msgspec.structs.replace(account, free=account.free + 1)
    )
    with pytest.raises(InvariantError):
        world.pallet("balances").check_issuance(ctx)


def test_an_account_endowed_twice_is_a_bad_genesis(make_world: Any, world: Any) -> None:
    twice = [{"account": world.alice.id, "free": 1}] * 2
    with pytest.raises(GenesisError):
        make_world(genesis={"balances": {"endowments": twice}})


def test_an_account_and_its_nonce_are_one_small_record(world: Any) -> None:
    raw = world.sealed(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    world.run(raw)
    records = world.store.items(b"system/accounts/")
    assert len(records) == 2
    assert max(len(value) for _, value in records) <= 28


class Vault(Pallet):
    """Opens to root alone."""

    name = "vault"
    opened: StorageValue[int] = StorageValue("opened", int, default=0)

    @call(weight=10)
    def open(self, ctx: Context, *, fail: bool = False) -> None:
        ensure_root(ctx.origin)
        self.opened.put(ctx, self.opened.get(ctx) + 1)
        if fail:
            raise PalletError("no")


def test_sudo_runs_as_root_and_fails_with_its_inner_call(make_world: Any) -> None:
    world = make_world(Vault())

    def sudo(who: Any, name: str, **args: Any) -> bytes:
        inner = world.runtime.encode_call(name, **args)
        return world.sealed(who, "sudo.sudo", args=encode([inner]))

    assert world.outcomes(
        sudo(world.sudo, "vault.open"),
        sudo(world.sudo, "vault.open", fail=True),
        sudo(world.alice, "vault.open"),
        world.sealed(world.sudo, "vault.open"),
    ) == ["ok", "PalletError", "NotSudoError", "BadOriginError"]
    assert world.pallet("vault").opened.get(world.context()) == 1


def test_sudo_is_handed_over(world: Any) -> None:
    assert world.outcomes(
        world.sealed(world.sudo, "sudo.set_key", key=world.alice.id),
        world.sealed(world.sudo, "sudo.set_key", key=world.sudo.id),
        world.sealed(world.alice, "sudo.set_key", key=world.bob.id),
    ) == ["ok", "NotSudoError", "ok"]
    assert msgspec.msgpack.decode(world.ask(world.carol, "sudo.key")) == world.bob.id


def test_only_a_signature_makes_sudo(world: Any) -> None:
    sudo = world.pallet("sudo")
    with pytest.raises(BadOriginError):
        sudo.ensure_sudo(world.context(ROOT))
    with pytest.raises(NotSudoError):
        sudo.ensure_sudo(world.context(Signed(account=world.alice.id)))


def test_the_time_of_blocks_that_held_something_is_noted(world: Any) -> None:
    world.run(ShieldedFunds(beneficiary=world.carol.id, amount=5))
    noted = world.time
    world.run()
    answer = msgspec.msgpack.decode(world.ask(world.bob, "timestamp.last_block"))
    assert answer == [world.height - 1, noted]


# --- orders ---

CONFIG = ShardConfig(code={"insecure-sim": b"B" * 32})


def upgrade(**changes: Any) -> UpgradeOrder:
    return UpgradeOrder(
        **{
            "chain_id": "test-chain",
            "shard": b"s" * 32,
            "serial": 0,
            "predecessor": 0,
            "config": CONFIG,
            "release_from": 50,
            "upgrade_at": 60,
            "expiry": 40,
            **changes,
        }
    )


def signed(order: Any, secret: bytes) -> bytes:
    return encode(sign_order(order, secret))


def forged(order: Any, world: Any) -> bytes:
    """Sudo's key beside somebody else's signature."""
    endorsement = KeyEndorsement(
        key=world.sudo.id, signature=order.sign(world.alice.secret)
    )
    return encode(SignedOrder(order=order, endorsements=(endorsement,)))


def schedule(world: Any, *, serial: int = 0, key: bytes | None = None) -> Schedule:
    return Schedule(
        chain_id="test-chain",
        shard=b"s" * 32,
        rules=ShardRules(
            authority=SudoAuthority(key=key or world.sudo.id),
            genesis=b"g" * 32,
            min_notice=5,
            rescue_after=10,
        ),
        serial=serial,
        entries=(
            ScheduleEntry(
                generation=0,
                predecessor=None,
                config=CONFIG,
                order=b"o" * 32,
                recorded_at=1,
                release_from=1,
                upgrade_at=2,
                since=2,
                status=EntryStatus.ACTIVE,
            ),
        ),
        status=ShardStatus(),
    )


def send(world: Any, who: Any, raw: bytes, name: str = "update_mrenclave") -> bytes:
    return world.sealed(who, f"enclave_update.{name}", order=raw)


def test_an_order_of_sudo_leaves_for_l1_with_its_own_signature(world: Any) -> None:
    order = upgrade()
    raw = signed(order, world.sudo.secret)
    outcome = world.run(send(world, world.sudo, raw))
    assert [r.receipt.outcome for r in outcome.receipts] == ["ok"]
    (carried,) = outcome.orders
    assert carried.order == order
    carried.verify_endorsements()
    assert [one.key for one in carried.endorsements] == [world.sudo.id]


def test_a_copy_of_the_call_does_not_issue_the_order_again(world: Any) -> None:
    call = send(world, world.sudo, signed(upgrade(), world.sudo.secret))
    assert len(world.run(call, call).orders) == 1
    assert world.run(call).orders == ()


def test_orders_that_would_not_be_accepted_do_not_leave(world: Any) -> None:
    mine = world.sudo.secret
    status = StatusOrder(
        chain_id="test-chain",
        shard=b"s" * 32,
        serial=0,
        status=ShardStatus(mode="maintenance"),
        expiry=40,
    )
    cases = {
        "NotSudoError": (world.alice, signed(upgrade(), world.alice.secret)),
        "NotAuthorityError": (world.sudo, signed(upgrade(), world.alice.secret)),
        "SignatureInvalidError": (world.sudo, forged(upgrade(), world)),
        "OrderElsewhereError": (world.sudo, signed(upgrade(shard=b"x" * 32), mine)),
        "OrderExpiredError": (world.sudo, signed(upgrade(expiry=3), mine)),
        "OrderHeightsError": (world.sudo, signed(upgrade(release_from=60), mine)),
        "OrderKindError": (world.sudo, signed(status, mine)),
    }
    for name, (who, raw) in cases.items():
        outcome = world.run(send(world, who, raw))
        assert [r.receipt.outcome for r in outcome.receipts] == [name]
        assert outcome.orders == ()


def test_cancel_and_status_orders_travel_by_their_own_calls(world: Any) -> None:
    place = {"chain_id": "test-chain", "shard": b"s" * 32, "serial": 0, "expiry": 40}
    cancel = CancelOrder(generation=1, **place)
    status = StatusOrder(status=ShardStatus(mode="maintenance"), **place)
    mine = world.sudo.secret
    outcome = world.run(
        send(world, world.sudo, signed(cancel, mine), "cancel_update"),
        send(world, world.sudo, signed(status, mine), "set_status"),
        send(world, world.sudo, signed(status, mine), "cancel_update"),
    )
    assert [entry.order for entry in outcome.orders] == [cancel, status]
    assert outcome.receipts[2].receipt.outcome == "OrderKindError"


PLACE = {"chain_id": "test-chain", "shard": b"s" * 32, "serial": 0, "expiry": 40}
EVERY_KIND = [
    upgrade(),
    CancelOrder(generation=1, **PLACE),
    PostponeOrder(generation=1, upgrade_at=90, **PLACE),
    StatusOrder(
        status=ShardStatus(mode="maintenance"),
        rotate=RotationRequest(not_before=3),
        **PLACE,
    ),
    WithdrawOrder(**PLACE),
    RulesOrder(
        rules=ShardRules(
            authority=AnyOf(
                members=(
                    SudoAuthority(key=b"a" * 32),
                    SudoAuthority(key=b"b" * 32),
                )
            ),
            genesis=b"g" * 32,
            min_notice=5,
            rescue_after=10,
        ),
        effective_at=99,
        **PLACE,
    ),
]


@pytest.mark.parametrize("order", EVERY_KIND, ids=lambda order: type(order).__name__)
def test_an_order_of_any_kind_can_be_sent(world: Any, order: Any) -> None:
    raw = signed(order, world.sudo.secret)
    outcome = world.run(send(world, world.sudo, raw, "send_order"))
    assert [r.receipt.outcome for r in outcome.receipts] == ["ok"]
    assert [one.order for one in outcome.orders] == [order]
    stranger = world.run(send(world, world.alice, raw, "send_order"))
    assert stranger.receipts[0].receipt.outcome == "NotSudoError"
    assert stranger.orders == ()


def test_sent_orders_carry_what_others_endorsed_and_pay_for_it(world: Any) -> None:
    one = encode(sign_order(upgrade(), world.sudo.secret))
    two = encode(sign_order(upgrade(), world.sudo.secret, world.alice.secret))
    light = world.run(send(world, world.sudo, one, "send_order"))
    heavy = world.run(send(world, world.sudo, two, "send_order"))
    assert [len(o.orders[0].endorsements) for o in (light, heavy)] == [1, 2]
    assert heavy.weight > light.weight


def nested(levels: int) -> Any:
    authority: Any = SudoAuthority(key=b"a" * 32)
    for _ in range(levels):
        authority = AnyOf(members=(authority,))
    rules = ShardRules(
        authority=authority, genesis=b"g" * 32, min_notice=5, rescue_after=10
    )
    return RulesOrder(rules=rules, effective_at=99, **PLACE)


@pytest.mark.parametrize(("levels", "outcome"), [(3, "ok"), (120, "OrderKindError")])
def test_an_order_nested_beyond_reason_is_none_whatever_the_stack(
    world: Any, levels: int, outcome: str
) -> None:
    raw = signed(nested(levels), world.sudo.secret)
    assert world.outcomes(send(world, world.sudo, raw, "send_order")) == [outcome]


def test_with_the_schedule_known_stale_orders_and_strangers_stay(world: Any) -> None:
    raw = signed(upgrade(), world.sudo.secret)
    for seen, name in [
        (schedule(world, serial=1), "OrderStaleError"),
        (schedule(world, key=b"a" * 32), "NotAuthorityError"),
        (schedule(world), "ok"),
    ]:
        outcome = world.run(send(world, world.sudo, raw), schedule=seen)
        assert [r.receipt.outcome for r in outcome.receipts] == [name]


def test_every_order_rule_raises_its_own_error(world: Any) -> None:
    pallet, secret = world.pallet("enclave_update"), world.sudo.secret
    ctx = world.context(Signed(account=world.sudo.id))

    def update(raw: bytes) -> None:
        pallet.update_mrenclave(ctx, order=raw)

    with pytest.raises(OrderKindError):
        update(b"\x91" * 3000)
    with pytest.raises(OrderElsewhereError):
        update(signed(upgrade(chain_id="x"), secret))
    with pytest.raises(OrderExpiredError):
        update(signed(upgrade(expiry=1), secret))
    with pytest.raises(OrderHeightsError):
        update(signed(upgrade(release_from=10), secret))
    pallet.observe(ctx, schedule(world, serial=9))
    with pytest.raises(OrderStaleError):
        update(signed(upgrade(), secret))
    pallet.observe(ctx, schedule(world, key=b"a" * 32))
    with pytest.raises(NotAuthorityError):
        update(signed(upgrade(), secret))


def test_the_schedule_is_kept_as_last_proven_and_costs_nothing_when_the_same(
    world: Any,
) -> None:
    assert msgspec.msgpack.decode(world.ask(world.bob, "enclave_update.schedule")) is (
        None
    )
    assert world.run(schedule=schedule(world)).changes != {}
    assert world.run(schedule=schedule(world)).changes == {}
    assert world.ask(world.bob, "enclave_update.schedule") == encode(schedule(world))
    assert world.run(schedule=schedule(world, serial=1)).changes != {}
