"""Cards: what is not one is refused, whatever the bytes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_world import World

from sealift.base import SealiftError
from sealift.client import CardError, parse_card, read_card, render_card, write_card
from sealift.transport.files import MissingFileError


def test_a_card_comes_back_as_it_was(world: World, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_card(path, world.card)
    assert read_card(path) == world.card
    assert world.card.root() == world.trust_root
    assert world.card.shard_id == world.shard
    assert world.card.runtime().name == "client"
    assert world.card.anchors()[0].kind == "insecure-sim"


def test_a_card_has_no_secret(world: World) -> None:
    shown = render_card(world.card)
    for secret in (world.enclave.secret, world.enclave.shielding.secret):
        assert secret.hex().encode() not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"shard": "00"},
        {"shard": "G" * 64},
        {"l1": []},
        {"l1": ["ftp://node"]},
        {"workers": ["http://a b"]},
        {"trust_root": {"height": 0, "header_hash": "00" * 32}},
        {"format": 2},
        {"secret": "00"},
        {"attestation_roots": [{"kind": "mine", "der": ""}]},
    ],
)
def test_a_card_that_is_wrong_is_refused(world: World, change: Any) -> None:
    plain = msgspec.json.decode(render_card(world.card))
    with pytest.raises(CardError):
        parse_card(msgspec.json.encode({**plain, **change}))


def test_a_card_without_metadata_cannot_encode(world: World) -> None:
    bare = msgspec.structs.replace(world.card, metadata="")
    broken = msgspec.structs.replace(world.card, metadata="00ff")
    for card in (bare, broken):
        with pytest.raises(CardError):
            card.runtime()


def test_a_file_that_is_none_says_where(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    with pytest.raises(MissingFileError):
        read_card(path)
    path.write_text("{}")
    with pytest.raises(CardError) as refused:
        read_card(path)
    assert str(path) in str(refused.value)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_card_or_refused(data: bytes) -> None:
    try:
        card = parse_card(data)
    except SealiftError:
        return
    assert parse_card(render_card(card)) == card
