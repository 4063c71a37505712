"""Which collateral a quote needs, read from whatever comes."""

from typing import Any

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealift.attestation import QuoteFormatError, quote_fmspc, quote_pck_ca
from sealift.base import SealiftError

PCK = b"-----BEGIN CERTIFICATE-----"


def test_the_model_of_a_quote(sim: Any) -> None:
    assert quote_fmspc(sim.quote()) == sim.intel.fmspc


def test_the_model_of_real_quotes(case: Any) -> None:
    found = case("001")
    assert quote_fmspc(found.quote).hex() in found.collateral.tcb_info.lower()


def test_a_leaf_without_the_sgx_extension(sim: Any) -> None:
    state = sim.state
    chain = sim.pem(state.ca_cert, state.ca_cert, state.root_cert)
    with pytest.raises(QuoteFormatError):
        quote_fmspc(sim.quote(chain=chain))


def test_the_ca_of_real_and_simulated_quotes(sim: Any, case: Any) -> None:
    """Which revocation list is to be asked for."""
    assert quote_pck_ca(sim.quote()) == "platform"
    for case_id in ("001-", "003-", "005-"):
        found = case(case_id)
        issuer = found.collateral.pck_crl_issuer_chain
        assert quote_pck_ca(found.quote) in _name_of(issuer)


def _name_of(chain: str) -> str:
    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    return leaf.subject.rfc4514_string().lower()


@pytest.mark.parametrize("chain", ["x", PCK.decode(), "-----BEGIN X-----\n!!!!\n"])
def test_certificates_that_are_none(sim: Any, chain: str) -> None:
    with pytest.raises(QuoteFormatError):
        quote_fmspc(sim.quote(chain=chain))
    with pytest.raises(QuoteFormatError):
        quote_pck_ca(sim.quote(chain=chain))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_altered_quote_gives_six_bytes_or_an_error(sim: Any, data: Any) -> None:
    quote = bytearray(sim.quote())
    start = quote.find(PCK)
    at = data.draw(st.integers(0, len(quote) - 1) | st.integers(start, start + 1800))
    quote[at] = data.draw(st.integers(0, 255))
    for changed in (bytes(quote), bytes(quote[:at])):
        try:
            fmspc = quote_fmspc(changed)
        except SealiftError:
            continue
        assert len(fmspc) == 6


@given(data=st.binary(max_size=600))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(QuoteFormatError):
        quote_fmspc(data)
