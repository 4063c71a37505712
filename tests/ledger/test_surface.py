"""Layout, codes, metadata, genesis, restart: what others build on."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift import attestation, base, frame, protocol
from sealift.attestation import TrustAnchor
from sealift.base import SealiftError, encode
from sealift.frame import SimpleTreeStore, proven_value, storage_key
from sealift.ledger import (
    CODES,
    UNLISTED,
    Ledger,
    LedgerGenesis,
    LedgerGenesisError,
    LedgerParams,
    code_of,
    ledger_call,
    ledger_metadata,
    parse_genesis,
    render_genesis,
)
from sealift.ledger import _errors as ledger_errors
from sealift.ledger._bridge import EnclaveBridge
from sealift.ledger._errors import UnknownFmspcError
from sealift.ledger._runtime import RefusingVerifier
from sealift.ledger._teerex import Teerex
from sealift.protocol import (
    INVOKE,
    SHIELD_FUNDS,
    InvokeArgs,
    ShieldFundsArgs,
    certificate_key,
    collateral_key,
    enclave_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)

SHARD, KEY = b"s" * 32, b"k" * 32

# layout


@pytest.mark.parametrize(
    ("public", "mine"),
    [
        (record_key(SHARD), EnclaveBridge.records.key(SHARD)),
        (schedule_key(SHARD), EnclaveBridge.schedules.key(SHARD)),
        (frontier_key(SHARD), EnclaveBridge.frontiers.key(SHARD)),
        (keys_key(SHARD, 3), EnclaveBridge.epochs.key((SHARD, 3))),
        (certificate_key(SHARD), EnclaveBridge.certificates.key(SHARD)),
        (enclave_key(KEY), Teerex.enclaves.key(KEY)),
        (collateral_key(b"fmspc!"), Teerex.collateral.key(b"fmspc!")),
    ],
)
def test_protocol_and_ledger_agree_where_things_stand(public: Any, mine: Any) -> None:
    assert public == mine


def test_the_layout_is_frames(world: Any) -> None:
    assert record_key(SHARD) == storage_key("enclave_bridge", "record", SHARD)
    assert enclave_key(KEY) == storage_key("teerex", "enclaves", KEY)


def test_enclaves_read_arguments_of_calls_as_clients_write_them() -> None:
    call = ledger_call(INVOKE, shard=SHARD, ciphertext=b"c")
    assert call.args == encode(InvokeArgs(shard=SHARD, ciphertext=b"c"))
    call = ledger_call(SHIELD_FUNDS, shard=SHARD, beneficiary=KEY, amount=5)
    args = ShieldFundsArgs(shard=SHARD, beneficiary=KEY, amount=5)
    assert call.args == encode(args)


def test_what_stands_and_what_does_not_is_proven(world: Any) -> None:
    shard = world.create_shard()
    world.block()
    for key in (record_key(shard), schedule_key(shard), frontier_key(shard)):
        value, proof = world.ledger.query(key, prove=True)
        assert proven_value(world.app_hash, key, proof).value == value
    assert value is None


# codes

#: Raised where no transaction is, so that no result can carry them.
NEVER_AN_OUTCOME = {
    # the chain itself
    "LedgerGenesisError",
    "LedgerHeightError",
    "LedgerQueryError",
    "ProposalRefusedError",
    "UnknownRuntimeVersionError",
    "TransactionError",
    # building a runtime, taking over states, proofs
    "RuntimeDefinitionError",
    "GenesisError",
    "MigrationRefusedError",
    "MigrationGapError",
    "StateTooNewError",
    "ForeignStateError",
    "MigrationCheckError",
    "MigrationFailedError",
    "RegistryQueueError",
    "ProofFormatError",
    "ProofInvalidError",
    "ProofUnavailableError",
}


def classes_of(module: Any) -> Any:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, SealiftError)
    }


def test_every_refusal_of_the_ledger_has_a_number_of_its_own() -> None:
    mine = set(classes_of(ledger_errors)) - {"SealiftError"} - NEVER_AN_OUTCOME
    assert mine <= set(CODES)
    assert NEVER_AN_OUTCOME.isdisjoint(CODES)


def test_every_failure_of_a_call_has_a_number() -> None:
    pallet_errors = {
        name
        for name, value in classes_of(frame).items()
        if issubclass(value, frame.PalletError)
    }
    assert pallet_errors <= set(CODES)
    verdicts = {
        name
        for name, value in classes_of(attestation).items()
        if issubclass(value, attestation.AttestationError)
        and not name.startswith(("Ratls", "Session", "Peer"))
    }
    assert verdicts <= set(CODES)


def test_numbers_are_unique_never_success_and_frozen() -> None:
    numbers = list(CODES.values())
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > UNLISTED > 0
    assert code_of("NoSuchThing") == UNLISTED
    # a sample that may never change: codes are consensus
    sample = {
        "DecodeError": 10,
        "NonceError": 25,
        "FeeError": 26,
        "UnknownCallError": 42,
        "PolicyRefusedError": 108,
        "WrongFingerprintForShardError": 149,
        "UnknownShardError": 200,
        "OrderSerialError": 208,
        "StaleConfirmationError": 225,
    }
    assert {name: CODES[name] for name in sample} == sample


def test_every_number_names_an_error_that_exists() -> None:
    known = classes_of(ledger_errors) | classes_of(frame) | classes_of(attestation)
    known |= classes_of(protocol)
    known |= classes_of(base)
    assert set(CODES) <= set(known)


# metadata


def test_metadata_encodes_what_the_ledger_decodes() -> None:
    metadata = ledger_metadata()
    arguments = {"shard": SHARD, "ciphertext": b"c"}
    assert metadata.encode_call(INVOKE, arguments) == ledger_call(INVOKE, **arguments)
    assert metadata.digest() == ledger_metadata().digest()


def test_a_runtime_that_only_encodes_judges_no_evidence() -> None:
    verifier = RefusingVerifier()
    with pytest.raises(UnknownFmspcError):
        verifier.quote_fmspc(b"q")
    with pytest.raises(UnknownFmspcError):
        verifier.verify_quote(b"q", collateral=b"", anchors=(), now=0)
    with pytest.raises(UnknownFmspcError):
        verifier.verify_collateral(b"c", anchors=(), now=0)


# genesis


def test_genesis_survives_its_json(world: Any) -> None:
    data = render_genesis(world.genesis)
    assert parse_genesis(data) == world.genesis
    assert world.account("alice").hex().encode() in data


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_genesis_or_a_refusal(data: Any) -> None:
    with pytest.raises(LedgerGenesisError):
        parse_genesis(data)


@pytest.mark.parametrize(
    "wrong",
    [
        b'"chain_id":""',
        b'"chain_id":"%s"' % (b"x" * 51),
    ],
)
def test_a_genesis_out_of_range_is_refused(world: Any, wrong: Any) -> None:
    data = render_genesis(world.genesis).replace(b'"chain_id":"test-chain"', wrong)
    with pytest.raises(LedgerGenesisError):
        parse_genesis(data)


def test_an_unknown_parameter_is_refused_not_ignored(world: Any) -> None:
    data = render_genesis(world.genesis).replace(b'"quote_window"', b'"qoute_window"')
    with pytest.raises(LedgerGenesisError):
        parse_genesis(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"anchors": ()},
        {"anchors": (TrustAnchor(root_der=b"x", kind="intel"),) * 2},
        {"accounts": ((KEY, 1), (KEY, 2))},
        {"accounts": ((KEY, 2**62), (SHARD, 2**62))},
    ],
)
def test_a_genesis_that_no_chain_can_begin_with_is_refused(
    world: Any, changes: Any
) -> None:
    fields = {"chain_id": "c", "accounts": ((KEY, 1),), "sudo": KEY}
    fields |= {"anchors": world.genesis.anchors, "params": LedgerParams()}
    ledger = Ledger(
        genesis=LedgerGenesis(**fields | changes),
        store=SimpleTreeStore(),
        verifier=RefusingVerifier(),
    )
    with pytest.raises(LedgerGenesisError):
        ledger.init_chain()


def test_init_chain_again_before_the_first_block_is_harmless(world: Any) -> None:
    assert world.ledger.init_chain() == world.app_hash


# restart


def test_a_restart_from_the_database_gives_the_same_app_hash_and_goes_on(
    new_world: Any,
) -> None:
    worlds = [new_world(), new_world()]
    for number, world in enumerate(worlds):
        one = world.instance("one")
        shard = world.born_shard(one)
        world.upgrade(shard, release_from=50, upgrade_at=60)
        if number:
            world.restart()
            assert world.ledger.app_hash == world.app_hash
            assert world.ledger.height == world.height
        world.call("enclave_bridge.invoke", shard=shard, ciphertext=b"x")
        world.confirm(shard, one, world.height)
        if number:
            world.restart()
        world.blocks_until(62)
    assert worlds[0].app_hash == worlds[1].app_hash
    assert worlds[0].database == worlds[1].database


def test_a_restart_at_height_0_goes_on(world: Any) -> None:
    world.restart()
    assert world.ledger.init_chain() == world.app_hash
    world.block()


def test_another_chains_database_is_refused(world: Any, new_world: Any) -> None:
    other = new_world(quote_window=7)
    with pytest.raises(LedgerGenesisError):
        Ledger(genesis=other.genesis, store=world.store, verifier=RefusingVerifier())
    store = SimpleTreeStore()
    store.apply({b"something/else/": b"\x01"})
    with pytest.raises(LedgerGenesisError):
        Ledger(genesis=world.genesis, store=store, verifier=RefusingVerifier())


def test_the_state_does_not_depend_on_the_hash_seed(world: Any) -> None:
    """Two platforms in one configuration, written in either order."""
    codes = {"insecure-sim": b"A" * 32, "gramine-sgx": b"B" * 32}
    turned = dict(reversed(codes.items()))
    assert encode(world.config(codes=codes)) == encode(world.config(codes=turned))
