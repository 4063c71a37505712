"""The manifest that Gramine measures: it trusts the bundle, all of it and no more."""

import datetime as dt
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealift.base import SealiftError
from sealift.bundle import (
    AttestationRoot,
    Bundle,
    L1TrustRoot,
    Manifest,
    SigstructError,
    attach_sigstruct,
    make_bundle,
    make_tbs,
    measure,
    sign_sigstruct,
    unpack_plan,
)
from sealift.bundle._boot import BOOT_SOURCE
from sealift.bundle._bundle import SIGSTRUCT
from sealift.crypto import rsa_generate, sha256
from sealift.enclave.main import NO_PLATFORM
from sealift.transport.build import collect_sealift
from sealift.transport.bundle_folder import (
    BundleFolderError,
    read_folder,
    verify_folder,
)
from sealift.transport.gramine import (
    GramineFolderError,
    GramineTargetError,
    gramine_fingerprint,
    gramine_template,
    read_gramine_sigstruct,
    render_manifest,
    write_gramine_folder,
)

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "gramine"


@pytest.fixture(scope="session")
def vendor() -> bytes:
    return rsa_generate()


@pytest.fixture(scope="session")
def make(vendor: bytes) -> Callable[..., Bundle]:
    """Real bundles: the whole enclave wing, and an application."""

    def build(
        target: str = "cp312-manylinux_x86_64",
        app: bytes = b"x = 1\n",
        more: dict[str, bytes] | None = None,
        without: str = "",
    ) -> Bundle:
        manifest = Manifest(
            name="tiny",
            version="1",
            isv_prod_id=7,
            isv_svn=3,
            target=target,
            entry="tiny:runtime",
            l1=L1TrustRoot(chain_id="c", height=1, header_hash="00" * 32),
            attestation_roots=(AttestationRoot(kind="insecure-sim", der="00"),),
            ecall_versions=(1, 1),
            metadata=sha256(b"").hex(),
        )
        files = {"tiny.py": app, "data/a b\u00e9.txt": b"data", **(more or {})}
        bundle = make_bundle(
            manifest,
            sealift={
                path: content
                for path, content in collect_sealift(
                    [manifest.enclave_entry], files
                ).items()
                if path != without
            },
            app=files,
            wheels={},
            metadata=b"",
        )
        tbs = make_tbs(
            measure(bundle.files), isv_prod_id=7, isv_svn=3, date=dt.date(2026, 1, 1)
        )
        return attach_sigstruct(bundle, sign_sigstruct(tbs, vendor))

    return build


@pytest.fixture(scope="session")
def bundle(make: Callable[..., Bundle]) -> Bundle:
    return make()


def rendered(bundle: Bundle) -> dict[str, Any]:
    """As gramine-manifest makes it: TOML, with Gramine's own paths filled in."""
    text = render_manifest(bundle)
    text = text.replace("{{ gramine.libos }}", "/gramine/libsysdb.so")
    text = text.replace("{{ gramine.runtimedir() }}", "/gramine/runtime")
    assert not re.search(r"[{][{%#]", text)
    return tomllib.loads(text)


def of_bundle(manifest: dict[str, Any]) -> dict[str, str]:
    return {
        one["uri"].removeprefix("file:bundle/"): one["sha256"]
        for one in manifest["sgx"]["trusted_files"]
        if isinstance(one, dict)
    }


# --- what is trusted ---


def test_every_file_of_the_bundle_is_trusted_by_its_hash_and_no_other(
    bundle: Bundle, tmp_path: Path
) -> None:
    write_gramine_folder(bundle, tmp_path / "g")
    on_disk = read_folder(tmp_path / "g" / "bundle")
    assert len(on_disk) > 50
    assert of_bundle(rendered(bundle)) == {
        path: sha256(content).hex() for path, content in on_disk.items()
    }
    assert on_disk == unpack_plan(bundle)
    assert "boot.py" in on_disk
    assert "sealift/enclave/_gramine.py" in on_disk


def test_what_is_trusted_beside_it_is_gramine_and_the_interpreter(
    bundle: Bundle,
) -> None:
    """Named one by one: this list grows only by a reviewed change."""
    others = [
        one for one in rendered(bundle)["sgx"]["trusted_files"] if isinstance(one, str)
    ]
    libraries = "file:/usr/lib/x86_64-linux-gnu/"
    assert others == [
        "file:/gramine/libsysdb.so",
        "file:/gramine/runtime/",
        "file:/usr/bin/python3.12",
        "file:/usr/lib/python3.12/",
        f"{libraries}libcrypto.so.3",
        f"{libraries}libssl.so.3",
        f"{libraries}libz.so.1",
        f"{libraries}libexpat.so.1",
        f"{libraries}libffi.so.8",
        f"{libraries}libgcc_s.so.1",
    ]


def test_nothing_is_allowed_written_or_taken_from_the_host(bundle: Bundle) -> None:
    """The whole manifest, key by key: a new one is a reviewed change."""
    said = rendered(bundle)
    assert set(said) == {"libos", "loader", "fs", "sys", "sgx"}
    assert said["libos"] == {"entrypoint": "/usr/bin/python3.12"}
    assert set(said["loader"]) == {"argv", "log_level", "env"}
    assert said["loader"]["log_level"] == "error"
    assert said["loader"]["env"] == {
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "LD_LIBRARY_PATH": "/lib:/usr/lib/x86_64-linux-gnu",
    }
    assert set(said["fs"]) == {"mounts"}
    assert all(set(one) == {"path", "uri"} for one in said["fs"]["mounts"])
    assert said["sys"] == {"stack": {"size": "8M"}, "enable_sigterm_injection": False}
    sgx = dict(said["sgx"])
    del sgx["trusted_files"]
    assert sgx == {
        "debug": False,
        "remote_attestation": "dcap",
        "isvprodid": 7,
        "isvsvn": 3,
        "enclave_size": "4G",
        "max_threads": 16,
        "edmm_enable": False,
        "file_check_policy": "strict",
    }
    text = gramine_template()
    for word in ("insecure__", "passthrough", "allowed_files", "cmdline", "use_host"):
        assert word not in text, word


def test_no_mount_reaches_the_hosts_folders_beyond_what_is_trusted(
    bundle: Bundle,
) -> None:
    mounts = {one["path"]: one["uri"] for one in rendered(bundle)["fs"]["mounts"]}
    assert mounts == {
        "/lib": "file:/gramine/runtime",
        "/usr/bin/python3.12": "file:/usr/bin/python3.12",
        "/usr/lib/python3.12": "file:/usr/lib/python3.12",
        "/usr/lib/x86_64-linux-gnu": "file:/usr/lib/x86_64-linux-gnu",
        "/bundle": "file:bundle",  # relative: the same manifest on any machine
    }
    assert not any("/dev/attestation".startswith(path) for path in mounts)


def test_the_words_of_the_process_are_measured_and_name_no_platform(
    bundle: Bundle,
) -> None:
    """A descriptor given by the host would be a platform that gives it all keys."""
    python, *words = rendered(bundle)["loader"]["argv"]
    assert python == "python3.12"
    at = words.index("/bundle/boot.py")
    assert words[:at] == ["-I", "-S", "-B", "-X", "pycache_prefix=/no-pycache", "-u"]
    host, platform, memory = (int(one) for one in words[at + 1 :])
    assert (host, platform, memory) == (0, NO_PLATFORM, 0)
    assert b"sys.argv[1:4]" in BOOT_SOURCE


# --- what it follows from ---


def test_one_byte_of_the_application_is_another_manifest(
    make: Callable[..., Bundle], bundle: Bundle
) -> None:
    assert render_manifest(make()) == render_manifest(bundle)
    other = of_bundle(rendered(make(app=b"x = 2\n")))
    same = of_bundle(rendered(bundle))
    assert set(same) == set(other)
    changed = {path for path in same if same[path] != other[path]}
    assert changed == {"app/tiny.py", SIGSTRUCT}


def test_the_interpreter_is_the_targets(make: Callable[..., Bundle]) -> None:
    text = render_manifest(make("cp311-manylinux_x86_64"))
    assert "/usr/bin/python3.11" in text
    assert "python3.12" not in text
    for target in ("cp312-musllinux_x86_64", "cp312-manylinux_aarch64"):
        with pytest.raises(GramineTargetError, match="does not run"):
            render_manifest(make(target))


@pytest.mark.parametrize(
    "name",
    [
        "{{ gramine }}.py",
        "{% for x in y %}",
        "{# a #}",
        'a", "file:/etc',
        "@NAME@",
        "\U0001f600.py",
        "a b\u00e9.txt",
    ],
)
def test_a_files_name_writes_nothing_into_the_manifest(
    name: str, make: Callable[..., Bundle]
) -> None:
    """Names are the application's choice: Gramine's Jinja must not read them."""
    bundle = make(more={name: b"x"})
    manifest = rendered(bundle)
    assert f"app/{name}" in of_bundle(manifest)
    assert set(of_bundle(manifest)) == set(unpack_plan(bundle))


def test_a_bundle_without_the_driver_is_refused(make: Callable[..., Bundle]) -> None:
    """Of an older release: its enclave would take -1 for a descriptor, and die."""
    with pytest.raises(GramineTargetError, match="cannot run under Gramine"):
        render_manifest(make(without="enclave/_gramine.py"))


# --- folders ---


def test_a_folder_is_made_once_and_kept(
    bundle: Bundle, make: Callable[..., Bundle], tmp_path: Path
) -> None:
    folder = tmp_path / "g"
    template = write_gramine_folder(bundle, folder)
    assert template.name == "sealift.manifest.template"
    (folder / "sealift.sig").write_bytes(b"Gramine's")
    write_gramine_folder(bundle, folder)
    assert (folder / "sealift.sig").read_bytes() == b"Gramine's"
    with pytest.raises(BundleFolderError, match="holds another bundle"):
        write_gramine_folder(make(app=b"x = 2\n"), folder)
    assert verify_folder(folder / "bundle").bundle.files == bundle.files
    stray = folder / "bundle" / "sealift" / "enclave" / "__init__.pyc"
    stray.write_bytes(b"")
    stray.chmod(0o644)
    with pytest.raises(SealiftError):
        write_gramine_folder(bundle, folder)


def test_an_unsigned_bundle_makes_no_folder(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SigstructError):
        write_gramine_folder(replace(bundle, sigstruct=None), tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_the_fingerprint_is_what_gramine_signed(tmp_path: Path, vendor: bytes) -> None:
    measured = measure({"sealift.manifest.sgx": b"m"})
    tbs = make_tbs(measured, isv_prod_id=7, isv_svn=3, date=dt.date(2026, 1, 1))
    sig = tmp_path / "sealift.sig"
    with pytest.raises(GramineFolderError, match=r"gramine-sgx-sign"):
        gramine_fingerprint(tmp_path)
    sig.write_bytes(sign_sigstruct(tbs, vendor))
    assert gramine_fingerprint(tmp_path) == measured.mrenclave
    assert read_gramine_sigstruct(tmp_path).isv_svn == 3
    damaged = bytearray(sig.read_bytes())
    damaged[970] ^= 1  # ENCLAVEHASH
    sig.write_bytes(damaged)
    with pytest.raises(GramineFolderError, match="signature"):
        gramine_fingerprint(tmp_path)


def test_the_template_in_the_checkout_is_the_one_that_is_used() -> None:
    assert gramine_template() == (DEPLOY / "sealift.manifest.template").read_text()
    assert sorted(set(re.findall(r"@[A-Z_]+@", gramine_template()))) == [
        "@ISVPRODID@", "@ISVSVN@", "@NAME@", "@PYTHON@", "@TRUSTED_FILES@",
    ]  # fmt: skip
