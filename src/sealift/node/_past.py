"""Past states for whoever asks, without anybody else waiting for them."""

import asyncio
from typing import Final

from sealift.base import Height
from sealift.frame import SimpleTreeStore

from ._errors import StateBusyError
from ._history import NEAR, ProvenEntry, StateHistory, entry_in

#: States of long ago that are being made or wait for it, one after the other.
_MOST_FAR: Final = 4
#: Readers that wait for them together.
_MOST_READERS: Final = 32


class PastStates:
    """Answers for the state after any block, off the event loop.

    Guarantees that no reader holds up the loop, nor anybody who asks for one of
    the last :data:`~._history.NEAR` heights: those are made one at a time in a
    thread, each once, and kept. States of long ago, which cost the more the
    older they are, are made one at a time in a second thread; only a few wait
    for it, the rest is refused by name.

    Args:
        history: The states; only the loop touches it.
    """

    def __init__(self, history: StateHistory) -> None:
        self._history = history
        self._near = asyncio.Lock()
        self._far = asyncio.Lock()
        self._making: dict[Height, asyncio.Task[SimpleTreeStore]] = {}
        self._far_heights: set[Height] = set()
        self._readers = 0
        self._closed = False

    async def close(self) -> None:
        """Return when no thread reads any more; what waits is refused."""
        self._closed = True
        if self._making:
            await asyncio.wait(self._making.values())

    async def read(
        self, key: bytes, *, height: Height | None, prove: bool, wait: bool
    ) -> ProvenEntry:
        """What stands under a key after a block.

        1. There is such a state. 2. The newest value, or a state that is kept:
        at once. 3. One of the last heights: as soon as it is made. 4. One of
        long ago: likewise, where not too much is asked for already.

        Args:
            key: Any bytes.
            height: The block; ``None`` for the newest.
            prove: Whether a proof is wanted.
            wait: Whether to wait for 4; else it is refused while it is made.

        Raises:
            HeightUnknownError: 1.
            StateBusyError: 4; ask again.
            ProofUnavailableError: The state or the key is empty.
            ChainStoreError: The changes cannot be read.
        """
        history = self._history
        at = history.checked(height)  # 1
        if at == history.height and not prove:  # 2
            return history.read(key, height=at, prove=False)
        tree = history.kept(at)
        if tree is None:
            if at not in self._making:
                self._begin(at)
            making = self._making[at]
            if at in self._far_heights:  # 4
                tree = await self._long_ago(making, at, wait=wait)
            else:  # 3
                tree = await asyncio.shield(making)
        return entry_in(tree, key, height=at, prove=prove)

    def _begin(self, at: Height) -> None:
        near = self._history.is_near(at)
        if not near:
            if len(self._far_heights) >= _MOST_FAR:
                raise _busy(at, "others are being made", len(self._far_heights))
            self._far_heights.add(at)
        making = asyncio.create_task(self._make(at, near=near))
        self._making[at] = making
        making.add_done_callback(lambda done: self._made(at, done))

    def _made(self, at: Height, making: asyncio.Task[SimpleTreeStore]) -> None:
        del self._making[at]
        self._far_heights.discard(at)
        if not making.cancelled():
            making.exception()  # looked at: whoever asked may be gone

    async def _make(self, at: Height, *, near: bool) -> SimpleTreeStore:
        async with self._near if near else self._far:
            if self._closed:
                raise _busy(at, "this node is stopping", len(self._making))
            work = self._history.begin(at, near=near)
            tree = await asyncio.to_thread(work)
            self._history.keep(at, tree)
            return tree

    async def _long_ago(
        self, making: asyncio.Task[SimpleTreeStore], at: Height, *, wait: bool
    ) -> SimpleTreeStore:
        if not wait:
            raise _busy(at, "it is being made", len(self._far_heights))
        if self._readers >= _MOST_READERS:
            raise _busy(at, "many wait for such", self._readers)
        self._readers += 1
        try:
            return await asyncio.shield(making)
        finally:
            self._readers -= 1


def _busy(at: Height, why: str, count: int) -> StateBusyError:
    return StateBusyError(
        f"the state after block {at} is not at hand: {why}",
        got=f"block {at}, {count} in line",
        expected=f"one of the last {NEAR}, or a place in the line",
        hint="Ask again in a second, or ask a node of your own",
    )
