"""What was verified is remembered by its bytes, and never lets a forgery in."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import decode, encode
from sealift.ledger import CODES
from sealift.ledger._known import KnownSignatures
from sealift.node import MempoolLimits
from sealift.protocol import Transaction, TransactionBody


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many signatures of transactions were verified so far."""
    real, count = TransactionBody.verify, []

    def counted(self: TransactionBody, *arguments: Any) -> None:
        count.append(self.nonce)
        real(self, *arguments)

    monkeypatch.setattr(TransactionBody, "verify", counted)
    return lambda: len(count)


def pay(world: Any) -> bytes:
    return world.tx("balances.transfer", dest=world.account("bob"), amount=7)


def forged(tx: bytes) -> bytes:
    """The same body, which its signer did not sign this way."""
    known = decode(Transaction, tx)
    flipped = bytes([known.signature[0] ^ 1]) + known.signature[1:]
    return encode(Transaction(body=known.body, signature=flipped))


def test_a_recheck_verifies_no_signature_again(
    world: Any, verified: Callable[[], int]
) -> None:
    waiting = [pay(world) for _ in range(3)]
    for _ in range(4):
        assert [world.ledger.check_tx(tx).code for tx in waiting] == [0, 0, 0]
        world.block()
    assert verified() == 3


def test_each_signature_is_verified_once_on_its_way_into_a_block(
    world: Any, verified: Callable[[], int]
) -> None:
    waiting, foreign = pay(world), pay(world)
    limits = {"max_bytes": 10**6, "max_gas": 10**6}
    assert world.ledger.check_tx(waiting).code == 0
    assert world.ledger.prepare_proposal([waiting], **limits) == (waiting,)
    assert verified() == 1
    world.ledger.require_proposal([waiting, foreign], **limits)
    assert verified() == 2
    assert [one.ok for one in world.block(waiting, foreign)] == [True, True]
    assert verified() == 2


def test_a_block_verifies_what_nobody_has_verified_before(
    world: Any, verified: Callable[[], int]
) -> None:
    """After a restart, or when blocks are fetched that others decided."""
    tx = pay(world)
    assert world.ledger.check_tx(tx).code == 0
    world.restart()
    assert world.block(tx)[0].ok
    assert verified() == 2
    assert world.block(forged(pay(world)))[0].error == "TransactionSignatureError"


def test_a_forgery_of_a_known_transaction_is_refused(world: Any) -> None:
    tx = pay(world)
    refusal = CODES["TransactionSignatureError"]
    assert world.ledger.check_tx(tx).code == 0
    world.block()
    for _ in range(2):
        assert world.ledger.check_tx(forged(tx)).code == refusal
    assert world.block(forged(tx))[0].code == refusal
    assert world.ledger.check_tx(tx).code == 0


def test_a_known_transaction_is_judged_by_the_state_again(world: Any) -> None:
    tx = pay(world)
    assert world.ledger.check_tx(tx).code == 0
    world.block(tx)
    assert world.ledger.check_tx(tx).code == CODES["NonceError"]


def test_what_is_refused_is_not_remembered(
    world: Any, verified: Callable[[], int]
) -> None:
    """Or whoever signs junk could crowd out what waits."""
    pay(world)
    ahead = pay(world)
    for known in range(1, 4):
        assert world.ledger.check_tx(ahead).code == CODES["NonceError"]
        assert verified() == known


@settings(max_examples=60)
@given(
    most=st.integers(1, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=60),
)
def test_memory_is_bounded_and_forgets_what_is_least_asked_for(
    most: int, steps: list[tuple[bool, int]]
) -> None:
    memory, model = KnownSignatures(most), list[int]()
    for notes, number in steps:
        tx = b"%d" % number
        if notes:
            if number not in model:
                model.append(number)
            memory.note(tx)
            model = model[-most:]
        else:
            assert memory.knows(tx) is (number in model)
            if number in model:
                model.remove(number)
                model.append(number)
        assert len(memory) == len(model) <= most


def test_a_full_mempool_is_rechecked_from_memory() -> None:
    waiting = [b"%d" % number for number in range(MempoolLimits().txs)]
    memory = KnownSignatures()
    for tx in waiting:
        memory.note(tx)
    assert all(memory.knows(tx) for _ in range(2) for tx in waiting)
