"""A worker's life: start the enclave, get keys, follow, serve, re-attest.

Several tasks under one group: where one ends, all end, and the reason is said.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from sealift.base import (
    AccountId,
    Height,
    SealiftError,
    ShardId,
    canonical_decode,
)
from sealift.protocol import (
    EnclaveRecord,
    Schedule,
    config_at,
    enclave_key,
    keys_key,
    next_upgrade,
    schedule_key,
)
from sealift.protocol.ecall import (
    BornKeys,
    DiffApply,
    EnclaveStatus,
    GetStatus,
    HelloReply,
    KeysPublished,
    Register,
    Registration,
    Started,
    StateReply,
)

from ._api import Health
from ._channel import EnclaveChannel
from ._errors import EnclaveRefusedError, StalledError, UpstreamError, WorkerError
from ._feed import L1Source
from ._follower import Follower
from ._metrics import Reading
from ._mura import request_session
from ._outbox import Included, Outbox
from ._state import export_snapshot, import_snapshot
from ._store import WorkerStore
from ._upstream import Upstream

_RETRY_SECONDS = 0.5
#: The worker warns of what would stop it this many blocks ahead.
WARN_BLOCKS = 100


class Disk(Protocol):
    """Where the sealed key store and the genesis blob are."""

    def key_store(self) -> bytes | None:
        """The sealed key store of an earlier run."""

    def keep_key_store(self, sealed: bytes) -> None:
        """Make it durable, atomically."""

    def genesis(self) -> bytes | None:
        """The shard's genesis blob."""


class Evidence(Protocol):
    """Collateral for this platform, as L1 wants it before a registration."""

    async def ensure_collateral(self, outbox: Outbox) -> None:
        """Register fresh collateral on L1 where L1's own is absent or older."""


class Standing(Protocol):
    """What L1 knows about this worker and its peers (hints for people)."""

    async def funds(self, account: AccountId) -> int:
        """The free balance of an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a worker lives in."""

    l1: L1Source
    disk: Disk
    evidence: Evidence
    standing: Standing
    operator: AccountId
    upstream: Upstream | None
    snapshot_every: int


class Life:
    """Brings one enclave through birth or provisioning, and keeps it going.

    Args:
        channel: The enclave.
        follower: Imports and executes.
        store: The disk's database.
        outbox: The operator's L1 acts.
        around: L1, disk, peers.
        hello: Who the enclave is.
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
        self._stalled = ""
        self._snapshot_at = 0

    # --- what runs beside the follower ---

    async def run(self) -> None:
        """Follow, execute, serve; ends only by an error.

        Raises:
            SealiftError: Whatever stopped one of the tasks.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._outbox.run(), name="outbox")
                group.create_task(self.follower.run(self.started.head), name="follower")
                group.create_task(self._settle(), name="keys and state")
        except* SealiftError as errors:
            raise _first(errors) from None

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
        if await self._has_keys():
            return
        if not await self.request_keys(upstream):
            raise StalledError(self._stalled)

    async def _settle(self) -> None:
        """Get keys, then state; from then on re-attest and keep snapshots."""
        await self._catch_up()
        if not await self._has_keys():
            await self._get_keys()
        await self._announce()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetch_state(), name="state")
            group.create_task(self._keep_attested(), name="attestation")
            group.create_task(self._keep_snapshots(), name="snapshots")

    async def _catch_up(self) -> None:
        """Until the enclave has verified what L1 had when we looked."""
        head = await self._around.l1.wait_for_height(1)
        await self.follower.reach(max(head - 1, 1))

    async def _has_keys(self) -> bool:
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        return bool(status.epochs)

    async def _get_keys(self) -> None:
        """Birth, if L1 knows no keys of the shard; else provisioning."""
        shard = await self._shard()
        while True:
            value, _ = await self._around.l1.prove(
                keys_key(shard, 0), self.follower.progress.imported
            )
            if value is None and self._around.upstream is None:
                await self._give_birth()
                return
            if self._around.upstream is not None:
                if await self.request_keys(self._around.upstream):
                    return
            else:
                self._stalled = (
                    "the shard has keys and this worker does not: "
                    "name a worker that has them under [upstream]"
                )
            await asyncio.sleep(_RETRY_SECONDS)

    async def _shard(self) -> ShardId:
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        return status.shard

    # --- registration, birth, provisioning ---

    async def register(self, registration: Registration) -> Height:
        """Bring a registration to L1; the height of its block.

        Raises:
            StalledError: L1 refused it, by name.
        """
        await self._around.evidence.ensure_collateral(self._outbox)
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
        self._store.add_holders(1)
        outcome = await self._outbox.act(
            "enclave_bridge.publish_key",
            {"statement": published.statement, "signature": published.signature},
        )
        _require(outcome, "L1 refused the shard's first keys")
        await self.follower.reach(outcome.height)

    async def request_keys(self, upstream: Upstream) -> bool:
        """One try at provisioning; whether the keys came.

        A refusal is kept for the status: the notice may not have run, the
        provider may be late. The caller asks again.
        """
        try:
            async with upstream.mura() as wire:
                await request_session(
                    self.channel,
                    self.follower,
                    wire,
                    operator=self._around.operator,
                    register=self.register,
                    keep=self._around.disk.keep_key_store,
                )
        except (EnclaveRefusedError, UpstreamError, StalledError) as error:
            self._stalled = f"keys from {upstream.url}: {error}"
            return False
        self._stalled = ""
        self._store.add_holders(2)  # the provider and this one
        return True

    # --- state ---

    async def _fetch_state(self) -> None:
        """Fetch state and diffs from upstream while it is not ours to make."""
        upstream = self._around.upstream
        if upstream is None:
            return
        while True:
            status = await self.channel.call(GetStatus(), EnclaveStatus)
            try:
                if status.state_height is None:
                    await self._fetch_snapshot(upstream)
                elif not self._executing():
                    await self._fetch_diffs(upstream, status.state_height)
                else:
                    await asyncio.sleep(_RETRY_SECONDS)
            except (UpstreamError, EnclaveRefusedError) as error:
                self._stalled = f"state from {upstream.url}: {error}"
                await asyncio.sleep(_RETRY_SECONDS)

    def _executing(self) -> bool:
        """Whether the last imported block found this enclave executing."""
        executed = self.follower.progress.executed
        return executed is not None and not self.follower.progress.ended_generation

    async def _fetch_snapshot(self, upstream: Upstream) -> None:
        offered = await upstream.snapshot()
        if offered is None:
            await asyncio.sleep(_RETRY_SECONDS)
            return
        await import_snapshot(
            self.channel,
            self._store,
            header=offered.header,
            chunks=upstream.chunks(offered),
        )
        self._stalled = ""
        await self.follower.execute_ready()

    async def _fetch_diffs(self, upstream: Upstream, after: int) -> None:
        for height, diff in await upstream.diffs(after):
            if self._executing():
                return
            try:
                await self.channel.call(DiffApply(diff=diff), StateReply)
            except EnclaveRefusedError:
                status = await self.channel.call(GetStatus(), EnclaveStatus)
                if status.state_height is not None and status.state_height >= height:
                    continue  # executed here meanwhile
                raise
            self._store.commit_diff(height, diff)
            self._stalled = ""
            await self.follower.execute_ready()

    # --- standing ---

    async def _announce(self) -> None:
        record = await self._record()
        if record is not None and record.url != self.url:
            await self._outbox.act(
                "teerex.announce",
                {"signing_key": self.started.signing_key, "url": self.url},
            )

    async def _record(self) -> EnclaveRecord | None:
        value, _ = await self._around.l1.prove(
            enclave_key(self.started.signing_key), self.follower.progress.imported
        )
        return None if value is None else canonical_decode(EnclaveRecord, value)

    async def schedule(self) -> Schedule | None:
        """The shard's schedule, as the L1 node says (a hint for people)."""
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        value, _ = await self._around.l1.prove(
            schedule_key(status.shard), self.follower.progress.imported
        )
        return None if value is None else canonical_decode(Schedule, value)

    async def _keep_attested(self) -> None:
        """Attest again when half of the policy's maximum age has passed."""
        while True:
            await self.follower.next_block()
            imported = self.follower.progress.imported
            if imported % 20:
                continue
            record, schedule = await self._record(), await self.schedule()
            if record is None or schedule is None:
                continue
            limit = config_at(schedule, imported).config.attestation.max_age_blocks
            if imported - record.attested_at > limit // 2:
                try:
                    await self.register_now()
                except (StalledError, EnclaveRefusedError) as error:
                    self._stalled = f"attestation: {error}"

    async def _keep_snapshots(self) -> None:
        while True:
            await self.follower.next_block()
            executed = self.follower.progress.executed
            if executed is None:
                continue
            if executed - self._snapshot_at >= self._around.snapshot_every:
                if self._snapshot_at:
                    async with self.follower.standing_still():
                        height = await export_snapshot(self.channel, self._store)
                    self._store.drop_diffs_below(height - self._around.snapshot_every)
                self._snapshot_at = executed

    # --- what others ask ---

    def health(self) -> Health:
        """Whether anything keeps this worker from its duty, by name."""
        progress = self.follower.progress
        reasons = []
        if progress.halted:
            reasons.append(f"the enclave has stopped for good: {progress.halted}")
        lag = progress.l1_head - 1 - progress.imported
        if lag > CONFIRM_LAG:
            reasons.append(f"{lag} blocks behind: waiting for {progress.waiting_for}")
        if self._stalled:
            reasons.append(self._stalled)
        return Health(ok=not reasons, reasons=tuple(reasons))

    async def reading(self) -> Reading:
        """One scrape of the metrics."""
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        progress = self.follower.progress
        schedule, record = await self.schedule(), await self._record()
        ahead = None if schedule is None else next_upgrade(schedule, progress.imported)
        return Reading(
            l1_height=progress.l1_head,
            imported_height=progress.imported,
            state_height=status.state_height,
            blocks_to_upgrade=ahead.upgrade_at - progress.imported if ahead else None,
            instances_with_keys=self._store.holders() if status.epochs else 0,
            attestation_age_blocks=(
                None if record is None else progress.imported - record.attested_at
            ),
            operator_funds=await self._around.standing.funds(self._around.operator),
            calls_executed=progress.calls,
            state_bytes=status.accounts_bytes,
            halted=bool(progress.halted),
            fingerprint=self.hello.fingerprint.hex(),
            version=self.hello.app_version,
        )

    async def describe(self) -> dict[str, object]:
        """Everything that ``worker status`` shows."""
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        progress = self.follower.progress
        schedule = await self.schedule()
        record = await self._record()
        ahead = None if schedule is None else next_upgrade(schedule, progress.imported)
        health = self.health()
        return {
            "platform": self.hello.platform,
            "application": f"{self.hello.name} {self.hello.app_version}",
            "mrenclave": self.hello.fingerprint.hex(),
            "mrsigner": self.hello.mr_signer.hex(),
            "isv_svn": self.hello.isv_svn,
            "shard": status.shard.hex(),
            "signing_key": status.signing_key.hex(),
            "shielding_key": status.shielding_key.hex() if status.shielding_key else "",
            "operator": self._around.operator.hex(),
            "url": self.url,
            "registered": record is not None,
            "announced": record.url if record else "",
            "tcb_status": record.tcb_status if record else "",
            "l1_head": progress.l1_head,
            "imported": progress.imported,
            "state_height": status.state_height,
            "root": status.root.hex() if status.root else "",
            "executed": progress.executed,
            "generation": status.generation,
            "idle": progress.idle,
            "upgrade_at": ahead.upgrade_at if ahead else None,
            "blocks_to_upgrade": ahead.upgrade_at - progress.imported
            if ahead
            else None,
            "instances_with_keys": self._store.holders() if status.epochs else 0,
            "calls": progress.calls,
            "halted": progress.halted,
            "last_refusal": progress.last_refusal,
            "failed_acts": self._outbox.failures,
            "ok": health.ok,
            "reasons": list(health.reasons),
        }


#: What ``worker status`` shouts until a second instance holds the keys.
LONELY = "KEYS HELD BY 1 INSTANCE: losing this machine loses the shard"
#: So many blocks behind the L1 node is not healthy any more.
CONFIRM_LAG = 20


def _require(outcome: Included, what: str) -> None:
    if outcome.code:
        raise StalledError(
            what, got=f"code {outcome.code}: {outcome.log}", expected="code 0"
        )


def _first(errors: BaseExceptionGroup[SealiftError]) -> SealiftError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if isinstance(found, SealiftError):
        return found
    return WorkerError(f"the worker ended by {type(found).__name__}: {found}")
