"""Users whose every call is tracked until it is executed once, whatever dies.

A user has one call on its way at a time, and some are carried twice at once. What L1
has taken in may be lost with its mempool, so a call that stands in no block is carried
again, the very same envelope: at least once on the way, exactly once in effect.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from sealift.base import Digest, SealiftError
from sealift.crypto import account_of
from sealift.protocol import INVOKE

from ._demo_load import LOTS, Load, SentCall
from ._demo_stage import user_secret

#: After so many blocks a call that stands in none is carried again.
_AGAIN_BLOCKS: Final = 8
#: Of so many calls of a user one is carried twice at once.
_TWICE: Final = 4
_TOKENS: Final = 1_000_000
_FIRST_BID: Final = 10


@dataclass(slots=True)
class Tracked:
    """A call of a user, and what it does to whom when it is executed."""

    sent: SentCall
    envelope: bytes
    user: int
    since: int
    bid: int = 0
    paid: int = 0
    dest: int = 0
    carried: int = 0


@dataclass(slots=True)
class Books:
    """What users have if each call that stands on L1 took effect once."""

    nonces: dict[int, int] = field(default_factory=dict)
    free: dict[int, int] = field(default_factory=dict)
    bids: dict[int, int] = field(default_factory=dict)

    def settle(self, call: Tracked) -> None:
        """Book a call."""
        self.nonces[call.user] = self.nonces.get(call.user, 0) + 1
        if call.bid:
            rise = call.bid - self.bids.get(call.user, 0)
            self._add(call.user, -rise)
            self.bids[call.user] = call.bid
        else:
            self._add(call.user, -call.paid)
            self._add(call.dest, call.paid)

    def _add(self, user: int, amount: int) -> None:
        self.free[user] = self.free.get(user, _TOKENS) + amount


class TrackedLoad(Load):
    """Callers that pay and bid through any outage; see the module.

    Attributes:
        made: Every call that was ever made, by envelope.
        open: Those that stand in no block yet, by user.
        books: What those that stand in one must have done.
    """

    made: dict[Digest, Tracked]
    open: dict[int, Tracked]
    books: Books

    def begin(self, callers: int) -> None:
        """Begin with fresh books; the last ``callers`` users call."""
        self.made, self.open, self.books = {}, {}, Books()
        first = self.users - callers
        self._callers = range(first, self.users)

    async def flow(self, rate: float) -> None:
        """Call for ever, about ``rate`` times a second, each caller in turn."""
        turn = 0
        while True:
            with contextlib.suppress(SealiftError):
                await self.look_after()
                user = self._callers[turn % len(self._callers)]
                turn += 1
                if user not in self.open:
                    await self._call(user)
            await asyncio.sleep(1 / rate)

    async def look_after(self) -> None:
        """Book what stands in a block; carry again what has stood in none for long."""
        for user, call in list(self.open.items()):
            if call.sent.envelope in self._scan.calls:
                self.books.settle(call)
                del self.open[user]
            elif self._scan.height >= call.since + _AGAIN_BLOCKS:
                call.since = self._scan.height
                await self._bring(call)

    async def _call(self, user: int) -> None:
        nonce = self.books.nonces.get(user, 0)
        if user % 2:
            bid = self.books.bids.get(user, _FIRST_BID) + 1 + nonce % 3
            call, effect = "auction.bid", {"bid": bid}
            args: dict[str, object] = {"lot": user % LOTS, "amount": bid}
        else:
            place = self._callers.index(user)
            dest = self._callers[(place + 2) % len(self._callers)]
            paid = 1 + nonce % 7
            call, effect = "balances.transfer", {"paid": paid, "dest": dest}
            to = account_of(user_secret(dest))
            args = {"dest": to, "amount": paid}
        sent, envelope = self._seal(
            user_secret(user), user, nonce, call, args, keys=self.keys
        )
        tracked = Tracked(sent, envelope, user, self._scan.height, **effect)
        # Ours from now on: whether L1 has it is not known before it stands there.
        self.made[sent.envelope] = self.open[user] = tracked
        await self._bring(tracked)
        if nonce % _TWICE == _TWICE - 1:
            await self._bring(tracked)  # an impatient user: a copy is no second call

    async def _bring(self, call: Tracked) -> None:
        call.carried += 1
        carry: dict[str, object] = {
            "shard": self._shard,
            "ciphertext": call.envelope,
        }
        await self._account.send(INVOKE, carry)

    async def wrong(self, url: str, session: aiohttp.ClientSession) -> list[str]:
        """Where the state that a worker reads differs from the books.

        Raises:
            LoadError: The worker refuses.
        """
        found = []
        for user in self._callers:
            nonce = await self.ask(user, "system.nonce", {}, url, session)
            free = await self.ask(user, "balances.free", {}, url, session)
            want = (self.books.nonces.get(user, 0), self.books.free.get(user, _TOKENS))
            if (nonce, free) != want:
                found.append(f"user {user} has {(nonce, free)}, expected {want}")
            if user in self.books.bids:
                lot: dict[str, object] = {"lot": user % LOTS}
                bid = await self.ask(user, "auction.my_bid", lot, url, session)
                amount = bid.get("amount") if isinstance(bid, dict) else bid
                if amount != self.books.bids[user]:
                    found.append(
                        f"user {user} bids {amount}, expected {self.books.bids[user]}"
                    )
        return found
