"""Our encoders against google's protobuf, from field numbers of tendermint's."""

import inspect
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.relay import (
    FLAG_COMMIT,
    FLAG_NIL,
    Block,
    BlockId,
    BlockParams,
    Commit,
    CommitSig,
    ConsensusParams,
    ConsensusVersion,
    EvidenceParams,
    Header,
    PartSet,
    PartSetHeader,
    Timestamp,
    TxResult,
    Validator,
    consensus_hash,
    encode_block,
    merkle_root,
    results_hash,
    validators_hash,
    vote_sign_bytes,
)
from sealift.relay import _block as block_module
from sealift.relay import _hashing as hashing
from sealift.relay import _wire as wire
from sealift.relay._types import ValidatorSet

F = descriptor_pb2.FieldDescriptorProto
KINDS = {
    "int64": F.TYPE_INT64,
    "int32": F.TYPE_INT32,
    "uint64": F.TYPE_UINT64,
    "uint32": F.TYPE_UINT32,
    "sfixed64": F.TYPE_SFIXED64,
    "bytes": F.TYPE_BYTES,
    "string": F.TYPE_STRING,
}
#: message: field = (number, type); a leading * is repeated.
SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Consensus": {"block": (1, "uint64"), "app": (2, "uint64")},
    "PartSetHeader": {"total": (1, "uint32"), "hash": (2, "bytes")},
    "BlockID": {"hash": (1, "bytes"), "parts": (2, "PartSetHeader")},
    "CanonicalVote": {
        "type": (1, "int32"),
        "height": (2, "sfixed64"),
        "round": (3, "sfixed64"),
        "block_id": (4, "BlockID"),
        "timestamp": (5, "Timestamp"),
        "chain_id": (6, "string"),
    },
    "CommitSig": {
        "flag": (1, "int32"),
        "address": (2, "bytes"),
        "timestamp": (3, "Timestamp"),
        "signature": (4, "bytes"),
    },
    "Commit": {
        "height": (1, "int64"),
        "round": (2, "int32"),
        "block_id": (3, "BlockID"),
        "signatures": (4, "*CommitSig"),
    },
    "Header": {
        "version": (1, "Consensus"),
        "chain_id": (2, "string"),
        "height": (3, "int64"),
        "time": (4, "Timestamp"),
        "last_block_id": (5, "BlockID"),
        "last_commit_hash": (6, "bytes"),
        "data_hash": (7, "bytes"),
        "validators_hash": (8, "bytes"),
        "next_validators_hash": (9, "bytes"),
        "consensus_hash": (10, "bytes"),
        "app_hash": (11, "bytes"),
        "last_results_hash": (12, "bytes"),
        "evidence_hash": (13, "bytes"),
        "proposer_address": (14, "bytes"),
    },
    "Data": {"txs": (1, "*bytes")},
    "EvidenceList": {"evidence": (1, "*bytes")},
    "Block": {
        "header": (1, "Header"),
        "data": (2, "Data"),
        "evidence": (3, "EvidenceList"),
        "last_commit": (4, "Commit"),
    },
    "PublicKey": {"ed25519": (1, "bytes")},
    "SimpleValidator": {"pub_key": (1, "PublicKey"), "voting_power": (2, "int64")},
    "ExecTxResult": {
        "code": (1, "uint32"),
        "data": (2, "bytes"),
        "gas_wanted": (5, "int64"),
        "gas_used": (6, "int64"),
    },
    "AbciExecTxResult": {
        "code": (1, "uint32"),
        "data": (2, "bytes"),
        "log": (3, "string"),
        "info": (4, "string"),
        "gas_wanted": (5, "int64"),
        "gas_used": (6, "int64"),
        "codespace": (8, "string"),
    },
    "HashedParams": {"max_bytes": (1, "int64"), "max_gas": (2, "int64")},
}


def build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="relay_check.proto", package="check", syntax="proto3"
    )
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            plain = kind.lstrip("*")
            one = message.field.add(name=field, number=number)
            one.label = F.LABEL_REPEATED if kind[0] == "*" else F.LABEL_OPTIONAL
            if plain in KINDS:
                one.type = KINDS[plain]
            else:
                one.type = F.TYPE_MESSAGE
                one.type_name = f".check.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"check.{name}")
        )
        for name in SCHEMA
    }


PB = build()


def pb(name: str, **fields: Any) -> Any:
    return PB[name](**fields)


def raw(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def pb_time(time: Timestamp) -> Any:
    return pb("Timestamp", seconds=time.seconds, nanos=time.nanos)


def pb_block_id(one: BlockId) -> Any:
    parts = pb("PartSetHeader", total=one.parts.total, hash=one.parts.hash)
    return pb("BlockID", hash=one.hash, parts=parts)


def pb_commit(commit: Commit) -> Any:
    return pb(
        "Commit",
        height=commit.height,
        round=commit.round,
        block_id=pb_block_id(commit.block_id),
        signatures=[
            pb(
                "CommitSig",
                flag=sig.flag,
                address=sig.validator_address,
                timestamp=pb_time(sig.timestamp),
                signature=sig.signature,
            )
            for sig in commit.signatures
        ],
    )


def pb_header(header: Header) -> Any:
    plain = {
        name: getattr(header, name)
        for name in SCHEMA["Header"]
        if name not in ("version", "time", "last_block_id")
    }
    return pb(
        "Header",
        version=pb("Consensus", block=header.version.block, app=header.version.app),
        time=pb_time(header.time),
        last_block_id=pb_block_id(header.last_block_id),
        **plain,
    )


heights = st.integers(0, 2**63 - 1)
hashes = st.one_of(st.just(b""), st.binary(min_size=32, max_size=32))
times = st.builds(
    Timestamp,
    seconds=st.integers(-62_135_596_800, 253_402_300_799),
    nanos=st.integers(0, 999_999_999),
)
block_ids = st.builds(
    BlockId,
    hash=hashes,
    parts=st.builds(PartSetHeader, total=st.integers(0, 2**32 - 1), hash=hashes),
)
sigs = st.builds(
    CommitSig,
    flag=st.integers(1, 3),
    validator_address=st.binary(max_size=20),
    timestamp=times,
    signature=st.binary(max_size=64),
)
commits = st.builds(
    Commit,
    height=heights,
    round=st.integers(0, 2**31 - 1),
    block_id=block_ids,
    signatures=st.lists(sigs, max_size=3).map(tuple),
)
chain_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
headers = st.builds(
    Header,
    version=st.builds(
        ConsensusVersion, block=st.integers(0, 2**64 - 1), app=st.integers(0, 2**64 - 1)
    ),
    chain_id=chain_ids,
    height=heights,
    time=times,
    last_block_id=block_ids,
    last_commit_hash=hashes,
    data_hash=hashes,
    validators_hash=hashes,
    next_validators_hash=hashes,
    consensus_hash=hashes,
    app_hash=st.binary(max_size=200),
    last_results_hash=hashes,
    evidence_hash=hashes,
    proposer_address=st.binary(max_size=20),
)
int64s = st.integers(-(2**63), 2**63 - 1)
results = st.builds(
    TxResult,
    code=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=200),
    gas_wanted=int64s,
    gas_used=int64s,
)
few = settings(max_examples=60, deadline=None)


@few
@given(block_ids, times, sigs)
def test_small_messages(block_id: BlockId, time: Timestamp, sig: CommitSig) -> None:
    assert hashing.encode_block_id(block_id) == raw(pb_block_id(block_id))
    assert hashing.encode_timestamp(time) == raw(pb_time(time))
    theirs = pb_commit(Commit(signatures=(sig,))).signatures[0]
    assert hashing.encode_commit_sig(sig) == raw(theirs)


@few
@given(headers, st.lists(st.binary(max_size=300), max_size=4), commits)
def test_blocks(header: Header, txs: list[bytes], commit: Commit) -> None:
    block = Block(header=header, txs=tuple(txs), last_commit=commit)
    data, none = pb("Data", txs=txs), pb("EvidenceList")
    theirs = pb(
        "Block",
        header=pb_header(header),
        data=data,
        evidence=none,
        last_commit=pb_commit(commit),
    )
    assert encode_block(block) == raw(theirs)


@few
@given(headers)
def test_header_leaves(header: Header) -> None:
    """Each scalar wrapped as google's StringValue, Int64Value and BytesValue are."""

    def wrapped(value: Any) -> bytes:
        if isinstance(value, int):
            return raw(pb("HashedParams", max_bytes=value))
        if isinstance(value, str):
            value = value.encode()
        return raw(pb("PublicKey", ed25519=value))

    special = {
        "version": raw(pb_header(header).version),
        "time": raw(pb_time(header.time)),
        "last_block_id": raw(pb_block_id(header.last_block_id)),
    }
    leaves = [
        special[name] if name in special else wrapped(getattr(header, name))
        for name in SCHEMA["Header"]
    ]
    assert hashing.header_hash(header) == merkle_root(leaves)


@few
@given(commits, sigs, chain_ids)
def test_sign_bytes(commit: Commit, sig: CommitSig, chain_id: str) -> None:
    if sig.flag not in (FLAG_COMMIT, FLAG_NIL):
        return
    named = sig.flag == FLAG_COMMIT and not commit.block_id.is_nil
    fields = {"block_id": pb_block_id(commit.block_id)} if named else {}
    theirs = pb(
        "CanonicalVote",
        type=2,
        height=commit.height,
        round=commit.round,
        timestamp=pb_time(sig.timestamp),
        chain_id=chain_id,
        **fields,
    )
    body = raw(theirs)
    assert vote_sign_bytes(chain_id, commit, sig) == wire.varint(len(body)) + body


@few
@given(st.lists(results, max_size=5), int64s, int64s)
def test_results_and_params(found: list[TxResult], size: int, gas: int) -> None:
    theirs = [
        raw(
            pb(
                "ExecTxResult",
                code=one.code,
                data=one.data,
                gas_wanted=one.gas_wanted,
                gas_used=one.gas_used,
            )
        )
        for one in found
    ]
    assert results_hash(found) == merkle_root(theirs)
    params = ConsensusParams(block=BlockParams(max_bytes=size, max_gas=gas))
    hashed = raw(pb("HashedParams", max_bytes=size, max_gas=gas))
    assert consensus_hash(params) == hashing.sha256(hashed)


@few
@given(
    st.lists(
        st.builds(
            Validator, public_key=st.binary(min_size=32, max_size=32), power=heights
        ),
        max_size=5,
    )
)
def test_validator_sets(found: list[Validator]) -> None:
    theirs = [
        raw(
            pb(
                "SimpleValidator",
                pub_key=pb("PublicKey", ed25519=one.public_key),
                voting_power=one.power,
            )
        )
        for one in found
    ]
    assert validators_hash(ValidatorSet(validators=tuple(found))) == merkle_root(theirs)


@few
@given(commits)
def test_hashes_of_commits(commit: Commit) -> None:
    theirs = [raw(one) for one in pb_commit(commit).signatures]
    assert hashing.commit_hash(commit) == merkle_root(theirs)


@few
@given(int64s, st.integers(0, 2**40), st.lists(st.text(max_size=9), max_size=3))
def test_only_size_and_gas_of_the_parameters_are_hashed(
    blocks: int, age: int, kinds: list[str]
) -> None:
    """CometBFT v0.38 types/params.go Hash: HashedParams, nothing else."""
    plain = ConsensusParams()
    other = ConsensusParams(
        block=plain.block,
        evidence=EvidenceParams(
            max_age_num_blocks=blocks, max_age_duration=age, max_bytes=blocks
        ),
        pub_key_types=tuple(kinds),
        app_version=age,
    )
    assert consensus_hash(other) == consensus_hash(plain)


@few
@given(results, st.text(max_size=9), st.text(max_size=9))
def test_what_abci_says_of_a_result_is_hashed_without_its_words(
    result: TxResult, log: str, codespace: str
) -> None:
    """The message of the socket, by the library, with all that is not consensus."""
    said = pb(
        "AbciExecTxResult",
        code=result.code,
        data=result.data,
        log=log,
        info=log,
        gas_wanted=result.gas_wanted,
        gas_used=result.gas_used,
        codespace=codespace,
    )
    for words in ("log", "info", "codespace"):  # v0.38 deterministicExecTxResult
        said.ClearField(words)
    assert hashing.encode_tx_result(result) == raw(said)


def test_no_encoder_is_without_a_second_opinion() -> None:
    """Whoever adds one by hand adds it here."""
    by_hand = {
        name
        for module in (hashing, block_module, wire)
        for name, thing in vars(module).items()
        if callable(thing)
        and not inspect.isclass(thing)
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert by_hand == {
        # compared above, byte by byte
        "encode_block", "encode_block_id", "encode_commit", "encode_commit_sig",
        "encode_header", "encode_part_set_header", "encode_simple_validator",
        "encode_timestamp", "encode_tx_result", "encode_version", "vote_sign_bytes",
        "vote_template",
        # over what is compared above
        "block_id_of", "commit_hash", "consensus_hash", "data_hash", "header_hash",
        "results_hash", "tx_hash", "validators_hash",
        # what those are made of
        "delimited", "embedded", "integer", "optional", "sfixed64", "varint",
    }  # fmt: skip


@given(st.integers(0, 2**64 - 1))
def test_varints(value: int) -> None:
    assert wire.integer(1, value) == raw(pb("Consensus", block=value))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_parts_hold_the_whole_block(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    parts = PartSet.of_bytes(data)
    assert b"".join(parts.parts) == data
    assert parts.header.total == len(parts.parts) == -(-size // 65_536)
    assert parts.header.hash == merkle_root(parts.parts)
    assert all(len(part) == 65_536 for part in parts.parts[:-1])
