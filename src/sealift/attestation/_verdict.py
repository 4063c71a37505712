"""One verdict in plain words, for ``sealift attest verify`` and the like."""

from typing import Literal

from sealift.base import Message, UnixSeconds

from ._anchor import parse_trust_anchor
from ._collateral import parse_collateral
from ._policy import Policy, judge
from ._rules import AttestationError
from ._verify import VerifiedEvidence, VerifiedQuote, VerifiedTdQuote, verify_evidence


class AttestVerdict(Message, kw_only=True):
    """What a person or script wants to know of a quote; bytes are hex.

    Fields of the evidence are empty where the evidence was not genuine.
    ``refused_rules`` has the names of all broken rules.
    """

    verdict: Literal["accept", "reject"]
    reason: str
    refused_rules: tuple[str, ...] = ()
    genuine: bool = False
    tee: str = ""
    anchor: str = ""
    status: str = ""
    advisories: tuple[str, ...] = ()
    mrenclave: str = ""
    mrsigner: str = ""
    isv_prod_id: int | None = None
    isv_svn: int | None = None
    mr_td: str = ""
    report_data: str = ""
    platform_id: str = ""
    fmspc: str = ""
    tcb_date: int | None = None
    tcb_evaluation_data_number: int | None = None
    earliest_expiration: int | None = None


def attest_verdict(
    *,
    quote: bytes,
    collateral: bytes,
    root: bytes,
    now: UnixSeconds,
    policy: Policy | None,
) -> AttestVerdict:
    """Judge a quote from files: never raises for anything in them.

    Without a policy, ``accept`` means that the quote is genuine, whatever its
    TCB status short of revoked. With one, heights are not judged: a file has
    none.

    Args:
        quote: Raw quote.
        collateral: dcap-qvl's JSON.
        root: Root certificate, DER or PEM.
        now: Seconds at which to judge.
        policy: None to ask only whether the quote is genuine.
    """
    verified: VerifiedQuote | VerifiedTdQuote | None = None
    try:
        anchor = parse_trust_anchor(root)
        parsed = parse_collateral(collateral)
        verified = verify_evidence(quote, collateral=parsed, root=anchor, now=now)
        if policy is not None:
            judge(verified, policy, heights=None)
    except AttestationError as error:
        return _verdict("reject", str(error), error, verified)
    return _verdict("accept", "", None, verified)


def _verdict(
    verdict: Literal["accept", "reject"],
    reason: str,
    error: AttestationError | None,
    verified: VerifiedEvidence | None,
) -> AttestVerdict:
    refused = (
        ()
        if error is None
        else tuple(dict.fromkeys(str(f.rule) for f in error.failures))
    )
    if verified is None:
        return AttestVerdict(verdict=verdict, reason=reason, refused_rules=refused)
    sgx = verified if isinstance(verified, VerifiedQuote) else None
    tdx = verified if isinstance(verified, VerifiedTdQuote) else None
    return AttestVerdict(
        verdict=verdict,
        reason=reason or f"genuine, TCB status {verified.status}",
        refused_rules=refused,
        genuine=True,
        tee=verified.tee,
        anchor=verified.anchor,
        status=verified.status,
        advisories=verified.advisories,
        mrenclave=sgx.mrenclave.hex() if sgx else "",
        mrsigner=sgx.mrsigner.hex() if sgx else "",
        isv_prod_id=sgx.isv_prod_id if sgx else None,
        isv_svn=sgx.isv_svn if sgx else None,
        mr_td=tdx.mr_td.hex() if tdx else "",
        report_data=verified.report_data.hex(),
        platform_id=verified.platform_id.hex(),
        fmspc=verified.fmspc.hex(),
        tcb_date=verified.tcb_date,
        tcb_evaluation_data_number=verified.tcb_evaluation_data_number,
        earliest_expiration=verified.earliest_expiration,
    )
