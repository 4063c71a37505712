"""The file: one canonical message. It claims much and is believed nothing."""

from typing import Annotated, Final, Literal

import msgspec

from sealift.base import (
    ChainId,
    Height,
    Message,
    SealiftError,
    ShardId,
    canonical_decode,
    encode,
)
from sealift.protocol import MAX_TX_BYTES
from sealift.relay import LightBlock, MerkleProof, SignedHeader, TxResult, ValidatorSet

from ._errors import EvidenceFormatError

#: No file of evidence is larger: 256 MiB.
MAX_EVIDENCE_BYTES: Final = 256 * 1024 * 1024
_MOST: Final = 4_000_000
_Index = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class EvidenceHeader(Message):
    """A header with its commit; its validators stand once, by their number."""

    signed: SignedHeader
    validators: _Index
    next_validators: _Index | None = None


class EvidenceTx(Message):
    """A transaction, its result, and that both stand where they stand."""

    tx: Annotated[bytes, msgspec.Meta(max_length=MAX_TX_BYTES)]
    tx_proof: MerkleProof
    result: TxResult
    result_proof: MerkleProof


class EvidenceBlock(Message):
    """What a block did to the shard: not all of its transactions."""

    height: Height
    txs: Annotated[tuple[EvidenceTx, ...], msgspec.Meta(max_length=_MOST)]


class EvidenceState(Message):
    """What stood under a key after block ``height``; ``None``: nothing."""

    height: Height
    key: Annotated[bytes, msgspec.Meta(max_length=1024)]
    value: bytes | None
    proof: bytes


class EvidenceFile(Message):
    """A shard's lineage: headers, transactions and states, all ascending.

    ``creation`` is the number that the shard had among its chain's.
    """

    version: Literal[1] = 1
    chain_id: ChainId
    shard: ShardId
    creation: _Index
    validators: Annotated[tuple[ValidatorSet, ...], msgspec.Meta(max_length=_MOST)]
    headers: Annotated[tuple[EvidenceHeader, ...], msgspec.Meta(max_length=_MOST)]
    blocks: Annotated[tuple[EvidenceBlock, ...], msgspec.Meta(max_length=_MOST)]
    states: Annotated[tuple[EvidenceState, ...], msgspec.Meta(max_length=_MOST)]

    def light_block(self, header: EvidenceHeader) -> LightBlock:
        """What the relay wants of a header.

        Raises:
            EvidenceFormatError: It names validators that the file lacks.
        """
        following = header.next_validators
        return LightBlock(
            signed_header=header.signed,
            validators=self._validators(header.validators),
            next_validators=None if following is None else self._validators(following),
        )

    def _validators(self, number: int) -> ValidatorSet:
        if number >= len(self.validators):
            raise EvidenceFormatError(
                "a header names validators that the file lacks",
                got=number,
                expected=f"< {len(self.validators)}",
            )
        return self.validators[number]


def parse_evidence(data: bytes) -> EvidenceFile:
    """Parse a file of evidence; total over all bytes.

    Raises:
        EvidenceFormatError: Not one, or not in its one canonical encoding.
    """
    try:
        return canonical_decode(EvidenceFile, data, limit=MAX_EVIDENCE_BYTES)
    except SealiftError as error:
        raise EvidenceFormatError(
            f"not a file of evidence ({error.what})", got=error.got
        ) from error


def render_evidence(file: EvidenceFile) -> bytes:
    """The file as bytes.

    Raises:
        EvidenceFormatError: It could not be read again.
    """
    data = encode(file)
    parse_evidence(data)
    return data
