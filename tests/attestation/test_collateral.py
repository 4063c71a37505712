"""Collateral by itself: what the L1 registry accepts, and what never falls."""

import dataclasses
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.attestation import (
    CertificateFormatError,
    Collateral,
    CollateralFormatError,
    CollateralMarks,
    CollateralOlderError,
    CollateralRefusedError,
    Rule,
    TrustAnchorError,
    VerifiedCollateral,
    parse_collateral,
    render_collateral,
    verify_collateral,
    verify_not_older,
)
from sealift.attestation._certificates import parse_certificate, parse_pem_chain
from sealift.base import DecodeError, InvariantError, canonical_decode, encode


def refused(
    collateral: Collateral, sim: Any, now: int | None = None
) -> frozenset[Rule]:
    with pytest.raises(CollateralRefusedError) as error:
        verify_collateral(collateral, root=sim.root, now=now or sim.now)
    return error.value.rules


REAL = ["001-", "003-", "004-", "005-", "023-", "024-", "025-", "039-", "041-", "043-"]


@pytest.mark.parametrize("name", REAL)
def test_real_collateral_holds_and_shows_its_marks(name: str, case: Any) -> None:
    it = case(name)
    verified = verify_collateral(it.collateral, root=it.anchor, now=it.now)
    info = json.loads(it.collateral.tcb_info)
    assert verified.fmspc.hex() == info["fmspc"].lower()
    assert verified.pce_id.hex() == info["pceId"]
    assert verified.tee == ("sgx" if info["id"] == "SGX" else "tdx")
    assert verified.pck_ca.startswith("Intel SGX PCK P")
    marks = verified.marks
    assert marks.tcb_evaluation_data_number == info["tcbEvaluationDataNumber"]
    assert marks.pck_crl_number >= 1
    assert marks.root_crl_number >= 1
    assert marks.tcb_info_issued <= it.now <= verified.earliest_expiration


@pytest.mark.parametrize("name", REAL)
def test_collateral_is_the_same_there_and_back(name: str, case: Any) -> None:
    collateral = case(name).collateral
    assert parse_collateral(render_collateral(collateral)) == collateral
    assert canonical_decode(Collateral, encode(collateral)) == collateral
    assert json.loads(render_collateral(collateral)) == json.loads(
        case(name).collateral_json
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_collateral_or_a_refusal(data: bytes) -> None:
    with pytest.raises(CollateralFormatError):
        parse_collateral(data)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_collateral_is_refused_by_a_sealift_error(
    data: st.DataObject, case: Any
) -> None:
    it = case("001-")
    fields = msgspec.structs.asdict(it.collateral)
    name = data.draw(st.sampled_from(sorted(fields)))
    value = fields[name]
    place = data.draw(st.integers(0, len(value) - 1))
    if isinstance(value, str):
        other = data.draw(st.characters(exclude_characters=value[place] + "\r\n"))
        changed: object = value[:place] + other + value[place + 1 :]
    else:
        flip = value[place] ^ data.draw(st.integers(1, 255))
        changed = value[:place] + bytes([flip]) + value[place + 1 :]
    damaged = msgspec.structs.replace(it.collateral, **{name: changed})
    with pytest.raises(CollateralRefusedError):
        verify_collateral(damaged, root=it.anchor, now=it.now)


@pytest.mark.parametrize("name", list(Collateral.__struct_fields__))
def test_no_field_may_be_missing_or_of_another_type(name: str, sim: Any) -> None:
    raw = json.loads(render_collateral(sim.collateral()))
    for wrong in (None, 7, ["x"]):
        with pytest.raises(CollateralFormatError):
            parse_collateral(json.dumps(raw | {name: wrong}).encode())
    del raw[name]
    with pytest.raises(CollateralFormatError):
        parse_collateral(json.dumps(raw).encode())


@pytest.mark.parametrize("size", [0, 63, 65])
def test_signatures_have_64_bytes(size: int, sim: Any) -> None:
    raw = json.loads(render_collateral(sim.collateral()))
    with pytest.raises(CollateralFormatError):
        parse_collateral(json.dumps(raw | {"tcb_info_signature": "00" * size}).encode())
    changed = msgspec.structs.replace(sim.collateral(), tcb_info_signature=bytes(size))
    with pytest.raises(DecodeError):
        canonical_decode(Collateral, encode(changed))


def test_collateral_larger_than_any_is_not_looked_at() -> None:
    with pytest.raises(CollateralFormatError, match="2097152"):
        parse_collateral(b" " * (2 * 1024 * 1024 + 1))


# --- each rule, with everything else validly signed ---


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_the_signature_is_over_the_exact_text(name: str, sim: Any) -> None:
    made = sim.collateral()
    spaced = json.dumps(json.loads(getattr(made, name)))
    rules = refused(msgspec.structs.replace(made, **{name: spaced}), sim)
    assert rules == {
        Rule.TCB_INFO_SIGNATURE if name == "tcb_info" else Rule.QE_IDENTITY_SIGNATURE
    }


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"version": 2}, Rule.TCB_INFO_FORMAT),
        ({"id": "SNP"}, Rule.TCB_INFO_FORMAT),
        ({"tcbType": 1}, Rule.TCB_INFO_FORMAT),
        ({"fmspc": "00"}, Rule.TCB_INFO_FORMAT),
        ({"pceId": "zzzz"}, Rule.TCB_INFO_FORMAT),
        ({"issueDate": "soon"}, Rule.TCB_INFO_FORMAT),
        ({"issueDate": "2027-01-01T00:00:00"}, Rule.TCB_INFO_FORMAT),
        ({"tcbEvaluationDataNumber": -1}, Rule.TCB_INFO_FORMAT),
        ({"id": "TDX"}, Rule.QE_IDENTITY_FORMAT),
        ({"issueDate": "2077-01-01T00:00:00Z"}, Rule.TCB_INFO_VALIDITY),
        ({"nextUpdate": "2026-01-01T00:00:00Z"}, Rule.TCB_INFO_VALIDITY),
    ],
)
def test_tcb_info_signed_but_unfit_is_refused(
    change: dict[str, Any], rule: Rule, sim: Any
) -> None:
    assert refused(sim.collateral(**sim.resigned_info(**change)), sim) == {rule}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"id": "QVE"}, Rule.QE_IDENTITY_FORMAT),
        ({"version": 1}, Rule.QE_IDENTITY_FORMAT),
        ({"nextUpdate": 5}, Rule.QE_IDENTITY_FORMAT),
        ({"issueDate": "2077-01-01T00:00:00Z"}, Rule.QE_IDENTITY_VALIDITY),
        ({"nextUpdate": "2026-01-01T00:00:00Z"}, Rule.QE_IDENTITY_VALIDITY),
    ],
)
def test_a_qe_identity_signed_but_unfit_is_refused(
    change: dict[str, Any], rule: Rule, sim: Any
) -> None:
    assert refused(sim.collateral(**sim.resigned_identity(**change)), sim) == {rule}


def test_crls_must_be_their_issuers(sim: Any, tmp_path: Any) -> None:
    other = type(sim)(tmp_path / "other")
    made = sim.collateral()
    foreign = other.collateral()
    for name in ("pck_crl", "root_ca_crl"):
        changed = msgspec.structs.replace(made, **{name: getattr(foreign, name)})
        assert refused(changed, sim) == {Rule.CRL_SIGNATURE}
        broken = msgspec.structs.replace(made, **{name: b"no list"})
        assert refused(broken, sim) == {Rule.CRL_FORMAT}
        large = msgspec.structs.replace(made, **{name: bytes(1024 * 1024 + 1)})
        assert refused(large, sim) == {Rule.CRL_FORMAT}


def test_a_revoked_ca_is_refused_without_any_quote(sim: Any) -> None:
    sim.intel.revoke_platform_ca()
    assert refused(sim.collateral(), sim) == {Rule.CERTIFICATE_REVOKED}


@pytest.mark.parametrize(
    "field",
    ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"],
)
def test_issuer_chains_have_one_shape(field: str, sim: Any) -> None:
    leaf = sim.state.ca_cert if field.startswith("pck") else sim.state.tcb_cert
    root = sim.state.root_cert
    for chain in (
        "",
        sim.pem(leaf),
        sim.pem(root, leaf),
        sim.pem(leaf, root, root),
        sim.pem(leaf, root) + "junk",
        "junk" + sim.pem(leaf, root),
        sim.pem(leaf, root).replace("CERTIFICATE", "X509 CRL"),
        "\ud83d" + sim.pem(leaf, root),
    ):
        rules = refused(sim.collateral(**{field: chain}), sim)
        assert rules & {
            Rule.CHAIN_LENGTH,
            Rule.CERTIFICATE_FORMAT,
            Rule.CHAIN_ROOT,
        }


def test_a_root_that_is_none_is_named(sim: Any) -> None:
    wrong = msgspec.structs.replace(sim.root, root_der=b"none")
    with pytest.raises(TrustAnchorError):
        verify_collateral(sim.collateral(), root=wrong, now=sim.now)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_certificate_or_a_refusal(data: bytes) -> None:
    with pytest.raises(CertificateFormatError):
        parse_certificate(data)
    with pytest.raises(CertificateFormatError):
        parse_pem_chain(data, length=1)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_certificate_never_crashes_the_verifier(
    data: st.DataObject, case: Any
) -> None:
    it = case("001-")
    der = bytearray(it.root)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(der) - 1))
        der[place] ^= data.draw(st.integers(1, 255))
    if bytes(der) == it.root:
        return
    anchor = msgspec.structs.replace(it.anchor, root_der=bytes(der))
    with pytest.raises((TrustAnchorError, CollateralRefusedError)):
        verify_collateral(it.collateral, root=anchor, now=it.now)


# --- marks ---


def test_newer_collateral_may_follow_and_older_may_not(sim: Any) -> None:
    first = verify_collateral(sim.collateral(), root=sim.root, now=sim.now).marks
    sim.intel.revoke_pck(sim.pck)
    sim.intel.tcb_recovery(now=sim.now, advisories=("INTEL-SA-9",))
    later = sim.now + 60
    second = verify_collateral(
        sim.collateral(now=later), root=sim.root, now=later
    ).marks
    verify_not_older(second, than=first)
    verify_not_older(first, than=first)
    with pytest.raises(CollateralOlderError) as error:
        verify_not_older(first, than=second)
    assert len(error.value.failures) == 6
    assert error.value.rules == {Rule.COLLATERAL_OLDER}


@pytest.mark.parametrize("name", list(CollateralMarks.__struct_fields__))
def test_not_one_mark_may_fall(name: str) -> None:
    known = CollateralMarks(
        tcb_info_issued=10,
        qe_identity_issued=10,
        tcb_evaluation_data_number=10,
        qe_evaluation_data_number=10,
        pck_crl_number=10,
        root_crl_number=10,
    )
    fallen = msgspec.structs.replace(known, **{name: 9})
    with pytest.raises(CollateralOlderError, match=f"{name} 9"):
        verify_not_older(fallen, than=known)


def test_verified_collateral_cannot_be_made_elsewhere(sim: Any) -> None:
    verified = verify_collateral(sim.collateral(), root=sim.root, now=sim.now)
    fields = {
        each.name: getattr(verified, each.name)
        for each in dataclasses.fields(VerifiedCollateral)
    }
    with pytest.raises(InvariantError):
        VerifiedCollateral(**fields, seal=None)
