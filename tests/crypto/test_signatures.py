"""Ed25519 by the ZIP-215 rule, RSA as SIGSTRUCT wants it, domains, hashes."""

import hashlib
import hmac
from base64 import b64encode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.crypto import (
    RsaKeyError,
    SignatureInvalidError,
    account_of,
    constant_time_equal,
    hkdf,
    hmac_sha256,
    keyed_hash,
    rsa_generate,
    rsa_public_modulus,
    rsa_sign_pkcs1_sha256,
    rsa_verify,
    sha256,
    sign,
    sign_statement,
    statement_preimage,
    system_entropy,
    verify_signature,
    verify_statement,
)

SECRET = bytes(range(32))
PUBLIC = account_of(SECRET)
ORDER = 2**252 + 27742317777372353535851937790883648493
MODEST = settings(max_examples=60, deadline=None)

# RFC 8032 §7.1, TEST 1 to 3: secret, public, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33b"
            "acc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e1599"
            "6e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    data, seed = bytes.fromhex(message), bytes.fromhex(secret)
    assert account_of(seed).hex() == public
    assert sign(seed, data).hex() == signature
    verify_signature(bytes.fromhex(public), data, sign(seed, data), what="it")


@MODEST
@given(data=st.binary(max_size=100), at=st.integers(0, 63), bit=st.integers(0, 7))
def test_an_altered_signature(data: bytes, at: int, bit: int) -> None:
    signature = bytearray(sign(SECRET, data))
    signature[at] ^= 1 << bit
    with pytest.raises(SignatureInvalidError):
        verify_signature(PUBLIC, data, bytes(signature), what="the vote")


def test_other_data_and_other_keys() -> None:
    signature = sign(SECRET, b"data")
    for public, data in ((PUBLIC, b"datA"), (account_of(bytes(32)), b"data")):
        with pytest.raises(SignatureInvalidError):
            verify_signature(public, data, signature, what="the vote")


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_keys_of_another_length(size: int) -> None:
    with pytest.raises(SignatureInvalidError):
        verify_signature(bytes(size), b"", bytes(64), what="the vote")


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_signatures_of_another_length(size: int) -> None:
    with pytest.raises(SignatureInvalidError):
        verify_signature(PUBLIC, b"", bytes(size), what="the vote")


@given(public=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_any_bytes_are_verified_or_refused(public: bytes, signature: bytes) -> None:
    with pytest.raises(SignatureInvalidError):
        verify_signature(public, b"data", signature, what="it")


def test_zip_215_accepts_what_cometbft_accepts_and_openssl_refuses() -> None:
    """A key and R of small order: valid for every message under ZIP-215."""
    small = bytes([1]) + bytes(31)  # the neutral element
    signature = small + bytes(32)  # s = 0
    verify_signature(small, b"any message", signature, what="a vote")
    # y = 1 with the sign bit set: non-canonical, accepted under ZIP-215 alone.
    odd = bytes([1]) + bytes(30) + b"\x80"
    verify_signature(odd, b"any message", odd + bytes(32), what="a vote")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(odd).verify(odd + bytes(32), b"any message")


def test_a_scalar_that_is_not_reduced_is_refused() -> None:
    """Otherwise every signature would have a second form."""
    good = sign(SECRET, b"data")
    wrapped = int.from_bytes(good[32:], "little") + ORDER
    with pytest.raises(SignatureInvalidError):
        verify_signature(
            PUBLIC, b"data", good[:32] + wrapped.to_bytes(32, "little"), what="it"
        )


# --- statements ---


def test_the_same_body_under_another_domain() -> None:
    signature = sign_statement(SECRET, "sealift/a/v1", b"body")
    verify_statement(PUBLIC, "sealift/a/v1", b"body", signature)
    for domain, body in (
        ("sealift/a/v2", b"body"),
        ("sealift/b/v1", b"body"),
        ("", b"sealift/a/v1\x00body"),
        ("sealift/a/v1", b"\x00body"),
    ):
        with pytest.raises(SignatureInvalidError):
            verify_statement(PUBLIC, domain, body, signature)


@given(
    one=st.tuples(st.text("abc/", max_size=4), st.binary(max_size=4)),
    two=st.tuples(st.text("abc/", max_size=4), st.binary(max_size=4)),
)
def test_no_two_preimages_coincide(
    one: tuple[str, bytes], two: tuple[str, bytes]
) -> None:
    assert (statement_preimage(*one) == statement_preimage(*two)) == (one == two)


# --- RSA ---


@pytest.fixture(scope="module")
def vendor() -> bytes:
    return rsa_generate()


def test_rsa_round_trip(vendor: bytes) -> None:
    signature = rsa_sign_pkcs1_sha256(vendor, b"data")
    assert len(signature) == 384
    assert signature == rsa_sign_pkcs1_sha256(vendor, b"data")
    modulus = rsa_public_modulus(vendor)
    assert modulus.bit_length() == 3072
    rsa_verify(modulus, b"data", signature, what="the SIGSTRUCT")


def test_rsa_altered(vendor: bytes) -> None:
    modulus = rsa_public_modulus(vendor)
    good = rsa_sign_pkcs1_sha256(vendor, b"data")
    cases = [
        (modulus, b"datA", good),
        (modulus + 2, b"data", good),
        (modulus, b"data", good[:-1] + bytes([good[-1] ^ 1])),
        (modulus, b"data", good[:-1]),
        (modulus, b"data", b"\x00" + good),
        (modulus, b"data", b""),
        (modulus, b"data", bytes(384)),
        (modulus, b"data", b"\xff" * 384),
        (modulus >> 1024, b"data", good),
        (0, b"data", good),
        (1, b"data", good),
        (-modulus, b"data", good),
        (2**3071, b"data", good),
    ]
    for number, data, signature in cases:
        with pytest.raises(SignatureInvalidError):
            rsa_verify(number, data, signature, what="the SIGSTRUCT")


def test_a_signature_with_exponent_3_forged_by_a_cube_root(vendor: bytes) -> None:
    """Bleichenbacher 2006: padding with garbage behind the hash."""
    prefix = bytes.fromhex("3031300d060960864801650304020105000420")
    block = b"\x00\x01" + b"\xff" * 8 + b"\x00" + prefix + sha256(b"data")
    wanted = int.from_bytes(block.ljust(384, b"\xff"), "big")
    low, high = 0, 1 << 1024
    while low < high:  # the integer cube root, from above
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= wanted else (low, middle - 1)
    forged = low.to_bytes(384, "big")
    assert (low**3).to_bytes(384, "big").startswith(block)
    with pytest.raises(SignatureInvalidError):
        rsa_verify(rsa_public_modulus(vendor), b"data", forged, what="the SIGSTRUCT")


def pem(key: object, secret: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)  # type: ignore[attr-defined]


def test_vendor_keys_of_other_kinds(vendor: bytes) -> None:
    others = [
        b"",
        b"not a key",
        vendor[:200],
        pem(rsa.generate_private_key(65537, 3072)),
        pem(rsa.generate_private_key(3, 2048)),
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(ec.generate_private_key(ec.SECP256R1()), b"password"),
        b"-----BEGIN PRIVATE KEY-----\n"
        + b64encode(bytes.fromhex("3012020100300706052a0304050604046b657973"))
        + b"\n-----END PRIVATE KEY-----\n",
    ]
    for other in others:
        with pytest.raises(RsaKeyError):
            rsa_public_modulus(other)
        with pytest.raises(RsaKeyError):
            rsa_sign_pkcs1_sha256(other, b"data")


# --- hashes ---


@given(key=st.binary(min_size=1, max_size=64), data=st.binary(max_size=100))
def test_hashes_are_the_standard_ones(key: bytes, data: bytes) -> None:
    assert sha256(data) == hashlib.sha256(data).digest()
    assert hmac_sha256(key, data) == hmac.new(key, data, "sha256").digest()
    assert keyed_hash(key, data, size=16) == (
        hashlib.blake2b(data, digest_size=16, key=key).digest()
    )


def test_rfc_5869_case_1() -> None:
    okm = hkdf(
        b"\x0b" * 22,
        info=bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        salt=bytes.fromhex("000102030405060708090a0b0c"),
        size=42,
    )
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887"
        "185865"
    )


def test_keys_for_other_purposes_differ() -> None:
    assert hkdf(SECRET, info=b"a") != hkdf(SECRET, info=b"b")
    assert hkdf(SECRET, info=b"a") != hkdf(SECRET, info=b"a", salt=b"s")
    assert len(hkdf(SECRET, info=b"a", size=44)) == 44


def test_equality() -> None:
    assert constant_time_equal(b"ab", b"ab")
    assert not constant_time_equal(b"ab", b"ac")
    assert not constant_time_equal(b"ab", b"abc")
    assert not constant_time_equal(b"", b"a")


def test_entropy_gives_what_was_asked_for_and_never_twice() -> None:
    assert len(system_entropy(40)) == 40
    assert system_entropy(32) != system_entropy(32)
