"""A simulated Intel, machines, and enclaves small enough to start quickly."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from sealift.bundle import (
    AttestationRoot,
    L1TrustRoot,
    Manifest,
    Measurement,
    attach_sigstruct,
    encode_bundle,
    make_bundle,
    make_tbs,
    measure,
    sign_sigstruct,
)
from sealift.crypto import rsa_generate, sha256, system_entropy
from sealift.insecure_sim import SimIdentity, SimIntel, SimMachine
from sealift.transport.build import running_target
from sealift.transport.bundle_folder import install_bundle

#: An enclave without Sealift: it obeys, and forwards what it is told to.
PROGRAM = b"""
import os, resource, socket, sys

def read(channel):
    size = channel.read(4)
    return channel.read(int.from_bytes(size, "little")) if size else None

def write(channel, data):
    channel.write(len(data).to_bytes(4, "little") + data)
    channel.flush()

def main(host, platform, manifest):
    host = socket.socket(fileno=host).makefile("rwb")
    platform = socket.socket(fileno=platform).makefile("rwb")
    while (data := read(host)) is not None:
        order, _, rest = data.partition(b":")
        if order == b"platform":
            write(platform, rest)
            answer = read(platform) or b"no answer"
        elif order == b"eval":
            answer = repr(eval(rest, globals() | {"manifest": manifest})).encode()
        elif order == b"huge":
            host.write(b"\\xff\\xff\\xff\\xff"); host.flush(); continue
        elif order == b"silent":
            continue
        elif order == b"exit":
            sys.exit("told to exit")
        write(host, answer)
"""


@pytest.fixture(scope="session")
def vendor() -> bytes:
    return rsa_generate()


@pytest.fixture
def intel(tmp_path: Path) -> SimIntel:
    return SimIntel(tmp_path / "intel")


@pytest.fixture
def machine(intel: SimIntel) -> SimMachine:
    return SimMachine(intel, "one", entropy=system_entropy)


def sigstruct_for(
    measurement: Measurement, vendor: bytes, *, isv_svn: int = 2
) -> bytes:
    tbs = make_tbs(
        measurement, isv_prod_id=1, isv_svn=isv_svn, date=dt.date(2026, 11, 23)
    )
    return sign_sigstruct(tbs, vendor)


@pytest.fixture(scope="session")
def identify(vendor: bytes) -> Callable[..., SimIdentity]:
    """Start other code, or another version, on a machine."""

    def start(
        machine: SimMachine,
        *,
        code: bytes = b"code",
        isv_svn: int = 2,
        vendor: bytes = vendor,
    ) -> SimIdentity:
        measurement = measure({"app/a.py": code})
        return machine.einit(
            measurement, sigstruct_for(measurement, vendor, isv_svn=isv_svn)
        )

    return start


@pytest.fixture
def identity(machine: SimMachine, identify: Callable[..., SimIdentity]) -> SimIdentity:
    return identify(machine)


@pytest.fixture(scope="session")
def bundle_bytes(vendor: bytes) -> Callable[..., bytes]:
    def make(program: bytes = PROGRAM, target: str | None = None) -> bytes:
        manifest = Manifest(
            name="tiny",
            version="1",
            isv_prod_id=1,
            isv_svn=2,
            target=target or running_target(),
            entry="tiny:main",
            enclave_entry="tiny:main",
            l1=L1TrustRoot(chain_id="c", height=1, header_hash="00" * 32),
            attestation_roots=(AttestationRoot(kind="insecure-sim", der="00"),),
            ecall_versions=(1, 1),
            metadata=sha256(b"").hex(),
        )
        bundle = make_bundle(
            manifest, sealift={}, app={"tiny.py": program}, wheels={}, metadata=b""
        )
        return encode_bundle(
            attach_sigstruct(bundle, sigstruct_for(measure(bundle.files), vendor))
        )

    return make


@pytest.fixture
def folder(tmp_path: Path, bundle_bytes: Callable[..., bytes]) -> Path:
    return install_bundle(bundle_bytes(), tmp_path / "bundles")
