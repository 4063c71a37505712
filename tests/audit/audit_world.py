"""A shard with a history, and everything that an audit of it needs."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from sealift.attestation import quote_fmspc
from sealift.base import (
    Bytes32,
    Fingerprint,
    Generation,
    Height,
    Message,
    decode,
    encode,
)
from sealift.enclave import Enclave
from sealift.frame import Context, Pallet, Runtime, StorageMap, StorageValue, call
from sealift.protocol import (
    Schedule,
    collateral_key,
    frontier_key,
    keys_key,
    schedule_key,
)
from sealift.protocol import audit as a
from sealift.protocol import ecall as e
from sealift.relay import LightBlock, TxResult
from sealift.stf import StandardPallets
from sealift.testing import Release, World, WorldWorker
from sealift.worker._audit import Audit, AuditReport
from sealift.worker._channel import EnclaveChannel
from sealift.worker._errors import AuditBundleMissingError, EnclaveRefusedError


class Diary(Pallet):
    """Version 1: lines by number."""

    name = "diary"
    storage_version = 1
    count: StorageValue[int] = StorageValue("count", int, default=0)
    lines: StorageMap[int, str] = StorageMap("lines", key=int, value=str)

    @call(weight=10)
    def write(self, ctx: Context, *, text: str) -> None:
        number = self.count.get(ctx)
        self.lines.put(ctx, number, text)
        self.count.put(ctx, number + 1)


class LoudDiary(Diary):
    """Version 2: its migration rewrites every line, and it writes otherwise."""

    storage_version = 2

    @call(weight=10)
    def write(self, ctx: Context, *, text: str) -> None:
        number = self.count.get(ctx)
        self.lines.put(ctx, number, text.upper())
        self.count.put(ctx, number + 1)

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        for number in range(self.count.get(ctx)):
            self.lines.put(ctx, number, self.lines.get(ctx, number).upper())


def runtime(kind: type[Diary] = Diary, version: int = 1) -> Runtime:
    pallets = [*StandardPallets().pallets, kind()]
    return Runtime(name="diary", version=version, pallets=pallets)


class Chain:
    """The world's chain as a worker's L1 source."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def light_block(self, height: int) -> LightBlock:
        return decode(LightBlock, self.world.chain.light_block(height))

    async def block_txs(self, height: int) -> tuple[bytes, ...]:
        return self.world.chain.block(height).block.txs

    async def tx_results(self, height: int) -> tuple[TxResult, ...]:
        results = self.world.chain.block(height).results
        return tuple(one.committed() for one in results)

    async def prove(self, key: bytes, height: int) -> tuple[bytes | None, bytes]:
        (proof,) = self.world.chain.prove(height, [key])
        return proof.value, proof.proof

    async def wait_for_height(self, height: int) -> Height:
        self.world.run_until(height)
        return self.world.height

    async def confirmed(self, shard: bytes) -> Height | None:
        return self.world.frontier().confirmed

    async def votes(self, shard: bytes) -> tuple[Any, ...]:
        return ()

    async def effects_done(self, shard: bytes) -> Height | None:
        return None


class AuditWorld:
    """A world whose shard has been through something, and audits of it."""

    def __init__(
        self, folder: Path, *, other_code: bytes | None = None, **options: Any
    ) -> None:
        self.world = World(folder, **options)
        self.releases = [
            self.world.release(runtime()),
            self.world.release(runtime(LoudDiary, 2)),
        ]
        config = self.world.config(self.releases[0])
        if other_code is not None:  # on another platform
            code = {**config.code, "gramine-sgx": other_code}
            config = msgspec.structs.replace(config, code=code)
        self.world.begin(self.releases[0], config=config)
        self.auditor_of: WorldWorker = self.world.workers["old"]
        #: Bundles at hand, by fingerprint.
        self.shelf = {one.fingerprint: one for one in self.releases}
        self.count = itertools.count()
        #: What its node calls its chain.
        self.network: str = self.world.chain.chain_id
        self.started: list[tuple[Generation, Fingerprint]] = []

    # --- history ---

    def write(self, *texts: str, who: str = "alice") -> None:
        for text in texts:
            self.world.user(who).call("diary.write", text=text)
            self.world.block()

    def live_through_an_upgrade(self) -> None:
        """Calls, an idle while, a bad call, a deposit; the upgrade; more calls."""
        world = self.world
        self.write("one", "two")
        world.carry(world.shard, b"no envelope at all")
        world.act(
            "bob",
            "enclave_bridge.shield_funds",
            shard=world.shard,
            beneficiary=world.account("carol"),
            amount=7,
        )
        world.blocks(6)
        self.upgrade(self.releases[1], "new")
        self.write("three", "four", who="bob")
        world.blocks(8)

    def upgrade(self, release: Release, name: str) -> WorldWorker:
        world = self.world
        entry = world.schedule(release)
        world.run_until(entry.release_from)
        worker = world.worker(name, release, upstream=self.auditor_of)
        worker.request_keys(self.auditor_of)
        world.run_until(entry.upgrade_at + 3)
        if worker.status().rotation_due is not None:
            worker.stage_keys()
            world.blocks(2)
        self.auditor_of = worker
        return worker

    # --- enclaves ---

    def auditor(self) -> tuple[Enclave, e.Started]:
        """A second process of the running code, from a copy of its key store."""
        worker = self.auditor_of
        enclave = self.process(worker.release)
        started = ask(
            enclave,
            e.Start(
                shard=self.world.shard,
                key_store=worker.disk.key_store,
                checkpoint=None,
                light_block=self.world.chain.light_block(1),
            ),
            e.Started,
        )
        return enclave, started

    def process(self, release: Release, machine: str | None = None) -> Enclave:
        """A fresh process of a release, on the auditor's machine or another."""
        host = WorldWorker(
            self.world,
            f"audit {next(self.count)}",
            release,
            shard=self.world.shard,
            machine=self.auditor_of.machine
            if machine is None
            else self.world.machine(machine),
            operator="operator",
        )
        return host.boot()

    # --- whole audits ---

    async def announce(self, challenge: Bytes32) -> Height:
        sent = self.world.act("carrier", "balances.transfer", dest=challenge, amount=1)
        assert sent.height is not None
        self.world.blocks(1)
        return sent.height

    @asynccontextmanager
    async def start(
        self, fingerprint: Fingerprint, generation: Generation, schedule: Schedule
    ) -> AsyncIterator[EnclaveChannel]:
        del schedule
        if fingerprint not in self.shelf:
            raise AuditBundleMissingError("not at hand", got=fingerprint)
        self.started.append((generation, fingerprint))
        yield EnclaveChannel(Process(self.process(self.shelf[fingerprint])))

    def audit(self) -> AuditReport:
        """An audit from genesis by an honest host."""
        enclave, started = self.auditor()
        run = Audit(
            auditor=EnclaveChannel(Process(enclave)),
            head=started.head,
            signing_key=started.signing_key,
            l1=Chain(self.world),
            shard=self.world.shard,
            auditees=self,
            announce=self.announce,
        )
        return asyncio.run(run.run(self.world.genesis))


class Process:
    """Frames to an enclave of this process."""

    def __init__(self, enclave: Enclave) -> None:
        self.enclave = enclave

    async def call(self, payload: bytes) -> bytes:
        return self.enclave.handle(payload)


def ask(enclave: Enclave, request: Message, kind: type[Any]) -> Any:
    """One frame; a refusal is raised by its name."""
    reply = decode(e.Reply, enclave.handle(encode(request)), limit=e.MAX_FRAME_BYTES)  # type: ignore[arg-type]
    if isinstance(reply, e.Refused):
        raise EnclaveRefusedError(reply.code, reply.message)
    assert isinstance(reply, kind), reply
    return reply


class Steps:
    """An audit step by step, for a host that lies somewhere."""

    def __init__(self, audited: AuditWorld) -> None:
        self.audited, self.world = audited, audited.world
        self.enclave, self.started = audited.auditor()
        self.head = self.started.head
        self.feed = audited.auditor_of
        self.auditee: Enclave | None = None

    def ask(self, request: Message, kind: type[Any]) -> Any:
        return ask(self.enclave, request, kind)

    def begin(self) -> None:
        begun = self.ask(a.AuditBegin(genesis=self.world.genesis), a.AuditBegun)
        self.height = asyncio.run(self.audited.announce(begun.challenge))

    def present(self, height: int | None = None, **changes: Any) -> e.AuditPresent:
        at = self.height if height is None else height
        chain = self.world.chain
        keys = (
            schedule_key(self.world.shard),
            frontier_key(self.world.shard),
            keys_key(self.world.shard, 0),
        )
        fields: dict[str, Any] = {
            "path": tuple(chain.light_block(h) for h in (at, at + 1)),
            "txs": chain.block(at).block.txs,
            "proofs": chain.prove(at, keys),
        }
        return e.AuditPresent(**(fields | changes))

    def show_present(self) -> a.AuditStands:
        return self.ask(self.present(), a.AuditStands)

    def follow(self, upto: int) -> None:
        while self.head <= upto:
            self.ask(self.feed.import_request(self.head), e.Followed)
            self.head = Height(self.head + 1)

    def open(
        self, invited: a.AuditInvited, release: Release, **options: Any
    ) -> a.AuditOpened:
        self.auditee = self.audited.process(release, **options)
        return ask(
            self.auditee,
            a.AuditOpen(
                shard=invited.shard,
                generation=invited.generation,
                nonce=invited.nonce,
            ),
            a.AuditOpened,
        )

    def admit(self, opened: a.AuditOpened, **changes: Any) -> e.AuditAdmit:
        key = collateral_key(quote_fmspc(opened.quote))
        fields: dict[str, Any] = {
            "statement": opened.statement,
            "quote": opened.quote,
            "proofs": self.world.chain.prove(self.height, [key]),
        }
        return e.AuditAdmit(**(fields | changes))

    def let_in(self, invited: a.AuditInvited, release: Release) -> None:
        opened = self.open(invited, release)
        sealed = self.ask(self.admit(opened), a.AuditSealed).sealed
        self.work(sealed)

    def work(self, sealed: bytes) -> a.AuditWorked:
        assert self.auditee is not None
        return ask(self.auditee, a.AuditWork(sealed=sealed), a.AuditWorked)

    def next(self, kind: type[Any]) -> Any:
        return self.ask(a.AuditNext(), kind)

    def at_the_first_block(self) -> None:
        """Everything up to the genesis state, which former code has made."""
        self.begin()
        self.show_present()
        self.follow(self.height)
        self.let_in(self.next(a.AuditInvited), self.audited.releases[0])
        worked = self.work(self.next(a.AuditSealed).sealed)
        self.ask(a.AuditTake(sealed=worked.sealed), a.AuditTaken)
