"""Whatever a node answers, the parser gives a value or one refusal."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sealift.base import SealiftError
from sealift.relay import (
    LightBlock,
    RpcFormatError,
    RpcRemoteError,
    Timestamp,
    UnsupportedKeyError,
    rpc,
)
from sealift.relay.rpc import (
    INTERNAL_ERROR,
    RpcErrorBody,
    RpcRequest,
    Shape,
    parse_reply,
    parse_request,
    render_error,
    render_request,
    render_result,
)

SHAPES: list[Shape[Any]] = [
    value for name in rpc.__all__ if isinstance(value := getattr(rpc, name), Shape)
]
KEYS = [
    key
    for line in (
        "address aunts block block_id block_id_flag chain_id code commit data error",
        "events evidence genesis hash header height id index jsonrpc last_commit",
        "leaf_hash method node_info ops params parts power proof proofOps pub_key",
        "query response result round signatures signed_header sync_info time",
        "timestamp total tx tx_result txs type validator_info validators value",
        "version voting_power",
    )
    for key in line.split()
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(["1", "-1", "AA==", "00" * 32, "00" * 20, "2023-01-01T00:00:00Z"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), inner),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_any_json_gives_a_value_or_a_refusal(value: Any) -> None:
    for shape in SHAPES:
        try:
            parsed = shape.parse(value)
        except SealiftError:
            continue
        json.dumps(shape.render(parsed))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.binary(max_size=200), anything.map(lambda v: json.dumps(v).encode()))
)
def test_any_bytes_give_an_envelope_or_a_refusal(raw: bytes) -> None:
    for parse in (parse_reply, parse_request):
        try:
            parse(raw)
        except RpcFormatError:
            continue


@pytest.mark.parametrize(
    "raw",
    [b"", b"[" * 100_000, b'{"id":1}', b"[]", b'{"id":[],"result":1}', b'"\xff"'],
)
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(RpcFormatError):
        parse_reply(raw)


def test_answer_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc._envelope, "MAX_REPLY_BYTES", 100)
    with pytest.raises(RpcFormatError, match="too large"):
        parse_reply(b" " * 101)


def mutated(value: Any, where: tuple[Any, ...], new: Any) -> Any:
    if not where:
        return new
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[where[0]] = mutated(value[where[0]], where[1:], new)
    return copy


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*here, key))
    if isinstance(value, list):
        for index, item in enumerate(value[:2]):
            found += places(item, (*here, index))
    return found


#: What may stand there all the same.
FINE = [
    ("canonical", True),
    ("chain_id", "no!"),
    ("chain_id", "9" * 30),
    ("app_hash", "9" * 30),
]


def test_one_wrong_value_anywhere_in_a_commit(workshop: Any) -> None:
    block: LightBlock = workshop.chain(2)[1]
    good = rpc.COMMIT_RESULT.render(
        rpc.CommitResult(signed_header=block.signed_header, canonical=True)
    )
    assert rpc.COMMIT_RESULT.parse(good).signed_header == block.signed_header
    for where in places(good):
        for new in (True, 1.5, "no!", [1], {"x": 1}, 2**70, "9" * 30):
            last = where[-1] if where else ""
            if (last, new) in FINE:
                continue
            with pytest.raises(RpcFormatError):
                rpc.COMMIT_RESULT.parse(mutated(good, where, new))


def test_address_that_is_not_the_keys(workshop: Any) -> None:
    page = rpc.ValidatorsResult(
        block_height=1, validators=workshop.validators, count=4, total=4
    )
    good: Any = rpc.VALIDATORS.render(page)
    assert rpc.VALIDATORS.parse(good) == page
    lying = mutated(good, ("validators", 0, "address"), "00" * 20)
    with pytest.raises(RpcFormatError, match="by its key"):
        rpc.VALIDATORS.parse(lying)


def test_key_of_another_kind(workshop: Any) -> None:
    good: Any = rpc.VALIDATOR.render(workshop.validators.validators[0])
    other = mutated(good, ("pub_key", "type"), "tendermint/PubKeySecp256k1")
    with pytest.raises(UnsupportedKeyError):
        rpc.VALIDATOR.parse(other)


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("1969-12-31T23:59:59.9Z", -1, 900_000_000),
        ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
        ("2023-05-17T14:12:53.088875124Z", 1_684_332_773, 88_875_124),
    ],
)
def test_times(text: str, seconds: int, nanos: int) -> None:
    value = Timestamp(seconds=seconds, nanos=nanos)
    assert rpc.TIME.parse(text) == value
    assert rpc.TIME.render(value) == text


def test_time_with_an_offset_is_the_same_point() -> None:
    zulu = rpc.TIME.parse("2023-05-17T14:12:53.5Z")
    assert rpc.TIME.parse("2023-05-17T16:12:53.5+02:00") == zulu
    assert rpc.TIME.parse("2023-05-17T10:42:53.5-03:30") == zulu


@pytest.mark.parametrize(
    "text",
    [
        "2023-05-17",
        "2023-13-17T14:12:53Z",
        "2023-02-29T14:12:53Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "2023-05-17T14:12:53",
        "2023-05-17T14:12:53.1234567890Z",
        "2023-05-17T14:12:53.Z",
        "2023-05-17T14:12:53+99:00",
        "\uff12023-05-17T14:12:53Z",
        5,
    ],
)
def test_what_is_no_time(text: Any) -> None:
    with pytest.raises(RpcFormatError):
        rpc.TIME.parse(text)


def test_error_envelope_goes_there_and_back() -> None:
    raw = render_error(
        7, RpcErrorBody(code=INTERNAL_ERROR, message="Internal error", data="why")
    )
    reply = parse_reply(raw)
    assert reply.id == 7
    with pytest.raises(RpcRemoteError, match=r"Internal error.*-32603 why"):
        reply.open()


def test_result_and_request_go_there_and_back() -> None:
    assert parse_reply(render_result("x", {"a": 1})).open() == {"a": 1}
    request = RpcRequest(id=1, method="block", params={"height": "5"})
    assert parse_request(render_request(request)) == request


def test_positional_parameters_are_refused() -> None:
    with pytest.raises(RpcFormatError, match="named"):
        parse_request(b'{"id":1,"method":"block","params":["5"]}')


def test_new_block_event_of_our_own_node_is_read_back(workshop: Any) -> None:
    header = workshop.header(3)
    event = rpc.NewBlockEvent(
        query=rpc.NEW_BLOCK_QUERY,
        block=rpc.BLOCK.parse(
            {
                "header": rpc.HEADER.render(header),
                "data": {"txs": ["AAE="]},
                "evidence": {"evidence": None},
                "last_commit": None,
            }
        ),
        block_id=workshop.sign(header).commit.block_id,
        result=rpc.FinalizeBlockResult(
            tx_results=(
                rpc.ExecTxResult(
                    code=1,
                    log="no",
                    events=(
                        rpc.Event(
                            kind="app",
                            attributes=(rpc.EventAttribute(key="k", value="v"),),
                        ),
                    ),
                ),
            ),
            app_hash=b"\x01",
        ),
        events=(("tm.event", ("NewBlock",)),),
    )
    rendered = json.loads(json.dumps(rpc.SUBSCRIPTION.render(event)))
    assert rpc.SUBSCRIPTION.parse(rendered) == event
    assert event.block.txs == (b"\x00\x01",)
    with pytest.raises(RpcFormatError, match=r"data\.type"):
        rpc.SUBSCRIPTION.parse(mutated(rendered, ("data", "type"), "other"))


def test_abci_query_with_proof_is_read_back() -> None:
    value = rpc.AbciQueryResult(
        key=b"k",
        value=b"v",
        height=9,
        proof_ops=(rpc.ProofOp(kind="ics23:simple", key=b"k", data=b"proof"),),
    )
    rendered = rpc.ABCI_QUERY.render(value)
    assert rpc.ABCI_QUERY.parse(rendered) == value
    assert rendered["response"]["proofOps"] == {  # type: ignore[index]
        "ops": [{"type": "ics23:simple", "key": "aw==", "data": "cHJvb2Y="}]
    }
    bare = replace(value, proof_ops=None)
    assert rpc.ABCI_QUERY.parse(rpc.ABCI_QUERY.render(bare)) == bare


def test_no_depth_of_nesting_is_too_deep_to_be_refused() -> None:
    for depth in range(1, sys.getrecursionlimit()):
        nested = b"[" * depth + b"]" * depth
        with pytest.raises(RpcFormatError):
            rpc.STATUS.parse(parse_reply(b'{"result":' + nested + b"}").open())
