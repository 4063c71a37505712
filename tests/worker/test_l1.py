"""What a worker reads of L1: news are hints, and no news ends it."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from doubles import SHARD, vote

from sealift.base import Height, encode
from sealift.ledger._bridge import EnclaveBridge
from sealift.relay import RpcRemoteError
from sealift.worker import _l1 as l1_module
from sealift.worker._l1 import L1View


class FakeClient:
    """Ends its subscription by an error, as CometBFT does to slow readers."""

    def __init__(self) -> None:
        self.subscribed = 0

    async def new_blocks(self) -> AsyncIterator[SimpleNamespace]:
        self.subscribed += 1
        header = SimpleNamespace(height=Height(self.subscribed))
        yield SimpleNamespace(block=SimpleNamespace(header=header))
        raise RpcRemoteError("subscription was cancelled")


def test_a_subscription_that_the_node_ends_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(l1_module, "_FALLBACK_SECONDS", 0.01)

    async def story() -> None:
        client = FakeClient()
        view = L1View(client)
        watching = asyncio.create_task(view.watch())
        while view.head < 3:
            assert not watching.done()
            await asyncio.sleep(0.005)
        watching.cancel()
        assert client.subscribed >= 3

    asyncio.run(story())


@pytest.mark.parametrize("said", [(), (vote(1, 3),), (vote(1, 3), vote(1, 2))])
def test_open_votes_are_read_where_the_bridge_keeps_them(said: tuple) -> None:
    state = {} if not said else {EnclaveBridge.votes.key(SHARD): encode(said)}

    class Client:
        async def abci_query(self, key: bytes, *, prove: bool) -> SimpleNamespace:
            assert not prove
            return SimpleNamespace(value=state.get(key))

    assert asyncio.run(L1View(Client()).votes(SHARD)) == said
