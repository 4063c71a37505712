"""A chain whose validators took what they must not take.

Headers, inclusion and states are genuine: what refuses is the verifier's own
reading of signatures, quorums, quotes and rules.
"""

from collections.abc import Callable
from typing import Any

import pytest
from ghosts import Ghost, haunted, keys_of, root_of
from lineages import export, replace, verify

from sealift.base import Epoch, Height, ShardId
from sealift.client import _evidence
from sealift.crypto import sha256
from sealift.evidence import (
    ActUnprovenError,
    BirthRefusedError,
    EvidenceError,
    InstanceRefusedError,
    KeysUnexplainedError,
    RootChainError,
    ScheduleUnexplainedError,
)
from sealift.frame import Runtime
from sealift.ledger import (
    _authority,
    _bridge_effects,
    _bridge_keys,
    _bridge_orders,
    _bridge_roots,
    _bridge_schedule,
    _bridge_speakers,
    _council,
    _orders,
    _teerex,
)
from sealift.protocol import (
    CancelOrder,
    EffectsStatement,
    KeyEndorsement,
    Ratio,
    RotationDue,
    RotationRequest,
    RulesOrder,
    ShardRules,
    ShardStatus,
    SignedOrder,
    StakeAuthority,
    StakeDecision,
    StatusOrder,
    Tally,
    UpgradeOrder,
    WorkersAuthority,
    effects_digest,
    sign_order,
)
from sealift.testing import World

Make = Callable[..., World]
HALF = Ratio(numerator=1, denominator=2)


#: The step that each refusal names.
STEPS = {
    "HeadersRefusedError": 1,
    "InclusionError": 1,
    "BirthRefusedError": 2,
    "ActUnprovenError": 3,
    "ScheduleUnexplainedError": 3,
    "InstanceRefusedError": 4,
    "KeysUnexplainedError": 5,
    "RootChainError": 6,
}


def test_every_refusal_has_the_number_of_its_step() -> None:
    kinds = {one.__name__: one.step for one in EvidenceError.__subclasses__()}
    assert kinds == STEPS


def refuses(
    world: World, error: type[EvidenceError], match: str, *, blocks: int = 2
) -> None:
    """The chain goes on; whoever verifies its lineage does not believe it."""
    world.blocks(blocks)
    with pytest.raises(error, match=match) as caught:
        verify(world, export(world))
    assert f"step {error.step}:" in str(caught.value)


def upgrade(world: World, **fields: Any) -> UpgradeOrder:
    return replace(world.upgrade_order(world.releases[1]).order, **fields)


def nothing(*_: Any, **__: Any) -> None:
    """What a validator that looks away does."""


# --- step 2 ---


def test_a_shard_under_another_ones_name(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain gave an id that follows from nobody's creation."""
    world = new_world()
    other = ShardId(sha256(b"somebody else's shard"))
    monkeypatch.setattr(_bridge_schedule, "shard_id_of", lambda *_: other)
    world.create_shard(world.release(v1))
    world._shards = [other]
    monkeypatch.undo()
    monkeypatch.setattr(_evidence, "_shard_id", lambda *_: other)
    refuses(world, BirthRefusedError, "another shard's")


# --- step 3: signatures, notice, votes ---


def test_an_act_with_a_forged_signature(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    order = upgrade(world)
    forged = SignedOrder(
        order=order,
        endorsements=(
            KeyEndorsement(
                key=world.account("authority"),
                signature=order.sign(world.secret("alice")),
            ),
        ),
    )
    monkeypatch.setattr(SignedOrder, "verify_endorsements", nothing)
    world.submit(forged)
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "not over its order")


def test_an_act_that_somebody_else_signed(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    monkeypatch.setattr(_authority, "_require_key", nothing)
    monkeypatch.setattr(_bridge_orders, "lacking", lambda *_, **__: ())
    world.submit(sign_order(upgrade(world), world.secret("alice")))
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "undecided: got nobody")


def test_an_upgrade_without_its_notice(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(min_notice=20)
    haunted(world, v1, "one")
    monkeypatch.setattr(_orders, "_notice", lambda *_, **__: 0)
    at = Height(world.height + 3)
    world.submit(
        world.sign_order(upgrade(world, release_from=at, upgrade_at=Height(at + 1)))
    )
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "without its notice")


def test_an_order_that_replays(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided, cancelled, and sent again by anybody."""
    world = new_world()
    haunted(world, v1, "one")
    at = Height(world.height + 20)
    order = world.sign_order(upgrade(world, release_from=at, upgrade_at=Height(at + 1)))
    world.submit(order)
    world.cancel(1)
    monkeypatch.setattr(_bridge_orders, "verify_order", nothing)
    world.submit(order)
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "out of turn: got serial 0")


def test_rules_that_change_at_once(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(min_notice=20)
    haunted(world, v1, "one")
    rules = replace(world.schedule_now().rules, min_notice=1)
    order = world.order(RulesOrder, rules=rules, effective_at=Height(world.height + 2))
    monkeypatch.setattr(ShardRules, "longest_notice", property(lambda _: 0))
    world.submit(world.sign_order(order))
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "rules without their notice")


def test_a_floor_that_falls(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    high = ShardStatus(min_isv_svn=1, min_tcb_evaluation_number=1)
    world.submit(world.sign_order(world.order(StatusOrder, status=high)))
    world.block()
    monkeypatch.setattr(ShardStatus, "lowers", lambda *_: False)
    world.submit(world.sign_order(world.order(StatusOrder, status=ShardStatus())))
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "a floor fell")


def test_a_generation_that_runs_cannot_be_cancelled(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    real = _orders._pending
    monkeypatch.setattr(_orders, "_pending", lambda schedule, g: schedule.entry(g))
    at = Height(world.height + 20)
    world.submit(
        world.sign_order(upgrade(world, release_from=at, upgrade_at=Height(at + 1)))
    )
    world.submit(world.sign_order(world.order(CancelOrder, generation=1)))
    world.submit(world.sign_order(world.order(CancelOrder, generation=1)))
    monkeypatch.setattr(_orders, "_pending", real)
    refuses(world, ActUnprovenError, "not pending took effect")


def test_code_that_changes_without_any_act(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validators' conspiracy puts other code into the running generation."""
    world = new_world()
    haunted(world, v1, "one")
    other = world.config(world.releases[1])

    def swap(schedule: Any, **_: Any) -> Any:
        return replace(schedule, entries=(replace(schedule.entries[0], config=other),))

    monkeypatch.setattr(_bridge_schedule, "apply_change", swap)
    world.block()
    monkeypatch.undo()
    refuses(world, ScheduleUnexplainedError, "in entries")


def test_a_promotion_before_its_time(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    entry = world.schedule(world.releases[1])
    real = _bridge_schedule.promote
    monkeypatch.setattr(
        _bridge_schedule,
        "promote",
        lambda schedule, *, height: real(schedule, height=height + 4),
    )
    world.run_until(entry.upgrade_at - 2)
    monkeypatch.undo()
    world.run_until(entry.upgrade_at + 1)
    refuses(world, ScheduleUnexplainedError, "in entries")


def stake_world(new_world: Make, v1: Runtime) -> tuple[World, list[Ghost], Height]:
    world = new_world()
    terms = StakeAuthority(
        threshold=HALF,
        quorum=Ratio(numerator=1, denominator=10),
        stake_age=1,
        period=5,
    )
    world._more_rules = {"authority": terms, "effects_quorum": 2}
    ghosts = haunted(world, v1, "one", "two")
    return world, ghosts, world.height


def decision(world: World, *, ayes: int = 70) -> StakeDecision:
    at = world.height + 12
    order = upgrade(world, release_from=Height(at), upgrade_at=Height(at + 2))
    tally = Tally(ayes=ayes, nays=30, electorate=1000, voters=12)
    return StakeDecision(order=order, passed=True, tally=tally)


def test_a_stake_decision_by_one_platform_when_two_are_needed(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (one, _), at = stake_world(new_world, v1)
    real = _bridge_effects.EffectKeeper._due

    def lenient(self: Any, ctx: Any, shard: Any) -> Any:
        waiting = self.effects_waiting.get(ctx, shard)
        return real(self, ctx, shard) or (
            self.effects_open.get(ctx, (shard, waiting[0].height)) if waiting else None
        )

    monkeypatch.setattr(_bridge_effects.EffectKeeper, "_due", lenient)
    effect = decision(world)
    one.confirm(effects={at: effect})
    one.effects(at, effect)
    monkeypatch.undo()
    assert len(world.schedule_now().entries) == 2
    refuses(world, ActUnprovenError, "without enough platforms' word: got 1")


def test_a_decision_before_its_block_is_confirmed(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (one, two), at = stake_world(new_world, v1)

    def hasty(self: Any, ctx: Any, shard: Any) -> Any:
        waiting = self.effects_waiting.get(ctx, shard)
        if not waiting:
            return None
        found = self.effects_open.get(ctx, (shard, waiting[0].height))
        return found if len(found.votes) > 1 else None

    effect = decision(world)
    monkeypatch.setattr(_bridge_effects.EffectKeeper, "_due", hasty)
    one.effects(at, effect)
    two.effects(at, effect)
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "on a confirmed block")


def test_a_tally_that_is_no_majority(new_world: Make, v1: Runtime) -> None:
    """Both enclaves say that it passed; their own numbers say that it did not."""
    world, (one, two), at = stake_world(new_world, v1)
    effect = decision(world, ayes=20)
    one.confirm(effects={at: effect})
    one.effects(at, effect)
    two.effects(at, effect)
    refuses(world, ActUnprovenError, "without a majority")


def test_effects_other_than_those_that_were_signed(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (one, _), at = stake_world(new_world, v1)
    monkeypatch.setattr(_bridge_effects, "verify_named", nothing)
    real = decision(world)
    one.confirm(effects={at: real})
    other = decision(world, ayes=99)
    sent = one.effects(at, real)
    assert sent.refusal == ""
    world.act(
        "carrier",
        "enclave_bridge.post_effects",
        **_swapped(one, at, real, other),
    )
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "does not name them")


def _swapped(ghost: Ghost, at: int, real: Any, other: Any) -> dict[str, Any]:
    """A word on block ``at + 1`` that names other effects than come with it."""
    statement = EffectsStatement(
        **ghost.here,
        generation=0,
        height=Height(at + 1),
        previous=Height(at),
        effects=effects_digest((real,)),
    )
    return {
        "statement": statement,
        "signature": statement.sign(ghost.seed),
        "effects": (other,),
    }


def council_world(new_world: Make, v1: Runtime) -> tuple[World, list[Ghost], Any]:
    world = new_world()
    operators = (world.account("operator"),)
    terms = WorkersAuthority(threshold=HALF, seat_age=3, period=20)
    world._more_rules = {"authority": terms}
    probe = world.release(v1, sources={"app.py": b"first"})
    config = replace(world.config(probe), operators=operators)
    ghosts = haunted(world, v1, "one", "two", "three", config=config)
    world.blocks(4)
    at = world.height + 20
    order = upgrade(
        world,
        config=replace(world.config(world.releases[2]), operators=operators),
        release_from=Height(at),
        upgrade_at=Height(at + 2),
    )
    return world, ghosts, order


def test_a_motion_that_passes_without_its_majority(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (one, *_), order = council_world(new_world, v1)
    real = Ratio.exceeded_by
    monkeypatch.setattr(Ratio, "exceeded_by", lambda *_: True)
    one.propose(order)
    monkeypatch.setattr(Ratio, "exceeded_by", real)
    refuses(world, ActUnprovenError, "without its majority: got 1 of 3 platforms")


def test_a_motion_with_fewer_seats_than_there_are_hosts(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seat, one vote, a majority: the others were not asked."""
    world, (one, *_), order = council_world(new_world, v1)
    real = _council.Council._seats
    monkeypatch.setattr(_council.Council, "_seats", lambda *args: real(*args)[:1])
    monkeypatch.setattr(
        _council.Council,
        "_seated",
        lambda self, ctx, schedule, motion, key, operator: self._instances.instance(
            ctx, schedule.shard, key
        ),
    )
    one.propose(order)
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "other seats than the registry: got .1., exp")


def test_a_newcomer_has_no_vote(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (one, *_), order = council_world(new_world, v1)
    late = Ghost(world, "late", world.releases[0])
    late.release = one.release
    late.register()
    one.propose(order)
    monkeypatch.setattr(
        _council.Council,
        "_seated",
        lambda self, ctx, schedule, motion, key, operator: self._instances.instance(
            ctx, schedule.shard, key
        ),
    )
    late.vote(order)
    monkeypatch.undo()
    refuses(world, ActUnprovenError, "without a seat")


# --- step 4 ---


def test_a_quote_of_another_enclave(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    intruder = Ghost(world, "intruder", world.releases[1])
    monkeypatch.setattr(
        _teerex.Teerex,
        "_admit",
        lambda self, ctx, record: self._shards.admissible(ctx, world.shard)[0],
    )
    intruder.register()
    monkeypatch.undo()
    refuses(world, InstanceRefusedError, "is none that generation 0 accepts")


def test_a_quote_over_somebody_elses_statement(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    thief = Ghost(world, "thief", world.releases[0])
    real = type(thief.machine).quote

    def other(self: Any, identity: Any, _: bytes) -> bytes:
        return real(self, identity, bytes(64))

    class Anything(bytes):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    judged = _teerex.Teerex._verify_quote

    class Lenient:
        def __init__(self, evidence: Any) -> None:
            self._evidence = evidence
            self.report_data = Anything()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._evidence, name)

    monkeypatch.setattr(type(thief.machine), "quote", other)
    monkeypatch.setattr(
        _teerex.Teerex, "_verify_quote", lambda *args: Lenient(judged(*args))
    )
    thief.register()
    monkeypatch.undo()
    refuses(world, InstanceRefusedError, "quote over something else")


def test_a_registration_that_its_key_did_not_sign(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    ghost = Ghost(world, "mute", world.releases[0])
    ghost.seed = bytes(32)  # signs with another key than it names
    monkeypatch.setattr(_teerex.Teerex, "_verify_speaker", nothing)
    ghost.register()
    monkeypatch.undo()
    refuses(world, InstanceRefusedError, "did not sign its statement")


def test_a_word_of_somebody_who_may_not_speak(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the pending generation: its quote is good, and its turn has not come."""
    world = new_world()
    haunted(world, v1, "one")
    world.schedule(world.releases[1])
    early = Ghost(world, "early", world.releases[1])
    early.register()
    monkeypatch.setattr(_bridge_speakers, "require_eligible", nothing)
    early.confirm()
    monkeypatch.undo()
    refuses(world, InstanceRefusedError, "may not speak for generation 0")


# --- steps 5 and 6 ---


def test_keys_made_before_the_attestation_that_acts(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(rules={"rotation_quorum": 2})
    one, _ = haunted(world, v1, "one", "two")
    world.submit(
        world.sign_order(
            world.order(
                StatusOrder,
                status=ShardStatus(),
                rotate=RotationRequest(not_before=Height(0)),
            )
        )
    )
    before = one.staged(1, keys_of(1))
    world.block()
    one.register()
    monkeypatch.setattr(_bridge_keys, "verify_attested", nothing)
    one.say("stage_keys", "statement", before)
    monkeypatch.undo()
    refuses(world, KeysUnexplainedError, "made under another registration")


def test_keys_made_under_an_attestation_from_before_the_demand(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(rules={"rotation_quorum": 2})
    one, _ = haunted(world, v1, "one", "two")
    since = Height(world.height + 1)
    one.register()
    world.submit(
        world.sign_order(
            world.order(
                StatusOrder,
                status=ShardStatus(),
                rotate=RotationRequest(not_before=since),
            )
        )
    )
    monkeypatch.setattr(_bridge_keys, "verify_attested", nothing)
    one.stage(1)
    monkeypatch.undo()
    refuses(world, KeysUnexplainedError, "too early a registration")


def test_keys_that_nobody_owed(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    (one,) = haunted(world, v1, "one")
    due = _due(world, 1)
    monkeypatch.setattr(_bridge_keys, "require_due", lambda *_, **__: due)
    one.stage(1)
    monkeypatch.undo()
    refuses(world, KeysUnexplainedError, "staged and not owed")


def _due(world: World, epoch: int) -> Any:
    return RotationDue(
        epoch=Epoch(epoch), why="order", generation=0, not_before=Height(0), grace=0
    )


def test_keys_that_the_shut_out_may_have(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation by order, to the very keys that were to be replaced."""
    world = new_world()
    (one,) = haunted(world, v1, "one")
    rotate = RotationRequest(not_before=Height(0))
    world.submit(
        world.sign_order(world.order(StatusOrder, status=ShardStatus(), rotate=rotate))
    )
    monkeypatch.setattr(_bridge_keys, "verify_keys", nothing)
    statement = one.staged(1, keys_of(0))
    one.say("stage_keys", "statement", statement)
    monkeypatch.undo()
    refuses(world, KeysUnexplainedError, "not what the handover policy says")


def test_keys_held_by_somebody_who_did_not_stage_them(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(rules={"rotation_quorum": 2})
    one, _ = haunted(world, v1, "one", "two")
    rotate = RotationRequest(not_before=Height(0))
    world.submit(
        world.sign_order(world.order(StatusOrder, status=ShardStatus(), rotate=rotate))
    )
    one.stage(1)
    monkeypatch.setattr(
        _bridge_keys,
        "require_staged",
        lambda schedule, *_, **__: schedule.staged,
    )
    one.hold(1)
    monkeypatch.undo()
    refuses(world, KeysUnexplainedError, "held them before")


def test_a_root_without_its_quorum(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(root_quorum=2)
    one, _ = haunted(world, v1, "one", "two")

    def alone(self: Any, ctx: Any, _: Any, __: Any, vote: Any, facts: Any) -> None:
        self._accept(ctx, vote, facts)

    monkeypatch.setattr(_bridge_roots.RootKeeper, "_count", alone)
    one.confirm()
    monkeypatch.undo()
    refuses(world, RootChainError, "without its quorum: got 1 platforms")


def test_a_certificate_with_another_root(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    (one,) = haunted(world, v1, "one")
    entry = world.schedule(world.releases[1])
    world.run_until(entry.upgrade_at)
    one.confirm(entry.upgrade_at - 1, root=root_of(9_999))
    monkeypatch.setattr(
        _bridge_roots.RootKeeper,
        "_confirmed_root",
        lambda self, ctx, shard, frontier, height: root_of(height),
    )
    one.certify(1)
    monkeypatch.undo()
    refuses(world, RootChainError, "handover certificate in block")


def test_a_stop_without_a_contradiction(
    new_world: Make, v1: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(root_quorum=2)
    one, two = haunted(world, v1, "one", "two")
    one.confirm()
    monkeypatch.setattr(_bridge_roots, "conflicting", lambda *_: True)
    two.confirm(world.height - 1)
    monkeypatch.undo()
    refuses(world, RootChainError, "without a contradiction")
