"""Quotes: bytes, collateral, root and time in; a narrower type out.

Two verifiers must agree: this guard (certificates, revocation, signatures and
bindings by pyca, and the checks that dcap-qvl lacks, facts §1.3) and dcap-qvl
(all of that again, QE identity, TCB levels and TDX modules, convergence).
"""

from dataclasses import InitVar, dataclass
from typing import Final, Literal, TypeAlias, TypedDict

import dcap_qvl
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
)

from sealift.base import (
    Fingerprint,
    InvariantError,
    MrSigner,
    PlatformId,
    UnixSeconds,
)
from sealift.crypto import constant_time_equal, sha256, statement_preimage

from ._anchor import AnchorKind, TrustAnchor, open_anchor
from ._certificates import (
    chain_failures,
    ecdsa_holds,
    parse_pem_chain,
    signature_holds,
)
from ._collateral import (
    PCK_CA_NAMES,
    ROOT_NAMES,
    Collateral,
    CollateralMarks,
    ExaminedCollateral,
    TcbInfo,
    VerifiedCollateral,
    conclude_collateral,
    examine_collateral,
)
from ._quote import Quote, ReportBody, TdReport, Tee, parse_quote
from ._rules import (
    AttestationError,
    Failure,
    QuoteRefusedError,
    Rule,
    failure,
)

#: Domain of the preimage of a platform id.
PLATFORM_ID_DOMAIN = "sealift/platform-id/v1"
_PCK_NAMES = ("SGX PCK Certificate",)
_SEAL: Final = object()
_UNCOMPRESSED = b"\x04"
_HALF = 32

TcbStatus: TypeAlias = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]

# What dcap-qvl says, by the beginning or a part of its message.
_DCAP_RULES = (
    ("QE report hash mismatch", Rule.QE_REPORT_DATA),
    ("Signature is invalid for qe_report", Rule.QE_REPORT_SIGNATURE),
    ("QE report validation failed", Rule.QE_IDENTITY_MISMATCH),
    ("from QE Identity", Rule.QE_IDENTITY_MISMATCH),
    ("QE ISVSVN", Rule.QE_IDENTITY_MISMATCH),
    ("report signature is invalid", Rule.QUOTE_SIGNATURE),
    ("TCB status is invalid: Revoked", Rule.TCB_REVOKED),
    ("No matching TCB level", Rule.TCB_LEVEL),
    ("Fmspc mismatch", Rule.FMSPC),
    ("Debug mode", Rule.DEBUG),
    ("SEPT_VE_DISABLE", Rule.TD_ATTRIBUTES),
)


class _Tcb(msgspec.Struct, frozen=True, kw_only=True):
    status: TcbStatus
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class _Pck(msgspec.Struct, frozen=True, kw_only=True):
    ppid: tuple[int, ...]
    cpu_svn: tuple[int, ...]
    pce_svn: int
    pce_id: tuple[int, ...]
    fmspc: tuple[int, ...]


class _Platform(msgspec.Struct, frozen=True, kw_only=True):
    pck: _Pck
    tcb_date_tag: int
    pck_crl_num: int
    root_ca_crl_num: int


class _SgxReport(msgspec.Struct, frozen=True, kw_only=True):
    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int
    attributes: str
    report_data: str


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    tcb: _Tcb
    platform: _Platform
    report: dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """Genuine evidence of either TEE: who vouches, for which platform, how well.

    ``status`` is never ``Revoked``; a debug enclave is never verified. Owed by
    the caller: freshness (``report_data``), the policy, the identity.
    Only the verifiers of this package make it.
    """

    tee: Tee
    anchor: AnchorKind
    status: TcbStatus
    advisories: tuple[str, ...]
    platform_id: PlatformId
    fmspc: bytes
    pce_id: bytes
    pck_cpu_svn: bytes
    pck_pce_svn: int
    tcb_date: UnixSeconds
    tcb_evaluation_data_number: int
    marks: CollateralMarks
    earliest_expiration: UnixSeconds
    report_data: bytes
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise InvariantError("only a verifier makes verified evidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote(VerifiedEvidence):
    """A genuine quote of an SGX enclave that nobody can debug."""

    mrenclave: Fingerprint
    mrsigner: MrSigner
    isv_prod_id: int
    isv_svn: int
    cpu_svn: bytes
    attributes: bytes
    misc_select: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedTdQuote(VerifiedEvidence):
    """A genuine quote of a TDX trust domain that nobody can debug."""

    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    td_attributes: bytes


def verify_quote(
    quote: bytes, *, collateral: Collateral, root: TrustAnchor, now: UnixSeconds
) -> VerifiedQuote:
    """Verify an SGX quote; the steps are those of :func:`verify_evidence`.

    Raises:
        QuoteFormatError: Not a quote.
        TrustAnchorError: The root itself is not acceptable.
        QuoteRefusedError: With every rule that was found broken.
    """
    verified = verify_evidence(quote, collateral=collateral, root=root, now=now)
    if not isinstance(verified, VerifiedQuote):
        raise QuoteRefusedError(
            "quote refused", [failure(Rule.TEE_TYPE, verified.tee, "sgx")]
        )
    return verified


def verify_evidence(
    quote: bytes, *, collateral: Collateral, root: TrustAnchor, now: UnixSeconds
) -> VerifiedQuote | VerifiedTdQuote:
    """Verify a quote of either TEE: genuine under ``root``, at ``now``.

    1. The quote is one of versions 3 to 5, of exact length.
    2. The collateral holds (:func:`verify_collateral`) and fits the TEE.
    3. PCK chain: three certificates of the profile, names, validity, anchor; no
       one revoked; issued by the CA whose CRL is at hand.
    4. FMSPC and PCEID of the PCK certificate are those of the TCB info.
    5. QE report signed by the PCK key; it commits to the attestation key.
    6. Quote signed by the attestation key.
    7. Not a debug enclave.
    8. dcap-qvl finds the same, judges QE identity, TCB level and TDX module,
       and reads the same identity.

    Args:
        quote: Raw bytes.
        collateral: The registry's own, not whatever came with the quote.
        root: The trust anchor.
        now: Seconds; must come from a clock that the caller trusts.

    Raises:
        QuoteFormatError: Not a quote.
        TrustAnchorError: The root itself is not acceptable.
        QuoteRefusedError: With every rule that was found broken.
    """
    parsed = parse_quote(quote)  # 1
    anchor = open_anchor(root)
    found: list[Failure] = []
    examined = examine_collateral(collateral, anchor, now=now)  # 2
    found += examined.failures
    if examined.tee not in {None, parsed.tee}:
        found.append(
            failure(Rule.TEE_TYPE, f"collateral of {examined.tee}", parsed.tee)
        )
    found += _pck_failures(parsed, examined, now)  # 3, 4, 5
    if not _raw_key_signed(
        parsed.attestation_key, parsed.signature, parsed.signed
    ):  # 6
        found.append(failure(Rule.QUOTE_SIGNATURE, "invalid", "by the attestation key"))
    if parsed.report.debug:  # 7
        found.append(failure(Rule.DEBUG, "a debug enclave", "no debug attribute"))
    claims = _ask_dcap(quote, collateral, root, now, found)  # 8
    if claims is not None:
        found += _disagreements(parsed, claims)
    if found or claims is None:
        raise QuoteRefusedError("quote refused", list(dict.fromkeys(found)))
    return _conclude(parsed, claims, conclude_collateral(examined, root))


def platform_id_of(ppid: bytes) -> PlatformId:
    """The id of a machine: SHA-256 over a domain and its PPID.

    The PPID (16 bytes, in the PCK certificate) derives from fused secrets: it
    outlives TCB recovery, re-registration and owner changes. Nothing that the
    owner can renew (platform instance id, PCK key, TCB) takes part, so one
    machine is one platform, and has one vote.
    """
    return PlatformId(sha256(statement_preimage(PLATFORM_ID_DOMAIN, ppid)))


def _pck_failures(
    parsed: Quote, examined: ExaminedCollateral, now: UnixSeconds
) -> list[Failure]:
    try:
        chain = parse_pem_chain(parsed.pck_chain, length=3)
    except AttestationError as error:
        return list(error.failures)
    names = (_PCK_NAMES, PCK_CA_NAMES, ROOT_NAMES)
    found = chain_failures(chain, examined.anchor, names=names, now=now)
    found += examined.revocations(chain)
    found += _model_failures(parsed, examined.info)
    if not signature_holds(
        chain[0], parsed.qe_report_signature, parsed.qe_report_bytes
    ):
        found.append(
            failure(Rule.QE_REPORT_SIGNATURE, "invalid", "by the PCK certificate's key")
        )
    bound = sha256(parsed.attestation_key + parsed.qe_auth_data) + bytes(_HALF)
    if not constant_time_equal(bound, parsed.qe_report.report_data):
        found.append(failure(Rule.QE_REPORT_DATA, parsed.qe_report.report_data, bound))
    return found


def _model_failures(parsed: Quote, info: TcbInfo | None) -> list[Failure]:
    if info is None:
        return []
    try:
        extension = dcap_qvl.parse_pck_extension_from_pem(parsed.pck_chain)
        fmspc, pce_id = bytes(extension.fmspc), bytes(extension.pce_id)
    except (ValueError, TypeError) as error:
        return [
            failure(Rule.CERTIFICATE_PROFILE, str(error)[:120], "SGX PCK extension")
        ]
    found = []
    if fmspc.hex() != info.fmspc.lower():
        found.append(failure(Rule.FMSPC, info.fmspc, fmspc))
    if pce_id.hex() != info.pce_id.lower():
        found.append(failure(Rule.PCE_ID, info.pce_id, pce_id))
    return found


def _ask_dcap(
    quote: bytes,
    collateral: Collateral,
    root: TrustAnchor,
    now: UnixSeconds,
    found: list[Failure],
) -> _Claims | None:
    try:
        verifier = dcap_qvl.QuoteVerifier(root.root_der)
        claims: str = verifier.verify_with_policy(
            quote,
            dcap_qvl.QuoteCollateralV3(
                collateral.pck_crl_issuer_chain,
                collateral.root_ca_crl,
                collateral.pck_crl,
                collateral.tcb_info_issuer_chain,
                collateral.tcb_info,
                collateral.tcb_info_signature,
                collateral.qe_identity_issuer_chain,
                collateral.qe_identity,
                collateral.qe_identity_signature,
            ),
            now,
            dcap_qvl.QuotePolicy.claims_only(now),
        ).to_json()
        return msgspec.json.decode(claims, type=_Claims)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError) as error:
        said = str(error).removeprefix("Verification failed: ")[:160]
        rule = next((rule for part, rule in _DCAP_RULES if part in said), Rule.DCAP_QVL)
        known = {each.rule for each in found}
        if rule not in known and not (rule is Rule.DCAP_QVL and known):
            found.append(failure(rule, said, "acceptance by dcap-qvl"))
        return None


def _disagreements(parsed: Quote, claims: _Claims) -> list[Failure]:
    """What dcap-qvl read otherwise than the parser above; never happens."""
    if isinstance(parsed.report, TdReport):
        return []
    try:
        seen = msgspec.json.decode(claims.report["SgxEnclave"], type=_SgxReport)
    except (KeyError, msgspec.MsgspecError) as error:
        return [failure(Rule.DCAP_QVL, str(error)[:120], "an SGX report")]
    mine = parsed.report
    same = (
        seen.mr_enclave == mine.mr_enclave.hex()
        and seen.mr_signer == mine.mr_signer.hex()
        and seen.isv_prod_id == mine.isv_prod_id
        and seen.isv_svn == mine.isv_svn
        and seen.attributes == mine.attributes.hex()
        and seen.report_data == mine.report_data.hex()
    )
    return [] if same else [failure(Rule.DCAP_QVL, "another report", "the same report")]


def _conclude(
    parsed: Quote, claims: _Claims, collateral: VerifiedCollateral
) -> VerifiedQuote | VerifiedTdQuote:
    pck = claims.platform.pck
    common = _Common(
        tee=parsed.tee,
        anchor=collateral.anchor.kind,
        status=claims.tcb.status,
        advisories=tuple(sorted(set(claims.tcb.advisory_ids))),
        platform_id=platform_id_of(bytes(pck.ppid)),
        fmspc=collateral.fmspc,
        pce_id=collateral.pce_id,
        pck_cpu_svn=bytes(pck.cpu_svn),
        pck_pce_svn=pck.pce_svn,
        tcb_date=UnixSeconds(claims.platform.tcb_date_tag),
        tcb_evaluation_data_number=claims.tcb.eval_data_number,
        marks=collateral.marks,
        earliest_expiration=collateral.earliest_expiration,
        report_data=parsed.report.report_data,
        seal=_SEAL,
    )
    report = parsed.report
    if isinstance(report, ReportBody):
        return VerifiedQuote(
            mrenclave=report.mr_enclave,
            mrsigner=report.mr_signer,
            isv_prod_id=report.isv_prod_id,
            isv_svn=report.isv_svn,
            cpu_svn=report.cpu_svn,
            attributes=report.attributes,
            misc_select=report.misc_select,
            **common,
        )
    return VerifiedTdQuote(
        mr_td=report.mr_td,
        rtmrs=report.rtmrs,
        td_attributes=report.td_attributes,
        **common,
    )


class _Common(TypedDict):
    """The fields of :class:`VerifiedEvidence`."""

    tee: Tee
    anchor: AnchorKind
    status: TcbStatus
    advisories: tuple[str, ...]
    platform_id: PlatformId
    fmspc: bytes
    pce_id: bytes
    pck_cpu_svn: bytes
    pck_pce_svn: int
    tcb_date: UnixSeconds
    tcb_evaluation_data_number: int
    marks: CollateralMarks
    earliest_expiration: UnixSeconds
    report_data: bytes
    seal: object


def _raw_key_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether r‖s is a P-256 signature over ``data`` by the raw key x‖y."""
    try:
        public = EllipticCurvePublicKey.from_encoded_point(
            SECP256R1(), _UNCOMPRESSED + key
        )
    except ValueError:
        return False
    return ecdsa_holds(public, signature, data)
