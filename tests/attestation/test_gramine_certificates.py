"""Certificates in the form that Gramine's RA-TLS makes them, honest and forged.

P-384 key, ECDSA with SHA-256 and NULL parameters (which the standard forbids), both
extensions, each with a quote of its own (facts §3.6). The key of the real ones is
not ours; these have the same form under a simulated root.
"""

import base64
import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from asn1crypto import core, x509
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from OpenSSL import SSL, crypto

from sealift.attestation import (
    QuoteRefusedError,
    RatlsFormatError,
    RatlsRefusedError,
    RatlsSession,
    Rule,
    generate_tls_key,
    make_session_certificate,
    parse_ratls_certificate,
    verify_evidence,
    verify_key_binding,
)

DICE = "2.23.133.5.4.9"
GRAMINE = "0.6.9.42.840.113741.1337.6"
GRAMINE_INTENDED = "1.2.840.113741.1337.6"
KEY = generate_tls_key(lambda size: hashlib.shake_128(b"test").digest(size))
PRIVATE = ec.generate_private_key(ec.SECP384R1())
SPKI = PRIVATE.public_key().public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
)
BUFFER = cbor2.dumps({"pubkey-hash": cbor2.dumps([1, hashlib.sha256(SPKI).digest()])})


def real(vectors: Path, name: str) -> bytes:
    pem = (vectors / "ratls" / name).read_text()
    body = pem.split("-----BEGIN CERTIFICATE-----")[1].split("-----END")[0]
    return base64.b64decode(body)


def dice(quote: Callable[[bytes], bytes], buffer: bytes) -> tuple[str, bytes]:
    report_data = hashlib.sha256(buffer).digest() + bytes(32)
    return DICE, cbor2.dumps(cbor2.CBORTag(60000, [quote(report_data), buffer]))


def legacy(quote: Any) -> tuple[str, bytes]:
    return GRAMINE, quote(hashlib.sha256(SPKI).digest() + bytes(32))


def gramine_form(*extensions: tuple[str, bytes]) -> bytes:
    """As mbedTLS in Gramine writes it: NULL in both algorithm identifiers."""
    name = pyca.Name([pyca.NameAttribute(pyca.NameOID.COMMON_NAME, "RATLS")])
    builder = (
        pyca.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(PRIVATE.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2030, 12, 31, tzinfo=dt.UTC))
    )
    for oid, value in extensions:
        builder = builder.add_extension(
            pyca.UnrecognizedExtension(pyca.ObjectIdentifier(oid), value),
            critical=False,
        )
    made = builder.sign(PRIVATE, SHA256()).public_bytes(Encoding.DER)
    parsed = x509.Certificate.load(made)
    tbs = parsed["tbs_certificate"]
    tbs["signature"]["parameters"] = core.Null()
    parsed["signature_algorithm"]["parameters"] = core.Null()
    parsed["signature_value"] = PRIVATE.sign(tbs.dump(force=True), ec.ECDSA(SHA256()))
    return bytes(parsed.dump(force=True))


def test_the_form_is_the_real_ones(vectors: Path, sim: Any) -> None:
    """What pyca refuses of the real certificate it refuses of ours as well."""
    for der in (real(vectors, "gramine-cert.pem"), gramine_form(legacy(sim.quote))):
        algorithm = x509.Certificate.load(der)["signature_algorithm"]
        assert algorithm["algorithm"].native == "sha256_ecdsa"
        assert isinstance(algorithm["parameters"].parsed, core.Null)
        with pytest.raises(ValueError, match=r"ExtraData|parameters"):
            pyca.load_der_x509_certificate(der).signature_algorithm_parameters  # noqa: B018


def test_gramines_certificate_is_accepted_with_its_own_quote(sim: Any) -> None:
    der = gramine_form(dice(sim.quote, BUFFER), legacy(sim.quote))
    evidence = parse_ratls_certificate(der)
    assert evidence.form == "dice"
    assert evidence.public_key == SPKI
    verify_key_binding(evidence)
    found = verify_evidence(evidence.quote, **sim.arguments)
    assert found.status == "UpToDate"


@pytest.mark.parametrize("oid", [GRAMINE, GRAMINE_INTENDED])
def test_older_gramines_and_rats_tls_have_the_quote_alone(oid: str, sim: Any) -> None:
    der = gramine_form((oid, legacy(sim.quote)[1]))
    evidence = parse_ratls_certificate(der)
    assert evidence.form == "gramine"
    verify_key_binding(evidence)
    verify_evidence(evidence.quote, **sim.arguments)


def test_a_debug_enclaves_certificate_is_bound_and_refused(sim: Any) -> None:
    der = gramine_form(dice(lambda data: sim.quote(data, flags=0x07), BUFFER))
    evidence = parse_ratls_certificate(der)
    verify_key_binding(evidence)
    with pytest.raises(QuoteRefusedError) as error:
        verify_evidence(evidence.quote, **sim.arguments)
    assert error.value.rules == {Rule.DEBUG}


@pytest.mark.parametrize("case_id", ["016-", "018-"])
def test_the_real_ones_are_genuine_but_for_debug(case_id: str, case: Any) -> None:
    """Under Intel's real root: chain, collateral and signatures hold."""
    it = case(case_id)
    with pytest.raises(QuoteRefusedError) as error:
        verify_evidence(it.quote, **it.arguments)
    assert error.value.rules == {Rule.DEBUG}
    assert it.anchor.kind == "intel"


def test_the_quotes_of_both_extensions_exchanged_bind_nothing(sim: Any) -> None:
    """Each is over other report data: the claims buffer's, and the key's."""
    by_claims = dice(sim.quote, BUFFER)
    by_key = legacy(sim.quote)[1]
    wrong = (DICE, cbor2.dumps(cbor2.CBORTag(60000, [by_key, BUFFER])))
    raw = parse_ratls_certificate(gramine_form(by_claims)).quote
    for der in (gramine_form(wrong), gramine_form((GRAMINE, raw))):
        with pytest.raises(RatlsRefusedError) as error:
            verify_key_binding(parse_ratls_certificate(der))
        assert error.value.rules == {Rule.RATLS_REPORT_DATA}


def test_a_good_older_extension_does_not_save_a_bad_newer_one(sim: Any) -> None:
    good = legacy(sim.quote)
    debug = dice(lambda data: sim.quote(data, flags=0x07), BUFFER)
    evidence = parse_ratls_certificate(gramine_form(good, debug))
    with pytest.raises(QuoteRefusedError):
        verify_evidence(evidence.quote, **sim.arguments)
    for bad in (b"", b"\xd9\xea\x61\x82\x40\x40", cbor2.dumps([b"", BUFFER])):
        with pytest.raises(RatlsFormatError):
            parse_ratls_certificate(gramine_form(good, (DICE, bad)))
    other = dice(sim.quote, cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(32)])}))
    with pytest.raises(RatlsRefusedError) as error:
        verify_key_binding(parse_ratls_certificate(gramine_form(good, other)))
    assert error.value.rules == {Rule.RATLS_KEY_HASH}


def test_both_spellings_of_the_older_extension_are_no_choice(sim: Any) -> None:
    """Whoever reads one and whoever reads the other would see two enclaves."""
    mine = legacy(sim.quote)[1]
    other = sim.quote(hashlib.sha256(SPKI).digest() + bytes(32), mrenclave=b"o" * 32)
    with pytest.raises(RatlsFormatError, match="twice"):
        parse_ratls_certificate(
            gramine_form((GRAMINE, mine), (GRAMINE_INTENDED, other))
        )


def test_a_peer_with_such_a_certificate_gets_to_the_verifier(sim: Any) -> None:
    """OpenSSL carries it through a TLS 1.3 handshake; what it is worth is ours."""
    der = gramine_form(dice(sim.quote, BUFFER))
    seen: list[bytes] = []
    mine = make_session_certificate(key=KEY, nonce=b"", binding=b"", quote=sim.quote)
    server = RatlsSession(
        role="server", certificate=mine, key=KEY, verify_peer=seen.append
    )
    context = SSL.Context(SSL.TLS_METHOD)
    with pytest.warns(DeprecationWarning, match="deprecated"):  # pyca cannot read it
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, der))
    context.use_privatekey(PRIVATE)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    for _ in range(4):
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            server.feed(client.bio_read(1 << 16))
        if output := server.take_output():
            client.bio_write(output)
    assert server.handshake_done
    assert seen == [der]
    verify_key_binding(parse_ratls_certificate(server.peer_certificate))
