"""Every way in which a schedule changes, from the chain to the words of a report."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from ghosts import Ghost, haunted, root_of
from lineages import export, heights_of, verify

from sealift.base import Height
from sealift.bundle import parse_sigstruct
from sealift.crypto import rsa_public_modulus, rsa_sign_pkcs1_sha256
from sealift.evidence import explain_lineage
from sealift.frame import Runtime
from sealift.insecure_sim import PLATFORM_KIND
from sealift.ledger import ledger_call
from sealift.protocol import (
    AllOf,
    AnyOf,
    CancelOrder,
    EntryStatus,
    PostponeOrder,
    Ratio,
    RotationRequest,
    RulesOrder,
    ShardStatus,
    SignedOrder,
    SignerAuthority,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    VendorEndorsement,
    WithdrawOrder,
    WorkersAuthority,
    sign_order,
)
from sealift.testing import World
from sealift.testing._release import vendor_key

replace = msgspec.structs.replace
HALF = Ratio(numerator=1, denominator=2)
Make = Callable[..., World]


def text_of(lineage: Any) -> str:
    return "\n".join(explain_lineage(lineage))


def upgrade(world: World, **fields: Any) -> UpgradeOrder:
    """An upgrade to the second release, unsigned."""
    return replace(world.upgrade_order(world.releases[1]).order, **fields)


def test_an_upgrade_between_real_enclaves(upgraded: World) -> None:
    lineage = verify(upgraded, export(upgraded))
    first, second = lineage.generations
    assert (first.status, second.status) == (EntryStatus.RETIRED, EntryStatus.ACTIVE)
    assert second.code == {PLATFORM_KIND: upgraded.releases[1].fingerprint}
    assert second.certificate
    assert first.confirmed_to == second.since - 1
    assert lineage.frontier == upgraded.frontier()
    assert lineage.schedule == upgraded.schedule_now()
    assert [act.kind for act in lineage.acts] == ["UpgradeOrder"]
    text = text_of(lineage)
    assert f"the key {upgraded.account('authority').hex()}" in text
    assert (
        f"notice ran from block {second.recorded_at} to {second.release_from}" in text
    )
    assert "the old one's handover certificate fits" in text


def test_a_generation_that_never_came_is_rescued_by_rule(
    new_world: Make, v1: Runtime, v2: Runtime
) -> None:
    world = new_world()
    world.begin(world.release(v1))
    entry = world.schedule(world.release(v2))
    world.run_until(entry.upgrade_at + world.schedule_now().rules.rescue_after + 4)
    lineage = verify(world, export(world))
    assert [one.status for one in lineage.generations] == [
        EntryStatus.RETIRED,
        EntryStatus.VOID,
        EntryStatus.ACTIVE,
    ]
    assert lineage.generations[2].decided_by == ("the rule of rescue",)
    assert lineage.generations[2].since == entry.upgrade_at
    assert "never ran: void" in text_of(lineage)


def test_acts_of_one_key_of_every_kind(new_world: Make, v1: Runtime) -> None:
    world = new_world(rules={"rules_notice": 3})
    (one,) = haunted(world, v1, "one")
    acts: list[str] = []

    def decide(order: Any) -> None:
        world.submit(world.sign_order(order))
        acts.append(type(order).__name__)

    decide(upgrade(world))  # cancelled before it may hold secrets
    decide(world.order(CancelOrder, generation=1))
    decide(upgrade(world))  # put off, then cancelled when it may
    pending = world.schedule_now().entry(2)
    decide(
        world.order(
            PostponeOrder, generation=2, upgrade_at=Height(pending.upgrade_at + 4)
        )
    )
    world.run_until(pending.release_from + 1)
    decide(world.order(CancelOrder, generation=2))
    assert world.schedule_now().rotation is not None
    decide(world.order(StatusOrder, status=ShardStatus(mode="maintenance")))
    decide(world.order(StatusOrder, status=ShardStatus(mode="normal", min_isv_svn=1)))
    rules = replace(world.schedule_now().rules, min_notice=3)
    at = Height(world.height + 6)
    decide(world.order(RulesOrder, rules=rules, effective_at=at))
    decide(world.order(WithdrawOrder))
    at = Height(world.height + 6)
    decide(world.order(RulesOrder, rules=rules, effective_at=at))
    world.run_until(at + 1)
    one.confirm()
    world.blocks(2)
    lineage = verify(world, export(world))
    assert [act.kind for act in lineage.acts] == acts
    assert lineage.schedule == world.schedule_now()
    assert lineage.schedule.rules.min_notice == 3
    words = [rule.words for rule in lineage.ruled]
    assert "the status acts: maintenance" in words
    assert "the shard lives by other rules" in words


def test_all_of_two_keys_who_sign_on_different_days(
    new_world: Make, v1: Runtime
) -> None:
    world = new_world()
    both = AllOf(
        members=(
            SudoAuthority(key=world.account("alice")),
            SudoAuthority(key=world.account("bob")),
        )
    )
    world._more_rules = {"authority": both}
    haunted(world, v1, "one")
    order = upgrade(world, release_from=Height(world.height + 5))
    world.submit(sign_order(order, world.secret("alice")))
    assert len(world.schedule_now().entries) == 1
    world.submit(sign_order(order, world.secret("bob")))
    world.blocks(2)
    lineage = verify(world, export(world))
    assert len(lineage.acts[0].by) == 2
    assert world.account("bob").hex() in text_of(lineage)


def test_a_vendor_and_a_key(new_world: Make, v1: Runtime) -> None:
    world = new_world()
    release = world.release(v1, sources={"app.py": b"second"})
    sigstruct = parse_sigstruct(release.bundle.bundle.sigstruct or b"")
    vendor = SignerAuthority(mr_signer=sigstruct.mrsigner, prod_id=1)
    key = SudoAuthority(key=world.account("alice"))
    world._more_rules = {"authority": AllOf(members=(vendor, key))}
    haunted(world, v1, "one")
    config = replace(world.config(release), mr_signer=sigstruct.mrsigner, isv_prod_id=1)
    order = upgrade(world, config=config)
    modulus = rsa_public_modulus(vendor_key()).to_bytes(384, "little")
    endorsed = SignedOrder(
        order=order,
        endorsements=(
            VendorEndorsement(
                modulus=modulus,
                signature=rsa_sign_pkcs1_sha256(vendor_key(), order.preimage()),
            ),
            *sign_order(order, world.secret("alice")).endorsements,
        ),
    )
    world.submit(endorsed)
    world.blocks(2)
    lineage = verify(world, export(world))
    assert "the vendor" in " ".join(lineage.acts[0].by)


@pytest.fixture(scope="module")
def council(new_world: Make, v1: Runtime) -> World:
    """Three platforms with seats have scheduled an upgrade by two votes."""
    world = new_world()
    operators = (world.account("operator"), world.account("operator-2"))
    terms = WorkersAuthority(threshold=HALF, seat_age=3, period=20)
    world._more_rules = {"authority": terms}
    probe = world.release(v1, sources={"app.py": b"first"})
    config = replace(world.config(probe), operators=operators)
    ghosts = haunted(world, v1, "one", "two", "three", config=config)
    world.blocks(4)
    order = upgrade(
        world,
        config=replace(world.config(world.releases[2]), operators=operators),
        release_from=Height(world.height + 12),
        upgrade_at=Height(world.height + 14),
    )
    ghosts[0].propose(order)
    ghosts[2].vote(order, aye=False)
    ghosts[1].vote(order)
    world.blocks(2)
    assert len(world.schedule_now().entries) == 2
    return world


def test_hosts_vote_and_their_seats_are_counted(council: World) -> None:
    lineage = verify(council, export(council))
    assert lineage.acts[0].by == ("2 of 3 platforms of its hosts",)


def test_keys_rotate_by_upgrade_and_by_order(new_world: Make, v1: Runtime) -> None:
    world = new_world(rules={"rotation_quorum": 2})
    one, two = haunted(world, v1, "one", "two")
    since = world.height
    for ghost in (one, two):
        ghost.register()
    rotate = RotationRequest(not_before=Height(since), grace=2)
    status = ShardStatus()
    world.submit(
        world.sign_order(world.order(StatusOrder, status=status, rotate=rotate))
    )
    one.confirm()
    one.stage(1)
    two.hold(1)
    world.blocks(3)
    entry = world.schedule(world.releases[1])
    world.run_until(entry.release_from)
    three, four = (Ghost(world, name, world.releases[1]) for name in ("three", "four"))
    three.register()
    four.register()
    world.run_until(entry.upgrade_at)
    one.confirm(entry.upgrade_at - 1)
    one.certify(1)
    three.confirm()
    three.stage(2)
    four.hold(2)
    world.blocks(4)
    lineage = verify(world, export(world))
    assert [one.why for one in lineage.epochs] == ["birth", "order", "upgrade"]
    assert lineage.epochs[1].not_before == since
    assert lineage.epochs[2].holders == (three.key, four.key)
    assert lineage.generations[1].certificate
    assert lineage.schedule == world.schedule_now()


def test_two_roots_for_one_block_stop_the_shard_by_rule(
    new_world: Make, v1: Runtime
) -> None:
    world = new_world(root_quorum=2)
    one, two = haunted(world, v1, "one", "two")
    last = world.height
    one.confirm(last)
    two.confirm(last, root=root_of(10_000))
    world.blocks(2)
    assert world.schedule_now().status.mode == "maintenance"
    world.submit(world.sign_order(world.order(StatusOrder, status=ShardStatus())))
    world.blocks(2)
    one.confirm(last)
    two.confirm(last)
    world.block()
    lineage = verify(world, export(world))
    assert any("maintenance" in rule.words for rule in lineage.ruled)
    assert lineage.frontier == world.frontier()


def test_a_shard_that_is_not_born_yet(new_world: Make, v1: Runtime) -> None:
    world = new_world()
    world.create_shard(world.release(v1))
    world.blocks(3)
    lineage = verify(world, export(world))
    assert lineage.epochs == ()
    assert "not born" in text_of(lineage)


def test_who_left_the_registry_holds_no_keys(new_world: Make, v1: Runtime) -> None:
    """Its operator took one away, root another: neither counts when keys act."""
    world = new_world(rules={"rotation_quorum": 2})
    one, two, three, four = haunted(world, v1, "one", "two", "three", "four")
    rotate = RotationRequest(not_before=Height(0))
    world.submit(
        world.sign_order(world.order(StatusOrder, status=ShardStatus(), rotate=rotate))
    )
    one.stage(1)
    world.act("operator", "teerex.unregister_enclave", signing_key=one.key)
    two.hold(1)
    assert len(world.schedule_now().epochs) == 1
    gone = ledger_call("teerex.unregister_enclave", signing_key=two.key)
    world.act("root", "sudo.sudo", call=gone)
    three.hold(1)
    assert len(world.schedule_now().epochs) == 1
    four.hold(1)
    world.blocks(2)
    lineage = verify(world, export(world))
    assert lineage.epochs[1].holders == (three.key, four.key)


def test_any_of_two_and_what_the_emergency_authority_may(
    new_world: Make, v1: Runtime
) -> None:
    world = new_world()
    alice, bob = (SudoAuthority(key=world.account(one)) for one in ("alice", "bob"))
    world._more_rules = {
        "authority": AnyOf(members=(alice, bob)),
        "emergency": SudoAuthority(key=world.account("carol")),
    }
    haunted(world, v1, "one")
    order = upgrade(world, release_from=Height(world.height + 9))
    order = replace(order, upgrade_at=Height(world.height + 12))
    world.submit(sign_order(order, world.secret("bob")))
    cancel = world.order(CancelOrder, generation=1)
    world.submit(sign_order(cancel, world.secret("carol")))
    rules = replace(world.schedule_now().rules, grace=7)
    change = world.order(RulesOrder, rules=rules, effective_at=Height(world.height + 6))
    world.submit(sign_order(change, world.secret("alice")))
    world.submit(sign_order(change, world.secret("bob")))
    world.blocks(2)
    lineage = verify(world, export(world))
    who = [act.by for act in lineage.acts]
    assert who[0] == (f"the key {world.account('bob').hex()}",)
    assert who[1] == (f"the key {world.account('carol').hex()}",)
    assert len(who[2]) == 2


def test_a_motion_that_expires_decides_nothing(new_world: Make, v1: Runtime) -> None:
    world = new_world()
    operators = (world.account("operator"),)
    terms = WorkersAuthority(threshold=HALF, seat_age=2, period=3)
    world._more_rules = {"authority": terms}
    probe = world.release(v1, sources={"app.py": b"first"})
    config = replace(world.config(probe), operators=operators)
    one, two = haunted(world, v1, "one", "two", config=config)
    world.blocks(3)
    at = world.height + 30
    order = upgrade(
        world,
        config=config,
        release_from=Height(at),
        upgrade_at=Height(at + 2),
    )
    one.propose(order)
    world.blocks(5)
    one.propose(order)  # the same again, in place of the one that is over
    two.vote(order)
    world.blocks(2)
    lineage = verify(world, export(world))
    (act,) = lineage.acts
    assert act.order == order.digest()
    assert act.height > heights_of(export(world), "council.propose")[0] + 3
