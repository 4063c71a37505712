"""Forged, revoked, stale and borrowed quotes, each refused by its rule."""

import dataclasses
import json
from typing import Any

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.attestation import (
    AttestationError,
    QuoteRefusedError,
    Rule,
    TrustAnchor,
    TrustAnchorError,
    VerifiedQuote,
    attest_verdict,
    parse_quote,
    parse_trust_anchor,
    platform_id_of,
    render_collateral,
    verify_evidence,
    verify_quote,
)
from sealift.base import InvariantError


def refused(quote: bytes, **arguments: Any) -> frozenset[Rule]:
    with pytest.raises(QuoteRefusedError) as error:
        verify_quote(quote, **arguments)
    return error.value.rules


def dcap_accepts(quote: bytes, sim: Any, collateral: Any) -> bool:
    """Whether dcap-qvl alone would have accepted: what the guard is for."""
    made = dcap_qvl.QuoteCollateralV3.from_json(render_collateral(collateral).decode())
    try:
        dcap_qvl.verify_with_root_ca(quote, made, sim.root.root_der, sim.now)
    except ValueError:
        return False
    return True


def test_a_simulated_quote_is_genuine_under_the_simulators_root(sim: Any) -> None:
    data = bytes(range(64))
    verified = verify_quote(sim.quote(data), **sim.arguments)
    assert verified.anchor == "insecure-sim"
    assert (verified.tee, verified.status) == ("sgx", "UpToDate")
    assert verified.advisories == ()
    assert verified.mrenclave == bytes([0xAA]) * 32
    assert verified.mrsigner == bytes([0xBB]) * 32
    assert (verified.isv_prod_id, verified.isv_svn) == (7, 3)
    assert verified.report_data == data
    assert verified.platform_id == platform_id_of(sim.ppid)
    assert verified.fmspc == sim.intel.fmspc
    assert verified.tcb_evaluation_data_number == 1
    assert verified.marks.tcb_info_issued == sim.now
    assert verified.earliest_expiration == sim.now + 30 * 86400


# --- who may speak ---


def test_simulated_evidence_is_never_intels_whatever_the_anchor_says(sim: Any) -> None:
    lie = TrustAnchor(root_der=sim.root.root_der, kind="intel")
    with pytest.raises(TrustAnchorError, match="insecure-sim"):
        verify_quote(sim.quote(), collateral=sim.collateral(), root=lie, now=sim.now)


def test_intels_root_is_known_by_its_key(case: Any) -> None:
    it = case("001-")
    assert it.anchor.kind == "intel"
    assert verify_quote(it.quote, **it.arguments).anchor == "intel"
    lie = TrustAnchor(root_der=it.root, kind="insecure-sim")
    with pytest.raises(TrustAnchorError, match="intel"):
        verify_quote(it.quote, collateral=it.collateral, root=lie, now=it.now)


@pytest.mark.parametrize(
    "junk", [b"", b"root", bytes(600), b"-----BEGIN CERTIFICATE-----"]
)
def test_a_root_that_is_no_certificate_is_refused(junk: bytes, sim: Any) -> None:
    with pytest.raises(TrustAnchorError):
        parse_trust_anchor(junk)
    with pytest.raises(TrustAnchorError):
        verify_quote(
            sim.quote(),
            collateral=sim.collateral(),
            root=TrustAnchor(root_der=junk, kind="insecure-sim"),
            now=sim.now,
        )


def test_an_intermediate_is_no_root(sim: Any) -> None:
    for der in (sim.state.ca_cert, sim.state.tcb_cert):
        anchor = parse_trust_anchor(der)
        with pytest.raises(TrustAnchorError, match="self-signed"):
            verify_quote(
                sim.quote(), collateral=sim.collateral(), root=anchor, now=sim.now
            )


def test_a_root_reads_the_same_in_pem(sim: Any) -> None:
    assert parse_trust_anchor(sim.pem(sim.root.root_der).encode()) == sim.root


def test_another_intel_with_the_same_names_vouches_for_nothing(
    sim: Any, tmp_path: Any
) -> None:
    other = type(sim)(tmp_path / "other")
    assert Rule.CHAIN_ROOT in refused(
        other.quote(), collateral=other.collateral(), root=sim.root, now=sim.now
    )
    # its quote with this Intel's collateral, and the reverse
    assert Rule.CHAIN_ROOT in refused(other.quote(), **sim.arguments)
    assert Rule.CHAIN_ROOT in refused(
        sim.quote(), collateral=other.collateral(), root=sim.root, now=sim.now
    )


def test_a_stolen_pck_key_cannot_sign_tcb_info_for_itself(sim: Any) -> None:
    chain = sim.pem(sim.pck, sim.state.root_cert)
    for name, made in (
        ("tcb_info", sim.resigned_info(sim.pck_key)),
        ("qe_identity", sim.resigned_identity(sim.pck_key)),
    ):
        changed = sim.collateral(**made, **{f"{name}_issuer_chain": chain})
        rules = refused(sim.quote(), collateral=changed, root=sim.root, now=sim.now)
        assert Rule.CERTIFICATE_NAME in rules


def test_a_pck_chain_of_three_as_tcb_issuer_is_refused(sim: Any) -> None:
    """The very attack that dcap-qvl 0.7.0 accepts (facts §1.3, first row)."""
    chain = sim.pem(sim.pck, sim.state.ca_cert, sim.state.root_cert)
    made = sim.resigned_info(sim.pck_key, tcbEvaluationDataNumber=99)
    changed = sim.collateral(**made, tcb_info_issuer_chain=chain)
    assert dcap_accepts(sim.quote(), sim, changed)
    rules = refused(sim.quote(), collateral=changed, root=sim.root, now=sim.now)
    assert Rule.CHAIN_LENGTH in rules


def test_a_tcb_signer_is_no_pck(sim: Any) -> None:
    chain = sim.pem(sim.state.tcb_cert, sim.state.ca_cert, sim.state.root_cert)
    rules = refused(sim.quote(chain=chain), **sim.arguments)
    assert {Rule.CERTIFICATE_NAME, Rule.CERTIFICATE_SIGNATURE} <= rules


@pytest.mark.parametrize("order", ["leaf alone", "reversed", "doubled root", "junk"])
def test_a_pck_chain_has_one_shape(order: str, sim: Any) -> None:
    parts = [sim.pem(d) for d in (sim.pck, sim.state.ca_cert, sim.state.root_cert)]
    chain = {
        "leaf alone": parts[0],
        "reversed": "".join(reversed(parts)),
        "doubled root": "".join([*parts, parts[2]]),
        "junk": "".join([parts[0], "junk\n", parts[1], parts[2]]),
    }[order]
    rules = refused(sim.quote(chain=chain), **sim.arguments)
    assert rules & {
        Rule.CHAIN_LENGTH,
        Rule.CERTIFICATE_FORMAT,
        Rule.CERTIFICATE_SIGNATURE,
    }


# --- what it is about ---


def test_tcb_info_of_another_pce_is_refused(sim: Any) -> None:
    changed = sim.collateral(**sim.resigned_info(pceId="0001"))
    assert dcap_accepts(sim.quote(), sim, changed)
    rules = refused(sim.quote(), collateral=changed, root=sim.root, now=sim.now)
    assert rules == {Rule.PCE_ID}


def test_tcb_info_of_another_model_is_refused(sim: Any) -> None:
    changed = sim.collateral(**sim.resigned_info(fmspc="00906ED50000"))
    rules = refused(sim.quote(), collateral=changed, root=sim.root, now=sim.now)
    assert rules == {Rule.FMSPC}


def test_an_unknown_tcb_type_is_refused(sim: Any) -> None:
    changed = sim.collateral(**sim.resigned_info(tcbType=7))
    assert dcap_accepts(sim.quote(), sim, changed)
    rules = refused(sim.quote(), collateral=changed, root=sim.root, now=sim.now)
    assert rules == {Rule.TCB_INFO_FORMAT}


def test_collateral_for_trust_domains_does_not_judge_enclaves(case: Any) -> None:
    rules = refused(case("001-").quote, **case("025-").arguments)
    assert Rule.TEE_TYPE in rules


def test_a_trust_domain_is_no_enclave(case: Any) -> None:
    it = case("025-")
    assert verify_evidence(it.quote, **it.arguments).tee == "tdx"
    assert refused(it.quote, **it.arguments) == {Rule.TEE_TYPE}


def test_a_debug_enclave_is_refused_and_nothing_can_allow_it(
    sim: Any, lenient: Any
) -> None:
    assert refused(sim.quote(flags=0x07), **sim.arguments) == {Rule.DEBUG}
    verdict = attest_verdict(
        quote=sim.quote(flags=0x07),
        collateral=render_collateral(sim.collateral()),
        root=sim.root.root_der,
        now=sim.now,
        policy=lenient(),
    )
    assert verdict.verdict == "reject"
    assert verdict.refused_rules == ("no debug",)
    assert not any("debug" in name for name in dir(lenient()))


# --- what Intel took back ---


def test_a_revoked_platform_is_refused(sim: Any) -> None:
    quote = sim.quote()
    verify_quote(quote, **sim.arguments)
    sim.intel.revoke_pck(sim.pck)
    assert refused(quote, **sim.arguments) == {Rule.CERTIFICATE_REVOKED}


def test_a_revoked_platform_ca_is_refused(sim: Any) -> None:
    sim.intel.revoke_platform_ca()
    assert refused(sim.quote(), **sim.arguments) == {Rule.CERTIFICATE_REVOKED}


def test_an_old_crl_cannot_unrevoke_after_it_expired(sim: Any) -> None:
    old = sim.collateral()
    sim.intel.revoke_pck(sim.pck)
    fresh = sim.intel.collateral(now=sim.now + 31 * 86400)
    mixed = sim.collateral(
        now=sim.now + 31 * 86400, pck_crl=old.pck_crl, root_ca_crl=old.root_ca_crl
    )
    assert fresh["pck_crl"] != old.pck_crl.hex()
    rules = refused(
        sim.quote(), collateral=mixed, root=sim.root, now=sim.now + 31 * 86400
    )
    assert rules == {Rule.CRL_VALIDITY}


def test_the_roots_crl_is_no_pck_crl(sim: Any) -> None:
    made = sim.collateral()
    swapped = sim.collateral(pck_crl=made.root_ca_crl, root_ca_crl=made.pck_crl)
    rules = refused(sim.quote(), collateral=swapped, root=sim.root, now=sim.now)
    assert {Rule.CRL_ISSUER, Rule.CRL_SIGNATURE} <= rules


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded"])
def test_tcb_recovery_shows_in_status_and_advisories(status: Any, sim: Any) -> None:
    sim.intel.set_tcb_status(status, advisories=("INTEL-SA-2", "INTEL-SA-1"))
    verified = verify_quote(sim.quote(), **sim.arguments)
    assert verified.status == status
    assert verified.advisories == ("INTEL-SA-1", "INTEL-SA-2")
    assert verified.tcb_evaluation_data_number == 2


def test_a_revoked_tcb_is_refused_without_any_policy(sim: Any) -> None:
    sim.intel.set_tcb_status("Revoked")
    assert refused(sim.quote(), **sim.arguments) == {Rule.TCB_REVOKED}


def test_a_platform_keeps_its_id_through_tcb_recovery(sim: Any) -> None:
    before = verify_quote(sim.quote(), **sim.arguments)
    svn = sim.intel.tcb_recovery(now=sim.now, advisories=("INTEL-SA-9",))
    stale = verify_quote(sim.quote(), **sim.arguments)
    renewed = sim.issue_pck(svn, instance=b"factory reset!!!")
    after = verify_quote(sim.quote(pck=renewed, cpu_svn=svn), **sim.arguments)
    assert (stale.status, after.status) == ("OutOfDate", "UpToDate")
    assert before.platform_id == stale.platform_id == after.platform_id


# --- time ---


def test_a_clock_set_back_or_forward_is_refused(sim: Any) -> None:
    made = sim.collateral()
    for now in (sim.now - 1, sim.now + 30 * 86400 + 1, 0, 2**40):
        rules = refused(sim.quote(), collateral=made, root=sim.root, now=now)
        assert {Rule.CRL_VALIDITY, Rule.TCB_INFO_VALIDITY} <= rules
    for now in (sim.now, sim.now + 30 * 86400 - 1):  # a CRL ends at its end
        verify_quote(sim.quote(), collateral=made, root=sim.root, now=now)


def test_a_moment_that_no_calendar_has_is_refused(sim: Any) -> None:
    for now in (2**62, 2**63 - 1):
        rules = refused(
            sim.quote(), collateral=sim.collateral(), root=sim.root, now=now
        )
        assert Rule.TCB_INFO_VALIDITY in rules


# --- every byte counts ---


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_changed_byte_of_a_real_quote_is_never_accepted(
    data: st.DataObject, case: Any
) -> None:
    it = case(data.draw(st.sampled_from(["001-", "004-", "025-", "039-"])))
    damaged = bytearray(it.quote)
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AttestationError):
        verify_evidence(bytes(damaged), **it.arguments)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_of_two_real_quotes_are_never_accepted(
    data: st.DataObject, case: Any
) -> None:
    """Cut and paste: every field is genuine, together they are not."""
    one, two = case("001-"), case("003-")
    start = data.draw(st.integers(0, 1000))
    end = data.draw(st.integers(start + 1, 1052))
    mixed = one.quote[:start] + two.quote[start:end] + one.quote[end:]
    if mixed in {one.quote, two.quote}:
        return
    with pytest.raises(AttestationError):
        verify_evidence(mixed, **one.arguments)


def test_unused_bits_of_base64_are_no_second_spelling(case: Any) -> None:
    it = case("001-")  # the length of a fresh certificate may need no padding
    quote = it.quote
    padded = [i for i in range(len(quote)) if quote[i : i + 2] == b"=\n"]
    assert padded
    place = padded[0] - 1 - (quote[padded[0] - 1] == ord("="))
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(quote[place]) ^ 1]
    changed = quote[:place] + bytes([other]) + quote[place + 1 :]
    assert refused(changed, **it.arguments) & {
        Rule.CERTIFICATE_FORMAT,
        Rule.CERTIFICATE_SIGNATURE,
    }


def test_a_certificate_outside_the_profile_is_refused(sim: Any) -> None:
    """A PCK leaf without extensions, properly signed by a CA's stolen key."""
    ca = x509.load_der_x509_certificate(sim.state.ca_cert)
    real = x509.load_der_x509_certificate(sim.pck)
    bare = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(ca.subject)
        .public_key(sim.pck_key.public_key())
        .serial_number(77)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .sign(_key(sim.state.ca_key), SHA256())
        .public_bytes(Encoding.DER)
    )
    assert Rule.CERTIFICATE_PROFILE in refused(sim.quote(pck=bare), **sim.arguments)


def test_all_broken_rules_are_named_at_once(sim: Any) -> None:
    sim.intel.revoke_pck(sim.pck)
    made = sim.collateral(**sim.resigned_info(pceId="0001", fmspc="00906ED50000"))
    quote = bytearray(sim.quote(flags=0x07))
    quote[436] ^= 1
    assert refused(bytes(quote), collateral=made, root=sim.root, now=sim.now) >= {
        Rule.CERTIFICATE_REVOKED,
        Rule.PCE_ID,
        Rule.FMSPC,
        Rule.DEBUG,
        Rule.QUOTE_SIGNATURE,
    }


def test_a_refusal_says_what_was_seen_and_wanted(sim: Any) -> None:
    made = sim.collateral(**sim.resigned_info(pceId="0001"))
    with pytest.raises(QuoteRefusedError) as error:
        verify_quote(sim.quote(), collateral=made, root=sim.root, now=sim.now)
    assert str(error.value) == "quote refused: PCEID: got 0001, expected 0000"


def test_verified_quotes_cannot_be_made_elsewhere(sim: Any) -> None:
    verified = verify_quote(sim.quote(), **sim.arguments)
    fields = {
        each.name: getattr(verified, each.name)
        for each in dataclasses.fields(VerifiedQuote)
    }
    with pytest.raises(InvariantError):
        VerifiedQuote(**fields, seal=object())
    with pytest.raises((InvariantError, ValueError)):
        dataclasses.replace(verified, status="UpToDate")
    with pytest.raises(dataclasses.FrozenInstanceError):
        verified.status = "UpToDate"  # type: ignore[misc]


@given(quote=st.binary(max_size=300), collateral=st.binary(max_size=300))
@settings(max_examples=60)
def test_a_verdict_over_any_files_never_raises(quote: bytes, collateral: bytes) -> None:
    verdict = attest_verdict(
        quote=quote, collateral=collateral, root=quote, now=1, policy=None
    )
    assert verdict.verdict == "reject"
    assert verdict.reason
    assert json.dumps(verdict.refused_rules)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def test_two_verifiers_that_read_differently_accept_nothing(
    sim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were dcap-qvl to report another enclave, its acceptance would not count."""
    quote = sim.quote()
    monkeypatch.setattr(
        "sealift.attestation._verify.parse_quote",
        lambda data: dataclasses.replace(
            parse_quote(data),
            report=dataclasses.replace(parse_quote(data).report, isv_svn=99),
        ),
    )
    assert refused(quote, **sim.arguments) == {Rule.DCAP_QVL}
