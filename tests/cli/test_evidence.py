"""Evidence of a shard on a running chain: asked by RPC, verified from the file."""

from pathlib import Path
from typing import Any

import pytest
from shard_world import World

from sealift.client import write_card


@pytest.fixture
def card(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "card.json"
    write_card(path, world.card)
    return path


def test_what_a_node_shows_is_exported_and_holds(
    card: Path, tmp_path: Path, sealift: Any
) -> None:
    file = tmp_path / "shard.evidence"
    said = sealift("evidence", "export", "--card", card, "-o", file, "--json")
    assert said.code == 0, said.err
    assert said.json["bytes"] == file.stat().st_size
    assert "scanned to block" in said.err
    told = sealift("evidence", "verify", file, "--card", card)
    assert told.code == 0, told.err
    assert told.out.endswith("Every step holds.\n")


def test_a_file_is_not_written_to_a_terminal(card: Path, sealift: Any) -> None:
    assert sealift("evidence", "export", "--card", card, "--json").code == 2
    assert sealift("evidence", "export").code == 2


def test_a_shard_that_the_chain_does_not_have(
    card: Path, tmp_path: Path, sealift: Any
) -> None:
    words = ("--card", card, "--shard", "00" * 32, "-o", tmp_path / "x")
    said = sealift("evidence", "export", *words)
    assert said.code == 1
    assert "no such shard was created" in said.err
    assert not (tmp_path / "x").exists()
