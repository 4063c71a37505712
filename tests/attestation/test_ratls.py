"""RA-TLS certificates: real ones, ours, and forged ones."""

import base64
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.attestation import (
    AttestationError,
    QuoteFormatError,
    RatlsFormatError,
    RatlsRefusedError,
    Rule,
    TlsKey,
    VerifiedPeer,
    generate_tls_key,
    make_session_certificate,
    parse_quote,
    parse_ratls_certificate,
    verify_key_binding,
    verify_ratls,
)
from sealift.base import InvariantError

NONCE, BINDING = b"n" * 32, b"b" * 32
DICE = "2.23.133.5.4.9"
GRAMINE = "0.6.9.42.840.113741.1337.6"
GRAMINE_INTENDED = "1.2.840.113741.1337.6"


def entropy(size: int) -> bytes:
    return hashlib.shake_128(b"test").digest(size)


KEY = generate_tls_key(entropy)


def real(vectors: Path, name: str) -> bytes:
    pem = (vectors / "ratls" / name).read_text()
    body = pem.split("-----BEGIN CERTIFICATE-----")[1].split("-----END")[0]
    return base64.b64decode(body)


def certificate(extensions: list[tuple[str, bytes]], key: TlsKey = KEY) -> bytes:
    """A certificate with any extensions, as an attacker would make it."""
    private: Any = load_der_private_key(key.secret, password=None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    parsed = x509.load_der_x509_certificate(
        make_session_certificate(
            key=key, nonce=NONCE, binding=BINDING, quote=lambda _: b""
        )
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(parsed.not_valid_before_utc)
        .not_valid_after(parsed.not_valid_after_utc)
    )
    for oid, value in extensions:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value),
            critical=False,
        )
    return builder.sign(private, SHA256()).public_bytes(Encoding.DER)


def claims(key: TlsKey = KEY, **changes: Any) -> dict[str, Any]:
    fields = {
        "pubkey-hash": cbor2.dumps([1, hashlib.sha256(key.public).digest()]),
        "nonce": NONCE,
        "sealift-binding": BINDING,
    }
    return {k: v for k, v in (fields | changes).items() if v is not None}


def dice(quote: Callable[[bytes], bytes], buffer: bytes) -> tuple[str, bytes]:
    report_data = hashlib.sha256(buffer).digest() + bytes(32)
    return DICE, cbor2.dumps(cbor2.CBORTag(60000, [quote(report_data), buffer]))


def refused(der: bytes, sim: Any, **changes: Any) -> frozenset[Rule]:
    arguments = {"nonce": NONCE, "binding": BINDING} | sim.arguments | changes
    with pytest.raises(RatlsRefusedError) as error:
        verify_ratls(der, **arguments)
    return error.value.rules


# --- real certificates ---


@pytest.mark.parametrize(
    ("name", "case_id"),
    [("gramine-cert.pem", "016-"), ("rats-tls-cert.pem", "018-")],
)
def test_real_certificates_bind_their_key_but_are_debug(
    name: str, case_id: str, vectors: Path, case: Any
) -> None:
    der, it = real(vectors, name), case(case_id)
    evidence = parse_ratls_certificate(der)
    assert evidence.form == "dice"
    assert evidence.quote == it.quote
    verify_key_binding(evidence)
    with pytest.raises(RatlsRefusedError) as error:
        verify_ratls(
            der,
            nonce=evidence.nonce or b"",
            binding=b"",
            **it.arguments,
        )
    assert Rule.DEBUG in error.value.rules
    assert Rule.RATLS_BINDING in error.value.rules  # nobody but Sealift has one
    assert not error.value.rules & {Rule.RATLS_KEY_HASH, Rule.RATLS_REPORT_DATA}


def test_gramines_older_extension_is_read_if_it_is_alone(
    vectors: Path, case: Any
) -> None:
    """The certificate has both; without the newer one the older counts."""
    der = real(vectors, "gramine-cert.pem")
    # same length, another (private) OID: 2.23.133.5.4.9 becomes 2.23.133.5.4.8
    blinded = der.replace(
        bytes.fromhex("0606678105050409"), bytes.fromhex("0606678105050408")
    )
    assert blinded != der
    evidence = parse_ratls_certificate(blinded)
    assert evidence.form == "gramine"
    assert evidence.quote == case("017-").quote
    assert (evidence.nonce, evidence.binding) == (None, None)
    verify_key_binding(evidence)


# --- ours ---


def test_a_session_certificate_is_verified(sim: Any) -> None:
    der = make_session_certificate(
        key=KEY, nonce=NONCE, binding=BINDING, quote=sim.quote
    )
    peer = verify_ratls(der, nonce=NONCE, binding=BINDING, **sim.arguments)
    assert peer.public_key == KEY.public
    assert (peer.nonce, peer.binding) == (NONCE, BINDING)
    assert peer.quote.mrenclave == bytes([0xAA]) * 32
    assert peer.certificate == der


def test_the_quote_is_asked_once_for_the_hash_of_the_claims(sim: Any) -> None:
    asked: list[bytes] = []

    def quote(report_data: bytes) -> bytes:
        asked.append(report_data)
        return bytes(sim.quote(report_data))

    der = make_session_certificate(key=KEY, nonce=NONCE, binding=BINDING, quote=quote)
    evidence = parse_ratls_certificate(der)
    assert asked == [hashlib.sha256(evidence.claims).digest() + bytes(32)]
    assert parse_quote(evidence.quote).report.report_data == asked[0]
    assert cbor2.loads(evidence.claims) == claims()


def test_dates_of_a_session_certificate_are_constant() -> None:
    def dates(nonce: bytes) -> tuple[Any, Any]:
        made = x509.load_der_x509_certificate(
            make_session_certificate(
                key=KEY, nonce=nonce, binding=b"", quote=lambda _: b"q"
            )
        )
        return made.not_valid_before_utc, made.not_valid_after_utc

    assert dates(b"1") == dates(b"2")


def test_a_tls_key_follows_from_its_entropy_and_hides_in_prints() -> None:
    assert generate_tls_key(entropy) == KEY
    assert generate_tls_key(bytes) != KEY
    assert KEY.secret.hex() not in repr(KEY)
    assert "secret" not in repr(KEY)


# --- forged ---


def test_a_stolen_quote_under_another_key_is_refused(sim: Any) -> None:
    """The thief keeps claims and quote, and puts in a key of his own."""
    honest = dice(sim.quote, cbor2.dumps(claims()))
    thief = generate_tls_key(lambda size: b"t" * size)
    assert refused(certificate([honest], thief), sim) == {Rule.RATLS_KEY_HASH}


def test_a_stolen_quote_with_new_claims_is_refused(sim: Any) -> None:
    thief = generate_tls_key(lambda size: b"t" * size)
    stolen = sim.quote(hashlib.sha256(cbor2.dumps(claims())).digest() + bytes(32))
    value = dice(lambda _: stolen, cbor2.dumps(claims(thief)))
    assert refused(certificate([value], thief), sim) == {Rule.RATLS_REPORT_DATA}


def test_the_second_half_of_the_report_data_is_zero(sim: Any) -> None:
    value = dice(lambda data: sim.quote(data[:32] + b"x" * 32), cbor2.dumps(claims()))
    assert refused(certificate([value]), sim) == {Rule.RATLS_REPORT_DATA}


def test_a_certificate_of_another_session_is_refused(sim: Any) -> None:
    der = make_session_certificate(
        key=KEY, nonce=NONCE, binding=BINDING, quote=sim.quote
    )
    assert refused(der, sim, nonce=b"m" * 32) == {Rule.RATLS_NONCE}
    assert refused(der, sim, binding=b"c" * 32) == {Rule.RATLS_BINDING}
    assert refused(der, sim, nonce=b"", binding=NONCE) == {
        Rule.RATLS_NONCE,
        Rule.RATLS_BINDING,
    }


@pytest.mark.parametrize("name", ["nonce", "sealift-binding"])
def test_a_certificate_without_nonce_or_binding_is_refused(name: str, sim: Any) -> None:
    value = dice(sim.quote, cbor2.dumps(claims(**{name: None})))
    for wanted in (b"", NONCE):
        rules = refused(certificate([value]), sim, nonce=wanted, binding=wanted)
        assert rules >= {Rule.RATLS_NONCE if name == "nonce" else Rule.RATLS_BINDING}


def test_the_older_format_has_no_nonce_and_opens_no_session(sim: Any) -> None:
    quote = sim.quote(hashlib.sha256(KEY.public).digest() + bytes(32))
    for oid in (GRAMINE, GRAMINE_INTENDED):
        der = certificate([(oid, quote)])
        verify_key_binding(parse_ratls_certificate(der))
        assert refused(der, sim) == {Rule.RATLS_NONCE, Rule.RATLS_BINDING}


def test_a_debug_enclave_opens_no_session(sim: Any) -> None:
    value = dice(lambda data: sim.quote(data, flags=0x07), cbor2.dumps(claims()))
    assert refused(certificate([value]), sim) == {Rule.DEBUG}


def test_a_revoked_platform_opens_no_session(sim: Any) -> None:
    der = make_session_certificate(
        key=KEY, nonce=NONCE, binding=BINDING, quote=sim.quote
    )
    sim.intel.revoke_pck(sim.pck)
    assert refused(der, sim) == {Rule.CERTIFICATE_REVOKED}


def test_no_fallback_if_the_preferred_extension_is_bad(sim: Any) -> None:
    older = (GRAMINE, sim.quote(hashlib.sha256(KEY.public).digest() + bytes(32)))
    with pytest.raises(RatlsFormatError):
        parse_ratls_certificate(certificate([(DICE, b"bad"), older]))
    wrong = dice(lambda _: sim.quote(), cbor2.dumps(claims()))
    for order in ([wrong, older], [older, wrong]):
        with pytest.raises(RatlsRefusedError):
            verify_key_binding(parse_ratls_certificate(certificate(order)))


@pytest.mark.parametrize("kind", [7, 8])
def test_longer_hashes_of_the_key_are_read(kind: int, sim: Any) -> None:
    name = {7: "sha384", 8: "sha512"}[kind]
    digest = hashlib.new(name, KEY.public).digest()
    value = dice(
        sim.quote, cbor2.dumps(claims(**{"pubkey-hash": cbor2.dumps([kind, digest])}))
    )
    verify_ratls(certificate([value]), nonce=NONCE, binding=BINDING, **sim.arguments)
    cut = cbor2.dumps(claims(**{"pubkey-hash": cbor2.dumps([kind, digest[:32]])}))
    assert refused(certificate([dice(sim.quote, cut)]), sim) == {Rule.RATLS_KEY_HASH}


GOOD = cbor2.dumps(claims())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        cbor2.dumps([b"quote", GOOD]),
        cbor2.dumps(cbor2.CBORTag(60001, [b"quote", GOOD])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote"])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", GOOD, b""])),
        cbor2.dumps(cbor2.CBORTag(60000, ["quote", GOOD])),
        cbor2.dumps(cbor2.CBORTag(60000, {0: b"quote", 1: GOOD})),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", GOOD])) + b"\x00",
        b"\xd9\xea\x60\x9f" + cbor2.dumps(b"quote") + cbor2.dumps(GOOD) + b"\xff",
        b"\xd9\xea\x60\x82\x5f\x41q\xff" + cbor2.dumps(GOOD),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", b""])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", GOOD + b"\x00"])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", cbor2.dumps([1])])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote", cbor2.dumps({})])),
        cbor2.dumps(
            cbor2.CBORTag(60000, [b"quote", cbor2.dumps(claims(nonce="text"))])
        ),
        cbor2.dumps(
            cbor2.CBORTag(
                60000, [b"quote", cbor2.dumps(claims(**{"pubkey-hash": b""}))]
            )
        ),
        cbor2.dumps(
            cbor2.CBORTag(
                60000,
                [
                    b"quote",
                    cbor2.dumps(claims(**{"pubkey-hash": cbor2.dumps([2, bytes(16)])})),
                ],
            )
        ),
        # the same key twice, once good and once a thief's
        cbor2.dumps(
            cbor2.CBORTag(
                60000, [b"quote", b"\xa4" + GOOD[1:] + cbor2.dumps("nonce") + b"\x41x"]
            )
        ),
        # shared references that make a list of itself
        b"\xd8\x1c\x82\xd8\x1d\x00\xd8\x1d\x00",
        b"\x81" * 3000,
    ],
)
def test_loose_cbor_is_refused(value: bytes) -> None:
    with pytest.raises(RatlsFormatError):
        parse_ratls_certificate(certificate([(DICE, value)]))


def test_a_certificate_without_evidence_is_refused() -> None:
    with pytest.raises(RatlsFormatError, match="no evidence"):
        parse_ratls_certificate(certificate([]))
    with pytest.raises(RatlsFormatError, match="no evidence"):
        parse_ratls_certificate(certificate([("1.2.3.4", b"")]))


def test_an_extension_that_comes_twice_is_refused(sim: Any) -> None:
    good = dice(sim.quote, GOOD)
    der = certificate([(GRAMINE_INTENDED, b"x" * 10), ("1.2.840.113741.1337.5", b"y")])
    doubled = der.replace(
        bytes.fromhex("2a864886f84d8a3905"), bytes.fromhex("2a864886f84d8a3906")
    )
    assert doubled != der
    with pytest.raises(RatlsFormatError, match="twice"):
        parse_ratls_certificate(doubled)
    assert parse_ratls_certificate(certificate([good])).form == "dice"


def test_bytes_after_the_certificate_are_refused(sim: Any) -> None:
    der = certificate([dice(sim.quote, GOOD)])
    parse_ratls_certificate(der)
    with pytest.raises(RatlsFormatError):
        parse_ratls_certificate(der + b"\x00")
    with pytest.raises(RatlsFormatError, match="65536"):
        parse_ratls_certificate(bytes(65537))


def test_evidence_that_is_no_quote_is_refused(sim: Any) -> None:
    der = certificate([dice(lambda _: b"no quote", GOOD)])
    evidence = parse_ratls_certificate(der)
    with pytest.raises(QuoteFormatError):
        verify_key_binding(evidence)
    with pytest.raises(QuoteFormatError):
        verify_ratls(der, nonce=NONCE, binding=BINDING, **sim.arguments)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_certificate_or_a_refusal(data: bytes) -> None:
    with pytest.raises(RatlsFormatError):
        parse_ratls_certificate(data)


@given(st.binary(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_evidence_is_read_or_refused(value: bytes) -> None:
    with pytest.raises(RatlsFormatError):
        parse_ratls_certificate(certificate([(DICE, value)]))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_real_certificate_never_crashes_the_parser(
    data: st.DataObject, vectors: Path
) -> None:
    der = bytearray(real(vectors, "gramine-cert.pem"))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(der) - 1))
        der[place] = data.draw(st.integers(0, 255))
    try:
        evidence = parse_ratls_certificate(bytes(der))
        verify_key_binding(evidence)
    except AttestationError:
        return
    assert evidence.form in {"dice", "gramine"}


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_session_certificate_binds_nothing_else(
    data: st.DataObject, case: Any
) -> None:
    """A changed byte is refused, or none of key, quote and claims changed."""
    quoted = case("001-").quote

    def quote(report_data: bytes) -> bytes:
        return bytes(quoted[:368] + report_data + quoted[432:])

    der = make_session_certificate(key=KEY, nonce=NONCE, binding=BINDING, quote=quote)
    before = parse_ratls_certificate(der)
    damaged = bytearray(der)
    place = data.draw(st.integers(0, 5000)) % len(der)
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        after = parse_ratls_certificate(bytes(damaged))
        verify_key_binding(after)
    except AttestationError:
        return
    assert after.public_key == before.public_key
    assert after.claims == before.claims
    assert (after.nonce, after.binding) == (NONCE, BINDING)


def test_a_verified_peer_cannot_be_made_elsewhere(sim: Any) -> None:
    der = make_session_certificate(
        key=KEY, nonce=NONCE, binding=BINDING, quote=sim.quote
    )
    peer = verify_ratls(der, nonce=NONCE, binding=BINDING, **sim.arguments)
    fields = {
        each.name: getattr(peer, each.name) for each in dataclasses.fields(VerifiedPeer)
    }
    with pytest.raises(InvariantError):
        VerifiedPeer(**fields, seal=object())
