"""Trust anchors: a root certificate and what kind of root it is.

The root's key decides, never its name: a pre-production root exists that bears
the very name of Intel's (facts/attestation, vector 048).
"""

from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from sealift.base import Message
from sealift.crypto import sha256

from ._certificates import parse_certificate, parse_pem_chain, public_key_der
from ._rules import AttestationError, Rule, TrustAnchorError, failure

AnchorKind: TypeAlias = Literal["intel", "insecure-sim"]

#: SHA-256 over the SubjectPublicKeyInfo of Intel's production SGX root.
INTEL_ROOT_KEY_SHA256 = bytes.fromhex(
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)
_PEM = b"-----BEGIN CERTIFICATE-----"


class TrustAnchor(Message, kw_only=True):
    """The root that evidence must lead to, and whether it is Intel's.

    The kind is checked against the root's key whenever it is used: simulated
    evidence can never be taken for Intel's, whatever the anchor says.
    """

    root_der: bytes
    kind: AnchorKind


def parse_trust_anchor(data: bytes) -> TrustAnchor:
    """Parse a root certificate (DER or PEM); its kind follows from its key.

    Raises:
        TrustAnchorError: Not a certificate.
    """
    try:
        if data.startswith(_PEM):
            certificate = parse_pem_chain(data, length=1)[0]
        else:
            certificate = parse_certificate(data)
    except AttestationError as error:
        raise TrustAnchorError("not a trust anchor", error.failures) from error
    return TrustAnchor(
        root_der=certificate.public_bytes(Encoding.DER), kind=_kind_of(certificate)
    )


def open_anchor(root: TrustAnchor) -> x509.Certificate:
    """The anchor's certificate, if it is a self-signed SGX root of its kind.

    Raises:
        TrustAnchorError: It is not.
    """
    what = "trust anchor refused"
    try:
        certificate = parse_certificate(root.root_der)
        certificate.verify_directly_issued_by(certificate)
    except AttestationError as error:
        raise TrustAnchorError(what, error.failures) from error
    except (ValueError, TypeError, InvalidSignature) as error:
        raise TrustAnchorError(
            what, [failure(Rule.TRUST_ANCHOR, "not self-signed", "self-signed")]
        ) from error
    kind = _kind_of(certificate)
    if kind != root.kind:
        raise TrustAnchorError(what, [failure(Rule.TRUST_ANCHOR, kind, root.kind)])
    return certificate


def _kind_of(certificate: x509.Certificate) -> AnchorKind:
    if sha256(public_key_der(certificate)) == INTEL_ROOT_KEY_SHA256:
        return "intel"
    return "insecure-sim"
