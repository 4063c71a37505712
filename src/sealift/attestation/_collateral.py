"""DCAP collateral: what Intel says about a platform model, and until when.

:func:`verify_collateral` judges it without any quote, for the L1 registry.
Sources: facts §1.4 items 2-6; Intel PCS API v4; dcap-qvl ``QuoteCollateralV3``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Annotated, Final

import msgspec
from cryptography import x509

from sealift.base import (
    DecodeError,
    InvariantError,
    Message,
    UnixSeconds,
    decode,
    encode,
)

from ._anchor import TrustAnchor, open_anchor
from ._certificates import (
    Crl,
    chain_failures,
    common_name,
    crl_failures,
    moment_of,
    parse_pem_chain,
    public_key_der,
    revocation_failures,
    signature_holds,
)
from ._quote import Tee
from ._rules import (
    AttestationError,
    CollateralFormatError,
    CollateralOlderError,
    CollateralRefusedError,
    Failure,
    Rule,
    failure,
)

#: No collateral is larger (Intel's has about 20 kB).
MAX_COLLATERAL_BYTES = 2 * 1024 * 1024
TCB_SIGNING_NAMES = ("SGX TCB Signing",)
ROOT_NAMES = ("SGX Root CA",)
PCK_CA_NAMES = ("SGX PCK Platform CA", "SGX PCK Processor CA")
_TCB_INFO_VERSION = 3
_CRLS = 2
_SIGNATURE = 64
_SEAL: Final = object()

_Chain = Annotated[str, msgspec.Meta(max_length=32 * 1024)]
_Signature = Annotated[
    bytes, msgspec.Meta(min_length=_SIGNATURE, max_length=_SIGNATURE)
]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Collateral(Message, kw_only=True):
    """Everything that judging a quote needs beside it, as Intel signed it.

    ``tcb_info`` and ``qe_identity`` are the exact signed JSON texts; chains are
    PEM, leaf first; CRLs are DER; signatures are r‖s.
    """

    pck_crl_issuer_chain: _Chain
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: _Chain
    tcb_info: str
    tcb_info_signature: _Signature
    qe_identity_issuer_chain: _Chain
    qe_identity: str
    qe_identity_signature: _Signature


class CollateralMarks(Message, kw_only=True):
    """What of a model's collateral never falls: dates and running numbers."""

    tcb_info_issued: UnixSeconds
    qe_identity_issued: UnixSeconds
    tcb_evaluation_data_number: _Count
    qe_evaluation_data_number: _Count
    pck_crl_number: int
    root_crl_number: int


class _CollateralJson(msgspec.Struct, frozen=True, kw_only=True):
    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


class TcbInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is read of TCB info; dcap-qvl judges its levels."""

    id: str
    version: int
    issue_date: _Moment
    next_update: _Moment
    fmspc: Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{12}$")]
    pce_id: Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{4}$")]
    tcb_type: int
    tcb_evaluation_data_number: _Count


class QeIdentity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is read of a QE identity; dcap-qvl judges its levels."""

    id: str
    version: int
    issue_date: _Moment
    next_update: _Moment
    tcb_evaluation_data_number: _Count


_IDS: dict[str, tuple[Tee, str, tuple[int, ...]]] = {
    "SGX": ("sgx", "QE", (2,)),
    "TDX": ("tdx", "TD_QE", (2, 3)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCollateral:
    """Collateral that leads to the anchor and holds at the given time.

    Guaranteed: chains, CRLs, signatures and dates (facts §1.4, 2-6). Owed by
    the caller: that no mark falls below what it knew (:func:`verify_not_older`).
    Only :func:`verify_collateral` makes it.
    """

    collateral: Collateral
    anchor: TrustAnchor
    tee: Tee
    fmspc: bytes
    pce_id: bytes
    pck_ca: str
    marks: CollateralMarks
    earliest_expiration: UnixSeconds
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise InvariantError("only verify_collateral makes VerifiedCollateral")


def parse_collateral(data: bytes) -> Collateral:
    """Parse the JSON that dcap-qvl and PCCS clients write (binary as hex).

    Raises:
        CollateralFormatError: Not such a document.
    """
    try:
        if len(data) > MAX_COLLATERAL_BYTES:
            raise _format_error(f"{len(data)} B", f"≤ {MAX_COLLATERAL_BYTES} B")
        raw = msgspec.json.decode(data, type=_CollateralJson)
        collateral = Collateral(
            pck_crl_issuer_chain=raw.pck_crl_issuer_chain,
            root_ca_crl=bytes.fromhex(raw.root_ca_crl),
            pck_crl=bytes.fromhex(raw.pck_crl),
            tcb_info_issuer_chain=raw.tcb_info_issuer_chain,
            tcb_info=raw.tcb_info,
            tcb_info_signature=bytes.fromhex(raw.tcb_info_signature),
            qe_identity_issuer_chain=raw.qe_identity_issuer_chain,
            qe_identity=raw.qe_identity,
            qe_identity_signature=bytes.fromhex(raw.qe_identity_signature),
        )
        return decode(Collateral, encode(collateral))  # checks every limit
    except (msgspec.MsgspecError, DecodeError, ValueError, RecursionError) as error:
        raise _format_error(str(error)[:120], "QuoteCollateralV3 JSON") from error


def render_collateral(collateral: Collateral) -> bytes:
    """The inverse of :func:`parse_collateral`."""
    return msgspec.json.encode(
        _CollateralJson(
            pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
            root_ca_crl=collateral.root_ca_crl.hex(),
            pck_crl=collateral.pck_crl.hex(),
            tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
            tcb_info=collateral.tcb_info,
            tcb_info_signature=collateral.tcb_info_signature.hex(),
            qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
            qe_identity=collateral.qe_identity,
            qe_identity_signature=collateral.qe_identity_signature.hex(),
        )
    )


def verify_collateral(
    collateral: Collateral, *, root: TrustAnchor, now: UnixSeconds
) -> VerifiedCollateral:
    """Judge collateral without a quote.

    1. The anchor is a self-signed SGX root of its kind.
    2. Three chains of two certificates fit the profile, hold at ``now`` and end
       in the anchor: PCK CA, TCB signing, TCB signing.
    3. Root CRL by the anchor, PCK CRL by the PCK CA: issuer, signature, dates.
    4. No certificate is revoked; none has an unknown status.
    5. TCB info: signature over its exact bytes by the TCB signing leaf, dates,
       id and version, TCB type 0.
    6. QE identity: the same; its id fits the TCB info's.

    Args:
        collateral: As parsed.
        root: The trust anchor.
        now: Seconds; must come from a clock that the caller trusts.

    Raises:
        TrustAnchorError: The root itself is not acceptable.
        CollateralRefusedError: With every broken rule.
    """
    anchor = open_anchor(root)  # 1
    examined = examine_collateral(collateral, anchor, now=now)
    return conclude_collateral(examined, root)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedCollateral:
    """What an examination found: failures, and whatever could be read."""

    collateral: Collateral
    anchor: x509.Certificate
    failures: tuple[Failure, ...]
    chains: tuple[tuple[x509.Certificate, ...], ...]
    crls: Mapping[bytes, Crl]
    info: TcbInfo | None
    identity: QeIdentity | None

    def revocations(self, chain: Sequence[x509.Certificate]) -> list[Failure]:
        """What the CRLs say about a chain; nothing if a CRL itself is refused."""
        if len(self.crls) < _CRLS:
            return []
        return revocation_failures(chain, self.crls)

    @property
    def tee(self) -> Tee | None:
        """The TEE that the TCB info speaks of."""
        known = None if self.info is None else _IDS.get(self.info.id)
        return None if known is None else known[0]


def examine_collateral(
    collateral: Collateral, anchor: x509.Certificate, *, now: UnixSeconds
) -> ExaminedCollateral:
    """Steps 2 to 6 of :func:`verify_collateral`, without a verdict."""
    found: list[Failure] = []
    chains = tuple(  # 2
        _open_chain(pem, names, anchor, now=now, leaf_depth=depth, found=found)
        for pem, names, depth in (
            (collateral.pck_crl_issuer_chain, PCK_CA_NAMES, 1),
            (collateral.tcb_info_issuer_chain, TCB_SIGNING_NAMES, 0),
            (collateral.qe_identity_issuer_chain, TCB_SIGNING_NAMES, 0),
        )
    )
    pck_chain, tcb_chain, qe_chain = chains
    lists = [(collateral.root_ca_crl, anchor)]  # 3
    if pck_chain:
        lists.append((collateral.pck_crl, pck_chain[0]))
    crls: dict[bytes, Crl] = {}
    for der, issuer in lists:
        crl, wrong = crl_failures(der, issuer, now=now)
        found += wrong
        if crl is not None:
            crls[crl.issuer_key] = crl
    if len(crls) == _CRLS:  # 4; otherwise the reason was reported already
        for chain in chains:
            found += revocation_failures(chain, crls)
    info = _open_tcb_info(collateral, tcb_chain, now=now, found=found)  # 5
    identity = _open_qe_identity(collateral, qe_chain, info, now=now, found=found)  # 6
    return ExaminedCollateral(
        collateral=collateral,
        anchor=anchor,
        failures=tuple(dict.fromkeys(found)),
        chains=chains,
        crls=crls,
        info=info,
        identity=identity,
    )


def conclude_collateral(
    examined: ExaminedCollateral, root: TrustAnchor
) -> VerifiedCollateral:
    """The verdict over an examination.

    Raises:
        CollateralRefusedError: It found anything.
    """
    info, identity = examined.info, examined.identity
    if examined.failures or info is None or identity is None:
        raise CollateralRefusedError("collateral refused", examined.failures)
    issuer = examined.chains[0][0]
    return VerifiedCollateral(
        collateral=examined.collateral,
        anchor=root,
        tee=_IDS[info.id][0],
        fmspc=bytes.fromhex(info.fmspc),
        pce_id=bytes.fromhex(info.pce_id),
        pck_ca=common_name(issuer),
        marks=CollateralMarks(
            tcb_info_issued=_seconds(info.issue_date),
            qe_identity_issued=_seconds(identity.issue_date),
            tcb_evaluation_data_number=info.tcb_evaluation_data_number,
            qe_evaluation_data_number=identity.tcb_evaluation_data_number,
            pck_crl_number=examined.crls[public_key_der(issuer)].number,
            root_crl_number=examined.crls[public_key_der(examined.anchor)].number,
        ),
        earliest_expiration=min(
            _seconds(info.next_update),
            _seconds(identity.next_update),
            *(UnixSeconds(crl.next_update) for crl in examined.crls.values()),
            *(
                _seconds(each.not_valid_after_utc)
                for chain in examined.chains
                for each in chain
            ),
        ),
        seal=_SEAL,
    )


def verify_not_older(marks: CollateralMarks, *, than: CollateralMarks) -> None:
    """Return only if no date and no number fell below what was known.

    Raises:
        CollateralOlderError: With every mark that fell.
    """
    fallen = [
        failure(
            Rule.COLLATERAL_OLDER,
            f"{name} {getattr(marks, name)}",
            f"≥ {getattr(than, name)}",
        )
        for name in CollateralMarks.__struct_fields__
        if getattr(marks, name) < getattr(than, name)
    ]
    if fallen:
        raise CollateralOlderError("collateral is older than known", fallen)


def _open_chain(
    pem: str,
    names: tuple[str, ...],
    anchor: x509.Certificate,
    *,
    now: UnixSeconds,
    leaf_depth: int,
    found: list[Failure],
) -> tuple[x509.Certificate, ...]:
    try:
        chain = parse_pem_chain(pem.encode(errors="replace"), length=2)
    except AttestationError as error:
        found += error.failures
        return ()
    found += chain_failures(
        chain, anchor, names=(names, ROOT_NAMES), now=now, leaf_depth=leaf_depth
    )
    return chain


def _open_tcb_info(
    collateral: Collateral,
    chain: Sequence[x509.Certificate],
    *,
    now: UnixSeconds,
    found: list[Failure],
) -> TcbInfo | None:
    text = collateral.tcb_info.encode(errors="replace")
    if chain and not signature_holds(chain[0], collateral.tcb_info_signature, text):
        found.append(
            failure(Rule.TCB_INFO_SIGNATURE, "invalid", "by the TCB signing leaf")
        )
    try:
        info = msgspec.json.decode(text, type=TcbInfo)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        found.append(failure(Rule.TCB_INFO_FORMAT, str(error)[:120], "TCB info v3"))
        return None
    if info.id not in _IDS or info.version != _TCB_INFO_VERSION or info.tcb_type != 0:
        found.append(
            failure(
                Rule.TCB_INFO_FORMAT,
                f"{info.id[:16]} version {info.version} type {info.tcb_type}",
                "SGX or TDX, version 3, type 0",
            )
        )
    found += _date_failures(Rule.TCB_INFO_VALIDITY, info, now)
    return info


def _open_qe_identity(
    collateral: Collateral,
    chain: Sequence[x509.Certificate],
    info: TcbInfo | None,
    *,
    now: UnixSeconds,
    found: list[Failure],
) -> QeIdentity | None:
    text = collateral.qe_identity.encode(errors="replace")
    if chain and not signature_holds(chain[0], collateral.qe_identity_signature, text):
        found.append(
            failure(Rule.QE_IDENTITY_SIGNATURE, "invalid", "by the TCB signing leaf")
        )
    try:
        identity = msgspec.json.decode(text, type=QeIdentity)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        found.append(failure(Rule.QE_IDENTITY_FORMAT, str(error)[:120], "QE identity"))
        return None
    if info is not None and info.id in _IDS:
        _, wanted, versions = _IDS[info.id]
        if identity.id != wanted or identity.version not in versions:
            found.append(
                failure(
                    Rule.QE_IDENTITY_FORMAT,
                    f"{identity.id[:16]} version {identity.version}",
                    f"{wanted} version {versions}",
                )
            )
    found += _date_failures(Rule.QE_IDENTITY_VALIDITY, identity, now)
    return identity


def _date_failures(
    rule: Rule, dated: TcbInfo | QeIdentity, now: UnixSeconds
) -> list[Failure]:
    moment = moment_of(now)
    if dated.issue_date <= moment <= dated.next_update:
        return []
    window = f"{dated.issue_date} … {dated.next_update}"
    return [failure(rule, moment.isoformat(), window)]


def _seconds(moment: datetime) -> UnixSeconds:
    return UnixSeconds(max(0, int(moment.timestamp())))


def _format_error(got: str, expected: str) -> CollateralFormatError:
    return CollateralFormatError(
        "not collateral", [failure(Rule.COLLATERAL_FORMAT, got, expected)]
    )
