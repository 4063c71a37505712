"""``sealift gramine``, and workers under it, by words."""

import datetime as dt
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sealift.bundle import (
    attach_sigstruct,
    encode_bundle,
    make_bundle,
    make_tbs,
    measure,
    parse_bundle,
    sign_sigstruct,
)
from sealift.cli import _check
from sealift.worker import load_config

SIGN = Path(__file__).parents[2] / "deploy" / "gramine" / "sign.sh"


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path, vendor_pem: bytes) -> Path:
    """A signed bundle that has Gramine's driver in it; nothing in it can run."""
    tiny = parse_bundle(tiny_bundle.read_bytes())
    made = make_bundle(
        tiny.manifest,
        sealift={"enclave/_gramine.py": b""},
        app={"tiny.py": b""},
        wheels={},
        metadata=tiny.files["metadata.bin"],
    )
    tbs = make_tbs(
        measure(made.files), isv_prod_id=1, isv_svn=2, date=dt.date(2026, 1, 1)
    )
    path = tmp_path / "app.bundle"
    path.write_bytes(
        encode_bundle(attach_sigstruct(made, sign_sigstruct(tbs, vendor_pem)))
    )
    return path


@pytest.fixture
def signed(tmp_path: Path, bundle: Path, vendor_pem: bytes, sealift: Any) -> Path:
    folder = tmp_path / "gramine"
    said = sealift("gramine", "manifest", bundle, "-o", folder, "--json")
    assert said.code == 0, said
    assert Path(said.json["template"]).is_file()
    assert "gramine-sgx-sign --manifest" in said.err
    measured = measure({"m": b"manifest"})
    tbs = make_tbs(measured, isv_prod_id=4, isv_svn=5, date=dt.date(2026, 1, 1))
    (folder / "sealift.sig").write_bytes(sign_sigstruct(tbs, vendor_pem))
    return folder


def test_the_fingerprint_is_printed_for_schedules(signed: Path, sealift: Any) -> None:
    wanted = measure({"m": b"manifest"}).mrenclave.hex()
    assert sealift("gramine", "fingerprint", signed).out.strip() == wanted
    said = sealift("gramine", "fingerprint", signed, "--json").json
    assert (said["mrenclave"], said["isv_prod_id"], said["isv_svn"]) == (wanted, 4, 5)
    (signed / "sealift.sig").unlink()
    said = sealift("gramine", "fingerprint", signed)
    assert said.code != 0
    assert "gramine-sgx-sign" in said.err
    assert "Traceback" not in said.err


def test_a_worker_under_gramine_is_configured(
    signed: Path, bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    home = tmp_path / "w"
    words = (
        "worker", "init", home, "--shard", "00" * 32, "--bundle", bundle,
        "--platform", "gramine-sgx", "--gramine", signed,
    )  # fmt: skip
    said = sealift(*words, "--pccs", "http://127.0.0.1:8081/", "--json")
    assert said.code == 0, said
    wanted = measure({"m": b"manifest"}).mrenclave.hex()
    assert said.json["mrenclave"] == wanted
    config = load_config(home)
    assert (config.platform, config.gramine) == ("gramine-sgx", signed)
    assert config.pccs == "http://127.0.0.1:8081"
    assert "sim" not in tomllib.loads((home / "worker.toml").read_text())["enclave"]
    assert sealift("worker", "mrenclave", home).out.strip() == wanted
    wrong = sealift(*words[:2], tmp_path / "x", *words[3:], "--pccs", "nowhere")
    assert wrong.code != 0
    assert "not the address of a PCCS" in wrong.err
    assert not (tmp_path / "x").exists()


def test_a_check_asks_for_what_gramine_signed_and_what_the_worker_says(
    signed: Path, bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    home = tmp_path / "w"
    words = ("--platform", "gramine-sgx", "--gramine", signed)
    made = sealift(
        "worker", "init", home, "--shard", "00" * 32, "--bundle", bundle, *words
    )
    assert made.code == 0, made
    mine, rows = _check._bundle(load_config(home))
    assert mine == measure({"m": b"manifest"}).mrenclave
    assert [(row.name, row.ok) for row in rows] == [("bundle", True)]
    (signed / "sealift.sig").write_bytes(b"")
    mine, rows = _check._bundle(load_config(home))
    assert (mine, [row.ok for row in rows]) == (b"", [False])
    assert "gramine-sgx-sign" in rows[0].detail
    # of its collateral only the worker knows: the quote says what it runs on
    assert "does not run" in _check._own_warnings({})[0]
    said = ["attestation lapses", "L1's collateral of this platform expires in 3 h"]
    assert _check._own_warnings({"warnings": said}) == (said[1],)
    assert _check._own_warnings({"warnings": []}) == ()


@pytest.mark.parametrize(
    "words",
    [
        ("--platform", "gramine-sgx"),
        ("--platform", "gramine-sgx", "--gramine", "G", "--sim", "s"),
        ("--platform", "insecure-sim", "--gramine", "G", "--sim", "s"),
        ("--gramine", "G"),
        (),
        ("--sim", "s"),
        ("--platform", "sgx"),
    ],
)
def test_words_for_another_platform_are_wrong_usage(
    words: tuple[str, ...],
    signed: Path,
    bundle: Path,
    tmp_path: Path,
    sealift: Any,
) -> None:
    more = (signed if word == "G" else word for word in words)
    said = sealift(
        "worker", "init", tmp_path / "w", "--shard", "00" * 32,
        "--bundle", bundle, *more,
    )  # fmt: skip
    assert said.code == 2
    assert not (tmp_path / "w").exists()


def test_pccs_without_a_simulated_intel_is_told(tmp_path: Path, sealift: Any) -> None:
    said = sealift("insecure-sim", "pccs", tmp_path)
    assert said.code == 4
    assert "no simulated Intel is here" in said.err


def test_the_signing_script_says_how_it_is_used() -> None:
    assert os.access(SIGN, os.X_OK)
    done = subprocess.run([SIGN], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "BUNDLE VENDOR_KEY FOLDER" in done.stderr


def test_the_signing_script_runs_gramines_tools_in_order(
    bundle: Path, tmp_path: Path
) -> None:
    """With programs of their names that note their words."""
    notes = tmp_path / "notes"
    for name in ("sealift", "gramine-manifest", "gramine-sgx-sign"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {notes}\nmkdir -p {tmp_path}/out\n'
        )
        program.chmod(0o755)
    key = tmp_path / "vendor.pem"
    key.write_text("key")
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [SIGN, bundle, key, tmp_path / "out"], env=env, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    signing = "--manifest sealift.manifest --output sealift.manifest.sgx"
    assert notes.read_text().splitlines() == [
        f"sealift gramine manifest {bundle} -o {tmp_path}/out",
        "gramine-manifest sealift.manifest.template sealift.manifest",
        f"gramine-sgx-sign {signing} --key {key} --date 2026-01-01",
        "sealift gramine fingerprint .",
    ]
