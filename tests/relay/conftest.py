"""Real chain data, read once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sealift.relay import LightBlock, SignedHeader, ValidatorSet
from sealift.relay.rpc import (
    COMMIT,
    COMMIT_RESULT,
    HEADER,
    VALIDATOR_SET,
    VALIDATORS,
    parse_reply,
)


@pytest.fixture(scope="session")
def tendermint_rs(vectors: Path) -> Path:
    return vectors / "cometbft" / "informalsystems-tendermint-rs"


@pytest.fixture(scope="session")
def celestia(vectors: Path) -> Path:
    return vectors / "cometbft" / "succinctlabs-tendermintx"


@pytest.fixture(scope="session")
def mainnet_block(celestia: Path) -> LightBlock:
    """Celestia mainnet, height 3001, 100 validators."""
    folder = celestia / "celestia" / "3001"
    commit = COMMIT_RESULT.parse(
        parse_reply((folder / "commit.json").read_bytes()).open()
    )
    page = VALIDATORS.parse(
        parse_reply((folder / "validators_1.json").read_bytes()).open()
    )
    return LightBlock(signed_header=commit.signed_header, validators=page.validators)


@pytest.fixture(scope="session")
def mocha(celestia: Path) -> Callable[[int], LightBlock]:
    """Celestia's testnet mocha-4 by height."""

    def load(height: int) -> LightBlock:
        data = json.loads(
            (celestia / "mocha-4" / str(height) / "signed_block.json").read_bytes()
        )
        data = data.get("result", data)
        return LightBlock(
            signed_header=SignedHeader(
                header=HEADER.parse(data["header"]), commit=COMMIT.parse(data["commit"])
            ),
            validators=VALIDATOR_SET.parse(data["validator_set"]["validators"]),
        )

    return load


@pytest.fixture(scope="session")
def empty_set() -> ValidatorSet:
    return ValidatorSet(validators=())
