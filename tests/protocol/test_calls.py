"""Calls, receipts and replies: sealed for one shard, padded, told apart."""

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import DecodeError, Height, NonCanonicalError, SealiftError, encode
from sealift.crypto import (
    HpkeError,
    HpkeSuite,
    SealedDataError,
    SignatureInvalidError,
    account_of,
    hpke_public,
    hpke_seal,
    sha256,
)
from sealift.protocol import (
    SIZE_CLASSES,
    CallTooLargeError,
    Envelope,
    Getter,
    GetterBody,
    GetterReply,
    PaddingError,
    Receipt,
    TrustedCall,
    TrustedCallBody,
    call_info,
    open_call,
    open_getter,
    open_receipt,
    open_reply,
    seal_message,
    seal_receipt,
    seal_receipts,
    seal_reply,
)

MODEST = settings(max_examples=60, deadline=None)
USER = sha256(b"user")
SECRET = sha256(b"shielding")
PUBLIC = hpke_public(HpkeSuite.X25519, SECRET)
SHARD, CHAIN = b"S" * 32, "chain"
REPLY_KEY = b"r" * 32
BLOCK, ENVELOPE = sha256(b"block"), sha256(b"envelope")


def call(args: bytes = b"args", **changes: Any) -> TrustedCall:
    values: dict[str, Any] = {
        "chain_id": CHAIN,
        "shard": SHARD,
        "signer": account_of(USER),
        "nonce": 1,
        "call": "balances.transfer",
        "args": args,
        "valid_until": 100,
        "reply_key": REPLY_KEY,
    }
    body = TrustedCallBody(**(values | changes))
    return TrustedCall(body=body, signature=body.sign(USER))


def getter(args: bytes = b"args") -> Getter:
    body = GetterBody(
        chain_id=CHAIN,
        shard=SHARD,
        signer=account_of(USER),
        getter="balances.mine",
        args=args,
        min_height=1,
        valid_until=100,
        reply_key=REPLY_KEY,
    )
    return Getter(body=body, signature=body.sign(USER))


def envelope(message: TrustedCall | Getter, epoch: int = 0) -> Envelope:
    return seal_message(message, shielding_key=PUBLIC, epoch=epoch)


def opened(sealed: Envelope, **changes: Any) -> TrustedCall:
    honest: dict[str, Any] = {"secret": SECRET, "chain_id": CHAIN, "shard": SHARD}
    return open_call(sealed, **(honest | changes))


# --- calls and getters ---


def test_a_call_opens_and_its_signature_holds() -> None:
    got = opened(envelope(call()))
    assert got == call()
    got.body.verify(got.body.signer, got.signature)
    assert got.body.call_id() == got.body.digest()


def test_a_getter_opens() -> None:
    sealed = envelope(getter())
    assert open_getter(sealed, secret=SECRET, chain_id=CHAIN, shard=SHARD) == getter()


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": b"X" * 32},
        {"chain_id": "other"},
        {"chain_id": CHAIN + "S"},
        {"secret": sha256(b"other")},
    ],
)
def test_a_call_for_another_shard_chain_or_key(changes: dict[str, Any]) -> None:
    with pytest.raises(HpkeError):
        opened(envelope(call()), **changes)
    with pytest.raises(HpkeError):
        open_getter(
            envelope(getter()),
            **({"secret": SECRET, "chain_id": CHAIN, "shard": SHARD} | changes),
        )


def test_a_call_under_another_epoch() -> None:
    sealed = msgspec.structs.replace(envelope(call()), epoch=1)
    with pytest.raises(HpkeError):
        opened(sealed)


def test_a_getter_is_no_call_and_a_call_no_getter() -> None:
    with pytest.raises(HpkeError):
        opened(envelope(getter()))
    with pytest.raises(HpkeError):
        open_getter(envelope(call()), secret=SECRET, chain_id=CHAIN, shard=SHARD)


def test_two_seals_of_one_call_cannot_be_linked() -> None:
    assert envelope(call()).ciphertext != envelope(call()).ciphertext


@MODEST
@given(size=st.integers(0, 70_000))
def test_ciphertexts_of_a_class_have_one_length(size: int) -> None:
    message = call(bytes(size))
    need = len(encode(message)) + 4
    if need > SIZE_CLASSES[-1]:
        with pytest.raises(CallTooLargeError):
            envelope(message)
        return
    wanted = next(each for each in SIZE_CLASSES if need <= each)
    sealed = envelope(message)
    assert len(sealed.ciphertext) == wanted + 48
    assert opened(sealed) == message


@pytest.mark.parametrize("size_class", SIZE_CLASSES)
def test_a_call_that_fills_its_class_exactly(size_class: int) -> None:
    args = size_class - 4 - len(encode(call(b"")))
    while len(encode(call(bytes(args)))) > size_class - 4:
        args -= 1
    sealed = envelope(call(bytes(args)))
    assert len(sealed.ciphertext) == size_class + 48
    assert opened(sealed).body.args == bytes(args)


def padded(data: bytes, size: int = 512) -> bytes:
    return len(data).to_bytes(4, "big") + data + bytes(size - len(data) - 4)


def sealed_plain(plain: bytes, kind: str = "TrustedCall") -> Envelope:
    info = call_info(kind, CHAIN, SHARD, 0)
    return Envelope(
        epoch=0, ciphertext=hpke_seal(HpkeSuite.X25519, PUBLIC, plain, info=info)
    )


GOOD = encode(call())


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\x00\x00",
        GOOD,
        padded(GOOD)[:-1],
        padded(GOOD) + b"\x00",
        padded(GOOD, 600),
        padded(GOOD)[:-1] + b"\x01",
        (600).to_bytes(4, "big") + bytes(508),
        b"\xff\xff\xff\xff" + bytes(508),
    ],
    ids=[
        "nothing",
        "cut length",
        "none",
        "short",
        "long",
        "between classes",
        "not zero",
        "length beyond",
        "length far beyond",
    ],
)
def test_padding_that_is_not_ours(plain: bytes) -> None:
    with pytest.raises(PaddingError):
        opened(sealed_plain(plain))


def test_a_class_larger_than_needed_still_opens_only_as_it_is() -> None:
    """Padding hides size; a caller may take more of it."""
    assert opened(sealed_plain(padded(GOOD, 1024))) == call()


def test_a_call_that_is_not_canonical() -> None:
    raw = msgspec.msgpack.decode(GOOD)
    with pytest.raises(NonCanonicalError):
        opened(sealed_plain(padded(msgspec.msgpack.encode([*raw, None]))))


def test_a_padded_message_of_another_kind() -> None:
    with pytest.raises(DecodeError):
        opened(sealed_plain(padded(encode(getter()))))


@MODEST
@given(plain=st.binary(max_size=600))
def test_any_plaintext_is_a_call_or_refused(plain: bytes) -> None:
    for data in (plain, padded(plain, 1024)):
        with pytest.raises(SealiftError):
            opened(sealed_plain(data))


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": 2},
        {"args": b"other"},
        {"call": "balances.burn"},
        {"shard": b"X" * 32},
        {"chain_id": "other"},
        {"valid_until": 101},
        {"reply_key": b"x" * 32},
        {"pin": b"p" * 32},
        {"signer": b"s" * 32},
    ],
)
def test_every_field_of_a_call_is_signed(changes: dict[str, Any]) -> None:
    good = call()
    body = msgspec.structs.replace(good.body, **changes)
    with pytest.raises(SignatureInvalidError):
        body.verify(account_of(USER), good.signature)
    assert body.call_id() != good.body.call_id()


# --- receipts ---


def receipt(**changes: Any) -> Receipt:
    values: dict[str, Any] = {
        "call_id": call().body.call_id(),
        "height": 7,
        "index": 2,
        "outcome": "ok",
        "events": (b"event",),
    }
    return Receipt(**(values | changes))


def sealed_receipt(**changes: Any) -> Any:
    return seal_receipt(
        receipt(**changes), reply_key=REPLY_KEY, envelope=ENVELOPE, block_hash=BLOCK
    )


def test_a_receipt_opens() -> None:
    got = open_receipt(sealed_receipt(), reply_key=REPLY_KEY, block_hash=BLOCK)
    assert got == receipt()


def test_every_instance_seals_a_receipt_to_the_same_bytes() -> None:
    """Otherwise their receipts roots would differ."""
    assert sealed_receipt() == sealed_receipt()
    assert sealed_receipt().leaf() == sealed_receipt().leaf()


def test_the_receipts_of_a_block_are_sealed_as_each_alone() -> None:
    """Also those beside one that fits no size class, which loses its events only."""
    small = receipt(), REPLY_KEY, ENVELOPE
    other = receipt(index=3), b"x" * 32, sha256(b"another envelope")
    large = receipt(index=4, events=(bytes(70_000),)), REPLY_KEY, ENVELOPE
    cut = receipt(index=4, events=()), REPLY_KEY, ENVELOPE
    together = seal_receipts((small, large, other), block_hash=BLOCK, height=Height(9))
    assert together == tuple(
        seal_receipt(
            one, reply_key=key, envelope=envelope, block_hash=BLOCK, height=Height(9)
        )
        for one, key, envelope in (small, cut, other)
    )


def test_a_receipt_with_another_reply_key() -> None:
    with pytest.raises(SealedDataError):
        open_receipt(sealed_receipt(), reply_key=b"x" * 32, block_hash=BLOCK)


def test_a_receipt_of_another_block() -> None:
    """A fork's receipt is not this chain's."""
    with pytest.raises(SealedDataError):
        open_receipt(sealed_receipt(), reply_key=REPLY_KEY, block_hash=sha256(b"fork"))


@pytest.mark.parametrize("changes", [{"envelope": bytes(32)}, {"index": 3}])
def test_a_receipt_moved_to_another_place(changes: dict[str, Any]) -> None:
    moved = msgspec.structs.replace(sealed_receipt(), **changes)
    with pytest.raises(SealedDataError):
        open_receipt(moved, reply_key=REPLY_KEY, block_hash=BLOCK)


def test_receipts_of_equal_calls_do_not_share_a_key() -> None:
    """Nor a nonce, which comes from the same derivation."""
    one, two = sealed_receipt(), sealed_receipt(index=3)
    assert one.sealed[:12] != two.sealed[:12]


def test_the_nonce_of_a_receipt_is_no_test_of_what_is_in_it() -> None:
    """It stands in the clear, and whoever guesses the receipt must not confirm it."""
    receipt = Receipt(call_id=sha256(b"call"), height=7, index=2, outcome="ok")
    place: dict[str, Any] = {"envelope": sha256(b"envelope"), "block_hash": BLOCK}
    one, two = (
        seal_receipt(receipt, reply_key=key * 32, **place).sealed
        for key in (b"1", b"2")
    )
    assert one[:12] != two[:12]


@pytest.mark.parametrize(
    "changes",
    [{"outcome": "InsufficientFundsError"}, {"events": ()}, {"message": "why"}],
)
def test_lengths_do_not_tell_what_became_of_a_call(changes: dict[str, Any]) -> None:
    assert len(sealed_receipt(**changes).sealed) == len(sealed_receipt().sealed)


def test_the_leaf_binds_all_of_a_sealed_receipt() -> None:
    good = sealed_receipt()
    for changes in ({"height": 8}, {"index": 3}, {"envelope": BLOCK}, {"sealed": b""}):
        assert msgspec.structs.replace(good, **changes).leaf() != good.leaf()


@given(data=st.binary(max_size=600))
def test_any_bytes_are_no_receipt(data: bytes) -> None:
    sealed = msgspec.structs.replace(sealed_receipt(), sealed=data)
    with pytest.raises(SealedDataError):
        open_receipt(sealed, reply_key=REPLY_KEY, block_hash=BLOCK)


def test_a_receipt_that_is_too_large_is_refused_by_name() -> None:
    with pytest.raises(CallTooLargeError):
        sealed_receipt(events=(bytes(70_000),))


# --- replies ---


REPLY = GetterReply(
    value=b"42",
    state_height=7,
    root=b"R" * 32,
    confirmed=True,
    head_height=8,
    head_time=1,
)


def sealed_reply() -> bytes:
    return seal_reply(REPLY, reply_key=REPLY_KEY, entropy=os.urandom)


def test_a_reply_opens_under_its_key_only() -> None:
    assert open_reply(sealed_reply(), reply_key=REPLY_KEY) == REPLY
    with pytest.raises(SealedDataError):
        open_reply(sealed_reply(), reply_key=b"x" * 32)


def test_a_reply_asked_twice_does_not_repeat_its_bytes() -> None:
    assert sealed_reply() != sealed_reply()


def test_a_receipt_is_no_reply() -> None:
    with pytest.raises(SealedDataError):
        open_reply(sealed_receipt().sealed, reply_key=REPLY_KEY)


@given(data=st.binary(max_size=600))
def test_any_bytes_are_no_reply(data: bytes) -> None:
    with pytest.raises(SealedDataError):
        open_reply(data, reply_key=REPLY_KEY)


def test_the_info_tells_kind_chain_shard_and_epoch_apart() -> None:
    infos = {
        call_info(kind, chain, shard, epoch)
        for kind in ("TrustedCall", "Getter")
        for chain in ("a", "ab")
        for shard in (b"b" * 32, b"c" * 32)
        for epoch in (0, 1)
    }
    assert len(infos) == 16
