"""Opening a client: from a card and a key to a shard that can be called."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from sealift.crypto import Entropy
from sealift.transport.account import L1Account
from sealift.transport.clock import Clock
from sealift.transport.rpc import Backoff, Jitter, L1Client

from ._card import ShardCard
from ._chain import ProvenChain
from ._shard import ShardClient
from ._workers import Workers


@asynccontextmanager
async def open_client(
    card: ShardCard,
    secret: bytes,
    *,
    clock: Clock,
    entropy: Entropy,
    jitter: Jitter,
    payer_secret: bytes | None = None,
    workers: Sequence[str] = (),
    attempts: int = 5,
) -> AsyncIterator[ShardClient]:
    """A client with its connections, while in the block.

    Args:
        card: Which shard.
        secret: The user's Ed25519 seed.
        clock: The wall clock.
        entropy: For reply keys.
        jitter: For pauses between attempts.
        payer_secret: Seed of an L1 account that carries calls; without one
            workers do.
        workers: Beside those of the card, and asked first.
        attempts: How often an L1 node is tried.
    """
    async with AsyncExitStack() as stack:
        backoff = Backoff(jitter=jitter, attempts=attempts)
        nodes = [
            await stack.enter_async_context(L1Client(url, backoff=backoff))
            for url in card.l1
        ]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        known = Workers(list(dict.fromkeys((*workers, *card.workers))), http)
        payer = (
            None
            if payer_secret is None
            else L1Account(payer_secret, nodes[0], card.chain)
        )
        yield ShardClient(
            card,
            secret,
            chain=ProvenChain(card.root(), nodes, clock=clock),
            workers=known,
            payer=payer,
            entropy=entropy,
        )
