"""Evidence in, verdict out: DCAP quotes and collateral, policies, RA-TLS.

Every verifier takes collateral, root and time as required arguments and returns
a type that only it can make, or an error that names every broken rule.
"""

from ._anchor import AnchorKind, TrustAnchor, parse_trust_anchor
from ._certificates import CertificateFormatError
from ._collateral import (
    Collateral,
    CollateralMarks,
    VerifiedCollateral,
    parse_collateral,
    render_collateral,
    verify_collateral,
    verify_not_older,
)
from ._policy import (
    Attested,
    AttestedHeights,
    JudgedQuote,
    Policy,
    judge,
    policy_failures,
)
from ._quote import (
    ATTRIBUTE_DEBUG,
    REPORT_BODY_BYTES,
    REPORT_DATA_BYTES,
    Quote,
    ReportBody,
    TdReport,
    Tee,
    parse_quote,
    parse_report_body,
)
from ._rules import (
    AttestationError,
    CollateralFormatError,
    CollateralOlderError,
    CollateralRefusedError,
    Failure,
    PolicyRefusedError,
    QuoteFormatError,
    QuoteRefusedError,
    Rule,
    TrustAnchorError,
)
from ._verdict import AttestVerdict, attest_verdict
from ._verify import (
    TcbStatus,
    VerifiedEvidence,
    VerifiedQuote,
    VerifiedTdQuote,
    platform_id_of,
    verify_evidence,
    verify_quote,
)

__all__ = [
    "ATTRIBUTE_DEBUG",
    "REPORT_BODY_BYTES",
    "REPORT_DATA_BYTES",
    "AnchorKind",
    "AttestVerdict",
    "AttestationError",
    "Attested",
    "AttestedHeights",
    "CertificateFormatError",
    "Collateral",
    "CollateralFormatError",
    "CollateralMarks",
    "CollateralOlderError",
    "CollateralRefusedError",
    "Failure",
    "JudgedQuote",
    "Policy",
    "PolicyRefusedError",
    "Quote",
    "QuoteFormatError",
    "QuoteRefusedError",
    "ReportBody",
    "Rule",
    "TcbStatus",
    "TdReport",
    "Tee",
    "TrustAnchor",
    "TrustAnchorError",
    "VerifiedCollateral",
    "VerifiedEvidence",
    "VerifiedQuote",
    "VerifiedTdQuote",
    "attest_verdict",
    "judge",
    "parse_collateral",
    "parse_quote",
    "parse_report_body",
    "parse_trust_anchor",
    "platform_id_of",
    "policy_failures",
    "render_collateral",
    "verify_collateral",
    "verify_evidence",
    "verify_not_older",
    "verify_quote",
]
