"""build, sign, measure, inspect; and the simulated platform."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealift.bundle import verify_bundle
from sealift.cli import _build
from sealift.cli._cards import read_bundle
from sealift.transport import build as build_module

EXAMPLES = Path(__file__).parents[2] / "examples" / "auction"


@pytest.fixture
def place(tmp_path: Path, sealift: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a chain, a root and a vendor's key; wheels are left out."""
    monkeypatch.setattr(build_module, "fetch_wheels", lambda *_: {})
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795410000")
    assert sealift("insecure-sim", "init", tmp_path / "sim").code == 0
    sim = ("--sim", tmp_path / "sim", "--port", 0)
    assert sealift("chain", "init", tmp_path / "chain", *sim).code == 0
    return tmp_path


@pytest.fixture
def vendor(tmp_path: Path, vendor_pem: bytes) -> Path:
    path = tmp_path / "vendor.pem"
    path.write_bytes(vendor_pem)
    path.chmod(0o600)
    return path


def measured(place: Path) -> tuple[str, ...]:
    root = str(place / "chain" / "trust_root.json")
    return ("--trust-root", root, "--root", str(place / "sim" / "root.der"))


def test_two_builds_are_one_and_a_change_is_named(
    place: Path, vendor: Path, sealift: Any
) -> None:
    source, out = place / "app", place / "v1.bundle"
    shutil.copytree(EXAMPLES / "v1", source)
    made = sealift(
        "build", source, *measured(place), "--key", vendor, "-o", out, "--json"
    )
    assert made.code == 0, made
    assert made.json["signed"] is True
    assert made.json["date"] == "2026-11-23"
    assert sealift("measure", out).out.strip() == made.json["mrenclave"]
    same = sealift("build", source, *measured(place), "--check", out, "--json")
    assert same.code == 0
    assert same.json["same"] is True
    pallet = source / "app" / "auction" / "pallet.py"
    pallet.write_text(pallet.read_text() + "\n")
    other = sealift("build", source, *measured(place), "--check", out, "--json")
    assert other.code == 1
    assert other.json["first_difference"]["file"] == "app/auction/pallet.py"
    assert other.json["first_difference"]["page"] >= 0


def test_signing_here_and_elsewhere_give_the_same_bundle(
    place: Path, vendor: Path, sealift: Any, program: Callable[[str], str]
) -> None:
    """With stock OpenSSL, as a vendor would on a machine without a network."""
    plain, here = place / "plain.bundle", place / "here.bundle"
    words = ("build", EXAMPLES / "v1", *measured(place), "-o", plain)
    assert "not signed" in sealift(*words).err
    assert sealift("inspect", plain, "--json").json["signed"] is False
    day = ("--date", "2026-11-01")
    assert sealift("sign", plain, "--key", vendor, "-o", here, *day).code == 0
    tbs, sig, pub = place / "tbs", place / "sig", place / "pub"
    assert sealift("sign", plain, "--tbs", tbs, *day).code == 0
    assert tbs.stat().st_size == 256
    openssl = program("openssl")
    sign = ["dgst", "-sha256", "-sign", str(vendor), "-out", str(sig), str(tbs)]
    export = ["rsa", "-in", str(vendor), "-pubout", "-out", str(pub)]
    for command in (sign, export):
        subprocess.run([openssl, *command], check=True, capture_output=True)
    done = sealift("sign", plain, "--tbs", tbs, "--attach", sig, "--public", pub)
    assert done.code == 0, done
    assert plain.read_bytes() == here.read_bytes()
    assert verify_bundle(read_bundle(plain)).sigstruct.date.day == 1
    wrong = sealift("sign", plain, "--tbs", tbs, "--attach", tbs, "--public", pub)
    assert wrong.code == 1
    nonsense = sealift("sign", plain, "--tbs", tbs, "--attach", sig, "--public", sig)
    assert nonsense.code == 1


def test_a_bundle_says_what_it_is(place: Path, tiny_bundle: Path, sealift: Any) -> None:
    out = place / "v2.bundle"
    sealift("build", EXAMPLES / "v2", *measured(place), "-o", out)
    said = sealift("inspect", out, "--json").json
    assert said["name"] == "auction"
    assert said["attestation_roots"] == ["insecure-sim"]
    calls = sealift("inspect", out, "--calls", "--json").json["calls"]
    assert "auction.bid" in {each["call"] for each in calls}
    assert sealift("inspect", tiny_bundle).code == 0


def test_sources_that_cannot_be_built(place: Path, sealift: Any) -> None:
    out = ("-o", place / "x.bundle")
    assert sealift("build", place / "none", *measured(place), *out).code in {1, 4}
    bad = place / "bad"
    shutil.copytree(EXAMPLES / "v1", bad)
    (bad / "app" / "auction" / "runtime.py").write_text("import nonsense_module\n")
    said = sealift("build", bad, *measured(place), *out)
    assert said.code == 1
    assert "nonsense_module" in said.err
    assert not (place / "x.bundle").exists()


def test_a_successor_that_loses_the_state_is_not_built(
    place: Path, sealift: Any
) -> None:
    """`--previous` refuses what `sealift app check` refuses, and nothing is written."""
    v1, v2, bad = place / "v1.bundle", place / "v2.bundle", place / "bad"
    assert sealift("build", EXAMPLES / "v1", *measured(place), "-o", v1).code == 0
    follows = ("--previous", v1)
    good = sealift("build", EXAMPLES / "v2", *measured(place), *follows, "-o", v2)
    assert good.code == 0, good
    shutil.copytree(EXAMPLES / "v2", bad)
    pallet = bad / "app" / "auction" / "pallet.py"
    text = pallet.read_text()
    pallet.write_text(text.replace("storage_version = 2", "storage_version = 1"))
    out = place / "bad.bundle"
    said = sealift("build", bad, *measured(place), *follows, "-o", out, "--json")
    assert said.code == 1
    assert said.json["error"]["code"] == "ApplicationRefusedError"
    assert "app/auction/pallet.py:" in said.err
    assert "storage-layout: the storage item auction.bids is gone" in said.err
    assert "    write: storage_version = 2" in said.err
    pallet.write_text("import time as t\nclock = t.time\n" + text)
    said = sealift("build", bad, *measured(place), *follows, "-o", out)
    assert said.code == 1
    assert "app/auction/pallet.py:2: clock:" in said.err
    assert not out.exists()
    gone = ("--previous", place / "no.bundle")
    assert sealift("build", bad, *measured(place), *gone, "-o", out).code == 4


def test_a_vendor_key_is_made_once_and_privately(
    tmp_path: Path, sealift: Any, monkeypatch: pytest.MonkeyPatch, vendor_pem: bytes
) -> None:
    monkeypatch.setattr(_build, "rsa_generate", lambda: vendor_pem)
    path = tmp_path / "vendor.pem"
    assert sealift("sign", "--new-key", path).code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert sealift("sign", "--new-key", path).code == 4


def test_a_chain_is_never_made_over_another(place: Path, sealift: Any) -> None:
    before = (place / "chain" / "genesis.json").read_bytes()
    again = sealift("chain", "init", place / "chain", "--sim", place / "sim")
    assert again.code == 4
    assert (place / "chain" / "genesis.json").read_bytes() == before
    out = place / "root.json"
    shown = sealift("chain", "trust-root", place / "chain", "-o", out)
    assert shown.json["height"] == 1
    assert shown.json["chain_id"] == "sealift-local"


def test_a_chain_of_a_simulated_intel_that_is_not_there(
    tmp_path: Path, sealift: Any
) -> None:
    """A mistyped folder would be another Intel, whose machines nobody has."""
    said = sealift("chain", "init", tmp_path / "chain", "--sim", tmp_path / "smi")
    assert said.code == 4
    assert "insecure-sim init" in said.err
    assert not (tmp_path / "smi").exists()
    assert not (tmp_path / "chain").exists()


def test_machines_fall_behind_and_catch_up(place: Path, sealift: Any) -> None:
    sim = place / "sim"
    assert sealift("insecure-sim", "platform", sim, "alpha").code == 0
    recovered = sealift(
        "insecure-sim", "tcb-recovery", sim, "--advisory", "INTEL-SA-1", "--json"
    )
    assert recovered.json["tcb_evaluation_data_number"] == 2

    def status() -> str:
        rows = sealift("insecure-sim", "platform", sim, "--json").json["machines"]
        return str(rows[0]["tcb_status"])

    assert status() == "OutOfDate"
    sealift("insecure-sim", "platform", sim, "alpha", "--update", "--debug")
    assert status() == "UpToDate"
    revoked = sealift("insecure-sim", "revoke", sim, "alpha", "--json")
    assert revoked.json["crl_number"] == 2
    assert sealift("insecure-sim", "revoke", sim, "nobody").code == 4
    assert sealift("insecure-sim", "revoke", sim, "--platform-ca").code == 0
    words = ("insecure-sim", "tcb-recovery", sim, "--status", "SWHardeningNeeded")
    assert sealift(*words).code == 0
    assert status() == "SWHardeningNeeded"
    assert sealift("insecure-sim", "tcb-recovery", sim, "--qe").code == 0
