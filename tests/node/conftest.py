"""A chain of a toy application, in memory or on disk."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from node_kv import KvApplication

from sealift.base import ChainId
from sealift.crypto import account_of
from sealift.node import DurableChain, solo_validators
from sealift.relay import Timestamp
from sealift.relay.rpc import GenesisDoc

SECRET = bytes(range(32))
START = Timestamp(seconds=1_700_000_000, nanos=123_456_789)


@pytest.fixture
def genesis() -> GenesisDoc:
    return GenesisDoc(
        genesis_time=START,
        chain_id=ChainId("solo-test"),
        validators=solo_validators(account_of(SECRET)),
        app_state=b'{"alpha": "1", "beta": "2"}',
    )


@pytest.fixture
def make_chain(genesis: GenesisDoc) -> Iterator[Callable[..., DurableChain]]:
    made: list[DurableChain] = []

    def make(
        path: Path | None = None, application: KvApplication | None = None
    ) -> DurableChain:
        chain = DurableChain.create(
            path,
            genesis=genesis,
            secret=SECRET,
            application=application or KvApplication(),
        )
        made.append(chain)
        return chain

    yield make
    for chain in made:
        chain.close()


@pytest.fixture
def open_chain(genesis: GenesisDoc) -> Iterator[Callable[[Path], DurableChain]]:
    made: list[DurableChain] = []

    def reopen(path: Path) -> DurableChain:
        chain = DurableChain.open(
            path, genesis=genesis, secret=SECRET, application=KvApplication()
        )
        made.append(chain)
        return chain

    yield reopen
    for chain in made:
        chain.close()
