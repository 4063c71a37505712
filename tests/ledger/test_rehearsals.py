"""Version 3: no upgrade without its rehearsals, and nobody can forge or replay one."""

from typing import Any

import msgspec
import pytest

from sealift.attestation import PolicyRefusedError
from sealift.base import Height, encode
from sealift.frame import CallArgumentsError, RuntimeCall, storage_key
from sealift.ledger import FIRST_RUNTIME, NEWEST_RUNTIME, shard_id_of, transaction
from sealift.ledger._errors import (
    NoChangeError,
    NoticeError,
    NotRegisteredError,
    OperatorRefusedError,
    OrderSerialError,
    OrderSignatureError,
    RehearsalClosedError,
    RehearsalForeignError,
    RehearsalFormError,
    RehearsalsFullError,
    RehearsalStaleError,
    RehearsalTermsError,
    StatementForeignError,
    StatementSignatureError,
    WrongFingerprintForShardError,
)
from sealift.ledger.v2 import SECOND_RUNTIME
from sealift.ledger.v3 import THIRD_RUNTIME
from sealift.ledger.v3._bridge import RehearsedBridge
from sealift.ledger.v3._gate import MAX_WORDS
from sealift.protocol import (
    LEAST_POSTPONEMENT,
    MAX_REHEARSALS,
    MOST_POSTPONEMENT,
    AnyOf,
    EffectsStatement,
    EntryRehearsals,
    PostponeOrder,
    RehearsalGate,
    RehearsalsOrder,
    RehearsalStatement,
    RehearsalTerms,
    RulesOrder,
    StakeDecision,
    SudoAuthority,
    WithdrawOrder,
    effects_digest,
    gate_key,
    rehearsals_key,
    rounded_up,
)

BY = 12
BLOCKS_AHEAD = 14


class Stage:
    """A gated shard whose generation 1 is pending, and three of its instances."""

    def __init__(
        self, world: Any, *, required: int = 2, rules: Any = None, **config: Any
    ) -> None:
        self.world = world
        self.old = world.instance("old")
        self.shard = gated(world, required=required, **rules or {})
        world.collateral()
        world.register(self.shard, self.old)
        world.publish_key(self.shard, self.old)
        self.new = [world.instance(f"new{n}", world.CODE_B) for n in range(3)]
        order = world.upgrade_order(
            self.shard, config=world.config(world.CODE_B, **config)
        )
        order = world.replace(order, upgrade_at=order.release_from + BLOCKS_AHEAD)
        world.submit(order)
        self.order = order
        for one in self.new:
            world.register(self.shard, one)
        world.blocks_until(order.release_from - 1)

    @property
    def entry(self) -> Any:
        return self.world.schedule(self.shard).entry(1)

    def statement(self, instance: Any, **fields: Any) -> RehearsalStatement:
        base = {
            "chain_id": self.world.genesis.chain_id,
            "shard": self.shard,
            "generation": 1,
            "order": self.entry.order,
            "upgrade_at": self.entry.upgrade_at,
            "signing_key": instance.key,
            "height": self.world.height - 3,
            "blocks": 3,
            "good": True,
            "check": "",
            "size": 4096,
        }
        return RehearsalStatement(**(base | fields))

    def arguments(self, instance: Any, **fields: Any) -> dict[str, Any]:
        milliseconds = fields.pop("milliseconds", 64)
        secret = fields.pop("secret", instance.secret)
        statement = fields.pop("statement", None)
        statement = statement or self.statement(instance, **fields)
        return {
            "statement": statement,
            "signature": statement.sign(secret),
            "milliseconds": milliseconds,
        }

    def post(self, instance: Any, *, by: str = "operator", **fields: Any) -> Any:
        return self.world.call(
            "enclave_bridge.post_rehearsal", by=by, **self.arguments(instance, **fields)
        )

    def bad(self, instance: Any, **fields: Any) -> Any:
        return self.post(instance, good=False, check="accounts.post_upgrade", **fields)

    def kept(self) -> EntryRehearsals | None:
        return self.world.read(EntryRehearsals, rehearsals_key(self.shard, 1))

    def gate(self) -> RehearsalGate:
        return self.world.read(RehearsalGate, gate_key(self.shard))

    def terms_order(self, required: int, by: int, **fields: Any) -> RehearsalsOrder:
        return terms_order(self.world, self.shard, required, by, **fields)

    def postpone_order(self, at: int) -> PostponeOrder:
        return PostponeOrder(
            chain_id=self.world.genesis.chain_id,
            shard=self.shard,
            serial=self.world.schedule(self.shard).serial,
            generation=1,
            upgrade_at=at,
            expiry=self.world.height + 50,
        )

    def crowd(self, **said: Any) -> list[Any]:
        """As many platforms as words are kept, each with a word; XYZ is put off."""
        world = self.world
        world.submit(self.postpone_order(self.order.upgrade_at + 60))
        crowd = [world.instance(f"crowd{n}", world.CODE_B) for n in range(MAX_WORDS)]
        for call, arguments in (
            (
                "teerex.register_sgx_enclave",
                lambda one: world.registration(self.shard, one),
            ),
            (
                "enclave_bridge.post_rehearsal",
                lambda one: self.arguments(one, **said),
            ),
        ):
            txs = [world.tx(call, by="operator", **arguments(one)) for one in crowd]
            for result in world.block(*txs):
                world.told(result)
        return crowd


def terms_order(
    world: Any, shard: bytes, required: int, by: int, **fields: Any
) -> RehearsalsOrder:
    schedule = world.schedule(shard)
    base = {
        "chain_id": world.genesis.chain_id,
        "shard": shard,
        "serial": schedule.serial,
        "required": required,
        "postpone_by": by,
        "effective_at": world.next + schedule.rules.longest_notice,
        "expiry": world.height + 50,
    }
    return RehearsalsOrder(**(base | fields))


def gated(
    world: Any, *, required: int, by: int = BY, config: Any = None, **rules: Any
) -> bytes:
    index = len(world.read(tuple[bytes, ...], b"enclave_bridge/shards/") or ())
    world.call(
        "enclave_bridge.create_gated_shard",
        rules=world.rules(**rules),
        config=config or world.config(),
        rehearsals=required,
        postpone_by=by,
    )
    return shard_id_of(world.genesis.chain_id, world.account("alice"), index)


@pytest.fixture
def world(new_world: Any) -> Any:
    return new_world(runtime=THIRD_RUNTIME)


@pytest.fixture
def stage(world: Any) -> Stage:
    made = Stage(world)
    world.block()  # release_from
    return made


def event(world: Any, kind: str) -> Any:
    told = [one for one in world.last.events if one.name == f"enclave_bridge.{kind}"]
    return [msgspec.msgpack.decode(one.data) for one in told]


# the rule


def test_enough_good_rehearsals_let_an_upgrade_run_at_its_block(stage: Stage) -> None:
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    stage.world.blocks_until(stage.order.upgrade_at)
    assert stage.world.record(stage.shard).generation == 1
    assert stage.kept() is None, "nothing is kept of what runs"
    assert (
        stage.world.read(tuple[int, ...], b"enclave_bridge/rehearsed/" + stage.shard)
        == ()
    )


def test_without_them_it_is_postponed_and_the_old_one_goes_on(stage: Stage) -> None:
    stage.post(stage.new[0])
    stage.bad(stage.new[1])
    at, world = stage.order.upgrade_at, stage.world
    serial = world.schedule(stage.shard).serial
    world.blocks_until(at - 2)
    assert stage.entry.upgrade_at == at
    world.block()
    assert world.height == at - 1
    assert stage.entry.upgrade_at == stage.entry.since == at + BY
    assert stage.entry.release_from == stage.order.release_from
    told = event(world, "UpgradePostponed")
    assert told == [["UpgradePostponed", stage.shard, 1, 1, 2, at + BY]]
    record = world.record(stage.shard)
    assert (record.height, record.generation) == (at - 1, 0)
    assert record.schedule == world.schedule(stage.shard).digest(), "proven together"
    assert world.schedule(stage.shard).serial == serial
    assert stage.kept() is None, "they are needed anew"
    world.block()
    assert world.record(stage.shard).generation == 0


def test_it_is_postponed_again_and_again_until_they_are_there(stage: Stage) -> None:
    world, at = stage.world, stage.order.upgrade_at
    for _ in range(3):
        world.blocks_until(at - 1)
        at += BY
        assert stage.entry.upgrade_at == at
    stage.post(stage.new[0])
    stage.post(stage.new[2])
    world.blocks_until(at)
    assert world.record(stage.shard).generation == 1


def test_a_word_in_block_xyz_minus_one_still_counts(stage: Stage) -> None:
    stage.post(stage.new[0])
    stage.world.blocks_until(stage.order.upgrade_at - 2)
    stage.post(stage.new[1])
    stage.world.block()
    assert stage.world.height == stage.order.upgrade_at
    assert stage.world.record(stage.shard).generation == 1


def test_a_bad_word_in_block_xyz_minus_one_still_counts(stage: Stage) -> None:
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    stage.world.blocks_until(stage.order.upgrade_at - 2)
    stage.bad(stage.new[1])
    assert stage.entry.upgrade_at == stage.order.upgrade_at + BY


def test_the_newest_word_of_a_platform_counts_good_or_bad(stage: Stage) -> None:
    stage.bad(stage.new[0])
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    stage.bad(stage.new[1])
    kept = stage.kept()
    assert kept is not None
    assert [one.statement.good for one in kept.rehearsals] == [True, False]
    assert [one.milliseconds for one in kept.rehearsals] == [64, 64]


def test_who_is_evicted_after_its_word_does_not_count(stage: Stage) -> None:
    """The floor of a vulnerability day reaches what was said before it."""
    world = stage.world
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    world.submit(world.status_order(stage.shard, not_before=world.height))
    world.blocks_until(stage.order.upgrade_at)
    assert world.record(stage.shard).generation == 0
    assert stage.entry.upgrade_at == stage.order.upgrade_at + BY


def test_without_a_gate_nothing_is_asked_for(world: Any) -> None:
    one = world.instance("one")
    shard = world.born_shard(one)
    assert world.read(RehearsalGate, gate_key(shard)) == RehearsalGate()
    at = world.upgrade(shard)
    world.blocks_until(at)
    assert world.record(shard).generation == 1


def test_an_emergency_upgrade_is_rehearsed_too(world: Any) -> None:
    """Whoever could skip the gate by a word in the order would have none."""
    one = world.instance("one")
    shard = gated(world, required=1, emergency_notice=3, emergency_floor=2)
    world.collateral()
    world.register(shard, one)
    world.publish_key(shard, one)
    release = world.next + 3
    order = world.upgrade_order(
        shard, emergency=True, release_from=release, upgrade_at=release + 2
    )
    world.submit(order)
    world.blocks_until(order.upgrade_at)
    assert world.schedule(shard).entry(1).upgrade_at == order.upgrade_at + BY


def test_what_follows_keeps_its_distance(stage: Stage) -> None:
    world = stage.world
    release = world.next + 5
    order = world.upgrade_order(
        stage.shard,
        code=world.CODE_C,
        release_from=release,
        upgrade_at=stage.order.upgrade_at + 4,
    )
    world.submit(order)
    gap = order.upgrade_at - stage.order.upgrade_at
    assert 0 < gap < BY, "or it could stay where it is"
    world.blocks_until(stage.order.upgrade_at)
    first, second = world.schedule(stage.shard).entries[1:]
    assert first.upgrade_at == stage.order.upgrade_at + BY
    assert second.upgrade_at == second.since == first.upgrade_at + gap


def test_a_rescuer_needs_no_rehearsal(world: Any) -> None:
    """It is code that ran, by a rule that has to work when all else fails."""
    stage = Stage(world, required=1)
    world.block()
    stage.post(stage.new[0])
    world.blocks_until(stage.order.upgrade_at + 10)  # rescue_after
    entries = world.schedule(stage.shard).entries
    assert [one.status for one in entries] == ["retired", "void", "active"]
    world.block()
    assert world.record(stage.shard).generation == 2


# what is signed before a postponement


def test_a_cancel_that_was_signed_before_still_cancels(stage: Stage) -> None:
    """The serial stays: what only tightens must not be lost, nor a vote begin anew."""
    world = stage.world
    cancel = world.cancel_order(stage.shard, 1)
    world.blocks_until(stage.order.upgrade_at)
    world.submit(cancel)
    assert stage.entry.status == "cancelled"


def test_no_order_that_was_signed_before_makes_it_run_sooner(stage: Stage) -> None:
    world = stage.world
    late = stage.postpone_order(stage.order.upgrade_at + BY - 1)
    world.blocks_until(stage.order.upgrade_at - 1)
    with pytest.raises(Exception, match="put off"):
        world.submit(late)
    assert stage.entry.upgrade_at == stage.order.upgrade_at + BY


def test_an_upgrade_that_never_comes_holds_no_vulnerability_day_up(world: Any) -> None:
    """Floors, maintenance and cancels ask for no rehearsal; the fix asks for its own.

    What waits in vain must go first: whatever follows it is put off with it.
    """
    hasty = {"emergency_notice": 3, "emergency_floor": 2}
    stage = Stage(world, required=1, rules=hasty)
    shard, first = stage.shard, stage.order.upgrade_at
    world.blocks_until(first + BY - 1)
    assert stage.entry.upgrade_at == first + 2 * BY
    world.submit(world.status_order(shard, mode="maintenance", min_isv_svn=1))
    world.block()
    status = world.schedule(shard).status
    assert (status.mode, status.min_isv_svn) == ("maintenance", 1)
    world.submit(world.cancel_order(shard, 1))
    mended = world.instance("mended", world.CODE_C)
    order = world.upgrade_order(
        shard,
        config=world.config(world.CODE_C),
        emergency=True,
        release_from=world.next + 3,
        upgrade_at=world.next + 5,
    )
    world.submit(order)
    world.register(shard, mended)
    entry = world.schedule(shard).entry(2)
    world.blocks_until(entry.release_from - 1)
    stage.post(mended, generation=2, order=entry.order, upgrade_at=entry.upgrade_at)
    world.blocks_until(order.upgrade_at)
    assert world.record(shard).generation == 2


# who may post, and what


def test_another_shards_instance_is_refused(stage: Stage) -> None:
    world = stage.world
    other = gated(world, required=1, config=world.config(world.CODE_B))
    foreign = world.instance("foreign", world.CODE_B)
    world.register(other, foreign)
    with pytest.raises(NotRegisteredError):
        stage.post(foreign)


def test_an_unknown_key_is_refused(stage: Stage) -> None:
    with pytest.raises(NotRegisteredError):
        stage.post(stage.world.instance("nobody", stage.world.CODE_B))


def test_the_running_generations_instance_is_refused(stage: Stage) -> None:
    with pytest.raises(WrongFingerprintForShardError):
        stage.post(stage.old)


def test_the_running_generation_is_not_rehearsed(stage: Stage) -> None:
    order = stage.world.schedule(stage.shard).entry(0).order
    with pytest.raises(RehearsalClosedError):
        stage.post(stage.old, generation=0, order=order)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"chain_id": "another"}, StatementForeignError),
        ({"order": b"o" * 32}, RehearsalForeignError),
        ({"upgrade_at": Height(9_999)}, RehearsalForeignError),
        ({"size": 4097}, RehearsalFormError),
        ({"milliseconds": 65}, RehearsalFormError),
        ({"milliseconds": 0}, RehearsalFormError),
        ({"milliseconds": -4}, RehearsalFormError),
        ({"milliseconds": 2**40}, Exception),
        ({"good": False}, RehearsalFormError),
        ({"check": "accounts.pre_upgrade"}, RehearsalFormError),
        ({"good": False, "check": "secret=\u00e4"}, RehearsalFormError),
        ({"good": False, "check": "line\nline"}, RehearsalFormError),
        ({"height": Height(5_000)}, RehearsalFormError),
        ({"blocks": 2**31 - 1}, RehearsalFormError),
    ],
)
def test_what_does_not_fit_the_entry_is_refused(
    stage: Stage, fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        stage.post(stage.new[0], **fields)
    assert stage.kept() is None


def test_nothing_finer_than_powers_of_two_is_taken(stage: Stage) -> None:
    for fields in ({"size": 3}, {"size": 2**47 + 1}, {"milliseconds": 2**30 + 1}):
        with pytest.raises(RehearsalFormError):
            stage.post(stage.new[0], **fields)
    stage.post(stage.new[0], size=0, milliseconds=1)


def test_the_block_that_a_word_stands_in_is_not_rehearsed(stage: Stage) -> None:
    with pytest.raises(RehearsalFormError):
        stage.post(stage.new[0], height=Height(stage.world.height), blocks=1)
    stage.post(stage.new[0], height=Height(stage.world.height - 1), blocks=1)


def test_a_word_for_another_shard_counts_nowhere_else(stage: Stage) -> None:
    world = stage.world
    other = gated(world, required=1)
    with pytest.raises(RehearsalClosedError):
        stage.post(stage.new[0], shard=other, generation=0)
    assert stage.kept() is None


def test_an_instance_speaks_for_no_other_shard_that_brings_in_the_same_code(
    stage: Stage,
) -> None:
    world = stage.world
    other = gated(world, required=1)
    order = world.upgrade_order(other, config=world.config(world.CODE_B))
    world.submit(world.replace(order, upgrade_at=order.release_from + BLOCKS_AHEAD))
    world.blocks_until(order.release_from)
    entry = world.schedule(other).entry(1)
    named = {"order": entry.order, "upgrade_at": entry.upgrade_at}
    with pytest.raises(NotRegisteredError):
        stage.post(stage.new[0], shard=other, **named)
    assert world.read(EntryRehearsals, rehearsals_key(other, 1)) is None


def test_a_check_that_is_too_long_is_no_statement(stage: Stage) -> None:
    long = stage.statement(stage.new[0], good=False, check="x" * 97)
    raw = encode([long, long.sign(stage.new[0].secret), 64])
    with pytest.raises(CallArgumentsError):
        raw_call(stage.world, "enclave_bridge.post_rehearsal", raw)


def raw_call(world: Any, name: str, raw: bytes, *, by: str = "operator") -> Any:
    """A transaction whose arguments were encoded by hand."""
    tx = transaction(
        world.secrets[by],
        chain_id=world.genesis.chain_id,
        nonce=world.nonce(by),
        valid_until=world.height + 100,
        call=RuntimeCall(name=name, args=raw),
    )
    (result,) = world.block(tx)
    world.told(result)
    return result


def test_a_forged_signature_is_refused(stage: Stage) -> None:
    with pytest.raises(StatementSignatureError):
        stage.post(stage.new[0], secret=stage.new[1].secret)


def test_only_its_operator_brings_it(stage: Stage) -> None:
    """Or anybody could choose what an instance's last word is, and how long it took."""
    for by in ("bob", "other-operator"):
        with pytest.raises(OperatorRefusedError):
            stage.post(stage.new[0], by=by)


def test_before_release_nothing_is_taken(world: Any) -> None:
    stage = Stage(world)
    assert world.next == stage.order.release_from
    stage.post(stage.new[0])  # in the very block
    order = world.upgrade_order(stage.shard, code=world.CODE_C)
    world.submit(world.replace(order, upgrade_at=stage.order.upgrade_at + 9))
    late = world.instance("late", world.CODE_C)
    world.register(stage.shard, late)
    entry = world.schedule(stage.shard).entry(2)
    assert world.next < entry.release_from
    named = {"order": entry.order, "upgrade_at": entry.upgrade_at}
    with pytest.raises(RehearsalClosedError):
        stage.post(late, generation=2, **named)
    world.blocks_until(entry.release_from - 1)
    stage.post(late, generation=2, **named)


def test_after_xyz_nothing_is_taken(stage: Stage) -> None:
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    stage.world.blocks_until(stage.order.upgrade_at - 1)
    with pytest.raises(RehearsalClosedError):
        stage.post(stage.new[2])


def test_of_a_cancelled_entry_nothing_is_kept_or_taken(stage: Stage) -> None:
    world = stage.world
    stage.post(stage.new[0])
    said = stage.arguments(stage.new[1])
    world.submit(world.cancel_order(stage.shard, 1))
    assert stage.kept() is None
    with pytest.raises(RehearsalClosedError):
        world.call("enclave_bridge.post_rehearsal", by="operator", **said)


def test_words_for_a_cancelled_order_are_none_of_the_one_that_is_issued_again(
    stage: Stage,
) -> None:
    """The same code at the same block: it is another order, and begins with none."""
    world, first = stage.world, stage.order
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    said = stage.arguments(stage.new[2])
    world.submit(world.cancel_order(stage.shard, 1))
    again = world.replace(
        world.upgrade_order(stage.shard, config=first.config),
        upgrade_at=first.upgrade_at,
    )
    world.submit(again)
    entry = world.schedule(stage.shard).entry(2)
    assert (entry.config, entry.upgrade_at) == (stage.entry.config, first.upgrade_at)
    world.blocks_until(entry.release_from)
    with pytest.raises(RehearsalClosedError):
        world.call("enclave_bridge.post_rehearsal", by="operator", **said)
    with pytest.raises(RehearsalForeignError):
        stage.post(stage.new[2], generation=2)  # names the first order
    relabelled = world.replace(said["statement"], generation=2, order=entry.order)
    with pytest.raises(StatementSignatureError):
        world.call(
            "enclave_bridge.post_rehearsal",
            by="operator",
            **said | {"statement": relabelled},
        )
    world.blocks_until(entry.upgrade_at)
    assert world.record(stage.shard).generation == 0
    assert world.schedule(stage.shard).entry(2).upgrade_at == first.upgrade_at + BY


def test_a_postponed_entry_is_rehearsed_anew(stage: Stage) -> None:
    """Also where the authority put it off: the word names its upgrade block."""
    world = stage.world
    stage.post(stage.new[0])
    said = stage.arguments(stage.new[1])
    world.submit(stage.postpone_order(stage.order.upgrade_at + 5))
    assert stage.kept() is None
    with pytest.raises(RehearsalForeignError):
        world.call("enclave_bridge.post_rehearsal", by="operator", **said)
    stage.post(stage.new[0])


def test_a_good_word_is_not_shown_again_after_a_bad_one(stage: Stage) -> None:
    said = stage.arguments(stage.new[0])
    stage.world.call("enclave_bridge.post_rehearsal", by="operator", **said)
    stage.bad(stage.new[0])
    with pytest.raises(RehearsalStaleError):
        stage.world.call("enclave_bridge.post_rehearsal", by="operator", **said)
    kept = stage.kept()
    assert kept is not None
    assert [one.statement.good for one in kept.rehearsals] == [False]


def test_on_one_copy_a_failure_is_newer_than_what_went_before(stage: Stage) -> None:
    """After as many blocks, the next one has failed; never the other way."""
    height = Height(stage.world.height - 3)
    stage.post(stage.new[0], height=height, blocks=2)
    for good, blocks in ((True, 1), (True, 2), (False, 1)):
        check = "" if good else "shadow-block"
        with pytest.raises(RehearsalStaleError):
            stage.post(
                stage.new[0], height=height, blocks=blocks, good=good, check=check
            )
    stage.bad(stage.new[0], height=height, blocks=2)
    with pytest.raises(RehearsalStaleError):
        stage.post(stage.new[0], height=height, blocks=2)
    stage.post(stage.new[0], height=height, blocks=3)


def test_a_word_on_a_later_copy_is_newer_whatever_its_blocks(stage: Stage) -> None:
    height = Height(stage.world.height - 3)
    stage.post(stage.new[0], height=height, blocks=3)
    stage.bad(stage.new[0], height=Height(height + 1), blocks=0)
    with pytest.raises(RehearsalStaleError):
        stage.post(stage.new[0], height=height, blocks=4)
    kept = stage.kept()
    assert kept is not None
    assert [one.statement.good for one in kept.rehearsals] == [False]


def test_an_unattested_instance_is_refused(world: Any) -> None:
    stage = Stage(world, policy={"max_age_blocks": 9})
    world.blocks_until(world.height + 6)
    with pytest.raises(PolicyRefusedError):
        stage.post(stage.new[0])


def test_one_platform_cannot_speak_for_k(world: Any) -> None:
    """Two instances of one machine have one word, the newer."""
    stage = Stage(world)
    world.block()
    twin = world.instance("twin", world.CODE_B)
    twin.machine = stage.new[0].machine
    world.register(stage.shard, twin)
    stage.post(stage.new[0])
    stage.post(twin)
    kept = stage.kept()
    assert kept is not None
    assert [one.statement.signing_key for one in kept.rehearsals] == [twin.key]
    world.blocks_until(stage.order.upgrade_at)
    assert world.record(stage.shard).generation == 0


def test_a_crowd_of_bad_words_does_not_keep_good_ones_out(stage: Stage) -> None:
    stage.crowd(good=False, check="a.pre_upgrade")
    stage.post(stage.new[0])
    stage.post(stage.new[1])
    kept = stage.kept()
    assert kept is not None
    assert len(kept.rehearsals) == MAX_WORDS
    good = [one.statement.signing_key for one in kept.rehearsals if one.statement.good]
    assert good == [stage.new[0].key, stage.new[1].key]


def test_no_more_good_words_are_kept_than_are_bounded(stage: Stage) -> None:
    crowd = stage.crowd()
    with pytest.raises(RehearsalsFullError):
        stage.post(stage.new[0])
    stage.post(crowd[5])  # its place is its own


def test_good_words_of_who_was_evicted_keep_nobody_out(stage: Stage) -> None:
    world = stage.world
    stage.crowd()
    world.submit(world.status_order(stage.shard, not_before=world.height + 1))
    world.block()
    healed = world.instance("healed", world.CODE_B)
    world.register(stage.shard, healed)
    stage.post(healed)
    kept = stage.kept()
    assert kept is not None
    assert [one.statement.signing_key for one in kept.rehearsals] == [healed.key]


# terms


def test_terms_act_at_the_longest_notice_in_both_directions(stage: Stage) -> None:
    world = stage.world
    for required in (0, 1, 3):
        by = BY if required else 0
        early = stage.terms_order(required, by)
        early = world.replace(early, effective_at=early.effective_at - 1)
        with pytest.raises(NoticeError):
            world.submit(early)
    order = stage.terms_order(0, 0)
    world.submit(order)
    assert order.effective_at <= stage.order.upgrade_at - 1
    gate = stage.gate()
    assert gate.terms.required == 2
    assert gate.at(order.effective_at - 1).required == 2
    assert gate.at(order.effective_at).required == 0
    world.blocks_until(stage.order.upgrade_at)
    assert world.record(stage.shard).generation == 1


def test_terms_count_from_their_block_on_and_no_sooner(stage: Stage) -> None:
    order = stage.terms_order(0, 0, effective_at=stage.order.upgrade_at)
    stage.world.submit(order)
    stage.world.blocks_until(stage.order.upgrade_at)
    assert stage.world.record(stage.shard).generation == 0, "judged one block before"


def test_raised_terms_gate_what_was_scheduled_before(world: Any) -> None:
    stage = Stage(world, required=1)
    order = stage.terms_order(2, 20)
    world.submit(order)
    stage.post(stage.new[0])
    world.blocks_until(stage.order.upgrade_at)
    assert stage.entry.upgrade_at == stage.order.upgrade_at + 20


def test_terms_take_all_members_of_an_any_of(world: Any) -> None:
    keys = [SudoAuthority(key=world.account(n)) for n in ("authority", "bob")]
    shard = gated(world, required=1, authority=AnyOf(members=tuple(keys)))
    order = terms_order(world, shard, 0, 0, effective_at=world.height + 20)
    world.submit(order)
    assert world.schedule(shard).serial == 0
    assert "enclave_bridge.OrderEndorsed" in world.events()
    world.submit(order, signed_by="bob")
    assert world.schedule(shard).serial == 1
    assert world.read(RehearsalGate, gate_key(shard)).change is not None


def test_the_emergency_authority_changes_no_terms(world: Any) -> None:
    shard = gated(world, required=1, emergency=SudoAuthority(key=world.account("bob")))
    order = terms_order(world, shard, 0, 0, effective_at=world.height + 20)
    world.submit(order, signed_by="bob")
    assert world.schedule(shard).serial == 0
    with pytest.raises(OrderSignatureError):
        world.submit(order, signed_by="alice")


def test_a_change_of_terms_does_not_replay(stage: Stage) -> None:
    order = stage.terms_order(1, BY)
    stage.world.submit(order)
    with pytest.raises(OrderSerialError):
        stage.world.submit(order)


def test_a_change_that_is_ahead_can_be_withdrawn(stage: Stage) -> None:
    world = stage.world

    def withdraw() -> None:
        serial = world.schedule(stage.shard).serial
        order = WithdrawOrder(
            chain_id=world.genesis.chain_id,
            shard=stage.shard,
            serial=serial,
            expiry=world.height + 9,
        )
        world.submit(order)
        assert world.schedule(stage.shard).serial == serial + 1

    with pytest.raises(NoChangeError):
        withdraw()
    world.submit(stage.terms_order(0, 0))
    withdraw()
    assert stage.gate() == RehearsalGate(
        terms=RehearsalTerms(required=2, postpone_by=BY)
    )
    rules = world.replace(world.schedule(stage.shard).rules, grace=7)
    world.submit(stage.terms_order(0, 0))
    world.submit(
        RulesOrder(
            chain_id=world.genesis.chain_id,
            shard=stage.shard,
            serial=world.schedule(stage.shard).serial,
            rules=rules,
            effective_at=world.height + 30,
            expiry=world.height + 9,
        )
    )
    withdraw()
    assert stage.gate().change is None
    assert world.schedule(stage.shard).change is None


def test_what_acts_already_cannot_be_withdrawn(stage: Stage) -> None:
    world = stage.world
    order = stage.terms_order(1, BY)
    world.submit(order)
    world.blocks_until(order.effective_at)
    with pytest.raises(NoChangeError):
        world.submit(
            WithdrawOrder(
                chain_id=world.genesis.chain_id,
                shard=stage.shard,
                serial=world.schedule(stage.shard).serial,
                expiry=world.height + 9,
            )
        )
    assert stage.gate().at(world.height).required == 1
    world.submit(stage.terms_order(3, BY))
    assert stage.gate().terms.required == 1, "what counted is kept"


@pytest.mark.parametrize(
    ("required", "by"),
    [
        (MAX_REHEARSALS + 1, BY),
        (1, LEAST_POSTPONEMENT - 1),
        (1, MOST_POSTPONEMENT + 1),
        (1, 0),
    ],
)
def test_terms_that_would_lock_a_shard_are_refused(
    stage: Stage, required: int, by: int
) -> None:
    with pytest.raises(RehearsalTermsError):
        stage.world.submit(stage.terms_order(required, by))
    with pytest.raises(RehearsalTermsError):
        gated(stage.world, required=required, by=by)


def test_terms_of_nothing_put_nothing_off(stage: Stage) -> None:
    with pytest.raises(RehearsalTermsError):
        stage.world.submit(stage.terms_order(0, BY))
    for required in (0, -1):
        with pytest.raises(RehearsalTermsError):
            gated(stage.world, required=required, by=0)


def test_no_more_are_asked_for_than_instances_may_be(world: Any) -> None:
    stage = Stage(world, required=2)
    with pytest.raises(RehearsalTermsError):
        gated(world, required=3, config=world.config(max_instances=2))
    with pytest.raises(RehearsalTermsError):
        world.upgrade(stage.shard, config=world.config(world.CODE_C, max_instances=1))
    world.submit(stage.terms_order(4, BY))
    with pytest.raises(RehearsalTermsError):
        world.upgrade(stage.shard, config=world.config(world.CODE_C, max_instances=3))
    limited = gated(world, required=1, config=world.config(max_instances=2))
    with pytest.raises(RehearsalTermsError):
        world.submit(terms_order(world, limited, 3, BY))


def test_terms_that_were_lowered_bind_no_later_configuration(stage: Stage) -> None:
    world = stage.world
    order = stage.terms_order(0, 0)
    world.submit(order)
    config = world.config(world.CODE_C, max_instances=1)
    with pytest.raises(RehearsalTermsError):
        world.upgrade(stage.shard, config=config)
    world.blocks_until(order.effective_at - 1)
    later = stage.order.upgrade_at + 9
    world.upgrade(stage.shard, config=config, upgrade_at=later)


# versions


@pytest.mark.parametrize("number", [FIRST_RUNTIME, SECOND_RUNTIME])
def test_earlier_versions_refuse_the_order_as_they_always_did(
    new_world: Any, number: int
) -> None:
    """To the code and the weight: blocks of before are made again the same."""
    world = new_world(runtime=number)
    one = world.instance("one")
    shard = world.born_shard(one)
    order = terms_order(world, shard, 1, BY)
    calls = {
        "enclave_bridge.submit_order": {"order": world.signed(order)},
        "council.propose": {"order": order, "signing_key": one.key},
    }
    for name, arguments in calls.items():
        (known,) = world.block(world.tx(name, **arguments))
        raw = encode(list(arguments.values()))
        other = raw.replace(b"\xafRehearsalsOrder", b"\xafSomethingElse..")
        assert raw != other
        with pytest.raises(CallArgumentsError):
            raw_call(world, name, other, by="alice")
        (same,) = world.last.results
        assert (known.code, known.gas_used) == (same.code, same.gas_used)
        assert (known.data, known.gas_wanted) == (same.data, same.gas_wanted)
    effect = (StakeDecision(order=order, passed=True),)
    statement = EffectsStatement(
        chain_id=world.genesis.chain_id,
        shard=shard,
        generation=0,
        height=Height(world.height),
        previous=Height(0),
        effects=effects_digest(effect),
        signing_key=one.key,
    )
    with pytest.raises(CallArgumentsError):
        world.call(
            "enclave_bridge.post_effects",
            statement=statement,
            signature=statement.sign(one.secret),
            effects=effect,
        )
    with pytest.raises(Exception, match="no such call"):
        gated(world, required=1)


def test_shards_of_before_ask_for_nothing_after_the_migration(new_world: Any) -> None:
    world = new_world(runtime=SECOND_RUNTIME)
    one = world.instance("one")
    shard = world.born_shard(one)
    before = world.schedule(shard)
    at = world.height + 3
    world.as_root("system.set_code", version=THIRD_RUNTIME, height=at)
    world.blocks_until(at)
    assert world.ledger.runtime_version == THIRD_RUNTIME
    assert world.schedule(shard) == before
    assert world.read(RehearsalGate, gate_key(shard)) == RehearsalGate()
    xyz = world.upgrade(shard)
    world.blocks_until(xyz)
    assert world.record(shard).generation == 1
    world.restart()
    world.block()


def test_a_migration_that_would_put_up_a_gate_is_refused(
    new_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, ctx: Any, from_version: int) -> None:
        del from_version
        for shard in self.shards.get(ctx):
            terms = RehearsalTerms(required=1, postpone_by=BY)
            self.gates.put(ctx, shard, RehearsalGate(terms=terms))

    monkeypatch.setattr(RehearsedBridge, "on_runtime_upgrade", broken)
    world = new_world(runtime=SECOND_RUNTIME)
    world.born_shard(world.instance("one"))
    at = world.height + 3
    world.as_root("system.set_code", version=THIRD_RUNTIME, height=at)
    world.blocks_until(at)
    assert world.ledger.runtime_version == SECOND_RUNTIME
    assert "system.RuntimeUpgradeFailed" in world.events()


def test_version_one_goes_to_version_three_at_once(new_world: Any) -> None:
    world = new_world()
    one = world.instance("one")
    shard = world.born_shard(one)
    at = world.height + 3
    world.as_root("system.set_code", version=NEWEST_RUNTIME, height=at)
    world.blocks_until(at)
    assert world.ledger.runtime_version == NEWEST_RUNTIME
    assert world.read(RehearsalGate, gate_key(shard)) == RehearsalGate()


# rounding


@pytest.mark.parametrize(
    ("number", "rounded"), [(-3, 1), (0, 1), (1, 1), (2, 2), (3, 4), (1000, 1024)]
)
def test_numbers_are_rounded_up_to_powers_of_two(number: int, rounded: int) -> None:
    assert rounded_up(number) == rounded


def test_places_of_the_gate_are_those_that_clients_look_at() -> None:
    assert gate_key(b"s" * 32) == storage_key("enclave_bridge", "gate", b"s" * 32)
