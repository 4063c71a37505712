"""Our encoders against what real networks hashed and signed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sealift.crypto import verify_signature
from sealift.relay import (
    FLAG_ABSENT,
    Block,
    BlockEncodingError,
    BlockId,
    ConsensusParams,
    Header,
    LightBlock,
    MerkleProof,
    MerkleProofError,
    PartSet,
    block_id_of,
    commit_hash,
    consensus_hash,
    data_hash,
    header_hash,
    rpc,
    tx_hash,
    validators_hash,
    verify_leaf,
    vote_sign_bytes,
)
from sealift.relay.rpc import parse_reply

FOLDERS = ("rpc_gaia_fixtures", "rpc_kvstore_v0_37", "rpc_kvstore_v0_38")
OTHER = ("block_results", "block_search", "block_at_height_0")
MOCHA = (3000, 10000, 10001, 10002, 10003, 10004, 11000, 11001, 11105, 50000)


def recorded_blocks(root: Path) -> list[tuple[BlockId, Block]]:
    found: list[tuple[BlockId, Block]] = []
    for folder in FOLDERS:
        incoming = root / folder / "incoming"
        for path in sorted(incoming.glob("block_*.json")):
            if path.stem.startswith(
                ("block_results", "block_search", "block_at_height_0")
            ):
                continue
            value = rpc.BLOCK_RESULT.parse(parse_reply(path.read_bytes()).open())
            found.append((value.block_id, value.block))
        for path in sorted(incoming.glob("block_search.json")):
            search = rpc.BLOCK_SEARCH.parse(parse_reply(path.read_bytes()).open())
            found += [(one.block_id, one.block) for one in search.blocks]
        for path in sorted(incoming.glob("subscribe_newblock_?.json")):
            event = rpc.SUBSCRIPTION.parse(parse_reply(path.read_bytes()).open())
            if event.block_id.hash:
                found.append((event.block_id, event.block))
    return found


def test_recorded_blocks_have_the_ids_that_their_validators_signed(
    tendermint_rs: Path,
) -> None:
    blocks = recorded_blocks(tendermint_rs)
    assert len(blocks) >= 15
    for block_id, block in blocks:
        assert header_hash(block.header) == block_id.hash
        assert block_id_of(block) == block_id
        assert commit_hash(block.last_commit) == block.header.last_commit_hash
        assert data_hash(block.txs) == block.header.data_hash


def test_block_with_evidence_is_not_encoded_wrongly(tendermint_rs: Path) -> None:
    path = (
        tendermint_rs / "rpc_kvstore_v0_38" / "incoming" / "block_search_evidence.json"
    )
    search = rpc.BLOCK_SEARCH.parse(parse_reply(path.read_bytes()).open())
    block = search.blocks[0].block
    assert len(block.evidence) == 1
    assert header_hash(block.header) == search.blocks[0].block_id.hash
    with pytest.raises(BlockEncodingError):
        PartSet.of(block)


def test_known_header_hash(tendermint_rs: Path) -> None:
    path = tendermint_rs / "serialization" / "block" / "header_with_known_hash.json"
    data = json.loads(path.read_bytes())
    data["last_block_id"]["parts"] = data["last_block_id"].pop("part_set_header")
    header: Header = rpc.HEADER.parse(data)
    # The hash that upstream's own test expects for this header.
    assert header_hash(header).hex().upper() == (
        "F30A71F2409FB15AACAEDB6CC122DFA2525BEE9CAE521721B06BFDCA291B8D56"
    )


def test_mainnet_set_of_100_hashes_and_all_its_signatures_verify(
    mainnet_block: LightBlock,
) -> None:
    header, commit = mainnet_block.header, mainnet_block.commit
    validators = mainnet_block.validators.validators
    assert len(validators) == len(commit.signatures) == 100
    assert validators_hash(mainnet_block.validators) == header.validators_hash
    assert header_hash(header) == commit.block_id.hash
    checked = 0
    for validator, sig in zip(validators, commit.signatures, strict=True):
        if sig.flag == FLAG_ABSENT:
            continue
        assert sig.validator_address == validator.address
        data = vote_sign_bytes(header.chain_id, commit, sig)
        verify_signature(validator.public_key, data, sig.signature, what="vote")
        checked += 1
    assert checked >= 67


def test_testnet_headers_hash(mocha: Callable[[int], LightBlock]) -> None:
    for height in MOCHA:
        block = mocha(height)
        assert header_hash(block.header) == block.commit.block_id.hash
        assert validators_hash(block.validators) == block.header.validators_hash


def test_default_consensus_params_hash_as_recorded(tendermint_rs: Path) -> None:
    for folder in FOLDERS:
        incoming = tendermint_rs / folder / "incoming"
        raw = (incoming / "consensus_params.json").read_bytes()
        params = rpc.CONSENSUS_PARAMS_RESULT.parse(parse_reply(raw).open())
        raw = (incoming / "block_at_height_10.json").read_bytes()
        block = rpc.BLOCK_RESULT.parse(parse_reply(raw).open()).block
        assert consensus_hash(params.consensus_params) == block.header.consensus_hash
    assert consensus_hash(ConsensusParams()) == block.header.consensus_hash


def proofs(root: Path) -> list[rpc.TxFound]:
    found: list[rpc.TxFound] = []
    for folder in (*FOLDERS, "rpc_simd_fixtures"):
        for path in sorted((root / folder / "incoming").glob("tx_search*.json")):
            search = rpc.TX_SEARCH.parse(parse_reply(path.read_bytes()).open())
            found += [tx for tx in search.txs if tx.proof is not None]
    return found


def test_all_recorded_tx_proofs_verify(tendermint_rs: Path) -> None:
    found = proofs(tendermint_rs)
    assert len(found) == 18
    for tx in found:
        assert tx.proof is not None
        assert tx.hash == tx_hash(tx.tx)
        verify_leaf(tx.proof.root_hash, tx_hash(tx.tx), tx.proof.proof)
        with pytest.raises(MerkleProofError):
            verify_leaf(tx.proof.root_hash, tx_hash(tx.tx + b"!"), tx.proof.proof)
        moved = MerkleProof(
            total=tx.proof.proof.total + 1,
            index=tx.proof.proof.index + 1,
            leaf_hash=tx.proof.proof.leaf_hash,
            aunts=tx.proof.proof.aunts,
        )
        with pytest.raises(MerkleProofError):
            verify_leaf(tx.proof.root_hash, tx_hash(tx.tx), moved)
