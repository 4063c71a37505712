"""Evidence of a fork in the form of CometBFT's ``LightClientAttackEvidence``.

Source: CometBFT v0.38 ``types/evidence.go``: which validators are to blame, and
by which height's set, depends on whether the other header was made by the rules
(equivocation, amnesia) or not (lunatic).
"""

from typing import Final

from sealift.relay._types import (
    FLAG_COMMIT,
    Commit,
    ForkEvidence,
    Header,
    LightBlock,
    Validator,
    ValidatorSet,
)

from ._chain import HEADER, VALIDATOR
from ._light import LIGHT_BLOCK
from ._shapes import TIME, many

#: Its name in the home of a worker whose enclave has seen a fork.
EVIDENCE_FILE: Final = "fork_evidence.json"


def render_attack(
    evidence: ForkEvidence, *, trusted: LightBlock | None, common: LightBlock | None
) -> dict[str, object]:
    """A fork as JSON: CometBFT's evidence, and beside it what was trusted.

    Args:
        evidence: What a relay has kept; proven.
        trusted: The light block of the trusted header, with its commit, if at
            hand. Not proven: whoever reads it verifies it.
        common: The light block of the last header that both chains have, or are
            to have, likewise.
    """
    if trusted is not None and trusted.header != evidence.trusted:
        trusted = None
    lunatic = is_lunatic(evidence.trusted, evidence.conflicting.header)
    if lunatic:
        height = (
            evidence.trusted.height - 1
            if evidence.common is None
            else evidence.common.height
        )
        known = common if common and common.header.height == height else None
        base = None if known is None else known.validators
        time = evidence.trusted.time if known is None else known.header.time
    else:
        height = evidence.trusted.height
        base = evidence.conflicting.validators
        time = evidence.trusted.time
    blamed = _blamed(evidence, trusted, base, lunatic=lunatic)
    value: dict[str, object] = {
        "conflicting_block": LIGHT_BLOCK.render(evidence.conflicting),
        "common_height": str(height),
        "byzantine_validators": many(VALIDATOR).render(blamed),
        "total_voting_power": str(0 if base is None else base.total_power),
        "timestamp": TIME.render(time),
    }
    return {
        "type": "tendermint/LightClientAttackEvidence",
        "value": value,
        "trusted_header": HEADER.render(evidence.trusted),
        "trusted_block": None if trusted is None else LIGHT_BLOCK.render(trusted),
        "common_block": None if common is None else LIGHT_BLOCK.render(common),
    }


def is_lunatic(trusted: Header, other: Header) -> bool:
    """Whether the other header is not what executing the chain makes of it."""
    return any(
        getattr(trusted, name) != getattr(other, name)
        for name in (
            "validators_hash",
            "next_validators_hash",
            "consensus_hash",
            "app_hash",
            "last_results_hash",
        )
    )


def _blamed(
    evidence: ForkEvidence,
    trusted: LightBlock | None,
    base: ValidatorSet | None,
    *,
    lunatic: bool,
) -> tuple[Validator, ...]:
    """Who provably did wrong: of the common set, or who signed both in one round."""
    if base is None:
        return ()
    commit = evidence.conflicting.commit
    signed = _signers(commit)
    if lunatic:
        return tuple(one for one in base.validators if one.address in signed)
    if trusted is None or trusted.commit.round != commit.round:
        return ()  # amnesia: nobody can be named
    both = signed & _signers(trusted.commit)
    return tuple(one for one in base.validators if one.address in both)


def _signers(commit: Commit) -> frozenset[bytes]:
    return frozenset(
        sig.validator_address for sig in commit.signatures if sig.flag == FLAG_COMMIT
    )
