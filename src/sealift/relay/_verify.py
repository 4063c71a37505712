"""Judging headers: the rules of CometBFT's ``light/verifier.go``, v0.38.

The caller owes: a trust root from a place it trusts; the same rules for every
step of one relay; and, if it has a clock, ``now``. Without a clock the
trusting period is the longest jump between two verified headers (DESIGN §5).
"""

from typing import Annotated, Final

import msgspec

from sealift.base import Message

from ._commit import (
    PreparedSet,
    check_commit_form,
    prepare_set,
    verify_commit,
    verify_trusting,
)
from ._errors import (
    ChainIdMismatchError,
    CommitInvalidError,
    HeaderFromFutureError,
    HeaderInvalidError,
    HeightError,
    NotEnoughTrustError,
    TimeNotMonotonicError,
    TrustExpiredError,
    TrustRootMismatchError,
    ValidatorSetMismatchError,
)
from ._hashing import header_hash, validators_hash
from ._types import (
    ADDRESS_BYTES,
    BLOCK_PROTOCOL,
    Header,
    LightBlock,
    Timestamp,
    TrustRoot,
    ValidatorSet,
)
from ._verified import SEAL, VerifiedHeader

_HASH_BYTES: Final = 32
_MAX_CHAIN_ID: Final = 50


class RelayRules(Message, kw_only=True):
    """How long trust lasts and how much of it a skip needs.

    ``trusting_period`` and ``clock_drift`` are seconds; the trust level is a
    fraction from 1/3 to 1.
    """

    trusting_period: Annotated[int, msgspec.Meta(gt=0, le=2**40)]
    clock_drift: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 10
    trust_numerator: Annotated[int, msgspec.Meta(gt=0, le=2**16)] = 1
    trust_denominator: Annotated[int, msgspec.Meta(gt=0, le=2**16)] = 3


#: By which a relay without a clock goes. The trusting period is the longest jump;
#: it is long, because a quiet laptop must find its chain again. A skip needs as
#: much of the trusted power as following does, more than two thirds: whoever can
#: lead such a relay astray over a gap could also do it header by header.
CLOCKLESS_RULES: Final = RelayRules(
    trusting_period=180 * 24 * 3600, trust_numerator=2, trust_denominator=3
)


def verify_root(
    trust_root: TrustRoot,
    block: LightBlock,
    *,
    rules: RelayRules,
    now: Timestamp | None,
) -> VerifiedHeader:
    """The header that the trust root names.

    1. Height, chain and hash are the root's. 2. If there is a clock: within
    the trusting period, and not from the future. 3. Its own validators decided
    on it.

    Raises:
        TrustRootMismatchError: 1.
        TrustExpiredError: 2.
        HeaderFromFutureError: 2.
        SealiftError: 3, as :func:`verify_commit` and the header's own rules.
    """
    header = block.header
    # 1.
    digest = header_hash(header)
    if (header.chain_id, header.height, digest) != (
        trust_root.chain_id,
        trust_root.height,
        trust_root.header_hash,
    ):
        raise TrustRootMismatchError(
            "not the block of the trust root",
            got=f"{header.chain_id} {header.height} {digest.hex()}",
            expected=f"{trust_root.chain_id} {trust_root.height} "
            f"{trust_root.header_hash.hex()}",
        )
    # 2.
    if now is not None:
        _check_not_expired(header.time, rules, now)
        _check_not_future(header.time, rules, now)
    # 3.
    _check_block(block, trust_root.chain_id, digest)
    verify_commit(trust_root.chain_id, block.validators, block.commit)
    return VerifiedHeader(seal=SEAL, header=header, hash=digest)


def verify_adjacent(
    trusted: VerifiedHeader,
    block: LightBlock,
    *,
    rules: RelayRules,
    now: Timestamp | None,
    all_signatures: bool = False,
) -> VerifiedHeader:
    """The header right after a trusted one.

    1. The next height. 2. Later; without a clock, by no more than the trusting
    period; with one, trust has not expired and the header is not from the future.
    3. Same chain; header, commit and validators name each other. 4. The
    validators are those that the trusted header announced. 5. More than two
    thirds of their power signed.

    Args:
        trusted: Verified before.
        block: What the host brought.
        rules: The relay's rules.
        now: The clock, where there is one.
        all_signatures: Whether also signatures beyond two thirds are verified.

    Raises:
        HeightError: 1.
        TimeNotMonotonicError: 2.
        TrustExpiredError: 2.
        HeaderFromFutureError: 2.
        SealiftError: 3, as the header's and commit's own rules.
        ValidatorSetMismatchError: 4.
        SealiftError: 5, as :func:`verify_commit`.
    """
    header = block.header
    # 1.
    if header.height != trusted.height + 1:
        raise HeightError(
            "not the next header", got=header.height, expected=trusted.height + 1
        )
    # 2.
    _check_time(trusted, header, rules, now)
    # 3.
    digest = header_hash(header)
    _check_block(block, trusted.chain_id, digest)
    # 4.
    if header.validators_hash != trusted.header.next_validators_hash:
        raise ValidatorSetMismatchError(
            f"validators of {header.height} are not those announced",
            got=header.validators_hash,
            expected=trusted.header.next_validators_hash,
        )
    # 5.
    verify_commit(
        trusted.chain_id,
        block.validators,
        block.commit,
        all_signatures=all_signatures,
    )
    return VerifiedHeader(seal=SEAL, header=header, hash=digest)


def verify_skipping(
    trusted: VerifiedHeader,
    next_validators: ValidatorSet,
    block: LightBlock,
    *,
    rules: RelayRules,
    now: Timestamp | None,
    all_signatures: bool = False,
) -> VerifiedHeader:
    """A later header, vouched for by enough of the trusted next validators.

    1. A later height (the next one: :func:`verify_adjacent`). 2. and 3. as
    there. 4. ``next_validators`` are those the trusted header announced.
    5. More than the trust level of their power signed, each once. 6. The commit
    has the form that its own set asks for, and more than two thirds of that set's
    power signed.

    Raises:
        HeightError: 1.
        SealiftError: 2, 3 and 6, as :func:`verify_adjacent`.
        ValidatorSetMismatchError: 4.
        CommitInvalidError: 3 or 6.
        NotEnoughTrustError: 5; a header between may help.
        DoubleVoteError: 5.
        SignatureInvalidError: 5 or 6.
    """
    header = block.header
    # 1.
    if header.height == trusted.height + 1:
        return verify_adjacent(
            trusted, block, rules=rules, now=now, all_signatures=all_signatures
        )
    if header.height <= trusted.height:
        raise HeightError(
            "not a later header", got=header.height, expected=f"> {trusted.height}"
        )
    # 2.
    _check_time(trusted, header, rules, now)
    # 3.
    digest = header_hash(header)
    prepared = _check_block(block, trusted.chain_id, digest)
    # 4.
    if prepare_set(next_validators).hash != trusted.header.next_validators_hash:
        raise ValidatorSetMismatchError(
            f"not the next validators of {trusted.height}",
            got=validators_hash(next_validators),
            expected=trusted.header.next_validators_hash,
        )
    # 5.
    try:
        seen = verify_trusting(
            trusted.chain_id,
            next_validators,
            block.commit,
            (rules.trust_numerator, rules.trust_denominator),
        )
    except NotEnoughTrustError:
        # A malformed commit is refused: no header between would mend it.
        check_commit_form(prepared, block.commit)
        raise
    # 6.
    verify_commit(
        trusted.chain_id,
        block.validators,
        block.commit,
        all_signatures=all_signatures,
        seen=seen,
    )
    return VerifiedHeader(seal=SEAL, header=header, hash=digest)


def verify_step(
    trusted: Header,
    next_validators: ValidatorSet,
    block: LightBlock,
    *,
    rules: RelayRules,
    now: Timestamp | None,
) -> VerifiedHeader:
    """One step from a header that the caller **declares** trusted.

    For people and tests that judge single steps; a relay goes from what it has
    verified itself. 1. The trusted header keeps the stateless rules.
    2. ``next_validators`` are those it announced. 3. :func:`verify_skipping`.

    Raises:
        HeaderInvalidError: 1.
        ValidatorSetMismatchError: 2.
        SealiftError: 3, as :func:`verify_skipping`.
    """
    # 1.
    check_header(trusted)
    # 2.
    if prepare_set(next_validators).hash != trusted.next_validators_hash:
        raise ValidatorSetMismatchError(
            f"not the next validators of {trusted.height}",
            got=validators_hash(next_validators),
            expected=trusted.next_validators_hash,
        )
    # 3.
    start = VerifiedHeader(seal=SEAL, header=trusted, hash=header_hash(trusted))
    return verify_skipping(start, next_validators, block, rules=rules, now=now)


def check_header(header: Header) -> None:
    """Return only if the header keeps CometBFT's stateless rules.

    Raises:
        HeaderInvalidError: It does not.
    """
    if header.version.block != BLOCK_PROTOCOL:
        raise HeaderInvalidError(
            "unknown block protocol", got=header.version.block, expected=BLOCK_PROTOCOL
        )
    if not 1 <= len(header.chain_id) <= _MAX_CHAIN_ID or header.height < 1:
        raise HeaderInvalidError(
            "chain id or height out of bounds",
            got=f"{header.chain_id[:60]} {header.height}",
            expected=f"1 … {_MAX_CHAIN_ID} characters, height ≥ 1",
        )
    hashes = (
        header.last_block_id.hash,
        header.last_block_id.parts.hash,
        header.last_commit_hash,
        header.data_hash,
        header.validators_hash,
        header.next_validators_hash,
        header.consensus_hash,
        header.last_results_hash,
        header.evidence_hash,
    )
    if any(len(one) not in {0, _HASH_BYTES} for one in hashes):
        raise HeaderInvalidError(
            "a hash of the header has a wrong length", expected="0 or 32 bytes"
        )
    if len(header.proposer_address) != ADDRESS_BYTES:
        raise HeaderInvalidError(
            "proposer is no address", got=header.proposer_address, expected="20 bytes"
        )


def check_decided(block: LightBlock, own: VerifiedHeader, digest: bytes) -> None:
    """Return only if the validators of a verified header decided on this block too.

    The block's own claims of time and validators do not matter, only who
    signed it: that is what makes a fork.

    Args:
        block: What contradicts.
        own: The verified header of the same height.
        digest: The block's header hash.

    Raises:
        ChainIdMismatchError: It is of another chain.
        ValidatorSetMismatchError: It brings another set.
        SealiftError: As the commit's rules and :func:`verify_commit`.
    """
    check_header(block.header)
    _check_chain(block.header, own.chain_id)
    _check_commit(block, digest)
    if prepare_set(block.validators).hash != own.header.validators_hash:
        raise ValidatorSetMismatchError(
            f"not the validators of height {own.height}",
            got=validators_hash(block.validators),
            expected=own.header.validators_hash,
        )
    verify_commit(own.chain_id, block.validators, block.commit)


def _check_chain(header: Header, chain_id: str) -> None:
    if header.chain_id != chain_id:
        raise ChainIdMismatchError(
            "header of another chain", got=header.chain_id, expected=chain_id
        )


def _check_block(block: LightBlock, chain_id: str, digest: bytes) -> PreparedSet:
    header = block.header
    check_header(header)
    _check_chain(header, chain_id)
    _check_commit(block, digest)
    prepared = prepare_set(block.validators)
    if prepared.hash != header.validators_hash:
        raise ValidatorSetMismatchError(
            f"not the validators of header {header.height}",
            got=validators_hash(block.validators),
            expected=header.validators_hash,
        )
    return prepared


def _check_commit(block: LightBlock, digest: bytes) -> None:
    commit = block.commit
    if commit.height != block.header.height or commit.round < 0:
        raise CommitInvalidError(
            "commit of another height",
            got=commit.height,
            expected=block.header.height,
        )
    if commit.block_id.hash != digest:
        raise CommitInvalidError(
            "commit of another header", got=commit.block_id.hash, expected=digest
        )
    if (
        len(commit.block_id.parts.hash) != _HASH_BYTES
        or commit.block_id.parts.total < 1
    ):
        raise CommitInvalidError(
            "commit names no parts",
            got=commit.block_id.parts.hash,
            expected="32 bytes, at least one part",
        )


def _check_time(
    trusted: VerifiedHeader, header: Header, rules: RelayRules, now: Timestamp | None
) -> None:
    if header.time <= trusted.time:
        raise TimeNotMonotonicError(
            f"header {header.height} is not later than {trusted.height}",
            got=_seconds(header.time),
            expected=f"> {_seconds(trusted.time)}",
        )
    if now is None and header.time > trusted.time.plus(seconds=rules.trusting_period):
        raise TrustExpiredError(
            f"from header {trusted.height} to {header.height} is too long a jump",
            got=f"{_seconds(header.time)} after {_seconds(trusted.time)}",
            expected=f"≤ {rules.trusting_period} s",
        )
    if now is not None:
        _check_not_expired(trusted.time, rules, now)
        _check_not_future(header.time, rules, now)


def _check_not_expired(time: Timestamp, rules: RelayRules, now: Timestamp) -> None:
    if time.plus(seconds=rules.trusting_period) <= now:
        raise TrustExpiredError(
            "what is trusted is too old",
            got=f"{_seconds(time)} at {_seconds(now)}",
            expected=f"at most {rules.trusting_period} s ago",
            hint="Take a newer trust root from a place you trust.",
        )


def _check_not_future(time: Timestamp, rules: RelayRules, now: Timestamp) -> None:
    if time >= now.plus(seconds=rules.clock_drift):
        raise HeaderFromFutureError(
            "header is from the future",
            got=_seconds(time),
            expected=f"< {_seconds(now)} + {rules.clock_drift} s",
        )


def _seconds(time: Timestamp) -> str:
    return f"{time.seconds}.{time.nanos:09d}"
