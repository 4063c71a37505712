"""X.509 for DCAP: chains of two or three P-256 certificates, and their CRLs.

Not a general path builder: the issuer of a certificate is the next one in the
chain, the last one has the trust anchor's key, and every certificate must fit
the SGX profile (Intel "SGX PCK Certificate and CRL Profile"; facts §1.4, 2-4).
"""

import base64
import binascii
import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from sealift.base import UnixSeconds

from ._rules import AttestationError, Failure, Rule, failure

_BLOCK = (
    rb"-----BEGIN CERTIFICATE-----\r?\n"
    rb"((?:[A-Za-z0-9+/=]{1,76}\r?\n)+)"
    rb"-----END CERTIFICATE-----"
)
_PEM_CHAIN = re.compile(_BLOCK + rb"(?:\r?\n" + _BLOCK + rb"){0,3}(?:\r?\n)?")
_PEM_BLOCK = re.compile(_BLOCK)
#: No PEM chain is larger.
MAX_CHAIN_BYTES = 32 * 1024
#: No CRL is larger (Intel's have less than 100 kB).
MAX_CRL_BYTES = 1024 * 1024
_PARSE_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    UserWarning,
)
_LAST_SECOND = 253_402_300_799  # of the year 9999
_HANDLED = frozenset(
    {x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.CRLDistributionPoints.oid}
)


class CertificateFormatError(AttestationError):
    """Bytes that are not certificates or CRLs of the SGX profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crl:
    """A CRL whose issuer, signature and dates hold."""

    issuer_key: bytes
    number: int
    next_update: int
    parsed: x509.CertificateRevocationList

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Whether the list names this certificate's serial number."""
        entry = self.parsed.get_revoked_certificate_by_serial_number(
            certificate.serial_number
        )
        # `is not None`: an empty CRL object is falsy (facts §1.4, 4).
        return entry is not None


@lru_cache(maxsize=32)
def parse_certificate(der: bytes) -> x509.Certificate:
    """Parse one DER certificate, all of it, without trailing bytes.

    Raises:
        CertificateFormatError: It cannot be read.
    """
    try:
        with _no_warnings():
            certificate = x509.load_der_x509_certificate(der)
            # pyca parses lazily: touch whatever is used later.
            _ = (
                certificate.extensions,
                certificate.subject,
                certificate.issuer,
                certificate.version,
                certificate.not_valid_before_utc,
                certificate.not_valid_after_utc,
                certificate.signature_algorithm_oid,
                certificate.public_key(),
            )
    except _PARSE_ERRORS as error:
        raise _format_error(Rule.CERTIFICATE_FORMAT, error) from error
    return certificate


def parse_pem_chain(pem: bytes, *, length: int) -> tuple[x509.Certificate, ...]:
    """Parse exactly ``length`` PEM certificates with nothing before or between.

    The grammar is narrow, so that every PEM reader sees the same certificates.

    Raises:
        CertificateFormatError: Not such a chain.
    """
    if len(pem) > MAX_CHAIN_BYTES or not _PEM_CHAIN.fullmatch(pem):
        raise _format_error(Rule.CERTIFICATE_FORMAT, "not a plain PEM chain")
    blocks = _PEM_BLOCK.findall(pem)
    if len(blocks) != length:
        raise CertificateFormatError(
            "certificate chain refused",
            [failure(Rule.CHAIN_LENGTH, len(blocks), length)],
        )
    return tuple(parse_certificate(_unarmour(block)) for block in blocks)


def chain_failures(
    chain: Sequence[x509.Certificate],
    anchor: x509.Certificate,
    *,
    names: Sequence[tuple[str, ...]],
    now: UnixSeconds,
    leaf_depth: int = 0,
) -> list[Failure]:
    """Every broken rule of a chain, leaf first, that must end in the anchor.

    Args:
        chain: As many certificates as ``names``.
        anchor: The trust anchor's certificate.
        names: Phrases of which each common name must contain one, leaf first.
        now: Seconds; validity is inclusive at both ends.
        leaf_depth: 1 if the first certificate is an authority itself.
    """
    found: list[Failure] = []
    if public_key_der(chain[-1]) != public_key_der(anchor):
        found.append(
            failure(
                Rule.CHAIN_ROOT,
                f"{common_name(chain[-1])} with another key",
                "the trust anchor's key",
            )
        )
    last = len(chain) - 1
    for place, (certificate, phrases) in enumerate(zip(chain, names, strict=True)):
        issuer = chain[min(place + 1, last)]
        found += _signature_failures(certificate, issuer)
        found += _validity_failures(certificate, now)
        found += _profile_failures(certificate, depth=place + leaf_depth)
        name = common_name(certificate)
        if not any(phrase in name for phrase in phrases):
            found.append(failure(Rule.CERTIFICATE_NAME, name, " or ".join(phrases)))
    return found


def crl_failures(
    der: bytes, issuer: x509.Certificate, *, now: UnixSeconds
) -> tuple[Crl | None, list[Failure]]:
    """Judge a CRL by its issuer: the list if nothing is wrong, and what is."""
    if len(der) > MAX_CRL_BYTES:
        return None, [failure(Rule.CRL_FORMAT, len(der), f"≤ {MAX_CRL_BYTES} B")]
    name = common_name(issuer)
    try:
        with _no_warnings():
            crl = x509.load_der_x509_crl(der)
            number = crl.extensions.get_extension_for_class(
                x509.CRLNumber
            ).value.crl_number
            critical = [
                each.oid.dotted_string for each in crl.extensions if each.critical
            ]
            issued, following = crl.last_update_utc, crl.next_update_utc
            right_issuer = crl.issuer == issuer.subject
            right_algorithm = (
                crl.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
            )
            key = issuer.public_key()
            signed = (
                right_algorithm
                and isinstance(key, EllipticCurvePublicKey)
                and crl.is_signature_valid(key)
            )
    except (*_PARSE_ERRORS, x509.ExtensionNotFound) as error:
        return None, [failure(Rule.CRL_FORMAT, _why(error), f"CRL of {name}")]
    found: list[Failure] = []
    if critical:
        found.append(failure(Rule.CRL_FORMAT, critical, "no critical extension"))
    if not right_issuer:
        found.append(failure(Rule.CRL_ISSUER, crl.issuer.rfc4514_string(), name))
    if not signed:
        found.append(failure(Rule.CRL_SIGNATURE, "invalid", f"signed by {name}"))
    moment = moment_of(now)
    if following is None or not issued <= moment < following:
        found.append(
            failure(
                Rule.CRL_VALIDITY,
                moment.isoformat(),
                f"{issued} … {following} ({name})",
            )
        )
    if found or following is None:
        return None, found
    return (
        Crl(
            issuer_key=public_key_der(issuer),
            number=number,
            next_update=int(following.timestamp()),
            parsed=crl,
        ),
        [],
    )


def revocation_failures(
    chain: Sequence[x509.Certificate], crls: Mapping[bytes, Crl]
) -> list[Failure]:
    """Certificates of a chain that are revoked, or whose status is unknown.

    Args:
        chain: Leaf first; the last one is its own issuer.
        crls: Lists by their issuer's SubjectPublicKeyInfo.
    """
    found: list[Failure] = []
    for depth, certificate in enumerate(chain):
        issuer = chain[min(depth + 1, len(chain) - 1)]
        crl = crls.get(public_key_der(issuer))
        if crl is None:
            found.append(
                failure(Rule.CRL_ISSUER, "no CRL", f"a CRL of {common_name(issuer)}")
            )
        elif crl.revokes(certificate):
            found.append(
                failure(
                    Rule.CERTIFICATE_REVOKED,
                    f"{common_name(certificate)} in CRL {crl.number}",
                    "not revoked",
                )
            )
    return found


def ecdsa_holds(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether r‖s (two halves, big-endian) is ECDSA-SHA256 over ``data``."""
    half = len(signature) // 2
    try:
        key.verify(
            encode_dss_signature(
                int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
            ),
            data,
            ECDSA(SHA256()),
        )
    except InvalidSignature:
        return False
    return True


def signature_holds(
    certificate: x509.Certificate, signature: bytes, data: bytes
) -> bool:
    """Whether r‖s is the certificate key's ECDSA-SHA256 over ``data``."""
    key = certificate.public_key()
    return isinstance(key, EllipticCurvePublicKey) and ecdsa_holds(key, signature, data)


def moment_of(now: UnixSeconds) -> datetime:
    """The moment, or the last one that a calendar has."""
    return datetime.fromtimestamp(min(now, _LAST_SECOND), UTC)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's only common name, or an empty string."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def public_key_der(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo of a certificate."""
    return certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """What pyca only warns of (odd names, odd serial numbers) is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _unarmour(block: bytes) -> bytes:
    """The DER of one PEM body in the one base64 text that it has."""
    text = block.replace(b"\r", b"").replace(b"\n", b"")
    try:
        der = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _format_error(Rule.CERTIFICATE_FORMAT, error) from error
    if base64.b64encode(der) != text:
        raise _format_error(Rule.CERTIFICATE_FORMAT, "unused bits in base64")
    return der


@lru_cache(maxsize=32)
def _signature_failures(
    certificate: x509.Certificate, issuer: x509.Certificate
) -> tuple[Failure, ...]:
    """Pure, so its answer may be kept: the same CAs come with every quote."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_PARSE_ERRORS, InvalidSignature) as error:
        return (
            failure(
                Rule.CERTIFICATE_SIGNATURE,
                f"{common_name(certificate)}: {_why(error)}",
                f"issued by {common_name(issuer)}",
            ),
        )
    return ()


def _validity_failures(
    certificate: x509.Certificate, now: UnixSeconds
) -> list[Failure]:
    moment = moment_of(now)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if first <= moment <= last:
        return []
    return [
        failure(
            Rule.CERTIFICATE_VALIDITY,
            moment.isoformat(),
            f"{first} … {last} ({common_name(certificate)})",
        )
    ]


def _profile_failures(certificate: x509.Certificate, *, depth: int) -> list[Failure]:
    """Version, algorithm, key, constraints and usage of one certificate."""
    wrong = [*_algorithm_faults(certificate), *_extension_faults(certificate, depth)]
    if not wrong:
        return []
    return [
        failure(
            Rule.CERTIFICATE_PROFILE,
            f"{common_name(certificate)}: {', '.join(wrong)}",
            "the SGX certificate profile",
        )
    ]


def _algorithm_faults(certificate: x509.Certificate) -> list[str]:
    wrong: list[str] = []
    key = certificate.public_key()
    if certificate.version is not x509.Version.v3:
        wrong.append("version")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        wrong.append("signature algorithm")
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(
        key.curve, SECP256R1
    ):
        wrong.append("key")
    return wrong


def _extension_faults(certificate: x509.Certificate, depth: int) -> list[str]:
    extensions = certificate.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        extensions.get_extension_for_class(x509.CRLDistributionPoints)
    except x509.ExtensionNotFound as error:
        return [f"no extension {error.oid.dotted_string}"]
    wrong: list[str] = []
    if any(each.critical and each.oid not in _HANDLED for each in extensions):
        wrong.append("unknown critical extension")
    if constraints.ca != (depth > 0):
        wrong.append("CA flag")
    if constraints.path_length is not None and constraints.path_length < depth - 1:
        wrong.append("path length")
    if not (usage.key_cert_sign if depth else usage.digital_signature):
        wrong.append("key usage")
    return wrong


def _format_error(rule: Rule, why: object) -> CertificateFormatError:
    return CertificateFormatError(
        "certificate refused", [failure(rule, _why(why), "a DER certificate")]
    )


def _why(error: object) -> str:
    return str(error)[:120] or type(error).__name__
