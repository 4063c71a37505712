"""JSON-RPC 2.0 envelopes and the events of a subscription."""

from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from sealift.base import Height, Message
from sealift.relay._errors import RpcFormatError, RpcRemoteError
from sealift.relay._types import Block, BlockId

from ._chain import BLOCK, BLOCK_ID
from ._methods import EXEC_TX_RESULT, FINALIZE_BLOCK, ExecTxResult, FinalizeBlockResult
from ._shapes import (
    BASE64,
    NOT_NEGATIVE,
    TEXT,
    UINT32,
    Shape,
    inside,
    key,
    many,
    mapping,
    number,
    record,
    wrong,
)

#: The query that subscribes to new blocks.
NEW_BLOCK_QUERY: Final = "tm.event='NewBlock'"
#: Most bytes of a reply that are looked at: 64 MiB (a block has 21 MB, in base64).
MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

RpcId: TypeAlias = int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcErrorBody:
    """The error of an envelope."""

    code: int
    message: str
    data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcReply:
    """An answer whose method is not looked at yet."""

    id: RpcId
    result: object = None
    error: RpcErrorBody | None = None

    def open(self) -> object:
        """The result, to be given to the method's shape.

        Raises:
            RpcRemoteError: The node answered with an error.
        """
        if self.error is not None:
            raise RpcRemoteError(
                f"the node refused: {self.error.message}",
                got=f"{self.error.code} {self.error.data}".strip(),
            )
        return self.result


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcRequest:
    """A call: method, named parameters as plain JSON."""

    id: RpcId
    method: str
    params: dict[str, object]


class NewBlockEvent(Message, kw_only=True):
    """A block was decided and executed."""

    query: str
    block: Block
    block_id: BlockId
    result: FinalizeBlockResult = FinalizeBlockResult()
    events: tuple[tuple[str, tuple[str, ...]], ...] = ()


class TxEvent(Message, kw_only=True):
    """A transaction was executed in a block."""

    query: str
    height: Height
    index: int = 0
    tx: bytes
    result: ExecTxResult
    events: tuple[tuple[str, tuple[str, ...]], ...] = ()


class _NewBlockData(Message, kw_only=True):
    block: Block
    block_id: BlockId
    result: FinalizeBlockResult


class _TxData(Message, kw_only=True):
    height: Height
    index: int
    tx: bytes
    result: ExecTxResult


_NEW_BLOCK_TYPE = "tendermint/event/NewBlock"
_TX_TYPE = "tendermint/event/Tx"
_NEW_BLOCK_DATA = record(
    _NewBlockData,
    key("block", BLOCK),
    key("block_id", BLOCK_ID, default=BlockId()),
    key(
        "result_finalize_block",
        FINALIZE_BLOCK,
        to="result",
        default=FinalizeBlockResult(),
    ),
)
_TX_DATA = inside(
    "TxResult",
    record(
        _TxData,
        key("height", NOT_NEGATIVE),
        key("index", UINT32, default=0, omit=True),
        key("tx", BASE64, default=b""),
        key("result", EXEC_TX_RESULT),
    ),
)
_TAGS = mapping(many(TEXT))
_ERROR = record(
    RpcErrorBody,
    key("code", number(-(2**31), 2**31 - 1)),
    key("message", TEXT),
    key("data", TEXT, default="", omit=True),
)


def _read_event(value: object, where: str) -> NewBlockEvent | TxEvent | None:
    if not isinstance(value, dict):
        raise wrong(where, value, "an object")
    if not value:
        return None
    query = TEXT.read(value.get("query"), "query")
    data = value.get("data")
    if not isinstance(data, dict):
        raise wrong("data", data, "an object")
    tags = _TAGS.read(value.get("events") or {}, "events")
    kind, body = data.get("type"), data.get("value")
    if kind == _NEW_BLOCK_TYPE:
        block = _NEW_BLOCK_DATA.read(body, "data.value")
        return NewBlockEvent(
            query=query,
            block=block.block,
            block_id=block.block_id,
            result=block.result,
            events=tags,
        )
    if kind == _TX_TYPE:
        tx = _TX_DATA.read(body, "data.value")
        return TxEvent(
            query=query,
            height=tx.height,
            index=tx.index,
            tx=tx.tx,
            result=tx.result,
            events=tags,
        )
    raise wrong("data.type", kind, f"{_NEW_BLOCK_TYPE} or {_TX_TYPE}")


def _write_event(value: NewBlockEvent | TxEvent | None) -> object:
    if value is None:
        return {}
    if isinstance(value, NewBlockEvent):
        kind = _NEW_BLOCK_TYPE
        body = _NEW_BLOCK_DATA.write(
            _NewBlockData(
                block=value.block, block_id=value.block_id, result=value.result
            )
        )
    else:
        kind = _TX_TYPE
        body = _TX_DATA.write(
            _TxData(
                height=value.height, index=value.index, tx=value.tx, result=value.result
            )
        )
    return {
        "query": value.query,
        "data": {"type": kind, "value": body},
        "events": _TAGS.write(value.events),
    }


#: A message of a subscription; ``None`` confirms the subscription itself.
SUBSCRIPTION: Final = Shape(_read_event, _write_event)


def parse_reply(raw: bytes) -> RpcReply:
    """The envelope of an answer, HTTP or WebSocket; total over all bytes.

    Raises:
        RpcFormatError: Not a JSON-RPC answer.
    """
    value = _decode(raw)
    if not isinstance(value, dict):
        raise wrong("", value, "a JSON-RPC object")
    error = value.get("error")
    if error is None and "result" not in value:
        raise wrong("", value, "a result or an error")
    return RpcReply(
        id=_read_id(value.get("id")),
        result=value.get("result"),
        error=None if error is None else _ERROR.read(error, "error"),
    )


def parse_request(raw: bytes) -> RpcRequest:
    """A call with named parameters; total over all bytes.

    Raises:
        RpcFormatError: Not such a call.
    """
    value = _decode(raw)
    if not isinstance(value, dict):
        raise wrong("", value, "a JSON-RPC object")
    params = value.get("params") or {}
    if not isinstance(params, dict):
        raise wrong("params", params, "named parameters")
    return RpcRequest(
        id=_read_id(value.get("id")),
        method=TEXT.read(value.get("method"), "method"),
        params=params,
    )


def render_request(request: RpcRequest) -> bytes:
    """A call as bytes."""
    return msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": request.id,
            "method": request.method,
            "params": request.params,
        }
    )


def render_result(id_: RpcId, result: object) -> bytes:
    """An answer around what a shape rendered."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": id_, "result": result})


def render_error(id_: RpcId, error: RpcErrorBody) -> bytes:
    """An answer that refuses."""
    return msgspec.json.encode(
        {"jsonrpc": "2.0", "id": id_, "error": _ERROR.write(error)}
    )


def _decode(raw: bytes) -> object:
    if len(raw) > MAX_REPLY_BYTES:
        raise RpcFormatError(
            "JSON is too large", got=f"{len(raw)} B", expected=f"≤ {MAX_REPLY_BYTES} B"
        )
    try:
        value: object = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError) as error:
        raise RpcFormatError(f"not JSON ({error})", got=raw) from error
    return value


def _read_id(value: object) -> RpcId:
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    raise wrong("id", value, "a string or an integer")
