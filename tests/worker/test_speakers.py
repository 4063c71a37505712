"""Who speaks for a shard, as blocks of L1 tell it."""

from doubles import SHARD

from sealift.base import (
    AccountId,
    Generation,
    Height,
    Nonce,
    ShardId,
    StateRoot,
    encode,
)
from sealift.protocol import Confirmation, Transaction, TransactionBody
from sealift.relay import TxResult
from sealift.worker._speakers import CONFIRM, KEPT, Speakers


def who(number: int) -> AccountId:
    return AccountId(bytes([number]) * 32)


def confirms(number: int, *, shard: ShardId = SHARD, call: str = CONFIRM) -> bytes:
    said = Confirmation(
        chain_id="test",
        shard=shard,
        generation=Generation(0),
        first=Height(1),
        last=Height(2),
        prev_root=StateRoot(bytes(32)),
        root=StateRoot(bytes(32)),
        receipts_root=bytes(32),
        effects_root=bytes(32),
        signing_key=who(number),
    )
    body = TransactionBody(
        chain_id="test",
        signer=who(99),
        nonce=Nonce(0),
        call=call,
        args=encode((said, bytes(64), ())),
        valid_until=Height(9),
    )
    return encode(Transaction(body=body, signature=bytes(64)))


OK, FAILED = TxResult(code=0), TxResult(code=1)


def test_who_spoke_last_comes_first_and_once() -> None:
    speakers = Speakers(SHARD)
    speakers.note([confirms(1), confirms(2)], [OK, OK])
    speakers.note([confirms(1)], [OK])
    assert speakers.newest() == (who(1), who(2))


def test_only_what_l1_took_of_this_shard_counts() -> None:
    speakers = Speakers(SHARD)
    other = ShardId(b"o" * 32)
    txs = [confirms(1), confirms(2, shard=other), confirms(3, call="a.b"), b"nonsense"]
    speakers.note(txs, [FAILED, OK, OK, OK])
    assert speakers.newest() == ()


def test_not_more_are_remembered_than_may_be_asked() -> None:
    speakers = Speakers(SHARD)
    for number in range(KEPT + 3):
        speakers.note([confirms(number)], [OK])
    assert speakers.newest() == tuple(who(n) for n in reversed(range(3, KEPT + 3)))
