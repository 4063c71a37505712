"""What a host could hide, add or misreport of a block, and cannot."""

from typing import Any

import pytest
from msgspec.structs import replace

from sealift.base import InvariantError, SealiftError
from sealift.crypto import sha256
from sealift.frame import SimpleTreeStore, prove_ics23
from sealift.relay import (
    HeightError,
    MerkleProof,
    MerkleProofError,
    ResultsMismatchError,
    TxProof,
    TxResult,
    TxsMismatchError,
    VerifiedBlock,
    VerifiedHeader,
    VerifiedResults,
    VerifiedState,
    VerifiedTxs,
    data_hash,
    merkle_root,
    prove_leaf,
    results_hash,
    tx_hash,
    verify_block,
    verify_leaf,
    verify_results,
    verify_state,
    verify_tx,
    verify_txs,
)

TXS = (b"one", b"two", b"", b"four", b"five")
RESULTS = tuple(TxResult(code=n % 2, data=bytes([n]), gas_used=n) for n in range(5))


@pytest.fixture
def pair(workshop: Any) -> tuple[VerifiedHeader, VerifiedHeader]:
    one = workshop.sign(workshop.header(1, data_hash=data_hash(TXS)))
    two = workshop.sign(workshop.after(one, last_results_hash=results_hash(RESULTS)))
    relay = workshop.relay(one)
    return relay.head, relay.advance(two, now=None)


def test_whole_block(pair: Any) -> None:
    block = verify_block(*pair, TXS, RESULTS)
    assert block.txs == tuple(zip(TXS, RESULTS, strict=True))
    assert verify_txs(pair[0], TXS).txs == TXS
    assert verify_results(pair[1], RESULTS).height == 1


@pytest.mark.parametrize(
    "txs",
    [(), TXS[:-1], TXS[1:], (*TXS, b"six"), TXS[::-1], (b"One", *TXS[1:])],
)
def test_hidden_added_moved_or_changed_transactions(pair: Any, txs: Any) -> None:
    with pytest.raises(TxsMismatchError):
        verify_txs(pair[0], txs)
    with pytest.raises(TxsMismatchError):
        verify_block(*pair, txs, RESULTS)


@pytest.mark.parametrize(
    "results",
    [
        (),
        RESULTS[:-1],
        (*RESULTS, TxResult()),
        (RESULTS[1], RESULTS[0], *RESULTS[2:]),
        (replace(RESULTS[0], code=7), *RESULTS[1:]),
        (replace(RESULTS[0], data=b"paid"), *RESULTS[1:]),
        (replace(RESULTS[0], gas_used=9), *RESULTS[1:]),
        (replace(RESULTS[0], gas_wanted=9), *RESULTS[1:]),
    ],
)
def test_hidden_added_moved_or_changed_results(pair: Any, results: Any) -> None:
    with pytest.raises(ResultsMismatchError):
        verify_results(pair[1], results)
    with pytest.raises(ResultsMismatchError):
        verify_block(*pair, TXS, results)


def test_fewer_results_than_transactions(workshop: Any) -> None:
    """Even if a chain committed to them."""
    one = workshop.sign(workshop.header(1, data_hash=data_hash(TXS)))
    few = RESULTS[:3]
    two = workshop.sign(workshop.after(one, last_results_hash=results_hash(few)))
    relay = workshop.relay(one)
    with pytest.raises(ResultsMismatchError, match="one result for each"):
        verify_block(relay.head, relay.advance(two, now=None), TXS, few)


def test_results_from_a_header_that_does_not_follow(pair: Any, workshop: Any) -> None:
    with pytest.raises(HeightError):
        verify_block(pair[0], pair[0], TXS, RESULTS)
    other = workshop.sign(workshop.header(1))
    stranger = workshop.relay(other).head
    with pytest.raises(HeightError):
        verify_block(stranger, pair[1], (), RESULTS)


def test_one_transaction(pair: Any) -> None:
    leaves = [tx_hash(tx) for tx in TXS]
    for n, tx in enumerate(TXS):
        proof = TxProof(
            root_hash=b"the node's word", data=tx, proof=prove_leaf(leaves, n)
        )
        assert verify_tx(pair[0], proof) == tx
        with pytest.raises(MerkleProofError):
            verify_tx(pair[1], proof)
        with pytest.raises(MerkleProofError):
            verify_tx(pair[0], replace(proof, data=tx + b"!"))


def test_nobody_else_makes_verified_values() -> None:
    for make in (
        lambda: VerifiedTxs(seal=None, height=1, txs=()),
        lambda: VerifiedResults(seal=None, height=1, results=()),
        lambda: VerifiedState(seal=None, height=1, key=b"", value=None),
        lambda: VerifiedBlock(seal=None, header=None, next_header=None, txs=()),
    ):
        with pytest.raises(InvariantError):
            make()


class TestMerkleProofs:
    @pytest.mark.parametrize("count", range(1, 18))
    def test_every_leaf_of_every_size(self, count: int) -> None:
        leaves = [bytes([n]) * n for n in range(count)]
        root = merkle_root(leaves)
        for n, leaf in enumerate(leaves):
            proof = prove_leaf(leaves, n)
            verify_leaf(root, leaf, proof)
            for other in range(count):
                if other != n:
                    with pytest.raises(MerkleProofError):
                        verify_leaf(root, leaf, replace(proof, index=other))
                    with pytest.raises(MerkleProofError):
                        verify_leaf(root, leaves[other], proof)
            if proof.aunts:
                with pytest.raises(MerkleProofError, match="too few"):
                    verify_leaf(root, leaf, replace(proof, aunts=proof.aunts[:-1]))
            more = replace(proof, aunts=(*proof.aunts, bytes(32)))
            with pytest.raises(MerkleProofError, match="too many"):
                verify_leaf(root, leaf, more)

    def test_inner_node_passed_off_as_leaf(self) -> None:
        leaves = [b"a", b"b", b"c", b"d"]
        proof = prove_leaf(leaves, 0)
        inner = sha256(b"\x00a") + proof.aunts[0]
        forged = MerkleProof(
            total=2, index=0, leaf_hash=sha256(b"\x01" + inner), aunts=proof.aunts[1:]
        )
        with pytest.raises(MerkleProofError, match="another leaf"):
            verify_leaf(merkle_root(leaves), inner, forged)

    @pytest.mark.parametrize(("index", "total"), [(1, 1), (-1, 3), (0, 0), (5, 4)])
    def test_index_outside_the_tree(self, index: int, total: int) -> None:
        proof = replace(prove_leaf([b"a"], 0), index=index, total=total)
        with pytest.raises(MerkleProofError, match="outside"):
            verify_leaf(merkle_root([b"a"]), b"a", proof)

    def test_no_such_leaf(self) -> None:
        for index in (-1, 1):
            with pytest.raises(MerkleProofError, match="no leaf"):
                prove_leaf([b"a"], index)


class TestState:
    @pytest.fixture
    def state(self, workshop: Any) -> tuple[VerifiedHeader, SimpleTreeStore]:
        store = SimpleTreeStore()
        store.apply({b"a": b"1", b"b": b"2", b"d": b"4"})
        one = workshop.sign(workshop.header(1))
        two = workshop.sign(workshop.after(one, app_hash=store.root()))
        return workshop.relay(one).advance(two, now=None), store

    def test_what_stands_there(self, state: Any) -> None:
        header, store = state
        verified = verify_state(header, b"b", b"2", prove_ics23(store, b"b"))
        assert (verified.height, verified.key, verified.value) == (1, b"b", b"2")

    def test_what_does_not_stand_there(self, state: Any) -> None:
        header, store = state
        assert verify_state(header, b"c", None, prove_ics23(store, b"c")).value is None

    def test_a_value_misreported_hidden_or_invented(self, state: Any) -> None:
        header, store = state
        for key, value in ((b"b", b"3"), (b"b", None), (b"c", b"3")):
            with pytest.raises(SealiftError):
                verify_state(header, key, value, prove_ics23(store, key))

    def test_a_proof_of_another_state(self, state: Any) -> None:
        header, store = state
        store.apply({b"b": b"3"})
        with pytest.raises(SealiftError):
            verify_state(header, b"b", b"3", prove_ics23(store, b"b"))
