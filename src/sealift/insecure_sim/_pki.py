"""Certificates and CRLs of the simulated Intel (facts/attestation §3.5, §6.3).

All names begin with ``SIM``; the phrases that verifiers look for are kept.
"""

import datetime as dt
from collections.abc import Iterable

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from sealift.base import InvariantError

#: Fixed validity: simulated time may stand anywhere within.
NOT_BEFORE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
NOT_AFTER = dt.datetime(2079, 12, 31, tzinfo=dt.UTC)

ROOT_NAME = "SIM SGX Root CA"
CA_NAME = "SIM SGX PCK Platform CA"
TCB_NAME = "SIM SGX TCB Signing"
PCK_NAME = "SIM SGX PCK Certificate"

_SGX = "1.2.840.113741.1.13.1"
_CRL_ADDRESS = "https://sim.invalid/{}.crl"
_PCE_ID = b"\x00\x00"
_SCALABLE = 1


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key; randomness is the library's."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: the simulator protects nobody."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read what :func:`key_pem` wrote.

    Raises:
        InvariantError: It is no P-256 key.
    """
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvariantError("simulator key is not on P-256")
    return key


def raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public point: x || y, 64 bytes."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def root_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The self-signed root, DER."""
    return _issue(
        _name(ROOT_NAME), key.public_key(), _name(ROOT_NAME), key, path_length=1
    )


def ca_certificate(public: ec.EllipticCurvePublicKey, root: bytes, pem: bytes) -> bytes:
    """The PCK Platform CA, DER."""
    issuer = x509.load_der_x509_certificate(root)
    return _issue(_name(CA_NAME), public, issuer.subject, load_key(pem), path_length=0)


def tcb_certificate(
    public: ec.EllipticCurvePublicKey, root: bytes, pem: bytes
) -> bytes:
    """The certificate that signs TCB info and QE identity, DER."""
    issuer = x509.load_der_x509_certificate(root)
    return _issue(_name(TCB_NAME), public, issuer.subject, load_key(pem))


def pck_certificate(
    public: ec.EllipticCurvePublicKey, ca: bytes, pem: bytes, extension: bytes
) -> bytes:
    """A PCK certificate with its SGX extension, DER."""
    issuer = x509.load_der_x509_certificate(ca)
    return _issue(_name(PCK_NAME), public, issuer.subject, load_key(pem), sgx=extension)


def sgx_extension(
    *, ppid: bytes, cpu_svn: bytes, pce_svn: int, fmspc: bytes, instance: bytes
) -> bytes:
    """The extension 1.2.840.113741.1.13.1 of a Platform-CA PCK, DER."""
    components = [
        _item(f"{_SGX}.2.{i + 1}", core.Integer(svn)) for i, svn in enumerate(cpu_svn)
    ]
    components.append(_item(f"{_SGX}.2.17", core.Integer(pce_svn)))
    components.append(_item(f"{_SGX}.2.18", core.OctetString(cpu_svn)))
    configuration = [
        _item(f"{_SGX}.7.{i}", core.Boolean(on)) for i, on in ((1, True), (2, False))
    ]
    configuration.append(_item(f"{_SGX}.7.3", core.Boolean(False)))  # noqa: FBT003
    return _sequence(
        [
            _item(f"{_SGX}.1", core.OctetString(ppid)),
            _item(f"{_SGX}.2", _sequence(components)),
            _item(f"{_SGX}.3", core.OctetString(_PCE_ID)),
            _item(f"{_SGX}.4", core.OctetString(fmspc)),
            _item(f"{_SGX}.5", core.Enumerated.load(bytes((0x0A, 1, _SCALABLE)))),
            _item(f"{_SGX}.6", core.OctetString(instance)),
            _item(f"{_SGX}.7", _sequence(configuration)),
        ]
    )


def revocation_list(
    issuer: bytes,
    pem: bytes,
    *,
    revoked: Iterable[str],
    number: int,
    issued: dt.datetime,
    until: dt.datetime,
) -> bytes:
    """A CRL of the serial numbers (decimal text) that an issuer revoked, DER."""
    name = x509.load_der_x509_certificate(issuer).subject
    key = load_key(pem)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(issued)
        .next_update(until)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            critical=False,
        )
    )
    for serial in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(int(serial))
            .revocation_date(issued)
            .build()
        )
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def pem_chain(*certificates: bytes) -> str:
    """DER certificates as one PEM text, in the given order."""
    return "".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
        for der in certificates
    )


def serial_of(certificate: bytes) -> str:
    """The serial number of a DER certificate, as decimal text."""
    return str(x509.load_der_x509_certificate(certificate).serial_number)


def _item(oid: str, value: core.Asn1Value | bytes) -> bytes:
    encoded = value if isinstance(value, bytes) else value.dump()
    return _sequence([core.ObjectIdentifier(oid).dump(), encoded])


def _sequence(parts: list[bytes]) -> bytes:
    encoded: bytes = core.Sequence(contents=b"".join(parts)).dump()
    return encoded


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sealift insecure simulator"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),
        ]
    )


def _issue(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None = None,
    sgx: bytes | None = None,
) -> bytes:
    is_ca = path_length is not None
    where = _CRL_ADDRESS.format("".join(_common_name(issuer).split()))
    point = x509.DistributionPoint(
        [x509.UniformResourceIdentifier(where)], None, None, None
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            critical=False,
        )
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .add_extension(_usage(is_ca=is_ca), critical=True)
        .add_extension(
            x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True
        )
    )
    if sgx is not None:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), sgx)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def _common_name(name: x509.Name) -> str:
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
