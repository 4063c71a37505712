"""Letting former code take part in an audit (DESIGN §13)."""

from collections.abc import Iterable
from typing import Final

from sealift.attestation import (
    Collateral,
    TrustAnchor,
    VerifiedQuote,
    quote_fmspc,
    verify_quote,
)
from sealift.base import canonical_decode, decode
from sealift.crypto import constant_time_equal
from sealift.protocol import (
    AuditStatement,
    CollateralRecord,
    ScheduleEntry,
    ShardStatus,
    collateral_key,
)

from ._entitled import judge_auditee
from ._errors import AuditNonceError, KeyBindingError, NotProvenError
from ._ports import ProvenState

#: Which kind of root vouches for which platform.
PLATFORM_ANCHOR: Final = {"insecure-sim": "insecure-sim", "gramine-sgx": "intel"}


def verify_auditee(
    quote: bytes,
    statement: AuditStatement,
    *,
    invited: AuditStatement,
    entry: ScheduleEntry,
    status: ShardStatus,
    platform: str,
    anchors: Iterable[TrustAnchor],
    state: ProvenState,
) -> VerifiedQuote:
    """The verified quote of an auditee that may be given its range.

    1. Its statement answers this invitation: chain, shard, generation, nonce.
    2. L1 has collateral of its platform, and a measured root vouches for that.
    3. The quote is genuine, by L1's own collateral, at the present's block time.
    4. It is over this very statement, so that only this process can open what is
    sealed to the key in it. 5. :func:`judge_auditee`.

    Args:
        quote: Raw.
        statement: The auditee's.
        invited: What it must say, but for its key.
        entry: Of the generation that is audited.
        status: The shard's now.
        platform: The kind of platform that auditor and auditee run on.
        anchors: The measured roots.
        state: The present, with the collateral.

    Raises:
        AuditNonceError: 1.
        NotProvenError: 2: no collateral.
        KeyBindingError: 2: no root; or 4.
        AttestationError: 3, with every rule that was broken.
        ProvisioningError: 5, as :func:`judge_auditee`.
    """
    # 1.
    said = (statement.chain_id, statement.shard, statement.generation, statement.nonce)
    if said != (invited.chain_id, invited.shard, invited.generation, invited.nonce):
        raise AuditNonceError(
            "the auditee's statement is of another invitation",
            got=f"generation {statement.generation}, nonce {statement.nonce.hex()}",
            expected=f"generation {invited.generation}, nonce {invited.nonce.hex()}",
            hint="Start the code afresh for every range.",
        )
    # 2.
    raw = state.values.get(collateral_key(quote_fmspc(quote)))
    if raw is None:
        raise NotProvenError(
            "collateral of the auditee's platform is not on L1, or was not proven",
            expected=f"a proof of its presence after block {state.height}",
        )
    anchor = next((a for a in anchors if PLATFORM_ANCHOR.get(platform) == a.kind), None)
    if anchor is None:
        raise KeyBindingError("no measured root for this platform", got=platform)
    # 3.
    held = decode(CollateralRecord, raw)
    verified = verify_quote(
        quote,
        collateral=canonical_decode(Collateral, held.collateral),
        root=anchor,
        now=state.time,
    )
    # 4.
    if not constant_time_equal(verified.report_data, statement.report_data()):
        raise KeyBindingError(
            "the quote is over another statement",
            got=verified.report_data,
            expected=statement.report_data().hex(),
        )
    # 5.
    judge_auditee(
        verified, entry, platform=platform, status=status, height=state.height
    )
    return verified
