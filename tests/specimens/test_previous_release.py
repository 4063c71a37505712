"""The bundle of an earlier release, started by the host of this one.

A real enclave process, in the simulator, from the bundle of the specimen; chain
and workers are today's programs and go on from what the old ones left.
"""

import asyncio
from typing import Any

import aiohttp
import pytest
from revived import Specimen

from sealift.base import Generation, Height, canonical_decode, decode
from sealift.cli._demo_load import LOTS, Load
from sealift.cli._demo_stage import CHAIN_ID, Stage, user_secret, write_worker_home
from sealift.crypto import account_of
from sealift.frame import RuntimeMetadata
from sealift.insecure_sim import SimPlatform
from sealift.protocol import (
    Frontier,
    HandoverCertificate,
    Schedule,
    ShardConfig,
    UpgradeOrder,
    certificate_key,
    frontier_key,
    schedule_key,
    sign_order,
)
from sealift.protocol import ecall as e
from sealift.testing.specimens import Surroundings, open_load, surroundings
from sealift.transport.account import L1Account
from sealift.transport.bundle_folder import install_bundle
from sealift.worker import WorkerStore
from sealift.worker._channel import EnclaveChannel
from sealift.worker._state import restore_state

pytestmark = pytest.mark.process

PATIENCE = 120


def test_the_host_agrees_on_the_old_table_and_the_old_bundle_takes_its_state_back(
    specimen: Specimen,
) -> None:
    """Sealed to this very MRENCLAVE: nobody else opens it."""

    async def story() -> None:
        stage = specimen.stage()
        folder = await asyncio.to_thread(
            install_bundle, stage.old.path.read_bytes(), specimen.folder / "bundles"
        )
        home = specimen.worker("old")
        store = WorkerStore(
            home / "worker.db", shard=specimen.shard, fingerprint=stage.old.fingerprint
        )
        async with await SimPlatform(specimen.machine("old")).start(folder) as running:
            channel = EnclaveChannel(running)
            hello = await channel.hello()
            assert hello.version == channel.version
            assert hello.version == specimen.facts["ecall_versions"][1]
            assert hello.fingerprint == stage.old.fingerprint
            await channel.call(
                e.Start(
                    shard=specimen.shard,
                    key_store=(home / "key_store.sealed").read_bytes(),
                    checkpoint=store.meta("checkpoint"),
                    light_block=None,
                ),
                e.Started,
            )
            height = await restore_state(channel, store, genesis=stage.genesis)
            status = await channel.call(e.GetStatus(), e.EnclaveStatus)
        store.close()
        assert height == status.state_height == specimen.facts["state_height"]

    asyncio.run(story())


def test_the_old_bundle_goes_on_and_hands_over_to_todays(specimen: Specimen) -> None:
    """Old enclave, new host: blocks, provisioning, snapshot, diffs, certificate."""

    async def story() -> None:
        stage = specimen.stage()
        async with surroundings(specimen.chain, specimen.clock()) as around:
            await going_on(specimen, stage, around)

    asyncio.run(story())


async def going_on(specimen: Specimen, stage: Stage, around: Surroundings) -> None:
    load = await open_load(
        around,
        secret=stage.keys["carrier"],
        shard=stage.shard,
        metadata=stage.old.metadata,
    )
    nonces = list(specimen.facts["nonces"])
    load._nonces[:] = nonces
    old = await run(around, stage, "old")
    here = around.scan.height
    await pay(load, range(4, 12))
    await until_confirmed(around, stage, here + 4)
    for user in (4, 11, 23):  # what was sealed then is read now
        assert await ask(load, old, user, "system.nonce") == load.nonce(user)
    upgrade_at = await schedule(around, stage, lead=16)
    await run(around, stage, "new", upstream=old)
    await around.until("new", lambda s: s["state_height"] is not None, "has state")
    pump = asyncio.create_task(load.run(4))
    await until_confirmed(around, stage, upgrade_at + 6)
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
    entry = await around.l1.abci_query(certificate_key(stage.shard), prove=False)
    assert entry.value is not None
    certificate = canonical_decode(HandoverCertificate, entry.value)
    assert certificate.height == upgrade_at - 1
    status = await around.until(
        "old", lambda s: s["imported"] > upgrade_at + 3, "follows on"
    )
    assert status["state_height"] == upgrade_at - 1
    # A restart is part of every upgrade.
    await around.stop("new")
    await around.stop("old")
    await run(around, stage, "old", again=True)
    new = await run(around, stage, "new", again=True)
    here = around.scan.height
    await pay(load, range(12, 16))
    await until_confirmed(around, stage, here + 4)
    frontier = await read(around, Frontier, frontier_key(stage.shard))
    assert frontier.generation == Generation(1)
    load.reading = decode(RuntimeMetadata, stage.new.metadata)
    for user in range(4, 24):
        assert await ask(load, new, user, "system.nonce") == load.nonce(user)
    for user, lot, amount in specimen.facts["bids"]:
        if user < LOTS:  # the others have bid again since
            placed = await load.ask(
                user, "auction.my_bid", {"lot": lot}, new, around.http
            )
            assert placed["amount"] == amount, user


# --- what people do ---


async def run(
    around: Surroundings,
    stage: Stage,
    name: str,
    *,
    upstream: str = "",
    again: bool = False,
) -> str:
    """A worker of today's program, on the disk that is there."""
    if not again:
        # Its worker.toml is today's; the operator's key is the same one.
        (stage.worker(name) / "operator.key").unlink(missing_ok=True)
        write_worker_home(stage, name, l1_url=around.node.url, upstream=upstream)
    return await around.run(name, stage.worker(name))


async def pay(load: Load, users: range) -> None:
    dest = account_of(user_secret(0))
    for user in users:
        await load.send(user, "balances.transfer", {"dest": dest, "amount": 1})


async def ask(load: Load, url: str, user: int, getter: str) -> Any:
    """A read, once the worker has what the calls before it did."""
    want = load.nonce(user)
    async with asyncio.timeout(PATIENCE):
        while True:
            async with aiohttp.ClientSession() as http:
                found = await load.ask(user, getter, {}, url, http)
            if found == want:
                return found
            await asyncio.sleep(0.1)


async def read(around: Surroundings, kind: type[Any], key: bytes) -> Any:
    entry = await around.l1.abci_query(key, prove=False)
    assert entry.value is not None
    return canonical_decode(kind, entry.value)


async def until_confirmed(around: Surroundings, stage: Stage, height: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await read(around, Frontier, frontier_key(stage.shard))
            if found.confirmed >= height:
                return
            await asyncio.sleep(0.1)


async def schedule(around: Surroundings, stage: Stage, *, lead: int) -> int:
    """The authority orders today's bundle; XYZ."""
    before = await read(around, Schedule, schedule_key(stage.shard))
    release = around.scan.height + 8
    code = {"insecure-sim": stage.new.fingerprint}
    order = UpgradeOrder(
        chain_id=CHAIN_ID,
        shard=stage.shard,
        serial=before.serial,
        predecessor=Generation(0),
        config=ShardConfig(code=code, min_isv_svn=stage.new.isv_svn),
        release_from=Height(release),
        upgrade_at=Height(release + lead),
        expiry=Height(release),
    )
    signed = sign_order(order, stage.keys["authority"])
    account = L1Account(stage.keys["authority"], around.l1, CHAIN_ID)
    await account.act("enclave_bridge.submit_order", {"order": signed})
    return release + lead
