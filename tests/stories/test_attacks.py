"""What hosts, vendors and authorities try around an upgrade, and what comes of it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from story import Story

from sealift.attestation import parse_collateral
from sealift.base import encode
from sealift.frame import Runtime
from sealift.protocol import (
    AttestationPolicy,
    CancelOrder,
    EntryStatus,
    HandoverPolicy,
    ShardStatus,
    UpgradeOrder,
    enclave_key,
)
from sealift.stf import StandardPallets
from sealift.testing import RefusedError, Release, Sent, World, WorldWorker


def refused(act: Callable[[], object]) -> str:
    """The name by which an act is refused."""
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.name


def one_byte_off(story: Story) -> Release:
    """B', which differs from B in one byte of one source."""
    sources = {
        path.removeprefix("app/"): data
        for path, data in story.b.bundle.bundle.files.items()
        if path.startswith("app/")
    }
    path = next(iter(sources))
    changed = bytearray(sources[path])
    changed[-2] ^= 1
    release = story.world.release(story.v2, sources=sources | {path: bytes(changed)})
    assert release.fingerprint != story.b.fingerprint
    return release


def keyless(worker: WorldWorker) -> bool:
    """Whether it holds no key, neither in the process nor on its disk."""
    worker.restart()
    return worker.status().epochs == () and worker.status().state_height is None


# --- code that is not in the schedule ---


def test_a_bundle_with_one_byte_changed_gets_no_keys(story: Story) -> None:
    entry = story.schedule()
    story.business_until(entry.release_from)
    rogue = story.world.worker("rogue", one_byte_off(story), upstream=story.old)
    name = refused(lambda: rogue.request_keys(story.old))
    assert name == "WrongFingerprintForShardError"
    assert keyless(rogue)
    story.join(entry)  # the honest B is not disturbed
    story.business_until(entry.upgrade_at + 2)
    story.settle()
    story.check_calls()


def test_a_host_that_skips_the_registration_gets_no_keys(story: Story) -> None:
    rogue = story.world.worker("rogue", one_byte_off(story))
    unsent = Sent(tx=b"", signer=rogue.account, call="kept back")
    rogue.send_registration = lambda registration: unsent
    assert refused(lambda: rogue.request_keys(story.old)) == "NotProvenError"
    assert keyless(rogue)


def test_the_same_version_without_an_order_gets_no_keys(story: Story) -> None:
    """The very bundle B, properly signed by the vendor, but nobody scheduled it."""
    eager = story.world.worker("eager", story.b)
    name = refused(lambda: eager.request_keys(story.old))
    assert name == "WrongFingerprintForShardError"
    assert keyless(eager)


def test_code_below_the_security_version_that_the_order_wants(story: Story) -> None:
    config = story.world.config(story.b, min_isv_svn=2)
    entry = story.schedule(config=config)
    story.business_until(entry.release_from)
    new = story.world.worker("new", story.b)
    assert refused(lambda: new.request_keys(story.old)) == "SvnTooLowError"
    assert keyless(new)


# --- notice ---


def test_keys_asked_for_before_the_notice_has_run_come_only_after_it(
    story: Story,
) -> None:
    entry = story.schedule(release_from=story.world.height + 10)
    new = story.world.worker("new", story.b, upstream=story.old)
    while story.world.height < entry.release_from - 3:
        assert refused(lambda: new.request_keys(story.old)) == "NoticeNotRunError"
        assert new.status().epochs == ()
    story.business_until(entry.release_from)
    new.request_keys(story.old)
    assert new.status().epochs == (0,)
    story.business_until(entry.upgrade_at + 2)
    story.settle()
    story.check_calls()


def test_a_challenge_from_before_the_release_is_not_good_after_it(
    story: Story,
) -> None:
    """The registration stands in a block before ``release_from``: that one counts."""
    entry = story.schedule(release_from=story.world.height + 6)
    new = story.world.worker("new", story.b)
    story.business_until(entry.release_from - 2)
    assert refused(lambda: new.request_keys(story.old)) == "NoticeNotRunError"


def test_a_generation_that_does_not_hand_over(new_story: Callable[..., Story]) -> None:
    story = new_story(rules={"handover": HandoverPolicy(state="forbid")})
    entry = story.schedule()
    story.business_until(entry.release_from)
    new = story.world.worker("new", story.b)
    name = refused(lambda: new.request_keys(story.old))
    assert name == "HandoverForbiddenError"
    assert keyless(new)


# --- cancels ---


def test_after_a_cancel_the_old_one_goes_on_at_xyz(story: Story) -> None:
    entry = story.schedule()
    new = story.join(entry)
    story.world.cancel(entry.generation)
    story.business_until(entry.upgrade_at + 3)
    story.settle()
    assert new.executions == []
    assert entry.upgrade_at in story.old.roots
    story.check_calls()
    story.check_chain_of_roots()
    assert story.world.frontier().generation == 0


def test_a_cancelled_enclave_that_holds_the_keys_can_do_nothing_with_them(
    story: Story,
) -> None:
    entry = story.schedule()
    new = story.join(entry)
    story.world.cancel(entry.generation)
    story.business_until(entry.upgrade_at + 3)
    assert new.status().epochs == (0,), "it was given them before the cancel"
    new.restart()
    story.business(2)
    assert new.executions == []
    reads = refused(lambda: story.alice.ask("balances.free", worker=new))
    assert reads == "NotServingError"
    assert refused(new.register) == "WrongFingerprintForShardError"
    assert all(said.confirmation is None for said in new.signed)
    another = story.world.worker("another", story.b)
    name = refused(lambda: another.request_keys(new))
    assert name == "WrongFingerprintForShardError"
    assert another.status().epochs == ()


def test_a_cancel_in_the_last_block_before_xyz_counts(story: Story) -> None:
    entry = story.schedule()
    new = story.join(entry)
    story.business_until(entry.upgrade_at - 2)
    story.world.cancel(entry.generation)
    assert story.world.height == entry.upgrade_at - 1
    story.business(4)
    story.settle()
    assert new.executions == []
    story.check_calls()
    assert story.world.frontier().generation == 0


def test_a_cancel_in_block_xyz_is_too_late(story: Story) -> None:
    entry = story.schedule()
    story.join(entry)
    story.business_until(entry.upgrade_at - 1)
    name = refused(lambda: story.world.cancel(entry.generation))
    assert story.world.height == entry.upgrade_at
    assert name == "CancelTooLateError"
    story.business(2)
    story.settle()
    story.check_calls()
    assert story.world.frontier().generation == 1


def test_nobody_but_the_authority_schedules_or_cancels(story: Story) -> None:
    world = story.world
    order = world.upgrade_order(story.b).order
    forged = world.sign_order(order, who="alice")
    assert refused(lambda: world.submit(forged)) == "OrderSignatureError"
    entry = story.schedule()
    cancel = world.sign_order(world.cancel_order(entry.generation), who="operator")
    assert refused(lambda: world.submit(cancel)) == "OrderSignatureError"
    inside = story.alice.call("enclave_update.update_mrenclave", order=encode(forged))
    story.business(2)
    assert inside.receipt().outcome not in {"", "ok"}
    assert len(world.schedule_now().entries) == 2


# --- decisions don't replay ---


def test_an_order_is_not_good_twice_nor_after_a_cancel(story: Story) -> None:
    world = story.world
    order = world.upgrade_order(story.b)
    world.submit(order)
    assert refused(lambda: world.submit(order)) == "OrderSerialError"
    cancel = world.sign_order(world.cancel_order(1))
    world.submit(cancel)
    assert refused(lambda: world.submit(order)) == "OrderSerialError"
    assert refused(lambda: world.submit(cancel)) == "OrderSerialError"
    statuses = [entry.status for entry in world.schedule_now().entries]
    assert statuses == [EntryStatus.ACTIVE, EntryStatus.CANCELLED]


def test_an_order_is_not_good_on_another_shard_or_chain(story: Story) -> None:
    world = story.world
    other = world.create_shard(story.a)
    assert other != world.shard
    signed = world.upgrade_order(story.b)
    elsewhere = msgspec.structs.replace(signed.order, shard=other)
    moved = msgspec.structs.replace(signed, order=elsewhere)
    assert refused(lambda: world.submit(moved)) == "OrderSignatureError"
    foreign = msgspec.structs.replace(signed.order, chain_id="another-chain")
    assert refused(lambda: world.submit(world.sign_order(foreign))) == (
        "OrderForeignError"
    )


def test_an_order_that_has_expired(story: Story) -> None:
    world = story.world
    order = world.upgrade_order(story.b, delay=8).order
    assert isinstance(order, UpgradeOrder)
    late = msgspec.structs.replace(order, expiry=world.height + 1)
    story.business(2)
    assert refused(lambda: world.submit(world.sign_order(late))) == "OrderExpiredError"


def test_a_cancel_signed_for_one_entry_does_not_hit_the_next(story: Story) -> None:
    world = story.world
    story.schedule()
    kept = world.cancel_order(1)
    world.cancel(1)
    story.schedule(world.release(story.v2, isv_svn=3))
    assert isinstance(kept, CancelOrder)
    for generation in (1, 2):
        again = msgspec.structs.replace(kept, generation=generation)
        name = refused(lambda a=again: world.submit(world.sign_order(a)))
        assert name == "OrderSerialError"


# --- maintenance ---


def test_in_maintenance_calls_fail_by_name_and_the_handover_takes_place(
    story: Story,
) -> None:
    world = story.world
    entry = story.schedule()
    new = story.join(entry)
    story.settle(1)
    story.flowing = False
    world.set_status(ShardStatus(mode="maintenance"))
    world.block()
    call = story.carol.call("balances.transfer", dest=story.bob.account, amount=1)
    world.run_until(max(entry.upgrade_at, world.height) + 2)
    assert call.receipt().outcome == "MaintenanceError"
    assert new.executions[0] == entry.upgrade_at
    world.set_status(ShardStatus())
    story.carol._nonce -= 1  # a call that is not admitted consumes none
    story.flowing = True
    story.business(3)
    story.settle()
    story.check_calls()
    assert world.frontier().generation == 1


# --- evidence ---


def test_collateral_is_not_rolled_back(story: Story) -> None:
    world = story.world
    old = world.intel.collateral_json(now=world.chain.now())
    world.intel.tcb_recovery(now=world.chain.now(), advisories=("INTEL-SA-00001",))
    world.register_collateral()
    replayed = encode(parse_collateral(old))
    name = refused(
        lambda: world.act("bob", "teerex.register_collateral", collateral=replayed)
    )
    assert name == "CollateralOlderError"


def test_tcb_recovery_makes_the_requester_out_of_date(story: Story) -> None:
    world = story.world
    entry = story.schedule()
    story.business_until(entry.release_from)
    new = world.worker("new", story.b, upstream=story.old)
    fixed = world.intel.tcb_recovery(
        now=world.chain.now(), advisories=("INTEL-SA-00001",)
    )
    world.register_collateral()
    assert refused(lambda: new.request_keys(story.old)) == "PolicyRefusedError"
    assert new.status().epochs == ()

    # Both hosts install the microcode; the old one attests again.
    for worker in (story.old, new):
        worker.machine.install_microcode(fixed)
        worker.restart()
    story.old.register()
    new.request_keys(story.old)
    story.business(2)
    story.settle()
    assert new.executions
    story.check_calls()


def test_a_requester_takes_no_keys_from_a_provider_that_fell_out_of_date(
    story: Story,
) -> None:
    world = story.world
    entry = story.schedule(upgrade_at=world.height + 30)
    story.business_until(entry.release_from)
    new = world.worker("new", story.b, upstream=story.old)
    fixed = world.intel.tcb_recovery(
        now=world.chain.now(), advisories=("INTEL-SA-00001",)
    )
    world.register_collateral()
    new.machine.install_microcode(fixed)
    assert refused(lambda: new.request_keys(story.old)) == "PolicyRefusedError"
    assert new.status().epochs == ()


@pytest.mark.parametrize("how", ["tcb revoked", "pck revoked", "debug"])
def test_the_right_fingerprint_on_a_machine_that_is_not_trusted(
    story: Story, how: str
) -> None:
    world = story.world
    entry = story.schedule()
    story.business_until(entry.release_from)
    machine = world.machine("machine-new")
    if how == "tcb revoked":
        world.intel.set_tcb_status("Revoked")
    elif how == "pck revoked":
        machine.revoke()
    else:
        machine.set_debug(debug=True)
    world.register_collateral()
    new = world.worker("new", story.b)
    assert new.release.fingerprint == story.b.fingerprint
    name = refused(lambda: new.request_keys(story.old))
    assert name == "QuoteRefusedError"
    assert world.chain.read(object, enclave_key(new.signing_key)) is None  # type: ignore[type-abstract]
    assert keyless(new)


def test_an_advisory_that_the_order_rejects(story: Story) -> None:
    world = story.world
    policy = AttestationPolicy(
        accepted_tcb_statuses=("UpToDate", "SWHardeningNeeded"),
        rejected_advisories=("INTEL-SA-00615",),
    )
    entry = story.schedule(config=world.config(story.b, policy=policy))
    story.business_until(entry.release_from)
    world.intel.set_tcb_status("SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    world.register_collateral()
    new = world.worker("new", story.b)
    assert refused(lambda: new.request_keys(story.old)) == "PolicyRefusedError"


# --- freshness ---


def test_a_provider_whose_host_hides_the_newest_blocks_gives_no_keys(
    story: Story,
) -> None:
    """It has to see its own challenge on L1; what came before it, it sees too."""
    entry = story.schedule()
    story.business_until(entry.release_from)
    new = story.world.worker("new", story.b)
    story.old.paused = True
    assert refused(lambda: new.request_keys(story.old)) == "NotProvenError"
    assert keyless(new)


def test_a_provider_from_before_the_cancel_cannot_be_used_after_it(
    story: Story,
) -> None:
    """Its host kept the chain from it since before the cancel."""
    entry = story.schedule(upgrade_at=story.world.height + 30)
    story.business_until(entry.release_from)
    new = story.world.worker("new", story.b)
    story.old.paused = True
    story.world.cancel(entry.generation)
    name = refused(lambda: new.request_keys(story.old))
    assert name == "WrongFingerprintForShardError"
    story.old.paused = False
    name = refused(lambda: new.request_keys(story.old))
    assert name == "WrongFingerprintForShardError"
    assert keyless(new)


def test_a_worker_that_was_registered_before_the_cancel_gets_no_keys_after_it(
    story: Story,
) -> None:
    entry = story.schedule(release_from=story.world.height + 12)
    new = story.world.worker("new", story.b)
    assert refused(lambda: new.request_keys(story.old)) == "NoticeNotRunError"
    story.world.cancel(entry.generation)
    story.business_until(entry.release_from + 1)
    known = Sent(tx=b"", signer=new.account, call="the registration from before")
    new.send_registration = lambda registration: known
    name = refused(lambda: new.request_keys(story.old))
    assert name in {"ChallengeMismatchError", "KeyBindingError"}
    assert keyless(new)


# --- a migration that is wrong ---


def broken(v2: Runtime) -> Runtime:
    """Version 2 with a bug planted behind its migration: it loses a bid."""
    standard = StandardPallets()
    auction: Any = type(v2.pallets[-1])

    class Forgetful(auction):
        def on_runtime_upgrade(self, ctx: Any, from_version: int) -> None:
            super().on_runtime_upgrade(ctx, from_version)
            self.books.put(ctx, 0, ())

    pallets = [*standard.pallets, Forgetful(currency=standard.balances)]
    return Runtime(name="auction", version=2, pallets=pallets)


def test_a_migration_that_loses_something_leaves_the_state_and_rescue_follows(
    story: Story,
) -> None:
    world = story.world
    bad = world.release(broken(story.v2))
    entry = story.schedule(bad)
    xyz = entry.upgrade_at
    new = story.join(entry, release=bad)
    story.business_until(xyz + 3)
    assert new.executions == []
    assert new.refusals[-1].name == "MigrationCheckError"
    assert new.status().state_height == xyz - 1
    assert new.status().root == story.old.roots[xyz - 1]
    new.restart()
    story.business(1)
    assert new.executions == []

    story.business_until(xyz + world.schedule_now().rules.rescue_after + 2)
    story.settle()
    assert story.old.executions == list(range(story.old.executions[0], world.height))
    story.check_calls()
    story.check_chain_of_roots()
    assert world.frontier().generation == entry.generation + 1


def test_after_the_bad_migration_a_corrected_one_is_scheduled_and_runs(
    story: Story,
) -> None:
    world = story.world
    bad = world.release(broken(story.v2))
    entry = story.schedule(bad)
    story.join(entry, release=bad)
    rescued = entry.upgrade_at + world.schedule_now().rules.rescue_after
    story.business_until(rescued + 2)
    second = story.schedule(story.b)
    story.join(second, name="good")
    story.business_until(second.upgrade_at + 2)
    story.settle()
    story.check_calls()
    story.check_chain_of_roots()
    assert world.frontier().generation == second.generation


# --- calls around XYZ ---


def test_a_copied_call_after_the_upgrade_yields_the_first_receipt(
    story: Story,
) -> None:
    entry = story.schedule()
    story.join(entry)
    story.business_until(entry.upgrade_at - 1)
    first = story.carol.call("balances.transfer", dest=story.bob.account, amount=5)
    story.business(3)
    before = first.receipt()
    assert before.outcome == "ok"
    story.carol.again(first)
    story.business(2)
    story.settle()
    assert first.receipt() == before
    assert story.carol.ask("balances.free") == 1000 + story.given - 5


def test_a_call_pinned_to_the_old_code_fails_by_name_on_the_new(story: Story) -> None:
    entry = story.schedule()
    story.join(entry)
    story.business_until(entry.upgrade_at)
    pinned = story.carol.call(
        "balances.transfer",
        pin=story.a.fingerprint,
        dest=story.bob.account,
        amount=5,
    )
    story.business(3)
    assert pinned.receipt().outcome == "FingerprintPinError"
    story.settle()
    story.check_calls()


def test_a_call_of_a_stranger_to_another_shard_is_not_executed_here(
    story: Story,
) -> None:
    world: World = story.world
    other = world.create_shard(story.a)
    call = story.carol.call("balances.transfer", dest=story.bob.account, amount=9)
    world.carry(other, call.envelope)
    story.business(2)
    story.settle()
    assert story.bob.ask("balances.free") == 1000 - story.given + 9
