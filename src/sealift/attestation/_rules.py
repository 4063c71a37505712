"""The rules of attestation by name, and refusals that name every broken one.

A verdict is a narrower type or an error that says which rules failed (all that
could be determined), what was seen and what was wanted (DESIGN §7).
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from sealift.base import SealiftError


class Rule(enum.StrEnum):
    """Every rule that evidence can break; the value is the name on the wire."""

    # trust anchor and certificates
    TRUST_ANCHOR = "trust anchor"
    CERTIFICATE_FORMAT = "certificate format"
    CHAIN_LENGTH = "chain length"
    CHAIN_ROOT = "chain ends in the trust anchor"
    CERTIFICATE_SIGNATURE = "certificate signature"
    CERTIFICATE_VALIDITY = "certificate validity"
    CERTIFICATE_PROFILE = "certificate profile"
    CERTIFICATE_NAME = "certificate name"
    CERTIFICATE_REVOKED = "certificate revoked"
    # revocation lists
    CRL_FORMAT = "CRL format"
    CRL_ISSUER = "CRL issuer"
    CRL_SIGNATURE = "CRL signature"
    CRL_VALIDITY = "CRL validity"
    # TCB info and QE identity
    TCB_INFO_FORMAT = "TCB info format"
    TCB_INFO_SIGNATURE = "TCB info signature"
    TCB_INFO_VALIDITY = "TCB info validity"
    QE_IDENTITY_FORMAT = "QE identity format"
    QE_IDENTITY_SIGNATURE = "QE identity signature"
    QE_IDENTITY_VALIDITY = "QE identity validity"
    COLLATERAL_FORMAT = "collateral format"
    COLLATERAL_OLDER = "collateral never older"
    # the quote
    QUOTE_VERSION = "quote version"
    QUOTE_LENGTH = "quote length"
    QUOTE_FORMAT = "quote format"
    ATTESTATION_KEY_TYPE = "attestation key type"
    QE_VENDOR = "QE vendor"
    TEE_TYPE = "TEE type"
    FMSPC = "FMSPC"
    PCE_ID = "PCEID"
    QE_REPORT_SIGNATURE = "QE report signature"
    QE_REPORT_DATA = "QE report data"
    QE_IDENTITY_MISMATCH = "QE identity"
    QUOTE_SIGNATURE = "quote signature"
    TCB_LEVEL = "TCB level"
    TCB_REVOKED = "TCB revoked"
    DEBUG = "no debug"
    TD_ATTRIBUTES = "TD attributes"
    DCAP_QVL = "dcap-qvl"
    # policy
    TCB_STATUS_ACCEPTED = "accepted TCB statuses"
    ADVISORY_REJECTED = "rejected advisories"
    TCB_EVALUATION_NUMBER = "minimum TCB evaluation number"
    MAXIMUM_AGE = "maximum age in blocks"
    NOT_BEFORE = "not before height"
    # RA-TLS
    RATLS_FORMAT = "RA-TLS certificate format"
    RATLS_KEY_HASH = "RA-TLS key hash"
    RATLS_REPORT_DATA = "RA-TLS report data"
    RATLS_NONCE = "RA-TLS nonce"
    RATLS_BINDING = "RA-TLS binding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One broken rule: what was seen and what was wanted, in words."""

    rule: Rule
    got: str
    expected: str

    def __str__(self) -> str:
        return f"{self.rule}: got {self.got}, expected {self.expected}"


def failure(rule: Rule, got: object, expected: object) -> Failure:
    """A failure; bytes are shown as hex."""
    return Failure(rule=rule, got=_words(got), expected=_words(expected))


class AttestationError(SealiftError):
    """Evidence was refused; ``failures`` has every broken rule, at least one.

    Args:
        what: The refused thing, for the sentence.
        failures: Broken rules in the order of the verifier's steps.
    """

    def __init__(self, what: str, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        super().__init__(f"{what}: " + "; ".join(str(each) for each in failures))

    @property
    def rules(self) -> frozenset[Rule]:
        """The names of the broken rules."""
        return frozenset(each.rule for each in self.failures)


class QuoteFormatError(AttestationError):
    """Bytes that are not a DCAP quote of a kind that Sealift reads."""


class QuoteRefusedError(AttestationError):
    """A quote that is not genuine under this collateral, root and time."""


class CollateralFormatError(AttestationError):
    """Bytes that are not DCAP collateral."""


class CollateralRefusedError(AttestationError):
    """Collateral that the root did not issue, or not for this time."""


class CollateralOlderError(AttestationError):
    """Genuine collateral that is older than what was known already."""


class TrustAnchorError(AttestationError):
    """A root that is not a root, or not the kind it is said to be."""


class PolicyRefusedError(AttestationError):
    """Genuine evidence that the attestation policy does not accept."""


class RatlsFormatError(AttestationError):
    """Bytes that are not an RA-TLS certificate."""


class RatlsRefusedError(AttestationError):
    """An RA-TLS certificate whose evidence or binding does not hold."""


def _words(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() or "nothing"
    return str(value)
