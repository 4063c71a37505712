"""Whatever real headers, commits and sets the vectors hold: read, hashed, verified."""

import json
from pathlib import Path
from typing import Any

import pytest

from sealift.cli._relay import TrustLevel
from sealift.relay import (
    Header,
    HeaderInvalidError,
    check_header,
    header_hash,
    rpc,
    validators_hash,
    verify_commit,
)
from sealift.relay.rpc import LIGHT_BLOCK


def result(path: Path) -> Any:
    data = json.loads(path.read_bytes())
    return data.get("result", data)


def test_every_file_of_tendermintx(celestia: Path) -> None:
    """Celestia and mocha-4: valid, by their source. No file is left out."""
    hashes: dict[tuple[str, int], set[bytes]] = {}
    parents: dict[tuple[str, int], bytes] = {}
    sets: dict[tuple[str, int], bytes] = {}
    asked: dict[tuple[str, int], bytes] = {}
    read = verified = 0

    def note(header: Header) -> None:
        check_header(header)
        name = (header.chain_id, header.height)
        hashes.setdefault(name, set()).add(header_hash(header))
        parents[header.chain_id, header.height - 1] = header.last_block_id.hash
        asked[name] = header.validators_hash
        asked[header.chain_id, header.height + 1] = header.next_validators_hash

    files = sorted(celestia.rglob("*.json"))
    for path in files:
        data, name = result(path), (path.parent.parent.name, int(path.parent.name))
        read += 1
        if path.stem == "header":
            note(rpc.HEADER.parse(data["header"]))
        elif path.stem == "commit":
            signed = rpc.COMMIT_RESULT.parse(data).signed_header
            note(signed.header)
            hashes[signed.header.chain_id, signed.header.height].add(
                signed.commit.block_id.hash
            )
        elif path.stem == "validators_1":
            found = rpc.VALIDATORS.parse(data)
            sets[name] = validators_hash(found.validators)
        else:
            block = LIGHT_BLOCK.parse(data)
            note(block.header)
            sets[name] = validators_hash(block.validators)
            verify_commit(
                block.header.chain_id,
                block.validators,
                block.commit,
                all_signatures=True,
            )
            verified += 1
    assert read == len(files) >= 25
    assert verified >= 10
    assert all(len(found) == 1 for found in hashes.values())
    linked = {name for name in parents if name in hashes}
    assert len(linked) >= 6
    assert all(hashes[name] == {parents[name]} for name in linked)
    named = {name for name in sets if name in asked}
    assert len(named) >= 10
    assert all(sets[name] == asked[name] for name in named)


def test_a_header_of_a_chain_of_before(tendermint_rs: Path) -> None:
    """cosmoshub-1, block protocol 10: it is read, and no chain of today makes it."""
    data = result(tendermint_rs / "serialization" / "block" / "header.json")
    data["last_block_id"]["parts"] = data["last_block_id"].pop("part_set_header")
    header = rpc.HEADER.parse(data)
    assert (header.chain_id, header.height) == ("cosmoshub-1", 15)
    with pytest.raises(HeaderInvalidError, match="block protocol"):
        check_header(header)


def test_a_trust_threshold(tendermint_rs: Path) -> None:
    data = result(tendermint_rs / "serialization" / "trust_threshold" / "fraction.json")
    text = f"{data['numerator']}/{data['denominator']}"
    assert TrustLevel().convert(text, None, None) == (1, 3)
