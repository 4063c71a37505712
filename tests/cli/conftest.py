"""The command line in this process: what it says, and with which exit code."""

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from sealift.client import read_card, write_card
from sealift.crypto import rsa_generate, sha256
from sealift.frame import Runtime
from sealift.stf import StandardPallets
from sealift.transport.build import running_target
from sealift.transport.keys import write_account_key

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
    path = tmp_path_factory.mktemp("bundle") / "tiny.bundle"
    path.write_bytes(_bundle(vendor_pem, "insecure-sim"))
    return path


@pytest.fixture(scope="session")
def intel_bundle(tmp_path_factory: pytest.TempPathFactory, vendor_pem: bytes) -> Path:
    """The same, but it trusts Intel's root alone."""
    path = tmp_path_factory.mktemp("bundle") / "intel.bundle"
    path.write_bytes(_bundle(vendor_pem, "intel"))
    return path


def _bundle(vendor_pem: bytes, root: Literal["insecure-sim", "intel"]) -> bytes:
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
        attestation_roots=(AttestationRoot(kind=root, der="00"),),
        ecall_versions=(1, 1),
        metadata=sha256(metadata).hex(),
    )
    bundle = make_bundle(
        manifest, sealift={}, app={"tiny.py": b"\n"}, wheels={}, metadata=metadata
    )
    tbs = make_tbs(
        measure(bundle.files), isv_prod_id=1, isv_svn=2, date=dt.date(2026, 11, 23)
    )
    return encode_bundle(attach_sigstruct(bundle, sign_sigstruct(tbs, vendor_pem)))


Govern = Callable[..., Path]


@pytest.fixture
def govern(world: World, tiny_bundle: Path, tmp_path: Path, sealift: Any) -> Govern:
    """``govern({"any-of": …})``: the card of a new shard, governed so."""
    count = iter(range(9))

    def make(document: object, *more: object) -> Path:
        number = next(count)
        paper, card = tmp_path / f"a{number}.json", tmp_path / f"card{number}.json"
        paper.write_text(json.dumps(document))
        said = sealift(
            "shard", "create", "--rpc", world.url, "--payer", world.key("payer"),
            "--authority-json", paper, "--bundle", tiny_bundle, "--min-notice", 4,
            "--rescue-after", 90_000, *more,
            "--genesis", tmp_path / f"g{number}.bin", "--card", card,
        )  # fmt: skip
        assert said.code == 0, said
        fresh = read_card(card)  # the tiny bundle has no real root
        rooted = msgspec.structs.replace(fresh, trust_root=world.card.trust_root)
        write_card(card, rooted)
        return card

    return make


@pytest.fixture
def boss(tmp_path: Path) -> Path:
    path = tmp_path / "boss.json"
    write_account_key(path, sha256(b"boss at the command line"))
    return path
