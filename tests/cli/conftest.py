"""The command line in this process: what it says, and with which exit code."""

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealift.base import encode
from sealift.bundle import (
    AttestationRoot,
    L1TrustRoot,
    Manifest,
    attach_sigstruct,
    encode_bundle,
    make_bundle,
    make_tbs,
    measure,
    sign_sigstruct,
)
from sealift.cli import run_cli
from sealift.crypto import rsa_generate, sha256
from sealift.frame import Runtime
from sealift.stf import StandardPallets
from sealift.transport.build import running_target

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

from shard_world import Thread, World


@dataclass(frozen=True)
class Said:
    """Exit code, stdout and stderr of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


Sealift = Callable[..., Said]


@pytest.fixture
def sealift(capsys: pytest.CaptureFixture[str]) -> Sealift:
    """``sealift("chain", "status", …)``."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = run_cli([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(code=code, out=out, err=err)

    return call


@pytest.fixture(scope="session")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thread]:
    made = Thread(tmp_path_factory.mktemp("cli-world"))
    yield made
    made.close()


@pytest.fixture
def world(thread: Thread) -> Iterator[World]:
    yield thread.world
    thread.world.enclave.lies.clear()
    thread.world.enclave.confirm = True


@pytest.fixture(scope="session")
def vendor_pem() -> bytes:
    """A vendor's key; made once, for it takes long."""
    return rsa_generate()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, vendor_pem: bytes) -> Path:
    """A signed bundle of the standard pallets; nothing in it can run."""
    metadata = encode(
        Runtime(name="tiny", version=1, pallets=[*StandardPallets().pallets]).metadata()
    )
    manifest = Manifest(
        name="tiny",
        version="1",
        isv_prod_id=1,
        isv_svn=2,
        target=running_target(),
        entry="tiny:main",
        l1=L1TrustRoot(chain_id="client-world", height=1, header_hash="00" * 32),
        attestation_roots=(AttestationRoot(kind="insecure-sim", der="00"),),
        ecall_versions=(1, 1),
        metadata=sha256(metadata).hex(),
    )
    bundle = make_bundle(
        manifest, sealift={}, app={"tiny.py": b"\n"}, wheels={}, metadata=metadata
    )
    tbs = make_tbs(
        measure(bundle.files), isv_prod_id=1, isv_svn=2, date=dt.date(2026, 11, 23)
    )
    path = tmp_path_factory.mktemp("bundle") / "tiny.bundle"
    signed = attach_sigstruct(bundle, sign_sigstruct(tbs, vendor_pem))
    path.write_bytes(encode_bundle(signed))
    return path
