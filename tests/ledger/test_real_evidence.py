"""The ledger with its real judge: Intel's evidence, and the simulator's."""

import json
from pathlib import Path
from typing import Any

import pytest

from sealift.attestation import (
    CollateralOlderError,
    CollateralRefusedError,
    PolicyRefusedError,
    QuoteFormatError,
    QuoteRefusedError,
    parse_collateral,
    parse_trust_anchor,
)
from sealift.base import DecodeError, encode
from sealift.crypto import sha256
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.insecure_sim._quote import ReportFields
from sealift.ledger import DcapVerifier
from sealift.ledger._errors import (
    CollateralTeeError,
    QuoteBindingError,
    UnknownFmspcError,
)

NOW = 1_800_000_000


def counted(label: bytes) -> Any:
    """Entropy that is the same in every run."""
    drawn = [0]

    def entropy(size: int) -> bytes:
        drawn[0] += 1
        return (sha256(label + drawn[0].to_bytes(4, "big")) * 4)[:size]

    return entropy


@pytest.fixture
def sim(new_world: Any, tmp_path: Path) -> Any:
    """A chain that trusts a simulated Intel, with one machine."""
    intel = SimIntel(tmp_path / "intel")
    anchor = parse_trust_anchor(intel.root_der)
    world = new_world(verifier=DcapVerifier(), anchors=(anchor,), clock=NOW)
    world.intel = intel
    world.machine = SimMachine(intel, "machine", entropy=counted(b"machine"))
    world.shard = world.create_shard()
    world.one = world.instance("one")
    return world


def publish(world: Any, *, later: int = 0) -> None:
    """The simulated Intel's collateral of this moment goes to the ledger."""
    now = world.time_of(world.height) + later
    collateral = parse_collateral(world.intel.collateral_json(now=now))
    world.call("teerex.register_collateral", collateral=encode(collateral))


def report(world: Any, statement: Any, **fields: Any) -> bytes:
    """A quote by the machine's quoting enclave."""
    state = world.machine.state()
    values = {
        "cpu_svn": state.cpu_svn,
        "flags": 0x05,
        "xfrm": 3,
        "mrenclave": world.one.code,
        "mrsigner": b"v" * 32,
        "isv_prod_id": 7,
        "isv_svn": 3,
        "report_data": statement.report_data(),
    }
    enclave = world.machine._quoting_enclave(state)
    return enclave.quote(ReportFields(**(values | fields)))


def register(world: Any, **fields: Any) -> None:
    statement = world.statement(world.shard, world.one)
    world.call(
        "teerex.register_sgx_enclave",
        by="operator",
        statement=statement,
        signature=statement.sign(world.one.secret),
        quote=report(world, statement, **fields),
    )


def test_a_simulated_enclave_is_registered_by_a_genuine_quote(sim: Any) -> None:
    publish(sim)
    register(sim)
    record = sim.enclave(sim.one)
    assert (record.platform, record.fingerprint) == ("insecure-sim", sim.one.code)
    assert (record.tcb_status, record.isv_prod_id) == ("UpToDate", 7)
    sim.publish_key(sim.shard, sim.one)
    sim.block()
    sim.confirm(sim.shard, sim.one, sim.height)


def test_debug_and_foreign_reports_are_refused(sim: Any) -> None:
    publish(sim)
    with pytest.raises(QuoteRefusedError):
        register(sim, flags=0x07)
    with pytest.raises(QuoteBindingError):
        register(sim, report_data=bytes(64))


def test_on_a_tcb_recovery_day_the_ledger_says_what_is_outdated(sim: Any) -> None:
    """peers: all workers reject each other. Here the registered ones go on."""
    publish(sim)
    register(sim)
    sim.publish_key(sim.shard, sim.one)
    now = sim.time_of(sim.height)
    new_svn = sim.intel.tcb_recovery(now=now, advisories=("SIM-SA-1",))
    publish(sim)
    sim.confirm(sim.shard, sim.one, sim.height)
    with pytest.raises(PolicyRefusedError) as refusal:
        register(sim)
    assert "OutOfDate" in str(refusal.value)
    sim.machine.install_microcode(new_svn)
    register(sim)


def test_collateral_from_before_a_recovery_is_refused(sim: Any) -> None:
    """Invariant: an attacker who kept it cannot roll the ledger back."""
    early = parse_collateral(sim.intel.collateral_json(now=sim.time_of(0)))
    sim.intel.tcb_recovery(now=sim.time_of(0), advisories=("SIM-SA-1",))
    publish(sim)
    with pytest.raises(CollateralOlderError):
        sim.call("teerex.register_collateral", collateral=encode(early))


def test_a_revoked_machine_is_refused_once_the_ledger_knows(sim: Any) -> None:
    publish(sim)
    sim.machine.revoke()
    publish(sim)
    with pytest.raises(QuoteRefusedError):
        register(sim)


def test_another_simulated_intel_is_a_stranger(sim: Any, tmp_path: Path) -> None:
    other = SimIntel(tmp_path / "other")
    foreign = parse_collateral(other.collateral_json(now=sim.time_of(0)))
    with pytest.raises(CollateralRefusedError):
        sim.call("teerex.register_collateral", collateral=encode(foreign))
    publish(sim)
    sim.machine = SimMachine(other, "machine", entropy=counted(b"other"))
    with pytest.raises(QuoteRefusedError):
        register(sim)


def test_collateral_that_cannot_be_read_is_refused(sim: Any) -> None:
    with pytest.raises(DecodeError):
        sim.call("teerex.register_collateral", collateral=b"junk")


def test_a_verifier_without_roots_accepts_nothing(sim: Any) -> None:
    collateral = encode(parse_collateral(sim.intel.collateral_json(now=NOW)))
    judge = {"anchors": (), "now": NOW}
    with pytest.raises(CollateralRefusedError):
        DcapVerifier().verify_collateral(collateral, **judge)
    with pytest.raises(QuoteRefusedError):
        DcapVerifier().verify_quote(b"q", collateral=collateral, **judge)
    with pytest.raises(QuoteFormatError):
        DcapVerifier().quote_fmspc(b"q")


# Intel's own


def load(vectors: Path, start: str) -> Any:
    folder = vectors / "dcap"
    cases = json.loads((folder / "cases.json").read_text())
    (case,) = (each for each in cases if each["id"].startswith(start))
    files = {
        n: (folder / case[n]).read_bytes() for n in ("quote", "collateral", "root")
    }
    return case["now"], files


@pytest.fixture
def intel(new_world: Any, vectors: Path) -> Any:
    """A chain that trusts Intel, at the time of a recorded quote."""
    now, files = load(vectors, "004-")
    anchors = (parse_trust_anchor(files["root"]),)
    world = new_world(verifier=DcapVerifier(), anchors=anchors, clock=now)
    world.shard = world.create_shard()
    world.one = world.instance("one")
    world.real = files
    return world


def present(world: Any, quote: bytes) -> None:
    fields = world.registration(world.shard, world.one)
    world.call(
        "teerex.register_sgx_enclave", by="operator", **fields | {"quote": quote}
    )


def test_intels_quote_is_verified_on_chain_and_bound_to_its_own_data(
    intel: Any,
) -> None:
    with pytest.raises(UnknownFmspcError):
        present(intel, intel.real["quote"])
    collateral = encode(parse_collateral(intel.real["collateral"]))
    intel.call("teerex.register_collateral", collateral=collateral)
    with pytest.raises(QuoteBindingError):  # genuine, but over other data
        present(intel, intel.real["quote"])
    forged = bytearray(intel.real["quote"])
    forged[48 + 320] ^= 1  # report data
    with pytest.raises(QuoteRefusedError):
        present(intel, bytes(forged))
    with pytest.raises(QuoteFormatError):
        present(intel, intel.real["quote"][:100])


def test_intels_collateral_for_trust_domains_is_no_collateral_for_sgx(
    new_world: Any, vectors: Path
) -> None:
    now, files = load(vectors, "025-")
    anchors = (parse_trust_anchor(files["root"]),)
    world = new_world(verifier=DcapVerifier(), anchors=anchors, clock=now)
    collateral = encode(parse_collateral(files["collateral"]))
    with pytest.raises(CollateralTeeError):
        world.call("teerex.register_collateral", collateral=collateral)
