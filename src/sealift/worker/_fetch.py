"""State from another worker: a snapshot, then its diffs, for as long as needed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sealift.base import AccountId, Height, SealiftError, ShardId, canonical_decode
from sealift.protocol import (
    EnclaveRecord,
    EntryStatus,
    KeyEpochRecord,
    Schedule,
    enclave_key,
    keys_key,
    schedule_key,
)
from sealift.protocol.ecall import EnclaveStatus, GetStatus

from ._channel import EnclaveChannel
from ._download import Downloads
from ._errors import FATAL, EnclaveRefusedError, StalledError, UpstreamError
from ._feed import L1Source
from ._follower import Follower
from ._state import NO_KEYS
from ._store import WorkerStore
from ._upstream import Upstream

#: Seconds between two tries.
RETRY_SECONDS: Final = 0.5
#: Seconds between two looks for somebody to ask, where none is named.
_LOOK_SECONDS: Final = 5.0
#: So far behind, in blocks, it is weighed whether a snapshot is cheaper than diffs.
FAR_BEHIND: Final = 64
#: Why an enclave executes nothing where others than a named peer may be asked.
_LOST: Final = ("behind", "no-state")
#: How the enclave names that the other end of a session has refused.
REFUSED_BY_PEER: Final = "RefusedByPeerError"
#: How it names a diff that no time mends: another peer may have a good one, …
_BAD_DIFF: Final = frozenset(
    {
        "DecodeError",
        "DiffForgedError",
        "DiffOrderError",
        "ForeignSnapshotError",
        "NonCanonicalError",
        "StateRootMismatchError",
    }
)
#: … and one that other code has begun with migrations of its own.
_OF_OTHER_CODE: Final = "DiffOfOtherCodeError"
#: The name of this topic in the worker's health.
STATE: Final = "state"


async def record_of(
    l1: L1Source, signing_key: AccountId, height: int
) -> EnclaveRecord | None:
    """A registered instance, as the L1 node says (a hint)."""
    value, _ = await l1.prove(enclave_key(signing_key), height)
    return None if value is None else canonical_decode(EnclaveRecord, value)


class Fetcher:
    """Asks the upstream worker, wherever it is now.

    Args:
        channel: The enclave that gets the state.
        follower: Takes it over, durably.
        store: Remembers who was asked.
        l1: Where instances announce themselves.
        shard: Whose state it is.
        upstream: Whom to ask; ``None``: nobody.
        genesis: The shard's genesis blob, if it is here.
        troubles: Where it says what is in the way.
        peer: Another worker, by its URL.
        me: This instance, which is not asked.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        follower: Follower,
        store: WorkerStore,
        l1: L1Source,
        shard: ShardId,
        upstream: Upstream | None,
        genesis: Callable[[], bytes | None],
        troubles: dict[str, str],
        peer: Callable[[str], Upstream],
        me: AccountId,
    ) -> None:
        self._peer = peer
        self._me = me
        self._downloads = Downloads(follower, store)
        self._channel = channel
        self._follower = follower
        self._store = store
        self._l1 = l1
        self._shard = shard
        self._upstream = upstream
        self._genesis = genesis
        self._troubles = troubles
        #: The last block whose state this code has a use for: what a later generation
        #: makes of it would take the place of what a rescue needs.
        self.last: Height | None = None

    async def ask(self, step: Callable[[Upstream], Awaitable[None]]) -> None:
        """Ask the upstream worker; where it is gone, look up where it is now.

        So too where it has not the keys that are wanted: it may be of a generation
        that never gets them.

        Raises:
            SealiftError: What came in the way.
        """
        upstream = self._upstream
        if upstream is None:
            raise StalledError("no worker to ask is named")
        try:
            if self._store.meta("upstream") is None:
                self._store.put_meta("upstream", await upstream.signing_key())
            await step(upstream)
        except UpstreamError:
            await self._look_elsewhere(upstream)
            raise
        except EnclaveRefusedError as error:
            if _lacks_keys(error):
                await self._look_elsewhere(upstream)
            raise

    async def _look_elsewhere(self, upstream: Upstream) -> None:
        """Go on to the next URL: as configured, or as announced on L1."""
        urls = list(dict.fromkeys((upstream.configured, *await self._announced())))
        here = urls.index(upstream.url) if upstream.url in urls else -1
        upstream.url = urls[(here + 1) % len(urls)]

    async def _announced(self) -> list[str]:
        """Where others are by L1 that should have keys and state.

        Known are the instance that was asked before, the one that published the
        shard's first keys, those that are known to hold keys, and those that speak
        for the shard now.
        """
        imported = self._follower.progress.imported
        known = self._store.meta("upstream")
        keys = [] if known is None else [AccountId(known)]
        raw, _ = await self._l1.prove(keys_key(self._shard, 0), imported)
        if raw is not None:
            born = canonical_decode(KeyEpochRecord, raw).statement.signing_key
            keys.append(born)
        keys += [*self._store.holder_keys(), *self._follower.speakers()]
        urls = []
        for key in dict.fromkeys(key for key in keys if key != self._me):
            record = await record_of(self._l1, key, imported)
            if record is not None and record.url:
                urls.append(record.url.rstrip("/"))
        return urls

    def may_skip(self) -> bool:
        """Whether what is skipped is not lost here: others can be asked for it."""
        return (
            self._upstream is not None
            or any(key != self._me for key in self._store.holder_keys())
            or not self._store.is_used()
        )

    async def run(self) -> None:
        """Fetch state and diffs while they are not ours to make.

        From the upstream worker; where none is named, from one that is announced
        on L1, if this one has fallen behind.
        """
        while True:
            if not self._follower.progress.needs_state:
                self._troubles.pop(STATE, None)
                await self._follower.next_block()
                continue
            if self._upstream is None and not await self._find_somebody():
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            try:
                await self.ask(self._fetch_some)
            except FATAL:
                raise
            except SealiftError as error:
                self._troubles[STATE] = f"none from upstream: {error}"
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._troubles.pop(STATE, None)

    async def _find_somebody(self) -> bool:
        """Take one who is announced as upstream, if this worker is behind."""
        if not self._follower.progress.idle.startswith(_LOST):
            return False
        try:
            urls = await self._announced()
        except SealiftError as error:
            self._troubles[STATE] = f"nobody to ask is found: {error}"
            return False
        if urls:
            self._upstream = self._peer(urls[0])
        return bool(urls)

    async def _fetch_some(self, upstream: Upstream) -> None:
        status = await self._channel.call(GetStatus(), EnclaveStatus)
        self._follower.progress.halted = status.halted
        if status.state_height is None and await self._begin_at_genesis():
            await self._follower.execute_ready()
        elif status.state_height is None or status.halted:
            await self._fetch_snapshot(upstream, fresh_at=0)
        elif self._is_over(status.state_height + 1):
            await asyncio.sleep(RETRY_SECONDS)
        else:
            await self._fetch_diffs(upstream, status.state_height)

    def _is_over(self, height: int) -> bool:
        return self.last is not None and height > self.last

    async def _turn_is_after(self, height: int) -> bool:
        """Whether this code is to run from a later block: what others make leads there.

        Once its turn is over it does not: a rescue would go on from the state here.
        """
        raw, _ = await self._l1.prove(
            schedule_key(self._shard), self._follower.progress.imported
        )
        entries = () if raw is None else canonical_decode(Schedule, raw).entries
        return any(
            entry.status is EntryStatus.PENDING
            and entry.upgrade_at > height
            and self._store.fingerprint in entry.config.code.values()
            for entry in entries
        )

    async def _begin_at_genesis(self) -> bool:
        """Make the state from the genesis blob, while L1 has confirmed no block.

        Where several platforms must agree on a root, the first blocks need this
        one's word: a snapshot is of later ones, for which it can't give it.
        """
        blob = self._genesis()
        if blob is None:
            return False
        record, _ = await self._l1.prove(
            keys_key(self._shard, 0), self._follower.progress.imported
        )
        if record is None:
            return False
        born = canonical_decode(KeyEpochRecord, record).valid_from
        confirmed = await self._l1.confirmed(self._shard)
        if confirmed is not None and confirmed > born:
            return False
        return await self._follower.begin_at_genesis(blob)

    async def _fetch_snapshot(self, upstream: Upstream, *, fresh_at: int) -> None:
        """Take a snapshot over: one that is offered, else one that is made for us."""
        offers = await upstream.offers(max(fresh_at - 1, 0))
        offered = None
        if offers is not None:
            offered = await self._downloads.choose(upstream, offers, fresh_at=fresh_at)
        if offered is None:
            offered = await upstream.snapshot(fresh_at=fresh_at)
            if offered is None:
                await asyncio.sleep(RETRY_SECONDS)
                return
            if offered.name in self._downloads.refused:
                raise UpstreamError(
                    f"{upstream.url} has only snapshots that the enclave has refused",
                    got=offered.name,
                    hint="Name another worker as upstream.",
                )
            if offers is not None:
                offered = await upstream.offered(offered.name, header=offered.header)
        if self._is_over(offered.height):  # a rescue would go on from the one before
            await asyncio.sleep(RETRY_SECONDS)
            return
        await self._downloads.take(upstream, offered)
        await self._follower.execute_ready()

    async def _is_snapshot_cheaper(self, upstream: Upstream, after: int) -> bool:
        """Whether a snapshot and what follows it is less than all diffs (a hint)."""
        if self._follower.progress.imported - after <= FAR_BEHIND:
            return False
        offers = await upstream.offers(after)
        if offers is None:
            return False
        least = min(
            (
                one.size + one.diffs.size
                for one in offers.snapshots
                if one.height > after and one.name not in self._downloads.refused
            ),
            default=None,
        )
        if least is None:
            return False
        return not offers.diffs.without_gap(after) or least < offers.diffs.size

    async def _fetch_diffs(self, upstream: Upstream, after: int) -> None:
        wanted = after + 1
        if await self._is_snapshot_cheaper(upstream, after):
            await self._fetch_snapshot(upstream, fresh_at=wanted)
            return
        for height, diff in await upstream.diffs(after):
            if not self._follower.progress.needs_state or self._is_over(height):
                return
            if height > wanted:  # the peer keeps no diff of a block in between
                await self._fetch_snapshot(upstream, fresh_at=wanted)
                return
            try:
                await self._follower.apply_diff(height, diff)
            except EnclaveRefusedError as error:
                status = await self._channel.call(GetStatus(), EnclaveStatus)
                if status.state_height is not None and status.state_height >= height:
                    return  # executed here meanwhile
                if error.refused == _OF_OTHER_CODE and await self._turn_is_after(
                    height
                ):
                    await self._fetch_snapshot(upstream, fresh_at=wanted)
                    return
                if error.refused in _BAD_DIFF:
                    raise UpstreamError(
                        f"the diff of block {height} at {upstream.url} is refused "
                        f"by the enclave ({error})",
                        hint="Name another worker as upstream.",
                    ) from error
                raise
            wanted = height + 1
            await self._follower.execute_ready()


def _lacks_keys(error: EnclaveRefusedError) -> bool:
    """Whether a peer has refused because it does not hold the keys itself."""
    return error.refused == REFUSED_BY_PEER and f"got {NO_KEYS}:" in str(error)
