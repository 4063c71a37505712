"""What an undisturbed execution says of a chain, and what a disturbed one left."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sealift.base import Digest, ShardId, encode
from sealift.crypto import system_entropy
from sealift.insecure_sim import SimIntel, SimMachine, SimPlatform
from sealift.protocol import SealedReceipt
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
from sealift.transport.bundle_folder import install_bundle, read_bundle_file
from sealift.transport.rpc import L1Client
from sealift.worker import WorkerStore
from sealift.worker.replay import BlockFeed, EnclaveChannel, L1View

from ._chaos_parts import ChaosError
from ._demo_load import ChainScan
from ._demo_stage import BuiltBundle, Stage

#: So many blocks after the last one wanted, a replay that has not come to it stands.
_STANDS: Final = 50
Place = tuple[int, int]


@dataclass(slots=True)
class Replay:
    """An execution by fresh enclaves, from the genesis, that nothing disturbed.

    Attributes:
        roots: The keyed root after each block.
        places: Where each call's first receipt is from, by envelope.
        copies: Where the receipts of its copies are from.
    """

    roots: dict[int, bytes] = field(default_factory=dict)
    places: dict[Digest, Place] = field(default_factory=dict)
    copies: dict[Digest, set[Place]] = field(default_factory=dict)

    def heard(self, receipt: SealedReceipt) -> None:
        """Note a receipt of the undisturbed execution."""
        place = (int(receipt.height), int(receipt.index))
        self.places.setdefault(receipt.envelope, place)
        self.copies.setdefault(receipt.envelope, set()).add(place)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where an instance's disk is, and the simulated machine that opens its seals."""

    folder: Path
    machine: str


async def replay(
    stage: Stage,
    l1: L1Client,
    *,
    homes: tuple[Seat, Seat],
    upgrade_at: int | None,
    upto: int,
) -> Replay:
    """Execute a shard's whole chain again, the old code up to XYZ, then the new.

    Args:
        stage: Chain, bundles and genesis.
        l1: The chain.
        homes: Instances of the old and of the new code: their keys are used,
            nothing else.
        upgrade_at: XYZ; ``None``: there was no upgrade.
        upto: The last block.

    Raises:
        ChaosError: It does not come to that block.
    """
    done = Replay()
    end = upto if upgrade_at is None else upgrade_at - 1
    async with fresh_enclave(stage, l1, homes[0], stage.old) as (channel, feed):
        await channel.call(Genesis(blob=stage.genesis), StateReply)
        await _go_on(channel, feed, end, done)
        if upgrade_at is None:
            return done
        header = await channel.call(SnapshotBegin(), SnapshotHeader)
        chunks = [
            await channel.call(SnapshotGet(index=n), SnapshotChunk)
            for n in range(header.chunks)
        ]
    async with fresh_enclave(stage, l1, homes[1], stage.new) as (channel, feed):
        await channel.call(SnapshotBegin(header=header.header), SnapshotHeader)
        for chunk in chunks:
            await channel.call(chunk, StateReply)
        await _go_on(channel, feed, upto, done)
    return done


@contextlib.asynccontextmanager
async def fresh_enclave(
    stage: Stage, l1: L1Client, seat: Seat, bundle: BuiltBundle
) -> AsyncIterator[tuple[EnclaveChannel, BlockFeed]]:
    """An enclave process with the keys of an instance and nothing else of it."""
    machine = SimMachine(SimIntel(stage.sim), seat.machine, entropy=system_entropy)
    folder = install_bundle(read_bundle_file(bundle.path), seat.folder / "bundles")
    async with await SimPlatform(machine).start(folder) as running:
        channel = EnclaveChannel(running)
        await channel.hello()
        view = L1View(l1)
        light = await view.light_block(stage.trust_root.height)
        started = await channel.call(
            Start(
                shard=stage.shard,
                key_store=(seat.folder / "key_store.sealed").read_bytes(),
                checkpoint=None,
                light_block=encode(light),
            ),
            Started,
        )
        key = started.signing_key
        yield channel, BlockFeed(view, shard=stage.shard, signing_key=key)


async def _go_on(
    channel: EnclaveChannel, feed: BlockFeed, upto: int, done: Replay
) -> None:
    height = 1
    status = await channel.call(GetStatus(), EnclaveStatus)
    while status.state_height is None or status.state_height < upto:
        await channel.call(await feed.import_block(height), Followed)
        height += 1
        while isinstance(reply := await channel.ask(Execute()), Executed):
            for receipt in reply.receipts:
                done.heard(receipt)
            status = await channel.call(GetStatus(), EnclaveStatus)
            if status.root is not None:
                done.roots[int(reply.height)] = bytes(status.root)
            if reply.height == upto:
                return
        if height > upto + _STANDS:
            raise ChaosError("the undisturbed execution stands", got=str(reply))


def receipts_of(
    shard: ShardId,
    disks: Mapping[str, tuple[Path, BuiltBundle]],
    envelopes: Iterable[Digest],
) -> dict[Digest, dict[str, SealedReceipt]]:
    """What the instances' folders have for each of these calls, by instance."""
    found: dict[Digest, dict[str, SealedReceipt]] = {one: {} for one in envelopes}
    for name, (folder, bundle) in disks.items():
        path = folder / "worker.db"
        store = WorkerStore(path, shard=shard, fingerprint=bundle.fingerprint)
        try:
            for envelope, by_worker in found.items():
                receipt = store.receipt(envelope)
                if receipt is not None:
                    by_worker[name] = receipt
        finally:
            store.close()
    return found


def judge_roots(scan: ChainScan, done: Replay, *, upto: int) -> list[str]:
    """The confirmed roots on L1: one chain without gap, and the undisturbed ones."""
    wrong: list[str] = []
    last, root = None, None
    for _, said in scan.confirmations:
        if last is not None and said.first != last + 1:
            wrong.append(f"roots: block {said.first} is confirmed after {last}")
        if last is not None and said.prev_root != root:
            wrong.append(f"roots: the chain of roots breaks after block {last}")
        last, root = said.last, said.root
        if said.last <= upto and done.roots.get(said.last) != said.root:
            wrong.append(
                f"roots: block {said.last} has {said.root.hex()[:16]} on L1, "
                f"undisturbed {done.roots.get(said.last, b'').hex()[:16]}"
            )
    if last is None or last < upto:
        wrong.append(f"roots: confirmed up to {last}, expected {upto}")
    return wrong


def judge_calls(
    scan: ChainScan,
    done: Replay,
    receipts: Mapping[Digest, Mapping[str, SealedReceipt]],
    *,
    upto: int,
) -> list[str]:
    """Every call on L1 was executed once, at its place, in the order of L1."""
    wrong: list[str] = []
    order: dict[int, list[tuple[int, Place]]] = {}
    for envelope, on_l1 in scan.calls.items():
        if on_l1[0] > upto:
            continue
        name = envelope.hex()[:16]
        place = done.places.get(envelope)
        if place is None:
            wrong.append(f"calls: {name} of block {on_l1[0]} has no undisturbed place")
            continue
        if place[0] != on_l1[0]:
            wrong.append(f"calls: {name} of block {on_l1[0]} is executed in {place[0]}")
        order.setdefault(place[0], []).append((place[1], on_l1))
        had = receipts.get(envelope, {})
        if not had:
            wrong.append(f"calls: {name} of block {on_l1[0]} is lost")
        for worker, receipt in had.items():
            where = (int(receipt.height), int(receipt.index))
            if where not in done.copies[envelope]:
                wrong.append(
                    f"calls: {name} is executed at {where} by {worker}, "
                    f"undisturbed at {place}"
                )
    for height, placed in order.items():
        by_index = [on_l1 for _, on_l1 in sorted(placed)]
        if by_index != sorted(by_index):
            wrong.append(f"calls: those of block {height} are reordered")
    return wrong
