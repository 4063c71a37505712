"""Step 1: headers from the trust root on, and what they commit to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sealift.base import (
    AccountId,
    ChainId,
    Height,
    SealiftError,
    ShardId,
    UnixSeconds,
    canonical_decode,
    decode,
)
from sealift.frame import EmittedEvent
from sealift.protocol import Transaction
from sealift.relay import (
    ChainRelay,
    RelayRules,
    Timestamp,
    TrustRoot,
    VerifiedHeader,
    encode_tx_result,
    tx_hash,
    verify_leaf,
    verify_state,
)

from ._calls import CALLS, EVENTS, Call, Happened
from ._errors import HeadersRefusedError, InclusionError
from ._file import EvidenceBlock, EvidenceFile, EvidenceState, EvidenceTx


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenCall:
    """A transaction that took effect, with what it did; signed by ``signer``."""

    height: Height
    index: int
    time: UnixSeconds
    signer: AccountId
    call: Call
    events: tuple[Happened, ...]


@dataclass(slots=True, kw_only=True)
class ProvenFile:
    """What the headers of a file prove, by height.

    ``states`` has what stood under a key after a block.
    """

    chain_id: ChainId
    shard: ShardId
    root: VerifiedHeader
    head: VerifiedHeader
    calls: Mapping[Height, tuple[ProvenCall, ...]]
    states: Mapping[tuple[Height, bytes], bytes | None] = field(repr=False)

    @property
    def last(self) -> Height:
        """The newest block whose results and state are committed to."""
        return Height(self.head.height - 1)

    def state(self, height: Height, key: bytes) -> bytes | None:
        """What stood under a key after a block.

        Raises:
            InclusionError: The file does not prove it.
        """
        if (height, key) not in self.states:
            raise InclusionError(
                "the file lacks a state proof",
                got=key.split(b"/")[1].decode("ascii", "replace"),
                expected=f"one against the state after block {height}",
            )
        return self.states[height, key]


def prove_file(
    file: EvidenceFile,
    *,
    trust_root: TrustRoot,
    rules: RelayRules,
    now: Timestamp | None,
) -> ProvenFile:
    """Step 1 of :func:`sealift.evidence.verify_evidence`.

    Raises:
        HeadersRefusedError: A header does not follow.
        InclusionError: A transaction or state is not committed to.
        EvidenceFormatError: Validators are missing.
    """
    headers = _follow(file, trust_root, rules, now)
    heads = list(headers.values())
    calls: dict[Height, tuple[ProvenCall, ...]] = {}
    _require_ascending((block.height for block in file.blocks), "blocks")
    for block in file.blocks:
        calls[block.height] = _calls_of(file, block, headers)
    states: dict[tuple[Height, bytes], bytes | None] = {}
    for state in file.states:
        states[state.height, state.key] = _state_of(state, headers)
    return ProvenFile(
        chain_id=file.chain_id,
        shard=file.shard,
        root=heads[0],
        head=heads[-1],
        calls=calls,
        states=states,
    )


def _follow(
    file: EvidenceFile,
    trust_root: TrustRoot,
    rules: RelayRules,
    now: Timestamp | None,
) -> dict[Height, VerifiedHeader]:
    if not file.headers:
        raise HeadersRefusedError("the file has no headers", expected="the trust root")
    if file.chain_id != trust_root.chain_id:
        raise HeadersRefusedError(
            "evidence of another chain", got=file.chain_id, expected=trust_root.chain_id
        )
    _require_ascending((one.signed.header.height for one in file.headers), "headers")
    found: dict[Height, VerifiedHeader] = {}
    relay: ChainRelay | None = None
    for one in file.headers:
        height = one.signed.header.height
        block = file.light_block(one)
        try:
            if relay is None:
                relay = ChainRelay.bootstrap(
                    trust_root, block, rules=rules, now=now, keep=2
                )
                found[height] = relay.head
            else:
                found[height] = relay.skip(block, now=now)
        except SealiftError as error:
            raise HeadersRefusedError(
                f"header {height} does not follow from the trust root ({error.what})",
                got=error.got,
                expected=error.expected,
                hint=error.hint,
            ) from error
    return found


def _header(
    headers: Mapping[Height, VerifiedHeader], height: int, why: str
) -> VerifiedHeader:
    found = headers.get(Height(height))
    if found is None:
        raise HeadersRefusedError(
            f"the file lacks header {height}", expected=f"it, for {why}"
        )
    return found


def _calls_of(
    file: EvidenceFile,
    block: EvidenceBlock,
    headers: Mapping[Height, VerifiedHeader],
) -> tuple[ProvenCall, ...]:
    why = f"block {block.height}"
    header = _header(headers, block.height, why)
    following = _header(headers, block.height + 1, why)
    _require_ascending(
        (one.tx_proof.index for one in block.txs), f"transactions of {why}"
    )
    return tuple(_call_of(file, one, header, following) for one in block.txs)


def _call_of(
    file: EvidenceFile,
    one: EvidenceTx,
    header: VerifiedHeader,
    following: VerifiedHeader,
) -> ProvenCall:
    """One transaction: in the block, successful there, and signed."""
    where = f"transaction {one.tx_proof.index} of block {header.height}"
    if (one.tx_proof.index, one.tx_proof.total) != (
        one.result_proof.index,
        one.result_proof.total,
    ):
        raise InclusionError(
            f"{where} comes with another one's result",
            got=f"{one.result_proof.index} of {one.result_proof.total}",
            expected=f"{one.tx_proof.index} of {one.tx_proof.total}",
        )
    try:
        verify_leaf(header.header.data_hash, tx_hash(one.tx), one.tx_proof)
        verify_leaf(
            following.header.last_results_hash,
            encode_tx_result(one.result),
            one.result_proof,
        )
        signed = canonical_decode(Transaction, one.tx)
        body = signed.body
        body.verify(body.signer, signed.signature)
        kind = CALLS.get(body.call)
        call = None if kind is None else decode(kind, body.args)
        events = _events_of(one.result.data)
    except SealiftError as error:
        raise InclusionError(
            f"{where} is not proven ({error.what})",
            got=error.got,
            expected=error.expected,
        ) from error
    if body.chain_id != file.chain_id or one.result.code != 0 or call is None:
        raise InclusionError(
            f"{where} is none that took effect on a shard here",
            got=f"{body.call[:64]!r} on {body.chain_id}, code {one.result.code}",
            expected=f"code 0, on {file.chain_id}",
        )
    return ProvenCall(
        height=header.height,
        index=one.tx_proof.index,
        time=UnixSeconds(max(header.time.seconds, 0)),
        signer=body.signer,
        call=call,
        events=events,
    )


def _events_of(data: bytes) -> tuple[Happened, ...]:
    emitted = decode(tuple[EmittedEvent, ...], data)
    return tuple(
        decode(EVENTS[one.name], one.data) for one in emitted if one.name in EVENTS
    )


def _state_of(
    state: EvidenceState, headers: Mapping[Height, VerifiedHeader]
) -> bytes | None:
    following = _header(headers, state.height + 1, f"the state after {state.height}")
    try:
        return verify_state(following, state.key, state.value, state.proof).value
    except SealiftError as error:
        raise InclusionError(
            f"a state after block {state.height} is not proven ({error.what})",
            got=error.got,
            expected=error.expected,
        ) from error


def _require_ascending(numbers: Iterable[int], what: str) -> None:
    before = -1
    for number in numbers:
        if number <= before:
            raise InclusionError(
                f"{what} do not ascend", got=number, expected=f"> {before}"
            )
        before = number
