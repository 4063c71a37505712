"""What a worker says on L1: in order, paid by the operator's account."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from sealift.base import Height, SealiftError


@dataclass(frozen=True, slots=True, kw_only=True)
class Included:
    """A transaction in a block; ``code`` 0 means that it took effect."""

    height: Height
    code: int
    log: str


#: Who hears what became of an act: its block, or why there is none.
Heard: TypeAlias = Callable[[Included | SealiftError], Awaitable[None]]


class Account(Protocol):
    """An L1 account that signs and sends transactions in order."""

    async def send(self, call: str, args: dict[str, object]) -> bytes:
        """Into the mempool; the transaction's hash."""

    async def wait(self, tx_hash: bytes) -> Included:
        """Until it is in a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One call to make on L1, and who hears what became of it."""

    call: str
    args: dict[str, object]
    heard: Heard
    #: Whether somebody waits for the end of it, to go on or to try again.
    awaited: bool = False


class Outbox:
    """Sends acts one after the other and follows each into its block.

    Sending keeps the order; waiting does not hold the next one up.

    Args:
        account: Who pays.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._queue: asyncio.Queue[Act] = asyncio.Queue()
        self.failures: list[str] = []
        #: How many awaited acts L1's mempool has taken: each costs its fee.
        self.paid = 0

    def put(self, act: Act) -> None:
        """Have it sent after everything that was put before."""
        self._queue.put_nowait(act)

    async def act(self, call: str, args: dict[str, object]) -> Included:
        """Send, and wait until it is in a block.

        Raises:
            SealiftError: It was not admitted.
        """
        done: asyncio.Future[Included] = asyncio.get_running_loop().create_future()

        async def heard(outcome: Included | SealiftError) -> None:
            if done.done():  # whoever asked has gone
                return
            if isinstance(outcome, SealiftError):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

        self.put(Act(call=call, args=args, heard=heard, awaited=True))
        return await done

    async def run(self) -> None:
        """Send for ever; ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            while True:
                act = await self._queue.get()
                try:
                    tx_hash = await self._account.send(act.call, act.args)
                except SealiftError as error:
                    self._failed(act, str(error))
                    await act.heard(error)
                    continue
                self.paid += act.awaited
                group.create_task(self._follow(act, tx_hash))

    async def _follow(self, act: Act, tx_hash: bytes) -> None:
        try:
            outcome: Included | SealiftError = await self._account.wait(tx_hash)
        except SealiftError as error:
            outcome = error
        if isinstance(outcome, SealiftError):
            self._failed(act, str(outcome))
        elif outcome.code:
            self._failed(act, outcome.log)
        await act.heard(outcome)

    def _failed(self, act: Act, why: str) -> None:
        self.failures = [*self.failures[-19:], f"{act.call}: {why}"]
