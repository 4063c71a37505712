"""Who orders the chain: changed by root and by evidence, never past what CometBFT,
a light client or the validators that run can follow."""

from fractions import Fraction
from itertools import chain, combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import SealiftError
from sealift.crypto import ANYBODYS_KEYS, sha256
from sealift.frame import BadOriginError, SimpleTreeStore
from sealift.ledger import (
    EngineReport,
    FinalizedBlock,
    Ledger,
    LedgerGenesis,
    LedgerGenesisError,
    LedgerParams,
    Misbehavior,
    MisbehaviorKind,
    ledger_call,
)
from sealift.ledger._errors import (
    ValidatorKeyError,
    ValidatorLimitError,
    ValidatorsFixedError,
)
from sealift.ledger._validators import Absences, Offence, Validators
from sealift.relay import MAX_TOTAL_POWER, Validator, ValidatorSet


def key(number: int) -> bytes:
    return sha256(b"validator %d" % number)


def address(number: int) -> bytes:
    return Validator(public_key=key(number), power=1).address


def a_set(*powers: int) -> ValidatorSet:
    return ValidatorSet.sorted(
        tuple(
            Validator(public_key=key(place), power=power)
            for place, power in enumerate(powers)
            if power
        )
    )


class Ordered:
    """A ledger with validators, and what CometBFT would make of its updates."""

    def __init__(self, world: Any, *powers: int, **params: Any) -> None:
        self.world = world
        genesis = LedgerGenesis(
            chain_id=world.genesis.chain_id,
            accounts=world.genesis.accounts,
            sudo=world.genesis.sudo,
            anchors=world.genesis.anchors,
            params=LedgerParams(**({"max_validators": 100} | params)),
        )
        world.genesis = genesis
        world.store = SimpleTreeStore()
        world.ledger = Ledger(
            genesis=genesis, store=world.store, verifier=world.verifier
        )
        first = a_set(*powers)
        world.app_hash = world.ledger.init_chain(first)
        world.database = dict(world.store.items(b""))
        #: Sets by height, as CometBFT keeps them from our updates alone.
        self.sets = {1: first, 2: first}

    def block(self, *changes: tuple[int, int], report: Any = None) -> FinalizedBlock:
        """One block with ``set_validator`` of each (number, power)."""
        world = self.world
        txs = [
            world.tx(
                "sudo.sudo",
                by="root",
                call=ledger_call(
                    "validators.set_validator", public_key=key(who), power=power
                ),
            )
            for who, power in changes
        ]
        height = world.next
        done: FinalizedBlock = world.ledger.finalize_block(
            height=height,
            block_hash=world.hash_of(height),
            time=world.time_of(height),
            proposer=b"p" * 20,
            txs=txs,
            **({} if report is None else {"report": report}),
        )
        assert done.hook_failures == ()
        world.ledger.commit()
        world.database = dict(world.store.items(b""))
        world._ahead = {}
        self.sets[height + 2] = updated(self.sets[height + 1], done)
        assert world.ledger.next_validators == self.sets[height + 2]
        current = world.read(ValidatorSet, Validators.current.key())
        assert current == self.sets[height + 1]
        world.last = done
        return done

    def change(self, who: int, power: int) -> FinalizedBlock:
        done = self.block((who, power))
        self.world.told(done.results[0])
        return done


def updated(before: ValidatorSet, block: FinalizedBlock) -> ValidatorSet:
    """CometBFT v0.38 types/validator_set.go updateWithChangeSet, and its refusals."""
    powers = {one.public_key: one.power for one in before.validators}
    named = [one.public_key for one in block.validator_updates]
    assert len(named) == len(set(named)), "duplicate entry"
    for one in block.validator_updates:
        if one.power:
            powers[one.public_key] = one.power
        else:
            del powers[one.public_key]  # "failed to find validator to remove"
    assert powers, "would result in empty set"
    assert sum(powers.values()) <= MAX_TOTAL_POWER
    return ValidatorSet.sorted(
        tuple(Validator(public_key=k, power=p) for k, p in powers.items())
    )


def test_a_change_is_told_at_once_and_orders_two_blocks_later(world: Any) -> None:
    chain_ = Ordered(world, 10)
    done = chain_.change(1, 3)
    assert done.validator_updates == (Validator(public_key=key(1), power=3),)
    assert world.events()[-2:] == ["validators.ValidatorChanged", "sudo.Sudone"]
    assert chain_.sets[2] == a_set(10)
    assert chain_.sets[3] == a_set(10, 3)
    assert chain_.block().validator_updates == ()
    assert chain_.change(1, 1).validator_updates[0].power == 1
    assert chain_.change(1, 0).validator_updates[0].power == 0
    assert chain_.sets[world.height + 2] == a_set(10)


def test_the_sets_live_through_a_restart_between_decision_and_effect(
    world: Any,
) -> None:
    chain_ = Ordered(world, 10)
    chain_.change(1, 3)
    world.restart()
    assert world.ledger.next_validators == a_set(10, 3)
    assert chain_.block().validator_updates == ()


def test_executing_again_before_the_commit_gives_the_same_updates(world: Any) -> None:
    chain_ = Ordered(world, 10)
    call = ledger_call("validators.set_validator", public_key=key(1), power=3)
    tx = world.tx("sudo.sudo", by="root", call=call)
    fields: Any = {
        "height": 1,
        "block_hash": world.hash_of(1),
        "time": world.time_of(1),
        "proposer": b"p" * 20,
    }
    once = world.ledger.finalize_block(txs=[tx], **fields)
    assert world.ledger.next_validators == chain_.sets[2]  # not committed yet
    twice = world.ledger.finalize_block(txs=[tx], **fields)
    assert once.validator_updates == twice.validator_updates != ()
    assert world.ledger.finalize_block(txs=[], **fields).validator_updates == ()


def test_what_is_taken_back_within_a_block_is_no_update(world: Any) -> None:
    chain_ = Ordered(world, 10)
    assert chain_.block((1, 3), (1, 0)).validator_updates == ()
    (last,) = chain_.block((1, 3), (1, 2)).validator_updates
    assert last.power == 2


@pytest.mark.parametrize(
    ("powers", "who", "power", "refusal"),
    [
        ((10,), 1, -1, "ValidatorPowerError"),
        ((10,), 1, MAX_TOTAL_POWER + 1, "ValidatorPowerError"),
        ((MAX_TOTAL_POWER - 5, 5), 1, 6, "ValidatorPowerError"),
        ((1, 1, 1), 2, 0, "ValidatorPowerError"),  # two of power 1: stuck for ever
        ((10,), 0, 0, "LastValidatorError"),
        ((10,), 7, 0, "UnknownValidatorError"),
        ((10,), 0, 10, "NoChangeError"),
        ((10,), 1, 4, "ValidatorChangeError"),
        ((10, 10), 1, 0, "ValidatorChangeError"),
        ((9, 9, 9), 3, 9, None),
        ((3, 3, 3), 2, 0, None),
        ((10,), 0, 1_000_000, None),  # alone: its power means nothing
        ((10,), 1, 3, None),
    ],
)
def test_each_change_is_allowed_or_refused_by_name(
    world: Any, powers: Any, who: int, power: int, refusal: Any
) -> None:
    chain_ = Ordered(world, *powers)
    if refusal is None:
        chain_.change(who, power)
        return
    before = world.ledger.next_validators
    with pytest.raises(SealiftError) as told:
        chain_.change(who, power)
    assert told.value.code == refusal
    assert world.ledger.next_validators == before


@pytest.mark.parametrize(
    "bad", [b"", bytes(33), b"\x02" + bytes(32), min(ANYBODYS_KEYS)]
)
def test_keys_of_other_kinds_and_keys_of_everybody_are_refused(
    world: Any, bad: bytes
) -> None:
    """CometBFT panics on a key type that its parameters do not name; and who signs
    with a key of small order is anybody."""
    Ordered(world, 10)
    inner = ledger_call("validators.set_validator", public_key=bad, power=1)
    with pytest.raises(ValidatorKeyError):
        world.call("sudo.sudo", by="root", call=inner)


def test_a_set_has_no_more_members_than_the_genesis_allows(world: Any) -> None:
    chain_ = Ordered(world, 10, 10, max_validators=2)
    with pytest.raises(ValidatorLimitError):
        chain_.change(2, 1)


def test_validators_that_are_fixed_stay(world: Any) -> None:
    """What the embedded engine relies on: one key orders its chain for ever."""
    chain_ = Ordered(world, 10, max_validators=0)
    with pytest.raises(ValidatorsFixedError):
        chain_.change(1, 1)
    with pytest.raises(ValidatorsFixedError):
        chain_.change(0, 11)


def test_only_root_changes_the_set(world: Any) -> None:
    Ordered(world, 10)
    with pytest.raises(BadOriginError):
        world.call("validators.set_validator", by="root", public_key=key(1), power=1)
    inner = ledger_call("validators.set_validator", public_key=key(1), power=1)
    with pytest.raises(SealiftError, match="root key"):
        world.call("sudo.sudo", by="alice", call=inner)
    assert world.ledger.next_validators == a_set(10)


def test_steps_of_one_block_are_counted_together(world: Any) -> None:
    """Else a block of many small steps would be one step that nobody can follow."""
    chain_ = Ordered(world, 30)
    done = chain_.block((1, 5), (2, 5), (3, 1))
    assert [one.ok for one in done.results] == [True, True, False]
    assert done.results[2].error == "ValidatorChangeError"
    assert chain_.block((3, 1)).results[0].ok  # the next block may go on


@pytest.mark.parametrize(
    ("powers", "most"),
    [((), 5), ((1, 1, 1), 2), ((1, 1), 5), ((MAX_TOTAL_POWER, 1), 5)],
)
def test_a_genesis_whose_set_could_not_change_is_refused(
    world: Any, powers: Any, most: int
) -> None:
    with pytest.raises(LedgerGenesisError):
        Ordered(world, *powers, max_validators=most)


powers_ = st.lists(st.integers(1, 12), min_size=1, max_size=5).filter(
    lambda found: len(found) == 1 or sum(found) >= 3
)


@settings(max_examples=60, deadline=None)
@given(powers_, st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), max_size=4))
def test_whoever_trusts_the_set_before_a_block_can_follow_past_it(
    new_world: Any, powers: Any, changes: Any
) -> None:
    """1. Any two thirds of the new set hold a third of the old one: it can be skipped.
    2. If all of the old ran, two thirds of the new do. 3. CometBFT takes the updates.
    """
    chain_ = Ordered(new_world(), *powers)
    height = chain_.world.next
    chain_.block(*changes)  # 3. is checked by updated()
    old = {v.public_key: v.power for v in chain_.sets[height + 1].validators}
    new = {v.public_key: v.power for v in chain_.sets[height + 2].validators}
    everybody = sorted(new)
    subsets = chain.from_iterable(
        combinations(everybody, n) for n in range(len(everybody) + 1)
    )
    total = sum(new.values())
    for signers in subsets:
        if Fraction(sum(new[one] for one in signers), total) > Fraction(2, 3):
            held = sum(old.get(one, 0) for one in signers)
            assert Fraction(held, sum(old.values())) > Fraction(1, 3)  # 1.
    running = sum(power for one, power in new.items() if one in old)
    assert Fraction(running, total) > Fraction(2, 3)  # 2.


def twice(who: int, height: int = 1) -> EngineReport:
    return EngineReport(
        misbehavior=(
            Misbehavior(
                kind=MisbehaviorKind.DUPLICATE_VOTE,
                address=address(who),
                height=height,
                power=10,
            ),
        )
    )


def test_a_validator_that_votes_twice_is_recorded_and_loses_its_power(
    world: Any,
) -> None:
    chain_ = Ordered(world, 10, 10, 10)
    done = chain_.block(report=twice(1))
    assert done.validator_updates == (Validator(public_key=key(1), power=0),)
    assert [event.name for event in done.events] == [
        "validators.ValidatorMisbehaved",
        "validators.ValidatorChanged",
    ]
    record = world.read(Offence, Validators.offences.key(address(1)))
    assert (record.count, record.recorded_at, record.power) == (1, 1, 10)
    assert chain_.sets[3] == a_set(10, 0, 10)
    # evidence that comes late, for one who is none any more
    again = chain_.block(report=twice(1))
    assert again.validator_updates == ()
    assert world.read(Offence, Validators.offences.key(address(1))).count == 2


def test_expelling_counts_as_a_change_of_its_block(world: Any) -> None:
    chain_ = Ordered(world, 10, 10, 10)
    done = chain_.block((3, 1), report=twice(1))
    assert done.results[0].error == "ValidatorChangeError"


def test_the_last_validator_stays_whatever_it_did(world: Any) -> None:
    chain_ = Ordered(world, 10)
    done = chain_.block(report=twice(0))
    assert done.validator_updates == ()
    assert [event.name for event in done.events] == ["validators.ValidatorMisbehaved"]
    # both of two: one of them stays
    chain_ = Ordered(world, 10, 10)
    both = EngineReport(misbehavior=twice(0).misbehavior + twice(1).misbehavior)
    assert len(chain_.block(report=both).validator_updates) == 1


def test_a_genesis_may_only_record(world: Any) -> None:
    chain_ = Ordered(world, 10, 10, expel_equivocators=0)
    done = chain_.block(report=twice(1))
    assert done.validator_updates == ()
    assert world.read(Offence, Validators.offences.key(address(1))).count == 1


def test_an_expelled_validator_is_expelled_where_the_set_is_fixed_too(
    world: Any,
) -> None:
    chain_ = Ordered(world, 10, 10, max_validators=0)
    assert len(chain_.block(report=twice(1)).validator_updates) == 1


def test_a_light_client_attack_is_recorded_and_left_to_root(world: Any) -> None:
    chain_ = Ordered(world, 10, 10)
    attack = Misbehavior(
        kind=MisbehaviorKind.LIGHT_CLIENT_ATTACK,
        address=address(1),
        height=1,
        power=10,
    )
    done = chain_.block(report=EngineReport(misbehavior=(attack,)))
    assert done.validator_updates == ()
    assert world.read(Offence, Validators.offences.key(address(1))).kind == 2


def test_who_is_absent_is_counted_until_it_signs_again(world: Any) -> None:
    chain_ = Ordered(world, 10, 10)
    for _ in range(3):
        chain_.block(report=EngineReport(absent=(address(1),)))
    (one,) = world.read(Absences, Validators.absences.key()).entries
    assert (one.address, one.blocks) == (address(1), 3)
    chain_.block(report=EngineReport(absent=(address(0),)))
    (one,) = world.read(Absences, Validators.absences.key()).entries
    assert (one.address, one.blocks) == (address(0), 1)
    chain_.block()
    assert world.read(Absences, Validators.absences.key()).entries == ()
