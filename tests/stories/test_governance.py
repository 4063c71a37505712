"""The nine steps by every kind of decision, and keys that change hands for good."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from story import Story

from sealift.base import encode
from sealift.crypto import (
    rsa_generate,
    rsa_public_modulus,
    rsa_sign_pkcs1_sha256,
    sha256,
)
from sealift.protocol import (
    AllOf,
    CancelOrder,
    EnclaveRecord,
    EntryStatus,
    HandoverPolicy,
    Order,
    Ratio,
    RotationRequest,
    RulesOrder,
    ScheduleEntry,
    ShardStatus,
    SignedOrder,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    VendorEndorsement,
    WorkersAuthority,
    enclave_key,
    epoch_at,
)
from sealift.testing import RefusedError, UserCall, World, WorldWorker

HALF = Ratio(numerator=1, denominator=2)
TENTH = Ratio(numerator=1, denominator=10)
STAKE = StakeAuthority(
    threshold=HALF, quorum=TENTH, stake_age=3, period=4, min_voters=2
)
VENDOR = rsa_generate()
MODULUS = rsa_public_modulus(VENDOR).to_bytes(384, "little")


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.name


def upgrade(story: Story, *, notice: int = 14, **fields: Any) -> UpgradeOrder:
    """An order for version 2, with time for a vote before its notice."""
    world = story.world
    release = world.height + notice
    base = {
        "predecessor": 0,
        "config": world.config(story.b),
        "release_from": release,
        "upgrade_at": release + 7,
        "expiry": world.height + 60,
    }
    return world.order(UpgradeOrder, **(base | fields))


def pending(story: Story) -> ScheduleEntry | None:
    entries = story.world.schedule_now().entries
    return next((e for e in entries if e.status is EntryStatus.PENDING), None)


def vote(story: Story, order: Order, **ayes: bool) -> list[UserCall]:
    """Alice proposes; everybody named votes; until the result is on L1."""
    world = story.world
    before = world.user("alice").ask("democracy.polls")
    proposal = world.user("alice").call("democracy.propose", order=encode(order))
    story.business(2)
    assert proposal.receipt().outcome == "ok", proposal.receipt()
    polls = world.user("alice").ask("democracy.polls")
    poll = next(one for one in polls if one not in before)
    number, opens_at, closes_at = poll[0], poll[4], poll[5]
    story.business_until(opens_at)
    votes = [
        world.user(name).call("democracy.vote", poll=number, aye=aye)
        for name, aye in ayes.items()
    ]
    story.business_until(closes_at + 3)
    for one in votes:
        assert one.receipt().outcome == "ok", one.receipt()
    return votes


def hand_over(story: Story, entry: ScheduleEntry) -> WorldWorker:
    """Steps 3 to 9, with business all along, and a restart of both."""
    new = story.join(entry)
    story.business_until(entry.upgrade_at + 2)
    story.settle()
    new.restart()
    story.old.restart()
    story.business(2)
    story.settle()
    assert new.executions[0] == entry.upgrade_at
    assert story.old.executions[-1] < entry.upgrade_at
    story.check_calls()
    story.check_chain_of_roots()
    story.check_roots_agree()
    return new


# --- every authority ---


def test_holders_decide_by_secret_vote(new_story: Callable[..., Story]) -> None:
    story = new_story(rules={"authority": STAKE})
    order = upgrade(story, notice=18)
    vote(story, order, alice=True, bob=True, carol=False)
    entry = pending(story)
    assert entry is not None
    assert entry.order == order.digest()
    hand_over(story, entry)


def test_holders_refuse(new_story: Callable[..., Story]) -> None:
    story = new_story(rules={"authority": STAKE})
    vote(story, upgrade(story, notice=18), alice=True, bob=False, carol=False)
    assert pending(story) is None
    (result,) = story.alice.ask("democracy.results")
    assert result[3] == "rejected"


def test_a_poll_that_few_took_part_in_tells_no_tally(
    new_story: Callable[..., Story],
) -> None:
    story = new_story(rules={"authority": STAKE})
    vote(story, upgrade(story, notice=18), alice=True)
    (result,) = story.alice.ask("democracy.results")
    assert result[3] == "passed"
    assert result[-1] is None


def test_one_platform_alone_decides_nothing_for_the_holders(
    new_story: Callable[..., Story],
) -> None:
    """The result counts when as many platforms agree as the rules want."""
    story = new_story(rules={"authority": STAKE, "effects_quorum": 2})
    second = story.world.worker(
        "second", story.a, operator="operator-2", upstream=story.old
    )
    second.mute = True
    second.request_keys(story.old)
    story.business(2)
    vote(story, upgrade(story, notice=22), alice=True, bob=True)
    assert pending(story) is None
    second.mute = False
    story.business(3)
    assert pending(story) is not None


def test_a_host_that_keeps_the_result_back_only_delays_it(
    new_story: Callable[..., Story],
) -> None:
    story = new_story(rules={"authority": STAKE})
    story.old.mute = True
    vote(story, upgrade(story, notice=26), alice=True, bob=True)
    assert pending(story) is None
    story.old.mute = False
    story.business(3)
    assert pending(story) is not None


def test_workers_decide(new_story: Callable[..., Story]) -> None:
    terms = WorkersAuthority(threshold=HALF, seat_age=2, period=20)
    story = new_story(operators=("operator", "operator-2"), rules={"authority": terms})
    world = story.world
    second = world.worker("second", story.a, operator="operator-2", upstream=story.old)
    second.request_keys(story.old)
    story.business(3)
    order = upgrade(
        story, config=world.config(story.b, operators=("operator", "operator-2"))
    )
    world.act(
        "operator", "council.propose", order=order, signing_key=story.old.signing_key
    )
    assert pending(story) is None
    world.act(
        "operator-2",
        "council.vote",
        shard=world.shard,
        order=order.digest(),
        signing_key=second.signing_key,
        aye=True,
    )
    entry = pending(story)
    assert entry is not None
    hand_over(story, entry)


def test_the_vendor_decides(new_story: Callable[..., Story]) -> None:
    """Its word alone brings code of its own product, under notice as any other."""
    mr_signer, product = sha256(MODULUS), 0
    story = new_story(
        rules={"authority": SignerAuthority(mr_signer=mr_signer, prod_id=product)}
    )
    config = story.world.config(story.b, mr_signer=mr_signer, isv_prod_id=product)
    order = upgrade(story, config=config)
    signature = rsa_sign_pkcs1_sha256(VENDOR, order.preimage())
    endorsement = VendorEndorsement(modulus=MODULUS, signature=signature)
    story.world.submit(SignedOrder(order=order, endorsements=(endorsement,)))
    assert pending(story) is not None
    story.business_until(order.release_from)
    new = story.world.worker("new", story.b, upstream=story.old)
    # The test's bundles are signed by another vendor than the order is by.
    assert refused(lambda: new.request_keys(story.old)) == "WrongVendorError"


def test_holders_and_a_key_together(new_story: Callable[..., Story]) -> None:
    story = new_story(
        rules={
            "authority": AllOf(
                members=(
                    STAKE,
                    SudoAuthority(key=World.account(_AnyWorld(), "authority")),
                )
            )
        }
    )
    order = upgrade(story, notice=22)
    vote(story, order, alice=True, bob=True)
    assert pending(story) is None
    story.world.submit(story.world.sign_order(order))
    entry = pending(story)
    assert entry is not None
    hand_over(story, entry)


class _AnyWorld:
    """Named accounts are the same in every world."""

    def secret(self, name: str) -> bytes:
        return sha256(b"account " + name.encode())


def test_sudo_hands_the_shard_to_its_holders(new_story: Callable[..., Story]) -> None:
    story = new_story()
    world = story.world
    rules = world.schedule_now().rules
    order = world.order(
        RulesOrder,
        rules=msgspec.structs.replace(rules, authority=STAKE),
        effective_at=world.height + 5,
    )
    world.submit(world.sign_order(order))
    story.business_until(order.effective_at + 2)
    sudo = world.upgrade_order(story.b)
    assert refused(lambda: world.submit(sudo)) == "OrderSignatureError"
    wanted = upgrade(story, notice=20)
    vote(story, wanted, alice=True, bob=True)
    entry = pending(story)
    assert entry is not None
    hand_over(story, entry)


def test_a_cancel_ends_a_vote_on_what_it_did_not_know_of(
    new_story: Callable[..., Story],
) -> None:
    """An act of anybody who may decide overtakes what is still being voted on."""
    key = SudoAuthority(key=World.account(_AnyWorld(), "authority"))
    story = new_story(rules={"authority": STAKE, "emergency": key})
    world = story.world
    order = upgrade(story, notice=22)
    vote(story, order, alice=True, bob=True)
    assert pending(story) is not None
    cancel = world.order(CancelOrder, generation=1)
    world.submit(world.sign_order(cancel))
    story.business(2)
    assert pending(story) is None
    again = world.user("bob").call("democracy.propose", order=encode(order))
    story.business(2)
    assert again.receipt().outcome == "OrderStaleError"


# --- getting out ---


def test_in_maintenance_users_get_out(story: Story) -> None:
    world = story.world
    world.act(
        "alice",
        "enclave_bridge.shield_funds",
        shard=world.shard,
        beneficiary=story.alice.account,
        amount=500,
    )
    story.settle()
    story.flowing = False
    world.set_status(ShardStatus(mode="maintenance"))
    world.block()
    before = world.balance("bob")
    call = story.alice.call(
        "balances.unshield", beneficiary=world.account("bob"), amount=500
    )
    world.blocks(5)
    assert call.receipt().outcome == "ok"
    assert world.balance("bob") - before == 500


# --- keys ---


def current_epoch(world: World) -> int:
    return epoch_at(world.schedule_now(), world.height).epoch


def rotated(story: Story, worker: WorldWorker) -> int:
    """The next epoch staged by one instance, until it acts."""
    worker.register()  # keys are made under an attestation of this very process
    worker.stage_keys()
    story.business(4)
    return current_epoch(story.world)


def test_an_upgrade_ends_with_keys_the_old_one_never_had(story: Story) -> None:
    """Invariant 8, by the rule that every upgrade rotates."""
    new = hand_over(story, story.schedule())
    assert story.world.schedule_now().rotation is not None
    assert rotated(story, new) == 1
    story.settle()
    assert new.status().epochs == (0, 1)
    assert story.old.status().epochs == (0,)
    name = refused(lambda: story.old.request_keys(new))
    assert name == "WrongFingerprintForShardError"
    assert story.old.status().epochs == (0,)
    story.settle()
    story.check_calls()
    story.check_chain_of_roots()


def test_restart_newcomer_and_handover_across_a_rotation(story: Story) -> None:
    new = hand_over(story, story.schedule())
    assert rotated(story, new) == 1
    story.settle()
    new.restart()
    late = story.world.worker("late", story.b, operator="operator-2", upstream=new)
    late.request_keys(new)
    story.business(3)
    assert late.status().epochs == (0, 1)
    third = story.world.release(story.v2, isv_svn=2)
    entry = story.schedule(third)
    story.business_until(entry.release_from)
    newest = story.world.worker("newest", third, upstream=new)
    newest.request_keys(new)
    story.business_until(entry.upgrade_at + 3)
    assert newest.executions[0] == entry.upgrade_at
    assert rotated(story, newest) == 2
    story.settle()
    story.check_calls()
    story.check_chain_of_roots()
    story.check_roots_agree()


def test_an_epoch_acts_when_enough_instances_hold_it(
    new_story: Callable[..., Story],
) -> None:
    story = new_story(rules={"rotation_quorum": 2})
    world = story.world
    second = world.worker("second", story.a, operator="operator-2", upstream=story.old)
    second.request_keys(story.old)
    story.business(3)
    _rotate_by_order(story)
    story.old.stage_keys()
    story.business(4)
    assert current_epoch(world) == 0
    second.request_keys(story.old)
    second.hold_keys()
    story.business(4)
    assert current_epoch(world) == 1
    story.settle()
    story.check_calls()
    story.check_roots_agree()


def _rotate_by_order(story: Story, **status: Any) -> None:
    world = story.world
    order = world.order(
        StatusOrder,
        status=ShardStatus(**status),
        rotate=RotationRequest(not_before=0, grace=0),
    )
    world.submit(world.sign_order(order))
    story.business(2)


def test_a_call_under_an_expired_epoch_is_told_which_is_current(story: Story) -> None:
    late = story.carol.call("balances.transfer", dest=story.bob.account, amount=0)
    envelope = late.envelope
    story.business(3)
    _rotate_by_order(story)
    assert rotated(story, story.old) == 1
    again = story.carol.again(late)
    story.business(2)
    assert again.envelope == envelope
    story.settle()
    story.check_calls()


def test_a_handover_policy_that_passes_everything_rotates_nothing(
    new_story: Callable[..., Story],
) -> None:
    passes = HandoverPolicy(shielding="pass", state="pass", root="pass")
    story = new_story(rules={"handover": passes})
    new = hand_over(story, story.schedule())
    assert refused(new.stage_keys) == "NoRotationDueError"
    assert current_epoch(story.world) == 0


def test_invariant_8_on_a_vulnerability_day_one_act_evicts_and_rotates(
    story: Story,
) -> None:
    """The evicted enclave, with its disk and keys, reads nothing new."""
    world = story.world
    evicted = world.worker(
        "evicted", story.a, operator="operator-2", upstream=story.old
    )
    evicted.request_keys(story.old)
    story.business(3)
    assert evicted.status().epochs == (0,)
    fixed = world.intel.tcb_recovery(
        now=world.chain.now(), advisories=("INTEL-SA-00001",)
    )
    world.register_collateral()
    story.old.machine.install_microcode(fixed)
    story.old.restart()
    story.old.register()
    key = enclave_key(story.old.signing_key)
    attested = world.chain.read(EnclaveRecord, key)
    order = world.order(
        StatusOrder,
        status=ShardStatus(
            min_tcb_evaluation_number=attested.tcb_evaluation_number,
            not_before=attested.attested_at,
        ),
        rotate=RotationRequest(not_before=attested.attested_at, grace=0),
    )
    world.submit(world.sign_order(order))
    story.business(2)
    assert refused(evicted.register) == "PolicyRefusedError"
    assert rotated(story, story.old) == 1
    acts = world.schedule_now().epochs[-1].valid_from
    story.business(4)
    assert refused(lambda: evicted.request_keys(story.old)) == "PolicyRefusedError"
    evicted.restart()
    evicted.step()
    assert evicted.status().epochs == (0,)
    assert evicted.status().missing == (1,)
    assert evicted.executions[-1] < acts
    story.old.take_snapshot()
    assert refused(lambda: evicted.import_snapshot(story.old.disk.snapshot)) == (
        "NoKeysError"
    )
    story.settle()
    assert world.frontier().confirmed > acts
    story.check_calls()
    story.check_roots_agree()
