"""The DCAP vectors, parsed once, and a policy that accepts anything genuine."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sealift.attestation import (
    Collateral,
    TrustAnchor,
    parse_collateral,
    parse_trust_anchor,
)


@dataclass(frozen=True)
class Case:
    """One case of the DCAP vectors, with its files."""

    id: str
    now: int
    strict: str
    advisories: tuple[str, ...]
    quote: bytes
    collateral_json: bytes
    root: bytes

    @property
    def collateral(self) -> Collateral:
        return parse_collateral(self.collateral_json)

    @property
    def anchor(self) -> TrustAnchor:
        return parse_trust_anchor(self.root)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"collateral": self.collateral, "root": self.anchor, "now": self.now}


@pytest.fixture(scope="session")
def case(vectors: Path) -> Callable[[str], Case]:
    """``case(id)``: a DCAP case by its id or the beginning of it."""
    folder = vectors / "dcap"
    raw = json.loads((folder / "cases.json").read_text())
    cases = {
        each["id"]: Case(
            id=each["id"],
            now=each["now"],
            strict=each["strict"],
            advisories=tuple(sorted(each["dcap_qvl_0.7.0"].get("advisories", ()))),
            quote=(folder / each["quote"]).read_bytes(),
            collateral_json=(folder / each["collateral"]).read_bytes(),
            root=(folder / each["root"]).read_bytes(),
        )
        for each in raw
    }

    def find(start: str) -> Case:
        (found,) = (name for name in cases if name.startswith(start))
        return cases[found]

    return find


@dataclass(frozen=True)
class Lenient:
    """A policy that accepts every status; tests narrow it."""

    accepted_tcb_statuses: tuple[str, ...] = (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    )
    rejected_advisories: tuple[str, ...] = ()
    min_tcb_evaluation_number: int = 0
    max_age_blocks: int = 100
    not_before: int = 0


@pytest.fixture
def lenient() -> type[Lenient]:
    """The class of the lenient policy."""
    return Lenient
