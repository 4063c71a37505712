"""Several nodes: one serves, the others are witnesses of the same chain."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from sealift.base import Height
from sealift.client._chain import ProvenChain
from sealift.relay import ForkDetectedError, RpcRemoteError, Timestamp, header_hash
from sealift.relay.rpc import CommitResult
from sealift.testing import HeaderChain
from sealift.transport.rpc import NodeUnreachableError

TRUE = HeaderChain(length=40, validators=4)
OTHER = HeaderChain(length=40, validators=4, branch="other", branch_at=15)


class Node:
    """An L1 node with a chain up to a height."""

    def __init__(self, chain: HeaderChain, top: int = 30) -> None:
        self.chain, self.top = chain, top
        self.down = self.unsigned = self.hangs = False
        self.asked = 0

    async def height(self) -> Height:
        return Height(self.top)

    async def commit(self, height: int) -> CommitResult:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        block = await self.light_block(height)
        return CommitResult(signed_header=block.signed_header, canonical=True)

    async def light_block(self, height: int) -> Any:
        if self.down:
            raise NodeUnreachableError("the node is away")
        if height > self.top:
            raise RpcRemoteError("no such block")
        block = self.chain.light_block(height)
        if self.unsigned:
            honest = TRUE.light_block(height).commit.signatures
            commit = replace(block.commit, signatures=honest)
            return replace(
                block, signed_header=replace(block.signed_header, commit=commit)
            )
        return block


class Clock:
    """Right after the chain's last block."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> Timestamp:
        return TRUE.header(40).time.plus(seconds=1)

    def monotonic(self) -> float:
        return self.passed


def chain_of(*nodes: Node) -> tuple[ProvenChain, Clock]:
    clock = Clock()
    made: Any = list(nodes)
    return ProvenChain(TRUE.trust_root(), made, clock=clock), clock


def follow(chain: ProvenChain, to: int | None = None) -> Any:
    return asyncio.run(chain.follow(None if to is None else Height(to)))


def test_a_witness_that_agrees() -> None:
    witness = Node(TRUE)
    chain, _ = chain_of(Node(TRUE), witness)
    assert follow(chain).height == 30
    assert witness.asked == 1


def test_a_second_chain_ends_every_reading() -> None:
    chain, _ = chain_of(Node(TRUE), Node(TRUE), Node(OTHER))
    with pytest.raises(ForkDetectedError, match="forked"):
        follow(chain)
    for _ in range(2):
        with pytest.raises(ForkDetectedError):
            asyncio.run(chain.block_hash(Height(20)))


def test_whoever_serves_is_compared_with_the_witnesses() -> None:
    """The node that is asked first is the one that lies."""
    chain, _ = chain_of(Node(OTHER), Node(TRUE))
    with pytest.raises(ForkDetectedError):
        follow(chain)


@pytest.mark.parametrize("fault", ["down", "unsigned", "behind", "hangs"])
def test_a_witness_that_is_no_help_ends_nothing(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.client._chain._WITNESS_SECONDS", 0.05)
    witness = Node(OTHER if fault == "unsigned" else TRUE)
    witness.down = fault == "down"
    witness.unsigned = fault == "unsigned"
    witness.hangs = fault == "hangs"
    witness.top = 10 if fault == "behind" else 30
    serving = Node(TRUE)
    chain, clock = chain_of(serving, witness)
    assert follow(chain).height == 30
    serving.top = 35
    assert follow(chain).header == TRUE.header(35)
    # one that keeps us waiting is left alone for a while
    patient = fault in {"down", "hangs"}
    assert witness.asked == (1 if patient else 2)
    clock.passed = 100.0
    serving.top = 36
    follow(chain)
    assert witness.asked == (2 if patient else 3)


def test_a_second_chain_under_other_validators() -> None:
    """Seen from the last header that both have, not from the head alone."""

    class Lunatic(HeaderChain):
        def validators(self, height: int) -> Any:
            own = super().validators(height)
            return own if height < 32 else self._set(1)

    liar = Node(Lunatic(length=40, validators=4, every=0))
    liar.top = 40
    serving = Node(TRUE, 30)
    chain, _ = chain_of(serving, liar)
    assert follow(chain).height == 30
    serving.top = 36
    assert header_hash(liar.chain.header(36)) != header_hash(TRUE.header(36))
    with pytest.raises(ForkDetectedError):
        follow(chain)
