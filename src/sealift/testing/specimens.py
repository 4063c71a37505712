"""Specimens: what a release leaves on disks and wires, kept for later ones.

    python -m sealift.testing.specimens OUT        a new folder; nothing twice

plays a small life of a shard with the program as it is: a chain, the simulated
Intel, a worker that gives birth, users' calls, a second worker that is provisioned
and takes a snapshot and diffs over. Then it writes what is left:

==================  =========================================================
``specimen.json``   what is in it: trust root, shard, heights, roots, nonces
``bundle.zip``      the application's bundle without its wheels
``wheels.txt``      the lock by which the wheels are fetched, by hash
``vendor.pem``      the vendor's key: it signs the next version
``insecure-sim/``   the simulated Intel, and the machines that open the seals
``chain/``          the home of the L1 node with its database
``worker-…/``       key store, database, operator's key, genesis of a worker
``snapshot.bin``    (height, header, chunks), as a worker offers it
``diffs.bin``       [(height, diff)], those after the snapshot
``checkpoint.bin``  the relay's, authenticated by the enclave
``provisioning.bin``  [(end, request or reply, frame)] of one mu-ra session
==================  =========================================================

A specimen is made once, by the release whose number it has, and never changed.
All secrets in it are the specimen's own and protect nothing.
"""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version as release_version
from pathlib import Path
from typing import Any, Final, cast
from unittest import mock

import aiohttp

from sealift.base import (
    Height,
    Message,
    ShardId,
    canonical_decode,
    decode,
    encode,
)
from sealift.bundle import (
    Bundle,
    bundle_of,
    encode_bundle,
    parse_bundle,
    verify_bundle,
)
from sealift.cli.playground import (
    CHAIN_ID,
    ChainScan,
    DemoOptions,
    Load,
    Stage,
    set_stage,
    write_worker_home,
)
from sealift.crypto import account_of, sha256
from sealift.frame import RuntimeMetadata
from sealift.ledger import DcapVerifier
from sealift.node import (
    LedgerApplication,
    SoloConfig,
    SoloHome,
    SoloNode,
    run_solo,
)
from sealift.protocol import (
    Frontier,
    KeyEpochRecord,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    frontier_key,
    keys_key,
)
from sealift.protocol.ecall import (
    ECALL_VERSIONS,
    MAX_FRAME_BYTES,
    CloseSession,
    FeedSession,
    OpenSession,
    ProveSession,
    Request,
)
from sealift.relay import Timestamp
from sealift.transport.account import L1Account
from sealift.transport.build import enclave_lock, fetch_wheels, user_wheel_cache
from sealift.transport.clock import Clock, WallClock
from sealift.transport.enclave_process import RunningEnclave
from sealift.transport.rpc import Backoff, L1Client, system_jitter
from sealift.worker import WorkerStore, run_worker

from ._errors import WorldError

#: The workers of a specimen: who gave birth, and who was provisioned by it.
WORKERS: Final = ("old", "old-2")
USERS: Final = 24
#: What of a worker's home is left out: it names this machine, or is made anew.
_OF_THIS_MACHINE: Final = (
    *("bundles", "worker.toml", "worker.url", "*.log", "*.lock", "*-wal", "*-shm"),
)
#: Chain and workers share one process, and machines are shared, too.
_BLOCK_MS: Final = 500
_PAGE_BITS: Final = 4
_PATIENCE: Final = 120.0
_SESSION: Final = (OpenSession, FeedSession, ProveSession, CloseSession)
Frames = list[tuple[str, str, bytes]]


@dataclass(slots=True)
class LaterClock:
    """A clock that goes on from a specimen's last block, whatever year it is.

    Args:
        begin: Its time now, in seconds.
        wall: What makes it go.
    """

    begin: int
    wall: Clock = field(default_factory=WallClock)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.wall.monotonic()

    def now(self) -> Timestamp:
        """The time in the specimen."""
        gone = self.wall.monotonic() - self._started
        nanos = int(gone * 1e9)
        return Timestamp(seconds=self.begin + nanos // 10**9, nanos=nanos % 10**9)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self.wall.monotonic()


class Surroundings:
    """A chain and workers in this process, their enclaves in processes of their own.

    Made by :func:`surroundings`; everything that it started ends with it.

    Args:
        node: The L1 node.
        l1: A client of it.
        http: For the workers.
        clock: Everybody's.
    """

    def __init__(
        self,
        node: SoloNode,
        l1: L1Client,
        http: aiohttp.ClientSession,
        clock: Clock,
    ) -> None:
        self.node, self.l1, self.http, self.clock = node, l1, http, clock
        self.scan = ChainScan(l1)
        self.urls: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, name: str, home: Path) -> str:
        """Start a worker of a home; the URL at which it answers."""
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            run_worker(
                home, clock=self.clock, ready=lambda one: ready.set_result(one.url)
            )
        )
        self._tasks[name] = task
        await asyncio.wait(
            (ready, task), timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            task.result()
        self.urls[name] = ready.result()
        return self.urls[name]

    async def stop(self, name: str) -> None:
        """End a worker; what it wrote stays."""
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop_all(self) -> None:
        """End all workers."""
        for name in reversed(list(self._tasks)):
            await self.stop(name)

    async def status(self, name: str) -> dict[str, Any]:
        """What a worker says of itself."""
        async with self.http.get(self.urls[name] + "/v1/status") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def until(
        self, name: str, holds: Callable[[dict[str, Any]], object], what: str
    ) -> dict[str, Any]:
        """Until something holds of a worker's status.

        Raises:
            WorldError: It does not, or the worker has ended.
        """
        status: dict[str, Any] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while True:
                    task = self._tasks[name]
                    if task.done():
                        task.result()
                    status = await self.status(name)
                    if "imported" in status and holds(status):
                        return status
                    await asyncio.sleep(0.05)
        raise WorldError(f"waited in vain: {name} {what}", got=str(status)[:800])


@contextlib.asynccontextmanager
async def surroundings(chain: Path, clock: Clock) -> AsyncIterator[Surroundings]:
    """Run the chain of a home, in this process, read along."""
    application = LedgerApplication(DcapVerifier())
    config = SoloConfig(block_ms=_BLOCK_MS, port=0, moniker="specimen")
    async with (
        run_solo(chain, application=application, clock=clock, config=config) as node,
        L1Client(node.url, backoff=Backoff(jitter=system_jitter)) as l1,
        aiohttp.ClientSession() as http,
    ):
        around = Surroundings(node, l1, http, clock)
        reading = asyncio.create_task(around.scan.run())
        try:
            yield around
        finally:
            await around.stop_all()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def open_load(
    around: Surroundings, *, secret: bytes, shard: ShardId, metadata: bytes
) -> Load:
    """Users who call a shard under its keys of epoch 0.

    Args:
        around: Where.
        secret: Of the L1 account that carries the calls.
        shard: The shard.
        metadata: The application's.

    Raises:
        WorldError: The shard has published no key.
    """
    entry = await around.l1.abci_query(keys_key(shard, 0), prove=False)
    if entry.value is None:
        raise WorldError("the shard has published no key")
    record = canonical_decode(KeyEpochRecord, entry.value)
    return Load(
        account=L1Account(secret, around.l1, CHAIN_ID),
        metadata=decode(RuntimeMetadata, metadata),
        shard=shard,
        shielding_key=record.statement.shielding_key,
        users=USERS,
        scan=around.scan,
    )


@contextlib.contextmanager
def recorded_sessions() -> Iterator[Frames]:
    """Every ECALL of mu-ra sessions in this process: (end, what, frame)."""
    frames: Frames = []
    roles: dict[int, str] = {}
    real = RunningEnclave.call

    async def call(self: RunningEnclave, payload: bytes) -> bytes:
        request = decode(cast("type[Message]", Request), payload, limit=MAX_FRAME_BYTES)
        if not isinstance(request, _SESSION):
            return await real(self, payload)
        if isinstance(request, OpenSession):
            roles[id(self)] = request.role
        end = roles[id(self)]
        frames.append((end, "request", payload))
        reply = await real(self, payload)
        frames.append((end, "reply", reply))
        return reply

    with mock.patch.object(RunningEnclave, "call", call):
        yield frames


# --- making one ---


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedState:
    """What a worker gives its peers: a snapshot, and the diffs after it."""

    height: Height
    header: bytes
    chunks: tuple[bytes, ...]
    diffs: list[tuple[Height, bytes]]


def make_specimen(out: Path) -> None:
    """Play the life of a shard, and write what is left of it.

    Args:
        out: A folder that does not exist.

    Raises:
        WorldError: It exists; specimens are made once.
        SealiftError: What could not be played, by name.
    """
    if out.exists():
        raise WorldError(
            "a specimen is made once", got=f"{out} exists", expected="a new folder"
        )
    with tempfile.TemporaryDirectory(prefix="sealift-specimen-") as name:
        options = DemoOptions(accounts=40, rate=8, block_ms=_BLOCK_MS)
        stage = set_stage(Path(name) / "stage", options, WallClock())
        facts, frames = asyncio.run(_play(stage))
        fresh = Path(name) / "specimen"
        fresh.mkdir()
        _write(fresh, stage, facts, frames)
        shutil.copytree(fresh, out)


async def _play(stage: Stage) -> tuple[dict[str, Any], Frames]:
    with recorded_sessions() as frames:
        async with surroundings(stage.chain, WallClock()) as around:
            facts = await _life(stage, around)
    return facts, frames


async def _life(stage: Stage, around: Surroundings) -> dict[str, Any]:
    authority = L1Account(stage.keys["authority"], around.l1, CHAIN_ID)
    rules = ShardRules(
        authority=SudoAuthority(key=account_of(stage.keys["authority"])),
        genesis=sha256(stage.genesis),
        min_notice=4,
        rescue_after=400,
        page_bits=_PAGE_BITS,
    )
    config = ShardConfig(
        code={"insecure-sim": stage.old.fingerprint}, min_isv_svn=stage.old.isv_svn
    )
    await authority.act(
        "enclave_bridge.create_shard", {"rules": rules, "config": config}
    )
    first, second = WORKERS
    write_worker_home(stage, first, l1_url=around.node.url, upstream="")
    url = await around.run(first, stage.worker(first))
    await around.until(first, lambda s: s["state_height"] is not None, "is born")
    load = await open_load(
        around,
        secret=stage.keys["carrier"],
        shard=stage.shard,
        metadata=stage.old.metadata,
    )
    await load.open_lots(around.scan.height)
    write_worker_home(stage, second, l1_url=around.node.url, upstream=url)
    await around.run(second, stage.worker(second))
    await around.until(second, lambda s: s["state_height"] is not None, "has state")
    bids = {user: (user % 4, 10 + user) for user in range(4, USERS)}
    for user, (lot, amount) in bids.items():
        await load.send(user, "auction.bid", {"lot": lot, "amount": amount})
    last = around.scan.height + 10
    for name in WORKERS:
        await around.until(name, lambda s: (s["state_height"] or 0) >= last, "goes on")
    confirmed = await _confirmed(around, stage.shard, last)
    state = await _offered_state(around, first)
    return {
        "state": state,
        "confirmed": {"height": int(confirmed.confirmed), "root": confirmed.root.hex()},
        "nonces": [load.nonce(user) for user in range(USERS)],
        "bids": [[user, lot, amount] for user, (lot, amount) in bids.items()],
        "calls": [one.envelope.hex() for one in load.calls],
    }


async def _offered_state(around: Surroundings, name: str) -> "OfferedState":
    """The snapshot that a worker offers and all diffs after it, as peers get them."""
    url = around.urls[name] + "/v1/state"

    async def fetch(path: str) -> bytes:
        async with around.http.get(url + path) as answer:
            answer.raise_for_status()
            return await answer.read()

    raw = await fetch("/snapshot?fresh_at=0")
    height, header, count = decode(tuple[Height, bytes, int], raw)
    chunks = tuple([await fetch(f"/snapshot/{height}/{n}") for n in range(count)])
    diffs: list[tuple[Height, bytes]] = []
    after = height
    while found := decode(
        list[tuple[Height, bytes]], await fetch(f"/diffs?after={after}")
    ):
        diffs += found
        after = found[-1][0]
    return OfferedState(height=height, header=header, chunks=chunks, diffs=diffs)


async def _confirmed(around: Surroundings, shard: ShardId, height: int) -> Frontier:
    """The frontier on L1, once it is at a height."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            entry = await around.l1.abci_query(frontier_key(shard), prove=False)
            if entry.value is not None:
                found = canonical_decode(Frontier, entry.value)
                if found.confirmed >= height:
                    return found
            await asyncio.sleep(0.1)


def _write(out: Path, stage: Stage, facts: dict[str, Any], frames: Frames) -> None:
    bundle = parse_bundle(stage.old.path.read_bytes())
    write_thin_bundle(out / "bundle.zip", bundle)
    (out / "wheels.txt").write_bytes(enclave_lock())
    (out / "vendor.pem").write_bytes(stage.vendor)
    locks = shutil.ignore_patterns("lock", ".lock")
    shutil.copytree(stage.sim, out / "insecure-sim", ignore=locks)
    head = _last_block(stage.chain)
    _settle_database(SoloHome(stage.chain).database)
    shutil.copytree(stage.chain, out / "chain", ignore=locks)
    for name in WORKERS:
        _settle_database(stage.worker(name) / "worker.db")
        left_out = shutil.ignore_patterns(*_OF_THIS_MACHINE)
        shutil.copytree(stage.worker(name), out / f"worker-{name}", ignore=left_out)
    told = _write_state(out, stage, facts.pop("state"))
    (out / "provisioning.bin").write_bytes(encode(frames))
    told |= {
        "release": release_version("sealift"),
        "ecall_versions": list(ECALL_VERSIONS),
        "target": bundle.manifest.target,
        "chain_id": str(CHAIN_ID),
        "shard": stage.shard.hex(),
        "fingerprint": stage.old.fingerprint.hex(),
        "isv_svn": stage.old.isv_svn,
        "trust_root": {
            "height": int(stage.trust_root.height),
            "header_hash": stage.trust_root.header_hash.hex(),
        },
        "users": USERS,
        **head,
        **facts,
    }
    lines = [f"  {json.dumps(k)}: {json.dumps(told[k])}" for k in sorted(told)]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (out / "specimen.json").write_text(text, encoding="utf-8")


def _write_state(out: Path, stage: Stage, state: OfferedState) -> dict[str, Any]:
    """Snapshot and diffs as they were offered, and the first worker's checkpoint."""
    path = stage.worker(WORKERS[0]) / "worker.db"
    store = WorkerStore(path, shard=stage.shard, fingerprint=stage.old.fingerprint)
    try:
        checkpoint = store.meta("checkpoint")
    finally:
        store.close()
    if checkpoint is None or not state.diffs:
        raise WorldError("the worker has no checkpoint, or no diff after the snapshot")
    snapshot = (state.height, state.header, state.chunks)
    (out / "snapshot.bin").write_bytes(encode(snapshot))
    (out / "diffs.bin").write_bytes(encode(state.diffs))
    (out / "checkpoint.bin").write_bytes(checkpoint)
    last = int(state.diffs[-1][0])
    return {"snapshot_height": int(state.height), "state_height": last}


def _last_block(chain: Path) -> dict[str, Any]:
    """The chain's last block, and the application's state after it."""
    opened = SoloHome(chain).open_chain(LedgerApplication(DcapVerifier()))
    try:
        height = opened.height
        block = opened.store.block(height)
        return {
            "height": int(height),
            "app_hash": opened.chain.tip.app_hash.hex(),
            "time": int(block.block.header.time.seconds) + 2,
        }
    finally:
        opened.close()


def _settle_database(path: Path) -> None:
    """Everything of a SQLite database into its one file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode=DELETE")


# --- bundles without wheels ---


def write_thin_bundle(path: Path, bundle: Bundle) -> None:
    """A bundle as an ordinary zip, without the wheels that its lock names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, content in bundle.files.items():
            if not name.startswith("wheels/"):
                file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        if bundle.sigstruct is not None:
            info = zipfile.ZipInfo("sigstruct.bin")
            file.writestr(info, bundle.sigstruct, zipfile.ZIP_DEFLATED)


def whole_bundle(specimen: Path) -> bytes:
    """The bundle of a specimen again, byte for byte, with wheels of its own lock.

    Raises:
        WheelFetchError: A wheel is neither in the user's cache nor to be fetched.
        SigstructError: What came out is not what the vendor signed.
    """
    with zipfile.ZipFile(specimen / "bundle.zip") as file:
        files = {name: file.read(name) for name in file.namelist()}
    signed = files.pop("sigstruct.bin", None)
    target = json.loads(files["manifest.json"])["target"]
    lock = (specimen / "wheels.txt").read_bytes()
    for name, content in fetch_wheels(lock, target, user_wheel_cache()).items():
        files[f"wheels/{name}"] = content
    bundle = bundle_of(files, sigstruct=signed)
    return encode_bundle(verify_bundle(bundle).bundle)


def snapshot_of(specimen: Path) -> tuple[Height, bytes, tuple[bytes, ...]]:
    """A specimen's snapshot: height, header, chunks."""
    raw = (specimen / "snapshot.bin").read_bytes()
    return decode(tuple[Height, bytes, tuple[bytes, ...]], raw)


def diffs_of(specimen: Path) -> list[tuple[Height, bytes]]:
    """A specimen's diffs after the snapshot, by height."""
    raw = (specimen / "diffs.bin").read_bytes()
    return decode(list[tuple[Height, bytes]], raw)


def session_of(specimen: Path) -> Frames:
    """A specimen's mu-ra session: (end, request or reply, frame)."""
    raw = (specimen / "provisioning.bin").read_bytes()
    return decode(list[tuple[str, str, bytes]], raw)


def main(words: list[str]) -> None:
    """``python -m sealift.testing.specimens OUT``.

    Raises:
        WorldError: Not one word.
    """
    if len(words) != 1:
        raise WorldError("where to?", expected="OUT, a folder that does not exist")
    make_specimen(Path(words[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
