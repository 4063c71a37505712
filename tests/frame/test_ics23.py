"""Proofs of L1 state: forged, cut, moved and borrowed proofs show nothing."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import InvariantError, SealiftError
from sealift.frame import (
    ExistenceProof,
    InnerStep,
    NonExistenceProof,
    ProofFormatError,
    ProofInvalidError,
    ProofUnavailableError,
    SimpleTreeStore,
    VerifiedEntry,
    encode_proof,
    parse_proof,
    prove_ics23,
    proven_value,
    verify_ics23,
)
from sealift.frame._ics23 import _require_neighbours
from sealift.frame._simple_tree import leaf_hash

TENDERMINT = [
    "exist_left",
    "exist_middle",
    "exist_right",
    "nonexist_left",
    "nonexist_middle",
    "nonexist_right",
]


def load(folder: Path, kind: str, name: str) -> dict[str, bytes]:
    case = json.loads((folder / kind / f"{name}.json").read_text())
    return {key: bytes.fromhex(text) for key, text in case.items()}


@pytest.fixture(scope="session")
def testdata(vectors: Path) -> Path:
    return vectors / "cometbft" / "cosmos-ics23" / "testdata"


@pytest.mark.parametrize("name", TENDERMINT)
def test_cosmos_proofs_of_a_simple_tree_verify(testdata: Path, name: str) -> None:
    case = load(testdata, "tendermint", name)
    value = case["value"] or None
    entry = verify_ics23(case["root"], case["key"], value, case["proof"])
    assert (entry.root, entry.key, entry.value) == (case["root"], case["key"], value)
    assert proven_value(case["root"], case["key"], case["proof"]).value == value
    assert encode_proof(parse_proof(case["proof"])) == case["proof"]


@pytest.mark.parametrize("name", TENDERMINT)
def test_cosmos_proofs_with_one_bit_flipped_show_nothing(
    testdata: Path, name: str
) -> None:
    case = load(testdata, "tendermint", name)
    value = case["value"] or None
    for at in range(len(case["proof"])):
        bad = bytearray(case["proof"])
        bad[at] ^= 1 << (at % 8)
        with pytest.raises((ProofFormatError, ProofInvalidError)):
            verify_ics23(case["root"], case["key"], value, bytes(bad))
    for field in ("root", "key"):
        bad = dict(case)
        bad[field] = case[field][:-1] + bytes([case[field][-1] ^ 1])
        with pytest.raises(ProofInvalidError):
            verify_ics23(bad["root"], bad["key"], value, case["proof"])


@pytest.mark.parametrize("kind", ["iavl", "smt"])
@pytest.mark.parametrize("name", TENDERMINT)
def test_proofs_of_other_trees_are_refused(
    testdata: Path, kind: str, name: str
) -> None:
    case = load(testdata, kind, name)
    with pytest.raises((ProofFormatError, ProofInvalidError)):
        verify_ics23(case["root"], case["key"], case["value"] or None, case["proof"])


@pytest.mark.parametrize("name", ["batch_exist", "batch_nonexist"])
def test_batches_are_refused_by_name(testdata: Path, name: str) -> None:
    raw = json.loads((testdata / "tendermint" / f"{name}.json").read_text())["proof"]
    with pytest.raises(ProofFormatError, match="neither of existence nor of absence"):
        parse_proof(bytes.fromhex(raw))


def tree(count: int, *, gap: int = 2) -> SimpleTreeStore:
    store = SimpleTreeStore()
    store.apply({b"k%05d" % (gap * n): b"value %d" % n for n in range(1, count + 1)})
    return store


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, written as the definition says."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = reference_root(leaves[:split]), reference_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
def test_the_root_is_that_of_the_definition(count: int) -> None:
    store = tree(count)
    leaves = [
        hashlib.sha256(
            b"\x00" + bytes([len(k)]) + k + b"\x20" + hashlib.sha256(v).digest()
        ).digest()
        for k, v in store.items(b"")
    ]
    assert store.root() == reference_root(leaves)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 11, 16, 17])
def test_every_key_is_provable_there_or_not_there(count: int) -> None:
    store = tree(count)
    root = store.root()
    for number in range(1, 2 * count + 3):
        key = b"k%05d" % number
        value = store.get(key)
        proof = prove_ics23(store, key)
        assert verify_ics23(root, key, value, proof).value == value
        assert proven_value(root, key, proof).value == value
        wrong = b"other" if value is None else None
        with pytest.raises(ProofInvalidError):
            verify_ics23(root, key, wrong, proof)
        with pytest.raises(ProofInvalidError):
            verify_ics23(root, key, b"other", proof)
        with pytest.raises(ProofInvalidError):
            verify_ics23(root, key + b"x", value, proof)
        with pytest.raises(ProofInvalidError):
            verify_ics23(hashlib.sha256(b"").digest(), key, value, proof)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 13])
def test_absence_of_a_present_key_cannot_be_shown_by_any_two_leaves(count: int) -> None:
    """Every pair of genuine leaves, the host's best forgery, is refused."""
    store = tree(count)
    root = store.root()
    keys = store.keys()
    exists = {key: parse_proof(prove_ics23(store, key)) for key in keys}
    for target in keys:
        for left in [None, *keys]:
            for right in [None, *keys]:
                forged = NonExistenceProof(
                    key=target,
                    left=exists.get(left),
                    right=exists.get(right),
                )
                with pytest.raises(ProofInvalidError):
                    verify_ics23(root, target, None, encode_proof(forged))


def test_equal_paths_are_refused_and_not_walked_past() -> None:
    """The trap in the reference's IsLeftNeighbor."""
    path = (InnerStep(prefix=b"\x01", suffix=b"s" * 32),)
    store = tree(2)
    one = parse_proof(prove_ics23(store, b"k00002"))
    assert isinstance(one, ExistenceProof)
    for steps in ((), one.path, path):
        with pytest.raises(ProofInvalidError, match="one path"):
            _require_neighbours(steps, steps)
    with pytest.raises(ProofInvalidError, match="one path"):
        _require_neighbours(path, path + path)


def test_neighbours_cannot_change_places() -> None:
    left = (InnerStep(prefix=b"\x01", suffix=b"s" * 32),)
    right = (InnerStep(prefix=b"\x01" + b"p" * 32, suffix=b""),)
    _require_neighbours(left, right)
    other = (InnerStep(prefix=b"\x01", suffix=b"t" * 32),)
    for one, two in ((right, left), (left, other)):
        with pytest.raises(ProofInvalidError, match="wrong way round"):
            _require_neighbours(one, two)


def test_an_inner_node_cannot_pose_as_a_leaf() -> None:
    store = tree(4)
    genuine = parse_proof(prove_ics23(store, b"k00002"))
    levels = store.levels()
    fake = ExistenceProof(key=levels[0][0], value=levels[0][1], path=genuine.path[1:])
    with pytest.raises(ProofInvalidError):
        verify_ics23(store.root(), fake.key, fake.value, encode_proof(fake))


@pytest.mark.parametrize(
    "step",
    [
        InnerStep(prefix=b"\x01", suffix=b""),
        InnerStep(prefix=b"", suffix=b"s" * 32),
        InnerStep(prefix=b"\x00", suffix=b"s" * 32),
        InnerStep(prefix=b"\x01", suffix=b"s" * 64),
        InnerStep(prefix=b"\x01" + b"p" * 32, suffix=b"s" * 32),
        InnerStep(prefix=b"\x00" + b"p" * 32, suffix=b""),
        InnerStep(prefix=b"\x01" + b"p" * 31, suffix=b""),
    ],
)
def test_steps_that_are_not_binary_are_refused_even_if_they_lead_to_the_root(
    step: InnerStep,
) -> None:
    leaf = leaf_hash(b"k", b"v")
    root = hashlib.sha256(step.prefix + leaf + step.suffix).digest()
    proof = encode_proof(ExistenceProof(key=b"k", value=b"v", path=(step,)))
    with pytest.raises(ProofInvalidError):
        verify_ics23(root, b"k", b"v", proof)


def test_a_path_without_end_is_refused() -> None:
    step = InnerStep(prefix=b"\x01", suffix=b"s" * 32)
    for length, fits in ((64, True), (65, False)):
        raw = encode_proof(ExistenceProof(key=b"k", value=b"v", path=(step,) * length))
        if fits:
            assert len(parse_proof(raw).path) == length
        else:
            with pytest.raises(ProofFormatError):
                parse_proof(raw)
    with pytest.raises(ProofFormatError):
        parse_proof(bytes(4 * 1024 * 1024 + 1))


def test_what_ics23_cannot_prove_is_refused_by_name() -> None:
    with pytest.raises(ProofUnavailableError):
        prove_ics23(SimpleTreeStore(), b"k")
    store = tree(2)
    store.apply({b"empty": b""})
    for key in (b"empty", b"", b"f"):
        with pytest.raises(ProofUnavailableError):
            prove_ics23(store, key)


def test_nobody_else_can_make_a_verified_entry() -> None:
    with pytest.raises(InvariantError):
        VerifiedEntry(root=bytes(32), key=b"k", value=None, vouched=object())


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_a_proof_or_an_error(raw: bytes) -> None:
    try:
        proof = parse_proof(raw)
    except ProofFormatError:
        return
    assert encode_proof(proof) == raw


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_proofs_are_canonical_or_refused(data: st.DataObject) -> None:
    store = tree(5)
    key = data.draw(st.sampled_from([b"k00003", b"k00004", b"z"]))
    raw = bytearray(prove_ics23(store, key))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "add"]))
        if change == "set":
            raw[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del raw[at : at + data.draw(st.integers(1, 5))]
            raw = raw or bytearray(b"\x00")
        else:
            raw[at:at] = data.draw(st.binary(max_size=3))
    try:
        assert encode_proof(parse_proof(bytes(raw))) == bytes(raw)
        entry = proven_value(store.root(), key, bytes(raw))
    except SealiftError:
        return
    assert entry.value == store.get(key)


def field(number: int, body: bytes, *, long: bool = False) -> bytes:
    size = bytes([len(body) | 0x80, 0]) if long else bytes([len(body)])
    return bytes([number << 3 | 2]) + size + body


def test_the_same_proof_in_another_encoding_is_refused() -> None:
    leaf = bytes.fromhex("0801180120012a0100")
    key, value, leaf_op = field(1, b"k"), field(2, b"v"), field(3, leaf)
    step = field(4, bytes.fromhex("0801") + field(2, b"\x01") + field(3, b"s" * 32))
    good = field(1, key + value + leaf_op + step)
    assert len(parse_proof(good).path) == 1
    swapped = bytes.fromhex("0801") + field(3, b"s" * 32) + field(2, b"\x01")
    for bad in (
        good + good,
        good + b"\x00",
        field(1, key + value + leaf_op + step, long=True),
        field(1, field(1, b"k", long=True) + value + leaf_op + step),
        field(1, value + key + leaf_op + step),
        field(1, key + value + step + leaf_op),
        field(1, key + key + value + leaf_op + step),
        field(1, key + value + leaf_op + field(4, swapped)),
        field(1, key + value + leaf_op + field(4, b"\x08\x02" + field(2, b"\x01"))),
        field(1, key + value + leaf_op + field(4, b"\x08\x01" + field(2, b""))),
        field(1, key + value + field(3, leaf + b"\x00") + step),
        field(1, key + value + step),
        field(1, value + leaf_op + step),
        field(1, key + leaf_op + step),
        field(2, field(2, key + value + leaf_op)),
        field(2, key + field(3, key + value + leaf_op) + field(2, key)),
        field(2, field(0, b"") + key + field(2, key + value + leaf_op)),
        field(1, key + value + leaf_op + field(4, b"\x08\x01" + field(0, b"more"))),
        field(0, b""),
        field(1, b"\x0a\xff\xff\xff\xff\xff\x01"),
        b"\x08\x01",
        b"\x0a",
    ):
        with pytest.raises(ProofFormatError):
            parse_proof(bad)
