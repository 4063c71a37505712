"""Two executions of one block must not reveal each other's receipts."""

from sealift.base import Digest
from sealift.crypto import sha256
from sealift.protocol import Receipt, SealedReceipt, open_receipt, seal_receipt

REPLY_KEY = b"r" * 32
ENVELOPE, BLOCK = sha256(b"envelope"), sha256(b"block")
_NONCE, _TAG = 12, 16


def sealed(outcome: str, events: tuple[bytes, ...] = ()) -> SealedReceipt:
    receipt = Receipt(
        call_id=Digest(bytes(32)), height=7, index=2, outcome=outcome, events=events
    )
    return seal_receipt(
        receipt, reply_key=REPLY_KEY, envelope=ENVELOPE, block_hash=BLOCK
    )


def test_the_receipts_of_a_voided_generation_and_of_its_rescuer_do_not_xor() -> None:
    """Both execute the same call in the same block, and say something else of it.

    Under one key and nonce their XOR shows whatever stands against the zeros of
    the shorter one's padding.
    """
    secret = b"the winning bid is 4,711"
    voided, rescued = sealed("UnknownCallError"), sealed("ok", (bytes(64), secret))
    assert voided.sealed[:_NONCE] != rescued.sealed[:_NONCE]
    body = slice(_NONCE, -_TAG)
    pairs = zip(voided.sealed[body], rescued.sealed[body], strict=True)
    assert secret not in bytes(a ^ b for a, b in pairs)
    for one, outcome in ((voided, "UnknownCallError"), (rescued, "ok")):
        opened = open_receipt(one, reply_key=REPLY_KEY, block_hash=BLOCK)
        assert opened.outcome == outcome
