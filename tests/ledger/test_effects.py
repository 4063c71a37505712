"""Effects on L1: each once, in order, agreed, and only of confirmed blocks."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import decode, encode
from sealift.ledger import EffectsConflict, SignedEffects, vault_account
from sealift.ledger._effects import (
    KEPT_EFFECTS,
    MAX_OPEN_EFFECT_BLOCKS,
    ConfirmedEffects,
    contradict,
    weight_of,
)
from sealift.ledger._errors import (
    DisputedEffectsError,
    EffectsDoneError,
    EffectsFullError,
    EffectsMismatchError,
    EffectsRangeError,
    EffectsRefutedError,
    EffectsRepeatedError,
    NotRegisteredError,
    ShardMaintenanceError,
    ShardNotBornError,
    StatementForeignError,
    StatementSignatureError,
    SvnTooLowError,
    UnknownShardError,
    VoidedGenerationError,
    WrongFingerprintForShardError,
    WrongGenerationError,
)
from sealift.protocol import (
    MAX_EFFECTS,
    MAX_RANGE_EFFECTS,
    AllOf,
    EffectsFact,
    EffectsStatement,
    Ratio,
    StakeAuthority,
    StakeDecision,
    SudoAuthority,
    Tally,
    Unshield,
    effects_digest,
)

BOB = b"b" * 32
VAULT = 10_000
STAKE = StakeAuthority(
    threshold=Ratio(numerator=1, denominator=2),
    quorum=Ratio(numerator=1, denominator=10),
    stake_age=10,
    period=10,
)


def make(world: Any, *, authority: Any = None, **rules: Any) -> Any:
    """A born shard with three machines, money in its vault, and some blocks."""
    if authority is not None:
        plain = world.rules
        world.rules = lambda **fields: world.replace(
            plain(**fields), authority=authority
        )
    world.one, world.two, world.three = (
        world.instance(name) for name in ("one", "two", "three")
    )
    world.shard = world.born_shard(world.one, world.two, world.three, **rules)
    world.birth = world.height
    world.block()
    world.call(
        "enclave_bridge.shield_funds",
        shard=world.shard,
        beneficiary=BOB,
        amount=VAULT,
    )
    world.blocks_until(world.height + 5)
    return world


@pytest.fixture
def born(world: Any) -> Any:
    """Two platforms must agree on an effect."""
    return make(world)


@pytest.fixture
def alone(world: Any) -> Any:
    """A shard that says in the open: one platform is enough."""
    return make(world, effects_quorum=1)


@pytest.fixture
def staked(world: Any) -> Any:
    """Holders of stake decide, and they alone."""
    return make(world, effects_quorum=1, authority=STAKE)


def pay(amount: int = 100, to: bytes = BOB) -> Unshield:
    return Unshield(beneficiary=to, amount=amount)


def word(
    world: Any, instance: Any, height: int, *effects: Any, **fields: Any
) -> EffectsStatement:
    base = {
        "chain_id": "test-chain",
        "shard": world.shard,
        "generation": 0,
        "height": height,
        "previous": cursor(world),
        "effects": effects_digest(effects),
        "signing_key": instance.key,
    }
    return EffectsStatement(**base | fields)


def posted(
    world: Any, instance: Any, height: int, *effects: Any, **fields: Any
) -> dict[str, Any]:
    effects = effects or (pay(),)
    statement = word(world, instance, height, *effects, **fields)
    world.facts.setdefault(height, statement.effects)
    admit(world)
    signature = statement.sign(instance.secret)
    return {"statement": statement, "signature": signature, "effects": effects}


def admit(world: Any) -> None:
    """Let the confirmed ranges have named the first words on their blocks.

    So a test may confirm before it says what the blocks do.
    """
    key = b"enclave_bridge/effects_facts/" + world.shard
    raw = world.store.get(key)
    if raw is None:
        return
    known = decode(ConfirmedEffects, raw)
    confirmed = world.frontier(world.shard).confirmed
    facts = tuple(
        EffectsFact(height=height, effects=digest)
        for height, digest in sorted(world.facts.items())
        if cursor(world) < height <= confirmed
    )
    world.store.apply({key: encode(world.replace(known, facts=facts))})


def post(world: Any, instance: Any, height: int, *effects: Any, **fields: Any) -> Any:
    arguments = posted(world, instance, height, *effects, **fields)
    return world.call("enclave_bridge.post_effects", **arguments)


def cursor(world: Any) -> Any:
    raw = world.store.get(b"enclave_bridge/effects_cursor/" + world.shard)
    return 0 if raw is None else decode(int, raw)


def balance(world: Any, account: bytes = BOB) -> Any:
    return world.read(int, b"balances/accounts/" + account) or 0


def in_vault(world: Any) -> Any:
    return balance(world, vault_account(world.shard))


def waiting(world: Any) -> int:
    return len(world.store.items(b"enclave_bridge/effects_open/"))


def told(world: Any, name: str) -> list[Any]:
    """The data of events of the last block, by name."""
    events = [e for r in world.last.results for e in r.events]
    return [e for e in events if e.name == f"enclave_bridge.{name}"]


def mode(world: Any) -> Any:
    world.block()
    return world.schedule(world.shard).status.mode


# executed


def test_funds_leave_the_vault_when_enough_platforms_agree(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    assert balance(born) == 0
    post(born, born.two, height)
    assert (balance(born), in_vault(born)) == (100, VAULT - 100)
    assert cursor(born) == height
    assert len(told(born, "FundsUnshielded")) == 1
    assert len(told(born, "EffectsExecuted")) == 1


def test_an_effect_is_not_paid_twice(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    first = posted(born, born.one, height)
    second = posted(born, born.two, height)
    third = posted(born, born.three, height)
    for one in (first, second):
        born.call("enclave_bridge.post_effects", **one)
    for again in (first, second, third):
        with pytest.raises(EffectsDoneError):
            born.call("enclave_bridge.post_effects", **again)
    assert balance(born) == 100
    assert mode(born) == "normal"


def test_an_effect_is_not_paid_twice_within_one_block(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    each = [posted(born, one, height) for one in (born.one, born.two, born.three)]
    results = born.block(
        *(born.tx("enclave_bridge.post_effects", **one) for one in (*each, *each))
    )
    assert [one.error for one in results] == ["", ""] + ["EffectsDoneError"] * 4
    assert balance(born) == 100


def test_effects_wait_until_their_block_is_confirmed(born: Any) -> None:
    """What is not the shard's one history yet moves no money."""
    height = born.height
    post(born, born.one, height)
    post(born, born.two, height)
    assert balance(born) == 0
    assert cursor(born) == 0
    born.confirm(born.shard, born.one, height - 1)
    assert balance(born) == 0
    born.confirm(born.shard, born.one, height)
    assert balance(born) == 100
    assert waiting(born) == 0


def test_effects_of_blocks_are_executed_in_order(born: Any) -> None:
    """A later withdrawal must not be paid with what an earlier one is owed."""
    early, late = born.birth + 2, born.birth + 4
    born.facts[early] = effects_digest((pay(),))
    born.confirm(born.shard, born.one, born.height)
    for instance in (born.one, born.two):
        post(born, instance, late, pay(7), previous=early)
    assert balance(born) == 0
    assert waiting(born) == 1
    post(born, born.one, early, previous=0)
    post(born, born.two, early, previous=0)
    assert balance(born) == 107
    assert cursor(born) == late
    assert len(told(born, "EffectsExecuted")) == 2


def test_a_block_left_out_of_the_chain_is_never_executed(born: Any) -> None:
    born.facts[born.birth + 2] = effects_digest((pay(),))
    born.confirm(born.shard, born.one, born.height)
    for instance in (born.one, born.two):
        post(born, instance, born.birth + 4, previous=born.birth + 2)
    born.confirm(born.shard, born.one, born.height)
    assert (balance(born), cursor(born)) == (0, 0)


def test_many_effects_of_one_block_are_carried_out_in_order(alone: Any) -> None:
    alone.confirm(alone.shard, alone.one, alone.height)
    post(alone, alone.one, alone.height - 2, pay(1), pay(2, b"c" * 32), pay(3))
    assert (balance(alone), balance(alone, b"c" * 32)) == (4, 2)
    assert in_vault(alone) == VAULT - 6


def test_a_chain_of_effects_goes_on_across_an_upgrade(alone: Any) -> None:
    new = alone.instance("new", alone.CODE_B)
    xyz = alone.upgrade(alone.shard, code=alone.CODE_B)
    alone.register(alone.shard, new)
    alone.blocks_until(xyz + 3)
    alone.confirm(alone.shard, alone.one, xyz - 1, generation=0)
    alone.confirm(alone.shard, new, xyz + 1)
    post(alone, alone.one, xyz - 1)
    with pytest.raises(WrongFingerprintForShardError):
        post(alone, alone.one, xyz, generation=1)
    with pytest.raises(WrongGenerationError):
        post(alone, alone.one, xyz, generation=0)
    post(alone, new, xyz, generation=1)
    assert (balance(alone), cursor(alone)) == (200, xyz)


def test_a_restart_does_not_change_what_was_executed(
    new_world: Any,
) -> None:
    worlds = [make(new_world()), make(new_world())]
    for number, world in enumerate(worlds):
        height = world.height
        post(world, world.one, height)
        if number:
            world.restart()
        post(world, world.two, height)
        world.confirm(world.shard, world.one, height)
        if number:
            world.restart()
        with pytest.raises(EffectsDoneError):
            post(world, world.three, height, previous=0)
    assert worlds[0].app_hash == worlds[1].app_hash
    assert balance(worlds[0]) == 100


# who may say so


def test_one_platform_is_not_enough(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    with pytest.raises(EffectsRepeatedError):
        post(born, born.one, height)
    assert balance(born) == 0


def test_one_platform_does_not_vote_under_two_keys(born: Any) -> None:
    twin = born.instance("twin")
    twin.machine = born.one.machine
    born.register(born.shard, twin)
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    with pytest.raises(EffectsRepeatedError):
        post(born, twin, height)
    assert balance(born) == 0


def test_a_platform_whose_instance_is_gone_may_speak_with_a_new_one(born: Any) -> None:
    """A machine set up anew must not have lost its voice."""
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    born.call("teerex.unregister_enclave", by="operator", signing_key=born.one.key)
    anew = born.instance("anew")
    anew.machine = born.one.machine
    born.register(born.shard, anew)
    post(born, anew, height)
    post(born, born.two, height)
    assert balance(born) == 100


def test_a_word_whose_speaker_lost_its_standing_does_not_count(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    born.submit(born.status_order(born.shard, min_isv_svn=4))
    for each in (born.two, born.three):
        born.register(born.shard, each, isv_svn=4)
    with pytest.raises(SvnTooLowError):
        post(born, born.one, height + 1)
    post(born, born.two, height)
    assert balance(born) == 0
    post(born, born.three, height)
    assert balance(born) == 100


def test_who_is_not_registered_says_nothing(born: Any) -> None:
    with pytest.raises(NotRegisteredError):
        post(born, born.instance("stranger"), born.height)


def test_a_forged_word_is_refused(born: Any) -> None:
    arguments = posted(born, born.one, born.height)
    arguments["signature"] = arguments["statement"].sign(born.two.secret)
    with pytest.raises(StatementSignatureError):
        born.call("enclave_bridge.post_effects", **arguments)


@pytest.mark.parametrize("field", ["height", "previous", "signing_key"])
def test_every_field_of_a_word_is_signed(born: Any, field: Any) -> None:
    arguments = posted(born, born.one, born.height, previous=born.birth + 1)
    value = getattr(arguments["statement"], field)
    other = value - 1 if isinstance(value, int) else born.two.key
    arguments["statement"] = born.replace(arguments["statement"], **{field: other})
    with pytest.raises(StatementSignatureError):
        born.call("enclave_bridge.post_effects", **arguments)


def test_effects_of_another_chain_or_shard_do_not_count(born: Any) -> None:
    with pytest.raises(StatementForeignError):
        post(born, born.one, born.height, chain_id="other-chain")
    with pytest.raises(UnknownShardError):
        post(born, born.one, born.height, shard=b"n" * 32)
    other = born.create_shard()
    with pytest.raises(ShardNotBornError):
        post(born, born.one, born.height, shard=other)


def test_an_instance_of_another_shard_pays_nothing_from_this_vault(born: Any) -> None:
    other = born.create_shard()
    foreign = born.instance("foreign")
    born.register(other, foreign)
    with pytest.raises(NotRegisteredError):
        post(born, foreign, born.height)


# what is said


def test_effects_that_were_not_signed_are_refused(born: Any) -> None:
    """The carrier cannot put his own account in."""
    arguments = posted(born, born.one, born.height)
    for effects in ((pay(to=b"x" * 32),), (pay(101),), (pay(), pay()), ()):
        with pytest.raises(EffectsMismatchError):
            born.call("enclave_bridge.post_effects", **arguments | {"effects": effects})


def test_no_effects_and_too_many_are_refused(alone: Any) -> None:
    statement = word(alone, alone.one, alone.height)
    with pytest.raises(EffectsMismatchError):
        alone.call(
            "enclave_bridge.post_effects",
            statement=statement,
            signature=statement.sign(alone.one.secret),
            effects=(),
        )
    with pytest.raises(EffectsMismatchError):
        post(alone, alone.one, alone.height, *[pay(1)] * (MAX_EFFECTS + 1))
    alone.facts.clear()
    post(alone, alone.one, alone.height, *[pay(1)] * MAX_EFFECTS)
    alone.confirm(alone.shard, alone.one, alone.height)
    assert balance(alone) == MAX_EFFECTS


def test_effects_of_too_many_bytes_are_refused(staked: Any) -> None:
    order = staked.upgrade_order(staked.shard, source="x" * 200)
    config = staked.config(operators=tuple(bytes([n]) * 32 for n in range(250)))
    large = StakeDecision(order=staked.replace(order, config=config), passed=False)
    with pytest.raises(EffectsMismatchError):
        post(staked, staked.one, staked.height, *[large] * 32)


def test_a_block_that_is_not_final_has_no_effects(born: Any) -> None:
    with pytest.raises(EffectsRangeError):
        post(born, born.one, born.next)
    with pytest.raises(EffectsRangeError):
        post(born, born.one, born.height, previous=born.height)


def test_no_block_before_the_birth_has_effects(born: Any) -> None:
    with pytest.raises(EffectsRangeError):
        post(born, born.one, born.birth)
    post(born, born.one, born.birth + 1)


# a generation that never came


def test_effects_of_a_voided_generation_are_dropped_and_refused(world: Any) -> None:
    world = make(world, effects_quorum=1)
    new = world.instance("new", world.CODE_B)
    xyz = world.upgrade(world.shard, code=world.CODE_B)
    world.register(world.shard, new)
    world.blocks_until(xyz + 2)
    post(world, world.one, xyz - 1)
    post(world, new, xyz, generation=1, previous=xyz - 1)
    assert waiting(world) == 2
    world.blocks_until(xyz + 10)
    assert world.schedule(world.shard).entries[1].status == "void"
    assert waiting(world) == 1
    with pytest.raises(VoidedGenerationError):
        post(world, new, xyz, generation=1, previous=xyz - 1)
    del world.facts[xyz]
    world.confirm(world.shard, world.one, xyz - 1, generation=0)
    world.confirm(world.shard, world.one, xyz + 2, generation=2)
    assert (balance(world), cursor(world)) == (100, xyz - 1)
    post(world, world.one, xyz + 1, pay(5), generation=2)
    assert balance(world) == 105


def test_a_dispute_of_a_voided_generation_ends_with_it(world: Any) -> None:
    world = make(world, effects_quorum=1)
    new = [world.instance(name, world.CODE_B) for name in ("n1", "n2")]
    xyz = world.upgrade(world.shard, code=world.CODE_B)
    for each in new:
        world.register(world.shard, each)
    world.blocks_until(xyz + 2)
    post(world, new[0], xyz, generation=1)
    post(world, new[1], xyz, pay(9), generation=1)
    world.blocks_until(xyz + 10)
    assert world.store.items(b"enclave_bridge/effect_disputes/") == []
    post(world, world.one, xyz + 1, generation=2)
    assert waiting(world) == 1


# contradictions


def test_two_platforms_that_disagree_on_effects_stop_the_shard(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    post(born, born.two, height, pay(9_999, b"t" * 32))
    assert len(told(born, "EffectsConflicting")) == 1
    assert mode(born) == "maintenance"
    for each in (born.one, born.two, born.three):
        with pytest.raises(DisputedEffectsError):
            post(born, each, height)
    assert (balance(born), balance(born, b"t" * 32)) == (0, 0)
    ((_, raw),) = born.store.items(b"enclave_bridge/effect_conflicts/")
    conflict = decode(EffectsConflict, raw)
    for signed, instance in ((conflict.first, born.one), (conflict.second, born.two)):
        signed.statement.verify(instance.key, signed.signature)
        assert signed.platform_id == instance.machine


def test_once_the_authority_has_decided_effects_go_on(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    height = born.height - 2
    post(born, born.one, height)
    post(born, born.two, height, pay(9_999))
    born.call("teerex.unregister_enclave", by="operator", signing_key=born.two.key)
    born.submit(born.status_order(born.shard, mode="normal"))
    born.block()
    for each in (born.one, born.three):
        post(born, each, height)
    assert balance(born) == 100


def test_who_was_evicted_is_convicted_and_stops_nothing(born: Any) -> None:
    """Else its old words would put the shard into maintenance again and again."""
    height = born.birth + 2
    born.facts[height] = effects_digest((pay(),))
    post(born, born.two, height, pay(9_999, b"t" * 32))
    born.call("teerex.unregister_enclave", by="operator", signing_key=born.two.key)
    post(born, born.one, height)
    assert mode(born) == "normal"
    assert len(born.store.items(b"enclave_bridge/effect_conflicts/")) == 1
    post(born, born.three, height)
    born.confirm(born.shard, born.one, born.height)
    assert (balance(born), balance(born, b"t" * 32)) == (100, 0)
    assert cursor(born) == height


def test_a_lie_that_was_executed_stops_the_shard_once(alone: Any) -> None:
    """Once the authority knows and has evicted it, the truth alarms nobody."""
    alone.confirm(alone.shard, alone.one, alone.height)
    height = alone.birth + 2
    post(alone, alone.two, height, pay(50, b"t" * 32))
    post(alone, alone.one, height, previous=0)
    assert mode(alone) == "maintenance"
    alone.call("teerex.unregister_enclave", by="operator", signing_key=alone.two.key)
    alone.submit(alone.status_order(alone.shard, mode="normal"))
    alone.block()
    with pytest.raises(EffectsDoneError):
        post(alone, alone.one, height, previous=0)
    assert mode(alone) == "normal"
    post(alone, alone.one, height + 1)
    assert balance(alone) == 100


def test_evidence_of_who_left_in_time_is_kept_all_the_same(alone: Any) -> None:
    alone.confirm(alone.shard, alone.one, alone.height)
    height = alone.birth + 2
    post(alone, alone.two, height, pay(50, b"t" * 32))
    alone.call("teerex.unregister_enclave", by="operator", signing_key=alone.two.key)
    post(alone, alone.one, height, previous=0)
    assert len(alone.store.items(b"enclave_bridge/effect_conflicts/")) == 1
    assert mode(alone) == "normal"
    with pytest.raises(EffectsDoneError):
        post(alone, alone.one, height, previous=0)
    assert balance(alone) == 0


def test_of_a_block_the_word_that_counts_is_the_one_contradicted(born: Any) -> None:
    """That its first speaker left does not make the second one's word nothing."""
    height = born.birth + 2
    post(born, born.one, height)
    post(born, born.two, height)
    born.call("teerex.unregister_enclave", by="operator", signing_key=born.one.key)
    post(born, born.three, height, pay(1))
    assert mode(born) == "maintenance"
    ((_, raw),) = born.store.items(b"enclave_bridge/effect_conflicts/")
    assert decode(EffectsConflict, raw).first.statement.signing_key == born.two.key


def test_words_that_regained_their_standing_are_counted_again(born: Any) -> None:
    """Both have spoken, never both in good standing; either may say it again."""
    born.confirm(born.shard, born.one, born.height)
    height = born.birth + 2
    post(born, born.one, height)
    born.submit(born.status_order(born.shard, min_isv_svn=4))
    born.register(born.shard, born.two, isv_svn=4)
    post(born, born.two, height)
    assert balance(born) == 0
    with pytest.raises(EffectsRepeatedError):
        post(born, born.two, height)
    born.register(born.shard, born.one, isv_svn=4)
    post(born, born.two, height)
    assert balance(born) == 100


def test_of_many_conflicts_about_a_block_the_first_is_kept(born: Any) -> None:
    post(born, born.one, born.birth + 2)
    post(born, born.two, born.birth + 2, pay(9))
    (first,) = born.store.items(b"enclave_bridge/effect_conflicts/")
    born.submit(born.status_order(born.shard, mode="normal"))
    born.block()
    post(born, born.one, born.birth + 2)
    post(born, born.three, born.birth + 2, pay(8))
    assert born.store.items(b"enclave_bridge/effect_conflicts/") == [first]
    assert mode(born) == "maintenance"


def test_a_dispute_leaves_earlier_blocks_alone(born: Any) -> None:
    born.confirm(born.shard, born.one, born.height)
    early, late = born.birth + 2, born.birth + 4
    post(born, born.one, early)
    post(born, born.one, late, previous=early)
    post(born, born.two, late, pay(3), previous=early)
    post(born, born.two, early)
    assert (balance(born), cursor(born)) == (100, early)
    with pytest.raises(DisputedEffectsError):
        post(born, born.three, late)


def test_who_leaves_out_a_block_contradicts_who_names_it(born: Any) -> None:
    """Else a liar could have a later payment made, and an earlier one lost."""
    born.confirm(born.shard, born.one, born.height)
    early, late = born.birth + 2, born.birth + 4
    post(born, born.one, early)
    post(born, born.two, late)  # says that nothing was before
    assert mode(born) == "maintenance"
    assert waiting(born) == 0


def test_another_word_on_a_block_that_was_executed_is_evidence(alone: Any) -> None:
    """One platform is enough here; the others still catch its lie."""
    alone.confirm(alone.shard, alone.one, alone.height)
    height = alone.birth + 4
    post(alone, alone.two, height, pay(9_999, b"t" * 32))
    assert balance(alone, b"t" * 32) == 9_999
    post(alone, alone.one, height, previous=0)
    assert mode(alone) == "maintenance"
    with pytest.raises(DisputedEffectsError):
        post(alone, alone.two, height + 1)


def test_a_block_that_was_skipped_is_told_even_late(alone: Any) -> None:
    alone.confirm(alone.shard, alone.one, alone.height)
    post(alone, alone.two, alone.birth + 4)
    post(alone, alone.one, alone.birth + 2, previous=0)
    assert mode(alone) == "maintenance"


def test_who_may_not_speak_cannot_cry_wolf(born: Any) -> None:
    height = born.height
    post(born, born.one, height)
    with pytest.raises(NotRegisteredError):
        post(born, born.instance("wolf"), height, pay(1))
    arguments = posted(born, born.two, height, pay(1))
    arguments["signature"] = arguments["statement"].sign(born.one.secret)
    with pytest.raises(StatementSignatureError):
        born.call("enclave_bridge.post_effects", **arguments)
    assert mode(born) == "normal"


def test_an_instance_that_contradicts_itself_convicts_itself(born: Any) -> None:
    top = born.height
    post(born, born.one, top)
    post(born, born.one, top, pay(9))
    assert mode(born) == "maintenance"
    assert len(born.store.items(b"enclave_bridge/effect_conflicts/")) == 1


def test_a_liar_cannot_raise_the_serial_again_and_again(born: Any) -> None:
    """Else one machine could keep every order of the authority from counting."""
    top = born.height
    post(born, born.one, top)
    post(born, born.two, top, pay(9))
    serial = born.schedule(born.shard).serial
    post(born, born.two, top - 1)
    post(born, born.two, top - 1, pay(9))
    assert len(born.store.items(b"enclave_bridge/effect_conflicts/")) == 2
    assert born.schedule(born.shard).serial == serial


@pytest.mark.parametrize(
    ("left", "right", "at_odds"),
    [
        ((10, 5, b"a"), (10, 5, b"a"), False),
        ((10, 5, b"a"), (10, 5, b"b"), True),
        ((10, 5, b"a"), (10, 4, b"a"), True),
        ((10, 5, b"a"), (12, 10, b"a"), False),
        ((10, 5, b"a"), (15, 12, b"a"), False),
        ((10, 5, b"a"), (12, 9, b"a"), True),
        ((10, 5, b"a"), (12, 5, b"a"), True),
        ((10, 5, b"a"), (5, 0, b"a"), False),
        ((10, 5, b"a"), (6, 5, b"a"), True),
    ],
)
def test_what_cannot_be_true_at_once(left: Any, right: Any, at_odds: Any) -> None:
    words = [
        EffectsStatement(
            chain_id="c",
            shard=b"s" * 32,
            generation=0,
            height=height,
            previous=previous,
            effects=name * 32,
            signing_key=b"k" * 32,
        )
        for height, previous, name in (left, right)
    ]
    assert contradict(*words) == contradict(*reversed(words)) == at_odds


# bounds


def test_no_more_blocks_wait_than_a_shard_keeps(alone: Any) -> None:
    first = alone.birth + 2
    alone.blocks_until(first + MAX_OPEN_EFFECT_BLOCKS + 2)
    heights = range(first, first + MAX_OPEN_EFFECT_BLOCKS)
    arguments = [
        posted(alone, alone.one, one, pay(1), previous=one - 1) for one in heights
    ]
    alone.block(*(alone.tx("enclave_bridge.post_effects", **one) for one in arguments))
    assert waiting(alone) == MAX_OPEN_EFFECT_BLOCKS
    last = first + MAX_OPEN_EFFECT_BLOCKS
    with pytest.raises(EffectsFullError):
        post(alone, alone.one, last, previous=last - 1)
    # the one that all wait for is always taken, or nothing would ever move
    post(alone, alone.one, first - 1, pay(1), previous=0)
    alone.confirm(alone.shard, alone.one, alone.height)
    assert balance(alone) == MAX_OPEN_EFFECT_BLOCKS + 1
    assert waiting(alone) == 0


def test_words_on_executed_blocks_are_kept_up_to_a_bound(alone: Any) -> None:
    alone.blocks_until(alone.birth + KEPT_EFFECTS + 10)
    alone.confirm(alone.shard, alone.one, alone.height)
    for height in range(alone.birth + 1, alone.birth + KEPT_EFFECTS + 6):
        post(alone, alone.one, height, pay(1))
    ((_, raw),) = alone.store.items(b"enclave_bridge/effects_told/")
    assert len(decode(tuple[SignedEffects, ...], raw)) == KEPT_EFFECTS
    with pytest.raises(EffectsDoneError):
        post(alone, alone.two, alone.birth + 1, pay(9), previous=0)


def test_effects_that_a_block_has_no_weight_for_are_not_lost(new_world: Any) -> None:
    """They wait for the next word or root; out of weight is no failure of theirs."""
    effects = [pay(1)] * 100
    world = make(new_world(max_block_weight=weight_of(effects) + 900))
    height = world.height
    post(world, world.one, height, *effects)
    world.confirm(world.shard, world.one, height)
    confirmation = world.confirmation(world.shard, world.one, height + 1)
    results = world.block(
        world.tx(
            "enclave_bridge.confirm",
            confirmation=confirmation,
            signature=confirmation.sign(world.one.secret),
        ),
        world.tx(
            "enclave_bridge.post_effects", **posted(world, world.two, height, *effects)
        ),
    )
    assert [one.error for one in results] == ["", ""]
    assert (balance(world), waiting(world)) == (0, 1)
    world.confirm(world.shard, world.one, world.height)
    assert (balance(world), waiting(world)) == (100, 0)


# unshielding


def test_an_unshield_below_the_existential_deposit_is_owed_not_lost(
    new_world: Any,
) -> None:
    world = make(new_world(existential_deposit=50), effects_quorum=1)
    world.confirm(world.shard, world.one, world.height)
    post(world, world.one, world.birth + 1, pay(30))
    assert balance(world) == 0
    assert len(told(world, "UnshieldOwed")) == 1
    assert told(world, "FundsUnshielded") == []
    post(world, world.one, world.birth + 2, pay(10))
    assert balance(world) == 0
    post(world, world.one, world.birth + 3, pay(10))
    assert (balance(world), in_vault(world)) == (50, VAULT - 50)
    post(world, world.one, world.birth + 4, pay(1))
    assert balance(world) == 51
    assert world.store.items(b"enclave_bridge/unshield_owed/") == []


def test_what_the_vault_does_not_have_is_not_paid_and_blocks_nothing(
    alone: Any,
) -> None:
    alone.confirm(alone.shard, alone.one, alone.height)
    post(alone, alone.one, alone.birth + 1, pay(5), pay(VAULT), pay(6))
    assert balance(alone) == 11
    assert len(told(alone, "EffectFailed")) == 1
    post(alone, alone.one, alone.birth + 2, pay(7))
    assert balance(alone) == 18


def test_one_shard_does_not_pay_from_anothers_vault(alone: Any) -> None:
    rich, alone.shard = alone.shard, alone.create_shard(effects_quorum=1)
    poor = alone.instance("poor")
    alone.register(alone.shard, poor)
    alone.publish_key(alone.shard, poor)
    alone.blocks_until(alone.height + 2)
    alone.confirm(alone.shard, poor, alone.height)
    post(alone, poor, alone.height - 1)
    assert balance(alone) == 0
    assert balance(alone, vault_account(rich)) == VAULT


def test_funds_leave_in_maintenance_and_none_come_in(alone: Any) -> None:
    """Users can always get out."""
    alone.confirm(alone.shard, alone.one, alone.height)
    alone.submit(alone.status_order(alone.shard, mode="maintenance"))
    alone.block()
    with pytest.raises(ShardMaintenanceError):
        alone.call(
            "enclave_bridge.shield_funds", shard=alone.shard, beneficiary=BOB, amount=1
        )
    post(alone, alone.one, alone.height - 4)
    assert balance(alone) == 100


def test_a_sealed_call_is_carried_in_maintenance(alone: Any) -> None:
    """L1 can't see whether it is the one by which its sender gets out."""
    alone.submit(alone.status_order(alone.shard, mode="maintenance"))
    alone.block()
    sealed = {"shard": alone.shard, "ciphertext": b"sealed"}
    assert alone.call("enclave_bridge.invoke", **sealed).ok


# what the holders decided


def later(world: Any, shard: bytes = b"") -> Any:
    """An order that keeps the notice though it waits for votes and roots."""
    release = world.height + 20
    return world.upgrade_order(
        shard or world.shard, release_from=release, upgrade_at=release + 1
    )


def decision(order: Any, *, passed: bool = True) -> StakeDecision:
    tally = Tally(ayes=70, nays=30, electorate=200, voters=12)
    return StakeDecision(order=order, passed=passed, tally=tally)


def decide(world: Any, *decisions: Any, height: int = 0) -> None:
    world.confirm(world.shard, world.one, world.height)
    post(world, world.one, height or world.frontier(world.shard).confirmed, *decisions)


def test_what_the_holders_decided_is_scheduled(staked: Any) -> None:
    order = later(staked)
    decide(staked, decision(order))
    assert staked.schedule(staked.shard).entries[-1].order == order.digest()
    assert len(told(staked, "StakeDecided")) == 1
    assert len(told(staked, "OrderRecorded")) == 1


def test_what_the_holders_rejected_is_told_and_not_done(staked: Any) -> None:
    order = later(staked)
    decide(staked, decision(order, passed=False))
    assert len(staked.schedule(staked.shard).entries) == 1
    assert len(told(staked, "StakeDecided")) == 1
    assert told(staked, "EffectFailed") == []


def test_a_decision_counts_once(staked: Any) -> None:
    """Its serial is consumed: the second in one block fails by name."""
    order = later(staked)
    decide(staked, decision(order), decision(order), pay())
    assert len(staked.schedule(staked.shard).entries) == 2
    (failed,) = told(staked, "EffectFailed")
    assert b"OrderSerialError" in failed.data
    assert balance(staked) == 100


def test_holders_of_one_shard_do_not_decide_for_another(staked: Any) -> None:
    """The other shard's authority is the same; its holders are not."""
    other = staked.create_shard()
    order = later(staked, other)
    decide(staked, decision(order))
    assert len(staked.schedule(other).entries) == 1
    (failed,) = told(staked, "EffectFailed")
    assert b"OrderForeignError" in failed.data


def test_holders_decide_nothing_where_a_key_decides(alone: Any) -> None:
    order = later(alone)
    decide(alone, decision(order))
    assert len(alone.schedule(alone.shard).entries) == 1
    (failed,) = told(alone, "EffectFailed")
    assert b"OrderSignatureError" in failed.data


def test_an_order_that_cannot_be_carried_out_stops_nothing(staked: Any) -> None:
    late = staked.upgrade_order(staked.shard, release_from=staked.next, upgrade_at=99)
    decide(staked, decision(late), pay())
    assert len(staked.schedule(staked.shard).entries) == 1
    assert b"NoticeError" in told(staked, "OrderFailed")[0].data
    assert balance(staked) == 100


def test_where_a_key_must_agree_too_the_decision_waits_for_it(world: Any) -> None:
    key = SudoAuthority(key=world.account("authority"))
    both = AllOf(members=(STAKE, key))
    world = make(world, effects_quorum=1, authority=both)
    order = later(world)
    decide(world, decision(order))
    assert len(world.schedule(world.shard).entries) == 1
    assert len(told(world, "OrderEndorsed")) == 1
    world.submit(order)
    assert world.schedule(world.shard).entries[-1].order == order.digest()


def test_holders_may_be_those_that_decide_in_an_emergency(world: Any) -> None:
    """The key decides what runs; the holders may pause it at once."""
    plain = world.rules
    world.rules = lambda **fields: world.replace(plain(**fields), emergency=STAKE)
    world = make(world, effects_quorum=1)
    decide(world, decision(later(world)))
    assert len(world.schedule(world.shard).entries) == 1
    pause = world.status_order(world.shard, mode="maintenance")
    post(world, world.one, world.height - 1, decision(pause))
    world.confirm(world.shard, world.one, world.height)
    assert mode(world) == "maintenance"


def test_a_decision_and_a_payment_of_later_blocks_go_on_after_it(staked: Any) -> None:
    """The schedule has changed in the midst of executing; the chain goes on."""
    order = later(staked)
    first, second = staked.birth + 2, staked.birth + 3
    post(staked, staked.one, first, decision(order))
    post(staked, staked.one, second, pay(), previous=first)
    staked.confirm(staked.shard, staked.one, staked.height)
    assert len(staked.schedule(staked.shard).entries) == 2
    assert (balance(staked), cursor(staked)) == (100, second)


# what confirmed roots say


def test_a_word_that_the_confirmed_root_contradicts_is_refused(born: Any) -> None:
    """However many platforms say it: the root's quorum has settled the fact."""
    height = born.birth + 2
    truth = EffectsFact(height=height, effects=effects_digest((pay(),)))
    born.confirm(born.shard, born.one, born.height, effects=(truth,))
    lies = (
        (height, (pay(9_999),), 0),
        (height + 1, (pay(),), 0),
        (height + 1, (pay(),), height),
        (height, (pay(),), born.birth + 1),
    )
    for instance in (born.two, born.three):
        for block, effects, previous in lies:
            statement = word(born, instance, block, *effects, previous=previous)
            with pytest.raises(EffectsRefutedError):
                born.call(
                    "enclave_bridge.post_effects",
                    statement=statement,
                    signature=statement.sign(instance.secret),
                    effects=effects,
                )
    born.facts[height] = truth.effects
    for instance in (born.one, born.two):
        post(born, instance, height)
    assert (balance(born), cursor(born), mode(born)) == (100, height, "normal")


def test_a_quorum_of_liars_does_not_stop_the_chain_of_effects(born: Any) -> None:
    """They make up a block that has none; the confirmed range lacks it."""
    lie, height = born.birth + 1, born.birth + 3
    for instance in (born.two, born.three):
        post(born, instance, lie, pay(9_999))
    truth = EffectsFact(height=height, effects=effects_digest((pay(),)))
    born.facts.clear()
    born.confirm(born.shard, born.one, born.height, effects=(truth,))
    assert (balance(born), cursor(born), waiting(born)) == (0, 0, 0)
    assert told(born, "EffectsRefuted")
    born.facts[height] = truth.effects
    for instance in (born.one, born.two):
        post(born, instance, height)
    assert (balance(born), cursor(born)) == (100, height)


def test_a_confirmation_comes_with_the_effects_that_it_names(born: Any) -> None:
    height = born.height
    fact = EffectsFact(height=height, effects=effects_digest((pay(),)))
    low = born.replace(fact, height=born.birth)
    high = born.replace(fact, height=height + 1)
    told_of = born.confirmation(born.shard, born.one, height, effects=(fact,))
    with pytest.raises(EffectsMismatchError):
        born.call(
            "enclave_bridge.confirm",
            confirmation=told_of,
            signature=told_of.sign(born.one.secret),
        )
    many = tuple(born.replace(fact, height=n) for n in range(MAX_RANGE_EFFECTS + 1))
    for facts in ((fact, fact), (low,), (high,), many):
        with pytest.raises(EffectsMismatchError):
            born.confirm(born.shard, born.one, height, effects=facts)
    assert born.frontier(born.shard).confirmed == born.birth


def test_an_evicted_generations_effects_are_said_by_its_successor(world: Any) -> None:
    """Else the last effects before an eviction would stop the chain for ever."""
    world = make(world)
    new, newer = (world.instance(name, world.CODE_B) for name in ("new", "newer"))
    xyz = world.upgrade(world.shard, code=world.CODE_B)
    for each in (new, newer):
        world.register(world.shard, each)
    world.blocks_until(xyz + 2)
    last = xyz - 1
    post(world, world.one, last)
    with pytest.raises(WrongFingerprintForShardError):
        post(world, new, last)  # nothing has confirmed it yet
    world.confirm(world.shard, world.one, last, generation=0)
    world.facts[xyz] = effects_digest((pay(),))
    world.confirm(world.shard, new, xyz + 1, generation=1)
    for each in (world.one, world.two, world.three):
        world.call("teerex.unregister_enclave", by="operator", signing_key=each.key)
    post(world, new, last)
    assert balance(world) == 0
    post(world, newer, last)
    assert (balance(world), cursor(world)) == (100, last)
    for each in (new, newer):
        post(world, each, xyz, generation=1)
    assert (balance(world), cursor(world)) == (200, xyz)


def test_the_record_tells_how_far_effects_were_executed(alone: Any) -> None:
    height = alone.height
    assert alone.record(alone.shard).effects_done == 0
    post(alone, alone.one, height)
    alone.confirm(alone.shard, alone.one, height)
    alone.block()
    assert alone.record(alone.shard).effects_done == height


# whatever the order


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_in_whatever_order_words_and_roots_come_each_effect_is_paid_once(
    new_world: Any, data: Any
) -> None:
    """What is paid is at any time what the first blocks owe, and none beyond the
    confirmed ones; in the end it is everything, once.
    """
    world = make(new_world())
    heights = [world.birth + 1 + step for step in (0, 1, 3, 4)]
    previous = [0, *heights[:-1]]
    owed = [1, 10, 100, 1000]
    for height, amount in zip(heights, owed, strict=True):
        world.facts[height] = effects_digest((pay(amount),))
    words: list[Any] = [
        (which, instance)
        for which in range(4)
        for instance in (world.one, world.two, world.three)
    ]
    roots = [None] * 4
    for act in data.draw(st.permutations(words + roots)):
        if act is None:
            last = world.frontier(world.shard).confirmed + 1
            world.confirm(world.shard, world.one, last)
        else:
            which, instance = act
            arguments = posted(
                world,
                instance,
                heights[which],
                pay(owed[which]),
                previous=previous[which],
            )
            world.block(world.tx("enclave_bridge.post_effects", **arguments))
        done = [h for h in heights if h <= cursor(world)]
        assert balance(world) == sum(owed[: len(done)])
        assert cursor(world) <= world.frontier(world.shard).confirmed
    world.confirm(world.shard, world.one, heights[-1])
    assert (balance(world), cursor(world)) == (1111, heights[-1])
    assert waiting(world) == 0
    assert mode(world) == "normal"
