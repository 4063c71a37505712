"""Bringing an enclave over a long gap that is not its to execute."""

from typing import Final

from sealift.base import Height, ShardId, canonical_decode, encode
from sealift.protocol import Frontier, frontier_key, keys_key
from sealift.protocol.ecall import SkipTo
from sealift.relay import (
    CLOCKLESS_RULES,
    ChainRelay,
    HeaderNotKeptError,
    LightBlock,
    TrustRoot,
    header_hash,
)
from sealift.transport.bisection import bisect_with

from ._feed import BlockFeed, L1Source

#: Shorter gaps are followed: a few blocks cost less than finding a path.
LONG_GAP: Final = 256
#: Most bytes of light blocks in one request; a longer way is gone in parts.
MAX_PATH_BYTES: Final = 32 * 1024 * 1024


class SkipPlanner:
    """Finds the headers that an enclave needs to go on after a gap.

    Args:
        l1: The node; nothing of it is trusted, and the enclave judges all.
        feed: Proves what a view is made of.
        shard: Whose worker this is.
    """

    def __init__(self, *, l1: L1Source, feed: BlockFeed, shard: ShardId) -> None:
        self._l1 = l1
        self._feed = feed
        self._shard = shard

    async def plan(self, head: Height, tip: Height) -> tuple[Height, SkipTo] | None:
        """How to go from a verified header over what L1 has confirmed.

        Args:
            head: The enclave's newest header.
            tip: The chain's newest block.

        Returns:
            The block that is skipped to, and the request; ``None``: the gap is
            short, or too little of it is confirmed.

        Raises:
            SealiftError: The node does not answer, or its headers do not verify.
        """
        last = Height(tip - 1)  # the newest state that a header proves
        target = await self._settled(last)
        while target - head > LONG_GAP:
            request = await self._request(head, target, last)
            if sum(map(len, (*request.path, *request.beyond))) <= MAX_PATH_BYTES:
                return target, request
            target = Height((head + target) // 2)
        return None

    async def path_to(self, head: Height, target: Height) -> tuple[bytes, ...]:
        """Encoded light blocks from a verified header to ``target`` and the next.

        Raises:
            SealiftError: The node does not answer, or its headers do not verify.
        """
        relay = await self._relay_at(head, keep=target + 2)
        path = await self._walk(relay, target)
        path += await self._walk(relay, Height(target + 1))
        return tuple(encode(block) for block in path)

    async def _relay_at(self, head: Height, *, keep: int) -> ChainRelay:
        start = await self._l1.light_block(head)
        root = TrustRoot(
            chain_id=start.header.chain_id,
            height=head,
            header_hash=header_hash(start.header),
        )
        return ChainRelay.bootstrap(
            root, start, rules=CLOCKLESS_RULES, now=None, keep=keep
        )

    async def _settled(self, last: Height) -> Height:
        """Up to where nothing is left to execute, by the state after ``last``."""
        raw, _ = await self._l1.prove(frontier_key(self._shard), last)
        if raw is not None:
            return min(canonical_decode(Frontier, raw).confirmed, Height(last - 1))
        born, _ = await self._l1.prove(keys_key(self._shard, 0), last)
        return last if born is None else Height(0)

    async def _request(self, head: Height, target: Height, last: Height) -> SkipTo:
        relay = await self._relay_at(head, keep=last + 1)
        path = await self._walk(relay, target)
        path += await self._walk(relay, Height(target + 1))
        beyond: list[LightBlock] = []
        proofs = await self._feed.view_proofs(target)
        if target < last:
            beyond = await self._walk(relay, Height(last + 1))
        return SkipTo(
            path=tuple(encode(block) for block in path),
            proofs=proofs,
            beyond=tuple(encode(block) for block in beyond),
            beyond_proofs=await self._feed.proofs((frontier_key(self._shard),), last)
            if beyond
            else (),
        )

    async def _walk(self, relay: ChainRelay, to: Height) -> list[LightBlock]:
        """The blocks by which the relay came to a height, ascending."""
        before = relay.head.height
        fetched = await bisect_with(self._l1.light_block, relay, to, now=None)
        return [
            fetched[height]
            for height in sorted(fetched)
            if height > before and _is_kept(relay, height)
        ]


def _is_kept(relay: ChainRelay, height: Height) -> bool:
    try:
        relay.header_at(height)
    except HeaderNotKeptError:
        return False
    return True
