"""Judging commits: who signed, and how much power that is.

Source: CometBFT v0.38 ``types/validation.go``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sealift.base import Digest
from sealift.crypto import verify_signature

from ._errors import (
    CommitInvalidError,
    DoubleVoteError,
    NotEnoughPowerError,
    NotEnoughTrustError,
    ValidatorSetInvalidError,
)
from ._hashing import VoteTemplate, validators_hash, vote_template
from ._types import (
    FLAG_ABSENT,
    FLAG_COMMIT,
    FLAG_NIL,
    MAX_TOTAL_POWER,
    ZERO_TIME,
    Commit,
    CommitSig,
    ValidatorSet,
)

#: CometBFT's MaxVotesCount.
MAX_VALIDATORS: Final = 10_000
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSet:
    """What one validator set is asked again and again."""

    hash: Digest
    addresses: tuple[bytes, ...]
    index: Mapping[bytes, int]
    total: int


def verify_commit(
    chain_id: str,
    validators: ValidatorSet,
    commit: Commit,
    *,
    all_signatures: bool = False,
    seen: Mapping[int, bytes] | None = None,
) -> None:
    """Return only if more than two thirds of the set decided on the block.

    1. The set is one a chain can have. 2. One signature for each validator.
    3. Each is well formed and at its validator's index. 4. Signatures are
    valid (ZIP-215) over this chain, height, round and block. 5. Their power is
    more than two thirds.

    Signatures past two thirds are not verified, as in CometBFT, unless
    ``all_signatures`` (then also votes for nil are); do not blame or credit a
    validator otherwise.

    Args:
        chain_id: What the signatures must be for.
        validators: The set, in its hashed order.
        commit: The commit; its block id is what is decided.
        all_signatures: Verify every signature that is there.
        seen: Keys whose signature at an index was verified already.

    Raises:
        ValidatorSetInvalidError: 1.
        CommitInvalidError: 2 or 3.
        SignatureInvalidError: 4.
        NotEnoughPowerError: 5.
    """
    # 1.
    prepared = prepare_set(validators)
    # 2. and 3.
    check_commit_form(prepared, commit)
    # 4.
    template = vote_template(chain_id, commit, flag=FLAG_COMMIT)
    against = vote_template(chain_id, commit, flag=FLAG_NIL)
    needed = prepared.total * 2 // 3
    tally = 0
    for index, (sig, validator) in enumerate(
        zip(commit.signatures, validators.validators, strict=True)
    ):
        if sig.flag == FLAG_COMMIT:
            if seen is None or seen.get(index) != validator.public_key:
                _verify_vote(template, sig, validator.public_key, index)
            tally += validator.power
            if tally > needed and not all_signatures:
                return
        elif sig.flag == FLAG_NIL and all_signatures:
            _verify_vote(against, sig, validator.public_key, index)
    # 5.
    if tally <= needed:
        raise NotEnoughPowerError(
            f"commit at {commit.height} lacks power", got=tally, expected=f"> {needed}"
        )


def check_commit_form(prepared: PreparedSet, commit: Commit) -> None:
    """Return only if there is one well-formed signature at each validator's index.

    Raises:
        CommitInvalidError: There is not.
    """
    if len(commit.signatures) != len(prepared.addresses):
        raise CommitInvalidError(
            "not one signature for each validator",
            got=len(commit.signatures),
            expected=len(prepared.addresses),
        )
    for index, sig in enumerate(commit.signatures):
        _check_signature_form(index, sig, prepared.addresses[index])


def verify_trusting(
    chain_id: str, trusted: ValidatorSet, commit: Commit, level: tuple[int, int]
) -> dict[int, bytes]:
    """Verify that the trust level of a set signed, by address; what was verified."""
    prepared = prepare_set(trusted)
    needed = prepared.total * level[0] // level[1]
    template = vote_template(chain_id, commit, flag=FLAG_COMMIT)
    tally = 0
    voted: set[int] = set()
    seen: dict[int, bytes] = {}
    for index, sig in enumerate(commit.signatures):
        at = prepared.index.get(sig.validator_address)
        if sig.flag != FLAG_COMMIT or at is None:
            continue
        if at in voted:
            raise DoubleVoteError(
                "a validator stands twice in the commit", got=sig.validator_address
            )
        voted.add(at)
        validator = trusted.validators[at]
        _verify_vote(template, sig, validator.public_key, index)
        seen[index] = validator.public_key
        tally += validator.power
        if tally > needed:
            return seen
    raise NotEnoughTrustError(
        f"too little of the trusted power signed {commit.height}",
        got=tally,
        expected=f"> {needed}",
        hint="Verify a header between first.",
    )


def _check_signature_form(index: int, sig: CommitSig, address: bytes) -> None:
    if sig.flag == FLAG_ABSENT:
        if sig.validator_address or sig.signature or sig.timestamp != ZERO_TIME:
            raise CommitInvalidError(
                f"absent signature {index} is not empty", got=sig.validator_address
            )
    elif sig.flag not in {FLAG_COMMIT, FLAG_NIL}:
        raise CommitInvalidError(
            f"signature {index} has an unknown flag", got=sig.flag, expected="1 … 3"
        )
    elif sig.validator_address != address:
        raise CommitInvalidError(
            f"signature {index} is not at its validator's index",
            got=sig.validator_address,
            expected=address,
        )
    elif len(sig.signature) != _SIGNATURE_BYTES:
        raise CommitInvalidError(
            f"signature {index} has a wrong length",
            got=len(sig.signature),
            expected=_SIGNATURE_BYTES,
        )


def _verify_vote(
    template: VoteTemplate, sig: CommitSig, public_key: bytes, index: int
) -> None:
    verify_signature(
        public_key,
        template.sign_bytes(sig.timestamp),
        sig.signature,
        what=f"vote {index}",
    )


@lru_cache(maxsize=4)
def prepare_set(validators: ValidatorSet) -> PreparedSet:
    """Hash, addresses and power of a set; refuses one that no chain can have."""
    count = len(validators.validators)
    if not 0 < count <= MAX_VALIDATORS:
        raise ValidatorSetInvalidError(
            "validator set is empty or too long",
            got=count,
            expected=f"1 … {MAX_VALIDATORS}",
        )
    addresses = tuple(one.address for one in validators.validators)
    index = {address: at for at, address in enumerate(addresses)}
    if len(index) != count:
        raise ValidatorSetInvalidError(
            "a validator stands twice in the set", got=count, expected=len(index)
        )
    total = validators.total_power
    if any(one.power < 0 for one in validators.validators) or not (
        0 < total <= MAX_TOTAL_POWER
    ):
        raise ValidatorSetInvalidError(
            "voting power out of bounds", got=total, expected=f"1 … {MAX_TOTAL_POWER}"
        )
    return PreparedSet(
        hash=validators_hash(validators), addresses=addresses, index=index, total=total
    )
