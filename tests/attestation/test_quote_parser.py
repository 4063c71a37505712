"""Quotes and report bodies: strict, total, and the same there and back."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.attestation import (
    QuoteFormatError,
    ReportBody,
    Rule,
    TdReport,
    parse_quote,
    parse_report_body,
)
from sealift.base import InvariantError


def body(**changes: Any) -> ReportBody:
    fields: dict[str, Any] = {
        "cpu_svn": bytes(range(16)),
        "misc_select": 1,
        "attributes": bytes([5]) + bytes(15),
        "mr_enclave": b"e" * 32,
        "mr_signer": b"s" * 32,
        "isv_prod_id": 7,
        "isv_svn": 3,
        "report_data": b"d" * 64,
    }
    return ReportBody(**(fields | changes))


def test_real_quotes_read_as_their_measurements_say(case: Any) -> None:
    it = case("001-")
    quote = parse_quote(it.quote)
    assert (quote.version, quote.tee, quote.qe_svn, quote.pce_svn) == (3, "sgx", 10, 15)
    report = quote.report
    assert isinstance(report, ReportBody)
    assert report.mr_enclave.hex().startswith("33d8736db756ed49")
    assert report.mr_signer.hex().startswith("815f42f11cf64430")
    assert report.report_data.startswith(b"Hello, world!")
    assert (report.isv_prod_id, report.isv_svn, report.debug) == (0, 0, False)
    assert quote.qe_report.isv_svn == 10
    assert quote.pck_chain.endswith(b"-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(("name", "version"), [("025-", 4), ("039-", 5), ("043-", 5)])
def test_td_reports_are_read_from_versions_4_and_5(
    name: str, version: int, case: Any
) -> None:
    quote = parse_quote(case(name).quote)
    assert (quote.version, quote.tee) == (version, "tdx")
    assert isinstance(quote.report, TdReport)
    assert len(quote.report.mr_td) == 48
    assert all(len(rtmr) == 48 for rtmr in quote.report.rtmrs)
    assert not quote.report.debug


@given(st.binary(min_size=384, max_size=384))
def test_report_body_is_the_same_there_and_back(data: bytes) -> None:
    assert parse_report_body(data).encode() == data


@pytest.mark.parametrize("size", [0, 383, 385])
def test_report_body_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(QuoteFormatError, match="384 B"):
        parse_report_body(bytes(size))


@pytest.mark.parametrize(
    "wrong",
    [{"mr_enclave": b"short"}, {"report_data": bytes(65)}, {"cpu_svn": bytes(17)}],
)
def test_report_body_never_pads_or_cuts_a_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvariantError, match="wrong size"):
        body(**wrong).encode()


def test_report_fields_stand_where_the_sdm_puts_them() -> None:
    data = body().encode()
    assert data[48:64] == body().attributes
    assert data[64:96] == b"e" * 32
    assert data[128:160] == b"s" * 32
    assert data[256:260] == bytes([7, 0, 3, 0])
    assert data[320:384] == b"d" * 64


@given(st.binary(max_size=2000))
@settings(max_examples=200)
def test_any_bytes_are_a_quote_or_a_refusal(data: bytes) -> None:
    with pytest.raises(QuoteFormatError):
        parse_quote(data)


@given(data=st.data())
@settings(max_examples=150)
def test_a_damaged_header_or_length_never_crashes_the_parser(
    data: st.DataObject, case: Any
) -> None:
    it = case(data.draw(st.sampled_from(["001-", "025-", "039-", "043-"])))
    damaged = bytearray(it.quote)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(QuoteFormatError):
        parsed = parse_quote(bytes(damaged[:cut]))
        assert parsed.signed == bytes(damaged[: len(parsed.signed)])


@pytest.mark.parametrize("name", ["001-", "025-", "039-"])
def test_every_cut_and_every_tail_is_refused_by_length(name: str, case: Any) -> None:
    quote = case(name).quote
    for size in (*range(0, 1100, 7), len(quote) - 1):
        with pytest.raises(QuoteFormatError) as refused:
            parse_quote(quote[:size])
        assert refused.value.rules == {Rule.QUOTE_LENGTH}
    with pytest.raises(QuoteFormatError) as refused:
        parse_quote(quote + b"\x00")
    assert refused.value.rules == {Rule.QUOTE_LENGTH}


def test_bytes_inside_the_signature_section_cannot_hide(case: Any) -> None:
    quote = case("001-").quote
    size = int.from_bytes(quote[432:436], "little") + 4
    padded = quote[:432] + size.to_bytes(4, "little") + quote[436:] + b"junk"
    with pytest.raises(QuoteFormatError) as refused:
        parse_quote(padded)
    assert refused.value.rules == {Rule.QUOTE_LENGTH}


@pytest.mark.parametrize(
    ("name", "offset", "value", "rule"),
    [
        ("001-", 0, 6, Rule.QUOTE_VERSION),
        ("001-", 2, 3, Rule.ATTESTATION_KEY_TYPE),
        ("001-", 4, 0x81, Rule.TEE_TYPE),
        ("025-", 4, 0x00, Rule.TEE_TYPE),
        ("001-", 12, 0, Rule.QE_VENDOR),
        ("001-", 1046, 3, Rule.QUOTE_FORMAT),
        ("025-", 764, 5, Rule.QUOTE_FORMAT),
        ("039-", 48, 1, Rule.QUOTE_FORMAT),
        ("039-", 50, 0, Rule.QUOTE_FORMAT),
    ],
)
def test_an_unknown_kind_of_quote_is_refused_by_name(
    name: str, offset: int, value: int, rule: Rule, case: Any
) -> None:
    quote = bytearray(case(name).quote)
    quote[offset] = value
    with pytest.raises(QuoteFormatError) as refused:
        parse_quote(bytes(quote))
    assert rule in refused.value.rules


def test_all_broken_rules_of_a_header_are_named(case: Any) -> None:
    quote = bytearray(case("001-").quote)
    quote[0], quote[2], quote[12] = 9, 9, 9
    with pytest.raises(QuoteFormatError) as refused:
        parse_quote(bytes(quote))
    assert refused.value.rules >= {
        Rule.QUOTE_VERSION,
        Rule.ATTESTATION_KEY_TYPE,
        Rule.QE_VENDOR,
    }


def test_a_quote_larger_than_any_is_not_looked_at() -> None:
    with pytest.raises(QuoteFormatError, match="65536"):
        parse_quote(bytes(65537))
