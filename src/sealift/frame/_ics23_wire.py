"""ICS23 commitment proofs as protobuf bytes: only what a simple tree needs.

Source: cosmos/ics23 ``proofs.proto``. Strict and total: the one canonical
encoding is accepted (fields ascending, defaults left out, shortest varints,
nothing unknown), anything else is a ``ProofFormatError``. Depth is bounded.
"""

from collections.abc import Iterator

from sealift.base import Message

from ._errors import ProofFormatError
from ._simple_tree import uvarint

#: A path has at most so many steps (a tree of 2^64 entries).
MAX_PATH = 64
#: A proof has at most so many bytes.
MAX_PROOF_BYTES = 4 * 1024 * 1024

#: ``LeafOp{hash: SHA256, prehash_value: SHA256, length: VAR_PROTO, prefix: 00}``.
LEAF_OP = bytes.fromhex("0801180120012a0100")
#: ``InnerOp.hash = SHA256``.
_INNER_HASH = bytes.fromhex("0801")

_BYTES_FIELD = 2
_WIRE_BITS = 3
_VARINT_BYTES = 5
_LOW = 0x7F
_MORE = 0x80

_EXIST, _NONEXIST = 1, 2
_KEY, _VALUE, _LEAF, _PATH = 1, 2, 3, 4
_LEFT, _RIGHT = 2, 3
_PREFIX, _SUFFIX = 2, 3


class InnerStep(Message, kw_only=True):
    """One step towards the root: SHA-256 of ``prefix | child | suffix``."""

    prefix: bytes
    suffix: bytes


class ExistenceProof(Message, kw_only=True):
    """An entry and the steps from its leaf to the root, lowest first."""

    key: bytes
    value: bytes
    path: tuple[InnerStep, ...]


class NonExistenceProof(Message, kw_only=True):
    """The neighbours between which a key would stand if it existed."""

    key: bytes
    left: ExistenceProof | None
    right: ExistenceProof | None


def encode_proof(proof: ExistenceProof | NonExistenceProof) -> bytes:
    """The ``CommitmentProof`` bytes of a proof."""
    if isinstance(proof, ExistenceProof):
        return _field(_EXIST, _encode_existence(proof))
    body = _field(_KEY, proof.key)
    if proof.left is not None:
        body += _field(_LEFT, _encode_existence(proof.left))
    if proof.right is not None:
        body += _field(_RIGHT, _encode_existence(proof.right))
    return _field(_NONEXIST, body)


def parse_proof(raw: bytes) -> ExistenceProof | NonExistenceProof:
    """Parse ``CommitmentProof`` bytes; total over all bytes.

    Batches are not accepted: each key has a proof of its own.

    Raises:
        ProofFormatError: Not the canonical encoding of one existence or
            non-existence proof of a simple tree.
    """
    if len(raw) > MAX_PROOF_BYTES:
        raise ProofFormatError(
            "proof is too large", got=f"{len(raw)} B", expected=f"≤ {MAX_PROOF_BYTES} B"
        )
    fields = list(_fields(raw))
    if len(fields) != 1:
        raise ProofFormatError("not one proof", got=f"{len(fields)} fields")
    number, body = fields[0]
    if number == _EXIST:
        return _parse_existence(body)
    if number == _NONEXIST:
        return _parse_nonexistence(body)
    raise ProofFormatError(
        "proof is neither of existence nor of absence", got=f"field {number}"
    )


def _field(number: int, body: bytes) -> bytes:
    return bytes((number << _WIRE_BITS | _BYTES_FIELD,)) + uvarint(len(body)) + body


def _optional(number: int, body: bytes) -> bytes:
    return _field(number, body) if body else b""


def _encode_existence(proof: ExistenceProof) -> bytes:
    return (
        _optional(_KEY, proof.key)
        + _optional(_VALUE, proof.value)
        + _field(_LEAF, LEAF_OP)
        + b"".join(
            _field(
                _PATH,
                _INNER_HASH
                + _optional(_PREFIX, step.prefix)
                + _optional(_SUFFIX, step.suffix),
            )
            for step in proof.path
        )
    )


def _length(raw: bytes, at: int) -> tuple[int, int]:
    """A shortest varint and where it ends."""
    number = 0
    for index in range(_VARINT_BYTES):
        if at + index >= len(raw):
            raise ProofFormatError("proof ends within a length")
        byte = raw[at + index]
        number |= (byte & _LOW) << (7 * index)
        if byte < _MORE:
            if byte == 0 and index:
                raise ProofFormatError("length is not in its shortest form")
            return number, at + index + 1
    raise ProofFormatError("length is too long")


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every field; all of them length-delimited."""
    at = 0
    while at < len(raw):
        tag = raw[at]
        number, kind = tag >> _WIRE_BITS, tag & ((1 << _WIRE_BITS) - 1)
        if tag > _LOW or kind != _BYTES_FIELD or not number:
            raise ProofFormatError("unknown field in a proof", got=f"tag {tag}")
        size, start = _length(raw, at + 1)
        at = start + size
        if at > len(raw):
            raise ProofFormatError("proof is cut")
        yield number, raw[start:at]


def _single_fields(
    raw: bytes, known: tuple[int, ...], repeated: int = 0
) -> tuple[dict[int, bytes], list[bytes]]:
    """Fields of one message, ascending; those of the repeated one apart."""
    found: dict[int, bytes] = {}
    many: list[bytes] = []
    last = 0
    for number, body in _fields(raw):
        if number == repeated:
            if len(many) == MAX_PATH:
                raise ProofFormatError("path is too long", expected=f"≤ {MAX_PATH}")
            many.append(body)
        elif number not in known or number in found:
            raise ProofFormatError("unknown or repeated field", got=number)
        else:
            found[number] = body
        if number < last:
            raise ProofFormatError("fields are not in order", got=number)
        last = number
    return found, many


def _parse_existence(raw: bytes) -> ExistenceProof:
    found, steps = _single_fields(raw, (_KEY, _VALUE, _LEAF), _PATH)
    if found.get(_LEAF) != LEAF_OP:
        raise ProofFormatError(
            "leaf is not one of a simple tree", got=found.get(_LEAF), expected=LEAF_OP
        )
    key, value = found.get(_KEY), found.get(_VALUE)
    if not key or not value:
        raise ProofFormatError("proof of existence lacks its key or value")
    return ExistenceProof(
        key=key, value=value, path=tuple(_parse_step(step) for step in steps)
    )


def _parse_step(raw: bytes) -> InnerStep:
    if not raw.startswith(_INNER_HASH):
        raise ProofFormatError("step is not SHA-256", got=raw)
    found, _ = _single_fields(raw[len(_INNER_HASH) :], (_PREFIX, _SUFFIX))
    if not all(found.values()):
        raise ProofFormatError("empty field in a step")
    return InnerStep(prefix=found.get(_PREFIX, b""), suffix=found.get(_SUFFIX, b""))


def _parse_nonexistence(raw: bytes) -> NonExistenceProof:
    found, _ = _single_fields(raw, (_KEY, _LEFT, _RIGHT))
    key = found.get(_KEY)
    if not key:
        raise ProofFormatError("proof of absence lacks its key")
    return NonExistenceProof(
        key=key,
        left=_parse_existence(found[_LEFT]) if _LEFT in found else None,
        right=_parse_existence(found[_RIGHT]) if _RIGHT in found else None,
    )
