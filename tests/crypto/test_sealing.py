"""AEAD and HPKE: altered, cut, foreign or wrongly bound bytes do not open."""

import os

import pytest
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.crypto import (
    AEAD_KEY_BYTES,
    AEAD_OVERHEAD,
    HpkeError,
    HpkeSuite,
    SealedDataError,
    hpke_generate,
    hpke_open,
    hpke_public,
    hpke_seal,
    open_sealed,
    seal,
)

MODEST = settings(max_examples=60, deadline=None)
KEY = bytes(range(AEAD_KEY_BYTES))
SUITES = list(HpkeSuite)
PUBLIC_BYTES = {HpkeSuite.X25519: 32, HpkeSuite.MLKEM768_X25519: 1216}
OVERHEAD = {HpkeSuite.X25519: 48, HpkeSuite.MLKEM768_X25519: 1136}


def sealed(plain: bytes = b"secret", context: bytes = b"context") -> bytes:
    return seal(KEY, plain, context=context, entropy=os.urandom)


def opened(data: bytes, key: bytes = KEY, context: bytes = b"context") -> bytes:
    return open_sealed(key, data, context=context, what="the thing")


# --- AEAD ---


@given(plain=st.binary(max_size=200), context=st.binary(max_size=50))
def test_what_was_sealed_opens(plain: bytes, context: bytes) -> None:
    data = sealed(plain, context)
    assert len(data) == len(plain) + AEAD_OVERHEAD
    assert opened(data, context=context) == plain


@given(at=st.integers(0, 33), bit=st.integers(0, 7))
def test_an_altered_bit(at: int, bit: int) -> None:
    data = bytearray(sealed())
    data[at] ^= 1 << bit
    with pytest.raises(SealedDataError):
        opened(bytes(data))


def test_every_cut() -> None:
    data = sealed()
    for size in range(len(data)):
        with pytest.raises(SealedDataError):
            opened(data[:size])


@pytest.mark.parametrize("more", [b"\x00", b"x" * 100])
def test_appended_bytes(more: bytes) -> None:
    with pytest.raises(SealedDataError):
        opened(sealed() + more)


@pytest.mark.parametrize("context", [b"", b"contex", b"context\x00", b"Context"])
def test_another_context(context: bytes) -> None:
    with pytest.raises(SealedDataError):
        opened(sealed(), context=context)


def test_another_key() -> None:
    with pytest.raises(SealedDataError):
        opened(sealed(), key=bytes(32))


def test_the_refusal_names_the_thing_and_shows_no_byte_of_it() -> None:
    with pytest.raises(SealedDataError, match="the thing does not open") as caught:
        opened(sealed(), key=bytes(32))
    assert caught.value.got is None


def test_a_repeated_key_does_not_repeat_the_nonce() -> None:
    assert sealed()[:12] != sealed()[:12]


def test_entropy_is_the_arguments() -> None:
    one = seal(KEY, b"x", context=b"", entropy=bytes)
    assert one[:12] == bytes(12)
    assert one == seal(KEY, b"x", context=b"", entropy=bytes)


@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SealedDataError):
        opened(data)


# --- HPKE ---


def hpke_opened(
    suite: HpkeSuite, secret: bytes, data: bytes, info: bytes = b"info"
) -> bytes:
    return hpke_open(suite, secret, data, info=info, what="the call")


@pytest.mark.parametrize("suite", SUITES)
def test_hpke_round_trip(suite: HpkeSuite) -> None:
    pair = hpke_generate(suite, os.urandom)
    data = hpke_seal(suite, pair.public, b"secret", info=b"info")
    assert hpke_opened(suite, pair.secret, data) == b"secret"
    assert len(data) == len(b"secret") + OVERHEAD[suite]
    assert len(pair.public) == PUBLIC_BYTES[suite]
    assert len(pair.secret) == 32
    assert "secret" not in repr(pair)


@pytest.mark.parametrize("suite", SUITES)
def test_two_seals_of_the_same_differ(suite: HpkeSuite) -> None:
    public = hpke_generate(suite, os.urandom).public
    one = hpke_seal(suite, public, b"secret", info=b"")
    assert one != hpke_seal(suite, public, b"secret", info=b"")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("info", [b"", b"inf", b"info\x00", b"INFO"])
def test_hpke_under_another_info(suite: HpkeSuite, info: bytes) -> None:
    pair = hpke_generate(suite, os.urandom)
    data = hpke_seal(suite, pair.public, b"secret", info=b"info")
    with pytest.raises(HpkeError):
        hpke_opened(suite, pair.secret, data, info)


@pytest.mark.parametrize("suite", SUITES)
def test_hpke_for_another_key(suite: HpkeSuite) -> None:
    pair, other = hpke_generate(suite, os.urandom), hpke_generate(suite, os.urandom)
    data = hpke_seal(suite, pair.public, b"secret", info=b"info")
    with pytest.raises(HpkeError):
        hpke_opened(suite, other.secret, data)


@pytest.mark.parametrize("suite", SUITES)
def test_hpke_of_the_other_suite(suite: HpkeSuite) -> None:
    other = next(each for each in SUITES if each is not suite)
    pair = hpke_generate(suite, os.urandom)
    data = hpke_seal(suite, pair.public, b"secret", info=b"info")
    with pytest.raises(HpkeError):
        hpke_opened(other, pair.secret, data)


@pytest.mark.parametrize("suite", SUITES)
@MODEST
@given(data=st.data())
def test_hpke_altered_or_cut(suite: HpkeSuite, data: st.DataObject) -> None:
    secret = b"s" * 32
    good = hpke_seal(suite, hpke_public(suite, secret), b"secret", info=b"info")
    at = data.draw(st.integers(0, len(good) - 1))
    altered = bytearray(good)
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    # X25519 ignores the top bit of a coordinate (RFC 7748 §5): the KEM context
    # still holds the bytes as they came, so even that does not open.
    for bad in (bytes(altered), good[:at]):
        with pytest.raises(HpkeError):
            hpke_opened(suite, secret, bad)


@pytest.mark.parametrize("suite", SUITES)
@given(garbage=st.binary(max_size=1300))
@MODEST
def test_hpke_garbage(suite: HpkeSuite, garbage: bytes) -> None:
    with pytest.raises(HpkeError):
        hpke_opened(suite, b"s" * 32, garbage)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1183, 1184, 1215, 1217])
def test_hpke_to_a_key_of_another_length(suite: HpkeSuite, size: int) -> None:
    with pytest.raises(HpkeError):
        hpke_seal(suite, b"\x05" * size, b"secret", info=b"")


def test_hpke_to_the_point_of_low_order() -> None:
    """The shared secret would be known to everybody (RFC 9180 §7.1.4)."""
    with pytest.raises(HpkeError):
        hpke_seal(HpkeSuite.X25519, bytes(32), b"secret", info=b"")
    low = hpke_public(HpkeSuite.MLKEM768_X25519, b"s" * 32)[:1184] + bytes(32)
    with pytest.raises(HpkeError):
        hpke_seal(HpkeSuite.MLKEM768_X25519, low, b"secret", info=b"")


def test_hpke_from_the_point_of_low_order() -> None:
    data = hpke_seal(
        HpkeSuite.X25519, hpke_public(HpkeSuite.X25519, KEY), b"secret", info=b"info"
    )
    with pytest.raises(HpkeError):
        hpke_opened(HpkeSuite.X25519, KEY, bytes(32) + data[32:])


@pytest.mark.parametrize("suite", SUITES)
def test_the_public_key_follows_from_the_seed_alone(suite: HpkeSuite) -> None:
    """A key epoch restored from its seed is the same on every instance."""
    assert hpke_public(suite, KEY) == hpke_public(suite, KEY)
    assert hpke_public(suite, KEY) != hpke_public(suite, bytes(32))
    pair = hpke_generate(suite, lambda size: KEY[:size])
    assert pair.secret == KEY
    assert pair.public == hpke_public(suite, KEY)


def test_the_hybrids_halves_are_not_the_plain_key() -> None:
    """The seed serves both suites without sharing a key between them."""
    hybrid = hpke_public(HpkeSuite.MLKEM768_X25519, KEY)
    assert hpke_public(HpkeSuite.X25519, KEY) not in hybrid


def test_the_suite_is_the_one_that_others_speak() -> None:
    """DHKEM(X25519), HKDF-SHA256, AES-256-GCM, opened by the library itself."""
    suite = library.Suite(
        library.KEM.X25519, library.KDF.HKDF_SHA256, library.AEAD.AES_256_GCM
    )
    data = hpke_seal(
        HpkeSuite.X25519, hpke_public(HpkeSuite.X25519, KEY), b"secret", info=b"i"
    )
    assert suite.decrypt(data, X25519PrivateKey.from_private_bytes(KEY), b"i") == (
        b"secret"
    )
