"""Informal Systems' model-based steps; driver rules as upstream's."""

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from sealift.base import SealiftError
from sealift.relay import (
    FLAG_ABSENT,
    ZERO_TIME,
    LightBlock,
    NotEnoughTrustError,
    RelayRules,
    SignedHeader,
    ValidatorSet,
    VerifiedHeader,
    header_hash,
    rpc,
    verify_skipping,
)
from sealift.relay._verified import SEAL


def renamed(value: Any) -> Any:
    """The fixtures' older name of a block id's parts."""
    if isinstance(value, dict):
        return {
            "parts" if key == "part_set_header" else key: renamed(item)
            for key, item in value.items()
        }
    return [renamed(item) for item in value] if isinstance(value, list) else value


def signed_header(data: Any) -> SignedHeader:
    found = SignedHeader(
        header=rpc.HEADER.parse(renamed(data["header"])),
        commit=rpc.COMMIT.parse(renamed(data["commit"])),
    )
    # These files write 1970 where Go writes its zero time.
    sigs = tuple(
        replace(sig, timestamp=ZERO_TIME) if sig.flag == FLAG_ABSENT else sig
        for sig in found.commit.signatures
    )
    return replace(found, commit=replace(found.commit, signatures=sigs))


def validators(data: Any) -> ValidatorSet:
    return ValidatorSet.sorted(
        tuple(rpc.VALIDATOR.parse(one) for one in data["validators"])
    )


def run(path: Path) -> list[tuple[str, str]]:
    """Expected and actual verdict of each step."""
    test = json.loads(path.read_bytes())
    start = test["initial"]
    initial = signed_header(start["signed_header"])
    rules = RelayRules(
        trusting_period=int(start["trusting_period"]) // 1_000_000_000, clock_drift=0
    )
    trusted_next = validators(start["next_validator_set"])
    # The files only declare the first header to be trusted.
    header = initial.header
    trusted = VerifiedHeader(seal=SEAL, header=header, hash=header_hash(header))
    verdicts: list[tuple[str, str]] = []
    for step in test["input"]:
        block = LightBlock(
            signed_header=signed_header(step["block"]["signed_header"]),
            validators=validators(step["block"]["validator_set"]),
        )
        now = rpc.TIME.parse(step["now"])
        try:
            verified = verify_skipping(
                trusted, trusted_next, block, rules=rules, now=now
            )
        except NotEnoughTrustError:
            verdict = "NOT_ENOUGH_TRUST"
        except SealiftError:
            verdict = "INVALID"
        else:
            verdict = "SUCCESS"
            trusted = verified
            trusted_next = validators(step["block"]["next_validator_set"])
        verdicts.append((step["verdict"], verdict))
    return verdicts


def test_all_steps(tendermint_rs: Path) -> None:
    verdicts: list[tuple[str, str]] = []
    for path in sorted((tendermint_rs / "model_based_single_step").glob("*.json")):
        found = run(path)
        assert [theirs for theirs, _ in found] == [ours for _, ours in found], path.name
        verdicts += found
    assert len(verdicts) >= 81
    assert {ours for _, ours in verdicts} == {"SUCCESS", "NOT_ENOUGH_TRUST", "INVALID"}
