"""A worker's life: start the enclave, get keys, follow, serve, re-attest.

Several tasks under one group: where one ends, all end, and the reason is said.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from sealift.base import (
    Height,
    SealiftError,
    canonical_decode,
)
from sealift.protocol import (
    MAX_VALIDITY,
    EnclaveRecord,
    EntryStatus,
    Schedule,
    config_at,
    keys_key,
    schedule_key,
)
from sealift.protocol.ecall import (
    BornKeys,
    EnclaveStatus,
    GetStatus,
    HelloReply,
    KeysPublished,
    Register,
    Registration,
    Started,
)
from sealift.transport.tasks import first_of

from ._api import Health
from ._channel import EnclaveChannel
from ._errors import FATAL, StalledError, UpstreamError
from ._fetch import Fetcher, record_of
from ._follower import Follower
from ._metrics import Reading
from ._mura import request_session
from ._outbox import Included, Outbox
from ._patience import Pauses
from ._rehearsal import Rehearsing
from ._report import KEYS, Report
from ._rotation import Acts, Instance, Rotation
from ._store import WorkerStore
from ._surroundings import Surroundings
from ._upstream import Upstream

_ATTESTATION_EVERY = 20
#: For so many blocks receipts are kept: while a call is valid copies may be made
#: of it, and its caller may have been away for a while.
RECEIPTS_KEPT = MAX_VALIDITY + 512
_PRUNE_EVERY = 64
#: So many blocks behind L1's head, an enclave's quotes are still recent.
_NEAR = 16
_IN_TURN = frozenset({EntryStatus.ACTIVE, EntryStatus.PENDING})
#: What a worker may wait for, in its health.
L1, ANNOUNCEMENT = "the chain", "announcement"
ATTESTATION, SNAPSHOT = "attestation", "snapshot"


class Life:
    """Brings one enclave through birth or provisioning, and keeps it going.

    Args:
        channel: The enclave.
        follower: Imports and executes.
        store: The disk's database.
        outbox: The operator's L1 acts.
        around: L1, disk, peers.
        hello: Who the enclave is.
        started: What it said when it was started.
        monotonic: Seconds of a clock that is never set back.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        follower: Follower,
        store: WorkerStore,
        outbox: Outbox,
        around: Surroundings,
        hello: HelloReply,
        started: Started,
        monotonic: Callable[[], float],
    ) -> None:
        self.channel = channel
        self.follower = follower
        self.hello = hello
        self.started = started
        #: What is announced on L1; set before :meth:`run`.
        self.url = ""
        self._store = store
        self._outbox = outbox
        self._around = around
        #: What keeps the worker from its duty, by topic; empty when nothing does.
        self._troubles: dict[str, str] = {}
        self._snapshot_at: int | None = None
        self._fetcher = Fetcher(
            channel=channel,
            follower=follower,
            store=store,
            l1=around.l1,
            shard=around.shard,
            upstream=around.upstream,
            genesis=around.disk.genesis,
            troubles=self._troubles,
            peer=around.peer,
            me=started.signing_key,
        )
        follower.may_skip = self._fetcher.may_skip
        self._rotation = Rotation(
            channel=channel,
            follower=follower,
            store=store,
            outbox=outbox,
            around=around,
            me=Instance(code=hello.fingerprint, signing_key=started.signing_key),
            acts=Acts(
                attest=self.register_now,
                request=self.request_keys,
                renew=self._renew_snapshot,
            ),
            troubles=self._troubles,
        )
        self._rehearsing = Rehearsing(
            channel=channel,
            follower=follower,
            outbox=outbox,
            around=around,
            me=Instance(code=hello.fingerprint, signing_key=started.signing_key),
            monotonic=monotonic,
            troubles=self._troubles,
        )
        self._report = Report(
            channel=channel,
            follower=follower,
            store=store,
            outbox=outbox,
            around=around,
            hello=hello,
            me=started.signing_key,
            standing=lambda: self._rotation.standing,
            rehearsal=lambda: self._rehearsing.standing,
            troubles=self._troubles,
        )

    def fetch_until(self, last: Height | None) -> None:
        """No state above this block is fetched; ``None``: whatever is behind."""
        self._fetcher.last = last

    # --- what runs beside the follower ---

    async def run(self) -> None:
        """Follow, execute, serve; ends only by an error.

        Raises:
            SealiftError: Whatever stopped one of the tasks.
        """
        await self._following(self._settle())

    async def join(self) -> None:
        """Follow, get keys, then state; nobody is served. Ends only by an error.

        Raises:
            SealiftError: Whatever stopped one of the tasks.
        """
        await self._following(self._join())

    async def _following(self, main: Coroutine[None, None, None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._outbox.run(), name="outbox")
                group.create_task(self.follower.run(self.started.head), name="follower")
                group.create_task(main, name="keys and state")
        except* SealiftError as errors:
            raise first_of(errors) from None

    async def _join(self) -> None:
        if not await self._has_keys():  # else it was cut off after them
            await self._patiently(L1, self._catch_up)
            await self._patiently(KEYS, self._get_keys)
        self._store.add_holders(self.started.signing_key)
        await self._fetcher.run()

    async def request_keys_only(self) -> None:
        """Follow until one try at provisioning is over.

        Raises:
            SealiftError: Why there are no keys.
        """
        upstream = self._around.upstream
        if upstream is None:
            raise StalledError("no worker to ask is named")
        beside = [
            asyncio.create_task(self._outbox.run(), name="outbox"),
            asyncio.create_task(self.follower.run(self.started.head), name="follower"),
        ]
        wanted = asyncio.create_task(self._keys_from(upstream), name="keys")
        try:
            await asyncio.wait((*beside, wanted), return_when=asyncio.FIRST_COMPLETED)
            for task in (*beside, wanted):
                if task.done():
                    task.result()
        finally:
            for task in (*beside, wanted):
                task.cancel()
            await asyncio.gather(*beside, wanted, return_exceptions=True)

    async def _keys_from(self, upstream: Upstream) -> None:
        await self._catch_up()
        if not await self._has_keys():
            await self.request_keys(upstream)

    async def _settle(self) -> None:
        """Get keys, then state; from then on re-attest and keep snapshots."""
        await self._patiently(L1, self._catch_up)
        await self._patiently(KEYS, self._get_keys)
        self._store.add_holders(self.started.signing_key)
        await self._patiently(ANNOUNCEMENT, self._announce)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetcher.run(), name="state")
            group.create_task(self._rotation.run(), name="rotation")
            group.create_task(self._rehearsing.run(), name="rehearsal")
            group.create_task(self._keep_attested(), name="attestation")
            group.create_task(self._keep_snapshots(), name="snapshots")

    async def _patiently(self, topic: str, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step, again and again while something outside is in the way."""
        pauses = Pauses()
        while True:
            paid_before = self._outbox.paid
            try:
                await step()
            except FATAL:
                raise
            except SealiftError as error:
                self._troubles[topic] = str(error)
                pause = pauses.after(
                    paid=self._outbox.paid > paid_before,
                    reached_nobody=isinstance(error, UpstreamError),
                )
                await asyncio.sleep(pause)
            else:
                self._troubles.pop(topic, None)
                return

    async def _catch_up(self) -> None:
        """Until the enclave has verified about what L1 has: quotes name that block."""
        while True:
            head = await self._around.l1.wait_for_height(1)
            await self.follower.reach(max(head - 1, 1))
            head = await self._around.l1.wait_for_height(1)
            if head - self.follower.progress.imported <= _NEAR:
                return

    async def _has_keys(self) -> bool:
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        return bool(status.epochs)

    async def _get_keys(self) -> None:
        """Birth, if L1 knows no keys of the shard; else provisioning."""
        if await self._has_keys():
            return
        upstream = self._around.upstream
        if upstream is not None:
            await self._until_named()
            await self._catch_up()
            await self._fetcher.ask(self.request_keys)
            return
        value, _ = await self._around.l1.prove(
            keys_key(self._around.shard, 0), self.follower.progress.imported
        )
        if value is not None:
            raise StalledError(
                "the shard has keys and this worker does not",
                hint="Name a worker that has them under [upstream] and restart.",
            )
        await self._give_birth()

    async def _until_named(self) -> None:
        """Until the schedule lets this code have the keys; asking costs fees."""
        code = self.hello.fingerprint
        while (schedule := await self.schedule()) is not None:
            releases = [
                entry.release_from
                for entry in schedule.entries
                if code in entry.config.code.values()
            ]
            imported = self.follower.progress.imported
            if releases and min(releases) <= imported:
                return
            self._troubles[KEYS] = (
                f"their notice runs until block {min(releases)}"
                if releases
                else f"the schedule does not name this code, {code.hex()}"
            )
            await self.follower.next_block()

    # --- registration, birth, provisioning ---

    async def register(self, registration: Registration) -> Height:
        """Bring a registration to L1; the height of its block.

        Raises:
            StalledError: L1 refused it, by name.
        """
        await self._around.evidence.ensure_collateral(self._outbox, registration.quote)
        outcome = await self._outbox.act(
            "teerex.register_sgx_enclave",
            {
                "statement": registration.statement,
                "signature": registration.signature,
                "quote": registration.quote,
                "url": self.url,
            },
        )
        _require(outcome, "L1 refused the registration")
        return outcome.height

    async def register_now(self) -> Height:
        """Register, or attest again, without a challenge."""
        registration = await self.channel.call(
            Register(operator=self._around.operator), Registration
        )
        return await self.register(registration)

    async def _give_birth(self) -> None:
        blob = self._around.disk.genesis()
        if blob is None:
            raise StalledError(
                "the shard has no keys yet, and here is no genesis blob",
                expected="a file under [shard] genesis",
                hint="`sealift shard create` wrote one; copy it here.",
            )
        height = await self.register_now()
        await self.follower.reach(height)
        async with self.follower.standing_still():
            published = await self.channel.call(BornKeys(blob=blob), KeysPublished)
        self._around.disk.keep_key_store(published.key_store)
        self._store.put_meta("born", b"\x01")
        self._store.add_holders(self.started.signing_key)
        outcome = await self._outbox.act(
            "enclave_bridge.publish_key",
            {"statement": published.statement, "signature": published.signature},
        )
        _require(outcome, "L1 refused the shard's first keys")
        await self.follower.reach(outcome.height)

    async def request_keys(self, upstream: Upstream) -> None:
        """One try at provisioning.

        Raises:
            SealiftError: Why the keys did not come: the notice may not have run,
                the provider may be late.
        """
        async with upstream.mura() as wire:
            provider = await request_session(
                self.channel,
                self.follower,
                wire,
                operator=self._around.operator,
                register=self.register,
                keep=self._around.disk.keep_key_store,
            )
        self._store.add_holders(self.started.signing_key, *provider)

    # --- standing ---

    async def _announce(self) -> None:
        record = await self._record()
        if record is None:
            await self._attest_again()
        elif record.url != self.url:
            outcome = await self._outbox.act(
                "teerex.announce",
                {"signing_key": self.started.signing_key, "url": self.url},
            )
            _require(outcome, "L1 refused the announcement")

    async def _record(self) -> EnclaveRecord | None:
        height = self.follower.progress.imported
        return await record_of(self._around.l1, self.started.signing_key, height)

    async def schedule(self) -> Schedule | None:
        """The shard's schedule, as the L1 node says (a hint for people)."""
        value, _ = await self._around.l1.prove(
            schedule_key(self._around.shard), self.follower.progress.imported
        )
        return None if value is None else canonical_decode(Schedule, value)

    async def _keep_attested(self) -> None:
        """Attest again at half of the policy's maximum age, or by a raised floor."""
        looked_at = 0
        while True:
            await self.follower.next_block()
            imported = self.follower.progress.imported
            if imported - looked_at >= _ATTESTATION_EVERY:
                looked_at = imported
                await self._patiently(ATTESTATION, self._attest_again)

    async def _attest_again(self) -> None:
        record, schedule = await self._record(), await self.schedule()
        if schedule is None or not self._has_a_turn(schedule):
            return  # L1 would refuse code whose time is over, for a fee
        imported = self.follower.progress.imported
        policy = config_at(schedule, imported).config.attestation
        floor = max(policy.not_before, schedule.status.not_before)
        if (
            record is None
            or imported - record.attested_at > policy.max_age_blocks // 2
            or record.attested_at < floor <= imported
        ):
            await self.register_now()

    def _has_a_turn(self, schedule: Schedule) -> bool:
        """Whether this code runs now or is to run."""
        return any(
            entry.status in _IN_TURN
            and self.hello.fingerprint in entry.config.code.values()
            for entry in schedule.entries
        )

    async def _keep_snapshots(self) -> None:
        pruned_at = 0
        while True:
            await self.follower.next_block()
            executed = self.follower.progress.executed
            if executed is None:
                continue
            if executed - pruned_at >= _PRUNE_EVERY:
                pruned_at = executed
                self._store.drop_receipts_below(executed - RECEIPTS_KEPT)
            if self._snapshot_at is None:
                self._snapshot_at = executed
            elif executed - self._snapshot_at >= self._around.snapshot_every:
                await self._snapshot_or_later(executed)

    async def _snapshot_or_later(self, executed: Height) -> None:
        """Blocks go on without one; a whole export is not tried at each of them."""
        every = self._around.snapshot_every
        try:
            await self._renew_snapshot()
        except FATAL:
            raise
        except SealiftError as error:
            self._troubles[SNAPSHOT] = str(error)
            self._snapshot_at = executed - every + min(_PRUNE_EVERY, every)
        else:
            self._troubles.pop(SNAPSHOT, None)

    async def _renew_snapshot(self) -> None:
        height = (await self.follower.keep_snapshot()).height
        # Diffs that a peer may be applying just now stay for one more period, and
        # those that lead on from the oldest snapshot that is kept.
        kept = self._store.stored_snapshots()
        oldest = kept[-1].height if kept else height
        below = min(height - self._around.snapshot_every, oldest + 1)
        self._store.drop_diffs_below(below)
        self._snapshot_at = height

    # --- what others ask ---

    def health(self) -> Health:
        """Whether anything keeps this worker from its duty, by name."""
        return self._report.health()

    async def reading(self) -> Reading:
        """One scrape of the metrics."""
        return await self._report.reading()

    async def describe(self) -> dict[str, object]:
        """Everything that ``worker status`` shows."""
        return await self._report.describe(self.url)


def _require(outcome: Included, what: str) -> None:
    if outcome.code:
        raise StalledError(
            what, got=f"code {outcome.code}: {outcome.log}", expected="code 0"
        )
