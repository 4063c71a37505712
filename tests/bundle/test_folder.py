"""What runs is what was measured: nothing is added, changed or missing."""

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.bundle import (
    Bundle,
    BundleFormatError,
    BundlePathError,
    FolderDiffersError,
    SigstructError,
    WheelError,
    folder_bundle,
    measure,
    measure_folder,
    unpack_plan,
    unpack_wheels,
)


def test_an_unpacked_folder_is_the_bundle_again(signed: Bundle) -> None:
    files = unpack_plan(signed)
    assert files["site/thing/__init__.py"] == b"B = 2\n"
    assert files["wheels/thing-1-py3-none-any.whl"]
    verified = measure_folder(files)
    assert verified.bundle == signed
    assert verified.measurement == measure(signed.files)


@pytest.mark.parametrize(
    "stray",
    [
        "app/__pycache__/ledgerbook.cpython-311.pyc",
        "app/ledgerbook.pyc",
        "sealift/base/__init__.pyc",
        "site/thing/__init__.pyc",
        "site/__pycache__/thing.pyc",
        "site/sitecustomize.py",
        "site/evil.pth",
        "site/json.py",
        "sitecustomize.py",
        "no-pycache/x",
        ".hidden",
        "site/\udcff.py",
        "\udcff",
    ],
    ids=ascii,
)
def test_a_stray_file_is_refused(signed: Bundle, stray: str) -> None:
    files = {**unpack_plan(signed), stray: b"evil"}
    with pytest.raises((BundleFormatError, FolderDiffersError)):
        measure_folder(files)


def test_a_stray_application_file_changes_the_measurement(signed: Bundle) -> None:
    with pytest.raises(SigstructError, match="other content"):
        measure_folder({**unpack_plan(signed), "app/json.py": b"evil"})


@pytest.mark.parametrize(
    "path", ["app/ledgerbook.py", "sealift/base/__init__.py", "boot.py"]
)
def test_an_altered_source_is_refused(signed: Bundle, path: str) -> None:
    files = unpack_plan(signed)
    with pytest.raises(SigstructError, match="other content"):
        measure_folder({**files, path: files[path] + b"\n"})


def test_an_altered_file_of_a_wheel_is_refused(signed: Bundle) -> None:
    files = {**unpack_plan(signed), "site/thing/__init__.py": b"B = 3\n"}
    with pytest.raises(FolderDiffersError, match="altered"):
        measure_folder(files)


def test_a_missing_file_of_a_wheel_is_refused(signed: Bundle) -> None:
    files = unpack_plan(signed)
    del files["site/thing/__init__.py"]
    with pytest.raises(FolderDiffersError, match="missing"):
        measure_folder(files)


def test_a_folder_without_its_sigstruct_is_refused(signed: Bundle) -> None:
    files = unpack_plan(signed)
    del files["sigstruct.bin"]
    assert folder_bundle(files).sigstruct is None
    with pytest.raises(SigstructError, match="not signed"):
        measure_folder(files)


def test_a_changed_wheel_with_its_site_is_refused(
    signed: Bundle, wheel: Callable[..., bytes]
) -> None:
    files = unpack_plan(signed)
    files["wheels/thing-1-py3-none-any.whl"] = wheel(
        {"thing/__init__.py": b"evil", "thing-1.dist-info/RECORD": b""}
    )
    files["site/thing/__init__.py"] = b"evil"
    with pytest.raises(SigstructError, match="other content"):
        measure_folder(files)


# --- hostile wheels ---


@pytest.mark.parametrize(
    "path", ["../x.py", "/x.py", "a/../../x.py", "a\\..\\x.py", "a/x.pyc", "a//b.py"]
)
def test_a_wheel_cannot_write_elsewhere_or_bring_bytecode(
    wheel: Callable[..., bytes], path: str
) -> None:
    with pytest.raises(BundlePathError):
        unpack_wheels({"x.whl": wheel({path: b""})})


def test_data_folders_are_merged_as_installers_do(
    wheel: Callable[..., bytes],
) -> None:
    files = {
        "pkg/": b"",
        "x-1.data/purelib/pkg/a.py": b"a",
        "x-1.data/platlib/pkg/b.py": b"b",
        "x-1.data/scripts/run": b"#!/bin/sh",
        "x-1.data/headers/x.h": b"h",
        "x-1.data/data/share/x": b"d",
        "x-1.dist-info/METADATA": b"m",
    }
    assert unpack_wheels({"x.whl": wheel(files)}) == {
        "pkg/a.py": b"a",
        "pkg/b.py": b"b",
        "x-1.dist-info/METADATA": b"m",
    }


def test_a_data_folder_cannot_lead_elsewhere(wheel: Callable[..., bytes]) -> None:
    with pytest.raises(BundlePathError):
        unpack_wheels({"x.whl": wheel({"x.data/purelib/../../y.py": b""})})


def test_two_wheels_with_one_file_are_refused(wheel: Callable[..., bytes]) -> None:
    one, two = wheel({"a.py": b"1"}), wheel({"a.py": b"2"})
    with pytest.raises(WheelError, match="same file"):
        unpack_wheels({"x.whl": one, "y.whl": two})


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_wheel_with_a_file_twice_is_refused(wheel: Callable[..., bytes]) -> None:
    out = io.BytesIO(wheel({"a.py": b"1"}))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("a.py", b"2")
    with pytest.raises(WheelError, match="twice"):
        unpack_wheels({"x.whl": out.getvalue()})


def test_a_link_in_a_wheel_is_refused(wheel: Callable[..., bytes]) -> None:
    bad = wheel({"a.py": b"/etc/passwd"}, create_system=3, external_attr=0o120777 << 16)
    with pytest.raises(WheelError, match="link"):
        unpack_wheels({"x.whl": bad})


def test_a_file_where_a_folder_is_is_refused(wheel: Callable[..., bytes]) -> None:
    with pytest.raises(BundlePathError):
        unpack_wheels(
            {"x.whl": wheel({"a": b"", "b": b""}), "y.whl": wheel({"a/c": b""})}
        )


def test_a_wheel_that_swells_is_refused_before_it_is_unpacked(
    wheel: Callable[..., bytes],
) -> None:
    small = wheel({"a.py": bytes(1000)})
    claimed = struct.pack("<I", 1000)
    at = small.rindex(claimed)
    huge = small[:at] + struct.pack("<I", 2**31) + small[at + 4 :]
    with pytest.raises(WheelError, match="too many bytes"):
        unpack_wheels({"x.whl": huge})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_wheel_or_refused(data: bytes) -> None:
    with pytest.raises(WheelError):
        unpack_wheels({"x.whl": data})


@given(st.data())
def test_any_damaged_wheel_is_refused_or_unpacks(
    wheel: Callable[..., bytes], data: st.DataObject
) -> None:
    bad = bytearray(wheel({"a.py": b"a" * 50, "b.py": b"b"}))
    position = data.draw(st.integers(0, len(bad) - 1))
    bad[position] ^= data.draw(st.integers(1, 255))
    try:
        files = unpack_wheels({"x.whl": bytes(bad)})
    except (WheelError, BundlePathError):
        return
    assert all(not path.startswith(("/", "..")) for path in files)
