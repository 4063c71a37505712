"""Stake and ballots of running polls: what an account held, counted once.

A poll watches from the block in which it was proposed. Until it opens, an
account's stake is the least it had; from then on nothing moves it. Only accounts
whose total changes, or that vote, have an entry; every other has what it has.
"""

import msgspec

from sealift.base import AccountId, Amount, Height, Message
from sealift.frame import Context, StorageMap, StorageValue

#: The pallet whose storage this is.
PALLET = "democracy"
#: What keeping one poll's stake of an account up to date costs.
WATCH_WEIGHT = 15
#: Most entries of ended polls that are forgotten in one block.
MAX_FORGOTTEN = 1_000


class StakeWatch(Message, kw_only=True, tag=False):
    """A poll whose stakes are kept, and when they freeze."""

    poll: int
    opens_at: Height


class StakeShare(Message, kw_only=True, tag=False):
    """One account in one poll; ``ballot`` is its vote, if it has voted.

    ``behind`` is the account that got its entry before: a list by which entries
    are found again without a search.
    """

    stake: Amount
    ballot: bool | None = None
    behind: AccountId | None = None


WATCHES: StorageValue[tuple[StakeWatch, ...]] = StorageValue(
    "watches", tuple[StakeWatch, ...]
).of(PALLET)
SHARES: StorageMap[tuple[int, AccountId], StakeShare] = StorageMap(
    "shares", key=tuple[int, AccountId], value=StakeShare
).of(PALLET)
NEWEST: StorageMap[int, AccountId] = StorageMap("newest", key=int, value=AccountId).of(
    PALLET
)
ENDED: StorageValue[tuple[int, ...]] = StorageValue("ended", tuple[int, ...]).of(PALLET)


class StakeBook:
    """What accounts held while polls watched (port :class:`TotalWatcher`).

    Law: over all accounts, the stakes of a poll are together never more than
    there were tokens when it opened, however they move.
    """

    def watch(self, ctx: Context, poll: int, *, opens_at: Height) -> None:
        """Begin the window of a poll."""
        watches = WATCHES.find(ctx) or ()
        WATCHES.put(ctx, (*watches, StakeWatch(poll=poll, opens_at=opens_at)))

    def unwatch(self, ctx: Context, poll: int) -> None:
        """End it; its entries are forgotten in this block and those that follow."""
        left = tuple(one for one in WATCHES.find(ctx) or () if one.poll != poll)
        if left:
            WATCHES.put(ctx, left)
        else:
            WATCHES.delete(ctx)
        ENDED.put(ctx, (*(ENDED.find(ctx) or ()), poll))

    def total_changed(self, ctx: Context, who: AccountId, old: int, new: int) -> None:
        """Note what an account had, before it has something else.

        Without a poll this is one look at the state.
        """
        watches = WATCHES.find(ctx)
        if watches is None:
            return
        ctx.charge(WATCH_WEIGHT * len(watches))
        for watch in watches:
            open_already = ctx.block.height >= watch.opens_at
            share = SHARES.find(ctx, (watch.poll, who))
            if share is None:
                least = old if open_already else min(old, new)
                self._add(ctx, watch.poll, who, StakeShare(stake=Amount(least)))
            elif not open_already and new < share.stake:
                less = msgspec.structs.replace(share, stake=Amount(new))
                SHARES.put(ctx, (watch.poll, who), less)

    def share(
        self, ctx: Context, poll: int, who: AccountId, *, total: int
    ) -> StakeShare:
        """Stake and ballot of an account that now has ``total``."""
        share = SHARES.find(ctx, (poll, who))
        return share if share is not None else StakeShare(stake=Amount(total))

    def cast(
        self, ctx: Context, poll: int, who: AccountId, *, total: int, ballot: bool
    ) -> StakeShare:
        """Keep a ballot; what it replaces is the share as it was.

        Owed by the caller: that the poll is open.
        """
        before = SHARES.find(ctx, (poll, who))
        if before is None:
            share = StakeShare(stake=Amount(total), ballot=ballot)
            self._add(ctx, poll, who, share)
            return StakeShare(stake=Amount(total))
        after = msgspec.structs.replace(before, ballot=ballot)
        SHARES.put(ctx, (poll, who), after)
        return before

    def forget(self, ctx: Context) -> None:
        """Delete entries of ended polls, so many in a block and no more."""
        ended = ENDED.find(ctx)
        if ended is None:
            return
        budget, left = MAX_FORGOTTEN, list(ended)
        while left and budget:
            poll = left[0]
            account = NEWEST.find(ctx, poll)
            while account is not None and budget:
                behind = SHARES.get(ctx, (poll, account)).behind
                SHARES.delete(ctx, (poll, account))
                account, budget = behind, budget - 1
            if account is not None:
                NEWEST.put(ctx, poll, account)
                break
            NEWEST.delete(ctx, poll)
            left.pop(0)
        if left:
            ENDED.put(ctx, tuple(left))
        else:
            ENDED.delete(ctx)

    def _add(self, ctx: Context, poll: int, who: AccountId, share: StakeShare) -> None:
        behind = NEWEST.find(ctx, poll)
        SHARES.put(ctx, (poll, who), msgspec.structs.replace(share, behind=behind))
        NEWEST.put(ctx, poll, who)
