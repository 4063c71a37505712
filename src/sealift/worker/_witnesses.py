"""Witnesses of L1: other nodes whose chain is compared with the enclave's.

The enclave sees the one chain that its host brings. Whoever wants a fork to be
seen names nodes of others: their headers are compared with those that the enclave
has verified, and what differs is shown to the enclave, which judges. A witness
that lies, lags or is down is named and stops nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from sealift.base import Digest, Height, SealiftError, encode
from sealift.protocol.ecall import ChainEvidence, ShowConflict
from sealift.relay import LightBlock, header_hash
from sealift.transport.rpc import L1Client

from ._channel import EnclaveChannel
from ._errors import EnclaveGoneError, EnclaveRefusedError
from ._follower import Follower
from ._forks import ForkKeeper

#: So many independent witnesses see a fork that one of them hides.
ENOUGH: Final = 2
#: Seconds between two looks at a witness, at least.
LOOK_SECONDS: Final = 1.0
#: Seconds after which a witness is as good as down.
PATIENCE_SECONDS: Final = 10.0

State: TypeAlias = Literal["unknown", "agrees", "behind", "unreachable", "conflict"]


class WitnessSource(Protocol):
    """What is asked of a witness; nothing of it is trusted."""

    async def height(self) -> Height:
        """Its newest block."""

    async def header_hash(self, height: Height) -> Digest:
        """The hash of its header at a height."""

    async def light_block(self, height: Height) -> LightBlock:
        """Header, commit and validators of a height."""


class RpcWitness:
    """An L1 node as a witness.

    Args:
        client: Its RPC client; one that gives up soon.
    """

    def __init__(self, client: L1Client) -> None:
        self._client = client

    async def height(self) -> Height:
        """Its newest block."""
        return await self._client.height()

    async def header_hash(self, height: Height) -> Digest:
        """The hash of its header at a height."""
        found = await self._client.commit(height)
        return header_hash(found.signed_header.header)

    async def light_block(self, height: Height) -> LightBlock:
        """Header, commit and validators of a height."""
        return await self._client.light_block(height)


@dataclass(slots=True, kw_only=True)
class WitnessStanding:
    """How a witness stands, for status and metrics.

    ``conflict``: it shows another chain, and the enclave has not found that the
    validators decided on it. ``behind``: its blocks are ours, as far as it has
    any; ``unknown``: it was not compared yet.
    """

    url: str
    state: State = "unknown"
    height: int = 0
    detail: str = ""

    def describe(self) -> dict[str, object]:
        """For people and programs."""
        return {
            "url": self.url,
            "state": self.state,
            "height": self.height,
            "detail": self.detail,
        }


def few_witnesses(count: int) -> str:
    """What an operator should know of so many witnesses; empty: nothing."""
    if count >= ENOUGH:
        return ""
    named = "no witness of L1 is named" if not count else "one witness of L1 is named"
    return (
        f"{named}: a forked chain may stay unseen. Name at least {ENOUGH} nodes of "
        "others with --witness, or under [l1] witnesses"
    )


class Witnesses:
    """Compares witnesses with what the enclave has verified.

    Args:
        channel: The enclave.
        follower: Knows the headers that the enclave verified.
        witnesses: By their standing.
        forks: Keeps the evidence.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        follower: Follower,
        witnesses: Mapping[str, WitnessSource],
        standings: tuple[WitnessStanding, ...],
        forks: ForkKeeper,
    ) -> None:
        self._channel = channel
        self._follower = follower
        self._sources = witnesses
        self._standings = standings
        self._forks = forks

    async def run(self) -> None:
        """Compare for ever; ends only by a fork.

        Raises:
            EnclaveGoneError: The chain has forked; the evidence is kept.
        """
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Compare every witness once.

        Raises:
            EnclaveGoneError: The chain has forked; the evidence is kept.
        """
        await asyncio.gather(*(self._look_at(one) for one in self._standings))

    async def _look_at(self, standing: WitnessStanding) -> None:
        source = self._sources[standing.url]
        verified = dict(self._follower.verified)
        if not verified:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._compare(standing, source, verified)
        except EnclaveGoneError:
            raise
        except TimeoutError:
            standing.state = "unreachable"
            standing.detail = f"no answer within {PATIENCE_SECONDS:.0f} s"
        except SealiftError as error:
            standing.state = "unreachable"
            standing.detail = str(error)

    async def _compare(
        self,
        standing: WitnessStanding,
        source: WitnessSource,
        verified: dict[Height, Digest],
    ) -> None:
        top = max(verified)
        standing.height = theirs = await source.height()
        common = [height for height in verified if height <= theirs]
        if not common:
            standing.state = "behind"
            standing.detail = f"it has {theirs}, the enclave verified from {top} on"
            return
        newest = max(common)
        if await source.header_hash(newest) == verified[newest]:
            standing.state = "agrees" if newest == top else "behind"
            standing.detail = (
                "" if newest == top else f"{top - newest} blocks behind the enclave"
            )
            return
        heights = sorted(common)
        first = await self._first_other(source, heights, verified)
        await self._show(standing, source, heights, first)

    async def _first_other(
        self,
        source: WitnessSource,
        heights: list[Height],
        verified: dict[Height, Digest],
    ) -> int:
        """Index of the first height where the witness has another header."""
        low, high = 0, len(heights) - 1
        while low < high:
            middle = (low + high) // 2
            height = heights[middle]
            if await source.header_hash(height) == verified[height]:
                low = middle + 1
            else:
                high = middle
        return low

    async def _show(
        self,
        standing: WitnessStanding,
        source: WitnessSource,
        heights: list[Height],
        first: int,
    ) -> None:
        """Let the enclave judge: the first other header alone, then by a path."""
        other = await source.light_block(heights[first])
        paths: list[tuple[bytes, ...]] = [(encode(other),)]
        if first:
            common = await source.light_block(heights[first - 1])
            paths.append((encode(common), encode(other)))
        standing.state = "conflict"
        refusal = ""
        for path in paths:
            try:
                judged = await self._channel.call(
                    ShowConflict(theirs=path), ChainEvidence
                )
            except EnclaveRefusedError as error:
                refusal = str(error)
                continue
            if judged.evidence is None:
                standing.state, standing.detail = "agrees", ""
                return
            await self._forks.keep(judged)
            raise self._forks.stopped()
        standing.detail = (
            f"it shows another header {heights[first]}, which the validators did not "
            f"decide on: {refusal}"
        )
