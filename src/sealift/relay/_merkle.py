"""CometBFT's Merkle tree: RFC 6962 hashing, split at the largest power of two.

Source: CometBFT v0.38 ``crypto/merkle``; facts/cometbft.md §2.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated

import msgspec

from sealift.base import Bytes32, Digest, Message
from sealift.crypto import sha256

from ._errors import MerkleProofError

_MAX_AUNTS = 100


def leaf_hash(data: bytes) -> Digest:
    """``SHA-256(0x00 || data)``."""
    return Digest(hashlib.sha256(b"\x00" + data).digest())


def inner_hash(left: bytes, right: bytes) -> Digest:
    """``SHA-256(0x01 || left || right)``."""
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def merkle_root(leaves: Sequence[bytes]) -> Digest:
    """The root over leaf contents; of nothing, SHA-256 of the empty string."""
    if not leaves:
        return sha256(b"")
    level = [leaf_hash(leaf) for leaf in leaves]
    # Pairing neighbours and carrying the odd one up is the split at the
    # largest power of two, without recursion.
    while len(level) > 1:
        paired = [
            inner_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


class MerkleProof(Message, kw_only=True):
    """That a leaf stands at ``index`` of ``total`` leaves (``crypto.Proof``)."""

    total: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    index: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    leaf_hash: Bytes32
    aunts: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=_MAX_AUNTS)]


class TxProof(Message, kw_only=True):
    """``/tx?prove=true``: that a transaction is in a block's data.

    ``root_hash`` is the node's word; the verifier asks the header instead.
    """

    root_hash: bytes
    data: bytes
    proof: MerkleProof


def prove_leaf(leaves: Sequence[bytes], index: int) -> MerkleProof:
    """The proof of the leaf at ``index``, aunts from the leaf upwards.

    Raises:
        MerkleProofError: There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise MerkleProofError(
            "no leaf to prove", got=index, expected=f"0 … {len(leaves) - 1}"
        )
    level = [leaf_hash(leaf) for leaf in leaves]
    own = level[index]
    aunts: list[Digest] = []
    at = index
    while len(level) > 1:
        sibling = at ^ 1
        if sibling < len(level):
            aunts.append(level[sibling])
        paired = [
            inner_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
        at //= 2
    return MerkleProof(
        total=len(leaves), index=index, leaf_hash=own, aunts=tuple(aunts)
    )


def verify_leaf(root: bytes, leaf: bytes, proof: MerkleProof) -> None:
    """Return only if ``leaf`` stands where the proof says, under ``root``.

    1. Index within total. 2. The proof's leaf hash is the leaf's. 3. Exactly
    the aunts this position has. 4. They lead to the root.

    Raises:
        MerkleProofError: One of the four fails.
    """
    # 1.
    if not 0 <= proof.index < proof.total or len(proof.aunts) > _MAX_AUNTS:
        raise MerkleProofError(
            "index outside the tree", got=proof.index, expected=f"< {proof.total}"
        )
    # 2.
    current = leaf_hash(leaf)
    if proof.leaf_hash != current:
        raise MerkleProofError(
            "proof is of another leaf", got=proof.leaf_hash, expected=current
        )
    # 3.
    aunts = iter(proof.aunts)
    at, last = proof.index, proof.total - 1
    used = 0
    while last > 0:
        if at % 2 or at < last:
            aunt = next(aunts, None)
            if aunt is None:
                raise MerkleProofError("too few aunts", got=len(proof.aunts))
            used += 1
            current = inner_hash(aunt, current) if at % 2 else inner_hash(current, aunt)
        at //= 2
        last //= 2
    if used != len(proof.aunts):
        raise MerkleProofError("too many aunts", got=len(proof.aunts), expected=used)
    # 4.
    if current != root:
        raise MerkleProofError(
            "proof leads to another root", got=current, expected=root
        )
