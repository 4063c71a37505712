"""JSON shapes of chain data: headers, commits, blocks, validators, genesis."""

from typing import Final

from sealift.base import ChainId, Height, Message
from sealift.relay._errors import UnsupportedKeyError
from sealift.relay._merkle import MerkleProof
from sealift.relay._types import (
    ZERO_TIME,
    Block,
    BlockId,
    BlockParams,
    Commit,
    CommitSig,
    ConsensusParams,
    ConsensusVersion,
    EvidenceParams,
    Header,
    PartSetHeader,
    SignedHeader,
    Timestamp,
    Validator,
    ValidatorSet,
)

from ._shapes import (
    ADDRESS,
    BASE64,
    HASH,
    HEX,
    INT32,
    INT64,
    NOT_NEGATIVE,
    RAW,
    TEXT,
    TIME,
    UINT32,
    UINT64,
    Shape,
    base64,
    hexadecimal,
    inside,
    key,
    many,
    number,
    record,
    shown,
    wrong,
)

ED25519_TYPE: Final = "tendermint/PubKeyEd25519"
_MAX_CHAIN_ID = 50


class GenesisDoc(Message, kw_only=True):
    """How a chain starts: ``/genesis`` and ``genesis.json``.

    ``app_state`` is kept as JSON.
    """

    genesis_time: Timestamp
    chain_id: ChainId
    initial_height: Height = Height(1)
    consensus_params: ConsensusParams = ConsensusParams()
    validators: ValidatorSet = ValidatorSet(validators=())
    app_hash: bytes = b""
    app_state: bytes = b"null"


def _read_chain_id(value: object, where: str) -> ChainId:
    text = TEXT.read(value, where)
    if not 1 <= len(text) <= _MAX_CHAIN_ID:
        raise wrong(where, value, f"1 … {_MAX_CHAIN_ID} characters")
    return ChainId(text)


def _read_public_key(value: object, where: str) -> bytes:
    if not isinstance(value, dict):
        raise wrong(where, value, "an object")
    kind = value.get("type")
    if kind != ED25519_TYPE:
        raise UnsupportedKeyError(
            f"key at {where} is not Ed25519",
            got=shown(kind),
            expected=ED25519_TYPE,
        )
    return _KEY_BYTES.read(value.get("value"), f"{where}.value")


def _validator(power: str) -> Shape[Validator]:
    """A validator whose power stands under this key; extra keys as CometBFT's."""
    fields = (
        key("pub_key", PUBLIC_KEY, to="public_key"),
        key(power, NOT_NEGATIVE, to="power"),
    )
    plain = record(Validator, *fields)
    claimed = inside("address", ADDRESS, empty=b"")
    extra = {"name": ""} if power == "power" else {"proposer_priority": "0"}

    def read(value: object, where: str) -> Validator:
        found = plain.read(value, where)
        address = claimed.read(value, where)
        if address and address != found.address:
            raise wrong(
                f"{where}.address", address.hex(), f"{found.address.hex()} by its key"
            )
        return found

    def write(value: Validator) -> object:
        out = plain.write(value)
        head = {"address": value.address.hex().upper()}
        return head | (out if isinstance(out, dict) else {}) | extra

    return Shape(read, write)


_KEY_BYTES: Final = base64(32)
CHAIN_ID: Final = Shape(_read_chain_id, str)
PUBLIC_KEY: Final = Shape(
    _read_public_key,
    lambda data: {"type": ED25519_TYPE, "value": BASE64.write(data)},
)
PART_SET_HEADER: Final = record(PartSetHeader, key("total", UINT32), key("hash", HASH))
BLOCK_ID: Final = record(BlockId, key("hash", HASH), key("parts", PART_SET_HEADER))
VERSION: Final = record(
    ConsensusVersion,
    key("block", UINT64),
    key("app", UINT64, default=0, omit=True),
)
HEADER: Final = record(
    Header,
    key("version", VERSION),
    key("chain_id", CHAIN_ID),
    key("height", NOT_NEGATIVE),
    key("time", TIME),
    key("last_block_id", BLOCK_ID, default=BlockId()),
    key("last_commit_hash", HASH),
    key("data_hash", HASH),
    key("validators_hash", HASH),
    key("next_validators_hash", HASH),
    key("consensus_hash", HASH),
    key("app_hash", HEX),
    key("last_results_hash", HASH),
    key("evidence_hash", HASH),
    key("proposer_address", ADDRESS),
)
COMMIT_SIG: Final = record(
    CommitSig,
    key("block_id_flag", number(1, 3), to="flag"),
    key("validator_address", ADDRESS),
    key("timestamp", TIME, default=ZERO_TIME),
    key("signature", base64(0, 64, null=True), default=b""),
)
COMMIT: Final = record(
    Commit,
    key("height", NOT_NEGATIVE),
    key("round", INT32),
    key("block_id", BLOCK_ID),
    key("signatures", many(COMMIT_SIG), default=()),
)
SIGNED_HEADER: Final = record(
    SignedHeader, key("header", HEADER), key("commit", COMMIT)
)
BLOCK: Final = record(
    Block,
    key("header", HEADER),
    key("data", inside("txs", many(BASE64), empty=()), to="txs"),
    key("evidence", inside("evidence", many(RAW), empty=())),
    key("last_commit", COMMIT, default=Commit()),
)
VALIDATOR: Final = _validator("voting_power")
_GENESIS_VALIDATOR: Final = _validator("power")
_GENESIS_VALIDATORS: Final = Shape(
    lambda value, where: ValidatorSet.sorted(
        many(_GENESIS_VALIDATOR).read(value, where)
    ),
    lambda value: many(_GENESIS_VALIDATOR).write(value.validators),
)
VALIDATOR_SET: Final = Shape(
    lambda value, where: ValidatorSet(validators=many(VALIDATOR).read(value, where)),
    lambda value: many(VALIDATOR).write(value.validators),
)
CONSENSUS_PARAMS: Final = record(
    ConsensusParams,
    key(
        "block",
        record(BlockParams, key("max_bytes", INT64), key("max_gas", INT64)),
    ),
    key(
        "evidence",
        record(
            EvidenceParams,
            key("max_age_num_blocks", INT64),
            key("max_age_duration", INT64),
            key("max_bytes", INT64),
        ),
    ),
    key("validator", inside("pub_key_types", many(TEXT)), to="pub_key_types"),
    key("version", inside("app", UINT64, empty=0), to="app_version", default=0),
    key(
        "abci",
        inside("vote_extensions_enable_height", INT64, empty=0),
        to="vote_extensions_enable_height",
        default=0,
    ),
)
GENESIS_DOC: Final = record(
    GenesisDoc,
    key("genesis_time", TIME),
    key("chain_id", CHAIN_ID),
    key("initial_height", NOT_NEGATIVE, default=1),
    key("consensus_params", CONSENSUS_PARAMS, default=ConsensusParams()),
    key(
        "validators",
        _GENESIS_VALIDATORS,
        default=ValidatorSet(validators=()),
        omit=True,
    ),
    key("app_hash", HEX, default=b""),
    key("app_state", RAW, default=b"null", omit=True),
)
MERKLE_PROOF: Final = record(
    MerkleProof,
    key("total", NOT_NEGATIVE),
    key("index", NOT_NEGATIVE),
    key("leaf_hash", base64(32)),
    key("aunts", many(base64(32)), default=()),
)
TX_HASH: Final = hexadecimal(32)
