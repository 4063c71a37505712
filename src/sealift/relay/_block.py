"""Blocks as bytes, and the 64 KiB parts whose root stands in a BlockID."""

from dataclasses import dataclass
from typing import Final

from sealift.base import SealiftError

from . import _wire as wire
from ._hashing import (
    encode_block_id,
    encode_commit_sig,
    encode_timestamp,
    encode_version,
    header_hash,
)
from ._merkle import merkle_root
from ._types import Block, BlockId, Commit, Header, PartSetHeader

#: Bytes of a block part.
PART_BYTES: Final = 65_536


class BlockEncodingError(SealiftError):
    """A block that this encoder cannot write: it carries evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSet:
    """The parts of one block (each at most 64 KiB) and what names them."""

    header: PartSetHeader
    parts: tuple[bytes, ...]

    @classmethod
    def of(cls, block: Block) -> "PartSet":
        """Cut a block's protobuf encoding into parts.

        Raises:
            BlockEncodingError: The block carries evidence.
        """
        return cls.of_bytes(encode_block(block))

    @classmethod
    def of_bytes(cls, data: bytes) -> "PartSet":
        """Cut an encoded block into parts."""
        parts = tuple(
            data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)
        )
        return cls(
            header=PartSetHeader(total=len(parts), hash=merkle_root(parts)),
            parts=parts,
        )


def block_id_of(block: Block) -> BlockId:
    """The name that validators sign: header hash and parts.

    Raises:
        BlockEncodingError: The block carries evidence.
    """
    return BlockId(hash=header_hash(block.header), parts=PartSet.of(block).header)


def encode_header(header: Header) -> bytes:
    """``tendermint.types.Header``."""
    return b"".join(
        (
            wire.embedded(1, encode_version(header.version)),
            wire.optional(2, header.chain_id.encode()),
            wire.integer(3, header.height),
            wire.embedded(4, encode_timestamp(header.time)),
            wire.embedded(5, encode_block_id(header.last_block_id)),
            wire.optional(6, header.last_commit_hash),
            wire.optional(7, header.data_hash),
            wire.optional(8, header.validators_hash),
            wire.optional(9, header.next_validators_hash),
            wire.optional(10, header.consensus_hash),
            wire.optional(11, header.app_hash),
            wire.optional(12, header.last_results_hash),
            wire.optional(13, header.evidence_hash),
            wire.optional(14, header.proposer_address),
        )
    )


def encode_commit(commit: Commit) -> bytes:
    """``tendermint.types.Commit``."""
    return (
        wire.integer(1, commit.height)
        + wire.integer(2, commit.round)
        + wire.embedded(3, encode_block_id(commit.block_id))
        + b"".join(
            wire.embedded(4, encode_commit_sig(sig)) for sig in commit.signatures
        )
    )


def encode_block(block: Block) -> bytes:
    """``tendermint.types.Block``.

    Raises:
        BlockEncodingError: The block carries evidence.
    """
    if block.evidence:
        raise BlockEncodingError(
            "block with evidence is not encoded", got=len(block.evidence), expected=0
        )
    data = b"".join(wire.embedded(1, tx) for tx in block.txs)
    return (
        wire.embedded(1, encode_header(block.header))
        + wire.embedded(2, data)
        + wire.embedded(3, b"")
        + wire.embedded(4, encode_commit(block.last_commit))
    )
