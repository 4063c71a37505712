"""Any bytes on the socket are a request or one of our refusals."""

import contextlib

import msgspec
import pytest
from abci_client import GENESIS, INFO, block, frame, message
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import SealiftError, TooLargeError
from sealift.node.abci import AbciFormatError
from sealift.node.abci._frames import AbciFrameReader
from sealift.node.abci._messages import (
    AbciAttribute,
    AbciEvent,
    AbciProofOp,
    AbciProofOps,
    AbciPublicKey,
    AbciTxResult,
    AbciValidatorUpdate,
    CommitResponse,
    ExceptionResponse,
    FinalizeBlockRequest,
    FinalizeBlockResponse,
    FlushResponse,
    InitChainRequest,
    QueryResponse,
    VerifyVoteExtensionResponse,
    parse_request,
    render_response,
)
from sealift.node.abci._proto import _CLASSES, SCHEMA, parse_choice

REQUESTS = {
    "echo": {"message": "hello"},
    "flush": {},
    "info": INFO,
    "init_chain": GENESIS,
    "query": {"data": b"k", "path": "/store", "height": 3, "prove": True},
    "check_tx": {"tx": b"tx", "type": 1},
    "commit": {},
    "list_snapshots": {},
    "offer_snapshot": {"snapshot": {"height": 1}, "app_hash": bytes(32)},
    "load_snapshot_chunk": {"height": 1},
    "apply_snapshot_chunk": {"chunk": b"x", "sender": "me"},
    "prepare_proposal": {"max_tx_bytes": 100, "txs": [b"a", b"b"], "height": 4},
    "process_proposal": block(1, (b"a",)),
    "extend_vote": {"hash": bytes(32), "height": 1},
    "verify_vote_extension": {"vote_extension": b"x"},
    "finalize_block": block(7, (b"a", b"")),
}

VOTE = {"validator": {"address": bytes(20), "power": 3}, "block_id_flag": 1}
EVIDENCE = {
    "type": 1,
    "validator": {"address": b"v" * 20, "power": 3},
    "height": 6,
    "time": {"seconds": 1},
    "total_voting_power": 10,
}


def test_every_kind_of_request_is_read() -> None:
    assert set(REQUESTS) == set(SCHEMA["Request"])
    for kind, body in REQUESTS.items():
        request = parse_request(message(kind, **body))
        found = msgspec.to_builtins(request, builtin_types=(bytes,))
        for name, value in found.items():
            if name in body and not isinstance(value, dict | list | tuple):
                assert value == body[name], (kind, name)


def test_transactions_keep_order_bytes_and_empties() -> None:
    txs = (b"", b"\x00", b"b" * 70_000, b"", b"a")
    request = parse_request(message("finalize_block", **block(1, txs)))
    assert isinstance(request, FinalizeBlockRequest)
    assert request.txs == txs


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(AbciFormatError):
        parse_request(data)


@given(st.sampled_from(sorted(REQUESTS)), st.data())
@settings(max_examples=300)
def test_damaged_requests_are_a_request_or_a_refusal(
    kind: str, data: st.DataObject
) -> None:
    raw = bytearray(message(kind, **REQUESTS[kind]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(AbciFormatError):
            parse_request(damaged)


@pytest.mark.parametrize(
    "changed",
    [
        {"height": 0},
        {"height": -1},
        {"hash": bytes(31)},
        {"hash": b""},
        {"proposer_address": bytes(21)},
        {"next_validators_hash": b""},
        {"decided_last_commit": {"votes": [{"block_id_flag": 2}]}},
        {"decided_last_commit": {"votes": [VOTE | {"block_id_flag": 0}]}},
        {"decided_last_commit": {"votes": [VOTE | {"block_id_flag": 4}]}},
        {"misbehavior": [{"type": 1, "height": 1}]},
        {"misbehavior": [EVIDENCE | {"type": 3}]},
        {"misbehavior": [EVIDENCE | {"height": 0}]},
        {
            "misbehavior": [
                EVIDENCE | {"validator": {"address": bytes(20), "power": -1}}
            ]
        },
        {"time": {"seconds": 1, "nanos": -1}},
        {"time": {"seconds": 1, "nanos": 1_000_000_000}},
        {"time": {"seconds": 253_402_300_800}},
        {"time": None},
    ],
    ids=str,
)
def test_block_out_of_range_is_refused(changed: dict[str, object]) -> None:
    body = {
        name: value for name, value in (block(3) | changed).items() if value is not None
    }
    with pytest.raises(AbciFormatError):
        parse_request(message("finalize_block", **body))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes([21 << 3 & 0x7F | 0x82, 1, 0]),  # 21: InsertTx of v0.39
        bytes([0x22, 0]),  # 4: SetOption of v0.34
        b"\x0a\x03\x0a\x01\xff",  # an echo that is no UTF-8
    ],
    ids=["nothing", "insert_tx", "set_option", "no-utf8"],
)
def test_requests_of_other_versions_are_refused(raw: bytes) -> None:
    with pytest.raises(AbciFormatError):
        parse_request(raw)


@pytest.mark.parametrize(
    ("kind", "end"),
    [("flush", ()), ("check_tx", ()), ("finalize_block", ("time",))],
    ids=str,
)
def test_unknown_fields_are_refused_at_any_depth(kind: str, end: tuple[str]) -> None:
    """What a later version says there might be what the others agree on."""
    raw = bytearray(message(kind, **REQUESTS[kind]))
    assert parse_request(bytes(raw))
    request = _CLASSES["Request"].FromString(bytes(raw))
    inner = getattr(request, kind)
    for name in end:
        inner = getattr(inner, name)
    inner.MergeFromString(b"\xfa\x7f\x01x")  # field 2047
    with pytest.raises(AbciFormatError, match="fields of another version"):
        parse_request(request.SerializeToString())
    with pytest.raises(AbciFormatError, match="fields of another version"):
        parse_request(bytes(raw) + b"\xfa\x7f\x01x")


def test_votes_and_evidence_of_a_block_are_read() -> None:
    body = block(7) | {
        "decided_last_commit": {
            "round": 2,
            "votes": [VOTE, VOTE | {"block_id_flag": 3}],
        },
        "misbehavior": [EVIDENCE],
    }
    request = parse_request(message("finalize_block", **body))
    assert isinstance(request, FinalizeBlockRequest)
    assert [one.block_id_flag for one in request.decided_last_commit.votes] == [1, 3]
    (evidence,) = request.misbehavior
    assert (evidence.type, evidence.height, evidence.validator.power) == (1, 6, 3)


def test_genesis_without_parameters_is_refused() -> None:
    body = {name: GENESIS[name] for name in GENESIS if name != "consensus_params"}
    with pytest.raises(AbciFormatError, match="consensus_params"):
        parse_request(message("init_chain", **body))


def test_genesis_is_read_whole() -> None:
    request = parse_request(message("init_chain", **GENESIS))
    assert isinstance(request, InitChainRequest)
    assert request.consensus_params.evidence.max_age_duration.seconds == 172_800
    assert request.consensus_params.block.max_gas == 5_000_000
    assert request.validators[0].pub_key.ed25519 == bytes(32)
    assert request.validators[0].pub_key.secp256k1 is None


@pytest.mark.parametrize(
    ("response", "raw"),
    [
        (FlushResponse(), "02 1a 00"),
        (ExceptionResponse(error="no"), "06 0a 04 0a 02 6e 6f"),
        (CommitResponse(), "02 62 00"),
        (CommitResponse(retain_height=5), "04 62 02 18 05"),
        (VerifyVoteExtensionResponse(status=2), "05 a2 01 02 08 02"),
        (
            FinalizeBlockResponse(
                app_hash=b"\xaa",
                validator_updates=(
                    AbciValidatorUpdate(pub_key=AbciPublicKey(ed25519=b"k"), power=300),
                    AbciValidatorUpdate(pub_key=AbciPublicKey(ed25519=b"k")),
                ),
            ),
            "17 aa 01 14 1a 08 0a 03 0a 01 6b 10 ac 02 1a 05 0a 03 0a 01 6b 2a 01 aa",
        ),
        (
            FinalizeBlockResponse(
                app_hash=b"\xaa",
                tx_results=(AbciTxResult(), AbciTxResult(code=300, gas_used=-1)),
            ),
            "18 aa 01 15 12 00 12 0e 08 ac 02 30 ffffffffffffffffff01 2a 01 aa",
        ),
    ],
    ids=["flush", "exception", "commit", "retain", "verify", "validators", "finalize"],
)
def test_bytes_of_responses(response: object, raw: str) -> None:
    assert render_response(response) == bytes.fromhex(raw)


def test_nested_responses_come_back() -> None:
    def again(response: object) -> dict[str, object]:
        (payload,) = AbciFrameReader().feed(render_response(response))
        return parse_choice("Response", payload)[1]

    op = {"type": "ics23:simple", "key": b"k", "data": b"d"}
    ops = AbciProofOps(ops=(AbciProofOp(type="ics23:simple", key=b"k", data=b"d"),))
    found = again(QueryResponse(key=b"k", value=b"v", proof_ops=ops, height=4))
    assert found["proof_ops"] == {"ops": [op]}
    assert (found["key"], found["value"], found["height"]) == (b"k", b"v", 4)

    events = (AbciEvent(type="e", attributes=(AbciAttribute(key="a", value="b"),)),)
    plain = [{"type": "e", "attributes": [{"key": "a", "value": "b", "index": False}]}]
    result = AbciTxResult(code=7, log="why", events=events)
    found = again(
        FinalizeBlockResponse(app_hash=b"h", events=events, tx_results=(result,))
    )
    assert found["events"] == plain
    (only,) = found["tx_results"]
    assert (only["code"], only["log"], only["events"]) == (7, "why", plain)


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
@settings(max_examples=100)
def test_frames_are_cut_the_same_however_they_arrive(
    texts: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(frame("check_tx", tx=one) for one in texts)
    reader, found, rest = AbciFrameReader(), [], stream
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += reader.feed(rest[:size])
        rest = rest[size:]
    assert found == [message("check_tx", tx=one) for one in texts]
    assert reader.pending == 0


@given(st.lists(st.binary(max_size=50), max_size=5))
@settings(max_examples=200)
def test_any_stream_is_cut_or_refused_and_never_held_above_the_limit(
    pieces: list[bytes],
) -> None:
    reader = AbciFrameReader(limit=60)
    with contextlib.suppress(SealiftError):
        for piece in pieces:
            for payload in reader.feed(piece):
                assert len(payload) <= 60
            assert reader.pending < 60 + 2


def test_length_above_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(TooLargeError):
        list(AbciFrameReader(limit=1000).feed(b"\xe9\x07"))
    assert list(AbciFrameReader(limit=1000).feed(b"\xe8\x07")) == []


def test_endless_length_is_refused() -> None:
    with pytest.raises(AbciFormatError):
        list(AbciFrameReader().feed(b"\x80" * 5))
    assert list(AbciFrameReader().feed(b"\x80" * 4)) == []
    reader = AbciFrameReader().feed(b"\x01a" + b"\x80" * 5)
    assert next(reader) == b"a"
    with pytest.raises(AbciFormatError):
        next(reader)
