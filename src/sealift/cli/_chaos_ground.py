"""The ground that the runs of a campaign have in common, and fresh copies of it.

Bundles, a vendor, a chain, and a shard that is born and has business: made once.
A run goes on from a copy, on which nothing else has run.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sealift.base import canonical_decode, decode
from sealift.crypto import account_of, sha256
from sealift.frame import RuntimeMetadata
from sealift.ledger import code_of
from sealift.protocol import (
    Frontier,
    KeyEpochRecord,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    frontier_key,
    keys_key,
)
from sealift.transport.account import L1Account, L1RefusedError
from sealift.transport.clock import Clock
from sealift.transport.rpc import Backoff, L1Client, system_jitter
from sealift.worker import CONFIG_FILE

from ._chaos_parts import PATIENCE, ChaosError, Parts, free_port
from ._demo_load import LOTS, ChainScan, Load
from ._demo_stage import (
    CHAIN_ID,
    BuiltBundle,
    DemoOptions,
    Stage,
    set_stage,
    write_worker_home,
)

#: Users who call: half of them pay each other, half bid.
CALLERS: Final = 12
USERS: Final = LOTS + CALLERS
#: While the ground is made: each of its blocks is executed again by every judge.
_SLOW_BLOCK_MS: Final = 300
MIN_NOTICE: Final = 4
RESCUE_AFTER: Final = 600
GRACE: Final = 1000
_PAGE_BITS: Final = 6
_ORDERS: Final = 3
_TOO_LATE: Final = frozenset(map(code_of, ("NoticeError", "OrderExpiredError")))
_KEPT: Final = ("key_store.sealed", "worker.db")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A stage that was played until the shard had business, and is left alone."""

    stage: Stage
    shielding_key: bytes
    block_ms: int


def config_of(bundle: BuiltBundle) -> ShardConfig:
    """The configuration that names a bundle."""
    return ShardConfig(
        code={"insecure-sim": bundle.fingerprint}, min_isv_svn=bundle.isv_svn
    )


async def make_ground(folder: Path, clock: Clock, *, block_ms: int) -> Ground:
    """Build, start a chain, give birth to a shard, open lots; then stop it all.

    Args:
        folder: A new one.
        clock: The wall clock.
        block_ms: Between blocks of the copies.

    Raises:
        SealiftError: Why there is none.
    """
    options = DemoOptions(accounts=USERS + 8, rate=1, block_ms=_SLOW_BLOCK_MS)
    stage = await asyncio.to_thread(set_stage, folder, options, clock)
    parts = Parts(folder)
    try:
        parts.spawn("chain", "chain", "start", str(stage.chain))
        url = await parts.up("chain")
        async with L1Client(url, backoff=Backoff(jitter=system_jitter)) as l1:
            key = await _birth(stage, parts, l1, url)
    finally:
        await parts.close()
    for path in (stage.chain / "data/chain.sqlite", stage.worker("old") / "worker.db"):
        _settle(path)
    return Ground(stage=stage, shielding_key=key, block_ms=block_ms)


async def _birth(stage: Stage, parts: Parts, l1: L1Client, url: str) -> bytes:
    authority = L1Account(stage.keys["authority"], l1, CHAIN_ID)
    rules = ShardRules(
        authority=SudoAuthority(key=account_of(stage.keys["authority"])),
        genesis=sha256(stage.genesis),
        min_notice=MIN_NOTICE,
        rescue_after=RESCUE_AFTER,
        page_bits=_PAGE_BITS,
        grace=GRACE,
    )
    await authority.act(
        "enclave_bridge.create_shard", {"rules": rules, "config": config_of(stage.old)}
    )
    write_worker_home(stage, "old", l1_url=url, upstream="")
    parts.spawn("old", "worker", "run", str(stage.worker("old")))
    await parts.up("old")
    record = await _read(l1, keys_key(stage.shard, 0))
    key = canonical_decode(KeyEpochRecord, record).statement.shielding_key
    scan = ChainScan(l1)
    reading = asyncio.create_task(scan.run())
    try:
        load = Load(
            account=L1Account(stage.keys["carrier"], l1, CHAIN_ID),
            metadata=decode(RuntimeMetadata, stage.old.metadata),
            shard=stage.shard,
            shielding_key=key,
            users=USERS,
            scan=scan,
        )
        async with asyncio.timeout(PATIENCE):
            await load.open_lots(await l1.height())
            last = scan.height
            while any(call.envelope not in scan.calls for call in load.calls):
                last = scan.height + 1
                await scan.reach(last)
        await _until_confirmed(stage, l1, last)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return key


async def _read(l1: L1Client, key: bytes) -> bytes:
    """What L1 has under a key, once it has."""
    end = time.monotonic() + PATIENCE
    while True:
        entry = await l1.abci_query(key, prove=False)
        if entry.value is not None:
            return entry.value
        if time.monotonic() > end:
            raise ChaosError("the shard is not born")
        await asyncio.sleep(0.05)


async def _until_confirmed(stage: Stage, l1: L1Client, height: int) -> None:
    end = time.monotonic() + PATIENCE
    key = frontier_key(stage.shard)
    while canonical_decode(Frontier, await _read(l1, key)).confirmed < height:
        if time.monotonic() > end:
            raise ChaosError("the shard confirms nothing")
        await asyncio.sleep(0.05)


def _settle(path: Path) -> None:
    """Everything of a SQLite database into its one file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def in_time(order: Callable[[], Awaitable[int]]) -> int:
    """Give an order, and anew, with a fresh notice, where L1 found it too late.

    Args:
        order: Gives it; what it answers.

    Raises:
        L1RefusedError: For another reason, or each time.
    """
    for _ in range(_ORDERS - 1):
        try:
            return await order()
        except L1RefusedError as error:  # the machine was slow
            if error.refusal not in _TOO_LATE:
                raise
    return await order()


def copy_ground(ground: Ground, folder: Path) -> Stage:
    """A fresh stage: the same chain, shard, vendor and bundles.

    Raises:
        OSError: It cannot be written.
    """
    stage = ground.stage
    folder.mkdir(parents=True)
    for name in ("chain", "insecure-sim"):
        shutil.copytree(stage.folder / name, folder / name)
    place_chain(folder / "chain", block_ms=ground.block_ms)
    return replace(stage, folder=folder)


def place_chain(home: Path, *, block_ms: int) -> None:
    """Give a copied chain a free port of its own, and its pace."""
    config = home / "solo.toml"
    lines = [
        f"port = {free_port()}"
        if line.startswith("port")
        else f"block_ms = {block_ms}"
        if line.startswith("block_ms")
        else line
        for line in config.read_text().splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")


def old_home(
    ground: Ground, stage: Stage, *, l1_url: str, port: int, next_to_it: bool = False
) -> Path:
    """The old worker's home as it was left, told where the chain is now.

    Its unpacked bundle is the ground's: runs share it. With ``next_to_it`` the new
    bundle lies beside it, so that the worker stages that by itself.
    """
    write_worker_home(stage, "old", l1_url=l1_url, upstream="")
    home, left = stage.worker("old"), ground.stage.worker("old")
    config = home / CONFIG_FILE
    text = config.read_text().replace("\nport = 0\n", f"\nport = {port}\n")
    config.write_text(text)
    for name in _KEPT:
        shutil.copy2(left / name, home / name)
    if next_to_it:
        shutil.copytree(left / "bundles", home / "bundles")
        shutil.copy2(stage.new.path, home / "bundles")
    else:
        (home / "bundles").symlink_to(left / "bundles", target_is_directory=True)
    return home
