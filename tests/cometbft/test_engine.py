"""Which CometBFT is run: the pinned one, or none, with a sentence that helps."""

import re
from pathlib import Path

import pytest

from sealift.node.cometbft import (
    ENGINE_MODULE,
    ENGINE_VARIABLE,
    ENGINE_VERSION,
    EngineMissingError,
    EngineVersionError,
    find_engine,
)

ROOT = Path(__file__).resolve().parents[2]


def program(folder: Path, says: str, code: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cometbft"
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def path_of(*folders: Path) -> dict[str, str]:
    return {"PATH": ":".join(map(str, folders))}


def test_the_pinned_one_on_path_is_taken_wherever_it_stands(tmp_path: Path) -> None:
    program(tmp_path / "a", "0.37.2")
    right = program(tmp_path / "b", f"{ENGINE_VERSION}+a1b2c3d")
    found = find_engine(path_of(tmp_path / "a", tmp_path / "b"), checkout=tmp_path)
    assert found.path == right
    assert found.version == f"{ENGINE_VERSION}+a1b2c3d"


def test_the_checkouts_own_one_is_found_after_the_path(tmp_path: Path) -> None:
    kept = program(tmp_path / ".tools" / "bin", ENGINE_VERSION)
    assert find_engine(path_of(tmp_path / "x"), checkout=tmp_path).path == kept
    mine = program(tmp_path / "mine", ENGINE_VERSION)
    assert find_engine(path_of(tmp_path / "mine"), checkout=tmp_path).path == mine


@pytest.mark.parametrize("says", ["0.38.24", "v1.0.1", "0.38.250", "", "0.38.25-rc1"])
def test_another_version_is_refused_with_what_to_do(tmp_path: Path, says: str) -> None:
    program(tmp_path / "a", says)
    with pytest.raises(EngineVersionError) as refused:
        find_engine(path_of(tmp_path / "a"), checkout=tmp_path)
    text = str(refused.value)
    assert f"expected {ENGINE_VERSION}" in text
    assert "make cometbft" in text
    assert (says or "no version") in text


def test_the_one_that_the_variable_names_is_the_only_one(tmp_path: Path) -> None:
    program(tmp_path / "right", ENGINE_VERSION)
    wrong = program(tmp_path / "wrong", "0.34.0")
    environ = path_of(tmp_path / "right")
    with pytest.raises(EngineVersionError, match=re.escape("0.34.0")):
        find_engine(environ | {ENGINE_VARIABLE: str(wrong)}, checkout=tmp_path)
    with pytest.raises(EngineMissingError, match="no file"):
        find_engine(environ | {ENGINE_VARIABLE: "/nowhere"}, checkout=tmp_path)


def test_a_program_that_cannot_be_run_is_no_engine(tmp_path: Path) -> None:
    broken = tmp_path / "cometbft"
    broken.write_bytes(b"\x7fELF not really")
    broken.chmod(0o755)
    with pytest.raises(EngineVersionError, match="cannot be asked"):
        find_engine(path_of(tmp_path), checkout=tmp_path / "x")


def test_no_engine_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError) as refused:
        find_engine({"PATH": str(tmp_path)}, checkout=tmp_path)
    for wanted in ("make cometbft", ENGINE_MODULE, ENGINE_VERSION, ENGINE_VARIABLE):
        assert wanted in str(refused.value)


def test_make_fetches_the_version_that_is_asked_for() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"{ENGINE_MODULE}@v{ENGINE_VERSION}" in makefile
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"{ENGINE_MODULE}@v{ENGINE_VERSION}" in readme
