"""Every DCAP case of the external vectors, judged as strictly as it asks."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sealift.attestation import AttestationError, Rule, attest_verdict, verify_evidence

# The meaning of each reason in column `strict`, as one of our rules.
MEANINGS = {
    "debug": Rule.DEBUG,
    "SEPT_VE_DISABLE": Rule.TD_ATTRIBUTES,
    "no TCB level": Rule.TCB_LEVEL,
    "cert validity": Rule.CERTIFICATE_VALIDITY,
    "CRL expired": Rule.CRL_VALIDITY,
    "no CRL for": Rule.CRL_ISSUER,
    "tcbInfo id": Rule.TEE_TYPE,
    "FMSPC": Rule.FMSPC,
    "qeIdentity signature": Rule.QE_IDENTITY_SIGNATURE,
    "tcbInfo signature": Rule.TCB_INFO_SIGNATURE,
    "CRL signature": Rule.CRL_SIGNATURE,
    "version": Rule.QUOTE_VERSION,
    "key type": Rule.ATTESTATION_KEY_TYPE,
    "vendor": Rule.QE_VENDOR,
    "quote signature": Rule.QUOTE_SIGNATURE,
    "QE report data": Rule.QE_REPORT_DATA,
    "QE report signature": Rule.QE_REPORT_SIGNATURE,
    "unknown issuer": Rule.CERTIFICATE_SIGNATURE,
    "short": Rule.QUOTE_LENGTH,
    "length": Rule.QUOTE_LENGTH,
    # a root that is not the anchor: by key, whatever its name
    "cert signature": Rule.CHAIN_ROOT,
    "TCB revoked": Rule.TCB_REVOKED,
    "revoked": Rule.CERTIFICATE_REVOKED,
    "QE svn": Rule.QE_IDENTITY_MISMATCH,
    "QE attributes": Rule.QE_IDENTITY_MISMATCH,
}


def _ids() -> list[str]:
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("SEALIFT_VECTORS", root / "shared" / "vectors"))
    file = folder / "dcap" / "cases.json"
    if not file.is_file():
        return ["absent"]  # the fixture `vectors` skips or fails
    return [each["id"] for each in json.loads(file.read_text())]


@pytest.mark.parametrize("name", _ids())
def test_dcap_case_reaches_the_strict_verdict(name: str, case: Any) -> None:
    it = case(name)
    if not it.strict.startswith("reject: "):
        verified = verify_evidence(it.quote, **it.arguments)
        assert verified.status == it.strict
        assert verified.advisories == it.advisories
        return
    reason = it.strict.removeprefix("reject: ")
    wanted = next(rule for words, rule in MEANINGS.items() if reason.startswith(words))
    with pytest.raises(AttestationError) as refused:
        verify_evidence(it.quote, **it.arguments)
    assert wanted in refused.value.rules
    assert all(each.got and each.expected for each in refused.value.failures)


@pytest.mark.parametrize("name", _ids())
def test_verdict_for_people_agrees(name: str, case: Any, lenient: Any) -> None:
    it = case(name)
    files = {"collateral": it.collateral_json, "root": it.root, "now": it.now}
    verdict = attest_verdict(quote=it.quote, policy=None, **files)
    rejected = it.strict.startswith("reject")
    assert verdict.verdict == ("reject" if rejected else "accept")
    assert verdict.status == ("" if rejected else it.strict)
    assert verdict.genuine is not rejected
    assert bool(verdict.refused_rules) is rejected
    nobody = lenient(accepted_tcb_statuses=())
    assert attest_verdict(quote=it.quote, policy=nobody, **files).verdict == "reject"
