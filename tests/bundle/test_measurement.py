"""MRENCLAVE: SGX's own records, and nothing changes without changing it."""

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.bundle import Bundle, first_difference, measure

FILES = {"app/a.py": b"a = 1\n", "app/b.py": b"b" * 10_000, "boot.py": b""}


def slow_mrenclave(files: dict[str, bytes]) -> bytes:
    """ECREATE, EADD, EEXTEND one record at a time, from docs/spec/bundle.md."""
    image = b""
    for path in sorted(files, key=str.encode):
        name, content = path.encode(), files[path]
        image += b"SEALIFT1" + struct.pack("<IQ", len(name), len(content))
        image += name + content
        image += bytes(-len(image) % 4096)
    size = 4096
    while size < len(image):
        size *= 2
    records = [b"ECREATE\0" + struct.pack("<LQ", 1, size) + bytes(44)]
    for page in range(0, len(image), 4096):
        records.append(b"EADD\0\0\0\0" + struct.pack("<QQ", page, 0x201) + bytes(40))
        for chunk in range(page, page + 4096, 256):
            records.append(b"EEXTEND\0" + struct.pack("<Q", chunk) + bytes(48))
            records.append(image[chunk : chunk + 256])
    assert all(len(record) % 64 == 0 for record in records)
    return hashlib.sha256(b"".join(records)).digest()


def test_it_is_the_running_hash_of_sgx_records() -> None:
    got = measure(FILES)
    assert got.mrenclave == slow_mrenclave(FILES)
    assert (got.pages, got.size) == (5, 8 * 4096)


@given(
    st.dictionaries(
        st.text("abc/.", min_size=1, max_size=9), st.binary(max_size=20), max_size=4
    )
)
def test_it_agrees_with_the_slow_one_on_any_files(files: dict[str, bytes]) -> None:
    assert measure(files).mrenclave == slow_mrenclave(files)


@settings(max_examples=60)
@given(st.data())
def test_one_changed_byte_of_application_source_changes_mrenclave(
    signed: Bundle, data: st.DataObject
) -> None:
    files = dict(signed.files)
    source = bytearray(files["app/data/list.txt"])
    position = data.draw(st.integers(0, len(source) - 1))
    source[position] ^= data.draw(st.integers(1, 255))
    changed = {**files, "app/data/list.txt": bytes(source)}
    assert measure(changed).mrenclave != measure(files).mrenclave
    found = first_difference(files, changed)
    assert found is not None
    assert (found.path, found.offset) == ("app/data/list.txt", position)


@pytest.mark.parametrize(
    "other",
    [
        {"a": b"bc"},
        {"ab": b"c", "": b""},
        {"a": b"", "b": b"c"},
        {"ab": b"c\0"},
        {"ab": b"c", "x": b""},
        {"ba": b"c"},
    ],
    ids=str,
)
def test_bytes_moved_between_path_length_padding_and_files_change_it(
    other: dict[str, bytes],
) -> None:
    assert measure(other).mrenclave != measure({"ab": b"c"}).mrenclave


def test_order_of_the_mapping_does_not_matter() -> None:
    assert measure(dict(reversed(FILES.items()))) == measure(FILES)


def test_every_part_of_a_bundle_is_measured(plain: Callable[..., Bundle]) -> None:
    files = dict(plain().files)
    whole = measure(files).mrenclave
    assert {p.split("/")[0] for p in files} == {
        "app", "boot.py", "manifest.json", "metadata.bin", "sealift", "wheels",
    }  # fmt: skip
    for path, content in files.items():
        rest = {p: c for p, c in files.items() if p != path}
        assert measure(rest).mrenclave != whole
        assert measure({**files, path: content + b" "}).mrenclave != whole


# --- what `sealift build --check` says ---


def test_equal_files_have_no_difference() -> None:
    assert first_difference(FILES, dict(FILES)) is None


def test_the_page_of_a_difference_is_the_one_measured() -> None:
    changed = bytearray(FILES["app/b.py"])
    changed[9_000] = 0
    found = first_difference(FILES, {**FILES, "app/b.py": bytes(changed)})
    assert found is not None
    # page 0 holds app/a.py; 28 bytes of header stand before app/b.py
    assert (found.page, found.path, found.offset) == (
        1 + 9_028 // 4096,
        "app/b.py",
        9_000,
    )


def test_a_longer_file_differs_where_it_goes_on() -> None:
    found = first_difference(FILES, {**FILES, "app/a.py": b"a = 1\n# more"})
    assert found is not None
    assert (found.path, found.offset) == ("app/a.py", 6)
    assert "length" in found.reason


def test_a_file_on_one_side_only_is_named() -> None:
    fewer = {p: c for p, c in FILES.items() if p != "app/b.py"}
    one, two = first_difference(FILES, fewer), first_difference(fewer, FILES)
    assert one is not None
    assert two is not None
    assert (one.path, one.reason) == ("app/b.py", "only in first")
    assert (two.path, two.offset, two.reason) == ("app/b.py", None, "only in second")
