"""Whoever repacks, hides or smuggles something into a bundle file is refused."""

import io
import json
import stat
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import SealiftError
from sealift.bundle import (
    MAX_BUNDLE_BYTES,
    AttestationRoot,
    Bundle,
    BundleFormatError,
    BundlePathError,
    Manifest,
    ManifestError,
    bundle_of,
    check_path,
    encode_bundle,
    encode_manifest,
    parse_bundle,
    parse_manifest,
)


def repack(
    data: bytes, change: Callable[[zipfile.ZipInfo], None], **options: object
) -> bytes:
    """The same files in another zip."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", **options) as new,
    ):
        for info in old.infolist():
            content = old.read(info)
            fresh = zipfile.ZipInfo(info.filename, info.date_time)
            fresh.create_system = info.create_system
            fresh.external_attr = info.external_attr
            change(fresh)
            new.writestr(fresh, content)
    return out.getvalue()


def add(data: bytes, path: str, content: bytes = b"") -> bytes:
    """One more member at the end, with the same attributes."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
        info.create_system = 3
        info.external_attr = (stat.S_IFREG | 0o644) << 16
        archive.writestr(info, content)
    return out.getvalue()


def test_what_is_written_is_read_back(signed: Bundle) -> None:
    again = parse_bundle(encode_bundle(signed))
    assert again == signed
    assert list(again.files) == sorted(again.files)
    assert again.wheels().keys() == {"thing-1-py3-none-any.whl"}


def test_an_honest_repack_is_the_identity(signed: Bundle) -> None:
    """The forgeries below differ from this one only in what they change."""
    data = encode_bundle(signed)
    assert repack(data, lambda info: None) == data


def test_order_of_files_does_not_reach_the_bytes(plain: Callable[..., Bundle]) -> None:
    app = {"ledgerbook.py": b"1", "b.py": b"2", "a/c.py": b"3"}
    turned = dict(reversed(app.items()))
    assert encode_bundle(plain(app=app)) == encode_bundle(plain(app=turned))


def test_an_unsigned_bundle_has_no_sigstruct(plain: Callable[..., Bundle]) -> None:
    assert parse_bundle(encode_bundle(plain())).sigstruct is None


def deflate(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_DEFLATED


def age(info: zipfile.ZipInfo) -> None:
    info.date_time = (2001, 2, 3, 4, 5, 6)


def execute(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFREG | 0o755) << 16


def link(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def annotate(info: zipfile.ZipInfo) -> None:
    info.comment = b"hello"


def pad(info: zipfile.ZipInfo) -> None:
    info.extra = b"\xfe\xca\x00\x00"


@pytest.mark.parametrize("change", [deflate, age, execute, link, annotate, pad])
def test_another_zip_of_the_same_files_is_refused(
    signed: Bundle, change: Callable[[zipfile.ZipInfo], None]
) -> None:
    with pytest.raises(BundleFormatError):
        parse_bundle(repack(encode_bundle(signed), change))


@pytest.mark.parametrize(("before", "after"), [(b"", b"\0"), (b"MZ", b"")])
def test_bytes_around_the_zip_are_refused(
    signed: Bundle, before: bytes, after: bytes
) -> None:
    with pytest.raises(BundleFormatError):
        parse_bundle(before + encode_bundle(signed) + after)


def test_a_comment_of_the_archive_is_refused(signed: Bundle) -> None:
    out = io.BytesIO(encode_bundle(signed))
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"harmless?"
    with pytest.raises(BundleFormatError):
        parse_bundle(out.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_member_of_the_same_name_is_refused(signed: Bundle) -> None:
    forged = add(encode_bundle(signed), "app/ledgerbook.py", b"evil")
    with pytest.raises(BundleFormatError, match="stands twice"):
        parse_bundle(forged)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "app/../../x.py",
        "app//x.py",
        "app/./x.py",
        "app\\x.py",
        "app/x\n.py",
        "app/x.pyc",
        "app/__pycache__/x.py",
        "app/" + "x" * 300,
        "",
        "app/",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(BundlePathError):
        check_path(path)


@pytest.mark.parametrize(
    "path",
    ["site/x.py", "evil.py", "wheels/a/b.whl", "wheels/x.py", "sitecustomize.py"],
)
def test_an_unknown_member_is_refused(signed: Bundle, path: str) -> None:
    with pytest.raises(BundlePathError, match="unknown member"):
        bundle_of({**signed.files, path: b""}, sigstruct=None)


def test_a_file_out_of_order_is_refused(signed: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="canonical"):
        parse_bundle(add(encode_bundle(signed), "app/aaa.py"))


@pytest.mark.parametrize("path", ["manifest.json", "metadata.bin", "boot.py"])
def test_a_missing_member_is_refused(signed: Bundle, path: str) -> None:
    files = {name: data for name, data in signed.files.items() if name != path}
    with pytest.raises(BundleFormatError, match="lacks"):
        bundle_of(files, sigstruct=None)


def test_metadata_of_another_runtime_is_refused(plain: Callable[..., Bundle]) -> None:
    with pytest.raises(ManifestError, match="metadata"):
        plain(metadata=b"of another runtime")


def test_a_cut_sigstruct_is_refused(signed: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="another size"):
        bundle_of(signed.files, sigstruct=(signed.sigstruct or b"")[:-1])


def test_an_oversized_bundle_is_not_even_read() -> None:
    with pytest.raises(BundleFormatError, match="too large"):
        parse_bundle(bytes(MAX_BUNDLE_BYTES + 1))


def test_a_bundle_that_could_not_be_read_back_is_not_made(
    plain: Callable[..., Bundle],
) -> None:
    with pytest.raises(BundleFormatError, match="too large"):
        plain(app={f"f{number}.txt": b"" for number in range(10_000)})
    with pytest.raises(BundleFormatError, match="too large"):
        plain(app={"big.txt": bytes(MAX_BUNDLE_BYTES)})


def test_a_member_that_claims_more_than_there_is_does_not_exhaust_memory() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app/zeros.py", bytes(30_000_000))
    with pytest.raises(BundleFormatError, match="compressed"):
        parse_bundle(out.getvalue())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_refused(data: bytes) -> None:
    with pytest.raises(BundleFormatError):
        parse_bundle(data)


@given(st.data())
def test_any_changed_byte_is_refused_or_is_seen_in_the_content(
    signed: Bundle, data: st.DataObject
) -> None:
    good = encode_bundle(signed)
    position = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    bad = bytearray(good)
    bad[position] ^= flip
    try:
        parsed = parse_bundle(bytes(bad))
    except SealiftError:
        return
    assert parsed != signed


# --- the manifest ---


def test_manifest_round_trip(manifest: Callable[..., Manifest]) -> None:
    value = manifest()
    assert parse_manifest(encode_manifest(value)) == value
    assert value.l1.values() == ("test-1", 5, b"\xab" * 32)
    assert value.attestation_roots[0].certificate() == b"\x30\x00"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Has Blanks"},
        {"name": "demo\n"},
        {"version": "1/2"},
        {"isv_svn": 65536},
        {"isv_prod_id": -1},
        {"target": "linux"},
        {"entry": "no colon"},
        {"entry": "os:system()"},
        {"enclave_entry": "a:b:c"},
        {"ecall_versions": (2, 1)},
        {"metadata": "AB" * 32},
        {"attestation_roots": ()},
        {"attestation_roots": (AttestationRoot(kind="intel", der="00"),) * 2},
        {"format": 2},
    ],
    ids=str,
)
def test_a_manifest_outside_its_rules_is_refused(
    manifest: Callable[..., Manifest], changes: dict[str, object]
) -> None:
    with pytest.raises(ManifestError):
        encode_manifest(manifest(**changes))


def test_a_manifest_of_other_form_or_with_more_in_it_is_refused(
    manifest: Callable[..., Manifest],
) -> None:
    good = encode_manifest(manifest())
    value = json.loads(good)
    for bad in (
        json.dumps(value).encode(),
        good[:-1],
        good + b"\n",
        json.dumps({**value, "skip_checks": True}).encode(),
        json.dumps(
            {**value, "attestation_roots": [{"kind": "any", "der": ""}]}
        ).encode(),
        b" " * 70_000,
        b"[" * 60_000,
        b"\xff",
    ):
        with pytest.raises(ManifestError):
            parse_manifest(bad)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)
