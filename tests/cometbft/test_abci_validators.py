"""Validators: what the engine is told, what it tells, and whose chain it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from abci_client import (
    block,
    commit,
    init,
    message,
    open_driver,
    parse_request,
    query,
    run_block,
)
from comet import PARAMS, app_state, root_call

from sealift.base import decode
from sealift.ledger import LedgerParams
from sealift.ledger._validators import Absences, Offence, Validators
from sealift.node.abci import AbciApplication, AbciValidatorsError
from sealift.node.abci._messages import FinalizeBlockRequest, FinalizeBlockResponse
from sealift.relay import Validator, ValidatorSet

ONE, TWO = b"1" * 32, b"2" * 32
FIRST = ValidatorSet.sorted(
    (Validator(public_key=ONE, power=10), Validator(public_key=TWO, power=10))
)
GOVERNED = LedgerParams(
    fee_per_byte=PARAMS.fee_per_byte, max_validators=4, expel_equivocators=1
)
TWO_VALIDATORS = {
    "validators": [{"pub_key": {"ed25519": key}, "power": 10} for key in (ONE, TWO)],
    "app_state_bytes": app_state(GOVERNED),
}


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[AbciApplication]:
    made = open_driver(tmp_path / "state.sqlite")
    init(made, **TWO_VALIDATORS)
    yield made
    made.close()


def run(
    driver: AbciApplication,
    *txs: bytes,
    validators: ValidatorSet = FIRST,
    **engine: object,
) -> FinalizeBlockResponse:
    body = block(driver.height + 1, txs, validators=validators) | engine
    request = parse_request(message("finalize_block", **body))
    assert isinstance(request, FinalizeBlockRequest)
    done = driver.finalize_block(request)
    commit(driver)
    return done


def set_power(nonce: int, key: bytes, power: int) -> bytes:
    return root_call(nonce, "validators.set_validator", public_key=key, power=power)


def address(key: bytes) -> bytes:
    return Validator(public_key=key, power=1).address


def evidence(key: bytes, kind: int = 1) -> dict[str, object]:
    return {
        "type": kind,
        "validator": {"address": address(key), "power": 10},
        "height": 1,
        "time": {"seconds": 1_700_000_001},
        "total_voting_power": 20,
    }


def votes(**flags: int) -> dict[str, object]:
    named = {"one": ONE, "two": TWO}
    return {
        "decided_last_commit": {
            "votes": [
                {
                    "validator": {"address": address(named[who]), "power": 10},
                    "block_id_flag": flag,
                }
                for who, flag in flags.items()
            ]
        }
    }


def test_updates_reach_the_engine_and_its_next_headers_must_say_so(
    driver: AbciApplication,
) -> None:
    third = b"3" * 32
    done = run(driver, set_power(0, third, 5), set_power(1, TWO, 9))
    assert [one.code for one in done.tx_results] == [0, 0]
    told = {one.pub_key.ed25519: one.power for one in done.validator_updates}
    assert told == {third: 5, TWO: 9}
    after = ValidatorSet.sorted(
        (
            Validator(public_key=ONE, power=10),
            Validator(public_key=TWO, power=9),
            Validator(public_key=third, power=5),
        )
    )
    with pytest.raises(AbciValidatorsError, match="block 2"):
        run(driver, validators=FIRST)  # an engine that ignored the updates
    assert run(driver, validators=after).validator_updates == ()
    run(driver, set_power(2, third, 0), validators=after)
    four = ValidatorSet(
        validators=tuple(one for one in after.validators if one.public_key != third)
    )
    run(driver, validators=four)


def test_updates_that_are_not_committed_do_not_count(driver: AbciApplication) -> None:
    """A crash between FinalizeBlock and Commit: the block comes again."""
    body = block(1, (set_power(0, TWO, 9),), validators=FIRST)
    request = parse_request(message("finalize_block", **body))
    assert isinstance(request, FinalizeBlockRequest)
    once, twice = (driver.finalize_block(request) for _ in range(2))
    assert once == twice
    assert len(once.validator_updates) == 1


def test_another_chains_engine_is_refused_before_anything_is_executed(
    driver: AbciApplication,
) -> None:
    """Its folder was copied here, or the socket is another chain's: Info has no
    chain id, and the heights may fit."""
    run(driver)
    before = (driver.height, driver.app_hash)
    with pytest.raises(AbciValidatorsError) as told:
        run_block(driver, 2)  # named by the validators of abci_client's genesis
    assert "folder" in told.value.hint
    assert (driver.height, driver.app_hash) == before
    run(driver)


def test_who_votes_twice_is_recorded_and_expelled(driver: AbciApplication) -> None:
    done = run(driver, misbehavior=[evidence(TWO)])
    assert [one.type for one in done.events] == [
        "validators.ValidatorMisbehaved",
        "validators.ValidatorChanged",
    ]
    assert [(one.pub_key.ed25519, one.power) for one in done.validator_updates] == [
        (TWO, 0)
    ]
    found = query(driver, Validators.offences.key(address(TWO)))
    assert decode(Offence, found.value).power == 10
    alone = ValidatorSet(validators=(Validator(public_key=ONE, power=10),))
    last = run(driver, validators=alone, misbehavior=[evidence(ONE)])
    assert last.validator_updates == ()  # nobody else would be left


def test_evidence_survives_a_restart_like_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    first = open_driver(path)
    init(first, **TWO_VALIDATORS)
    run(first, misbehavior=[evidence(TWO)])
    first.close()
    second = open_driver(path)
    try:
        alone = ValidatorSet(validators=(Validator(public_key=ONE, power=10),))
        run(second, validators=alone)
    finally:
        second.close()


def test_who_did_not_sign_the_block_before_is_counted(driver: AbciApplication) -> None:
    def absences() -> dict[bytes, int]:
        found = query(driver, Validators.absences.key())
        entries = decode(Absences, found.value).entries if found.value else ()
        return {one.address: one.blocks for one in entries}

    run(driver)
    assert absences() == {}
    run(driver, **votes(one=2, two=1))
    run(driver, **votes(one=3, two=1))  # a vote for none is a sign of life
    assert absences() == {address(TWO): 2}
    run(driver, **votes(one=1, two=2))
    assert absences() == {address(ONE): 1}
    run(driver, **votes(one=2, two=2))
    assert absences() == {}


def test_the_votes_of_a_block_are_part_of_its_state(tmp_path: Path) -> None:
    """Nodes that saw other votes would part: they are the block's, not the node's."""
    hashes = []
    for place, flags in enumerate([{"one": 2, "two": 1}, {"one": 2, "two": 2}]):
        made = open_driver(tmp_path / f"{place}.sqlite")
        init(made, **TWO_VALIDATORS)
        run(made)
        hashes.append(run(made, **votes(**flags)).app_hash)
        made.close()
    assert hashes[0] != hashes[1]


def test_genesis_names_the_first_validators(driver: AbciApplication) -> None:
    run(driver)
    found = query(driver, Validators.coming.key())
    assert decode(ValidatorSet, found.value) == FIRST
