"""The host's side of Gramine: what is missing, unsigned or another bundle's."""

import asyncio
import datetime as dt
import sys
from pathlib import Path
from typing import Any

import pytest
from doubles import SHARD
from test_config import home_with

from sealift.bundle import (
    AttestationRoot,
    Bundle,
    L1TrustRoot,
    Manifest,
    attach_sigstruct,
    encode_bundle,
    make_bundle,
    make_tbs,
    measure,
    sign_sigstruct,
)
from sealift.crypto import rsa_generate, sha256
from sealift.transport.enclave_process import EnclaveDiedError
from sealift.transport.gramine import GramineFolderError, write_gramine_folder
from sealift.worker import (
    GRAMINE_TEMPLATE,
    ConfigError,
    GramineMissingError,
    WorkerConfig,
    load_config,
)
from sealift.worker._gramine import GramineSgxHost
from sealift.worker._run import host_of

VENDOR = rsa_generate()
#: Echoes each frame; says on stderr what it was given.
ECHO = """
import os, sys
os.write(2, repr((sys.argv[1:], sorted(os.environ), os.getcwd(),
    sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1])).encode())
while head := sys.stdin.buffer.read(4):
    frame = head + sys.stdin.buffer.read(int.from_bytes(head, "little"))
    while frame:
        frame = frame[os.write(1, frame):]
"""


def text(**words: str) -> str:
    fields = {
        "rpc": "http://127.0.0.1:1", "shard": SHARD.hex(), "genesis": "",
        "bundle": "app.bundle", "gramine": "gramine", "pccs": "", "port": "0",
        "upstream": "",
    }  # fmt: skip
    return GRAMINE_TEMPLATE.format(**(fields | words))


def bundle_of(app: bytes) -> Bundle:
    manifest = Manifest(
        name="tiny",
        version="1",
        isv_prod_id=1,
        isv_svn=2,
        target="cp312-manylinux_x86_64",
        entry="tiny:main",
        l1=L1TrustRoot(chain_id="c", height=1, header_hash="00" * 32),
        attestation_roots=(AttestationRoot(kind="insecure-sim", der="00"),),
        ecall_versions=(1, 1),
        metadata=sha256(b"").hex(),
    )
    sealift = {"enclave/_gramine.py": b""}
    bundle = make_bundle(
        manifest, sealift=sealift, app={"tiny.py": app}, wheels={}, metadata=b""
    )
    return attach_sigstruct(bundle, signed(bundle.files))


def signed(files: Any) -> bytes:
    tbs = make_tbs(measure(files), isv_prod_id=1, isv_svn=2, date=dt.date(2026, 1, 1))
    return sign_sigstruct(tbs, VENDOR)


@pytest.fixture
def config(tmp_path: Path) -> WorkerConfig:
    bundle = bundle_of(b"1")
    (tmp_path / "app.bundle").write_bytes(encode_bundle(bundle))
    write_gramine_folder(bundle, tmp_path / "gramine")
    (tmp_path / "gramine" / "sealift.sig").write_bytes(signed({"m": b"manifest"}))
    return load_config(home_with(tmp_path, text()))


@pytest.fixture
def gramine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gramine-sgx"
    program.write_text(f"#!{sys.executable} -IS\n{ECHO}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    return program


def test_without_gramine_it_is_said_what_to_do(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GramineMissingError, match="not installed here") as error:
        host_of(config)
    assert "real-hardware" in error.value.hint


def start(config: WorkerConfig, *frames: bytes) -> list[bytes]:
    async def whole() -> list[bytes]:
        host = host_of(config)
        assert isinstance(host, GramineSgxHost)
        async with host.enclave() as running:
            assert running.manifest.name == "tiny"
            answers = [await running.call(one) for one in frames]
            assert await running.stop() == 0
            return answers

    return asyncio.run(whole())


def test_frames_go_over_the_standard_streams_and_nothing_else_is_there(
    config: WorkerConfig, gramine: Path
) -> None:
    frames = [b"a", b"", b"x" * 3_000_000]  # more than a pipe holds
    assert start(config, *frames) == frames
    said = (config.home / "enclave.log").read_text()
    words, environment, folder, descriptors = eval(said)
    assert words == ["sealift"]
    assert set(environment) <= {"LANG", "LC_ALL", "TZ", "LC_CTYPE"}
    assert folder == str(config.gramine)
    assert descriptors == [0, 1, 2]


def test_a_program_that_ends_is_told_by_its_last_words(
    config: WorkerConfig, gramine: Path
) -> None:
    gramine.write_text(f"#!{sys.executable} -IS\nimport sys; sys.exit('no EPC')")
    with pytest.raises(EnclaveDiedError, match="has ended"):
        start(config, b"hello")
    assert "no EPC" in str(host_of(config).gone(1))
    gramine.write_text("#!/nowhere\n")
    with pytest.raises(EnclaveDiedError, match="can be started"):
        start(config, b"hello")


def test_a_folder_that_is_not_signed_or_of_another_bundle_is_refused(
    config: WorkerConfig, gramine: Path
) -> None:
    """An operator's mistakes; a lying host gains nothing, Gramine measures again."""
    (config.home / "app.bundle").write_bytes(encode_bundle(bundle_of(b"2")))
    with pytest.raises(GramineFolderError, match="made for another bundle"):
        start(config)
    (config.home / "app.bundle").write_bytes(encode_bundle(bundle_of(b"1")))
    (config.gramine / "sealift.sig").write_bytes(b"none")
    with pytest.raises(GramineFolderError, match="no signature of an enclave"):
        start(config)
    (config.gramine / "sealift.sig").unlink()
    with pytest.raises(GramineFolderError, match="gramine-sgx-sign"):
        start(config)


def test_what_a_platform_needs_must_be_named(tmp_path: Path) -> None:
    config = load_config(home_with(tmp_path, text(pccs="https://localhost:8081/")))
    assert (config.platform, config.pccs) == ("gramine-sgx", "https://localhost:8081")
    assert config.gramine == tmp_path / "gramine"
    with pytest.raises(ConfigError, match="no gramine under"):
        load_config(home_with(tmp_path, text(gramine="")))
    for name in ("sim", "machine"):
        with pytest.raises(ConfigError, match="no sim under"):
            load_config(home_with(tmp_path, text()), platform="insecure-sim")
        del name
    with pytest.raises(ConfigError, match="is wrong"):
        load_config(home_with(tmp_path, text(pccs="not a url")))
    with pytest.raises(ConfigError, match="is wrong"):
        load_config(home_with(tmp_path, text()), pccs="ftp://x")
    assert load_config(home_with(tmp_path, text()), pccs="http://x").pccs == "http://x"
