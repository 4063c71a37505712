"""The nine steps of a handover, on real processes, under load (DESIGN §11)."""

import asyncio
import contextlib
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from sealift.base import (
    Generation,
    Height,
    SealiftError,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import account_of, sha256
from sealift.frame import RuntimeMetadata
from sealift.protocol import (
    EntryStatus,
    HandoverCertificate,
    KeyEpochRecord,
    Schedule,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    UpgradeOrder,
    certificate_key,
    keys_key,
    schedule_key,
    sign_order,
)
from sealift.transport.account import L1Account
from sealift.transport.process import ChildProcess, ProcessSpec, start_process
from sealift.transport.rpc import Backoff, L1Client, system_jitter

from ._demo_load import ChainScan, Load
from ._demo_stage import CHAIN_ID, DemoOptions, Stage, write_worker_home

#: Blocks: notice of an upgrade, from its record to the release of the keys.
MIN_NOTICE = 8
#: From the release of the keys to XYZ.
LEAD = 45
RESCUE_AFTER = 200
STEPS = (
    "the old worker runs",
    "the authority schedules the new fingerprint",
    "the new worker requests the keys",
    "the old enclave provisions the new one",
    "the new worker runs on its own port",
    "it announces itself on L1",
    "it follows the chain without executing",
    "at XYZ the old enclave stops by itself",
    "the new enclave executes from XYZ",
)
_PATIENCE = 120.0
#: A machine that is slower than this before the upgrade is too slow for it.
_MOST_STRETCH = 1.6
_MOST_LAG = 4
#: How the parts of Sealift are started.
SEALIFT: tuple[str, ...] = (sys.executable, "-m", "sealift")


class DemoError(SealiftError):
    """The demo could not be carried on."""


@dataclass(slots=True)
class Step:
    """One of the nine, and how long it took."""

    number: int
    name: str
    milliseconds: float | None = None


@dataclass(slots=True)
class Check:
    """Something that must hold at the end."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Progress:
    """What the live display shows."""

    steps: list[Step] = field(
        default_factory=lambda: [Step(n, name) for n, name in enumerate(STEPS, 1)]
    )
    current: int = 0
    note: str = "preparing"
    upgrade_at: int | None = None
    checks: list[Check] = field(default_factory=list)
    ports: dict[str, str] = field(default_factory=dict)

    def check(self, name: str, ok: bool, detail: str) -> None:  # noqa: FBT001
        """Note a check."""
        self.checks.append(Check(name, ok, detail))


class Processes:
    """The demo's child processes, stopped by their own pids whatever happens.

    Args:
        stage: Where they live.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._running: dict[str, ChildProcess] = {}

    async def start(self, name: str, *words: str) -> str:
        """Start a part of Sealift; the URL in its readiness line."""
        child = await start_process(
            ProcessSpec(
                argv=(*SEALIFT, *words),
                log=self._stage.folder / f"{name}.log",
            )
        )
        self._running[name] = child
        line = await child.wait_for_line(r"https?://[0-9.]+:[0-9]+", within=_PATIENCE)
        return line.group(0)

    async def finish(self, name: str, *words: str) -> None:
        """Run a command of Sealift to its end; it must succeed.

        Raises:
            DemoError: It does not.
        """
        child = await start_process(
            ProcessSpec(
                argv=(*SEALIFT, *words),
                log=self._stage.folder / f"{name}.log",
            )
        )
        self._running[name] = child
        code = await child.wait()
        del self._running[name]
        if code:
            raise DemoError(
                f"`sealift {words[0]} {words[1]}` failed",
                got=f"exit code {code}: {child.output()[-600:]}",
                hint=f"Its log is {self._stage.folder / name}.log.",
            )

    async def stop(self, name: str) -> None:
        """Ask one to end, and wait."""
        child = self._running.pop(name)
        await child.stop()

    async def stop_all(self) -> None:
        """End whatever still runs, the last started first."""
        for name in reversed(list(self._running)):
            with contextlib.suppress(SealiftError):
                await self.stop(name)


class Story:
    """Carries the nine steps out, and what must hold afterwards.

    Args:
        stage: What was prepared.
        options: From the command line.
        metadata: The old application's runtime.
    """

    def __init__(
        self, stage: Stage, options: DemoOptions, metadata: RuntimeMetadata
    ) -> None:
        self.stage = stage
        self.options = options
        self.metadata = metadata
        self.progress = Progress()
        self.processes = Processes(stage)
        self._scan: ChainScan | None = None
        self._load: Load | None = None
        self._l1: L1Client
        self._http: aiohttp.ClientSession
        self._urls: dict[str, str] = {}

    @property
    def scan(self) -> ChainScan:
        """What stands on L1."""
        if self._scan is None:
            raise DemoError("the chain does not run yet")
        return self._scan

    @property
    def load(self) -> Load:
        """The users."""
        if self._load is None:
            raise DemoError("no calls flow yet")
        return self._load

    def glimpse(self) -> tuple[int, int, int]:
        """For the live display: L1's height, calls sent, calls waiting."""
        height = 0 if self._scan is None else self._scan.height
        if self._load is None:
            return height, 0, 0
        return height, len(self._load.calls), self._load.waiting()

    @contextlib.asynccontextmanager
    async def _step(self, number: int) -> AsyncIterator[None]:
        step = self.progress.steps[number - 1]
        self.progress.current = number
        self.progress.note = step.name
        began = time.monotonic()
        yield
        step.milliseconds = (time.monotonic() - began) * 1000

    async def play(self) -> None:
        """Everything; processes and connections are gone afterwards.

        Raises:
            SealiftError: Why it could not be carried on.
        """
        try:
            async with asyncio.TaskGroup() as group:
                url = await self.processes.start(
                    "chain", "chain", "start", str(self.stage.chain)
                )
                async with (
                    L1Client(url, backoff=Backoff(jitter=system_jitter)) as l1,
                    aiohttp.ClientSession() as http,
                ):
                    self._l1, self._http = l1, http
                    self.progress.ports["L1"] = url
                    self._scan = ChainScan(l1)
                    tasks = [group.create_task(self.scan.run(), name="scan")]
                    try:
                        await self._play(url, group, tasks)
                    finally:
                        for task in tasks:
                            task.cancel()
                        await asyncio.gather(*tasks, return_exceptions=True)
        except* SealiftError as errors:
            raise _first(errors) from errors
        finally:
            await self.processes.stop_all()

    async def _play(
        self, l1_url: str, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]
    ) -> None:
        write_worker_home(self.stage, "old", l1_url=l1_url, upstream="")
        async with self._step(1):
            await self._create_shard()
            await self._run_worker("old")
            await self._until_status("old", lambda s: s["state_height"] is not None)
        upstream = self._urls["old"]
        write_worker_home(self.stage, "new", l1_url=l1_url, upstream=upstream)
        shielding_key = await self._shielding_key()
        self._load = Load(
            account=self._account("carrier"),
            metadata=self.metadata,
            shard=self.stage.shard,
            shielding_key=shielding_key,
            users=min(self.options.accounts, 1000),
            scan=self.scan,
        )
        listener = self.load.listen("old", self._urls["old"], self._http)
        tasks.append(group.create_task(listener, name="old receipts"))
        await self.load.open_lots(self.scan.height)
        await self._until(lambda: self.load.waiting() == 0, "the lots to be open")
        pump = group.create_task(self.load.run(self.options.rate), name="load")
        tasks.append(pump)
        await self._warm_up()
        async with self._step(2):
            upgrade_at, release_from = await self._schedule()
        self.progress.upgrade_at = upgrade_at
        await self._provision(release_from)
        async with self._step(5):
            await self._run_worker("new")
        listener = self.load.listen("new", self._urls["new"], self._http)
        tasks.append(group.create_task(listener, name="new receipts"))
        async with self._step(6):
            await self._until_registered("new")
        async with self._step(7):
            await self._until_status("new", lambda s: s["state_height"] is not None)
        rolled_back = await self._copy_old_disk(upgrade_at)
        async with self._step(8):
            certificate = await self._until_certificate(upgrade_at)
        async with self._step(9):
            await self._until(
                lambda: self.scan.confirmed_at(upgrade_at) is not None,
                f"block {upgrade_at} to be confirmed",
            )
        self.certificate = certificate
        await self.scan.reach(upgrade_at + 15)
        await self._restart_both(upgrade_at)
        pump.cancel()
        await self._drain()
        await self._check_state()
        await self._check_rolled_back(rolled_back, upgrade_at)

    # --- the pieces ---

    def _account(self, name: str) -> L1Account:
        return L1Account(self.stage.keys[name], self._l1, CHAIN_ID)

    async def _create_shard(self) -> None:
        rules = ShardRules(
            authority=SudoAuthority(key=account_of(self.stage.keys["authority"])),
            genesis=sha256(self.stage.genesis),
            min_notice=MIN_NOTICE,
            rescue_after=RESCUE_AFTER,
        )
        config = ShardConfig(
            code={"insecure-sim": self.stage.old.fingerprint},
            min_isv_svn=self.stage.old.isv_svn,
        )
        account = self._account("authority")
        outcome = await account.act(
            "enclave_bridge.create_shard", {"rules": rules, "config": config}
        )
        if outcome.code:
            raise DemoError("L1 refused the shard", got=outcome.log)

    async def _run_worker(self, name: str, home: Path | None = None) -> None:
        where = home or self.stage.worker(name)
        url = await self.processes.start(f"worker-{name}", "worker", "run", str(where))
        self._urls[name] = url
        self.progress.ports[f"{name} worker"] = url

    async def _status(self, name: str) -> dict[str, Any] | None:
        try:
            async with self._http.get(self._urls[name] + "/v1/status") as answer:
                found: dict[str, Any] = await answer.json()
                return found if "imported" in found else None
        except (aiohttp.ClientError, OSError):
            return None

    async def _until_status(
        self, name: str, holds: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while True:
            status = await self._status(name)
            if status is not None and holds(status):
                return status
            if time.monotonic() > deadline:
                raise DemoError(
                    f"the {name} worker does not get on", got=str(status)[:800]
                )
            await asyncio.sleep(0.05)

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise DemoError(f"waited in vain for {what}")
            await asyncio.sleep(0.05)

    async def _shielding_key(self) -> bytes:
        entry = await self._l1.abci_query(keys_key(self.stage.shard, 0), prove=False)
        if entry.value is None:
            raise DemoError("the shard has published no key")
        return canonical_decode(KeyEpochRecord, entry.value).statement.shielding_key

    async def _warm_up(self) -> None:
        """Let ordinary blocks pass, and see whether this machine keeps up."""
        began = self.scan.height
        await self.scan.reach(began + 12)
        times = [self.scan.times[h] for h in range(began + 1, began + 12)]
        pace = (times[-1] - times[0]) / (len(times) - 1) * 1000
        lag = await self._lag("old")
        if pace > self.options.block_ms * _MOST_STRETCH or lag > _MOST_LAG:
            raise DemoError(
                "this machine is too slow for these settings, before any upgrade",
                got=f"{pace:.0f} ms a block, the worker {lag} blocks behind",
                expected=f"{self.options.block_ms} ms a block, at most 4 behind",
                hint="Say a longer --block-ms or a lower --rate.",
            )

    async def _lag(self, name: str) -> int:
        status = await self._status(name)
        if status is None:
            return 0
        return int(status["l1_head"]) - 1 - int(status["imported"])

    async def _schedule_now(self) -> Schedule:
        entry = await self._l1.abci_query(schedule_key(self.stage.shard), prove=False)
        if entry.value is None:
            raise DemoError("the shard has no schedule")
        return canonical_decode(Schedule, entry.value)

    async def _schedule(self) -> tuple[int, int]:
        """Step 2: a TrustedCall by the shard's sudo, carried to L1 by the worker."""
        schedule = await self._schedule_now()
        release = self.scan.height + MIN_NOTICE + 8
        order = UpgradeOrder(
            chain_id=CHAIN_ID,
            shard=self.stage.shard,
            serial=schedule.serial,
            predecessor=Generation(0),
            config=ShardConfig(
                code={"insecure-sim": self.stage.new.fingerprint},
                min_isv_svn=self.stage.new.isv_svn,
            ),
            release_from=Height(release),
            upgrade_at=Height(release + LEAD),
            expiry=Height(release),
        )
        signed = sign_order(order, self.stage.keys["authority"])
        await self.load.send_as(
            self.stage.keys["authority"],
            "enclave_update.update_mrenclave",
            {"order": encode(signed)},
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            schedule = await self._schedule_now()
            if any(e.status is EntryStatus.PENDING for e in schedule.entries):
                return release + LEAD, release
            if time.monotonic() > deadline:
                raise DemoError("the order did not reach L1")
            await asyncio.sleep(0.05)

    async def _provision(self, release_from: int) -> None:
        """Steps 3 and 4: registration, challenge, RA-TLS, keys under HPKE."""
        self.progress.note = f"the notice runs until block {release_from}"
        await self.scan.reach(release_from)
        began = time.monotonic()
        self.progress.current = 3
        self.progress.note = STEPS[2]
        task = asyncio.create_task(
            self.processes.finish(
                "request-keys",
                *("worker", "request-keys"),
                str(self.stage.worker("new")),
                *("--from", self._urls["old"]),
            )
        )
        registered = await self._until_new_instance(task)
        self.progress.steps[2].milliseconds = (registered - began) * 1000
        self.progress.current = 4
        self.progress.note = STEPS[3]
        await task
        self.progress.steps[3].milliseconds = (time.monotonic() - registered) * 1000

    async def _until_new_instance(self, task: "asyncio.Task[None]") -> float:
        seen = len(await self._registrations())
        while not task.done():
            if len(await self._registrations()) > seen:
                break
            await asyncio.sleep(0.02)
        return time.monotonic()

    async def _registrations(self) -> list[int]:
        return [
            h for h, name in self.scan.acts if name == "teerex.register_sgx_enclave"
        ]

    async def _until_registered(self, name: str) -> None:
        await self._until_status(
            name, lambda s: s["registered"] and s["announced"] == self._urls[name]
        )

    async def _copy_old_disk(self, upgrade_at: int) -> Path:
        """What a host keeps that will try to roll the old enclave back."""
        await self.scan.reach(upgrade_at - 8)
        source, copy = self.stage.worker("old"), self.stage.folder / "worker-rollback"
        await asyncio.to_thread(_copy_home, source, copy)
        self._require_before(upgrade_at)
        return copy

    def _require_before(self, upgrade_at: int) -> None:
        """The new worker must have been ready in time, or the gap means nothing."""
        if self.scan.height >= upgrade_at - 1:
            raise DemoError(
                "this machine is too slow: the new worker was not ready before XYZ",
                got=f"block {self.scan.height}",
                expected=f"before block {upgrade_at - 1}",
                hint="Say a longer --block-ms or a lower --rate.",
            )

    async def _until_certificate(self, upgrade_at: int) -> HandoverCertificate:
        deadline = time.monotonic() + _PATIENCE
        while True:
            key = certificate_key(self.stage.shard)
            entry = await self._l1.abci_query(key, prove=False)
            if entry.value is not None:
                found = canonical_decode(HandoverCertificate, entry.value)
                if found.height == upgrade_at - 1:
                    return found
            if time.monotonic() > deadline:
                raise DemoError("the old enclave posted no handover certificate")
            await asyncio.sleep(0.05)

    async def _restart_both(self, upgrade_at: int) -> None:
        """A restart is part of every upgrade (facts/peers, encointer-node #44)."""
        self.progress.note = "both workers are restarted and go on"
        for name in ("new", "old"):
            await self.processes.stop(f"worker-{name}")
        for name in ("new", "old"):
            await self._run_worker(name)
        here = self.scan.height
        await self._until_status("new", lambda s: (s["executed"] or 0) > here)
        status = await self._until_status("old", lambda s: s["imported"] > here)
        executed = status["state_height"]
        self.progress.check(
            "restarted, the new worker goes on", ok=True, detail=f"past block {here}"
        )
        self.progress.check(
            "restarted, the old worker executes nothing from XYZ on",
            ok=executed is not None and executed < upgrade_at,
            detail=f"its state stands after block {executed}",
        )

    async def _drain(self) -> None:
        """Until every call that is on L1 has its receipt."""
        self.progress.note = "the last calls get their receipts"
        await self.scan.reach(self.scan.height + 3)
        deadline = time.monotonic() + 30
        while self.load.waiting() and time.monotonic() < deadline:
            await self.load.fetch_missing([*self._urls.values()], self._http)
            await asyncio.sleep(0.2)
        last = max((r.height for c in self.load.calls for _, r, _ in c.receipts))
        await self.scan.reach(last + 1)

    async def _check_state(self) -> None:
        """The state survived: nonces and secret bids are what users expect."""
        right, asked = 0, 0
        self.load.reading = decode(RuntimeMetadata, self.stage.new.metadata)
        for user in range(0, self.load.users, 37):
            asked += 1
            right += await self.load.state_is_right(user, self._urls["new"], self._http)
        self.progress.check(
            "sealed state survived: nonces and secret bids are the users' own",
            ok=right == asked and asked > 0,
            detail=f"{right} of {asked} users asked",
        )

    async def _check_rolled_back(self, home: Path, upgrade_at: int) -> None:
        self.progress.note = "the old disk is rolled back to before XYZ"
        await self.processes.stop("worker-old")
        await self._run_worker("old", home)
        here = self.scan.height
        status = await self._until_status(
            "old",
            lambda s: s["imported"] > here and s["state_height"] is not None,
        )
        height = status["state_height"]
        self.progress.check(
            "rolled back, the old worker executes nothing from XYZ on",
            ok=height < upgrade_at and not status["idle"].startswith("behind"),
            detail=f"its state stands after block {height}: {status['idle'][:60]}",
        )


def _copy_home(source: Path, copy: Path) -> None:
    copy.mkdir()
    for name in ("worker.toml", "operator.key", "key_store.sealed", "genesis.bin"):
        shutil.copy2(source / name, copy / name)
    with (
        contextlib.closing(sqlite3.connect(source / "worker.db")) as live,
        contextlib.closing(sqlite3.connect(copy / "worker.db")) as copied,
    ):
        live.backup(copied)


def _first(errors: BaseExceptionGroup[SealiftError]) -> SealiftError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, SealiftError) else DemoError(str(found))
