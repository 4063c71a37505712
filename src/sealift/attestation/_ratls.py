"""RA-TLS certificates: a TLS key, and a quote that commits to it.

Made and read: TCG DICE interoperable RA-TLS (extension 2.23.133.5.4.9, CBOR tag
60000 over ``[quote, claims-buffer]``). Read as well: Gramine's older extension.
Sources: CCC-Attestation/interoperable-ra-tls; facts §3.6.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import cbor2
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from sealift.base import InvariantError, UnixSeconds
from sealift.crypto import Entropy, constant_time_equal, sha256

from ._anchor import TrustAnchor
from ._collateral import Collateral
from ._quote import REPORT_DATA_BYTES, parse_quote
from ._rules import (
    Failure,
    QuoteRefusedError,
    RatlsFormatError,
    RatlsRefusedError,
    Rule,
    failure,
)
from ._verify import VerifiedQuote, verify_quote

#: No certificate is larger.
MAX_CERTIFICATE_BYTES = 64 * 1024
#: tcg-dice-conceptual-message-wrapper
DICE_OID = "2.23.133.5.4.9"
# Gramine's, as intended and as its releases put it on the wire (facts §3.6).
_GRAMINE_OIDS = ("1.2.840.113741.1337.6", "0.6.9.42.840.113741.1337.6")
_EVIDENCE_TAG = 60000
_SHA256_ID = 1
_HASHES = {_SHA256_ID: "sha256", 7: "sha384", 8: "sha512"}
_KEY_HASH, _NONCE, _BINDING = "pubkey-hash", "nonce", "sealift-binding"
_DEPTH = 8
# FIPS 186-5 A.2.1: 64 bits more than the order, then modulo.
_KEY_ENTROPY = 40
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# Constant: an enclave has no clock, and freshness comes from the nonce.
_VALID_FROM = datetime(2001, 1, 1, tzinfo=UTC)
_VALID_TO = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_SEAL: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsKey:
    """A P-256 key for one TLS session: PKCS#8 DER and SubjectPublicKeyInfo DER."""

    secret: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"TlsKey(public={self.public.hex()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatlsEvidence:
    """What an RA-TLS certificate says; nothing of it has been verified.

    ``claims`` is the claims buffer (empty in Gramine's older format), from which
    the other optional fields are read.
    """

    form: Literal["dice", "gramine"]
    certificate: bytes
    public_key: bytes
    quote: bytes
    claims: bytes
    key_hash_id: int
    key_hash: bytes
    nonce: bytes | None
    binding: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """A TLS key that belongs to a genuine enclave, made for this session.

    Owed by the caller: that the TLS peer holds the key (TLS does that), and the
    policy and identity of ``quote``. Only :func:`verify_ratls` makes it.
    """

    quote: VerifiedQuote
    public_key: bytes
    certificate: bytes
    nonce: bytes
    binding: bytes
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise InvariantError("only verify_ratls makes a VerifiedPeer")


def generate_tls_key(entropy: Entropy) -> TlsKey:
    """A new P-256 key from 40 bytes of entropy."""
    scalar = int.from_bytes(entropy(_KEY_ENTROPY)) % (_P256_ORDER - 1) + 1
    key = ec.derive_private_key(scalar, ec.SECP256R1())
    return TlsKey(
        secret=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        public=key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ),
    )


def make_session_certificate(
    *, key: TlsKey, nonce: bytes, binding: bytes, quote: Callable[[bytes], bytes]
) -> bytes:
    """A self-signed DER certificate for one session, with evidence inside.

    Args:
        key: The session's TLS key.
        nonce: The challenge of the peer.
        binding: Hash of whatever else the session commits to.
        quote: ``quote(report_data)`` of the platform; it is asked once, for
            SHA-256(claims buffer) followed by 32 zero bytes.
    """
    private = open_tls_key(key)
    claims = cbor2.dumps(
        {
            _KEY_HASH: cbor2.dumps([_SHA256_ID, bytes(sha256(key.public))]),
            _NONCE: nonce,
            _BINDING: binding,
        }
    )
    evidence = cbor2.CBORTag(_EVIDENCE_TAG, [quote(_report_data(claims)), claims])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sealift RA-TLS")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_TO)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(
                x509.ObjectIdentifier(DICE_OID), cbor2.dumps(evidence)
            ),
            critical=False,
        )
        .sign(private, SHA256(), ecdsa_deterministic=True)
    )
    return certificate.public_bytes(Encoding.DER)


def parse_ratls_certificate(der: bytes) -> RatlsEvidence:
    """Read the evidence of an RA-TLS certificate; total, nothing is verified.

    Extension 2.23.133.5.4.9 is preferred: if it is present and bad, there is no
    fallback to another. Gramine's older one counts under either of its two spellings,
    not under both. The certificate's own signature is not looked at (TLS
    proves possession of the key, and Gramine's has an encoding of its own).

    Raises:
        RatlsFormatError: Not a certificate, no evidence, or evidence that is not
            strict CBOR (definite lengths, no duplicate keys, nothing after it).
    """
    public_key, extensions = _read_certificate(der)
    if DICE_OID in extensions:
        quote, claims = _open_evidence(extensions[DICE_OID])
        fields = _open_claims(claims)
        key_hash_id, key_hash = _open_key_hash(fields)
        return RatlsEvidence(
            form="dice",
            certificate=der,
            public_key=public_key,
            quote=quote,
            claims=claims,
            key_hash_id=key_hash_id,
            key_hash=key_hash,
            nonce=_optional_bytes(fields, _NONCE),
            binding=_optional_bytes(fields, _BINDING),
        )
    older = [extensions[oid] for oid in _GRAMINE_OIDS if oid in extensions]
    if len(older) > 1:
        raise _format_error("Gramine's older extension twice", "one quote")
    if older:
        return RatlsEvidence(
            form="gramine",
            certificate=der,
            public_key=public_key,
            quote=older[0],
            claims=b"",
            key_hash_id=_SHA256_ID,
            key_hash=sha256(public_key),
            nonce=None,
            binding=None,
        )
    raise _format_error("no evidence extension", DICE_OID)


def verify_key_binding(evidence: RatlsEvidence) -> None:
    """Return only if key, claims and report data belong together.

    Says nothing of the quote's genuineness.

    Raises:
        QuoteFormatError: The quote cannot be read.
        RatlsRefusedError: With every broken rule.
    """
    found = _binding_failures(evidence)
    if found:
        raise RatlsRefusedError("RA-TLS certificate refused", found)


def verify_ratls(
    der: bytes,
    *,
    collateral: Collateral,
    root: TrustAnchor,
    now: UnixSeconds,
    nonce: bytes,
    binding: bytes,
) -> VerifiedPeer:
    """Verify the certificate of a TLS peer.

    1. It is an RA-TLS certificate.
    2. The claims hash the TLS key; the report data hashes the claims.
    3. Nonce and binding are those of this session.
    4. The quote is genuine (:func:`verify_quote`), which excludes debug.

    Args:
        der: As the peer sent it.
        collateral: For the peer's platform.
        root: The trust anchor.
        now: Seconds; in the enclave, verified block time.
        nonce: The challenge that was given to the peer.
        binding: What the peer must have bound.

    Raises:
        RatlsFormatError: Not an RA-TLS certificate.
        QuoteFormatError: The quote in it cannot be read.
        TrustAnchorError: The root itself is not acceptable.
        RatlsRefusedError: With every broken rule, the quote's included.
    """
    evidence = parse_ratls_certificate(der)  # 1
    found = _binding_failures(evidence)  # 2
    for rule, seen, wanted in (  # 3
        (Rule.RATLS_NONCE, evidence.nonce, nonce),
        (Rule.RATLS_BINDING, evidence.binding, binding),
    ):
        if seen is None or not constant_time_equal(seen, wanted):
            found.append(failure(rule, seen, wanted))
    quote: VerifiedQuote | None = None
    try:
        quote = verify_quote(evidence.quote, collateral=collateral, root=root, now=now)
    except QuoteRefusedError as error:  # 4
        found += error.failures
    if found or quote is None:
        raise RatlsRefusedError("RA-TLS certificate refused", found)
    return VerifiedPeer(
        quote=quote,
        public_key=evidence.public_key,
        certificate=der,
        nonce=nonce,
        binding=binding,
        seal=_SEAL,
    )


def _binding_failures(evidence: RatlsEvidence) -> list[Failure]:
    found: list[Failure] = []
    hashed = hashlib.new(_HASHES[evidence.key_hash_id], evidence.public_key).digest()
    if not constant_time_equal(hashed, evidence.key_hash):
        found.append(failure(Rule.RATLS_KEY_HASH, evidence.key_hash, hashed))
    committed = evidence.claims if evidence.form == "dice" else evidence.public_key
    wanted = _report_data(committed)
    seen = parse_quote(evidence.quote).report.report_data
    if not constant_time_equal(seen, wanted):
        found.append(failure(Rule.RATLS_REPORT_DATA, seen, wanted))
    return found


def _report_data(committed: bytes) -> bytes:
    return sha256(committed).ljust(REPORT_DATA_BYTES, b"\x00")


def _read_certificate(der: bytes) -> tuple[bytes, dict[str, bytes]]:
    """SubjectPublicKeyInfo, and the evidence extensions by OID."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise _format_error(f"{len(der)} B", f"≤ {MAX_CERTIFICATE_BYTES} B")
    found: dict[str, bytes] = {}
    try:
        certificate = asn1.Certificate.load(der, strict=True)
        public_key: bytes = certificate.public_key.dump()
        for extension in certificate["tbs_certificate"]["extensions"]:
            oid: str = extension["extn_id"].dotted
            if oid in found:
                raise _format_error(f"{oid} twice", "each extension once")
            if oid == DICE_OID or oid in _GRAMINE_OIDS:
                found[oid] = bytes(extension["extn_value"].contents)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise _format_error(str(error)[:120], "an X.509 certificate") from error
    return public_key, found


def _open_evidence(value: bytes) -> tuple[bytes, bytes]:
    evidence = _strict_cbor(value)
    if isinstance(evidence, cbor2.CBORTag) and evidence.tag == _EVIDENCE_TAG:
        inner: object = evidence.value
        match inner:
            case [bytes(quote), bytes(claims)]:
                return quote, claims
            case _:
                pass
    raise _format_error("other CBOR", "tag 60000 [quote, claims-buffer]")


def _open_claims(claims: bytes) -> dict[object, object]:
    fields = _strict_cbor(claims)
    if not isinstance(fields, dict):
        raise _format_error("claims buffer", "a map")
    return fields


def _open_key_hash(fields: dict[object, object]) -> tuple[int, bytes]:
    wrapped = fields.get(_KEY_HASH)
    if isinstance(wrapped, bytes):
        match _strict_cbor(wrapped):
            case [int(kind), bytes(digest)] if kind in _HASHES:
                return kind, digest
            case _:
                pass
    raise _format_error("key hash", "[1, 7 or 8, digest]")


def _optional_bytes(fields: dict[object, object], name: str) -> bytes | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bytes):
        raise _format_error(f"{name} of another type", "bytes")
    return value


def _strict_cbor(data: bytes) -> object:
    stream = io.BytesIO(data)
    try:
        value: object = cbor2.CBORDecoder(
            stream,
            read_size=1,  # never ahead, so that what is left can be seen
            max_depth=_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError) as error:
        raise _format_error(str(error)[:120], "strict CBOR") from error
    if stream.tell() != len(data):
        raise _format_error(f"{len(data) - stream.tell()} B after it", "only CBOR")
    return value


def open_tls_key(key: TlsKey) -> ec.EllipticCurvePrivateKey:
    """The key as the libraries want it."""
    private = load_der_private_key(key.secret, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InvariantError("a TLS key is a P-256 key")
    return private


def _format_error(got: str, expected: str) -> RatlsFormatError:
    return RatlsFormatError(
        "not an RA-TLS certificate", [failure(Rule.RATLS_FORMAT, got, expected)]
    )
