"""``sealift audit`` before any enclave is started: what a user may get wrong."""

from pathlib import Path
from typing import Any

import pytest

from sealift.worker import CONFIG_FILE, TEMPLATE


@pytest.fixture
def home(tmp_path: Path, tiny_bundle: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    text = TEMPLATE.format(
        rpc="http://127.0.0.1:1",
        shard="ab" * 32,
        genesis="",
        bundle=tiny_bundle,
        sim=tmp_path / "sim",
        machine="alpha",
        port=0,
        upstream="",
    )
    (made / CONFIG_FILE).write_text(text)
    return made


def test_it_asks_for_the_genesis_where_the_home_has_none(
    home: Path, sealift: Any
) -> None:
    said = sealift("audit", home, "--from", "genesis")
    assert said.code == 2
    assert "--genesis" in said.err


def test_it_begins_at_genesis_and_says_so(home: Path, sealift: Any) -> None:
    said = sealift("audit", home, "--from", "17")
    assert said.code == 2
    assert "genesis" in said.err


def test_a_named_file_that_is_no_bundle_is_refused(
    home: Path, tmp_path: Path, sealift: Any
) -> None:
    junk = tmp_path / "junk.bundle"
    junk.write_bytes(b"no bundle")
    words = ("audit", home, "--from", "genesis", "--genesis", junk)
    said = sealift(*words, "--bundle", junk)
    assert said.code == 1
    assert said.err.startswith("sealift: ")
    assert len(said.err.splitlines()) == 1
    said = sealift(*words, "--bundle", tmp_path / "nowhere.bundle")
    assert said.code == 4
    # In a folder it is only passed over; then L1 is asked whose code runs now.
    said = sealift(*words, "--bundles", tmp_path)
    assert said.code == 3, said
    assert "L1 node at http://127.0.0.1:1 cannot be reached" in said.err


def test_a_missing_genesis_or_home_is_a_file_error(
    home: Path, tmp_path: Path, sealift: Any
) -> None:
    said = sealift("audit", tmp_path / "nobody", "--from", "genesis")
    assert said.code == 4
    gone = tmp_path / "gone.bin"
    said = sealift("audit", home, "--from", "genesis", "--genesis", gone)
    assert said.code == 4
    assert str(gone) in said.err
