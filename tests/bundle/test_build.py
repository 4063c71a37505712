"""Same source, lock and target: same bytes; anything else is refused."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sealift.bundle import (
    Bundle,
    BundlePathError,
    FolderDiffersError,
    Manifest,
    SigstructError,
    encode_bundle,
    measure,
    parse_bundle,
)
from sealift.transport.build import (
    BuildError,
    BuildInputs,
    WheelFetchError,
    build_bundle,
    collect_application,
    collect_sealift,
    enclave_lock,
    fetch_wheels,
    platform_tags,
    running_target,
    user_wheel_cache,
    write_bundle,
)
from sealift.transport.bundle_folder import (
    BundleFolderError,
    install_bundle,
    read_bundle_file,
    read_folder,
    verify_folder,
)
from sealift.transport.files import FileError, UnreadableFileError

WHEEL = "thing-1-py3-none-any.whl"
METADATA = b"metadata"


@pytest.fixture
def shelf(
    tmp_path: Path, wheel: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder that pip takes wheels from, and no index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    content = wheel(
        {
            "thing/__init__.py": b"B = 2\n",
            "thing-1.dist-info/METADATA": (
                b"Metadata-Version: 2.1\nName: thing\nVersion: 1\n"
            ),
            "thing-1.dist-info/WHEEL": (
                b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            ),
            "thing-1.dist-info/RECORD": b"",
        }
    )
    (folder / WHEEL).write_bytes(content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def lock(shelf: Path) -> bytes:
    digest = hashlib.sha256((shelf / WHEEL).read_bytes()).hexdigest()
    return (
        f"thing==1 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}\n"
        f"    # via -r enclave.in\n"
        f"other==2 ; python_full_version < '3' \\\n    --hash=sha256:{'1' * 64}\n"
    ).encode()


def application(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "ledgerbook.py").write_text("from sealift.base import Message\n")
    (folder / "data" / "list.txt").write_text("x")
    return folder


@pytest.fixture
def inputs(tmp_path: Path, lock: bytes) -> BuildInputs:
    return BuildInputs(
        application=application(tmp_path / "src"),
        lock=lock,
        wheel_cache=tmp_path / "cache",
        metadata=METADATA,
    )


@pytest.fixture
def described(manifest: Callable[..., Manifest]) -> Manifest:
    return manifest(target=running_target(), enclave_entry="ledgerbook:main")


# --- determinism (invariant 9) ---

BUILD = """
import os, sys
from pathlib import Path
from sealift.bundle import encode_bundle, parse_manifest
from sealift.transport.build import BuildInputs, build_bundle, write_bundle
os.umask(int(sys.argv[1], 8))
app, lock, cache, manifest, out = map(Path, sys.argv[2:])
bundle = build_bundle(parse_manifest(manifest.read_bytes()), BuildInputs(
    application=app, lock=lock.read_bytes(), wheel_cache=cache, metadata=b"metadata"))
write_bundle(out, encode_bundle(bundle))
"""


def test_invariant_9_two_builds_in_other_places_are_the_same_bytes(
    tmp_path: Path, lock: bytes, described: Manifest
) -> None:
    from sealift.bundle import encode_manifest  # noqa: PLC0415

    (tmp_path / "lock").write_bytes(lock)
    (tmp_path / "manifest").write_bytes(encode_manifest(described))
    results = []
    for number, umask, zone, seed in (
        (1, "022", "UTC", "0"),
        (2, "077", "Asia/Kathmandu", "4711"),
    ):
        place = tmp_path / f"place-{number}" / ("deeper" * number)
        app = application(place / "app")
        os.utime(app / "ledgerbook.py", (number * 10**9, number * 10**9))
        (app / "ledgerbook.py").chmod(0o600 + number)
        (app / "__pycache__").mkdir()
        (app / "__pycache__" / "ledgerbook.cpython-311.pyc").write_bytes(bytes(number))
        (app / f".editor-{number}").write_text("swap")
        paths = (app, tmp_path / "lock", place / "cache", tmp_path / "manifest")
        out = place / "out.bundle"
        subprocess.run(
            [sys.executable, "-c", BUILD, umask, *map(str, paths), str(out)],
            check=True,
            env={**os.environ, "TZ": zone, "PYTHONHASHSEED": seed, "LC_ALL": "C"},
        )
        results.append(out.read_bytes())
    assert results[0] == results[1]
    assert measure(parse_bundle(results[0]).files).pages > 3


def test_one_byte_of_application_source_changes_mrenclave(
    inputs: BuildInputs, described: Manifest
) -> None:
    before = measure(build_bundle(described, inputs).files)
    source = inputs.application / "ledgerbook.py"
    source.write_text(source.read_text().replace("Message", "message"))
    after = measure(build_bundle(described, inputs).files)
    assert before.mrenclave != after.mrenclave


def test_a_bundle_for_another_interpreter_is_not_built(
    inputs: BuildInputs, manifest: Callable[..., Manifest]
) -> None:
    with pytest.raises(BuildError, match="interpreter"):
        build_bundle(manifest(target="cp399-manylinux_x86_64"), inputs)


# --- the application folder ---


def test_a_stray_pyc_in_the_application_is_refused(tmp_path: Path) -> None:
    folder = application(tmp_path / "a")
    (folder / "ledgerbook.pyc").write_bytes(b"")
    with pytest.raises(BundlePathError, match="compiled"):
        collect_application(folder)


def test_a_link_in_the_application_is_refused(tmp_path: Path) -> None:
    folder = application(tmp_path / "a")
    (folder / "passwords.txt").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match="link"):
        collect_application(folder)


@pytest.mark.parametrize("name", ["json.py", "sealift/__init__.py", "asyncio/x.py"])
def test_a_module_that_hides_another_is_refused(tmp_path: Path, name: str) -> None:
    folder = application(tmp_path / "a")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    with pytest.raises(BuildError, match="name of another"):
        collect_application(folder)


def test_no_application_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no application"):
        collect_application(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match="empty"):
        collect_application(tmp_path / "empty")


# --- sealift's own sources ---


def test_only_what_is_imported_comes_along() -> None:
    app = {"a.py": b"from sealift.base import Message\n"}
    files = collect_sealift([], app)
    assert "__init__.py" in files
    assert "base/__init__.py" in files
    assert "base/_codec.py" in files
    assert {path.split("/")[0] for path in files} == {"__init__.py", "base"}


def test_imports_in_functions_and_of_submodules_are_seen() -> None:
    app = {"a.py": b"def f():\n    import sealift.crypto.entropy as e\n"}
    assert {"crypto/__init__.py", "crypto/entropy.py", "crypto/_aead.py"} <= set(
        collect_sealift([], app)
    )


@pytest.mark.parametrize(
    "source",
    [
        b"import sealift.transport.build",
        b"from sealift import insecure_sim",
        b"from sealift.transport import build",
    ],
)
def test_an_application_that_wants_the_host_wing_is_refused(source: bytes) -> None:
    with pytest.raises(BuildError, match="host wing"):
        collect_sealift([], {"a.py": source})


def test_a_missing_entry_or_broken_source_is_refused() -> None:
    with pytest.raises(BuildError, match="no such module"):
        collect_sealift(["sealift.nowhere:main"], {})
    with pytest.raises(BuildError, match="not Python"):
        collect_sealift([], {"a.py": b"def"})


# --- wheels ---


def test_wheels_are_fetched_once_and_verified_each_time(
    tmp_path: Path, shelf: Path, lock: bytes
) -> None:
    cache = tmp_path / "cache"
    first = fetch_wheels(lock, running_target(), cache)
    assert first == {WHEEL: (shelf / WHEEL).read_bytes()}
    (shelf / WHEEL).unlink()
    assert fetch_wheels(lock, running_target(), cache) == first
    (cached,) = cache.glob(f"*/{WHEEL}")
    cached.write_bytes(first[WHEEL] + b"evil")
    with pytest.raises(WheelFetchError, match="not one that the lock names"):
        fetch_wheels(lock, running_target(), cache)
    cached.unlink()
    with pytest.raises(WheelFetchError, match="missing"):
        fetch_wheels(lock, running_target(), cache)


def test_a_wheel_with_another_hash_is_not_fetched(
    tmp_path: Path, shelf: Path, lock: bytes
) -> None:
    (shelf / WHEEL).write_bytes((shelf / WHEEL).read_bytes() + b"evil")
    with pytest.raises(WheelFetchError, match="pip cannot fetch"):
        fetch_wheels(lock, running_target(), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, lock: bytes) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError):
        fetch_wheels(lock, running_target(), tmp_path / "file" / "cache")


def test_a_folder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "app" / "auction"
    hidden.mkdir(parents=True)
    (tmp_path / "app" / "main.py").write_bytes(b"")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path) == hidden:
            raise PermissionError(13, "Permission denied", str(hidden))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UnreadableFileError, match="Permission denied"):
        collect_application(tmp_path / "app")


def test_the_lock_of_this_release_is_found_and_hashes_everything() -> None:
    lock = enclave_lock().decode()
    assert "cryptography==" in lock
    assert lock.count("==") >= 7
    assert "--hash=sha256:" in lock


def test_the_platforms_of_a_target_are_a_list_not_this_machine() -> None:
    tags = platform_tags("cp311-manylinux_x86_64")
    assert tags[0] == "manylinux_2_28_x86_64"
    assert "manylinux2014_x86_64" in tags
    assert platform_tags("cp313-musllinux_aarch64")[0] == "musllinux_1_2_aarch64"
    for bad in ("cp311", "cp311-win_amd64", "cp311-manylinux"):
        with pytest.raises(BuildError, match="unknown target"):
            platform_tags(bad)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert user_wheel_cache() == Path("/x/sealift/wheels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert user_wheel_cache() == Path("/h/.cache/sealift/wheels")


# --- folders ---


def test_a_bundle_is_unpacked_to_its_own_address_once(
    tmp_path: Path, signed: Bundle
) -> None:
    data = encode_bundle(signed)
    write_bundle(tmp_path / "x.bundle", data)
    assert read_bundle_file(tmp_path / "x.bundle") == data
    folder = install_bundle(data, tmp_path / "store")
    assert folder.name == measure(signed.files).mrenclave.hex()
    before = (folder / "boot.py").stat().st_ino
    assert install_bundle(data, tmp_path / "store") == folder
    assert (folder / "boot.py").stat().st_ino == before
    assert [path.name for path in (tmp_path / "store").iterdir()] == [folder.name]
    assert verify_folder(folder).bundle == signed


def test_an_altered_folder_is_refused_not_repaired(
    tmp_path: Path, signed: Bundle
) -> None:
    folder = install_bundle(encode_bundle(signed), tmp_path)
    victim = folder / "site" / "thing" / "__init__.py"
    victim.chmod(0o644)
    victim.write_text("evil")
    with pytest.raises(FolderDiffersError):
        install_bundle(encode_bundle(signed), tmp_path)
    assert victim.read_text() == "evil"


def test_an_unsigned_bundle_is_not_unpacked(
    tmp_path: Path, plain: Callable[..., Bundle]
) -> None:
    with pytest.raises(SigstructError):
        install_bundle(encode_bundle(plain()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_links_and_devices_in_a_folder_are_refused(
    tmp_path: Path, signed: Bundle
) -> None:
    folder = install_bundle(encode_bundle(signed), tmp_path)
    (folder / "app" / "link").symlink_to("ledgerbook.py")
    with pytest.raises(BundleFolderError, match="neither"):
        verify_folder(folder)
    (folder / "app" / "link").unlink()
    os.mkfifo(folder / "app" / "pipe")
    with pytest.raises(BundleFolderError, match="neither"):
        verify_folder(folder)
    (folder / "app" / "pipe").unlink()
    (folder / "app" / "more").symlink_to("/etc", target_is_directory=True)
    with pytest.raises(BundleFolderError, match="neither"):
        verify_folder(folder)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BundleFolderError):
        read_folder(tmp_path / "none")
    with pytest.raises(BundleFolderError, match="no files"):
        read_folder(tmp_path)
    with pytest.raises(BundleFolderError):
        read_bundle_file(tmp_path / "none")
