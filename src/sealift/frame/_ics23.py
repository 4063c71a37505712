"""Proofs of existence and absence in a simple tree, made and verified.

The format and the rules are ICS23's with its ``TendermintSpec``; the verifier
is narrower where the specification leaves room (a leaf's prefix is exactly
``00``; a step has exactly one sibling of 32 bytes), because a simple tree has
no other shapes.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealift.base import Digest, InvariantError

from ._errors import ProofInvalidError, ProofUnavailableError
from ._ics23_wire import (
    ExistenceProof,
    InnerStep,
    NonExistenceProof,
    encode_proof,
    parse_proof,
)
from ._simple_tree import SimpleTreeStore, leaf_hash

#: Type of the ``ProofOp`` that carries such a proof in CometBFT's RPC.
ICS23_SIMPLE_OP = "ics23:simple"

_INNER = b"\x01"
_HASH_BYTES = 32


class _Proof:
    """Only this module can vouch for an entry."""


_VOUCHED: Final = _Proof()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEntry:
    """What stands under a key in the state of a root; made by ``verify_ics23``.

    ``value`` is ``None`` if it was proven that nothing stands there.
    """

    root: Digest
    key: bytes
    value: bytes | None
    vouched: _Proof

    def __post_init__(self) -> None:
        if self.vouched is not _VOUCHED:
            raise InvariantError("a verified entry is made by verify_ics23 alone")


def prove_ics23(store: SimpleTreeStore, key: bytes) -> bytes:
    """Prove what stands under a key, be it a value or nothing.

    Returns:
        ``CommitmentProof`` bytes.

    Raises:
        ProofUnavailableError: The state is empty, or key or a proven value is
            (ICS23 has no proofs for those).
    """
    keys = store.keys()
    if not keys or not key:
        raise ProofUnavailableError("an empty state or key has no proof")
    index = bisect_left(keys, key)
    if index < len(keys) and keys[index] == key:
        return encode_proof(_existence(store, index))
    return encode_proof(
        NonExistenceProof(
            key=key,
            left=_existence(store, index - 1) if index else None,
            right=_existence(store, index) if index < len(keys) else None,
        )
    )


def _existence(store: SimpleTreeStore, index: int) -> ExistenceProof:
    key = store.keys()[index]
    value = store.get(key)
    if not value:
        raise ProofUnavailableError("an empty value has no proof", got=key)
    path = []
    for level in store.levels()[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(
                InnerStep(prefix=_INNER + level[sibling], suffix=b"")
                if index & 1
                else InnerStep(prefix=_INNER, suffix=level[sibling])
            )
        index >>= 1
    return ExistenceProof(key=key, value=value, path=tuple(path))


def verify_ics23(
    root: bytes, key: bytes, value: bytes | None, proof: bytes
) -> VerifiedEntry:
    """Verify what stands under a key in the state that a root commits to.

    1. The bytes are one proof of existence or absence of a simple tree.
    2. The proof is of the wanted kind and about this key (and value).
    3. Existence: the steps lead from the entry's leaf to the root.
    4. Absence: the neighbours' steps lead to the root, the key lies between
       them, and no leaf lies between them.

    The caller owes the root: that it is the app hash of a verified header.

    Args:
        root: App hash, 32 bytes.
        key: State key, as ``storage_key`` builds it.
        value: The bytes that shall stand there, or ``None`` for absence.
        proof: ``CommitmentProof`` bytes.

    Raises:
        ProofFormatError: Step 1.
        ProofInvalidError: Any other step.
    """
    # 1.
    parsed = parse_proof(proof)
    # 2.
    if parsed.key != key:
        raise ProofInvalidError("proof is about another key", got=parsed.key)
    if isinstance(parsed, ExistenceProof):
        if value is None:
            raise ProofInvalidError("proof shows a value where none may be", got=key)
        if parsed.value != value:
            raise ProofInvalidError(
                "proof is about another value", got=parsed.value, expected=value
            )
        # 3.
        _require_root(parsed, root)
    else:
        if value is not None:
            raise ProofInvalidError("proof shows absence, not a value", got=key)
        # 4.
        _verify_absence(parsed, root)
    return VerifiedEntry(root=Digest(root), key=key, value=value, vouched=_VOUCHED)


def proven_value(root: bytes, key: bytes, proof: bytes) -> VerifiedEntry:
    """Verify a proof and take the value, or its absence, from it.

    As ``verify_ics23``, for callers that do not know what to expect: whichever
    kind of proof it is, it must hold.

    Raises:
        ProofFormatError: Not a proof.
        ProofInvalidError: It does not hold for this root and key.
    """
    parsed = parse_proof(proof)
    value = parsed.value if isinstance(parsed, ExistenceProof) else None
    return verify_ics23(root, key, value, proof)


def _is_left(step: InnerStep) -> bool:
    """Whether the child of a step is the left one.

    Raises:
        ProofInvalidError: The step has not exactly one sibling.
    """
    if step.prefix == _INNER and len(step.suffix) == _HASH_BYTES:
        return True
    if (
        step.prefix[:1] == _INNER
        and len(step.prefix) == 1 + _HASH_BYTES
        and not step.suffix
    ):
        return False
    raise ProofInvalidError("step is not one of a binary tree", got=step.prefix)


def _require_root(proof: ExistenceProof, root: bytes) -> None:
    current = leaf_hash(proof.key, proof.value)
    for step in proof.path:
        _is_left(step)
        current = hashlib.sha256(step.prefix + current + step.suffix).digest()
    if current != root:
        raise ProofInvalidError("proof leads to another root", got=current)


def _verify_absence(proof: NonExistenceProof, root: bytes) -> None:
    left, right = proof.left, proof.right
    if left is not None:
        _require_root(left, root)
        if left.key >= proof.key:
            raise ProofInvalidError("left neighbour is not left", got=left.key)
    if right is not None:
        _require_root(right, root)
        if right.key <= proof.key:
            raise ProofInvalidError("right neighbour is not right", got=right.key)
    if left is not None and right is not None:
        _require_neighbours(left.path, right.path)
    elif left is not None:
        _require_edge(left.path, left=False)
    elif right is not None:
        _require_edge(right.path, left=True)
    else:
        raise ProofInvalidError("proof of absence has no neighbour")


def _require_edge(path: Sequence[InnerStep], *, left: bool) -> None:
    if any(_is_left(step) is not left for step in path):
        side = "left" if left else "right"
        raise ProofInvalidError(f"neighbour is not the {side}most")


def _require_neighbours(left: Sequence[InnerStep], right: Sequence[InnerStep]) -> None:
    """No leaf lies between two leaves of one tree.

    From the root down the paths agree, part at one node, to its left and right
    child, and from there keep to the inner edge. Equal paths never part; that
    case is refused and not walked past (a trap of the reference code).
    """
    below_left, below_right = len(left), len(right)
    while below_left and below_right and left[below_left - 1] == right[below_right - 1]:
        below_left -= 1
        below_right -= 1
    if not below_left or not below_right:
        raise ProofInvalidError("neighbours have one path")
    if not _is_left(left[below_left - 1]) or _is_left(right[below_right - 1]):
        raise ProofInvalidError("neighbours are the wrong way round")
    _require_edge(left[: below_left - 1], left=False)
    _require_edge(right[: below_right - 1], left=True)
