"""Parameters of RPC methods: any JSON and any URI text is a value or refused."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_kv import KvApplication

from sealift.base import NonCanonicalError, SealiftError, TooLargeError
from sealift.node import (
    RPC_CODES,
    DurableChain,
    HeightUnknownError,
    InvalidParamsError,
    Mempool,
    MempoolLimits,
    SubscriptionError,
    TxNotFoundError,
)
from sealift.node._methods import SoloMethods
from sealift.node._params import (
    BYTES,
    FLAG,
    HEX_BYTES,
    NUMBER,
    TEXT,
    Params,
    read_json_params,
    read_uri_params,
)
from sealift.node._server import RpcServer, _Client, _error_of
from sealift.relay.rpc import ExecTxResult, RpcRequest

KINDS = {"n": NUMBER, "t": TEXT, "f": FLAG, "b": BYTES, "h": HEX_BYTES}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(list(KINDS)), JSON))
def test_any_json_is_read_or_refused(given_: dict[str, object]) -> None:
    try:
        params = read_json_params(KINDS, given_)
    except InvalidParamsError:
        return
    check_types(params)


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(list(KINDS)),
        st.text(max_size=8) | st.from_regex(r'"[^"]*"|0x[0-9a-f]*|\d+', fullmatch=True),
    )
)
def test_any_uri_text_is_read_or_refused(given_: dict[str, str]) -> None:
    try:
        params = read_uri_params(KINDS, given_)
    except InvalidParamsError:
        return
    check_types(params)


def check_types(params: Params) -> None:
    assert params.number("n") is None or 0 <= params.number("n") < 2**63
    assert isinstance(params.text("t"), str)
    assert isinstance(params.flag("f"), bool)
    assert isinstance(params.data("b"), bytes)
    assert isinstance(params.data("h"), bytes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", -1), ("n", 2**63), ("n", True), ("t", 1), ("f", 1), ("b", "!"), ("h", "0")],
)
def test_parameter_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidParamsError, match=name):
        read_json_params(KINDS, {name: value})


def test_height_zero_is_the_newest() -> None:
    kinds = {"height": NUMBER}
    for value in (0, "0", None):
        assert read_json_params(kinds, {"height": value}).height() is None
    assert read_json_params(kinds, {"height": "7"}).height() == 7


class Waiter:
    def submit(self, tx: bytes) -> ExecTxResult:
        return ExecTxResult(code=9, log=tx.hex())

    async def included(self, digest: bytes) -> None:
        raise TxNotFoundError("never", got=digest.hex())


@pytest.fixture
def methods(make_chain: Callable[..., DurableChain]) -> SoloMethods:
    chain = make_chain()
    for _ in range(25):
        chain.produce(now=chain.genesis.genesis_time, txs=())
    return SoloMethods(
        chain=chain,
        mempool=Mempool(KvApplication(), MempoolLimits()),
        waiter=Waiter(),
        moniker="test",
    )


def ask(methods: SoloMethods, name: str, **params: object) -> object:
    method = methods.table()[name]
    return asyncio.run(
        method.answer(read_json_params(method.params, params))  # type: ignore[arg-type]
    )


def test_every_method_answers_or_refuses_without_parameters(
    methods: SoloMethods,
) -> None:
    refused = set()
    for name in methods.table():
        try:
            ask(methods, name)
        except SealiftError:
            refused.add(name)
    assert refused == {"block_by_hash", "header_by_hash", "tx"}


def test_transaction_that_is_nowhere(methods: SoloMethods) -> None:
    with pytest.raises(TxNotFoundError):
        methods.find_tx(bytes(32), prove=False)


def test_refused_transaction_is_answered_by_commit_without_waiting(
    methods: SoloMethods,
) -> None:
    answer = ask(methods, "broadcast_tx_commit", tx="AAAA")
    assert answer["check_tx"]["code"] == 9  # type: ignore[index]
    assert answer["height"] == "0"  # type: ignore[index]


def test_block_metas_are_at_most_twenty_from_the_top(methods: SoloMethods) -> None:
    answer = ask(methods, "blockchain", minHeight=1, maxHeight=99)
    heights = [
        int(one["header"]["height"])
        for one in answer["block_metas"]  # type: ignore[index]
    ]
    assert heights == list(range(25, 5, -1))
    with pytest.raises(SealiftError):
        ask(methods, "blockchain", minHeight=9, maxHeight=3)


def test_strange_subscription_is_refused_by_name() -> None:
    server = RpcServer({})
    request = RpcRequest(id=1, method="subscribe", params={"query": "tm.event='Tx'"})
    with pytest.raises(SubscriptionError):
        server._subscribe(request, _Client())


@pytest.mark.parametrize(
    ("error", "code", "title"),
    [
        (InvalidParamsError("x"), -32602, "Invalid params"),
        (NonCanonicalError("x"), -32602, "Invalid params"),
        (TooLargeError("x"), -32602, "Invalid params"),
        (HeightUnknownError("x"), -32603, "Internal error"),
        (SealiftError("x"), -32603, "Internal error"),
    ],
)
def test_errors_have_the_code_of_their_nearest_class(
    error: SealiftError, code: int, title: str
) -> None:
    body = _error_of(error)
    assert (body.code, body.message) == (code, title)
    assert body.data == f"{error.code}: x"
    assert code in RPC_CODES.values()
