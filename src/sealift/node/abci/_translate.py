"""Between ABCI's messages and the values that the application knows."""

from collections.abc import Sequence
from typing import Final

from sealift.base import ChainId, DecodeError, Height, decode, encode
from sealift.ledger import EngineReport, Misbehavior, MisbehaviorKind
from sealift.relay import (
    BlockParams,
    ConsensusParams,
    EvidenceParams,
    Timestamp,
    UnsupportedKeyError,
    Validator,
    ValidatorSet,
)
from sealift.relay.rpc import Event, ExecTxResult, GenesisDoc

from ._errors import AbciGenesisError
from ._messages import (
    ABSENT,
    AbciAttribute,
    AbciEvent,
    AbciPublicKey,
    AbciTxResult,
    AbciValidatorUpdate,
    CheckTxResponse,
    FinalizeBlockRequest,
    InitChainRequest,
    Params,
    Time,
    ValidatorUpdate,
)

#: Version of the application, in every header.
APP_VERSION: Final = 1
_FIRST_HEIGHT: Final = 1
_KEY_BYTES: Final = 32
_LIMIT: Final = 128 * 1024 * 1024


def genesis_of(request: InitChainRequest) -> GenesisDoc:
    """The genesis that ``InitChain`` brings.

    1. The chain starts at height 1. 2. The headers' application version is
    ours. 3. Vote extensions are off. 4. All validators have Ed25519 keys, and
    no others are allowed. 5. All values are in range.

    Raises:
        AbciGenesisError: 1, 2, 3 or 5 fails.
        UnsupportedKeyError: 4 fails.
    """
    params = request.consensus_params
    rules: tuple[tuple[str, object, object], ...] = (
        ("initial_height", request.initial_height, _FIRST_HEIGHT),  # 1.
        ("consensus_params.version.app", params.version.app, APP_VERSION),  # 2.
        (  # 3.
            "consensus_params.abci.vote_extensions_enable_height",
            params.abci.vote_extensions_enable_height,
            0,
        ),
    )
    for where, got, expected in rules:
        if got != expected:
            raise AbciGenesisError(
                f"the genesis says {where}",
                got=got,
                expected=expected,
                hint="Correct genesis.json at every validator",
            )
    # 4.
    if params.validator.pub_key_types != ("ed25519",):
        raise UnsupportedKeyError(
            "the genesis allows other keys than Ed25519",
            got=", ".join(params.validator.pub_key_types),
            expected="ed25519",
        )
    doc = GenesisDoc(
        genesis_time=timestamp_of(request.time),
        chain_id=ChainId(request.chain_id),
        initial_height=Height(request.initial_height),
        consensus_params=_consensus_params(params),
        validators=ValidatorSet.sorted(tuple(map(_validator, request.validators))),
        app_state=request.app_state_bytes,
    )
    # 5.
    try:
        return decode(GenesisDoc, encode(doc), limit=_LIMIT)
    except (DecodeError, OverflowError) as error:
        raise AbciGenesisError(f"the genesis is out of range ({error})") from error


def timestamp_of(time: Time) -> Timestamp:
    """A time as headers have it."""
    return Timestamp(seconds=time.seconds, nanos=time.nanos)


def abci_result(result: ExecTxResult) -> AbciTxResult:
    """A transaction's result in a block."""
    return AbciTxResult(
        code=result.code,
        data=result.data,
        log=result.log,
        info=result.info,
        gas_wanted=result.gas_wanted,
        gas_used=result.gas_used,
        events=abci_events(result.events),
        codespace=result.codespace,
    )


def abci_verdict(result: ExecTxResult) -> CheckTxResponse:
    """A verdict for the mempool."""
    return CheckTxResponse(
        code=result.code,
        data=result.data,
        log=result.log,
        info=result.info,
        gas_wanted=result.gas_wanted,
        gas_used=result.gas_used,
        codespace=result.codespace,
    )


def abci_events(events: Sequence[Event]) -> tuple[AbciEvent, ...]:
    """Events in block order."""
    return tuple(
        AbciEvent(
            type=event.kind,
            attributes=tuple(
                AbciAttribute(key=one.key, value=one.value, index=one.index)
                for one in event.attributes
            ),
        )
        for event in events
    )


def report_of(request: FinalizeBlockRequest) -> EngineReport:
    """What a block says of validators."""
    return EngineReport(
        absent=tuple(
            one.validator.address
            for one in request.decided_last_commit.votes
            if one.block_id_flag == ABSENT
        ),
        misbehavior=tuple(
            Misbehavior(
                kind=MisbehaviorKind(one.type),
                address=one.validator.address,
                height=Height(one.height),
                power=one.validator.power,
            )
            for one in request.misbehavior
        ),
    )


def abci_updates(updates: Sequence[Validator]) -> tuple[AbciValidatorUpdate, ...]:
    """Validators' new powers."""
    return tuple(
        AbciValidatorUpdate(
            pub_key=AbciPublicKey(ed25519=one.public_key), power=one.power
        )
        for one in updates
    )


def _consensus_params(params: Params) -> ConsensusParams:
    evidence = params.evidence
    age = evidence.max_age_duration
    return ConsensusParams(
        block=BlockParams(
            max_bytes=params.block.max_bytes, max_gas=params.block.max_gas
        ),
        evidence=EvidenceParams(
            max_age_num_blocks=evidence.max_age_num_blocks,
            max_age_duration=age.seconds * 1_000_000_000 + age.nanos,
            max_bytes=evidence.max_bytes,
        ),
        pub_key_types=params.validator.pub_key_types,
        app_version=params.version.app,
        vote_extensions_enable_height=params.abci.vote_extensions_enable_height,
    )


def _validator(update: ValidatorUpdate) -> Validator:
    key = update.pub_key.ed25519
    if key is None or len(key) != _KEY_BYTES:
        raise UnsupportedKeyError(
            "a validator's key is not Ed25519",
            got=update.pub_key.secp256k1 or key,
            expected="ed25519",
        )
    return Validator(public_key=key, power=update.power)
