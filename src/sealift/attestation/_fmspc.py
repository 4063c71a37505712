"""Which collateral a quote needs: its model of processor, before anything is known."""

from typing import Literal

import dcap_qvl

from ._certificates import common_name, parse_pem_chain
from ._quote import parse_quote
from ._rules import AttestationError, QuoteFormatError, Rule, failure

_FMSPC_BYTES = 6


def quote_fmspc(quote: bytes) -> bytes:
    """The FMSPC (6 bytes) in a quote's PCK certificate; **nothing is verified**.

    Only for choosing one's own collateral: :func:`verify_quote` then refuses a
    quote whose certificates are not genuine, or are of another model.

    Raises:
        QuoteFormatError: Not a quote, or no SGX extension in its certificate.
    """
    chain = parse_quote(quote).pck_chain
    try:
        fmspc = bytes(dcap_qvl.parse_pck_extension_from_pem(chain).fmspc)
    except (ValueError, TypeError) as error:
        got = str(error)[:120]
        raise _no_model(got) from error
    if len(fmspc) != _FMSPC_BYTES:
        raise _no_model(f"an FMSPC of {len(fmspc)} B")
    return fmspc


def quote_pck_ca(quote: bytes) -> Literal["platform", "processor"]:
    """Which of Intel's CAs issued a quote's PCK certificate; **nothing is verified**.

    Only for asking for the right revocation list.

    Raises:
        QuoteFormatError: Not a quote, or its chain is not of the SGX profile.
    """
    chain = parse_quote(quote).pck_chain
    try:
        name = common_name(parse_pem_chain(chain, length=3)[1])
    except AttestationError as error:
        raise QuoteFormatError("the quote names no CA", error.failures) from error
    return "processor" if "Processor" in name else "platform"


def _no_model(got: str) -> QuoteFormatError:
    wanted = "a PCK certificate with an SGX extension"
    return QuoteFormatError(
        "the quote names no model", [failure(Rule.CERTIFICATE_PROFILE, got, wanted)]
    )
