"""Birth of a shard, its calls, its confirmed roots, the last word."""

from typing import Any

import pytest

from sealift.attestation import PolicyRefusedError
from sealift.base import decode, encode
from sealift.crypto import sha256
from sealift.frame import BadOriginError
from sealift.ledger import (
    MAX_CIPHERTEXT,
    RootConflict,
    SignedConfirmation,
    ledger_call,
    vault_account,
)
from sealift.ledger._errors import (
    BrokenRootChainError,
    CertificateError,
    CiphertextSizeError,
    ConfirmationRangeError,
    DisputedRangeError,
    EpochOrderError,
    EpochPublishedError,
    InsufficientFundsError,
    NothingShieldedError,
    NotRegisteredError,
    OperatorRefusedError,
    ShardNotBornError,
    StaleConfirmationError,
    StatementForeignError,
    StatementSignatureError,
    SvnTooLowError,
    UnknownShardError,
    WrongFingerprintForShardError,
    WrongGenerationError,
)
from sealift.ledger._roots import KEPT_RANGES, MAX_OPEN_VOTES, add_vote
from sealift.protocol import (
    EffectsFact,
    HandoverCertificate,
    KeyEpochRecord,
    certificate_key,
    keys_key,
)


@pytest.fixture
def born(world: Any) -> Any:
    """A born shard, quorum 1, with two instances on two machines."""
    world.one, world.two = world.instance("one"), world.instance("two")
    world.shard = world.born_shard(world.one, world.two)
    world.birth = world.height
    world.blocks_until(world.height + 5)
    return world


@pytest.fixture
def agreeing(world: Any) -> Any:
    """A born shard whose roots count when two machines agree."""
    world.one, world.two, world.three = (
        world.instance(name) for name in ("one", "two", "three")
    )
    world.shard = world.born_shard(world.one, world.two, world.three, root_quorum=2)
    world.blocks_until(world.height + 5)
    return world


def invoke(world: Any, **fields: Any) -> Any:
    base = {"shard": world.shard, "ciphertext": b"sealed"}
    return world.call("enclave_bridge.invoke", **base | fields)


def mode(world: Any) -> Any:
    world.block()
    return world.schedule(world.shard).status.mode


# birth


def test_the_first_key_is_the_birth(world: Any) -> None:
    one = world.instance("one")
    shard = world.born_shard(one)
    frontier = world.frontier(shard)
    assert (frontier.confirmed, frontier.generation) == (world.height, 0)
    assert frontier.root == world.root(0)
    record = world.read(KeyEpochRecord, keys_key(shard, 0))
    assert record.valid_from == world.height + 1
    assert record.statement == world.key_statement(shard, one)


def test_a_second_birth_is_refused(born: Any) -> None:
    """Else a second instance could replace the keys, and with them the state."""
    with pytest.raises(EpochPublishedError):
        born.publish_key(born.shard, born.one)
    with pytest.raises(EpochPublishedError):
        born.publish_key(born.shard, born.two, shielding_key=b"x" * 32)


def test_a_later_epoch_is_not_published_out_of_turn(born: Any) -> None:
    with pytest.raises(EpochOrderError):
        born.publish_key(born.shard, born.one, epoch=1)


def test_who_is_not_registered_cannot_give_birth(world: Any) -> None:
    shard = world.create_shard()
    with pytest.raises(NotRegisteredError):
        world.publish_key(shard, world.instance("one"))


def test_a_pending_generation_cannot_give_birth(world: Any) -> None:
    """It would own a shard that it does not run."""
    shard = world.create_shard()
    world.collateral()
    two = world.instance("two", world.CODE_B)
    world.upgrade(shard, code=world.CODE_B, release_from=50, upgrade_at=60)
    world.register(shard, two)
    with pytest.raises(WrongFingerprintForShardError):
        world.publish_key(shard, two)


def test_an_expired_instance_cannot_give_birth(world: Any) -> None:
    shard = world.create_shard(world.config(policy={"max_age_blocks": 3}))
    world.collateral()
    one = world.instance("one")
    world.register(shard, one)
    world.blocks_until(world.height + 3)
    with pytest.raises(PolicyRefusedError):
        world.publish_key(shard, one)


def test_a_key_statement_is_signed_and_for_this_chain(world: Any) -> None:
    shard = world.create_shard()
    world.collateral()
    one, two = world.instance("one"), world.instance("two")
    world.register(shard, one)
    statement = world.key_statement(shard, one)
    with pytest.raises(StatementSignatureError):
        world.call(
            "enclave_bridge.publish_key",
            statement=statement,
            signature=statement.sign(two.secret),
        )
    with pytest.raises(StatementForeignError):
        world.publish_key(shard, one, chain_id="other-chain")
    with pytest.raises(UnknownShardError):
        world.publish_key(b"n" * 32, one)


# calls


def test_a_call_is_carried_by_anybodys_account(born: Any) -> None:
    result = invoke(born, by="bob")
    assert result.ok
    assert sha256(b"sealed") in result.data


def test_no_call_is_skipped_by_standing_in_the_block_of_the_birth(world: Any) -> None:
    """Invariant 2: the shard executes from the block after its birth on."""
    one = world.instance("one")
    shard = world.create_shard()
    world.collateral()
    world.register(shard, one)
    statement = world.key_statement(shard, one)
    results = world.block(
        world.tx(
            "enclave_bridge.publish_key",
            statement=statement,
            signature=statement.sign(one.secret),
        ),
        world.tx("enclave_bridge.invoke", shard=shard, ciphertext=b"sealed"),
    )
    assert [result.error for result in results] == ["", "ShardNotBornError"]
    world.shard = shard
    assert invoke(world).ok
    assert world.height == world.frontier(shard).confirmed + 1


def test_a_shard_without_keys_takes_no_calls_and_no_funds(world: Any) -> None:
    world.shard = world.create_shard()
    with pytest.raises(ShardNotBornError):
        invoke(world)
    with pytest.raises(ShardNotBornError):
        world.call(
            "enclave_bridge.shield_funds",
            shard=world.shard,
            beneficiary=b"b" * 32,
            amount=1,
        )
    with pytest.raises(UnknownShardError):
        invoke(world, shard=b"n" * 32)


def test_a_ciphertext_of_no_size_class_is_refused(born: Any) -> None:
    for ciphertext in (b"", bytes(MAX_CIPHERTEXT + 1)):
        with pytest.raises(CiphertextSizeError):
            invoke(born, ciphertext=ciphertext)
    invoke(born, ciphertext=bytes(MAX_CIPHERTEXT))


def test_a_wrapped_call_is_no_call_of_a_shard(born: Any) -> None:
    for inner in (
        ledger_call("enclave_bridge.invoke", shard=born.shard, ciphertext=b"x"),
        ledger_call(
            "enclave_bridge.shield_funds",
            shard=born.shard,
            beneficiary=b"b" * 32,
            amount=5,
        ),
    ):
        with pytest.raises(BadOriginError):
            born.call("sudo.sudo", by="root", call=inner)


def test_shielded_funds_lie_in_the_vault_that_nobody_can_open(born: Any) -> None:
    born.call(
        "enclave_bridge.shield_funds",
        shard=born.shard,
        beneficiary=b"b" * 32,
        amount=123,
    )
    vault = vault_account(born.shard)
    assert born.read(int, b"balances/accounts/" + vault) == 123
    assert vault_account(b"o" * 32) != vault
    with pytest.raises(NothingShieldedError):
        born.call(
            "enclave_bridge.shield_funds",
            shard=born.shard,
            beneficiary=b"b" * 32,
            amount=0,
        )
    with pytest.raises(InsufficientFundsError):
        born.call(
            "enclave_bridge.shield_funds",
            shard=born.shard,
            beneficiary=b"b" * 32,
            amount=10**9,
        )


# confirmations


def test_confirmations_move_the_frontier_range_by_range(born: Any) -> None:
    last = born.height
    born.confirm(born.shard, born.one, last)
    frontier = born.frontier(born.shard)
    assert (frontier.confirmed, frontier.root) == (last, born.root(last))
    born.confirm(born.shard, born.two, last + 1)
    assert born.frontier(born.shard).confirmed == last + 1


def test_who_is_not_registered_confirms_nothing(born: Any) -> None:
    with pytest.raises(NotRegisteredError):
        born.confirm(born.shard, born.instance("stranger"), born.height)


def test_an_instance_of_another_shard_confirms_nothing_here(born: Any) -> None:
    other = born.create_shard()
    foreign = born.instance("foreign")
    born.register(other, foreign)
    with pytest.raises(NotRegisteredError):
        born.confirm(born.shard, foreign, born.height)


def test_a_forged_confirmation_is_refused(born: Any) -> None:
    confirmation = born.confirmation(born.shard, born.one, born.height)
    with pytest.raises(StatementSignatureError):
        born.call(
            "enclave_bridge.confirm",
            confirmation=confirmation,
            signature=confirmation.sign(born.two.secret),
        )


@pytest.mark.parametrize(
    "field", ["first", "last", "prev_root", "root", "receipts_root", "effects_root"]
)
def test_every_field_of_a_confirmation_is_signed(born: Any, field: Any) -> None:
    confirmation = born.confirmation(born.shard, born.one, born.height)
    value = getattr(confirmation, field)
    other = value - 1 if isinstance(value, int) else b"x" * 32
    with pytest.raises((StatementSignatureError, ConfirmationRangeError)):
        born.call(
            "enclave_bridge.confirm",
            confirmation=born.replace(confirmation, **{field: other}),
            signature=confirmation.sign(born.one.secret),
        )
    assert born.frontier(born.shard).confirmed == born.birth


def test_a_confirmation_of_another_chain_or_shard_does_not_count(born: Any) -> None:
    with pytest.raises(StatementForeignError):
        born.confirm(born.shard, born.one, born.height, chain_id="other-chain")
    other = born.create_shard()
    here = born.confirmation(born.shard, born.one, born.height)
    there = born.replace(here, shard=other)
    with pytest.raises(ShardNotBornError):
        born.call(
            "enclave_bridge.confirm",
            confirmation=there,
            signature=there.sign(born.one.secret),
        )
    with pytest.raises(StatementSignatureError):
        born.call(
            "enclave_bridge.confirm",
            confirmation=here,
            signature=there.sign(born.one.secret),
        )


def test_a_block_is_confirmed_only_when_it_is_final(born: Any) -> None:
    with pytest.raises(ConfirmationRangeError):
        born.confirm(born.shard, born.one, born.next)
    with pytest.raises(ConfirmationRangeError):
        born.confirm(born.shard, born.one, born.height, first=born.height + 1)
    born.confirm(born.shard, born.one, born.height)


def test_no_block_is_left_out_of_the_chain_of_roots(born: Any) -> None:
    with pytest.raises(ConfirmationRangeError):
        born.confirm(born.shard, born.one, born.height, first=born.birth + 2)
    with pytest.raises(ConfirmationRangeError):
        born.confirm(born.shard, born.one, born.height, first=born.birth)
    with pytest.raises(BrokenRootChainError):
        born.confirm(born.shard, born.one, born.height, prev_root=b"x" * 32)


def test_the_same_confirmation_again_does_no_harm(born: Any) -> None:
    last = born.height
    born.confirm(born.shard, born.one, last)
    for again in (born.one, born.two):
        with pytest.raises(StaleConfirmationError):
            born.confirm(
                born.shard, again, last, first=born.birth + 1, prev_root=born.root(0)
            )
    assert mode(born) == "normal"
    assert born.frontier(born.shard).confirmed == last


def test_the_old_generation_confirms_its_own_blocks_and_no_more(world: Any) -> None:
    """Invariant 1: a block takes effect from one generation only."""
    one, two = world.instance("one"), world.instance("two", world.CODE_B)
    shard = world.born_shard(one)
    xyz = world.upgrade(shard, code=world.CODE_B)
    world.register(shard, two)
    with pytest.raises(WrongFingerprintForShardError):
        world.confirm(shard, two, world.height, generation=0)
    world.blocks_until(xyz + 2)
    with pytest.raises(WrongGenerationError):
        world.confirm(shard, one, xyz, generation=0)
    with pytest.raises(WrongGenerationError):
        world.confirm(shard, two, xyz, generation=1)  # range begins before XYZ
    with pytest.raises(WrongFingerprintForShardError):
        world.confirm(shard, two, xyz - 1, generation=0)
    world.confirm(shard, one, xyz - 1, generation=0)
    with pytest.raises(WrongGenerationError):
        world.confirm(shard, one, xyz, generation=0)
    with pytest.raises(WrongFingerprintForShardError):
        world.confirm(shard, one, xyz, generation=1)
    world.confirm(shard, two, xyz, generation=1)


def test_an_attestation_that_has_aged_confirms_nothing(world: Any) -> None:
    config = world.config(policy={"max_age_blocks": 8})
    one = world.instance("one")
    shard = world.born_shard(one, config=config)
    world.blocks_until(world.enclave(one).attested_at + 7)
    world.confirm(shard, one, world.height)
    with pytest.raises(PolicyRefusedError):
        world.confirm(shard, one, world.height)
    world.register(shard, one)
    world.confirm(shard, one, world.height)


def test_a_raised_floor_silences_who_is_below_it(born: Any) -> None:
    born.submit(born.status_order(born.shard, min_isv_svn=4))
    born.block()
    with pytest.raises(SvnTooLowError):
        born.confirm(born.shard, born.one, born.height)
    born.register(born.shard, born.one, isv_svn=4)
    born.confirm(born.shard, born.one, born.height)


def test_an_operator_whom_the_new_entry_drops_confirms_nothing_of_it(
    world: Any,
) -> None:
    one = world.instance("one")
    shard = world.born_shard(one)
    config = world.config(operators=(world.account("other-operator"),))
    xyz = world.upgrade(shard, config=config)
    world.blocks_until(xyz + 1)
    world.confirm(shard, one, xyz - 1, generation=0)
    with pytest.raises(OperatorRefusedError):
        world.confirm(shard, one, xyz)


# conflicts


def test_another_root_for_a_confirmed_block_is_evidence(born: Any) -> None:
    last = born.height
    born.confirm(born.shard, born.one, last)
    born.confirm(
        born.shard,
        born.two,
        last,
        first=born.birth + 1,
        prev_root=born.root(0),
        root=b"x" * 32,
    )
    assert mode(born) == "maintenance"
    key = b"enclave_bridge/conflicts/" + b"\x00\x20" + born.shard
    ((_, raw),) = born.store.items(key)
    conflict = decode(RootConflict, raw)
    for signed, instance in ((conflict.first, born.one), (conflict.second, born.two)):
        signed.confirmation.verify(instance.key, signed.signature)
        assert signed.platform_id == instance.machine
    assert born.frontier(born.shard).root == born.root(last)


def test_a_different_range_to_the_same_block_is_compared_by_its_root(born: Any) -> None:
    last = born.height
    born.confirm(born.shard, born.one, last - 1)
    born.confirm(born.shard, born.one, last)
    longer = {"first": born.birth + 1, "prev_root": born.root(0)}
    with pytest.raises(StaleConfirmationError):
        born.confirm(born.shard, born.two, last, **longer)
    born.confirm(born.shard, born.two, last, **longer, root=b"x" * 32)
    assert mode(born) == "maintenance"


@pytest.mark.parametrize("field", ["receipts_root", "effects"])
def test_another_history_to_the_same_root_is_evidence_too(
    born: Any, field: Any
) -> None:
    last = born.height
    born.confirm(born.shard, born.one, last)
    other = {
        "receipts_root": b"x" * 32,
        "effects": (EffectsFact(height=last, effects=b"x" * 32),),
    }
    told = {
        "first": born.birth + 1,
        "prev_root": born.root(0),
        field: other[field],
    }
    born.confirm(born.shard, born.two, last, **told)
    assert mode(born) == "maintenance"


def test_who_may_not_confirm_cannot_cry_wolf(born: Any) -> None:
    """A conflict by an unregistered key must not stop the shard."""
    last = born.height
    born.confirm(born.shard, born.one, last)
    with pytest.raises(NotRegisteredError):
        born.confirm(
            born.shard,
            born.instance("wolf"),
            last,
            first=born.birth + 1,
            prev_root=born.root(0),
            root=b"x" * 32,
        )
    assert mode(born) == "normal"


def test_an_order_signed_before_a_conflict_cannot_lift_maintenance(born: Any) -> None:
    early = born.status_order(born.shard, min_isv_svn=1)
    last = born.height
    born.confirm(born.shard, born.one, last)
    lie = {"first": born.birth + 1, "prev_root": born.root(0), "root": b"x" * 32}
    born.confirm(born.shard, born.two, last, **lie)
    result = born.block(
        born.tx("enclave_bridge.submit_order", order=born.signed(early))
    )
    assert result[0].error == "OrderSerialError"
    assert mode(born) == "maintenance"


def test_a_liar_cannot_raise_the_serial_again_and_again(born: Any) -> None:
    """Else one machine could keep every order of the authority from counting."""
    last = born.height
    born.confirm(born.shard, born.one, last)
    lie = {"first": born.birth + 1, "prev_root": born.root(0)}
    born.confirm(born.shard, born.two, last, **lie, root=b"x" * 32)
    serial = born.schedule(born.shard).serial
    born.confirm(born.shard, born.two, last, **lie, root=b"y" * 32)
    assert born.schedule(born.shard).serial == serial


def test_old_ranges_are_forgotten_but_never_doubled(born: Any) -> None:
    for _ in range(KEPT_RANGES + 5):
        born.confirm(born.shard, born.one, born.height)
    kept = born.store.items(b"enclave_bridge/confirmed/")
    assert len(kept) == KEPT_RANGES
    lie = {"first": born.birth + 1, "prev_root": born.root(0), "root": b"x" * 32}
    with pytest.raises(StaleConfirmationError):
        born.confirm(born.shard, born.two, born.birth + 5, **lie)


# quorum


def test_one_platform_is_not_enough_when_two_must_agree(agreeing: Any) -> None:
    last = agreeing.height
    before = agreeing.frontier(agreeing.shard)
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    assert agreeing.frontier(agreeing.shard) == before
    with pytest.raises(StaleConfirmationError):
        agreeing.confirm(agreeing.shard, agreeing.one, last)
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last


def test_two_instances_on_one_machine_are_one_voice(agreeing: Any) -> None:
    twin = agreeing.instance("twin")
    twin.machine = agreeing.one.machine
    agreeing.register(agreeing.shard, twin)
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    with pytest.raises(StaleConfirmationError):
        agreeing.confirm(agreeing.shard, twin, last)
    assert agreeing.frontier(agreeing.shard).confirmed < last


def test_a_vote_whose_voter_lost_its_standing_does_not_count(agreeing: Any) -> None:
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    agreeing.call(
        "teerex.unregister_enclave", by="operator", signing_key=agreeing.one.key
    )
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    assert agreeing.frontier(agreeing.shard).confirmed < last
    agreeing.confirm(agreeing.shard, agreeing.three, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last


def test_a_machine_votes_again_when_its_first_voter_is_gone(agreeing: Any) -> None:
    """Its vote would neither count nor make room, and two machines never agree."""
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    agreeing.call(
        "teerex.unregister_enclave", by="operator", signing_key=agreeing.one.key
    )
    heir = agreeing.instance("heir")
    heir.machine = agreeing.one.machine
    agreeing.register(agreeing.shard, heir)
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    agreeing.confirm(agreeing.shard, heir, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last


def test_a_vote_counts_again_when_its_voter_is_attested_again(world: Any) -> None:
    """Both have voted, never both in good standing; either may say it again."""
    one, two = world.instance("one"), world.instance("two")
    config = world.config(policy={"max_age_blocks": 8})
    shard = world.born_shard(one, two, config=config, root_quorum=2)
    world.block()
    last = world.height
    world.confirm(shard, one, last)
    world.blocks_until(world.enclave(one).attested_at + 8)
    world.register(shard, two)
    world.confirm(shard, two, last)
    world.register(shard, one)
    assert world.frontier(shard).confirmed < last
    world.confirm(shard, one, last)
    assert world.frontier(shard).confirmed == last


def test_a_vote_from_below_a_floor_that_rose_since_does_not_count(
    agreeing: Any,
) -> None:
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    agreeing.submit(agreeing.status_order(agreeing.shard, min_isv_svn=4))
    for each in (agreeing.two, agreeing.three):
        agreeing.register(agreeing.shard, each, isv_svn=4)
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    assert agreeing.frontier(agreeing.shard).confirmed < last
    agreeing.confirm(agreeing.shard, agreeing.three, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last


def test_of_two_conflicting_roots_neither_counts(agreeing: Any) -> None:
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    agreeing.confirm(agreeing.shard, agreeing.two, last, root=b"x" * 32)
    for each in (agreeing.one, agreeing.two, agreeing.three):
        with pytest.raises(DisputedRangeError):
            agreeing.confirm(agreeing.shard, each, last)
    assert mode(agreeing) == "maintenance"
    assert len(agreeing.store.items(b"enclave_bridge/conflicts/")) == 1
    agreeing.submit(agreeing.status_order(agreeing.shard, mode="normal"))
    for each in (agreeing.one, agreeing.three):
        agreeing.confirm(agreeing.shard, each, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last


def test_an_evicted_liars_open_vote_disputes_no_honest_root(agreeing: Any) -> None:
    """Its word is kept as evidence, and stops nobody a second time."""
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last, root=b"x" * 32)
    agreeing.call(
        "teerex.unregister_enclave", by="operator", signing_key=agreeing.one.key
    )
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    agreeing.confirm(agreeing.shard, agreeing.three, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last
    assert mode(agreeing) == "normal"
    assert len(agreeing.store.items(b"enclave_bridge/conflicts/")) == 1


def test_votes_for_other_ranges_are_no_conflict(agreeing: Any) -> None:
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.one, last - 1)
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    assert mode(agreeing) == "normal"
    agreeing.confirm(agreeing.shard, agreeing.one, last)
    assert agreeing.frontier(agreeing.shard).confirmed == last


def test_a_platform_cannot_stuff_the_votes(agreeing: Any) -> None:
    last = agreeing.height
    agreeing.confirm(agreeing.shard, agreeing.two, last)
    agreeing.blocks_until(last + 20)
    for height in range(last + 1, last + 20):
        agreeing.confirm(agreeing.shard, agreeing.one, height)
    (((_, raw)),) = agreeing.store.items(b"enclave_bridge/votes/")
    votes = decode(tuple[SignedConfirmation, ...], raw)
    assert len(votes) == MAX_OPEN_VOTES + 1
    assert add_vote((), votes[0]) == (votes[0],)
    assert votes[0].platform_id == agreeing.two.machine


# the last word


@pytest.fixture
def handover(world: Any) -> Any:
    """The old generation has confirmed its last block."""
    world.one, world.two = world.instance("one"), world.instance("two", world.CODE_B)
    world.shard = world.born_shard(world.one)
    world.xyz = world.upgrade(world.shard, code=world.CODE_B)
    world.register(world.shard, world.two)
    world.blocks_until(world.xyz)
    return world


def post(world: Any, instance: Any = None, **fields: Any) -> Any:
    base = {"height": world.xyz - 1, "root": world.root(world.xyz - 1)}
    return world.post_certificate(world.shard, instance or world.one, **base | fields)


def test_a_certificate_may_stand_beside_its_confirmation(handover: Any) -> None:
    world = handover
    confirmation = world.confirmation(
        world.shard, world.one, world.xyz - 1, generation=0
    )
    certificate = world.certificate(
        world.shard, world.one, height=world.xyz - 1, root=world.root(world.xyz - 1)
    )
    results = world.block(
        world.tx(
            "enclave_bridge.confirm",
            confirmation=confirmation,
            signature=confirmation.sign(world.one.secret),
        ),
        world.tx(
            "enclave_bridge.post_certificate",
            certificate=certificate,
            signature=certificate.sign(world.one.secret),
        ),
    )
    assert [result.ok for result in results] == [True, True]
    stored = world.read(HandoverCertificate, certificate_key(world.shard))
    assert stored == certificate


def test_a_certificate_without_a_confirmed_root_is_refused(handover: Any) -> None:
    with pytest.raises(CertificateError):
        post(handover)


def test_a_certificate_of_another_state_is_refused(handover: Any) -> None:
    handover.confirm(handover.shard, handover.one, handover.xyz - 1, generation=0)
    with pytest.raises(CertificateError):
        post(handover, root=b"x" * 32)
    with pytest.raises(CertificateError):
        post(handover, height=handover.xyz - 2)
    with pytest.raises(CertificateError):
        post(handover, height=handover.xyz)
    with pytest.raises(CertificateError):
        post(handover, generation=1)


def test_only_the_old_generation_has_the_last_word(handover: Any) -> None:
    handover.confirm(handover.shard, handover.one, handover.xyz - 1, generation=0)
    with pytest.raises(WrongFingerprintForShardError):
        post(handover, handover.two)
    with pytest.raises(NotRegisteredError):
        post(handover, handover.instance("stranger"))
    forged = handover.certificate(
        handover.shard,
        handover.one,
        height=handover.xyz - 1,
        root=handover.root(handover.xyz - 1),
    )
    with pytest.raises(StatementSignatureError):
        handover.call(
            "enclave_bridge.post_certificate",
            certificate=forged,
            signature=forged.sign(handover.two.secret),
        )


def test_a_certificate_still_counts_when_the_new_one_has_gone_on(handover: Any) -> None:
    handover.confirm(handover.shard, handover.one, handover.xyz - 1, generation=0)
    handover.confirm(handover.shard, handover.two, handover.xyz, generation=1)
    post(handover)
    with pytest.raises(CertificateError):
        post(handover)


def test_a_certificate_before_xyz_is_refused(world: Any) -> None:
    one = world.instance("one")
    shard = world.born_shard(one)
    xyz = world.upgrade(shard, release_from=50, upgrade_at=60)
    with pytest.raises(CertificateError):
        world.post_certificate(shard, one, height=xyz - 1, root=world.root(0))


def test_an_unborn_shard_confirms_and_certifies_nothing(world: Any) -> None:
    shard = world.create_shard()
    world.collateral()
    one = world.instance("one")
    world.register(shard, one)
    certificate = world.certificate(shard, one, height=1, root=b"r" * 32)
    with pytest.raises(ShardNotBornError):
        world.call(
            "enclave_bridge.post_certificate",
            certificate=certificate,
            signature=certificate.sign(one.secret),
        )


def test_encodings_of_kept_evidence_are_canonical(born: Any) -> None:
    """What an auditor hashes is what was signed."""
    last = born.height
    born.confirm(born.shard, born.one, last)
    ((_, raw),) = born.store.items(b"enclave_bridge/confirmed/")
    assert encode(decode(SignedConfirmation, raw)) == raw
