"""The nine steps of a handover, on real processes, under load (DESIGN §11)."""

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Coroutine
from math import ceil
from pathlib import Path
from typing import Any

import aiohttp

from sealift.base import SealiftError, canonical_decode, decode
from sealift.crypto import account_of
from sealift.frame import RuntimeMetadata
from sealift.protocol import (
    HandoverCertificate,
    KeyEpochRecord,
    certificate_key,
    epoch_at,
    keys_key,
)
from sealift.transport.account import L1Account
from sealift.transport.rpc import Backoff, L1Client, system_jitter
from sealift.transport.tasks import first_of

from ._demo_decide import GRACE, LEAD, Government, Hall
from ._demo_engine import start_chain
from ._demo_load import ChainScan, Load, SealingKeys
from ._demo_parts import PATIENCE, STEPS, DemoError, Processes, Progress
from ._demo_stage import (
    CHAIN_ID,
    MOST_USERS,
    NEW,
    OLD,
    DemoOptions,
    Stage,
    holder_secret,
    write_worker_home,
)

#: A machine that is slower than this before the upgrade is too slow for it.
_MOST_STRETCH = 1.6
_MOST_LAG = 4
#: The new workers get this many times what the old ones took to come up.
_ROOM = 3.5


def lead_after(seconds: float, block_ms: int) -> int:
    """Blocks from the release of the keys to XYZ, by how fast this machine is.

    Args:
        seconds: What the old workers took from nothing to having the state.
        block_ms: Between blocks.
    """
    return max(LEAD, ceil(_ROOM * seconds * 1000 / block_ms))


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
        self.government = Government(stage, options.authority)
        self.processes = Processes(stage)
        self._scan: ChainScan | None = None
        self._load: Load | None = None
        self._l1: L1Client
        self._http: aiohttp.ClientSession
        self._l1_urls: list[str] = []
        self._beside: Callable[[Coroutine[Any, Any, None]], None]
        self._urls: dict[str, str] = {}
        self._lead = LEAD

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

    async def play(self) -> None:
        """Everything; processes and connections are gone afterwards.

        Raises:
            SealiftError: Why it could not be carried on.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._l1_urls = await start_chain(
                    self.processes, self.stage.chain, self.options.validators
                )
                url = self._l1_urls[0]
                async with (
                    L1Client(url, backoff=Backoff(jitter=system_jitter)) as l1,
                    aiohttp.ClientSession() as http,
                ):
                    self._l1, self._http = l1, http
                    self.progress.ports["L1"] = url
                    for number, other in enumerate(self._l1_urls[1:], 2):
                        self.progress.ports[f"L1, validator {number}"] = other
                    self._scan = ChainScan(l1)
                    tasks = [group.create_task(self.scan.run(), name="scan")]
                    try:
                        await self._play(group, tasks)
                    finally:
                        for task in tasks:
                            task.cancel()
                        await asyncio.gather(*tasks, return_exceptions=True)
        except* SealiftError as errors:
            raise first_of(errors) from errors
        finally:
            await self.processes.stop_all()

    async def _play(
        self, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]
    ) -> None:
        self._beside = lambda work: tasks.append(group.create_task(work))
        async with self.progress.step(1):
            await self.government.create_shard(self._l1)
            began = time.monotonic()
            await self._run_old()
        self._lead = lead_after(time.monotonic() - began, self.options.block_ms)
        pump = await self._open_business(group)
        tasks.append(pump)
        async with self.progress.step(2):
            scheduled = await self.government.schedule_upgrade(self.hall)
        upgrade_at, release_from = scheduled
        self.progress.upgrade_at = upgrade_at
        second = group.create_task(self._run_second(), name="the second new worker")
        await self._provision(release_from)
        async with self.progress.step(5):
            await self._run_worker(NEW[0])
        await second
        self._listen(NEW)
        async with self.progress.step(6):
            await self._until_registered()
        async with self.progress.step(7):
            for name in NEW:
                await self._until_status(name, lambda s: s["state_height"] is not None)
        rolled_back = await self._copy_old_disk(upgrade_at)
        async with self.progress.step(8):
            self.certificate = await self._until_certificate(upgrade_at)
        async with self.progress.step(9):
            await self._until(
                lambda: self.scan.confirmed_at(upgrade_at) is not None,
                f"block {upgrade_at} to be confirmed",
            )
        self.load.reading = decode(RuntimeMetadata, self.stage.new.metadata)
        await self.scan.reach(upgrade_at + 15)
        await self._restart_all(upgrade_at)
        if self.options.rotate:
            await self._rotate()
        pump.cancel()
        await self._drain()
        await self._check_state()
        await self._check_rolled_back(rolled_back, upgrade_at)

    # --- the pieces ---

    @property
    def hall(self) -> Hall:
        """Where those who decide are reached."""
        return Hall(
            stage=self.stage,
            l1=self._l1,
            http=self._http,
            scan=self.scan,
            load=self.load,
            urls=self._urls,
            progress=self.progress,
            lead=self._lead,
        )

    async def _open_business(self, group: asyncio.TaskGroup) -> "asyncio.Task[None]":
        """Users come, and their calls flow from now on."""
        self._load = Load(
            account=L1Account(self.stage.keys["carrier"], self._l1, CHAIN_ID),
            metadata=self.metadata,
            shard=self.stage.shard,
            shielding_key=await self._shielding_key(),
            users=min(self.options.accounts, MOST_USERS),
            scan=self.scan,
        )
        self._listen(OLD)
        await self.load.open_lots(self.scan.height)
        await self._until(lambda: self.load.waiting() == 0, "the lots to be open")
        self._beside(self._follow_epochs())
        pump = group.create_task(self.load.run(self.options.rate), name="load")
        await self._warm_up()
        return pump

    def _listen(self, names: tuple[str, str]) -> None:
        for name in names:
            self._beside(self.load.listen(name, self._urls, self._http))

    async def _run_old(self) -> None:
        """The first makes the shard's keys; the second gets them from it."""
        upstream = ""
        for name in OLD:
            self._write_home(name, upstream)
            await self._run_worker(name)
            await self._until_status(name, lambda s: s["state_height"] is not None)
            upstream = self._urls[name]

    async def _run_second(self) -> None:
        """The second new worker waits for the notice and gets the keys by itself."""
        self._write_home(NEW[1], self._urls[OLD[1]])
        await self._run_worker(NEW[1])

    def _write_home(self, name: str, upstream: str) -> None:
        # Each worker follows another node, where there are several.
        place = (*OLD, *NEW).index(name)
        l1_url = self._l1_urls[place % len(self._l1_urls)]
        write_worker_home(self.stage, name, l1_url=l1_url, upstream=upstream)

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
        deadline = time.monotonic() + PATIENCE
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
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise DemoError(f"waited in vain for {what}")
            await asyncio.sleep(0.05)

    async def _shielding_key(self) -> bytes:
        key = keys_key(self.stage.shard, 0)
        entry = await self._l1.abci_query(key, prove=False)
        if entry.value is None:
            raise DemoError("the shard has published no key")
        return canonical_decode(KeyEpochRecord, entry.value).statement.shielding_key

    async def _follow_epochs(self) -> None:
        """Users seal to the keys that act, for ever."""
        while True:
            await self.scan.reach(self.scan.height + 1)
            schedule = await self.hall.schedule()
            acting = epoch_at(schedule, self.scan.height)
            if acting.epoch != self.load.keys.epoch:
                keys = SealingKeys(acting.epoch, acting.keys.shielding_key)
                self.load.seal_under(keys)

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

    async def _provision(self, release_from: int) -> None:
        """Steps 3 and 4: registration, challenge, RA-TLS, keys under HPKE."""
        self.progress.note = f"the notice runs until block {release_from}"
        await self.scan.reach(release_from)
        self._write_home(NEW[0], self._urls[OLD[0]])
        began = time.monotonic()
        self.progress.current = 3
        self.progress.note = STEPS[2]
        task = asyncio.create_task(
            self.processes.finish(
                "request-keys",
                *("worker", "request-keys"),
                str(self.stage.worker(NEW[0])),
                *("--from", self._urls[OLD[0]]),
            )
        )
        registered = await self._until_new_instance(task)
        self.progress.steps[2].milliseconds = (registered - began) * 1000
        self.progress.current = 4
        self.progress.note = STEPS[3]
        await task
        self.progress.steps[3].milliseconds = (time.monotonic() - registered) * 1000

    async def _until_new_instance(self, task: "asyncio.Task[None]") -> float:
        operator = account_of(self.stage.keys[NEW[0]])
        await self._until(
            lambda: task.done() or operator in self.scan.registered, "a registration"
        )
        return time.monotonic()

    async def _until_registered(self) -> None:
        for name in NEW:
            url = self._urls[name]

            def known(status: dict[str, Any], url: str = url) -> bool:
                return bool(status["registered"]) and status["announced"] == url

            await self._until_status(name, known)

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
        deadline = time.monotonic() + PATIENCE
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

    async def _restart_all(self, upgrade_at: int) -> None:
        """A restart is part of every upgrade (facts/peers, encointer-node #44)."""
        self.progress.note = "all workers are restarted and go on"
        for name in (*NEW, *OLD):
            await self.processes.stop(f"worker-{name}")
        for pair in (NEW, OLD):
            await asyncio.gather(*(self._run_worker(name) for name in pair))
        here = self.scan.height
        for name in NEW:
            await self._until_status(name, lambda s: (s["executed"] or 0) > here)
        self.progress.check(
            "restarted, the new workers go on", ok=True, detail=f"past block {here}"
        )
        for name in OLD:
            status = await self._until_status(name, lambda s: s["imported"] > here)
            executed = status["state_height"]
            self.progress.check(
                f"restarted, worker {name} executes nothing from XYZ on",
                ok=executed is not None and executed < upgrade_at,
                detail=f"its state stands after block {executed}",
            )

    async def _rotate(self) -> None:
        """Keys that the upgrade left owed, then new ones that the authority orders.

        The old generation has neither, and calls under keys whose grace is over
        are refused by name.
        """
        await self._until_epoch(1)
        before = self.load.keys
        await self.government.rotate(self.hall)
        began = await self._until_epoch(2)
        await self.scan.reach(began + GRACE + 1)
        call = await self.load.send_late(
            holder_secret(0),
            "balances.transfer",
            {"dest": bytes(32), "amount": 1},
            before,
        )
        await self._until(
            lambda: self.load.outcome(call) is not None, "an answer to a late call"
        )
        outcome = self.load.outcome(call)
        self.progress.check(
            "after its grace, a call under the keys before is refused",
            ok=outcome == "KeyEpochExpiredError",
            detail=str(outcome),
        )

    async def _until_epoch(self, epoch: int) -> int:
        """Until the new generation holds an epoch that acts; its first block."""
        self.progress.note = f"the new enclaves make and hold the keys of epoch {epoch}"
        for name in NEW:
            await self._until_status(
                name, lambda s: s["key_epoch"] == epoch and s["key_epoch_held"]
            )
        await self._until(lambda: self.load.keys.epoch == epoch, "users to follow")
        acting = epoch_at(await self.hall.schedule(), self.scan.height)
        old = [await self._until_status(name, lambda s: "epochs" in s) for name in OLD]
        self.progress.check(
            f"both new enclaves have the keys of epoch {epoch}, neither old one has",
            ok=all(epoch not in status["epochs"] for status in old),
            detail=f"they act from block {acting.valid_from} on",
        )
        return acting.valid_from

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
    for manifest in (source / "snapshots").glob("*/manifest"):
        folder = manifest.parent
        shutil.copytree(folder, copy / "snapshots" / folder.name)
