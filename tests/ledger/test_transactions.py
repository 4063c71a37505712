"""What a transaction can and cannot do to a block, before its call runs."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import decode, encode
from sealift.crypto import sha256
from sealift.frame import EmittedEvent, UnknownCallError
from sealift.ledger import CODES, Ledger, ledger_call, transaction
from sealift.ledger._errors import (
    BlockFullError,
    FeeError,
    LedgerHeightError,
    LedgerQueryError,
    NonceError,
    TransactionExpiredError,
    TransactionFormatError,
    TransactionSignatureError,
    TransactionTooLargeError,
    WrongChainError,
)
from sealift.protocol import MAX_TX_BYTES, Transaction, TransactionBody

CHAIN = "test-chain"


def made(world: Any, *, by: Any = "alice", **changes: Any) -> Any:
    """A transfer to bob, with something changed before it is signed."""
    call = ledger_call("balances.transfer", dest=world.account("bob"), amount=7)
    fields = {
        "chain_id": CHAIN,
        "signer": world.account(by),
        "nonce": world.nonce(by),
        "call": call.name,
        "args": call.args,
        "valid_until": world.height + 10,
    }
    body = TransactionBody(**(fields | changes))
    secret = world.secrets[by]
    return encode(Transaction(body=body, signature=body.sign(secret)))


def both(world: Any, tx: Any) -> Any:
    """The refusal of the mempool and that of a block: they must be the same."""
    checked = world.ledger.check_tx(tx)
    (result,) = world.block(tx)
    assert checked.code == result.code
    return result


@pytest.fixture
def untouched(world: Any) -> Any:
    """After the test, neither balance nor nonce of alice may have changed."""
    yield world
    assert world.nonce("alice") == 0
    assert world.ledger.query(b"balances/accounts/" + world.account("alice"))[
        0
    ] == encode(10**9)


def test_a_transfer_pays_its_fee_by_the_byte_and_takes_its_nonce(world: Any) -> None:
    tx = made(world)
    (result,) = world.block(tx)
    assert result.ok
    alice = world.read(int, b"balances/accounts/" + world.account("alice"))
    assert alice == 10**9 - 7 - len(tx)
    assert world.nonce("alice") == 1
    events = decode(tuple[EmittedEvent, ...], result.data)
    assert [event.name for event in events] == ["balances.Transferred"]
    assert (result.gas_wanted, result.gas_used) == (200, 200)


def test_fees_are_burned_and_issuance_says_so(world: Any) -> None:
    tx = made(world)
    world.block(tx)
    total = 6 * 10**9
    assert world.read(int, b"balances/issuance/") == total - len(tx)
    held = [decode(int, value) for _, value in world.store.items(b"balances/accounts/")]
    assert sum(held) == total - len(tx)


def test_junk_never_stops_a_block(untouched: Any) -> None:
    world = untouched
    results = world.block(b"", b"junk", b"\xff" * 100, bytes(1000))
    for result in results:
        with pytest.raises(TransactionFormatError):
            world.told(result)


def test_any_bytes_get_a_verdict(world: Any) -> None:
    @settings(max_examples=150, deadline=None)
    @given(junk=st.binary(max_size=200))
    def any_bytes(junk: Any) -> None:
        checked = world.ledger.check_tx(junk)
        (result,) = world.block(junk)
        assert checked.code == result.code == CODES["TransactionFormatError"]

    any_bytes()


def test_an_oversized_transaction_is_refused(untouched: Any) -> None:
    world = untouched
    tx = made(world, args=bytes(MAX_TX_BYTES))
    with pytest.raises(TransactionTooLargeError):
        world.told(both(world, tx))


def test_a_second_encoding_of_a_signed_transaction_is_refused(untouched: Any) -> None:
    """Malleable bytes would give one decision two hashes."""
    world = untouched
    tx = made(world)
    assert tx[0] == 0x93
    longer = b"\xdc\x00\x03" + tx[1:]
    with pytest.raises(TransactionFormatError):
        world.told(both(world, longer))


def test_a_transaction_of_another_chain_does_not_replay_here(untouched: Any) -> None:
    world = untouched
    with pytest.raises(WrongChainError):
        world.told(both(world, made(world, chain_id="other-chain")))


def test_a_forged_signer_is_refused(untouched: Any) -> None:
    """Mallory signs a transfer from alice."""
    world = untouched
    body = TransactionBody(
        chain_id=CHAIN,
        signer=world.account("alice"),
        nonce=0,
        call="balances.transfer",
        args=b"",
        valid_until=10,
    )
    tx = encode(Transaction(body=body, signature=body.sign(world.secrets["bob"])))
    with pytest.raises(TransactionSignatureError):
        world.told(both(world, tx))


def test_a_replayed_transaction_is_refused_and_costs_its_signer_nothing(
    world: Any,
) -> None:
    tx = made(world)
    world.block(tx)
    before = world.read(int, b"balances/accounts/" + world.account("alice"))
    with pytest.raises(NonceError):
        world.told(both(world, tx))
    twice = made(world)
    first, second = world.block(twice, twice)
    assert first.ok
    with pytest.raises(NonceError):
        world.told(second)
    after = world.read(int, b"balances/accounts/" + world.account("alice"))
    assert after == before - 7 - len(twice)


def test_a_transaction_from_the_future_is_refused(untouched: Any) -> None:
    world = untouched
    with pytest.raises(NonceError):
        world.told(both(world, made(world, nonce=1)))


def test_an_expired_transaction_is_refused(untouched: Any) -> None:
    world = untouched
    world.blocks_until(5)
    with pytest.raises(TransactionExpiredError):
        world.told(both(world, made(world, valid_until=5)))


def test_a_transaction_is_valid_in_its_last_block(world: Any) -> None:
    assert both(world, made(world, valid_until=world.next)).ok


def test_an_account_without_funds_cannot_make_the_chain_work(world: Any) -> None:
    secret = sha256(b"pauper")
    tx = transaction(
        secret,
        chain_id=CHAIN,
        nonce=0,
        valid_until=10,
        call=ledger_call("balances.transfer", dest=world.account("bob"), amount=0),
    )
    with pytest.raises(FeeError):
        world.told(both(world, tx))


def test_an_account_cannot_promise_the_same_fee_twice_to_the_mempool(
    new_world: Any,
) -> None:
    world = new_world(fee_per_byte=3_000_000)
    first, second = (made(world, nonce=nonce) for nonce in (0, 1))
    assert 3_000_000 * len(first) < 10**9 < 3_000_000 * (len(first) + len(second))
    assert world.ledger.check_tx(first).code == 0
    assert world.ledger.check_tx(second).code == CODES[FeeError.__name__]


def test_the_mempool_counts_pending_nonces_and_forgets_them_at_commit(
    world: Any,
) -> None:
    first, second = made(world), made(world, nonce=1)
    assert world.ledger.check_tx(second).code == CODES["NonceError"]
    checked = world.ledger.check_tx(first)
    assert (checked.code, checked.nonce, checked.gas_wanted) == (0, 0, 200)
    assert checked.sender == world.account("alice")
    assert world.ledger.check_tx(first).code == CODES["NonceError"]
    assert world.ledger.check_tx(second).code == 0
    world.block()
    assert world.ledger.check_tx(first).code == 0


def test_a_refused_transaction_leaves_no_pending_nonce(world: Any) -> None:
    assert world.ledger.check_tx(made(world, call="no.such")).code != 0
    assert world.ledger.check_tx(made(world)).code == 0


def test_an_unknown_call_pays_and_fails_by_name(world: Any) -> None:
    tx = made(world, call="no.such")
    assert world.ledger.check_tx(tx).code == CODES["UnknownCallError"]
    (result,) = world.block(tx)
    with pytest.raises(UnknownCallError):
        world.told(result)
    assert world.nonce("alice") == 1
    alice = world.read(int, b"balances/accounts/" + world.account("alice"))
    assert alice == 10**9 - len(tx)


def test_a_failed_call_pays_but_changes_nothing_else(world: Any) -> None:
    call = ledger_call("balances.transfer", dest=world.account("bob"), amount=2 * 10**9)
    tx = made(world, args=call.args)
    (result,) = world.block(tx)
    assert (result.error, result.data, result.events) == (
        "InsufficientFundsError",
        b"",
        (),
    )
    assert world.nonce("alice") == 1
    assert world.read(int, b"balances/accounts/" + world.account("bob")) == 10**9
    assert set(world.last.changes) == {
        b"balances/accounts/" + world.account("alice"),
        b"balances/issuance/",
        b"system/nonces/" + world.account("alice"),
        b"system/last_block/",
        b"system/block_hashes/" + world.height.to_bytes(8, "big"),
    }


def test_a_full_block_refuses_without_taking_fee_or_nonce(new_world: Any) -> None:
    """Nobody can burn another's nonce by filling a block with work."""
    world = new_world(max_block_weight=500)
    first, second = made(world), made(world, by="bob")
    third = made(world, by="operator")
    results = world.block(first, second, third)
    assert [result.ok for result in results] == [True, True, False]
    with pytest.raises(BlockFullError):
        world.told(results[2])
    assert world.nonce("operator") == 0
    (again,) = world.block(third)
    assert again.ok


def test_a_call_for_which_no_block_has_room_never_waits_for_one(
    new_world: Any,
) -> None:
    """It would stand at the head of the mempool for good."""
    world = new_world(max_block_weight=199)
    with pytest.raises(BlockFullError):
        world.told(both(world, made(world)))
    assert world.ledger.check_tx(made(world)).code == CODES["BlockFullError"]
    assert new_world(max_block_weight=200).ledger.check_tx(made(world)).code == 0


def test_blocks_out_of_turn_are_refused(world: Any) -> None:
    def run(height: Any) -> Any:
        return world.ledger.finalize_block(
            height=height, block_hash=b"h" * 32, time=1, proposer=b"", txs=[]
        )

    with pytest.raises(LedgerHeightError):
        run(2)
    with pytest.raises(LedgerHeightError):
        world.ledger.commit()
    run(1)
    world.ledger.commit()
    with pytest.raises(LedgerHeightError):
        run(1)
    with pytest.raises(LedgerHeightError):
        world.ledger.init_chain()


def test_a_block_before_genesis_is_refused(new_world: Any) -> None:
    world = new_world()
    empty = Ledger(
        genesis=world.genesis,
        store=type(world.store)(),
        verifier=world.ledger._pallets.teerex._verifier,
    )
    with pytest.raises(LedgerHeightError):
        empty.finalize_block(
            height=1, block_hash=b"h" * 32, time=1, proposer=b"", txs=[]
        )


def test_queries_see_the_committed_state_until_the_commit(world: Any) -> None:
    committed = world.app_hash
    key = b"system/nonces/" + world.account("alice")
    tx = made(world)
    block = world.ledger.finalize_block(
        height=1, block_hash=b"h" * 32, time=1, proposer=b"", txs=[tx]
    )
    assert world.ledger.app_hash == committed != block.app_hash
    assert world.ledger.query(key) == (None, None)
    _, proof = world.ledger.query(key, prove=True)
    assert proof is not None
    world.ledger.commit()
    assert world.ledger.app_hash == block.app_hash
    assert world.ledger.query(key)[0] == encode(1)


@pytest.mark.parametrize("asked_before", [False, True])
def test_the_mempool_goes_by_the_committed_state_until_the_commit(
    world: Any, asked_before: bool
) -> None:
    later, now = made(world, nonce=1), made(world, nonce=0)
    spend = world.tx("balances.transfer", dest=world.account("bob"), amount=10**9 // 2)
    if asked_before:
        assert world.ledger.check_tx(later).code == CODES["NonceError"]
    height = world.next
    world.ledger.finalize_block(
        height=height,
        block_hash=world.hash_of(height),
        time=world.time_of(height),
        proposer=b"p" * 20,
        txs=[spend],
    )
    assert world.ledger.check_tx(later).code == CODES["NonceError"]
    assert world.ledger.check_tx(now).code == 0
    world.ledger.commit()
    assert world.ledger.check_tx(now).code == CODES["NonceError"]
    assert world.ledger.check_tx(later).code == 0


def test_a_refused_height_gives_the_mempool_its_state_back(world: Any) -> None:
    first, second = made(world, nonce=0), made(world, nonce=1)
    fields = {"block_hash": world.hash_of(1), "time": 1, "proposer": b"p" * 20}
    world.ledger.finalize_block(height=1, txs=[first], **fields)
    with pytest.raises(LedgerHeightError):
        world.ledger.finalize_block(height=9, txs=[], **fields)
    assert world.ledger.check_tx(second).code == CODES["NonceError"]
    assert world.ledger.check_tx(first).code == 0


def test_executing_a_height_again_before_its_commit_replaces_it(world: Any) -> None:
    """A crash between FinalizeBlock and Commit replays FinalizeBlock."""
    tx = made(world)

    def run(txs: Any) -> Any:
        return world.ledger.finalize_block(
            height=1, block_hash=b"h" * 32, time=1, proposer=b"", txs=txs
        )

    first, empty, again = run([tx]), run([]), run([tx])
    assert first.app_hash == again.app_hash != empty.app_hash
    assert first.changes == again.changes
    world.ledger.commit()
    assert world.nonce("alice") == 1


def test_a_query_on_another_path_is_refused_by_name(world: Any) -> None:
    with pytest.raises(LedgerQueryError):
        world.ledger.query(b"k", path="/elsewhere")


def test_the_time_and_the_proposer_do_not_reach_results(new_world: Any) -> None:
    """Two nodes with the same block agree on everything that is hashed."""
    worlds = [new_world(), new_world()]
    txs = [made(worlds[0]), b"junk", made(worlds[0], nonce=1, call="no.such")]
    blocks = [
        world.ledger.finalize_block(
            height=1, block_hash=b"h" * 32, time=9, proposer=who, txs=txs
        )
        for world, who in zip(worlds, (b"p" * 20, b"q" * 20), strict=True)
    ]
    assert blocks[0] == blocks[1]
