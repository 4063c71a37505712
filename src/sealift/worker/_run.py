"""One instance of a worker, from its folder: enclave, disk, L1, all together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from sealift.attestation import TrustAnchor, parse_ratls_certificate
from sealift.base import (
    ChainId,
    Digest,
    Height,
    SealiftError,
    ShardId,
    encode,
)
from sealift.bundle import Manifest
from sealift.protocol.ecall import (
    DumpRa,
    EnclaveStatus,
    GetStatus,
    HelloReply,
    RaDump,
    Start,
    Started,
)
from sealift.relay import LightBlock
from sealift.relay import header_hash as header_hash_of
from sealift.transport.clock import Clock
from sealift.transport.enclave_process import RunningEnclave
from sealift.transport.pccs import PccsClient
from sealift.transport.rpc import L1Client, NodeUnreachableError
from sealift.transport.tasks import until_one_ends

from ._channel import EnclaveChannel
from ._collateral import CollateralKeeper, CollateralSource, PccsSource, SimSource
from ._config import WorkerConfig, load_config
from ._errors import (
    EnclaveRefusedError,
    KeyStoreMissingError,
    SealingKeyChangedError,
    StoreError,
    WrongChainError,
)
from ._feed import BlockFeed
from ._follower import HALTED_BY_FORK, Follower
from ._forks import ForkKeeper
from ._gramine import GramineSgxHost
from ._ground import Ground, HomeDisk, OperatorAccount, open_ground
from ._l1 import L1Standing, L1View
from ._life import Life
from ._lives import KEY_STORE_LEVEL, begin_life
from ._outbox import Outbox
from ._outlook import running_instance
from ._platform import EnclaveHost, InsecureSim
from ._skip import SkipPlanner
from ._state import restore_state
from ._store import WorkerStore
from ._surroundings import Surroundings
from ._upstream import Upstream
from ._witnesses import Witnesses, WitnessStanding

#: So many seconds an L1 node may take to come up beside its worker.
START_SECONDS: Final = 20.0
_LOOK_AGAIN_SECONDS: Final = 0.5
#: So many starts an outage of L1 may cut off.
_STARTS: Final = 3
_LOG: Final = logging.getLogger(__name__)


def host_of(config: WorkerConfig) -> EnclaveHost:
    """The platform that a worker's home names.

    Raises:
        SimStateError: There is no such simulated machine.
        GramineMissingError: Gramine is not installed.
    """
    if config.platform == "gramine-sgx":
        return GramineSgxHost(config)
    return InsecureSim(config)


def _source(
    config: WorkerConfig,
    host: EnclaveHost,
    roots: tuple[TrustAnchor, ...],
    http: aiohttp.ClientSession,
) -> CollateralSource | None:
    """Where collateral comes from: a PCCS that is named, else the simulated Intel."""
    if config.pccs:
        return PccsSource(PccsClient(config.pccs, http), roots)
    return SimSource(host.intel) if isinstance(host, InsecureSim) else None


def _roots(manifest: Manifest) -> tuple[TrustAnchor, ...]:
    return tuple(
        TrustAnchor(root_der=root.certificate(), kind=root.kind)
        for root in manifest.attestation_roots
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWorker:
    """A worker with its enclave up and its state restored, not yet following."""

    config: WorkerConfig
    life: Life
    follower: Follower
    store: WorkerStore
    channel: EnclaveChannel
    account: OperatorAccount
    view: L1View
    hello: HelloReply
    started: Started
    platform: EnclaveHost
    running: RunningEnclave
    witnesses: Witnesses
    chain_id: ChainId
    #: Whom it asks for keys and state.
    upstream: Upstream | None

    async def run(self) -> None:
        """Follow and serve; ends only by an error.

        Raises:
            SealiftError: Whatever stopped one of the tasks, by name.
        """
        await self._beside(self.life.run())

    async def request_keys(self) -> None:
        """One try at provisioning from the upstream worker.

        Raises:
            SealiftError: Why there are no keys.
        """
        await self._beside(self.life.request_keys_only())

    async def join(self) -> None:
        """Get keys and state, and follow; ends only by an error.

        Raises:
            SealiftError: Whatever stopped one of the tasks, by name.
        """
        await self._beside(self.life.join())

    async def _beside(self, main: Coroutine[None, None, None]) -> None:
        enclave = asyncio.create_task(self.platform.watch(self.running), name="enclave")
        watcher = asyncio.create_task(self.view.watch(), name="L1 news")
        worker = asyncio.create_task(main, name="worker")
        others = asyncio.create_task(self.witnesses.run(), name="witnesses")
        await until_one_ends((enclave, watcher, others, worker))


@asynccontextmanager
async def open_worker(
    config: WorkerConfig,
    *,
    clock: Clock,
    upstream: str | None = None,
) -> AsyncIterator[OpenWorker]:
    """Start one enclave of a home folder and bring its state back.

    It is the one whose code L1 says runs now: after an upgrade a home has several.

    Args:
        config: The home.
        clock: The wall clock, to judge collateral by.
        upstream: Instead of the configured one.

    Raises:
        SealiftError: Whatever keeps it from starting, by name; nothing on disk
            was dropped or overwritten.
    """
    async with open_ground(config, clock=clock) as ground:
        await wait_for_chain(ground.l1)
        config = await running_instance(config, ground.l1)
        async with open_instance(ground, config, upstream=upstream) as worker:
            yield worker


@asynccontextmanager
async def open_instance(
    ground: Ground, config: WorkerConfig, *, upstream: str | None = None
) -> AsyncIterator[OpenWorker]:
    """Start an enclave of a home, from its own folder, and bring its state back.

    Args:
        ground: What it shares with others of this home.
        config: The home, and which instance.
        upstream: Instead of the configured one.

    Raises:
        SealiftError: As :func:`open_worker`.
    """
    async with AsyncExitStack() as stack:
        l1, http = ground.l1, ground.http
        platform = host_of(config)
        running = await stack.enter_async_context(platform.enclave())
        channel = EnclaveChannel(running)
        hello = await channel.hello()
        view = L1View(l1)
        chain_id, trust, trust_hash = running.manifest.l1.values()
        await _check_chain(l1, chain_id)

        async def try_life(one: WorkerConfig, kept: WorkerStore) -> Started:
            light = await _trusted_block(
                view, trust, trust_hash, required=kept.meta("checkpoint") is None
            )
            return await _start(
                channel, HomeDisk(one), shard=config.shard, store=kept, at=light
            )

        life = await begin_life(
            config,
            view,
            fingerprint=hello.fingerprint,
            start=try_life,
            upstream=upstream if upstream is not None else config.upstream,
        )
        config, store, started = life.config, life.store, life.started
        stack.callback(store.close)
        disk = HomeDisk(config)
        forks = ForkKeeper(
            channel=channel,
            store=store,
            path=config.fork_evidence,
            light_block=view.light_block,
        )
        status = await channel.call(GetStatus(), EnclaveStatus)
        if status.halted == HALTED_BY_FORK:
            await forks.keep()
            raise forks.stopped()
        restored = await restore_state(
            channel, store, genesis=disk.genesis(), peers=bool(life.upstream)
        )
        paying = ground.account(chain_id)
        account = OperatorAccount(paying, config.shard)
        outbox = Outbox(account)
        feed = BlockFeed(view, shard=config.shard, signing_key=started.signing_key)
        follower = Follower(
            channel=channel,
            l1=view,
            feed=feed,
            store=store,
            outbox=outbox,
            shard=config.shard,
            me=started.signing_key,
            skips=SkipPlanner(l1=view, feed=feed, shard=config.shard),
            forked=forks.keep,
            keep_snapshots=config.state.keep_snapshots,
        )
        standings = tuple(WitnessStanding(url=url) for url in ground.witnesses)
        if restored is not None:
            follower.restored(restored)
        peer = life.upstream
        roots = _roots(running.manifest)
        around = Surroundings(
            shard=config.shard,
            l1=view,
            disk=disk,
            evidence=CollateralKeeper(
                source=_source(config, platform, roots, http),
                roots=roots,
                l1=l1,
                clock=ground.clock,
                quote=lambda: _a_quote(channel),
            ),
            standing=L1Standing(l1),
            operator=paying.account,
            upstream=ground.peer(peer) if peer else None,
            peer=ground.peer,
            snapshot_every=config.snapshot_every,
            witnesses=standings,
        )
        worker = Life(
            channel=channel,
            follower=follower,
            store=store,
            outbox=outbox,
            around=around,
            hello=hello,
            started=started,
            monotonic=ground.clock.monotonic,
        )
        yield OpenWorker(
            config=config,
            life=worker,
            follower=follower,
            store=store,
            channel=channel,
            account=account,
            view=view,
            hello=hello,
            started=started,
            platform=platform,
            running=running,
            chain_id=chain_id,
            upstream=around.upstream,
            witnesses=Witnesses(
                channel=channel,
                follower=follower,
                witnesses=ground.witnesses,
                standings=standings,
                forks=forks,
            ),
        )


async def _a_quote(channel: EnclaveChannel) -> bytes:
    """Some quote of this enclave: what it runs on stands in it."""
    shown = await channel.call(DumpRa(), RaDump)
    return parse_ratls_certificate(shown.certificate).quote


async def wait_for_chain(l1: L1Client, *, within: float = START_SECONDS) -> None:
    """Until an L1 node answers at all.

    Where node and worker are started together, the worker may be the faster one.

    Raises:
        NodeUnreachableError: It does not, for so many seconds.
        SealiftError: It answers, and not as a node does.
    """
    now = asyncio.get_running_loop().time
    end = now() + within
    while True:
        try:
            await l1.status()
        except NodeUnreachableError:
            if now() >= end:
                raise
        else:
            return
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def started_again(
    l1: L1Client,
    live: Callable[[], Awaitable[None]],
    *,
    has_started: Callable[[], bool],
) -> None:
    """Live; a start that an outage of L1 cuts off begins again.

    Args:
        l1: The node, which is waited for first.
        live: From the start to the end.
        has_started: Whether the start is over, and an outage another matter.

    Raises:
        NodeUnreachableError: The node stays away, or cut off several starts.
        SealiftError: As ``live``.
    """
    for left in reversed(range(_STARTS)):
        await wait_for_chain(l1)
        try:
            await live()
        except NodeUnreachableError as error:
            if has_started() or not left:
                raise
            _LOG.warning("the enclave is started again: %s", error)
        else:
            return


async def _check_chain(l1: L1Client, chain_id: ChainId) -> None:
    """The node follows the chain that the bundle was built for, by its name."""
    network = (await l1.status()).node_info.network
    if network != chain_id:
        raise WrongChainError(
            f"the L1 node at {l1.url} follows another chain",
            got=network,
            expected=chain_id,
            hint="Correct [l1] rpc, or use the bundle of that chain.",
        )


async def _trusted_block(
    view: L1View, height: Height, header_hash: Digest, *, required: bool
) -> LightBlock | None:
    """The block that the bundle was measured with, as the node has it."""
    try:
        light = await view.light_block(height)
    except NodeUnreachableError:
        raise
    except SealiftError:  # a node may have pruned it; a checkpoint does without
        if required:
            raise
        return None
    got = header_hash_of(light.signed_header.header)
    if got != header_hash:
        raise WrongChainError(
            f"block {height} of the L1 node is not the one the bundle trusts",
            got=got,
            expected=header_hash.hex(),
            hint="Another chain of the same name: correct [l1] rpc.",
        )
    return light


async def _start(
    channel: EnclaveChannel,
    disk: HomeDisk,
    *,
    shard: ShardId,
    store: WorkerStore,
    at: LightBlock | None,
) -> Started:
    key_store = disk.key_store()
    if key_store is None and store.is_used():
        raise KeyStoreMissingError(
            "the sealed keys of this worker are gone, and its database is not",
            got=f"no {disk.key_store_path.name} beside {store.path}",
            expected="the key store that belongs to this database",
            hint="Nothing was overwritten. Put the file back; if it is lost, move "
            "worker.db away too: a new identity requests keys from a peer.",
        )
    checkpoint = store.meta("checkpoint")
    request = Start(
        shard=shard,
        key_store=key_store,
        checkpoint=checkpoint,
        light_block=encode(at) if checkpoint is None and at is not None else None,
    )
    try:
        started = await channel.call(request, Started)
    except EnclaveRefusedError as error:
        if error.refused == KEY_STORE_LEVEL:
            raise SealingKeyChangedError(
                f"what {disk.key_store_path} was sealed with is gone: the platform's "
                f"level has changed ({error})",
                hint="Nothing was overwritten. Name a worker that has the shard's keys "
                "under [upstream]: this one then gets them again, as a new instance.",
            ) from error
        raise StoreError(
            f"the enclave does not start from {store.path.parent} ({error})",
            expected="key_store.sealed and worker.db as this enclave wrote them",
            hint="They were left as they are. Put back what was there, or make a "
            "new home and request keys and state from a peer.",
        ) from error
    disk.keep_key_store(started.key_store)
    return started


async def request_keys_once(home: Path, upstream: str, *, clock: Clock) -> None:
    """Get the shard's keys from another worker, seal them, and end.

    ``run_worker`` goes on from there. Waits for nothing: a notice that has not
    run is a refusal by name.

    Args:
        home: Of the worker that wants keys.
        upstream: URL of a worker that has them.
        clock: The wall clock.

    Raises:
        SealiftError: Why there are no keys.
    """
    config = load_config(home)
    async with open_worker(config, clock=clock, upstream=upstream) as worker:
        worker.life.url = config.api.url
        await worker.request_keys()
