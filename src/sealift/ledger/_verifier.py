"""The real judge of evidence, behind the ledger's port."""

from sealift.attestation import (
    AttestationError,
    Collateral,
    CollateralRefusedError,
    QuoteRefusedError,
    TrustAnchor,
    VerifiedQuote,
    quote_fmspc,
    verify_collateral,
    verify_quote,
)
from sealift.base import UnixSeconds, canonical_decode

from ._ports import CollateralVerdict


class DcapVerifier:
    """Judges quotes and collateral by :mod:`sealift.attestation`.

    Roots are tried in their order; the refusal is that of the last one.
    """

    def quote_fmspc(self, quote: bytes) -> bytes:
        """The FMSPC a quote claims, unverified.

        Raises:
            AttestationError: Not a quote.
        """
        return quote_fmspc(quote)

    def verify_quote(
        self,
        quote: bytes,
        *,
        collateral: bytes,
        anchors: tuple[TrustAnchor, ...],
        now: UnixSeconds,
    ) -> VerifiedQuote:
        """Evidence that is genuine under one of the roots.

        Raises:
            AttestationError: Under none, with every broken rule.
            DecodeError: Collateral that cannot be read.
        """
        known = canonical_decode(Collateral, collateral)
        refusal: AttestationError = QuoteRefusedError("no root to judge by", ())
        for root in anchors:
            try:
                return verify_quote(quote, collateral=known, root=root, now=now)
            except AttestationError as error:
                refusal = error
        raise refusal

    def verify_collateral(
        self, collateral: bytes, *, anchors: tuple[TrustAnchor, ...], now: UnixSeconds
    ) -> CollateralVerdict:
        """What the collateral is for, if one of the roots issued it.

        Raises:
            AttestationError: None did, with every broken rule.
            DecodeError: It cannot be read.
        """
        given = canonical_decode(Collateral, collateral)
        refusal: AttestationError = CollateralRefusedError("no root to judge by", ())
        for root in anchors:
            try:
                verified = verify_collateral(given, root=root, now=now)
            except AttestationError as error:
                refusal = error
                continue
            return CollateralVerdict(
                fmspc=verified.fmspc,
                tee=verified.tee,
                anchor=root.kind,
                marks=verified.marks,
            )
        raise refusal
