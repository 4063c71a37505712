"""The simulated CPU refuses what a real one refuses."""

from collections.abc import Callable

import pytest

from sealift.base import InvariantError
from sealift.bundle import measure
from sealift.crypto import rsa_generate, system_entropy
from sealift.insecure_sim import (
    EgetkeyError,
    EinitError,
    SimIdentity,
    SimIntel,
    SimKey,
    SimMachine,
)

from .conftest import sigstruct_for

OLDER = bytes([2, 1]) + bytes(14)
NEWER = bytes([3, 3, 2, 2, 3, 1, 0, 3]) + bytes(8)


def key(machine: SimMachine, identity: SimIdentity, **wanted: object) -> SimKey:
    options = {"policy": "mrenclave", "key_id": b"state", **wanted}
    return machine.egetkey(identity, **options)


# --- EINIT ---


def test_sigstruct_of_another_measurement_is_refused(
    machine: SimMachine, vendor: bytes
) -> None:
    other = sigstruct_for(measure({"a": b"other"}), vendor)
    with pytest.raises(EinitError, match="another measurement"):
        machine.einit(measure({"a": b"mine"}), other)


def test_a_forged_sigstruct_is_refused(machine: SimMachine, vendor: bytes) -> None:
    measurement = measure({"a": b"mine"})
    forged = bytearray(sigstruct_for(measure({"a": b"other"}), vendor))
    forged[960:992] = measurement.mrenclave
    with pytest.raises(EinitError, match="signature"):
        machine.einit(measurement, bytes(forged))
    with pytest.raises(EinitError, match="another size"):
        machine.einit(measurement, b"")


def test_an_identity_cannot_be_made_without_einit(identity: SimIdentity) -> None:
    with pytest.raises(InvariantError):
        SimIdentity(
            mrenclave=identity.mrenclave,
            mrsigner=identity.mrsigner,
            isv_prod_id=1,
            isv_svn=99,
            flags=5,
            xfrm=3,
            made_by=None,
        )


# --- EGETKEY ---


def test_the_same_enclave_gets_the_same_key_again(
    intel: SimIntel, machine: SimMachine, identify: Callable[..., SimIdentity]
) -> None:
    restarted = SimMachine(SimIntel(intel.folder), "one", entropy=system_entropy)
    assert key(machine, identify(machine)) == key(restarted, identify(restarted))
    assert len(key(machine, identify(machine)).key) == 32


def test_keys_differ_across_machines_code_vendors_versions_and_labels(
    intel: SimIntel, machine: SimMachine, identify: Callable[..., SimIdentity]
) -> None:
    other = SimMachine(intel, "two", entropy=system_entropy)
    mine = identify(machine)
    keys = [
        key(machine, mine),
        key(other, identify(other)),
        key(machine, identify(machine, code=b"other code")),
        key(machine, identify(machine, isv_svn=3)),
        key(machine, mine, isv_svn=1),
        key(machine, mine, cpu_svn=OLDER),
        key(machine, mine, key_id=b"other label"),
        key(machine, mine, policy="mrsigner"),
    ]
    assert len({got.key for got in keys}) == len(keys)


def test_a_debug_enclave_gets_other_keys(
    machine: SimMachine, identify: Callable[..., SimIdentity]
) -> None:
    plain = key(machine, identify(machine))
    machine.set_debug(debug=True)
    assert key(machine, identify(machine)).key != plain.key


def test_mrsigner_policy_follows_the_vendor_and_version_not_the_code(
    machine: SimMachine, identify: Callable[..., SimIdentity]
) -> None:
    old = key(machine, identify(machine), policy="mrsigner")
    new = identify(machine, code=b"v2", isv_svn=3)
    assert key(machine, new, policy="mrsigner").key != old.key
    assert key(machine, new, policy="mrsigner", isv_svn=2).key == old.key
    foreign = identify(machine, vendor=rsa_generate())
    assert key(machine, foreign, policy="mrsigner").key != old.key


def test_a_newer_isv_svn_is_refused(machine: SimMachine, identity: SimIdentity) -> None:
    for newer in (3, 65535):
        with pytest.raises(EgetkeyError, match="newer ISV_SVN"):
            key(machine, identity, isv_svn=newer)
    with pytest.raises(EgetkeyError):
        key(machine, identity, isv_svn=-1)


def test_an_older_cpusvn_is_reachable_after_microcode_a_newer_never(
    machine: SimMachine, identity: SimIdentity
) -> None:
    sealed = key(machine, identity)
    with pytest.raises(EgetkeyError, match="newer CPUSVN"):
        key(machine, identity, cpu_svn=NEWER)
    machine.install_microcode(NEWER)
    assert machine.cpu_svn == NEWER
    assert key(machine, identity).key != sealed.key
    assert key(machine, identity, cpu_svn=sealed.cpu_svn) == sealed


@pytest.mark.parametrize(
    "cpu_svn",
    [bytes([1] * 8) + b"\xff" + bytes(7), bytes([3]) + bytes(15), b"", bytes(15)],
    ids=bytes.hex,
)
def test_a_cpusvn_newer_in_one_component_or_cut_is_refused(
    machine: SimMachine, identity: SimIdentity, cpu_svn: bytes
) -> None:
    with pytest.raises(EgetkeyError, match="CPUSVN"):
        key(machine, identity, cpu_svn=cpu_svn)


def test_an_unknown_policy_is_refused(
    machine: SimMachine, identity: SimIdentity
) -> None:
    with pytest.raises(EgetkeyError, match="policy"):
        key(machine, identity, policy="none")


def test_microcode_is_never_rolled_back(machine: SimMachine) -> None:
    before = machine.cpu_svn
    for bad in (OLDER, bytes(16), b"\xff" * 15):
        with pytest.raises(EgetkeyError, match="rolled back"):
            machine.install_microcode(bad)
    assert machine.cpu_svn == before
