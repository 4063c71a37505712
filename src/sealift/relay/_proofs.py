"""What a verified header proves: transactions, results, state."""

from collections.abc import Sequence

from sealift.base import Height
from sealift.frame import verify_ics23

from ._errors import HeightError, ResultsMismatchError, TxsMismatchError
from ._hashing import data_hash, results_hash, tx_hash
from ._merkle import TxProof, verify_leaf
from ._types import TxResult
from ._verified import (
    SEAL,
    VerifiedBlock,
    VerifiedHeader,
    VerifiedResults,
    VerifiedState,
    VerifiedTxs,
)


def verify_txs(header: VerifiedHeader, txs: Sequence[bytes]) -> VerifiedTxs:
    """All transactions of the block, none hidden, added or moved (data hash).

    Raises:
        TxsMismatchError: They are not.
    """
    digest = data_hash(txs)
    if digest != header.header.data_hash:
        raise TxsMismatchError(
            f"not the {len(txs)} transactions of block {header.height}",
            got=digest,
            expected=header.header.data_hash,
        )
    return VerifiedTxs(seal=SEAL, height=header.height, txs=tuple(txs))


def verify_tx(header: VerifiedHeader, proof: TxProof) -> bytes:
    """One transaction of the block.

    Raises:
        MerkleProofError: It is not in the block, or not where the proof says.
    """
    verify_leaf(header.header.data_hash, tx_hash(proof.data), proof.proof)
    return proof.data


def verify_results(
    next_header: VerifiedHeader, results: Sequence[TxResult]
) -> VerifiedResults:
    """All results of the block before ``next_header`` (``last_results_hash``).

    Raises:
        ResultsMismatchError: They are not.
    """
    digest = results_hash(results)
    if digest != next_header.header.last_results_hash:
        raise ResultsMismatchError(
            f"not the {len(results)} results of block {next_header.height - 1}",
            got=digest,
            expected=next_header.header.last_results_hash,
        )
    return VerifiedResults(
        seal=SEAL, height=Height(next_header.height - 1), results=tuple(results)
    )


def verify_block(
    header: VerifiedHeader,
    next_header: VerifiedHeader,
    txs: Sequence[bytes],
    results: Sequence[TxResult],
) -> VerifiedBlock:
    """A block with its results, one to one.

    1. ``next_header`` follows ``header``. 2. All transactions. 3. All results.
    4. One result for each transaction.

    Raises:
        HeightError: 1.
        TxsMismatchError: 2.
        ResultsMismatchError: 3 or 4.
    """
    # 1.
    if (next_header.height, next_header.header.last_block_id.hash) != (
        header.height + 1,
        header.hash,
    ):
        raise HeightError(
            "not the next header", got=next_header.height, expected=header.height + 1
        )
    # 2.
    verified = verify_txs(header, txs)
    # 3.
    answered = verify_results(next_header, results)
    # 4.
    if len(txs) != len(results):
        raise ResultsMismatchError(
            "not one result for each transaction", got=len(results), expected=len(txs)
        )
    return VerifiedBlock(
        seal=SEAL,
        header=header,
        next_header=next_header,
        txs=tuple(zip(verified.txs, answered.results, strict=True)),
    )


def verify_state(
    next_header: VerifiedHeader, key: bytes, value: bytes | None, proof: bytes
) -> VerifiedState:
    """What stood under a key after the block before ``next_header`` (app hash).

    Args:
        next_header: The header that commits to that state.
        key: The storage key.
        value: What is claimed; ``None`` claims that nothing stands there.
        proof: An ICS23 ``CommitmentProof`` of existence, or of absence.

    Raises:
        SealiftError: As :func:`sealift.frame.verify_ics23`.
    """
    verify_ics23(next_header.header.app_hash, key, value, proof)
    return VerifiedState(
        seal=SEAL, height=Height(next_header.height - 1), key=key, value=value
    )
