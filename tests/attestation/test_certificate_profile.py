"""Certificates and CRLs that a stolen CA key could sign, but no SGX CA would."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from sealift.attestation import (
    CertificateFormatError,
    CollateralRefusedError,
    QuoteRefusedError,
    Rule,
    verify_collateral,
    verify_quote,
)
from sealift.attestation._certificates import parse_pem_chain

Edit = Callable[[list[tuple[Any, bool]]], list[tuple[Any, bool]]]
SGX = "1.2.840.113741.1.13.1"


def reissue(
    sim: Any,
    *,
    edit: Edit = lambda each: each,
    algorithm: Any = None,
    key: Any = None,
    name: x509.Name | None = None,
) -> bytes:
    """The machine's PCK certificate again, signed by the real CA, with a change."""
    real = x509.load_der_x509_certificate(sim.pck)
    ca: Any = load_pem_private_key(sim.state.ca_key, password=None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name or real.subject)
        .issuer_name(real.issuer)
        .public_key(key or real.public_key())
        .serial_number(4711)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
    )
    for value, critical in edit([(e.value, e.critical) for e in real.extensions]):
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(ca, algorithm or SHA256()).public_bytes(Encoding.DER)


def without(kind: type) -> Edit:
    return lambda all_: [each for each in all_ if not isinstance(each[0], kind)]


def replaced(value: Any) -> Edit:
    return lambda all_: [
        (value, c) if isinstance(v, type(value)) else (v, c) for v, c in all_
    ]


def usage(**on: bool) -> x509.KeyUsage:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def refused(pck: bytes, sim: Any) -> frozenset[Rule]:
    with pytest.raises(QuoteRefusedError) as error:
        verify_quote(sim.quote(pck=pck), **sim.arguments)
    return error.value.rules


def test_the_same_certificate_again_is_accepted(sim: Any) -> None:
    verify_quote(sim.quote(pck=reissue(sim)), **sim.arguments)


@pytest.mark.parametrize(
    "edit",
    [
        without(x509.BasicConstraints),
        without(x509.KeyUsage),
        without(x509.AuthorityKeyIdentifier),
        without(x509.SubjectKeyIdentifier),
        without(x509.CRLDistributionPoints),
        replaced(x509.BasicConstraints(ca=True, path_length=0)),
        replaced(usage(key_cert_sign=True)),
        lambda all_: [*all_, (x509.OCSPNoCheck(), True)],
    ],
    ids=[
        "no constraints", "no usage", "no AKI", "no SKI", "no CRLDP", "CA flag",
        "usage", "critical",
    ],
)  # fmt: skip
def test_a_leaf_outside_the_profile_is_refused(edit: Edit, sim: Any) -> None:
    assert Rule.CERTIFICATE_PROFILE in refused(reissue(sim, edit=edit), sim)


def test_another_signature_algorithm_is_refused(sim: Any) -> None:
    rules = refused(reissue(sim, algorithm=SHA384()), sim)
    assert Rule.CERTIFICATE_PROFILE in rules


def test_another_curve_is_refused(sim: Any) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert Rule.CERTIFICATE_PROFILE in refused(reissue(sim, key=key), sim)


def test_two_common_names_are_no_name(sim: Any) -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "SIM SGX PCK Certificate"),
            x509.NameAttribute(NameOID.COMMON_NAME, "SIM SGX TCB Signing"),
        ]
    )
    assert Rule.CERTIFICATE_NAME in refused(reissue(sim, name=name), sim)


def test_a_pck_without_its_sgx_extension_is_refused(sim: Any) -> None:
    rules = refused(reissue(sim, edit=without(x509.UnrecognizedExtension)), sim)
    assert Rule.CERTIFICATE_PROFILE in rules


def test_a_pck_with_a_broken_sgx_extension_is_refused(sim: Any) -> None:
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX), b"\x30\x03\x02\x01")
    assert Rule.CERTIFICATE_PROFILE in refused(reissue(sim, edit=replaced(broken)), sim)


def crl(sim: Any, *, critical: bool, number: bool, until: int) -> bytes:
    """A CRL of the PCK CA with its real key."""
    ca = x509.load_der_x509_certificate(sim.state.ca_cert)
    key: Any = load_pem_private_key(sim.state.ca_key, password=None)
    now = dt.datetime.fromtimestamp(sim.now, dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(now)
        .next_update(now + dt.timedelta(seconds=until))
    )
    if number:
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
    if critical:
        partial = x509.IssuingDistributionPoint(
            full_name=None,
            relative_name=None,
            only_contains_user_certs=False,
            only_contains_ca_certs=True,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        builder = builder.add_extension(partial, critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ({"critical": True, "number": True, "until": 60}, Rule.CRL_FORMAT),
        ({"critical": False, "number": False, "until": 60}, Rule.CRL_FORMAT),
    ],
    ids=["for CAs only", "without a number"],
)
def test_a_crl_that_does_not_cover_all_is_refused(
    shape: dict[str, Any], rule: Rule, sim: Any
) -> None:
    with pytest.raises(CollateralRefusedError) as error:
        verify_collateral(
            sim.collateral(pck_crl=crl(sim, **shape)), root=sim.root, now=sim.now
        )
    assert error.value.rules == {rule}


def test_a_crl_ends_at_its_end(sim: Any) -> None:
    made = sim.collateral(pck_crl=crl(sim, critical=False, number=True, until=60))
    verify_collateral(made, root=sim.root, now=sim.now + 59)
    with pytest.raises(CollateralRefusedError) as error:
        verify_collateral(made, root=sim.root, now=sim.now + 60)
    assert error.value.rules == {Rule.CRL_VALIDITY}


def test_base64_that_is_none_is_refused() -> None:
    for body in (b"A", b"=A==", b"AAA=AAAA"):
        pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"
        with pytest.raises(CertificateFormatError):
            parse_pem_chain(pem, length=1)
