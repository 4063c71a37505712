"""Envelopes of strangers, forgers and the confused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import Epoch, InvariantError, SealiftError, decode, encode
from sealift.crypto import (
    HpkeError,
    HpkeSuite,
    SignatureInvalidError,
    account_of,
    hpke_generate,
    hpke_seal,
    sha256,
)
from sealift.protocol import (
    Envelope,
    Getter,
    GetterBody,
    TrustedCall,
    TrustedCallBody,
    call_info,
    seal_message,
)
from sealift.stf import (
    MAX_ENVELOPE_BYTES,
    EnvelopeError,
    OpenedCall,
    RefusedCall,
    UnknownEpochError,
    UnreadableCallError,
    VerifiedGetter,
    WrongShardError,
    open_and_verify,
    open_and_verify_getter,
    open_for_audit,
    verify_opened,
)

KEYS = hpke_generate(HpkeSuite.X25519, lambda size: b"k" * size)
SHARD = b"s" * 32


def seal_plain(world: Any, plain: bytes, kind: str = "TrustedCall") -> bytes:
    info = call_info(kind, "test-chain", SHARD, 3)
    sealed = hpke_seal(HpkeSuite.X25519, world.keys.public, plain, info=info)
    return encode(Envelope(epoch=3, ciphertext=sealed))


def padded(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data + bytes(512 - 4 - len(data))


def refusal(world: Any, raw: bytes) -> RefusedCall:
    (item,) = world.open(raw)
    assert isinstance(item, RefusedCall)
    assert item.envelope == sha256(raw)
    return item


def test_a_good_call_opens_and_knows_its_names(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    raw = world.seal(world.alice, body)
    (item,) = world.open(raw)
    assert isinstance(item, OpenedCall)
    assert (item.envelope, item.call_id, item.body) == (
        sha256(raw),
        body.call_id(),
        body,
    )


def test_an_opened_call_cannot_be_made_by_hand(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    with pytest.raises(InvariantError):
        OpenedCall(
            envelope=b"e" * 32, call_id=body.call_id(), body=body, made_by=object()
        )
    getter = world.getter(world.alice, "balances.free").body
    with pytest.raises(InvariantError):
        VerifiedGetter(body=getter, made_by=object())


def test_a_retired_epoch_is_refused_by_name(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    item = refusal(world, world.seal(world.alice, body, epoch=2))
    assert (item.code, item.reply_key) == (UnknownEpochError.code, None)


def test_a_call_relabelled_to_another_epoch_does_not_open(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    call = TrustedCall(body=body, signature=body.sign(world.alice.secret))
    sealed = seal_message(call, shielding_key=world.keys.public, epoch=2)
    item = refusal(world, encode(Envelope(epoch=3, ciphertext=sealed.ciphertext)))
    assert item.code == HpkeError.code


def test_an_altered_ciphertext_does_not_open(world: Any) -> None:
    raw = bytearray(
        world.sealed(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    )
    raw[-1] ^= 1
    assert refusal(world, bytes(raw)).code == HpkeError.code


def test_a_call_for_another_shard_or_chain_is_refused_and_may_be_told(
    world: Any,
) -> None:
    for place in ({"shard": b"x" * 32}, {"chain_id": "other"}):
        body = world.body(
            world.alice, "balances.transfer", dest=world.bob.id, amount=1, **place
        )
        inner = TrustedCall(body=body, signature=body.sign(world.alice.secret))
        # sealed for us by somebody who opened it elsewhere
        item = refusal(world, seal_plain(world, padded(encode(inner))))
        assert (item.code, item.reply_key) == (WrongShardError.code, body.reply_key)


def test_a_call_signed_by_another_is_refused(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    item = refusal(world, world.seal(world.bob, body))
    assert item.code == SignatureInvalidError.code
    assert item.call_id == body.call_id()


def test_a_getter_sealed_as_a_call_is_unreadable(world: Any) -> None:
    body = world.getter(world.alice, "balances.free").body
    getter = Getter(body=body, signature=body.sign(world.alice.secret))
    raw = seal_plain(world, padded(encode(getter)))
    assert refusal(world, raw).code == UnreadableCallError.code


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"short",
        bytes(512),
        padded(b"\xff" * 20),
        padded(b"\x91" * 400),  # nested deep
        padded(encode(["TrustedCall"])) + b"x",
        padded(encode(["TrustedCall"]))[:-1] + b"x",
    ],
)
def test_whatever_is_no_call_has_one_name(world: Any, plain: bytes) -> None:
    assert refusal(world, seal_plain(world, plain)).code == UnreadableCallError.code


def test_a_call_with_fields_appended_is_not_canonical(world: Any) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    inner = encode(TrustedCall(body=body, signature=body.sign(world.alice.secret)))
    longer = bytes([inner[0] + 1]) + inner[1:] + b"\x00"
    raw = seal_plain(world, padded(longer))
    assert refusal(world, raw).code == UnreadableCallError.code


def test_an_oversized_envelope_is_no_envelope(world: Any) -> None:
    raw = encode(Envelope(epoch=3, ciphertext=bytes(MAX_ENVELOPE_BYTES)))
    assert refusal(world, raw).code == EnvelopeError.code


def test_what_an_envelope_comes_to_does_not_depend_on_the_stack(world: Any) -> None:
    def opened(raw: bytes, frames: int) -> type:
        if frames:
            return opened(raw, frames - 1)
        (item,) = world.open(raw)
        return type(item)

    good = world.sealed(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    for depth, kind in ((1, OpenedCall), (500, RefusedCall), (900, RefusedCall)):
        appended = b"\x91" * depth + b"\xc0"
        raw = bytes([good[0] + 1]) + good[1:] + appended
        assert {opened(raw, frames) for frames in (0, 300)} == {kind}, depth


def test_one_bad_call_leaves_the_others_alone(world: Any) -> None:
    good = world.sealed(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    items = world.open(b"", good, b"junk", good)
    assert [type(item) for item in items] == [
        RefusedCall,
        OpenedCall,
        RefusedCall,
        OpenedCall,
    ]


@given(order=st.lists(st.integers(0, 7), max_size=12))
@settings(max_examples=50, deadline=None)
def test_what_an_envelope_comes_to_does_not_depend_on_its_neighbours(
    order: list[int],
) -> None:
    """One that leaves at any step or at none, before and behind any others."""
    place: dict[str, Any] = {"chain_id": "test-chain", "shard": SHARD}
    held: dict[str, Any] = {"keys": {2: KEYS.secret, 3: KEYS.secret}, "accepted": (3,)}
    alone = [open_and_verify([raw], **held, **place)[0] for raw in _EVERY_KIND]
    together = open_and_verify([_EVERY_KIND[n] for n in order], **held, **place)
    assert together == [alone[n] for n in order]


def _every_kind() -> list[bytes]:
    def sealed(body: TrustedCallBody, signature: bytes, epoch: int = 3) -> bytes:
        call = TrustedCall(body=body, signature=signature)
        info = call_info("TrustedCall", "test-chain", SHARD, epoch)
        plain = padded(encode(call))
        ciphertext = hpke_seal(HpkeSuite.X25519, KEYS.public, plain, info=info)
        return encode(Envelope(epoch=Epoch(epoch), ciphertext=ciphertext))

    def body(nonce: int, **changes: Any) -> TrustedCallBody:
        fields: dict[str, Any] = {
            "chain_id": "test-chain",
            "shard": SHARD,
            "signer": account_of(b"a" * 32),
            "nonce": nonce,
            "call": "some.call",
            "args": b"",
            "valid_until": 9,
            "reply_key": sha256(b"%d" % nonce),
        }
        return TrustedCallBody(**(fields | changes))

    good, other = body(0), body(1)
    elsewhere = body(2, shard=b"x" * 32)
    cut = sealed(good, good.sign(b"a" * 32))[:-1]
    return [
        sealed(good, good.sign(b"a" * 32)),
        sealed(other, other.sign(b"a" * 32)),
        b"junk",
        encode(Envelope(epoch=Epoch(9), ciphertext=b"of a later epoch")),
        sealed(body(3), body(3).sign(b"a" * 32), epoch=2),
        encode(Envelope(epoch=Epoch(3), ciphertext=cut)),
        sealed(elsewhere, elsewhere.sign(b"a" * 32)),
        sealed(body(4), body(4).sign(b"b" * 32)),
    ]


_EVERY_KIND = _every_kind()


def test_these_are_of_every_kind() -> None:
    held: dict[str, Any] = {"keys": {2: KEYS.secret, 3: KEYS.secret}, "accepted": (3,)}
    items = open_and_verify(_EVERY_KIND, chain_id="test-chain", shard=SHARD, **held)
    assert [getattr(item, "code", "ok") for item in items] == [
        "ok",
        "ok",
        "EnvelopeError",
        "UnknownEpochError",
        "KeyEpochExpiredError",
        "HpkeError",
        "WrongShardError",
        "SignatureInvalidError",
    ]


@given(raw=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_an_item(raw: bytes) -> None:
    (item,) = open_and_verify([raw], keys={3: KEYS.secret}, chain_id="c", shard=SHARD)
    assert isinstance(item, RefusedCall)
    assert item.code in {"EnvelopeError", "UnknownEpochError", "HpkeError"}


def test_who_holds_no_key_comes_to_the_same_items(world: Any) -> None:
    """An audit: the keys' holder opens, former code judges what is in it."""

    def transfer() -> bytes:
        call = {"dest": world.bob.id, "amount": 1}
        return world.sealed(world.alice, "balances.transfer", **call)  # type: ignore[no-any-return]

    good = transfer()
    elsewhere = seal_plain(world, b"", kind="Getter")
    envelope = decode(Envelope, good)
    envelopes = [
        good,
        b"junk",
        good[:-1],
        elsewhere,
        seal_plain(world, padded(b"no call")),
        seal_plain(world, b"not padded"),
        *(encode(Envelope(epoch=n, ciphertext=envelope.ciphertext)) for n in range(6)),
    ]
    place = {"chain_id": "test-chain", "shard": SHARD}
    for accepted in ((3,), (3, 4), (4,), (2, 3)):
        keys = {3: world.keys.secret, 4: KEYS.secret, 2: KEYS.secret}
        real = open_and_verify(envelopes, keys=keys, accepted=accepted, **place)
        given = [(raw, open_for_audit(raw, keys=keys, **place)) for raw in envelopes]
        assert verify_opened(given, accepted=accepted, **place) == real, accepted
    assert len({getattr(item, "code", "ok") for item in real}) > 4


@given(raw=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_opened_for_an_audit(raw: bytes) -> None:
    place: Any = {"chain_id": "c", "shard": SHARD}
    plain = open_for_audit(raw, keys={3: KEYS.secret}, **place)
    assert plain is None
    (item,) = verify_opened([(raw, plain)], accepted=(3,), **place)
    (real,) = open_and_verify([raw], keys={3: KEYS.secret}, accepted=(3,), **place)
    assert item == real
    (odd,) = verify_opened([(raw, raw)], accepted=(3,), **place)
    assert isinstance(odd, RefusedCall)


@given(plain=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_plaintext_gives_an_item(plain: bytes) -> None:
    info = call_info("TrustedCall", "c", SHARD, 3)
    for content in (plain, padded(plain)):
        sealed = hpke_seal(HpkeSuite.X25519, KEYS.public, content, info=info)
        raw = encode(Envelope(epoch=3, ciphertext=sealed))
        (item,) = open_and_verify(
            [raw], keys={3: KEYS.secret}, chain_id="c", shard=SHARD
        )
        assert isinstance(item, RefusedCall)
        assert item.code == UnreadableCallError.code


def open_getter(world: Any, raw: bytes) -> VerifiedGetter:
    return open_and_verify_getter(
        raw, keys={3: world.keys.secret}, chain_id="test-chain", shard=SHARD
    )


def getter_body(world: Any, **fields: Any) -> GetterBody:
    return GetterBody(
        **{
            "chain_id": "test-chain",
            "shard": SHARD,
            "signer": world.alice.id,
            "getter": "balances.free",
            "args": encode([]),
            "min_height": 0,
            "valid_until": 20,
            "reply_key": b"g" * 32,
            **fields,
        }
    )


def test_getters_are_refused_by_the_names_of_their_steps(world: Any) -> None:
    def sealed(body: GetterBody, secret: bytes = world.alice.secret) -> bytes:
        message = Getter(body=body, signature=body.sign(secret))
        return seal_plain(world, padded(encode(message)), "Getter")

    with pytest.raises(EnvelopeError):
        open_getter(world, b"")
    with pytest.raises(UnknownEpochError):
        open_getter(world, encode(Envelope(epoch=9, ciphertext=b"")))
    with pytest.raises(HpkeError):
        open_getter(world, encode(Envelope(epoch=3, ciphertext=b"x" * 80)))
    with pytest.raises(UnreadableCallError):
        open_getter(world, seal_plain(world, padded(b"\xff"), "Getter"))
    with pytest.raises(WrongShardError):
        open_getter(world, sealed(getter_body(world, chain_id="other")))
    with pytest.raises(SignatureInvalidError):
        open_getter(world, sealed(getter_body(world), world.bob.secret))
    assert open_getter(world, sealed(getter_body(world))).reader == world.alice.id


@given(raw=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_refused_getter(raw: bytes) -> None:
    with pytest.raises(SealiftError):
        open_and_verify_getter(raw, keys={3: KEYS.secret}, chain_id="c", shard=SHARD)
