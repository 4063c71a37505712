"""Real processes for tests: a chain, workers under supervision, users, a judge.

Everything is started here and stopped by its own pid, also after a failure.
"""

import asyncio
import contextlib
import datetime as dt
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from sealift.attestation import TrustAnchor
from sealift.base import (
    Digest,
    Generation,
    Height,
    SealiftError,
    canonical_decode,
    decode,
)
from sealift.bundle import encode_bundle, verify_bundle
from sealift.cli._application import (
    Trust,
    build_application,
    example,
    sign_bundle,
)
from sealift.cli._chaos_ground import config_of, in_time, place_chain
from sealift.cli._chaos_judge import Seat, judge_calls, judge_roots, replay
from sealift.cli._chaos_parts import Ended, Part, Parts
from sealift.cli._demo_load import ChainScan, Load
from sealift.cli._demo_parts import SEALIFT
from sealift.cli._demo_stage import (
    CHAIN_ID,
    BuiltBundle,
    DemoOptions,
    Stage,
    set_stage,
    write_worker_home,
)
from sealift.crypto import account_of, sha256
from sealift.frame import RuntimeMetadata
from sealift.insecure_sim import SimIntel
from sealift.protocol import (
    EntryStatus,
    KeyEpochRecord,
    Schedule,
    SealedReceipt,
    ShardRules,
    SudoAuthority,
    UpgradeOrder,
    keys_key,
    schedule_key,
    sign_order,
)
from sealift.transport.account import L1Account
from sealift.transport.clock import WallClock
from sealift.transport.rpc import Backoff, L1Client, system_jitter
from sealift.worker._l1 import L1View

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
MIN_NOTICE = 4
BLOCK_MS = 150


def make_template(folder: Path, *, accounts: int = 60) -> Stage:
    """A stage that no process has touched; copies of it share its bundles."""
    options = DemoOptions(accounts=accounts, rate=8, block_ms=BLOCK_MS)
    return set_stage(folder, options, WallClock())


def copy_stage(template: Stage, folder: Path, *, block_ms: int = BLOCK_MS) -> Stage:
    """A fresh stage: the same chain, vendor and bundles, nothing has run yet."""
    folder.mkdir(parents=True)
    for name in ("chain", "insecure-sim"):
        shutil.copytree(template.folder / name, folder / name)
    place_chain(folder / "chain", block_ms=block_ms)
    return Stage(
        folder=folder,
        trust_root=template.trust_root,
        old=template.old,
        new=template.new,
        shard=template.shard,
        genesis=template.genesis,
        keys=template.keys,
        vendor=template.vendor,
    )


def with_changed_code(stage: Stage, old: str, new: str) -> Stage:
    """A stage whose next bundle is version 2 with one change in its pallet."""
    source = stage.folder / "changed"
    shutil.copytree(example("auction") / "v2", source)
    pallet = source / "app" / "auction" / "pallet.py"
    text = pallet.read_text()
    assert text.count(old) == 1
    pallet.write_text(text.replace(old, new))
    anchor = TrustAnchor(root_der=SimIntel(stage.sim).root_der, kind="insecure-sim")
    trust = Trust(l1=stage.trust_root, roots=(anchor,))
    bundle = sign_bundle(
        build_application(source, trust), stage.vendor, date=dt.date(2026, 1, 1)
    )
    path = stage.folder / "changed.bundle"
    path.write_bytes(encode_bundle(bundle))
    signed = verify_bundle(bundle).sigstruct
    built = replace(
        stage.new, path=path, fingerprint=signed.mrenclave, isv_svn=signed.isv_svn
    )
    return replace(stage, new=built)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] not in "ZX"


class Cast(Parts):
    """The processes of one test, and what drives and judges them."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.folder)
        self.stage = stage
        self.l1: L1Client
        self.http: aiohttp.ClientSession
        self.scan: ChainScan
        self.load: Load
        self._tasks: list[asyncio.Task[None]] = []
        #: Where an instance's disk is and on which machine it ran, if not as named.
        self.places: dict[str, Seat] = {}

    # --- processes ---

    def add(self, name: str, *words: str, argv: tuple[str, ...] = SEALIFT) -> Part:
        part = Part(words=words, log=self.stage.folder / f"{name}.log", argv=argv)
        self.parts[name] = part
        return part

    async def run_once(self, name: str, *words: str) -> Ended:
        """Run a command that is expected to end by itself."""
        child = await self.add(name, *words).start()
        async with asyncio.timeout(PATIENCE):
            code = await child.wait()
        del self.parts[name]
        return Ended(code, child.output())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().close()

    # --- the chain, the shard, the workers ---

    async def start_chain(self) -> str:
        self.spawn("chain", "chain", "start", str(self.stage.chain))
        return await self.up("chain")

    def account(self, name: str) -> L1Account:
        return L1Account(self.stage.keys[name], self.l1, CHAIN_ID)

    async def create_shard(self, *, rescue_after: int = 400, **others: Any) -> None:
        rules = ShardRules(
            authority=SudoAuthority(key=account_of(self.stage.keys["authority"])),
            genesis=sha256(self.stage.genesis),
            min_notice=MIN_NOTICE,
            rescue_after=rescue_after,
            page_bits=8,
            **others,
        )
        config = config_of(self.stage.old)
        await self.account("authority").act(
            "enclave_bridge.create_shard", {"rules": rules, "config": config}
        )

    def home(
        self,
        name: str,
        *,
        bundle: BuiltBundle | None = None,
        machine: str | None = None,
        upstream: str = "",
        key: bytes | None = None,
        memory_limit: int = 0,
    ) -> Path:
        """A worker's home; ``old`` and ``new`` by name, others by arguments."""
        base = name if name in ("old", "new") else "old"
        stage = self.stage
        home = stage.worker(name)
        if base == name:
            write_worker_home(
                stage, name, l1_url=self.parts["chain"].url, upstream=upstream
            )
        else:
            scratch = Stage(
                folder=stage.folder / f"scratch-{name}",
                trust_root=stage.trust_root,
                old=bundle or stage.old,
                new=stage.new,
                shard=stage.shard,
                genesis=stage.genesis,
                keys={**stage.keys, "old": key or stage.keys["carrier"]},
                vendor=stage.vendor,
            )
            scratch.folder.mkdir()
            write_worker_home(
                scratch, "old", l1_url=self.parts["chain"].url, upstream=upstream
            )
            scratch.worker("old").rename(home)
        toml = home / "worker.toml"
        text = toml.read_text().replace(
            str(stage.folder / f"scratch-{name}" / "insecure-sim"), str(stage.sim)
        )
        if machine is not None:
            text = text.replace('machine = "old"', f'machine = "{machine}"')
        text = text.replace("memory_limit = 0", f"memory_limit = {memory_limit}")
        toml.write_text(text)
        return home

    def seat(self, name: str) -> Seat:
        """Where an instance is."""
        return self.places.get(name, Seat(self.stage.worker(name), name))

    def swapped(self, worker: str, *, machine: str | None = None) -> str:
        """The new bundle's instance within a worker's home, by a name for the judge."""
        code = self.stage.new.fingerprint.hex()
        name = "new" if worker == "old" else f"new-in-{worker}"
        folder = self.stage.worker(worker) / "instances" / code
        self.places[name] = Seat(folder, machine or worker)
        return name

    def run_worker(self, name: str, home: Path | None = None) -> Part:
        where = home or self.stage.worker(name)
        return self.spawn(name, "worker", "run", str(where))

    async def status(self, name: str) -> dict[str, Any] | None:
        try:
            timeout = aiohttp.ClientTimeout(total=10)
            url = self.parts[name].url + "/v1/status"
            async with self.http.get(url, timeout=timeout) as answer:
                found: dict[str, Any] = await answer.json()
                return found if "imported" in found else None
        except (aiohttp.ClientError, OSError, ValueError):
            return None

    async def until(
        self,
        holds: Callable[[], Awaitable[Any]],
        what: str,
        *,
        within: float = PATIENCE,
    ) -> Any:
        end = time.monotonic() + within
        while True:
            found = await holds()
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain for {what}\n{self.words()}")
            await asyncio.sleep(0.05)

    async def until_status(
        self,
        name: str,
        holds: Callable[[dict[str, Any]], Any],
        *,
        within: float = PATIENCE,
    ) -> dict[str, Any]:
        last: list[dict[str, Any] | None] = [None]

        async def look() -> dict[str, Any] | None:
            last[0] = await self.status(name)
            return last[0] if last[0] is not None and holds(last[0]) else None

        try:
            found: dict[str, Any] = await self.until(
                look, f"{name}'s status", within=within
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\nlast status: {last[0]}") from None
        return found

    async def give_birth(self, *, rescue_after: int = 400, **rules: Any) -> None:
        """The shard, and the old worker that gives birth to it."""
        self.home("old")
        await self.create_shard(rescue_after=rescue_after, **rules)
        self.run_worker("old")
        await self.up("old")
        await self.until_status("old", lambda s: s["state_height"] is not None)

    async def open_load(self, *, lots: bool = True) -> Load:
        """Users who can call the shard."""
        entry = await self.l1.abci_query(keys_key(self.stage.shard, 0), prove=False)
        assert entry.value is not None
        record = canonical_decode(KeyEpochRecord, entry.value)
        self.load = Load(
            account=self.account("carrier"),
            metadata=decode(RuntimeMetadata, self.stage.old.metadata),
            shard=self.stage.shard,
            shielding_key=record.statement.shielding_key,
            users=60,
            scan=self.scan,
        )
        if lots:
            await self.load.open_lots(self.scan.height)
        return self.load

    def flow(self, rate: float) -> "asyncio.Task[None]":
        """Calls flow until the task is cancelled, through any outage of L1."""

        async def pump() -> None:
            while True:
                with contextlib.suppress(SealiftError):
                    await self.load.run(rate)
                await asyncio.sleep(0.1)

        task = asyncio.create_task(pump())
        self._tasks.append(task)
        return task

    async def schedule(
        self,
        *,
        lead: int,
        notice: int = MIN_NOTICE + 2,
        source: str = "",
        bundle: bytes | None = None,
    ) -> int:
        """The authority schedules the new bundle; XYZ."""
        return await in_time(lambda: self._order(lead, notice, source, bundle))

    async def _order(
        self, lead: int, notice: int, source: str, bundle: bytes | None
    ) -> int:
        before = await self.schedule_now()
        release = await self.l1.height() + notice
        order = UpgradeOrder(
            chain_id=CHAIN_ID,
            shard=self.stage.shard,
            serial=before.serial,
            predecessor=Generation(0),
            config=config_of(self.stage.new),
            release_from=Height(release),
            upgrade_at=Height(release + lead),
            expiry=Height(release),
            source=source,
            bundle=None if bundle is None else Digest(bundle),
        )
        signed = sign_order(order, self.stage.keys["authority"])
        await self.account("authority").act(
            "enclave_bridge.submit_order", {"order": signed}
        )
        return release + lead

    async def schedule_now(self) -> Schedule:
        entry = await self.l1.abci_query(schedule_key(self.stage.shard), prove=False)
        assert entry.value is not None
        return canonical_decode(Schedule, entry.value)

    async def confirmed(self) -> int:
        return await L1View(self.l1).confirmed(self.stage.shard) or 0

    async def until_confirmed(self, height: int, *, within: float = PATIENCE) -> None:
        async def look() -> bool:
            with contextlib.suppress(SealiftError):
                return await self.confirmed() >= height
            return False

        await self.until(look, f"block {height} to be confirmed", within=within)

    async def reach(self, height: int) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.scan.reach(height)

    # --- the judge ---

    async def follow_chain(self) -> None:
        while True:
            with contextlib.suppress(SealiftError):
                await self.scan.run()
            await asyncio.sleep(0.1)

    def receipts(self, *names: str) -> dict[Digest, dict[str, SealedReceipt]]:
        """What the disks of these workers have for each envelope."""
        found: dict[Digest, dict[str, SealedReceipt]] = {}
        for name in names:
            path = self.seat(name).folder / "worker.db"
            with contextlib.closing(sqlite3.connect(path)) as db:
                for (data,) in db.execute("SELECT data FROM receipts"):
                    receipt = decode(SealedReceipt, data)
                    found.setdefault(receipt.envelope, {})[name] = receipt
        return found

    async def judge(self, *names: str, upgrade_at: int | None, upto: int) -> None:
        """All calls on L1 up to a block, against an undisturbed execution.

        1. The confirmed root chain on L1 has no gap, and no block twice; fresh
           enclaves replay the chain from genesis: every confirmed root is theirs.
        2. Every call on L1 has exactly one receipt, at the place at which the
           undisturbed execution has it: no user of these makes copies. That holds
           of what was executed and not yet confirmed when the workers ended, too.
        """
        receipts = self.receipts(*names)
        executed = [int(o.height) for one in receipts.values() for o in one.values()]
        await self.reach(max([upto, *executed]) + 1)
        confirmed = int(self.scan.confirmations[-1][1].last)
        done = await replay(  # 1
            self.stage,
            self.l1,
            homes=(self.seat("old"), self.seat("new")),
            upgrade_at=upgrade_at,
            upto=max([confirmed, *executed]),
        )
        wrong = judge_roots(self.scan, done, upto=max(confirmed, upto))
        assert any(at <= upto for at, _ in self.scan.calls.values()), "nobody called"
        wrong += judge_calls(self.scan, done, receipts, upto=upto)  # 2
        for envelope, by_worker in receipts.items():
            places = {(int(one.height), int(one.index)) for one in by_worker.values()}
            if places != {done.places.get(envelope)}:
                wrong.append(f"calls: {envelope.hex()[:16]} was executed at {places}")
        assert not wrong, "\n".join(wrong)


async def pending(cast: Cast) -> bool:
    """Whether an upgrade is ahead."""
    schedule = await cast.schedule_now()
    return any(entry.status is EntryStatus.PENDING for entry in schedule.entries)


@contextlib.asynccontextmanager
async def on_stage(stage: Stage) -> AsyncIterator[Cast]:
    """A running chain, read along; everything ends with the block."""
    cast = Cast(stage)
    try:
        url = await cast.start_chain()
        async with (
            L1Client(url, backoff=Backoff(jitter=system_jitter)) as l1,
            aiohttp.ClientSession() as http,
        ):
            cast.l1, cast.http = l1, http
            cast.scan = ChainScan(l1)
            cast._tasks.append(asyncio.create_task(cast.follow_chain()))
            try:
                yield cast
            finally:
                await cast.close()
    finally:
        await cast.close()


def play(stage: Stage, story: Callable[[Cast], Awaitable[None]]) -> None:
    """Run a story on a stage with a running chain."""

    async def whole() -> None:
        async with on_stage(stage) as cast:
            await story(cast)

    asyncio.run(whole())
