"""Real processes for tests: a chain, workers under supervision, users, a judge.

Everything is started here and stopped by its own pid, also after a failure.
"""

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
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
    encode,
)
from sealift.bundle import encode_bundle, verify_bundle
from sealift.cli._application import (
    Trust,
    build_application,
    example,
    sign_bundle,
)
from sealift.cli._demo_load import ChainScan, Load
from sealift.cli._demo_stage import (
    CHAIN_ID,
    BuiltBundle,
    DemoOptions,
    Stage,
    set_stage,
    write_worker_home,
)
from sealift.crypto import account_of, sha256, system_entropy
from sealift.frame import RuntimeMetadata
from sealift.insecure_sim import SimIntel, SimMachine, SimPlatform
from sealift.protocol import (
    EntryStatus,
    KeyEpochRecord,
    Schedule,
    SealedReceipt,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    UpgradeOrder,
    keys_key,
    schedule_key,
    sign_order,
)
from sealift.protocol.ecall import (
    EnclaveStatus,
    Execute,
    Executed,
    Followed,
    Genesis,
    GetStatus,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotGet,
    SnapshotHeader,
    Start,
    Started,
    StateReply,
)
from sealift.transport.account import L1Account
from sealift.transport.bundle_folder import install_bundle, read_bundle_file
from sealift.transport.clock import WallClock
from sealift.transport.process import ChildProcess, ProcessSpec, start_process
from sealift.transport.rpc import Backoff, L1Client, system_jitter
from sealift.worker._channel import EnclaveChannel
from sealift.worker._feed import BlockFeed
from sealift.worker._l1 import L1View

ROOT = Path(__file__).resolve().parents[2]
SEALIFT = (sys.executable, "-c", "from sealift.cli import main; main()")
READY = r"^ready (https?://[0-9.]+:[0-9]+)"
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
    config = folder / "chain" / "solo.toml"
    lines = [
        f"port = {free_port()}"
        if line.startswith("port")
        else f"block_ms = {block_ms}"
        if line.startswith("block_ms")
        else line
        for line in config.read_text().splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] not in "ZX"


@dataclass
class Ended:
    """How a supervised process ended once."""

    code: int
    output: str


@dataclass
class Part:
    """A process that is started again whenever it ends."""

    words: tuple[str, ...]
    log: Path
    child: ChildProcess | None = None
    url: str = ""
    wanted: bool = True
    ended: list[Ended] = field(default_factory=list)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    argv: tuple[str, ...] = SEALIFT

    async def start(self) -> None:
        self.child = await start_process(
            ProcessSpec(argv=(*self.argv, *self.words), log=self.log)
        )

    async def supervise(self) -> None:
        while self.wanted:
            await self.start()
            assert self.child is not None
            with contextlib.suppress(SealiftError):
                line = await self.child.wait_for_line(READY, within=PATIENCE)
                self.url = line.group(1)
                self.up.set()
            code = await self.child.wait()
            self.up.clear()
            self.ended.append(Ended(code, self.child.output()))
            await asyncio.sleep(0.1)

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid


class Cast:
    """The processes of one test, and what drives and judges them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.parts: dict[str, Part] = {}
        self.l1: L1Client
        self.http: aiohttp.ClientSession
        self.scan: ChainScan
        self.load: Load
        self._tasks: list[asyncio.Task[None]] = []
        #: Where an instance's disk is and on which machine it ran, if not as named.
        self.places: dict[str, tuple[Path, str]] = {}

    # --- processes ---

    def spawn(self, name: str, *words: str, argv: tuple[str, ...] = SEALIFT) -> Part:
        """Start something, and again whenever it ends."""
        part = self.add(name, *words, argv=argv)
        part.task = asyncio.create_task(part.supervise())
        return part

    def add(self, name: str, *words: str, argv: tuple[str, ...] = SEALIFT) -> Part:
        part = Part(words=words, log=self.stage.folder / f"{name}.log", argv=argv)
        self.parts[name] = part
        return part

    async def up(self, name: str) -> str:
        """Until it has said its URL."""
        part = self.parts[name]
        async with asyncio.timeout(PATIENCE):
            while not part.up.is_set():
                await asyncio.sleep(0.02)
        return part.url

    async def stop(self, name: str) -> int:
        """Ask it to end and do not start it again; its exit code."""
        part = self.parts.pop(name)
        part.wanted = False
        code = 0
        if part.child is not None:
            code = await part.child.stop()
        if part.task is not None:
            part.task.cancel()
            await asyncio.gather(part.task, return_exceptions=True)
            if part.child is not None:  # it may have been started meanwhile
                await part.child.stop()
        return code

    def kill(self, name: str) -> None:
        """SIGKILL to this one process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.parts[name].pid, signal.SIGKILL)

    def kill_enclave(self, name: str) -> bool:
        """SIGKILL to the enclave of a worker; whether there was one."""
        pids = children(self.parts[name].pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)

    async def run_once(self, name: str, *words: str) -> Ended:
        """Run a command that is expected to end by itself."""
        part = self.add(name, *words)
        await part.start()
        assert part.child is not None
        async with asyncio.timeout(PATIENCE):
            code = await part.child.wait()
        del self.parts[name]
        return Ended(code, part.child.output())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in reversed(list(self.parts)):
            await self.stop(name)

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

    def place(self, name: str) -> tuple[Path, str]:
        """The folder of an instance, and its machine."""
        return self.places.get(name, (self.stage.worker(name), name))

    def swapped(self, worker: str, *, machine: str | None = None) -> str:
        """The new bundle's instance within a worker's home, by a name for the judge."""
        code = self.stage.new.fingerprint.hex()
        name = "new" if worker == "old" else f"new-in-{worker}"
        folder = self.stage.worker(worker) / "instances" / code
        self.places[name] = folder, machine or worker
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

    def words(self) -> str:
        """The last words of all processes, for a failed test."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}"
            for log in sorted(self.stage.folder.glob("*.log"))
        )

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
        entry = await self.l1.abci_query(schedule_key(self.stage.shard), prove=False)
        assert entry.value is not None
        before = canonical_decode(Schedule, entry.value)
        release = self.scan.height + notice
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

    def receipts(self, *names: str) -> dict[bytes, set[tuple[int, int]]]:
        """Where each envelope was executed, by the disks of these workers."""
        found: dict[bytes, set[tuple[int, int]]] = {}
        for name in names:
            path = self.place(name)[0] / "worker.db"
            with contextlib.closing(sqlite3.connect(path)) as db:
                for (data,) in db.execute("SELECT data FROM receipts"):
                    receipt = decode(SealedReceipt, data)
                    where = found.setdefault(bytes(receipt.envelope), set())
                    where.add((receipt.height, receipt.index))
        return found

    async def judge(self, *names: str, upgrade_at: int | None, upto: int) -> None:
        """All calls on L1 up to a block, against an undisturbed execution.

        1. The confirmed root chain on L1 has no gap, and no block twice.
        2. Fresh enclaves replay the chain from genesis: every confirmed root is
           theirs.
        3. Every call on L1 has exactly one receipt, at the place at which the
           undisturbed execution has it.
        """
        await self.reach(upto + 1)
        last, root = None, None
        confirmed: dict[int, bytes] = {}
        for _, said in self.scan.confirmations:  # 1
            if last is not None:
                assert said.first == last + 1, f"a gap after block {last}"
                assert said.prev_root == root, f"the root chain breaks at {last}"
            last, root = said.last, said.root
            confirmed[said.last] = said.root
        assert last is not None
        assert last >= upto, f"confirmed up to {last} only, wanted {upto}"
        roots, places = await self._replay(names, upgrade_at, last)  # 2
        wrong = {h: r.hex() for h, r in confirmed.items() if roots[h] != r}
        assert not wrong, (
            f"confirmed roots that an undisturbed run does not have: {wrong}"
        )
        calls = {bytes(e) for e, (at, _) in self.scan.calls.items() if at <= upto}  # 3
        done = self.receipts(*names)
        assert calls, "nobody made a call"
        lost = calls - set(done)
        assert not lost, f"{len(lost)} of {len(calls)} calls lost"
        doubled = {e.hex(): w for e, w in done.items() if len(w) > 1}
        assert not doubled, f"calls executed twice: {doubled}"
        moved = {e.hex() for e in calls if done[e] != {places[e]}}
        assert not moved, f"calls at other places: {moved}"
        per_block: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        for envelope, on_l1 in self.scan.calls.items():
            if on_l1[0] <= upto:
                height, index = places[bytes(envelope)]
                assert height == on_l1[0]
                per_block.setdefault(height, []).append((index, on_l1))
        for entries in per_block.values():
            order = [on_l1 for _, on_l1 in sorted(entries)]
            assert order == sorted(order), "calls reordered"

    async def _replay(
        self, names: tuple[str, ...], upgrade_at: int | None, upto: int
    ) -> tuple[dict[int, bytes], dict[bytes, tuple[int, int]]]:
        roots: dict[int, bytes] = {}
        places: dict[bytes, tuple[int, int]] = {}
        end = upto if upgrade_at is None else upgrade_at - 1
        async with self.fresh_enclave("old", self.stage.old) as (channel, feed):
            await channel.call(Genesis(blob=self.stage.genesis), StateReply)
            await _replay_blocks(channel, feed, end, roots, places)
            if upgrade_at is None:
                return roots, places
            header = await channel.call(SnapshotBegin(), SnapshotHeader)
            chunks = [
                await channel.call(SnapshotGet(index=n), SnapshotChunk)
                for n in range(header.chunks)
            ]
        async with self.fresh_enclave("new", self.stage.new) as (channel, feed):
            await channel.call(SnapshotBegin(header=header.header), SnapshotHeader)
            for chunk in chunks:
                await channel.call(chunk, StateReply)
            await _replay_blocks(channel, feed, upto, roots, places)
        return roots, places

    @contextlib.asynccontextmanager
    async def fresh_enclave(
        self, name: str, bundle: BuiltBundle
    ) -> AsyncIterator[tuple[EnclaveChannel, BlockFeed]]:
        """An enclave process with the keys of a worker and nothing else of it."""
        home, on = self.place(name)
        machine = SimMachine(SimIntel(self.stage.sim), on, entropy=system_entropy)
        folder = install_bundle(read_bundle_file(bundle.path), home / "bundles")
        async with await SimPlatform(machine).start(folder) as running:
            channel = EnclaveChannel(running)
            await channel.hello()
            view = L1View(self.l1)
            light = await view.light_block(self.stage.trust_root.height)
            started = await channel.call(
                Start(
                    shard=self.stage.shard,
                    key_store=(home / "key_store.sealed").read_bytes(),
                    checkpoint=None,
                    light_block=encode(light),
                ),
                Started,
            )
            yield (
                channel,
                BlockFeed(
                    view, shard=self.stage.shard, signing_key=started.signing_key
                ),
            )


async def _replay_blocks(
    channel: EnclaveChannel,
    feed: BlockFeed,
    upto: int,
    roots: dict[int, bytes],
    places: dict[bytes, tuple[int, int]],
) -> None:
    height = 1
    status = await channel.call(GetStatus(), EnclaveStatus)
    while status.state_height is None or status.state_height < upto:
        await channel.call(await feed.import_block(height), Followed)
        height += 1
        while isinstance(reply := await channel.ask(Execute()), Executed):
            for receipt in reply.receipts:
                place = (int(receipt.height), int(receipt.index))
                places.setdefault(bytes(receipt.envelope), place)
            status = await channel.call(GetStatus(), EnclaveStatus)
            assert status.root is not None
            roots[int(reply.height)] = bytes(status.root)
            if reply.height == upto:
                return
        assert height <= upto + 50, f"the replay stands: {reply}"


def config_of(bundle: BuiltBundle) -> ShardConfig:
    return ShardConfig(
        code={"insecure-sim": bundle.fingerprint}, min_isv_svn=bundle.isv_svn
    )


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
