"""ABCI 2.0's protobuf messages, by the protobuf library, from field numbers.

Source: CometBFT v0.38 ``proto/tendermint/{abci,crypto,types}``; the same in
v0.39 and v0.40 for all that is declared. Enumerations are declared as
``int32``, which has the same encoding. The descriptors live in a pool of their
own, so that another library's copy of these messages does no harm.
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.proto import serialize_length_prefixed

from ._errors import AbciFormatError

_PACKAGE: Final = "sealift.abci"
_SCALARS: Final = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}
#: These choose one of their fields.
_CHOICES: Final = frozenset({"Request", "Response", "PublicKey"})
_RESULT: Final = {
    "code": (1, "uint32"),
    "data": (2, "bytes"),
    "log": (3, "string"),
    "info": (4, "string"),
    "gas_wanted": (5, "int64"),
    "gas_used": (6, "int64"),
    "events": (7, "*Event"),
    "codespace": (8, "string"),
}
_BLOCK: Final = {
    "misbehavior": (3, "*Misbehavior"),
    "hash": (4, "bytes"),
    "height": (5, "int64"),
    "time": (6, "Timestamp"),
    "next_validators_hash": (7, "bytes"),
    "proposer_address": (8, "bytes"),
}
#: Message: field = (number, type); a leading * means repeated.
SCHEMA: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "Request": {
        "echo": (1, "RequestEcho"),
        "flush": (2, "RequestFlush"),
        "info": (3, "RequestInfo"),
        "init_chain": (5, "RequestInitChain"),
        "query": (6, "RequestQuery"),
        "check_tx": (8, "RequestCheckTx"),
        "commit": (11, "RequestCommit"),
        "list_snapshots": (12, "RequestListSnapshots"),
        "offer_snapshot": (13, "RequestOfferSnapshot"),
        "load_snapshot_chunk": (14, "RequestLoadSnapshotChunk"),
        "apply_snapshot_chunk": (15, "RequestApplySnapshotChunk"),
        "prepare_proposal": (16, "RequestPrepareProposal"),
        "process_proposal": (17, "RequestProcessProposal"),
        "extend_vote": (18, "RequestExtendVote"),
        "verify_vote_extension": (19, "RequestVerifyVoteExtension"),
        "finalize_block": (20, "RequestFinalizeBlock"),
    },
    "RequestEcho": {"message": (1, "string")},
    "RequestFlush": {},
    "RequestInfo": {
        "version": (1, "string"),
        "block_version": (2, "uint64"),
        "p2p_version": (3, "uint64"),
        "abci_version": (4, "string"),
    },
    "RequestInitChain": {
        "time": (1, "Timestamp"),
        "chain_id": (2, "string"),
        "consensus_params": (3, "ConsensusParams"),
        "validators": (4, "*ValidatorUpdate"),
        "app_state_bytes": (5, "bytes"),
        "initial_height": (6, "int64"),
    },
    "RequestQuery": {
        "data": (1, "bytes"),
        "path": (2, "string"),
        "height": (3, "int64"),
        "prove": (4, "bool"),
    },
    "RequestCheckTx": {"tx": (1, "bytes"), "type": (2, "int32")},
    "RequestCommit": {},
    "RequestListSnapshots": {},
    "RequestOfferSnapshot": {"snapshot": (1, "Snapshot"), "app_hash": (2, "bytes")},
    "RequestLoadSnapshotChunk": {
        "height": (1, "uint64"),
        "format": (2, "uint32"),
        "chunk": (3, "uint32"),
    },
    "RequestApplySnapshotChunk": {
        "index": (1, "uint32"),
        "chunk": (2, "bytes"),
        "sender": (3, "string"),
    },
    "RequestPrepareProposal": {
        "max_tx_bytes": (1, "int64"),
        "txs": (2, "*bytes"),
        "local_last_commit": (3, "ExtendedCommitInfo"),
        "misbehavior": (4, "*Misbehavior"),
        "height": (5, "int64"),
        "time": (6, "Timestamp"),
        "next_validators_hash": (7, "bytes"),
        "proposer_address": (8, "bytes"),
    },
    "RequestProcessProposal": {
        "txs": (1, "*bytes"),
        "proposed_last_commit": (2, "CommitInfo"),
        **_BLOCK,
    },
    "RequestExtendVote": {
        "hash": (1, "bytes"),
        "height": (2, "int64"),
        "time": (3, "Timestamp"),
        "txs": (4, "*bytes"),
        "proposed_last_commit": (5, "CommitInfo"),
        "misbehavior": (6, "*Misbehavior"),
        "next_validators_hash": (7, "bytes"),
        "proposer_address": (8, "bytes"),
    },
    "RequestVerifyVoteExtension": {
        "hash": (1, "bytes"),
        "validator_address": (2, "bytes"),
        "height": (3, "int64"),
        "vote_extension": (4, "bytes"),
    },
    "RequestFinalizeBlock": {
        "txs": (1, "*bytes"),
        "decided_last_commit": (2, "CommitInfo"),
        **_BLOCK,
    },
    "Response": {
        "exception": (1, "ResponseException"),
        "echo": (2, "ResponseEcho"),
        "flush": (3, "ResponseFlush"),
        "info": (4, "ResponseInfo"),
        "init_chain": (6, "ResponseInitChain"),
        "query": (7, "ResponseQuery"),
        "check_tx": (9, "ResponseCheckTx"),
        "commit": (12, "ResponseCommit"),
        "list_snapshots": (13, "ResponseListSnapshots"),
        "offer_snapshot": (14, "ResponseOfferSnapshot"),
        "load_snapshot_chunk": (15, "ResponseLoadSnapshotChunk"),
        "apply_snapshot_chunk": (16, "ResponseApplySnapshotChunk"),
        "prepare_proposal": (17, "ResponsePrepareProposal"),
        "process_proposal": (18, "ResponseProcessProposal"),
        "extend_vote": (19, "ResponseExtendVote"),
        "verify_vote_extension": (20, "ResponseVerifyVoteExtension"),
        "finalize_block": (21, "ResponseFinalizeBlock"),
    },
    "ResponseException": {"error": (1, "string")},
    "ResponseEcho": {"message": (1, "string")},
    "ResponseFlush": {},
    "ResponseInfo": {
        "data": (1, "string"),
        "version": (2, "string"),
        "app_version": (3, "uint64"),
        "last_block_height": (4, "int64"),
        "last_block_app_hash": (5, "bytes"),
    },
    "ResponseInitChain": {
        "consensus_params": (1, "ConsensusParams"),
        "validators": (2, "*ValidatorUpdate"),
        "app_hash": (3, "bytes"),
    },
    "ResponseQuery": {
        "code": (1, "uint32"),
        "log": (3, "string"),
        "info": (4, "string"),
        "index": (5, "int64"),
        "key": (6, "bytes"),
        "value": (7, "bytes"),
        "proof_ops": (8, "ProofOps"),
        "height": (9, "int64"),
        "codespace": (10, "string"),
    },
    "ResponseCheckTx": _RESULT,
    "ResponseCommit": {"retain_height": (3, "int64")},
    "ResponseListSnapshots": {"snapshots": (1, "*Snapshot")},
    "ResponseOfferSnapshot": {"result": (1, "int32")},
    "ResponseLoadSnapshotChunk": {"chunk": (1, "bytes")},
    "ResponseApplySnapshotChunk": {
        "result": (1, "int32"),
        "refetch_chunks": (2, "*uint32"),
        "reject_senders": (3, "*string"),
    },
    "ResponsePrepareProposal": {"txs": (1, "*bytes")},
    "ResponseProcessProposal": {"status": (1, "int32")},
    "ResponseExtendVote": {"vote_extension": (1, "bytes")},
    "ResponseVerifyVoteExtension": {"status": (1, "int32")},
    "ResponseFinalizeBlock": {
        "events": (1, "*Event"),
        "tx_results": (2, "*ExecTxResult"),
        "validator_updates": (3, "*ValidatorUpdate"),
        "consensus_param_updates": (4, "ConsensusParams"),
        "app_hash": (5, "bytes"),
    },
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Duration": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "PublicKey": {"ed25519": (1, "bytes"), "secp256k1": (2, "bytes")},
    "ProofOp": {"type": (1, "string"), "key": (2, "bytes"), "data": (3, "bytes")},
    "ProofOps": {"ops": (1, "*ProofOp")},
    "ConsensusParams": {
        "block": (1, "BlockParams"),
        "evidence": (2, "EvidenceParams"),
        "validator": (3, "ValidatorParams"),
        "version": (4, "VersionParams"),
        "abci": (5, "ABCIParams"),
    },
    "BlockParams": {"max_bytes": (1, "int64"), "max_gas": (2, "int64")},
    "EvidenceParams": {
        "max_age_num_blocks": (1, "int64"),
        "max_age_duration": (2, "Duration"),
        "max_bytes": (3, "int64"),
    },
    "ValidatorParams": {"pub_key_types": (1, "*string")},
    "VersionParams": {"app": (1, "uint64")},
    "ABCIParams": {"vote_extensions_enable_height": (1, "int64")},
    "Event": {"type": (1, "string"), "attributes": (2, "*EventAttribute")},
    "EventAttribute": {
        "key": (1, "string"),
        "value": (2, "string"),
        "index": (3, "bool"),
    },
    "ExecTxResult": _RESULT,
    "Validator": {"address": (1, "bytes"), "power": (3, "int64")},
    "ValidatorUpdate": {"pub_key": (1, "PublicKey"), "power": (2, "int64")},
    "VoteInfo": {"validator": (1, "Validator"), "block_id_flag": (3, "int32")},
    "CommitInfo": {"round": (1, "int32"), "votes": (2, "*VoteInfo")},
    "ExtendedVoteInfo": {
        "validator": (1, "Validator"),
        "vote_extension": (3, "bytes"),
        "extension_signature": (4, "bytes"),
        "block_id_flag": (5, "int32"),
    },
    "ExtendedCommitInfo": {"round": (1, "int32"), "votes": (2, "*ExtendedVoteInfo")},
    "Misbehavior": {
        "type": (1, "int32"),
        "validator": (2, "Validator"),
        "height": (3, "int64"),
        "time": (4, "Timestamp"),
        "total_voting_power": (5, "int64"),
    },
    "Snapshot": {
        "height": (1, "uint64"),
        "format": (2, "uint32"),
        "chunks": (3, "uint32"),
        "hash": (4, "bytes"),
        "metadata": (5, "bytes"),
    },
}


def parse_choice(message: str, data: bytes) -> tuple[str, dict[str, object]]:
    """The one field of a ``Request`` or ``Response`` and what is in it.

    Total over all bytes. Absent messages are absent in the result; absent
    scalars have their zero value.

    Raises:
        AbciFormatError: Not that message, or with a field that is not declared.
    """
    parsed = _CLASSES[message]()
    try:
        parsed.ParseFromString(data)
    except DecodeError as error:
        raise AbciFormatError(f"not a {message} ({error})", got=data) from error
    _require_known_fields(message, parsed)
    field = parsed.WhichOneof("choice")
    if field is None:
        raise AbciFormatError(
            f"{message} of no known kind", got=data, expected="ABCI 2.0"
        )
    inner: Message = getattr(parsed, field)
    return field, _plain(inner, SCHEMA[message][field][1])


def render_choice(message: str, field: str, body: Mapping[str, object]) -> bytes:
    """A frame with a ``Request`` or ``Response`` that has this one field."""
    inner = _CLASSES[SCHEMA[message][field][1]](**body)
    frame = BytesIO()
    serialize_length_prefixed(_CLASSES[message](**{field: inner}), frame)
    return frame.getvalue()


def _require_known_fields(message: str, parsed: Message) -> None:
    """Return if every field, at any depth, is a declared one.

    A field that this program does not know may carry what the others agree on.
    """
    size = parsed.ByteSize()
    parsed.DiscardUnknownFields()
    if parsed.ByteSize() != size:
        raise AbciFormatError(
            f"{message} with fields of another version",
            got=f"{size - parsed.ByteSize()} B of them",
            expected="CometBFT v0.38's",
        )


def _plain(message: Message, kind: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, (_, declared) in SCHEMA[kind].items():
        inner = declared.removeprefix("*")
        if inner in _SCALARS:
            value = getattr(message, name)
            if kind in _CHOICES and not message.HasField(name):
                continue
            found[name] = value if inner == declared else list(value)
        elif inner != declared:
            several: Iterable[Message] = getattr(message, name)
            found[name] = [_plain(one, inner) for one in several]
        elif message.HasField(name):
            found[name] = _plain(getattr(message, name), inner)
    return found


def _declare() -> dict[str, type[Message]]:
    file = FileDescriptorProto(
        name="sealift/abci.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        if name in _CHOICES:
            message.oneof_decl.add(name="choice")
        for field, (number, declared) in fields.items():
            inner = declared.removeprefix("*")
            one = message.field.add(
                name=field,
                number=number,
                label=FieldDescriptorProto.LABEL_OPTIONAL
                if inner == declared
                else FieldDescriptorProto.LABEL_REPEATED,
            )
            if inner in _SCALARS:
                one.type = _SCALARS[inner]
            else:
                one.type = FieldDescriptorProto.TYPE_MESSAGE
                one.type_name = f".{_PACKAGE}.{inner}"
            if name in _CHOICES:
                one.oneof_index = 0
    pool = DescriptorPool()
    pool.Add(file)
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in SCHEMA
    }


_CLASSES: Final = _declare()
