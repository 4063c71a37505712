"""Simulated evidence is judged by the verifier of real evidence, unchanged."""

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509

from sealift.attestation import (
    QuoteRefusedError,
    Rule,
    parse_collateral,
    parse_trust_anchor,
    verify_collateral,
    verify_quote,
)
from sealift.crypto import system_entropy
from sealift.insecure_sim import (
    FMSPC,
    EinitError,
    SimIdentity,
    SimIntel,
    SimMachine,
    SimStateError,
)

NOW = 1_795_409_000
DATA = bytes(range(64))


def judge(
    intel: SimIntel, quote: bytes, *, now: int = NOW, root: bytes | None = None
) -> tuple[str, list[str]]:
    """What dcap-qvl says, with collateral issued at ``NOW``."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(
        intel.collateral_json(now=NOW).decode()
    )
    report = dcap_qvl.verify_with_root_ca(
        quote, collateral, root or intel.root_der, now
    )
    return report.status, report.advisory_ids


def test_a_simulated_quote_is_genuine_under_the_simulators_root(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    quote = machine.quote(identity, DATA)
    assert judge(intel, quote) == ("UpToDate", [])
    verified = verify_quote(
        quote,
        collateral=parse_collateral(intel.collateral_json(now=NOW)),
        root=parse_trust_anchor(intel.root_der),
        now=NOW,
    )
    assert verified.anchor == "insecure-sim"
    assert verified.mrenclave == identity.mrenclave
    assert verified.mrsigner == identity.mrsigner
    assert (verified.isv_prod_id, verified.isv_svn) == (1, 2)
    assert verified.report_data == DATA
    assert verified.cpu_svn == machine.cpu_svn
    assert verified.fmspc == FMSPC


def test_it_is_nothing_under_intels_root(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity, vectors: Path
) -> None:
    real = (vectors / "dcap" / "roots" / "intel_sgx_root_ca.der").read_bytes()
    with pytest.raises(ValueError, match="InvalidCrlSignature"):
        judge(intel, machine.quote(identity, DATA), root=real)


def test_it_is_nothing_under_another_simulators_root(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity, tmp_path: Path
) -> None:
    other = SimIntel(tmp_path / "other")
    with pytest.raises(ValueError, match="certificate chain"):
        judge(other, machine.quote(identity, DATA))


def test_names_say_that_they_are_simulated(
    intel: SimIntel, machine: SimMachine
) -> None:
    for der in (intel.root_der, machine.pck_certificate):
        certificate = x509.load_der_x509_certificate(der)
        assert (
            certificate.subject.rfc4514_string().split("CN=")[1].startswith("SIM SGX")
        )


@pytest.mark.parametrize("position", [12, 100, 112, 176, 304, 368, 440, 510, 600, 1020])
def test_a_changed_byte_of_a_quote_is_refused(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity, position: int
) -> None:
    quote = bytearray(machine.quote(identity, DATA))
    quote[position] ^= 1
    with pytest.raises(ValueError, match=r"."):
        judge(intel, bytes(quote))


def test_report_data_of_another_length_is_refused(
    machine: SimMachine, identity: SimIdentity
) -> None:
    with pytest.raises(EinitError, match="report data"):
        machine.quote(identity, b"short")


# --- time ---


def test_collateral_is_good_from_its_issue_until_its_next_update(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    quote = machine.quote(identity, DATA)
    assert judge(intel, quote, now=NOW + 30 * 86400 - 1)[0] == "UpToDate"
    for wrong in (NOW - 1, NOW + 30 * 86400 + 1):
        with pytest.raises(ValueError, match=r"."):
            judge(intel, quote, now=wrong)


@pytest.mark.parametrize("now", [1_600_000_000, 2_600_000_000, 3_400_000_000])
def test_simulated_time_may_stand_anywhere(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity, now: int
) -> None:
    verified = verify_quote(
        machine.quote(identity, DATA),
        collateral=parse_collateral(intel.collateral_json(now=now, lifetime=60)),
        root=parse_trust_anchor(intel.root_der),
        now=now + 59,
    )
    assert verified.status == "UpToDate"


def test_collateral_json_has_the_fields_of_pccs_clients(intel: SimIntel) -> None:
    value = json.loads(intel.collateral_json(now=NOW))
    assert value.keys() == {
        "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain",
        "tcb_info", "tcb_info_signature", "qe_identity_issuer_chain", "qe_identity",
        "qe_identity_signature",
    }  # fmt: skip
    assert json.loads(value["tcb_info"])["fmspc"] == FMSPC.hex().upper()


# --- rehearsals ---


def test_tcb_recovery_outdates_until_microcode_is_installed(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    before = intel.state().evaluation
    cpu_svn = intel.tcb_recovery(now=NOW, advisories=("INTEL-SA-09999",))
    assert intel.state().evaluation == before + 1
    assert judge(intel, machine.quote(identity, DATA)) == (
        "OutOfDate",
        ["INTEL-SA-09999"],
    )
    machine.install_microcode(cpu_svn)
    assert judge(intel, machine.quote(identity, DATA)) == ("UpToDate", [])


def test_two_recoveries_gather_their_advisories(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    first = intel.tcb_recovery(now=NOW, advisories=("INTEL-SA-1",))
    intel.tcb_recovery(now=NOW, advisories=("INTEL-SA-2",))
    quote = machine.quote(identity, DATA)
    assert judge(intel, quote)[1] == ["INTEL-SA-1", "INTEL-SA-2"]
    machine.install_microcode(first)
    assert judge(intel, machine.quote(identity, DATA)) == ("OutOfDate", ["INTEL-SA-2"])


def test_a_revoked_level_stays_revoked_through_a_recovery(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    intel.set_tcb_status("Revoked")
    intel.tcb_recovery(now=NOW, advisories=("INTEL-SA-1",))
    with pytest.raises(ValueError, match="evoked"):
        judge(intel, machine.quote(identity, DATA))


@pytest.mark.parametrize(
    "status",
    [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDateConfigurationNeeded",
    ],
)
def test_any_status_can_be_rehearsed_and_taken_back(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity, status: str
) -> None:
    quote = machine.quote(identity, DATA)
    intel.set_tcb_status(status, advisories=("INTEL-SA-1",))
    assert judge(intel, quote) == (status, ["INTEL-SA-1"])
    intel.set_tcb_status("UpToDate")
    assert judge(intel, quote) == ("UpToDate", [])


def test_a_level_that_does_not_exist_has_no_status(intel: SimIntel) -> None:
    with pytest.raises(SimStateError, match="no TCB level"):
        intel.set_tcb_status("UpToDate", cpu_svn=bytes(16))


def test_a_new_quoting_enclave_outdates_the_old(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    isv_svn = intel.qe_recovery(now=NOW, advisories=("INTEL-SA-7",))
    assert judge(intel, machine.quote(identity, DATA)) == ("OutOfDate", ["INTEL-SA-7"])
    machine.install_qe(isv_svn)
    assert judge(intel, machine.quote(identity, DATA)) == ("UpToDate", [])


def test_a_revoked_machine_is_refused_and_others_are_not(
    intel: SimIntel,
    machine: SimMachine,
    identity: SimIdentity,
    identify: Callable[..., SimIdentity],
) -> None:
    other = SimMachine(intel, "two", entropy=system_entropy)
    machine.revoke()
    with pytest.raises(ValueError, match="CertRevoked"):
        judge(intel, machine.quote(identity, DATA))
    assert judge(intel, other.quote(identify(other), DATA))[0] == "UpToDate"


def test_a_revoked_platform_ca_takes_all_machines_with_it(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    intel.revoke_platform_ca()
    with pytest.raises(ValueError, match="CertRevoked"):
        judge(intel, machine.quote(identity, DATA))


def test_a_debug_enclave_is_refused(
    intel: SimIntel, machine: SimMachine, identify: Callable[..., SimIdentity]
) -> None:
    machine.set_debug(debug=True)
    quote = machine.quote(identify(machine), DATA)
    with pytest.raises(QuoteRefusedError) as refusal:
        verify_quote(
            quote,
            collateral=parse_collateral(intel.collateral_json(now=NOW)),
            root=parse_trust_anchor(intel.root_der),
            now=NOW,
        )
    assert Rule.DEBUG in {failure.rule for failure in refusal.value.failures}


# --- several machines, several processes ---


def test_machines_of_one_intel_are_different_platforms(
    intel: SimIntel, machine: SimMachine, identify: Callable[..., SimIdentity]
) -> None:
    other = SimMachine(intel, "two", entropy=system_entropy)
    collateral = parse_collateral(intel.collateral_json(now=NOW))
    root = parse_trust_anchor(intel.root_der)
    platforms = {
        verify_quote(
            m.quote(identify(m), DATA), collateral=collateral, root=root, now=NOW
        ).platform_id
        for m in (machine, other, machine)
    }
    assert len(platforms) == 2


def test_a_platform_keeps_its_id_through_microcode(
    intel: SimIntel, machine: SimMachine, identity: SimIdentity
) -> None:
    root = parse_trust_anchor(intel.root_der)

    def platform() -> bytes:
        collateral = parse_collateral(intel.collateral_json(now=NOW))
        quote = machine.quote(identity, DATA)
        return verify_quote(
            quote, collateral=collateral, root=root, now=NOW
        ).platform_id

    before = platform()
    machine.install_microcode(intel.tcb_recovery(now=NOW, advisories=()))
    assert platform() == before


def test_state_outlives_the_objects(intel: SimIntel, machine: SimMachine) -> None:
    again = SimIntel(intel.folder)
    same = SimMachine(again, "one", entropy=system_entropy)
    assert again.root_der == intel.root_der
    assert same.state() == machine.state()
    again.tcb_recovery(now=NOW, advisories=())
    assert intel.state() == again.state()


def test_changes_made_at_once_are_all_made(intel: SimIntel) -> None:
    def recover(_: int) -> bytes:
        return SimIntel(intel.folder).tcb_recovery(now=NOW, advisories=())

    with ThreadPoolExecutor(8) as pool:
        svns = set(pool.map(recover, range(16)))
    assert len(svns) == 16
    assert intel.state().evaluation == 17


def test_the_machines_of_a_folder_can_be_listed(
    intel: SimIntel, machine: SimMachine
) -> None:
    SimMachine(intel, "another", entropy=system_entropy)
    assert intel.machines() == ["another", "one"]


def test_collateral_numbers_never_fall(intel: SimIntel, machine: SimMachine) -> None:
    root = parse_trust_anchor(intel.root_der)

    def numbers() -> tuple[int, ...]:
        collateral = parse_collateral(intel.collateral_json(now=NOW))
        marks = verify_collateral(collateral, root=root, now=NOW).marks
        return (
            marks.tcb_evaluation_data_number,
            marks.qe_evaluation_data_number,
            marks.pck_crl_number,
            marks.root_crl_number,
        )

    seen = [numbers()]
    machine.revoke()
    seen.append(numbers())
    intel.set_tcb_status("OutOfDate")
    seen.append(numbers())
    intel.qe_recovery(now=NOW, advisories=())
    seen.append(numbers())
    for before, after in itertools.pairwise(seen):
        assert all(a >= b for a, b in zip(after, before, strict=True))
        assert after != before


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"format":1}'])
def test_damaged_state_is_refused_and_kept(intel: SimIntel, damage: bytes) -> None:
    (intel.folder / "intel.json").write_bytes(damage)
    with pytest.raises(SimStateError, match="kept"):
        SimIntel(intel.folder)
    assert (intel.folder / "intel.json").read_bytes() == damage


def test_state_that_vanishes_is_not_made_anew_behind_a_running_machine(
    intel: SimIntel, machine: SimMachine
) -> None:
    (intel.folder / "machines" / "one.json").unlink()
    with pytest.raises(SimStateError, match="gone"):
        _ = machine.cpu_svn
    (intel.folder / "intel.json").unlink()
    with pytest.raises(SimStateError, match="gone"):
        _ = intel.root_der


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", "x" * 33])
def test_a_machine_cannot_be_named_out_of_the_folder(
    intel: SimIntel, name: str
) -> None:
    with pytest.raises(SimStateError, match="name"):
        SimMachine(intel, name, entropy=system_entropy)
