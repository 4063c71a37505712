"""A SIGSTRUCT that is forged, cut, or made for other code is refused."""

import datetime as dt
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import InvariantError
from sealift.bundle import (
    Bundle,
    SigstructError,
    VerifiedBundle,
    VerifiedSigstruct,
    attach_signature,
    attach_sigstruct,
    encode_bundle,
    make_tbs,
    measure,
    parse_bundle,
    parse_sigstruct,
    sign_sigstruct,
    sigstruct_tbs,
    verify_bundle,
    verify_sigstruct,
)
from sealift.crypto import (
    RsaKeyError,
    SignatureInvalidError,
    rsa_generate,
    rsa_public_modulus,
    rsa_sign_pkcs1_sha256,
    rsa_verify,
)

DATE = dt.date(2026, 11, 23)
MEASURED = measure({"a": b"b"})


@pytest.fixture(scope="module")
def sigstruct(vendor: bytes) -> bytes:
    return sign_sigstruct(
        make_tbs(MEASURED, isv_prod_id=7, isv_svn=3, date=DATE), vendor
    )


def test_fields_stand_where_sgx_wants_them(sigstruct: bytes, vendor: bytes) -> None:
    modulus = rsa_public_modulus(vendor)
    assert len(sigstruct) == 1808
    assert sigstruct[0:16].hex() == "06000000e10000000000010000000000"
    assert sigstruct[20:24].hex() == "23112620"
    assert sigstruct[24:40].hex() == "01010000600000006000000001000000"
    assert sigstruct[128:512] == modulus.to_bytes(384, "little")
    assert sigstruct[512:516] == b"\x03\0\0\0"
    assert sigstruct[928:936] == b"\x04" + bytes(7)
    assert sigstruct[944] & 0x2, "DEBUG is masked in, and zero"
    assert sigstruct[960:992] == MEASURED.mrenclave
    assert sigstruct[1024:1028] == b"\x07\0\x03\0"
    s = int.from_bytes(sigstruct[516:900], "little")
    q1 = int.from_bytes(sigstruct[1040:1424], "little")
    q2 = int.from_bytes(sigstruct[1424:1808], "little")
    # what SGX computes with Q1 and Q2: s**3 mod n without a division
    assert s * (s * s - q1 * modulus) - q2 * modulus == pow(s, 3, modulus)


def test_it_tells_who_signed_what(sigstruct: bytes, vendor: bytes) -> None:
    verified = verify_sigstruct(sigstruct)
    modulus = rsa_public_modulus(vendor).to_bytes(384, "little")
    assert verified.mrenclave == MEASURED.mrenclave
    assert verified.mrsigner == hashlib.sha256(modulus).digest()
    assert (verified.isv_prod_id, verified.isv_svn, verified.date) == (7, 3, DATE)
    assert verified.attributes == (4, 3)
    assert parse_sigstruct(sigstruct).mrsigner == verified.mrsigner


def test_signing_is_deterministic(sigstruct: bytes, vendor: bytes) -> None:
    assert sign_sigstruct(sigstruct_tbs(sigstruct), vendor) == sigstruct


@settings(max_examples=200)
@given(position=st.integers(0, 1807), flip=st.integers(1, 255))
def test_any_changed_byte_is_refused(
    sigstruct: bytes, position: int, flip: int
) -> None:
    bad = bytearray(sigstruct)
    bad[position] ^= flip
    with pytest.raises(SigstructError):
        verify_sigstruct(bytes(bad))


@given(st.binary(max_size=64) | st.binary(min_size=1808, max_size=1808))
def test_any_bytes_are_a_sigstruct_or_refused(data: bytes) -> None:
    with pytest.raises(SigstructError):
        verify_sigstruct(data)


def test_another_vendors_modulus_is_refused(sigstruct: bytes) -> None:
    other = rsa_public_modulus(rsa_generate())
    with pytest.raises(SigstructError):
        attach_signature(
            sigstruct_tbs(sigstruct),
            other,
            int.from_bytes(sigstruct[516:900], "little").to_bytes(384, "big"),
        )


def test_a_signature_over_a_date_that_is_none_is_refused(vendor: bytes) -> None:
    tbs = bytearray(make_tbs(MEASURED, isv_prod_id=1, isv_svn=1, date=DATE))
    tbs[21] = 0x13  # month 13
    with pytest.raises(SigstructError, match="date"):
        sign_sigstruct(bytes(tbs), vendor)


@pytest.mark.parametrize("modulus", [0, 1, 4, 1 << 3072])
def test_a_modulus_that_is_none_is_refused(sigstruct: bytes, modulus: int) -> None:
    with pytest.raises(SigstructError):
        attach_signature(sigstruct_tbs(sigstruct), modulus, bytes(384))


# --- offline ---


def test_offline_signing_round_trip(
    plain: Callable[..., Bundle], vendor: bytes
) -> None:
    """build → tbs → (elsewhere) sign → attach → run: as with the key at hand."""
    bundle = parse_bundle(encode_bundle(plain()))
    tbs = make_tbs(measure(bundle.files), isv_prod_id=7, isv_svn=3, date=DATE)
    elsewhere = rsa_sign_pkcs1_sha256(vendor, tbs)
    signed = attach_sigstruct(
        bundle, attach_signature(tbs, rsa_public_modulus(vendor), elsewhere)
    )
    assert signed.sigstruct == sign_sigstruct(tbs, vendor)
    again = verify_bundle(parse_bundle(encode_bundle(signed)))
    assert again.fingerprint == measure(bundle.files).mrenclave


def test_stock_openssl_can_sign_offline(
    vendor: bytes, tmp_path: Path, program: Callable[[str], str]
) -> None:
    tbs = make_tbs(MEASURED, isv_prod_id=7, isv_svn=3, date=DATE)
    (tmp_path / "key.pem").write_bytes(vendor)
    (tmp_path / "tbs").write_bytes(tbs)
    openssl = program("openssl")
    command = [openssl, "dgst", "-sha256", "-sign", "key.pem", "-out", "sig", "tbs"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    signature = (tmp_path / "sig").read_bytes()
    data = attach_signature(tbs, rsa_public_modulus(vendor), signature)
    assert verify_sigstruct(data).mrenclave == MEASURED.mrenclave


# --- a SIGSTRUCT of something else ---


def test_an_unsigned_bundle_is_not_verified(plain: Callable[..., Bundle]) -> None:
    with pytest.raises(SigstructError, match="not signed"):
        verify_bundle(plain())


def test_sigstruct_of_another_measurement_is_refused(
    plain: Callable[..., Bundle], sigstruct: bytes
) -> None:
    with pytest.raises(SigstructError, match="other content"):
        attach_sigstruct(plain(), sigstruct)


@pytest.mark.parametrize(("prod_id", "svn"), [(8, 3), (7, 4)])
def test_sigstruct_of_another_product_or_version_is_refused(
    plain: Callable[..., Bundle], vendor: bytes, prod_id: int, svn: int
) -> None:
    bundle = plain()
    tbs = make_tbs(measure(bundle.files), isv_prod_id=prod_id, isv_svn=svn, date=DATE)
    with pytest.raises(SigstructError, match="another product"):
        attach_sigstruct(bundle, sign_sigstruct(tbs, vendor))


def test_verified_types_cannot_be_made_elsewhere(signed: Bundle) -> None:
    verified = verify_bundle(signed)
    with pytest.raises(InvariantError):
        VerifiedBundle(
            bundle=signed,
            measurement=verified.measurement,
            sigstruct=verified.sigstruct,
            made_by=None,
        )
    fields = {
        name: getattr(verified.sigstruct, name)
        for name in VerifiedSigstruct.__slots__
        if name != "made_by"
    }
    with pytest.raises(InvariantError):
        VerifiedSigstruct(**fields, made_by=object())


# --- the RSA door ---


@pytest.mark.parametrize(("exponent", "bits"), [(65537, 3072), (3, 2048)])
def test_a_key_that_sgx_does_not_take_is_refused(exponent: int, bits: int) -> None:
    key = generate_private_key(public_exponent=exponent, key_size=bits)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(RsaKeyError, match="another kind"):
        rsa_public_modulus(pem)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PRIVATE KEY-----", b"\0\xff"])
def test_what_is_no_key_is_refused(pem: bytes) -> None:
    with pytest.raises(RsaKeyError, match="cannot be read"):
        rsa_sign_pkcs1_sha256(pem, b"")


def test_a_short_modulus_never_verifies(vendor: bytes) -> None:
    signature = rsa_sign_pkcs1_sha256(vendor, b"x")
    rsa_verify(rsa_public_modulus(vendor), b"x", signature, what="x")
    small = generate_private_key(public_exponent=3, key_size=2048)
    modulus = small.public_key().public_numbers().n
    for bad in (modulus, 0, -5, rsa_public_modulus(vendor) + 2):
        with pytest.raises(SignatureInvalidError):
            rsa_verify(bad, b"x", signature, what="x")


@pytest.mark.parametrize(
    ("attributes", "mask"),
    [(0x4 | 0x2, 2**64 - 1), (0x4, 2**64 - 1 - 0x2), (0x4 | 0x2, 2**64 - 1 - 0x2)],
    ids=["debug is on", "debug is left open", "both"],
)
def test_a_vendor_who_lets_the_host_start_it_in_debug_mode(
    attributes: int, mask: int, plain: Callable[..., Bundle], vendor: bytes
) -> None:
    """A genuine signature over this code, whose memory the host may then read."""
    bundle = plain()
    tbs = make_tbs(measure(bundle.files), isv_prod_id=7, isv_svn=3, date=DATE)
    # flags stand 28 bytes after the front, their mask 16 bytes after them
    flags, masks = attributes.to_bytes(8, "little"), mask.to_bytes(8, "little")
    open_tbs = tbs[:156] + flags + tbs[164:172] + masks + tbs[180:]
    assert len(open_tbs) == len(tbs)
    sigstruct = sign_sigstruct(open_tbs, vendor)
    assert verify_sigstruct(sigstruct).attributes[0] == attributes
    assert verify_sigstruct(sigstruct).attribute_mask[0] == mask
    with pytest.raises(SigstructError, match="debug mode"):
        verify_bundle(attach_sigstruct(bundle, sigstruct))
