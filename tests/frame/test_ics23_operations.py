"""The reference's vectors of single ICS23 operations, against the one tree we know.

cosmos/ics23 executes any operations and compares them with a specification. Ours has
one specification, that of a simple tree, and executes nothing else: whatever the
vectors hold is refused, unless it is exactly that. Their proofs are encoded here as
the reference does, so that what is refused is the operation and not its encoding.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealift.crypto import sha256
from sealift.frame import (
    ExistenceProof,
    InnerStep,
    ProofFormatError,
    ProofInvalidError,
    encode_proof,
    parse_proof,
    verify_ics23,
)
from sealift.frame._ics23 import _require_edge
from sealift.frame._simple_tree import leaf_hash

OURS = {"hash": 1, "prehash_value": 1, "length": 1, "prefix": "AA=="}
#: ``LeafOp`` and ``InnerOp`` of proofs.proto: numbers, and bytes in base64.
LEAF = {"hash": 1, "prehash_key": 2, "prehash_value": 3, "length": 4, "prefix": 5}
INNER = {"hash": 1, "prefix": 2, "suffix": 3}
SIBLING = bytes(range(32))


@pytest.fixture(scope="session")
def testdata(vectors: Path) -> Path:
    return vectors / "cometbft" / "cosmos-ics23" / "testdata"


def cases(testdata: Path, name: str) -> Iterator[tuple[str, Any]]:
    known = json.loads((testdata / f"Test{name}Data.json").read_text())
    found = list(known.items() if isinstance(known, dict) else enumerate(known))
    assert found
    yield from ((str(label), case) for label, case in found)


def plain(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value]) if value else b""
    size = len(value)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + value


def operation(op: dict[str, Any], numbers: dict[str, int]) -> bytes:
    assert op.keys() <= numbers.keys()
    parts = []
    for name, number in numbers.items():
        value = op.get(name, 0)
        if isinstance(value, str):
            value = plain(value)
        parts.append(field(number, value) if value else b"")
    return b"".join(parts)


def existence(
    key: bytes,
    value: bytes,
    leaf: dict[str, Any] | None,
    path: list[dict[str, Any]] | None = None,
) -> bytes:
    raw = (field(1, key) if key else b"") + (field(2, value) if value else b"")
    if leaf is not None:
        raw += field(3, operation(leaf, LEAF))
    raw += b"".join(field(4, operation(step, INNER)) for step in path or ())
    size = len(raw)
    assert size < 1 << 14
    return field(1, raw)


def step(**changes: Any) -> dict[str, Any]:
    suffix = base64.b64encode(SIBLING).decode()
    return {"hash": 1, "prefix": "AQ==", "suffix": suffix} | changes


def test_this_file_encodes_as_the_reference_does() -> None:
    proof = ExistenceProof(
        key=b"k", value=b"v", path=(InnerStep(prefix=b"\x01", suffix=SIBLING),)
    )
    raw = existence(b"k", b"v", OURS, [step()])
    assert raw == encode_proof(proof)
    root = sha256(b"\x01" + leaf_hash(b"k", b"v") + SIBLING)
    assert verify_ics23(root, b"k", b"v", raw).value == b"v"


def test_only_the_leaf_of_a_simple_tree_is_executed(testdata: Path) -> None:
    taken = set()
    for label, case in cases(testdata, "CheckLeaf"):
        leaf = case["Leaf"]
        raw = existence(b"k", b"v", leaf)
        if leaf == OURS:
            taken.add(label)
            assert parse_proof(raw) == ExistenceProof(key=b"k", value=b"v", path=())
            continue
        with pytest.raises(ProofFormatError, match="not one of a simple tree"):
            parse_proof(raw)
    assert taken == {"leaf and spec differ on hash"}  # the other spec's hash


def test_other_leaf_operations_are_refused_whatever_they_hash_to(
    testdata: Path,
) -> None:
    for label, case in cases(testdata, "LeafOp"):
        key, value = plain(case["Key"]), plain(case["Value"])
        with pytest.raises(ProofFormatError):
            parse_proof(existence(key, value, case["Op"]))
        if case["IsErr"]:  # they lack key or value, with our leaf too
            assert not key or not value, label
            with pytest.raises(ProofFormatError, match="lacks its key or value"):
                parse_proof(existence(key, value, OURS))


@pytest.mark.parametrize("name", ["ExistenceProof", "CheckAgainstSpec"])
def test_proofs_made_of_other_operations_show_nothing(
    testdata: Path, name: str
) -> None:
    """Among them those by which a key can be moved into the value, or back."""
    for _, case in cases(testdata, name):
        proof = case["Proof"]
        key, value = plain(proof["key"]), plain(proof["value"])
        raw = existence(key, value, proof.get("leaf"), proof.get("path"))
        with pytest.raises(ProofFormatError):
            verify_ics23(plain(case.get("Expected")), key, value, raw)


def test_inner_operations_of_other_trees_are_no_steps(testdata: Path) -> None:
    for _, case in cases(testdata, "InnerOp"):
        op, child = case["Op"], leaf_hash(b"k", b"v")
        joined = plain(op.get("prefix")) + child + plain(op.get("suffix"))
        raw = existence(b"k", b"v", OURS, [op])
        with pytest.raises((ProofFormatError, ProofInvalidError)):
            verify_ics23(sha256(joined), b"k", b"v", raw)


def test_an_empty_child_of_another_tree_hides_nobody(testdata: Path) -> None:
    """Where some trees have a placeholder, ours has a sibling like any other."""
    for label, case in cases(testdata, "EmptyBranch"):
        op = case["Op"]
        prefix, suffix = plain(op.get("prefix")), plain(op.get("suffix"))
        found = InnerStep(prefix=prefix, suffix=suffix)
        is_left = bool(suffix)
        _require_edge([found], left=is_left)
        with pytest.raises(ProofInvalidError):
            _require_edge([found], left=not is_left)
        assert len(suffix or prefix[1:]) == 32, label


def test_sha_256_is_the_references_and_no_other_hash_is_known(testdata: Path) -> None:
    for label, case in cases(testdata, "DoHash"):
        number = case["HashOp"]
        if number == OURS["hash"]:
            food = (case.get("Preimage") or case["PreImage"]).encode()
            assert sha256(food).hex() == case["ExpectedHash"], label
            continue
        with pytest.raises(ProofFormatError, match="step is not SHA-256"):
            parse_proof(existence(b"k", b"v", OURS, [step(hash=number)]))
        for where in ("hash", "prehash_key", "prehash_value"):
            with pytest.raises(ProofFormatError, match="not one of a simple tree"):
                parse_proof(existence(b"k", b"v", OURS | {where: number}))
