"""Who may decide: trees of authorities, endorsements, emergencies, rules."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.crypto import (
    account_of,
    rsa_generate,
    rsa_public_modulus,
    rsa_sign_pkcs1_sha256,
    sha256,
)
from sealift.ledger._authority import OpenOrder, lacking
from sealift.ledger._bridge_orders import MAX_OPEN_ORDERS
from sealift.ledger._errors import (
    CancelTooLateError,
    FloorLoweredError,
    NoChangeError,
    NoticeError,
    OrderForeignError,
    OrderOpenError,
    OrderSerialError,
    OrderSignatureError,
    PostponementError,
    RotationError,
    RulesFixedError,
    ShardRulesError,
    VendorOrderError,
)
from sealift.protocol import (
    AllOf,
    AnyOf,
    EntryStatus,
    PostponeOrder,
    Ratio,
    RotationRequest,
    RulesOrder,
    ShardStatus,
    SignedOrder,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    SudoAuthority,
    VendorEndorsement,
    WithdrawOrder,
    WorkersAuthority,
    leaves,
    missing,
    satisfied,
    sign_order,
)

HALF = Ratio(numerator=1, denominator=2)
VENDOR = rsa_generate()
MODULUS = rsa_public_modulus(VENDOR).to_bytes(384, "little")
MR_SIGNER = sha256(MODULUS)
PRODUCT = 7


def key(world: Any, name: str) -> SudoAuthority:
    return SudoAuthority(key=world.account(name))


def vendor(**fields: Any) -> SignerAuthority:
    return SignerAuthority(**({"mr_signer": MR_SIGNER, "prod_id": PRODUCT} | fields))


def stake(**fields: Any) -> StakeAuthority:
    base = {"threshold": HALF, "quorum": HALF, "stake_age": 5, "period": 5}
    return StakeAuthority(**(base | fields))


def by_vendor(order: Any, *, signed: bytes | None = None) -> SignedOrder:
    signature = rsa_sign_pkcs1_sha256(VENDOR, signed or order.preimage())
    one = VendorEndorsement(modulus=MODULUS, signature=signature)
    return SignedOrder(order=order, endorsements=(one,))


def by(world: Any, order: Any, *names: str) -> SignedOrder:
    return sign_order(order, *(world.secrets[name] for name in names))


def send(world: Any, signed: SignedOrder) -> Any:
    return world.call("enclave_bridge.submit_order", by="bob", order=signed)


def product(world: Any, **fields: Any) -> Any:
    """A configuration of the vendor's product."""
    base = {"mr_signer": MR_SIGNER, "isv_prod_id": PRODUCT}
    return world.config(world.CODE_B, **(base | fields))


def rules_order(world: Any, shard: bytes, **fields: Any) -> RulesOrder:
    schedule = world.schedule(shard)
    effective_at = fields.pop("effective_at", world.next + 5)
    serial = fields.pop("serial", schedule.serial)
    return RulesOrder(
        chain_id=schedule.chain_id,
        shard=shard,
        serial=serial,
        rules=world.replace(schedule.rules, **fields),
        effective_at=effective_at,
        expiry=world.height + 50,
    )


def withdraw_order(world: Any, shard: bytes) -> WithdrawOrder:
    schedule = world.schedule(shard)
    return WithdrawOrder(
        chain_id=schedule.chain_id,
        shard=shard,
        serial=schedule.serial,
        expiry=world.height + 50,
    )


def postpone_order(
    world: Any, shard: bytes, generation: int, upgrade_at: int
) -> PostponeOrder:
    schedule = world.schedule(shard)
    return PostponeOrder(
        chain_id=schedule.chain_id,
        shard=shard,
        serial=schedule.serial,
        generation=generation,
        upgrade_at=upgrade_at,
        expiry=world.height + 50,
    )


def nested(leaf: Any, *, depth: int) -> Any:
    for _ in range(depth):
        leaf = AnyOf(members=(leaf,))
    return leaf


def pending(world: Any, shard: bytes) -> list[int]:
    entries = world.schedule(shard).entries
    return [e.generation for e in entries if e.status is EntryStatus.PENDING]


# --- combinations ---


def test_any_member_of_an_any_of_decides(world: Any) -> None:
    authority = AnyOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    world.submit(world.upgrade_order(shard), signed_by="alice")
    assert pending(world, shard) == [1]


def test_all_members_of_an_all_of_decide_whoever_comes_first(world: Any) -> None:
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    order = world.upgrade_order(
        shard, release_from=world.next + 6, upgrade_at=world.next + 7
    )
    world.submit(order, signed_by="alice")
    assert "enclave_bridge.OrderEndorsed" in world.events()
    assert pending(world, shard) == []
    world.submit(order, signed_by="authority")
    assert pending(world, shard) == [1]


def test_both_endorsements_may_come_at_once(world: Any) -> None:
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    send(world, by(world, world.upgrade_order(shard), "authority", "alice"))
    assert pending(world, shard) == [1]


def test_one_member_twice_is_not_two_members(world: Any) -> None:
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    order = world.upgrade_order(shard)
    world.submit(order, signed_by="alice")
    with pytest.raises(OrderSignatureError):
        world.submit(order, signed_by="alice")
    assert pending(world, shard) == []


def test_endorsements_of_one_order_are_not_anothers(world: Any) -> None:
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    world.submit(world.upgrade_order(shard), signed_by="alice")
    other = world.upgrade_order(shard, code=world.CODE_C)
    world.submit(other, signed_by="authority")
    assert pending(world, shard) == []


def test_an_act_ends_every_open_order(world: Any) -> None:
    """An order half endorsed before a cancel is not completed after it."""
    authority = AnyOf(
        members=(
            AllOf(members=(key(world, "alice"), key(world, "bob"))),
            key(world, "authority"),
        )
    )
    shard = world.create_shard(authority=authority)
    first = world.upgrade_order(shard)
    world.submit(first, signed_by="alice")
    world.submit(world.upgrade_order(shard, code=world.CODE_C))
    with pytest.raises(OrderSerialError):
        world.submit(first, signed_by="bob")
    assert world.store.items(b"enclave_bridge/opened/") == []


def test_strangers_neither_decide_nor_fill_the_table(world: Any) -> None:
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    with pytest.raises(OrderSignatureError):
        world.submit(world.upgrade_order(shard), signed_by="bob")
    with pytest.raises(OrderSignatureError):
        send(world, SignedOrder(order=world.upgrade_order(shard)))
    assert world.store.items(b"enclave_bridge/opened/") == []


def test_a_member_cannot_fill_the_table_for_ever(world: Any) -> None:
    """Governance flooding: the table is bounded, and expired orders leave it."""
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    soon = world.height + 2 * MAX_OPEN_ORDERS
    for number in range(MAX_OPEN_ORDERS):
        order = world.upgrade_order(shard, code=bytes([number]) * 32, expiry=soon)
        world.submit(order, signed_by="alice")
    with pytest.raises(OrderOpenError):
        world.submit(world.upgrade_order(shard), signed_by="alice")
    world.blocks_until(soon)
    world.submit(world.upgrade_order(shard), signed_by="alice")
    assert len(world.store.items(b"enclave_bridge/opened/")) == 1


def test_orders_that_new_rules_overtook_leave_the_table(world: Any) -> None:
    """No order ended them: their serial passed when the rules began to act."""
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    at = world.next + MAX_OPEN_ORDERS + 5
    change = rules_order(world, shard, grace=1, effective_at=at)
    send(world, by(world, change, "authority", "alice"))
    for number in range(MAX_OPEN_ORDERS):
        order = world.upgrade_order(shard, code=bytes([number]) * 32, expiry=10**6)
        world.submit(order, signed_by="alice")
    world.blocks_until(at)
    world.submit(world.upgrade_order(shard), signed_by="alice")
    assert len(world.store.items(b"enclave_bridge/opened/")) == 1


def test_a_full_table_does_not_keep_the_rest_from_deciding(world: Any) -> None:
    authority = AllOf(members=(key(world, "authority"), key(world, "alice")))
    shard = world.create_shard(authority=authority)
    for number in range(MAX_OPEN_ORDERS):
        order = world.upgrade_order(shard, code=bytes([number]) * 32)
        world.submit(order, signed_by="alice")
    send(world, by(world, world.upgrade_order(shard), "authority", "alice"))
    assert pending(world, shard) == [1]


@pytest.mark.parametrize(
    "build",
    [
        lambda w: AllOf(members=()),
        lambda w: AnyOf(members=(key(w, "alice"), AllOf(members=()))),
        lambda w: AnyOf(members=(key(w, "alice"), key(w, "alice"))),
        lambda w: AnyOf(
            members=tuple(SudoAuthority(key=bytes([n]) * 32) for n in range(9))
        ),
        lambda w: nested(key(w, "bob"), depth=4),
        lambda w: AnyOf(members=(stake(), stake(period=6))),
        lambda w: stake(threshold=Ratio(numerator=1, denominator=1)),
        lambda w: stake(quorum=Ratio(numerator=2, denominator=1)),
        lambda w: WorkersAuthority(threshold=HALF, seat_age=1, period=5),
    ],
    ids=[
        "empty",
        "empty within",
        "twice",
        "many",
        "deep",
        "two stakes",
        "never",
        "more than all",
        "workers without operators",
    ],
)
def test_authorities_that_no_shard_could_live_by(world: Any, build: Any) -> None:
    with pytest.raises(ShardRulesError):
        world.create_shard(authority=build(world))


# --- the vendor ---


def test_the_vendor_decides_by_signing_the_order(world: Any) -> None:
    shard = world.create_shard(authority=vendor())
    send(world, by_vendor(world.upgrade_order(shard, config=product(world))))
    assert pending(world, shard) == [1]


def test_an_old_sigstruct_is_no_decision(world: Any) -> None:
    """What a SIGSTRUCT signs are 256 bytes of its own; an order begins otherwise."""
    shard = world.create_shard(authority=vendor())
    order = world.upgrade_order(shard, config=product(world))
    sigstruct = bytes.fromhex("06000000e10000000000010000000000") + bytes(240)
    with pytest.raises(OrderSignatureError):
        send(world, by_vendor(order, signed=sigstruct))


def test_an_older_generation_under_a_valid_vendor_signature(world: Any) -> None:
    """The ratchet: the vendor's word does not bring older code back."""
    shard = world.create_shard(
        world.config(min_isv_svn=5, mr_signer=MR_SIGNER, isv_prod_id=PRODUCT),
        authority=vendor(),
    )
    for svn in (0, 4):
        order = world.upgrade_order(shard, config=product(world, min_isv_svn=svn))
        with pytest.raises(VendorOrderError):
            send(world, by_vendor(order))
    order = world.upgrade_order(shard, config=product(world, min_isv_svn=5))
    send(world, by_vendor(order))
    assert pending(world, shard) == [1]


def test_nor_below_the_version_its_authority_begins_with(world: Any) -> None:
    shard = world.create_shard(authority=vendor(min_svn=3))
    order = world.upgrade_order(shard, config=product(world, min_isv_svn=2))
    with pytest.raises(VendorOrderError):
        send(world, by_vendor(order))


@pytest.mark.parametrize(
    "fields", [{"mr_signer": None}, {"mr_signer": b"x" * 32}, {"isv_prod_id": 8}]
)
def test_the_vendor_speaks_for_its_own_product_alone(world: Any, fields: Any) -> None:
    shard = world.create_shard(authority=vendor())
    order = world.upgrade_order(shard, config=product(world, **fields))
    with pytest.raises(VendorOrderError):
        send(world, by_vendor(order))


def test_another_vendor_decides_nothing(world: Any) -> None:
    shard = world.create_shard(authority=vendor(mr_signer=b"o" * 32))
    with pytest.raises(OrderSignatureError):
        send(world, by_vendor(world.upgrade_order(shard, config=product(world))))


def test_a_revoked_vendor_decides_nothing_from_the_next_block_on(world: Any) -> None:
    authority = AnyOf(members=(vendor(), key(world, "authority")))
    shard = world.create_shard(authority=authority)
    world.submit(world.status_order(shard, revoked_signers=(MR_SIGNER,)))
    world.block()
    order = world.upgrade_order(shard, config=product(world))
    with pytest.raises(OrderSignatureError):
        send(world, by_vendor(order))
    with pytest.raises(FloorLoweredError):
        world.submit(world.status_order(shard))


def test_the_vendors_key_is_rotated_by_other_rules(world: Any) -> None:
    authority = AllOf(members=(vendor(mr_signer=b"o" * 32), key(world, "authority")))
    other = AllOf(members=(vendor(), key(world, "authority")))
    shard = world.create_shard(authority=AnyOf(members=authority.members[1:]))
    world.submit(rules_order(world, shard, authority=other))
    world.blocks_until(world.height + 6)
    order = world.upgrade_order(
        shard,
        config=product(world),
        release_from=world.next + 6,
        upgrade_at=world.next + 7,
    )
    send(world, by_vendor(order))
    world.submit(order)
    assert pending(world, shard) == [1]


# --- emergencies ---


def emergency_shard(world: Any, **fields: Any) -> bytes:
    return world.create_shard(emergency=key(world, "alice"), **fields)


def test_the_emergency_authority_pauses_at_once(world: Any) -> None:
    shard = emergency_shard(world)
    world.submit(world.status_order(shard, mode="maintenance"), signed_by="alice")
    world.block()
    assert world.schedule(shard).status.mode == "maintenance"


def test_it_does_not_lift_what_it_laid(world: Any) -> None:
    shard = emergency_shard(world)
    world.submit(world.status_order(shard, mode="maintenance"), signed_by="alice")
    world.block()
    order = world.status_order(shard)
    with pytest.raises(OrderSignatureError):
        world.submit(order, signed_by="bob")
    world.submit(order, signed_by="alice")
    world.block()
    assert world.schedule(shard).status.mode == "maintenance"
    world.submit(world.status_order(shard))
    world.block()
    assert world.schedule(shard).status.mode == "normal"


def test_it_cancels_and_schedules_nothing(world: Any) -> None:
    shard = emergency_shard(world)
    world.upgrade(shard)
    world.submit(world.cancel_order(shard, 1), signed_by="alice")
    assert pending(world, shard) == []
    world.submit(world.upgrade_order(shard), signed_by="alice")
    assert pending(world, shard) == []


def test_code_by_the_emergency_path_waits_its_own_notice(world: Any) -> None:
    """Notice too short, also by the emergency path."""
    shard = world.create_shard(emergency_notice=3, emergency_floor=2, min_notice=9)

    def order(notice: int) -> Any:
        release = world.next + notice
        return world.upgrade_order(
            shard, release_from=release, upgrade_at=release + 1, emergency=True
        )

    with pytest.raises(NoticeError):
        world.submit(order(2))
    world.submit(order(3))
    assert pending(world, shard) == [1]


def test_a_shard_born_without_an_emergency_path_never_gets_one(world: Any) -> None:
    shard = world.create_shard()
    order = world.upgrade_order(shard, emergency=True)
    with pytest.raises(NoticeError):
        world.submit(order)
    with pytest.raises(ShardRulesError):
        world.submit(rules_order(world, shard, emergency_notice=1))
    with pytest.raises(RulesFixedError):
        world.submit(rules_order(world, shard, emergency_notice=1, emergency_floor=1))


def test_the_emergency_notice_never_falls_below_its_floor(world: Any) -> None:
    shard = world.create_shard(emergency_notice=4, emergency_floor=3)
    with pytest.raises(ShardRulesError):
        world.submit(rules_order(world, shard, emergency_notice=2))
    with pytest.raises(ShardRulesError):
        world.create_shard(emergency_notice=2, emergency_floor=3)


# --- rules ---


def test_sudo_hands_the_shard_to_its_holders_and_is_refused_after(world: Any) -> None:
    shard = world.create_shard()
    order = rules_order(world, shard, authority=stake())
    world.submit(order)
    world.submit(world.upgrade_order(shard, upgrade_at=world.next + 50))
    world.blocks_until(order.effective_at)
    assert world.schedule(shard).rules.authority == stake()
    assert "enclave_bridge.RulesChanged" in world.events()
    with pytest.raises(OrderSignatureError):
        world.submit(world.cancel_order(shard, 1))


def test_rules_wait_for_the_longest_notice(world: Any) -> None:
    shard = world.create_shard(min_notice=5, rules_notice=12)
    with pytest.raises(NoticeError):
        world.submit(rules_order(world, shard, effective_at=world.next + 11))
    world.submit(rules_order(world, shard, effective_at=world.next + 12))


def test_an_any_of_member_does_not_remove_the_others(world: Any) -> None:
    """Any one decides about code; about who decides, all do."""
    members = (key(world, "authority"), key(world, "alice"))
    shard = world.create_shard(authority=AnyOf(members=members))
    order = rules_order(world, shard, authority=members[1], effective_at=world.next + 6)
    world.submit(order, signed_by="alice")
    assert world.schedule(shard).change is None
    world.submit(order, signed_by="authority")
    assert world.schedule(shard).change.rules.authority == members[1]


def test_the_emergency_authority_changes_no_rules(world: Any) -> None:
    shard = emergency_shard(world)
    order = rules_order(world, shard, authority=key(world, "alice"))
    world.submit(order, signed_by="alice")
    assert world.schedule(shard).change is None


def test_a_change_of_rules_can_be_withdrawn_until_it_acts(world: Any) -> None:
    shard = emergency_shard(world)
    order = rules_order(world, shard, authority=key(world, "bob"))
    world.submit(order)
    world.submit(withdraw_order(world, shard), signed_by="alice")
    world.blocks_until(order.effective_at + 1)
    assert world.schedule(shard).rules.authority == key(world, "authority")
    with pytest.raises(NoChangeError):
        world.submit(withdraw_order(world, shard))


def test_an_order_under_the_old_rules_ends_with_them(world: Any) -> None:
    shard = world.create_shard()
    change = rules_order(world, shard, min_notice=9)
    world.submit(change)
    early = world.upgrade_order(shard, upgrade_at=world.next + 60)
    world.blocks_until(change.effective_at)
    with pytest.raises(OrderSerialError):
        world.submit(early)


@pytest.mark.parametrize("field", ["genesis", "page_bits"])
def test_what_a_shard_is_does_not_change(world: Any, field: str) -> None:
    shard = world.create_shard()
    other = {"genesis": b"o" * 32, "page_bits": 9}[field]
    with pytest.raises(RulesFixedError):
        world.submit(rules_order(world, shard, **{field: other}))


def test_rules_that_no_shard_could_live_by_are_refused_when_ordered(world: Any) -> None:
    shard = world.create_shard()
    with pytest.raises(ShardRulesError):
        world.submit(rules_order(world, shard, authority=AnyOf(members=())))


# --- postponement ---


def test_an_entry_is_put_off_and_runs_later(world: Any) -> None:
    shard = world.create_shard()
    xyz = world.upgrade(shard)
    world.submit(postpone_order(world, shard, 1, xyz + 4))
    world.blocks_until(xyz + 3)
    assert world.schedule(shard).entries[1].status is EntryStatus.PENDING
    world.block()
    assert world.schedule(shard).entries[1].status is EntryStatus.ACTIVE


def test_an_entry_is_not_brought_forward(world: Any) -> None:
    shard = world.create_shard()
    xyz = world.upgrade(shard, upgrade_at=world.next + 20)
    for at in (xyz, xyz - 1):
        with pytest.raises(PostponementError):
            world.submit(postpone_order(world, shard, 1, at))


def test_an_entry_is_not_put_off_past_its_successor(world: Any) -> None:
    shard = world.create_shard()
    first = world.upgrade(shard)
    second = world.upgrade(shard, upgrade_at=first + 10)
    with pytest.raises(PostponementError):
        world.submit(postpone_order(world, shard, 1, second))
    world.submit(postpone_order(world, shard, 1, second - 1))


def test_nothing_is_put_off_inside_block_xyz(world: Any) -> None:
    shard = world.create_shard()
    xyz = world.upgrade(shard)
    world.blocks_until(xyz - 1)
    with pytest.raises(CancelTooLateError):
        world.submit(postpone_order(world, shard, 1, xyz + 4))


# --- rotation by order ---


def test_one_act_raises_the_floor_and_rotates(world: Any) -> None:
    shard = world.born_shard(world.instance("one"))
    schedule = world.schedule(shard)
    order = StatusOrder(
        chain_id=schedule.chain_id,
        shard=shard,
        serial=schedule.serial,
        status=ShardStatus(min_tcb_evaluation_number=18, not_before=world.height),
        expiry=world.height + 50,
        rotate=RotationRequest(not_before=world.height, grace=0),
    )
    world.submit(order)
    world.block()
    after = world.schedule(shard)
    assert after.status == order.status
    assert (after.rotation.why, after.rotation.grace) == ("order", 0)
    assert after.rotation.not_before == order.rotate.not_before


def test_a_rotation_asks_for_nothing_from_ahead(world: Any) -> None:
    shard = world.born_shard(world.instance("one"))
    order = world.replace(
        world.status_order(shard), rotate=RotationRequest(not_before=world.next + 1)
    )
    with pytest.raises(RotationError):
        world.submit(order)
    with pytest.raises(FloorLoweredError):
        world.submit(world.status_order(shard, not_before=world.next + 1))


def test_an_ordered_rotation_is_not_softened_by_an_upgrade(world: Any) -> None:
    shard = world.born_shard(world.instance("one"))
    xyz = world.upgrade(shard)
    not_before = world.height
    order = world.replace(
        world.status_order(shard), rotate=RotationRequest(not_before=not_before)
    )
    world.submit(order)
    world.blocks_until(xyz)
    due = world.schedule(shard).rotation
    assert (due.why, due.not_before, due.grace) == ("order", not_before, 0)
    assert due.generation == 1


# --- decisions don't replay ---


@pytest.mark.parametrize("kind", ["rules", "withdraw", "postpone"])
def test_no_decision_replays_here_or_on_another_shard(world: Any, kind: str) -> None:
    shard, other = world.create_shard(), world.create_shard()
    if kind == "rules":
        order: Any = rules_order(world, shard, effective_at=world.next + 9)
    elif kind == "withdraw":
        world.submit(rules_order(world, shard, effective_at=world.next + 9))
        order = withdraw_order(world, shard)
    else:
        xyz = world.upgrade(shard, upgrade_at=world.next + 20)
        order = postpone_order(world, shard, 1, xyz + 1)
    signed = world.signed(order)
    world.call("enclave_bridge.submit_order", by="bob", order=signed)
    with pytest.raises(OrderSerialError):
        world.call("enclave_bridge.submit_order", by="bob", order=signed)
    moved = world.replace(signed, order=world.replace(order, shard=other))
    with pytest.raises(OrderSignatureError):
        world.call("enclave_bridge.submit_order", by="bob", order=moved)
    abroad = world.signed(world.replace(order, chain_id="other-chain"))
    with pytest.raises(OrderForeignError):
        world.call("enclave_bridge.submit_order", by="bob", order=abroad)


# --- the tree itself, against a plain reading of it ---

KEYS = [account_of(sha256(bytes([n]))) for n in range(4)]
LEAF = st.sampled_from([SudoAuthority(key=one) for one in KEYS])
TREES = st.recursive(
    LEAF,
    lambda inner: st.builds(
        lambda kind, members: kind(members=tuple(members)),
        st.sampled_from([AnyOf, AllOf]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


def plainly(tree: Any, given_keys: set[bytes]) -> bool:
    if isinstance(tree, AnyOf):
        return any(plainly(one, given_keys) for one in tree.members)
    if isinstance(tree, AllOf):
        return all(plainly(one, given_keys) for one in tree.members)
    return tree.key in given_keys


@settings(max_examples=200, deadline=None)
@given(tree=TREES, keys=st.sets(st.sampled_from(KEYS)))
def test_a_tree_is_satisfied_as_it_reads(tree: Any, keys: set[bytes]) -> None:
    def endorsed(leaf: Any) -> bool:
        return leaf.key in keys

    assert satisfied(tree, endorsed) == plainly(tree, keys)
    everyone = all(leaf.key in keys for leaf in leaves(tree))
    assert satisfied(tree, endorsed, unanimous=True) == everyone
    lacks = missing(tree, endorsed)
    assert bool(lacks) != satisfied(tree, endorsed)
    assert all(not endorsed(leaf) for leaf in lacks)
    completed = keys | {leaf.key for leaf in lacks}
    assert satisfied(tree, lambda leaf: leaf.key in completed)


def test_what_is_lacking_is_named(world: Any) -> None:
    members = (key(world, "authority"), vendor())
    shard = world.create_shard(authority=AllOf(members=members))
    order = world.upgrade_order(shard, config=product(world))
    opened = OpenOrder(order=order, keys=(world.account("authority"),))
    found = lacking(world.schedule(shard), opened, standing=ShardStatus())
    assert found == (vendor(),)
