"""Key epochs: owed, staged, held, acting; and who is kept from them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.attestation import PolicyRefusedError
from sealift.base import SealiftError, encode
from sealift.crypto import sha256
from sealift.ledger._errors import (
    EpochHeldError,
    EpochOrderError,
    EpochStagedError,
    KeyPolicyError,
    NoRotationError,
    NothingStagedError,
    NotRegisteredError,
    RotationAttestationError,
    RotationDemandError,
    RotationEarlyError,
    ScheduleFullError,
    ShardNotBornError,
    StagedKeysError,
    StatementForeignError,
    StatementSignatureError,
    SvnTooLowError,
    WrongFingerprintForShardError,
)
from sealift.ledger._orders import MAX_SCHEDULE_BYTES
from sealift.ledger._rotation import EPOCH_DELAY, activate, stage, verify_keys
from sealift.protocol import (
    EpochKeysPublic,
    HandoverPolicy,
    HoldKeysStatement,
    RotationRequest,
    StageKeysStatement,
    accepted_epochs,
    epoch_at,
    rotation_demand,
)

FIELDS = ("shielding_key", "state_key_commitment", "root_key_commitment")


def make(world: Any, **rules: Any) -> Any:
    """A born shard with three instances, and some blocks confirmed."""
    world.one, world.two, world.three = (
        world.instance(name) for name in ("one", "two", "three")
    )
    config = world.config(policy={"max_age_blocks": 60})
    world.shard = world.born_shard(
        world.one, world.two, world.three, config=config, **rules
    )
    world.blocks_until(world.height + 3)
    world.confirm(world.shard, world.one, world.height)
    return world


@pytest.fixture
def born(world: Any) -> Any:
    """Two instances must hold an epoch before it acts."""
    return make(world, rotation_quorum=2)


@pytest.fixture
def owing(born: Any) -> Any:
    """The authority wants new keys."""
    rotate(born)
    return born


@pytest.fixture
def upgraded(world: Any) -> Any:
    """Generation 1 runs; it has confirmed nothing yet."""
    return upgrade(make(world))


def upgrade(world: Any) -> Any:
    world.new = world.instance("new", world.CODE_B)
    world.xyz = world.upgrade(world.shard, code=world.CODE_B)
    world.register(world.shard, world.new)
    world.blocks_until(world.xyz + 1)
    return world


def come(world: Any) -> None:
    """The new generation has confirmed its first block."""
    world.confirm(world.shard, world.one, world.xyz - 1, generation=0)
    world.confirm(world.shard, world.new, world.xyz)


def rotate(world: Any, *, not_before: int = 0, grace: int = 7, **floors: Any) -> None:
    order = world.status_order(world.shard, **floors)
    asked = RotationRequest(not_before=not_before, grace=grace)
    world.submit(world.replace(order, rotate=asked))


def keys(name: str, **fields: bytes) -> EpochKeysPublic:
    made = {field: sha256(f"{name} {field}".encode()) for field in FIELDS}
    return EpochKeysPublic(**made | fields)


def stated(
    kind: Any, world: Any, instance: Any, public: Any, **fields: Any
) -> dict[str, Any]:
    base = {
        "chain_id": "test-chain",
        "shard": world.shard,
        "epoch": 1,
        "keys": public,
        "signing_key": instance.key,
    }
    if kind is StageKeysStatement:
        base["demand"] = rotation_demand(world.schedule(world.shard))
        record = world.enclave(instance)
        base["registration"] = None if record is None else record.statement.digest()
    statement = kind(**base | fields)
    return {"statement": statement, "signature": statement.sign(instance.secret)}


def stage_keys(world: Any, instance: Any, public: Any = None, **fields: Any) -> Any:
    arguments = stated(
        StageKeysStatement, world, instance, public or keys("new"), **fields
    )
    return world.call("enclave_bridge.stage_keys", **arguments)


def hold_keys(world: Any, instance: Any, public: Any = None, **fields: Any) -> Any:
    arguments = stated(
        HoldKeysStatement, world, instance, public or keys("new"), **fields
    )
    return world.call("enclave_bridge.hold_keys", **arguments)


def staged(world: Any) -> Any:
    return world.schedule(world.shard).staged


def epochs(world: Any) -> Any:
    return world.schedule(world.shard).epochs


def first_keys(world: Any) -> Any:
    return epochs(world)[0].keys


def test_keys_made_under_an_earlier_attestation_are_refused(owing: Any) -> None:
    """Made while the platform was broken, attested after it was patched, published."""
    before = owing.enclave(owing.one).statement.digest()
    owing.register(owing.shard, owing.one)
    others = owing.enclave(owing.two).statement.digest()
    for registration in (before, None, others):
        with pytest.raises(RotationAttestationError):
            stage_keys(owing, owing.one, registration=registration)
    stage_keys(owing, owing.one)
    assert staged(owing).holders == (owing.one.key,)


def test_a_quote_from_before_the_demand_makes_no_keys_however_late_it_came(
    born: Any,
) -> None:
    """A registration is attested when L1 takes it, but quoted some blocks before."""
    quoted = born.registration(born.shard, born.one)
    floor = born.next
    order = born.status_order(born.shard)
    born.submit(born.replace(order, rotate=RotationRequest(not_before=floor)))
    born.blocks_until(floor)
    born.call("teerex.register_sgx_enclave", by=born.one.operator, **quoted)
    assert born.enclave(born.one).attested_at >= floor
    with pytest.raises(RotationAttestationError):
        stage_keys(born, born.one)
    born.register(born.shard, born.one)
    stage_keys(born, born.one)
    assert staged(born).holders == (born.one.key,)


# the way


def test_an_epoch_acts_once_enough_instances_hold_it(owing: Any) -> None:
    stage_keys(owing, owing.one)
    assert staged(owing).holders == (owing.one.key,)
    assert staged(owing).staged_at == owing.height
    assert len(epochs(owing)) == 1
    hold_keys(owing, owing.two)
    first, second = epochs(owing)
    assert (second.epoch, second.keys) == (1, keys("new"))
    assert second.valid_from == owing.height + EPOCH_DELAY
    assert (second.grace, second.not_before) == (7, 0)
    schedule = owing.schedule(owing.shard)
    assert (schedule.staged, schedule.rotation) == (None, None)
    assert first.epoch == 0


def test_where_one_instance_is_enough_the_stager_is_it(world: Any) -> None:
    make(world)
    rotate(world)
    stage_keys(world, world.one)
    assert len(epochs(world)) == 2
    told = world.events()
    assert "enclave_bridge.KeysStaged" in told
    assert "enclave_bridge.EpochActivated" in told


def test_the_old_epochs_calls_are_taken_until_its_grace_has_run(owing: Any) -> None:
    stage_keys(owing, owing.one)
    hold_keys(owing, owing.two)
    schedule = owing.schedule(owing.shard)
    acts = schedule.epochs[1].valid_from
    assert epoch_at(schedule, acts - 1).epoch == 0
    assert epoch_at(schedule, acts).epoch == 1
    assert accepted_epochs(schedule, acts - 1) == (0,)
    assert accepted_epochs(schedule, acts + 6) == (0, 1)
    assert accepted_epochs(schedule, acts + 7) == (1,)


def test_staging_and_holding_are_proven_and_no_acts_of_the_authority(
    owing: Any,
) -> None:
    """An order that the authority signed before stays good; the record follows."""
    serial = owing.schedule(owing.shard).serial
    for act, instance in ((stage_keys, owing.one), (hold_keys, owing.two)):
        act(owing, instance)
        schedule = owing.schedule(owing.shard)
        assert schedule.serial == serial
        assert owing.record(owing.shard).schedule == schedule.digest()


def test_epochs_follow_each_other(born: Any) -> None:
    for number in (1, 2, 3):
        rotate(born)
        public = keys(f"epoch {number}")
        stage_keys(born, born.one, public, epoch=number)
        hold_keys(born, born.two, public, epoch=number)
    assert [one.epoch for one in epochs(born)] == [0, 1, 2, 3]


def test_two_rotations_in_one_block_act_one_after_the_other(world: Any) -> None:
    make(world)
    rotate(world)
    order = world.replace(
        world.status_order(world.shard), rotate=RotationRequest(not_before=0)
    )
    first = stated(StageKeysStatement, world, world.one, keys("a"))
    schedule = world.schedule(world.shard)
    due = world.replace(schedule.rotation, epoch=2, grace=0)
    later = world.replace(schedule, rotation=due, serial=schedule.serial + 1)
    demand = rotation_demand(later)
    second = stated(
        StageKeysStatement, world, world.one, keys("b"), epoch=2, demand=demand
    )
    world.block(
        world.tx("enclave_bridge.stage_keys", **first),
        world.tx("enclave_bridge.submit_order", order=world.signed(order)),
        world.tx("enclave_bridge.stage_keys", **second),
    )
    _, one, two = epochs(world)
    assert one.valid_from < two.valid_from


def test_a_shard_is_born_before_its_keys_are_rotated(world: Any) -> None:
    world.shard = world.create_shard()
    world.collateral()
    one = world.instance("one")
    world.register(world.shard, one)
    for act in (stage_keys, hold_keys):
        with pytest.raises(ShardNotBornError):
            act(world, one)


# when


def test_keys_that_nobody_asked_for_are_refused(born: Any) -> None:
    """Else one instance could move the shard to keys that nobody else has."""
    with pytest.raises(NoRotationError):
        stage_keys(born, born.one)


def test_only_the_epoch_that_is_owed_is_staged(owing: Any) -> None:
    for epoch in (0, 2):
        with pytest.raises(EpochOrderError):
            stage_keys(owing, owing.one, epoch=epoch)


def test_a_rotation_is_paid_once(owing: Any) -> None:
    stage_keys(owing, owing.one)
    hold_keys(owing, owing.two)
    for epoch in (1, 2):
        with pytest.raises(NoRotationError):
            stage_keys(owing, owing.one, keys("more"), epoch=epoch)
    with pytest.raises(NothingStagedError):
        hold_keys(owing, owing.three)


def test_an_upgrade_rotates_after_the_new_generations_first_block(
    upgraded: Any,
) -> None:
    """Before it, nobody knows whether the new generation comes."""
    assert upgraded.schedule(upgraded.shard).rotation.why == "upgrade"
    with pytest.raises(RotationEarlyError):
        stage_keys(upgraded, upgraded.new)
    come(upgraded)
    stage_keys(upgraded, upgraded.new)
    assert len(epochs(upgraded)) == 2


def test_the_old_generation_does_not_stage_the_new_ones_keys(upgraded: Any) -> None:
    """The old code never gets them, and so it may not choose them."""
    come(upgraded)
    with pytest.raises(WrongFingerprintForShardError):
        stage_keys(upgraded, upgraded.one)


def test_the_old_generation_does_not_hold_the_new_ones_keys(world: Any) -> None:
    upgrade(make(world, rotation_quorum=2))
    come(world)
    stage_keys(world, world.new)
    with pytest.raises(WrongFingerprintForShardError):
        hold_keys(world, world.one)
    assert staged(world).holders == (world.new.key,)


def test_a_pending_generation_does_not_stage(owing: Any) -> None:
    new = owing.instance("new", owing.CODE_B)
    owing.upgrade(owing.shard, code=owing.CODE_B)
    owing.register(owing.shard, new)
    with pytest.raises(WrongFingerprintForShardError):
        stage_keys(owing, new)


def test_a_cancel_after_the_release_rotates_without_the_cancelled_code(
    born: Any,
) -> None:
    """Invariant 8: it may hold the old keys, and never gets the new ones."""
    new = born.instance("new", born.CODE_B)
    release = born.next + 6
    born.upgrade(
        born.shard, code=born.CODE_B, release_from=release, upgrade_at=release + 30
    )
    born.register(born.shard, new)
    born.blocks_until(release)
    born.submit(born.cancel_order(born.shard, 1))
    assert born.schedule(born.shard).rotation.why == "cancel"
    for act in (stage_keys, hold_keys):
        if act is hold_keys:
            stage_keys(born, born.one)
        with pytest.raises(WrongFingerprintForShardError):
            act(born, new)


def test_a_rescue_rotates_and_the_voided_generation_does_not_stage(world: Any) -> None:
    upgrade(make(world, rotation_quorum=2))
    world.confirm(world.shard, world.one, world.xyz - 1, generation=0)
    world.blocks_until(world.xyz + 10)
    due = world.schedule(world.shard).rotation
    assert (due.why, due.generation) == ("rescue", 2)
    with pytest.raises(RotationEarlyError):
        stage_keys(world, world.one)
    world.confirm(world.shard, world.one, world.xyz, generation=2)
    with pytest.raises(WrongFingerprintForShardError):
        stage_keys(world, world.new)
    stage_keys(world, world.one)
    with pytest.raises(WrongFingerprintForShardError):
        hold_keys(world, world.new)
    hold_keys(world, world.two)
    assert len(epochs(world)) == 2


def test_a_shard_that_passes_everything_owes_nothing_at_an_upgrade(world: Any) -> None:
    handover = HandoverPolicy(shielding="pass", state="pass", root="pass")
    upgrade(make(world, handover=handover))
    come(world)
    with pytest.raises(NoRotationError):
        stage_keys(world, world.new)


# who


def test_who_is_not_registered_stages_and_holds_nothing(owing: Any) -> None:
    stranger = owing.instance("stranger")
    with pytest.raises(NotRegisteredError):
        stage_keys(owing, stranger)
    stage_keys(owing, owing.one)
    with pytest.raises(NotRegisteredError):
        hold_keys(owing, stranger)


def test_a_withdrawn_instance_stages_and_holds_nothing(born: Any) -> None:
    """One act: the floor evicts, the rotation makes the eviction real."""
    rotate(born, min_isv_svn=4)
    born.block()
    born.register(born.shard, born.one, isv_svn=4)
    with pytest.raises(SvnTooLowError):
        stage_keys(born, born.two)
    stage_keys(born, born.one)
    with pytest.raises(SvnTooLowError):
        hold_keys(born, born.two)


def test_a_lapsed_instance_stages_and_holds_nothing(owing: Any) -> None:
    owing.blocks_until(owing.enclave(owing.three).attested_at + 58)
    owing.register(owing.shard, owing.one)
    owing.register(owing.shard, owing.three)
    owing.block()
    with pytest.raises(PolicyRefusedError):
        stage_keys(owing, owing.two)
    stage_keys(owing, owing.one)
    with pytest.raises(PolicyRefusedError):
        hold_keys(owing, owing.two)
    hold_keys(owing, owing.three)
    assert len(epochs(owing)) == 2


def test_who_was_attested_before_the_rotation_asks_for_gets_no_part(born: Any) -> None:
    """A registration under a status that was accepted then says nothing of now."""
    rotate(born, not_before=born.height)
    with pytest.raises(PolicyRefusedError) as refusal:
        stage_keys(born, born.one)
    assert "not before" in str(refusal.value)
    born.register(born.shard, born.one)
    stage_keys(born, born.one)
    with pytest.raises(PolicyRefusedError):
        hold_keys(born, born.two)
    born.register(born.shard, born.two)
    hold_keys(born, born.two)
    assert epochs(born)[1].not_before > 0


def test_forged_and_foreign_words_on_keys_are_refused(owing: Any) -> None:
    arguments = stated(StageKeysStatement, owing, owing.one, keys("new"))
    arguments["signature"] = arguments["statement"].sign(owing.two.secret)
    with pytest.raises(StatementSignatureError):
        owing.call("enclave_bridge.stage_keys", **arguments)
    with pytest.raises(StatementForeignError):
        stage_keys(owing, owing.one, chain_id="other-chain")
    stage_keys(owing, owing.one)
    with pytest.raises(StatementForeignError):
        hold_keys(owing, owing.two, chain_id="other-chain")


def test_who_staged_elsewhere_does_not_hold_here(owing: Any) -> None:
    """A word that keys exist is no word that they are sealed."""
    stage_keys(owing, owing.one)
    other = stated(StageKeysStatement, owing, owing.two, keys("new"))
    held = stated(HoldKeysStatement, owing, owing.two, keys("new"))
    with pytest.raises(StatementSignatureError):
        owing.call(
            "enclave_bridge.hold_keys",
            statement=held["statement"],
            signature=other["signature"],
        )


# what


def test_a_hold_for_other_keys_does_not_count(owing: Any) -> None:
    """A host that fed its enclave other keys must not make the epoch act."""
    with pytest.raises(NothingStagedError):
        hold_keys(owing, owing.two)
    stage_keys(owing, owing.one)
    for field in FIELDS:
        with pytest.raises(StagedKeysError):
            hold_keys(owing, owing.two, keys("new", **{field: b"x" * 32}))
    with pytest.raises(StagedKeysError):
        hold_keys(owing, owing.two, epoch=2)


def test_one_instance_holds_once(owing: Any) -> None:
    stage_keys(owing, owing.one)
    with pytest.raises(EpochHeldError):
        hold_keys(owing, owing.one)
    assert len(epochs(owing)) == 1


def test_a_holder_that_is_no_longer_eligible_is_not_counted(world: Any) -> None:
    make(world, rotation_quorum=3)
    rotate(world)
    stage_keys(world, world.one)
    world.call("teerex.unregister_enclave", by="operator", signing_key=world.one.key)
    hold_keys(world, world.two)
    assert staged(world).holders == (world.two.key,)
    hold_keys(world, world.three)
    assert len(epochs(world)) == 1
    four = world.instance("four")
    world.register(world.shard, four)
    hold_keys(world, four)
    assert len(epochs(world)) == 2


@pytest.mark.parametrize("field", FIELDS)
def test_an_old_key_is_not_staged_again(owing: Any, field: Any) -> None:
    """Who was shut out may have it."""
    old = getattr(first_keys(owing), field)
    with pytest.raises(KeyPolicyError):
        stage_keys(owing, owing.one, keys("new", **{field: old}))


def test_a_key_of_two_epochs_ago_is_not_staged_again(owing: Any) -> None:
    old = first_keys(owing).root_key_commitment
    stage_keys(owing, owing.one)
    hold_keys(owing, owing.two)
    rotate(owing)
    with pytest.raises(KeyPolicyError):
        stage_keys(owing, owing.one, keys("b", root_key_commitment=old), epoch=2)


def test_an_upgrade_keeps_what_the_policy_passes_and_nothing_else(world: Any) -> None:
    upgrade(make(world, handover=HandoverPolicy(shielding="pass")))
    come(world)
    old = first_keys(world)
    passed = {"shielding_key": old.shielding_key}
    with pytest.raises(KeyPolicyError):
        stage_keys(world, world.new)
    state = old.state_key_commitment
    with pytest.raises(KeyPolicyError):
        stage_keys(world, world.new, keys("n", **passed, state_key_commitment=state))
    stage_keys(world, world.new, keys("n", **passed))
    assert epochs(world)[1].keys.shielding_key == old.shielding_key


def test_a_policy_to_pass_does_not_bind_a_rotation_by_order(world: Any) -> None:
    """New keys are wanted because somebody has the old ones."""
    make(world, handover=HandoverPolicy(shielding="pass"))
    rotate(world)
    old = first_keys(world).shielding_key
    with pytest.raises(KeyPolicyError):
        stage_keys(world, world.one, keys("n", shielding_key=old))
    stage_keys(world, world.one)


def test_derived_keys_are_others_too(world: Any) -> None:
    upgrade(make(world, handover=HandoverPolicy(state="re-derive")))
    come(world)
    old = first_keys(world).state_key_commitment
    with pytest.raises(KeyPolicyError):
        stage_keys(world, world.new, keys("n", state_key_commitment=old))
    stage_keys(world, world.new)


def test_keys_made_for_another_demand_are_not_staged(owing: Any) -> None:
    """Who is shut out by the stricter one may hold them."""
    early = stated(StageKeysStatement, owing, owing.one, keys("new"))
    rotate(owing, not_before=owing.height)
    owing.register(owing.shard, owing.one)
    with pytest.raises(RotationDemandError):
        owing.call("enclave_bridge.stage_keys", **early)
    with pytest.raises(RotationDemandError):
        stage_keys(owing, owing.one, demand=None)
    stage_keys(owing, owing.one)


# who dies on the way


def test_a_dead_stager_does_not_stop_the_rotation(owing: Any) -> None:
    stage_keys(owing, owing.one)
    at = owing.height
    with pytest.raises(EpochStagedError):
        stage_keys(owing, owing.two, keys("other"))
    owing.blocks_until(at + 8)
    with pytest.raises(EpochStagedError):
        stage_keys(owing, owing.two, keys("other"))
    stage_keys(owing, owing.two, keys("other"))  # rescue_after has passed
    assert staged(owing).holders == (owing.two.key,)
    with pytest.raises(StagedKeysError):
        hold_keys(owing, owing.three, keys("new"))
    hold_keys(owing, owing.three, keys("other"))
    assert epochs(owing)[1].keys == keys("other")


def test_keys_that_were_given_up_are_not_staged_again(owing: Any) -> None:
    """Who made them may have been shut out since."""
    stage_keys(owing, owing.one)
    owing.blocks_until(owing.height + 10)
    with pytest.raises(KeyPolicyError):
        stage_keys(owing, owing.two)


def test_a_rotation_ordered_while_keys_are_staged_drops_them(owing: Any) -> None:
    """Whoever is to be shut out may hold what is staged."""
    stage_keys(owing, owing.one)
    rotate(owing, not_before=owing.height)
    assert staged(owing) is None
    with pytest.raises(NothingStagedError):
        hold_keys(owing, owing.two)
    owing.register(owing.shard, owing.two)
    stage_keys(owing, owing.two, keys("other"))


def test_a_raised_floor_drops_what_is_staged(owing: Any) -> None:
    """Whoever falls out by it may hold the keys; the rotation is owed still."""
    stage_keys(owing, owing.one)
    assert staged(owing) is not None
    owing.submit(owing.status_order(owing.shard, min_isv_svn=1))
    assert staged(owing) is None
    assert owing.schedule(owing.shard).rotation is not None


def test_an_act_that_raises_no_floor_leaves_what_is_staged(owing: Any) -> None:
    stage_keys(owing, owing.one)
    owing.submit(owing.status_order(owing.shard))
    assert staged(owing) is not None


def test_an_upgrade_drops_what_the_former_generation_staged(world: Any) -> None:
    make(world, rotation_quorum=2)
    rotate(world)
    stage_keys(world, world.one)
    upgrade(world)
    assert staged(world) is None
    come(world)
    stage_keys(world, world.new, keys("other"))
    assert world.schedule(world.shard).rotation.why == "order"


# bounds


def test_a_full_schedule_takes_no_epoch_more(owing: Any) -> None:
    schedule = owing.schedule(owing.shard)
    due = schedule.rotation
    staging = {"signing_key": owing.one.key, "height": owing.height}
    room = MAX_SCHEDULE_BYTES - len(encode(schedule))
    source = "x" * 256
    fat = owing.replace(schedule.entries[0], source=source)
    count = room // len(encode(fat))
    full = owing.replace(schedule, entries=(*schedule.entries, *[fat] * count))
    assert len(encode(full)) <= MAX_SCHEDULE_BYTES
    with pytest.raises(ScheduleFullError):
        stage(full, keys("new"), due, **staging)
    fitting = owing.replace(full, entries=full.entries[:-4])
    after = stage(fitting, keys("new"), due, **staging)
    held, _ = activate(after, {owing.one.key}, height=owing.height)
    assert len(encode(held)) <= MAX_SCHEDULE_BYTES


def test_nothing_staged_nothing_activated(born: Any) -> None:
    schedule = born.schedule(born.shard)
    assert activate(schedule, set(), height=9) == (schedule, None)


def test_the_policy_is_judged_against_every_epoch(owing: Any) -> None:
    schedule = owing.schedule(owing.shard)
    verify_keys(schedule, keys("new"), schedule.rotation)
    with pytest.raises(KeyPolicyError):
        verify_keys(schedule, first_keys(owing), schedule.rotation)


# whatever comes


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_epochs_never_skip_fork_or_come_again(new_world: Any, data: Any) -> None:
    """Under any order of rotations, words, departures and time: epochs ascend, no
    key acts twice, and only eligible instances made one act.
    """
    world = make(new_world(), rotation_quorum=2)
    instances = (world.one, world.two, world.three)
    acts = ("rotate", "stage", "hold", "hold", "leave", "join", "wait")
    for step in range(data.draw(st.integers(5, 25))):
        act = data.draw(st.sampled_from(acts))
        who = data.draw(st.sampled_from(instances))
        before = world.schedule(world.shard)
        epoch = before.epochs[-1].epoch + 1
        public = before.staged.keys if before.staged else keys(f"{step}")
        try:
            if act == "rotate":
                late = data.draw(st.sampled_from((0, world.height)))
                rotate(world, not_before=late)
            elif act == "stage":
                stage_keys(world, who, keys(f"{step}"), epoch=epoch)
            elif act == "hold":
                hold_keys(world, who, public, epoch=epoch)
            elif act == "leave":
                world.call(
                    "teerex.unregister_enclave", by="operator", signing_key=who.key
                )
            elif act == "join":
                world.register(world.shard, who)
            else:
                world.blocks_until(world.height + 11)
        except SealiftError:
            pass
        after = world.schedule(world.shard)
        check_step(world, before, after)


def check_step(world: Any, before: Any, after: Any) -> None:
    assert after.epochs[: len(before.epochs)] == before.epochs
    assert [one.epoch for one in after.epochs] == list(range(len(after.epochs)))
    heights = [one.valid_from for one in after.epochs]
    assert heights == sorted(set(heights))
    for field in FIELDS:
        made = [getattr(one.keys, field) for one in after.epochs]
        assert len(set(made)) == len(made)
    assert world.record(world.shard).schedule == after.digest()
    if after.staged is not None:
        assert after.rotation == after.staged.due
        assert after.staged.epoch == after.epochs[-1].epoch + 1
        assert len(after.staged.holders) < after.rules.rotation_quorum
    if len(after.epochs) > len(before.epochs):
        assert before.staged is not None
        assert after.epochs[-1].keys == before.staged.keys
        assert (after.staged, after.rotation) == (None, None)
