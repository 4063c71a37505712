"""What CometBFT hashes and signs, byte for byte (v0.38 ``types``).

Pure constructors: the engine uses them to make blocks, the relay to judge
them. Source: facts/cometbft.md §2.
"""

from collections.abc import Sequence
from functools import lru_cache

from sealift.base import Digest
from sealift.crypto import sha256

from . import _wire as wire
from ._merkle import merkle_root
from ._types import (
    FLAG_COMMIT,
    BlockId,
    Commit,
    CommitSig,
    ConsensusParams,
    ConsensusVersion,
    Header,
    PartSetHeader,
    Timestamp,
    TxResult,
    Validator,
    ValidatorSet,
)

_PRECOMMIT = 2


def encode_timestamp(time: Timestamp) -> bytes:
    """``google.protobuf.Timestamp``."""
    return _seconds(time.seconds) + wire.integer(2, time.nanos)


@lru_cache(maxsize=64)
def _seconds(seconds: int) -> bytes:
    """Field 1 of a timestamp; the votes of a commit share very few."""
    return wire.integer(1, seconds)


def encode_version(version: ConsensusVersion) -> bytes:
    """``tendermint.version.Consensus``."""
    return wire.integer(1, version.block) + wire.integer(2, version.app)


def encode_part_set_header(parts: PartSetHeader) -> bytes:
    """``PartSetHeader`` and ``CanonicalPartSetHeader``, which encode alike."""
    return wire.integer(1, parts.total) + wire.optional(2, parts.hash)


def encode_block_id(block_id: BlockId) -> bytes:
    """``BlockID`` and ``CanonicalBlockID``; of none, ``1200``."""
    return wire.optional(1, block_id.hash) + wire.embedded(
        2, encode_part_set_header(block_id.parts)
    )


def encode_commit_sig(sig: CommitSig) -> bytes:
    """``CommitSig``."""
    return (
        wire.integer(1, sig.flag)
        + wire.optional(2, sig.validator_address)
        + wire.embedded(3, encode_timestamp(sig.timestamp))
        + wire.optional(4, sig.signature)
    )


def encode_simple_validator(validator: Validator) -> bytes:
    """``SimpleValidator``: key and power, without address and priority."""
    key = wire.embedded(1, validator.public_key)
    return wire.embedded(1, key) + wire.integer(2, validator.power)


def encode_tx_result(result: TxResult) -> bytes:
    """The deterministic fields of ``ExecTxResult``."""
    return (
        wire.integer(1, result.code)
        + wire.optional(2, result.data)
        + wire.integer(5, result.gas_wanted)
        + wire.integer(6, result.gas_used)
    )


def header_hash(header: Header) -> Digest:
    """The root over the header's 14 fields; scalars are wrapped, empty is empty."""
    return merkle_root(
        (
            encode_version(header.version),
            wire.optional(1, header.chain_id.encode()),
            wire.integer(1, header.height),
            encode_timestamp(header.time),
            encode_block_id(header.last_block_id),
            wire.optional(1, header.last_commit_hash),
            wire.optional(1, header.data_hash),
            wire.optional(1, header.validators_hash),
            wire.optional(1, header.next_validators_hash),
            wire.optional(1, header.consensus_hash),
            wire.optional(1, header.app_hash),
            wire.optional(1, header.last_results_hash),
            wire.optional(1, header.evidence_hash),
            wire.optional(1, header.proposer_address),
        )
    )


@lru_cache(maxsize=16)
def validators_hash(validators: ValidatorSet) -> Digest:
    """The root over ``SimpleValidator`` encodings, in the set's own order."""
    return merkle_root([encode_simple_validator(one) for one in validators.validators])


def commit_hash(commit: Commit) -> Digest:
    """``last_commit_hash``: the root over the signatures."""
    return merkle_root([encode_commit_sig(sig) for sig in commit.signatures])


def tx_hash(tx: bytes) -> Digest:
    """SHA-256: the name of a transaction."""
    return sha256(tx)


def data_hash(txs: Sequence[bytes]) -> Digest:
    """The root over the hashes of the transactions."""
    return merkle_root([sha256(tx) for tx in txs])


def results_hash(results: Sequence[TxResult]) -> Digest:
    """``last_results_hash`` of the next header."""
    return merkle_root([encode_tx_result(result) for result in results])


def consensus_hash(params: ConsensusParams) -> Digest:
    """SHA-256 of ``HashedParams``: block size and gas, nothing else."""
    return sha256(
        wire.integer(1, params.block.max_bytes) + wire.integer(2, params.block.max_gas)
    )


#: ``evidence_hash`` of a block without evidence.
NO_EVIDENCE_HASH = merkle_root(())


class VoteTemplate:
    """Sign bytes of one block's precommits; only the timestamp varies.

    Args:
        chain_id: The chain.
        height: The block's height.
        round_: The round it was decided in.
        block_id: The block; nil for votes against every block.
    """

    __slots__ = ("_head", "_tail")

    def __init__(
        self, *, chain_id: str, height: int, round_: int, block_id: BlockId
    ) -> None:
        named = b"" if block_id.is_nil else wire.embedded(4, encode_block_id(block_id))
        self._head = (
            wire.integer(1, _PRECOMMIT)
            + wire.sfixed64(2, height)
            + wire.sfixed64(3, round_)
            + named
        )
        self._tail = wire.optional(6, chain_id.encode())

    def sign_bytes(self, timestamp: Timestamp) -> bytes:
        """Length-delimited ``CanonicalVote`` with this timestamp."""
        time = wire.embedded(5, encode_timestamp(timestamp))
        return wire.delimited(self._head + time + self._tail)


def vote_template(chain_id: str, commit: Commit, *, flag: int) -> VoteTemplate:
    """The template of a commit's signatures that carry ``flag``."""
    return VoteTemplate(
        chain_id=chain_id,
        height=commit.height,
        round_=commit.round,
        block_id=commit.block_id if flag == FLAG_COMMIT else BlockId(),
    )


def vote_sign_bytes(chain_id: str, commit: Commit, sig: CommitSig) -> bytes:
    """The bytes that one signature of a commit is over."""
    return vote_template(chain_id, commit, flag=sig.flag).sign_bytes(sig.timestamp)
