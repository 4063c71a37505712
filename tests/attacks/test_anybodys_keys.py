"""Under ZIP-215 everybody can sign with a key of small order: nobody may have one."""

import pytest

from sealift.base import AccountId, encode
from sealift.crypto import (
    ANYBODYS_KEYS,
    SignatureInvalidError,
    account_of,
    verify_by_account,
    verify_signature,
    verify_statement,
)
from sealift.protocol import (
    KeyEpochRecord,
    Transaction,
    TransactionBody,
    TrustedCall,
    TrustedCallBody,
    keys_key,
    seal_message,
)
from sealift.testing import Sent, World

#: R is the neutral element and s is 0: no secret takes part.
FORGED = b"\x01" + bytes(63)


def test_the_list_is_of_keys_that_everybody_can_sign_with() -> None:
    assert len(ANYBODYS_KEYS) == 14
    for key in ANYBODYS_KEYS:
        for message in (b"", b"any", b"message"):
            verify_signature(key, message, FORGED, what="a vote")
        with pytest.raises(SignatureInvalidError):
            verify_by_account(key, b"any", FORGED, what="it")
        with pytest.raises(SignatureInvalidError):
            verify_statement(key, "sealift/any/v1", b"body", FORGED)


def test_no_other_key_can_be_signed_with_so() -> None:
    """The list is complete as far as encodings of few bits go."""
    edge = 2**255 - 19
    candidates = [y | s for y in range(64) for s in (0, 1 << 255)]
    candidates += [y | s for y in range(edge - 64, 2**255) for s in (0, 1 << 255)]
    for number in candidates:
        key = number.to_bytes(32, "little")
        if key not in ANYBODYS_KEYS:
            with pytest.raises(SignatureInvalidError):
                verify_signature(key, b"any", FORGED, what="a vote")
    with pytest.raises(SignatureInvalidError):
        verify_signature(account_of(b"s" * 32), b"any", FORGED, what="a vote")


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
def test_what_was_sent_to_the_zero_account_stays_there(
    world: World, key: bytes
) -> None:
    """On L1 and inside the shard; the zero account is of small order too."""
    nobody, chain = AccountId(key), world.chain
    world.act("alice", "balances.transfer", dest=nobody, amount=1_000_000)
    call = world.user("alice").call("balances.transfer", dest=nobody, amount=7)
    world.blocks(3)
    assert call.receipt().outcome == "ok"

    body = TransactionBody(
        chain_id=chain.chain_id,
        signer=nobody,
        nonce=0,
        call="balances.transfer",
        args=encode([world.account("bob"), 10]),
        valid_until=world.height + 10,
    )
    tx = encode(Transaction(body=body, signature=FORGED))
    theft = Sent(tx=tx, signer=nobody, call=body.call)
    chain.pending.append(theft)
    world.block()
    assert theft.refusal == "TransactionSignatureError"

    record = chain.read(KeyEpochRecord, keys_key(world.shard, 0))
    assert record is not None
    inner = TrustedCallBody(
        chain_id=chain.chain_id,
        shard=world.shard,
        signer=nobody,
        nonce=0,
        call="balances.transfer",
        args=encode([world.account("bob"), 7]),
        valid_until=world.height + 10,
        reply_key=b"r" * 32,
    )
    forged = TrustedCall(body=inner, signature=FORGED)
    sealed = seal_message(forged, shielding_key=record.statement.shielding_key, epoch=0)
    world.carry(world.shard, encode(sealed))
    world.blocks(3)
    bob = world.user("bob").ask("balances.free")
    assert bob == 1000
