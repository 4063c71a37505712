"""A whole world in one process: L1, Intel, machines, workers, users."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from sealift.attestation import parse_collateral, parse_trust_anchor
from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    Digest,
    Generation,
    Height,
    MrSigner,
    ShardId,
    UnixSeconds,
    encode,
)
from sealift.bundle import L1TrustRoot
from sealift.crypto import Entropy, account_of, hkdf, sha256
from sealift.frame import Runtime, storage_key
from sealift.insecure_sim import PLATFORM_KIND, SimIntel, SimMachine
from sealift.ledger import (
    FIRST_RUNTIME,
    RUNTIME_VERSIONS,
    LedgerGenesis,
    LedgerParams,
    RuntimeVersion,
    shard_id_of,
)
from sealift.protocol import (
    AttestationPolicy,
    CancelOrder,
    EntryStatus,
    Frontier,
    Order,
    Schedule,
    ScheduleEntry,
    SealedReceipt,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignedOrder,
    Statement,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    config_at,
    frontier_key,
    schedule_key,
    sign_order,
)

from ._chain import Sent, WorldChain
from ._creation import creation, genesis_blob
from ._disk import WorldDisk
from ._errors import CrashError, WorldError
from ._release import Release, make_release
from ._user import WorldUser
from ._worker import WorldWorker

#: L1 accounts that have funds; any other name is an account without.
FUNDED: Final = (
    "root", "authority", "carrier", "operator", "operator-2", "alice", "bob", "carol",
)  # fmt: skip
_FUNDS = Amount(10**12)
#: What workers, mu-ra and L1 need from ``release_from`` to be ready in time.
PROVISIONING_BLOCKS = 5


Decision = TypeVar("Decision", bound=Statement)


class World:
    """Everything in one process, synchronous: nothing happens between blocks.

    Guarantees that there is no clock, thread or socket: a block is made when
    :meth:`block` is called, and then every worker does all that it can do.
    Entropy of chain, enclaves and users comes from ``seed``; the simulated
    Intel's keys and signatures are fresh in each world.

    Args:
        folder: Where the simulated Intel keeps its keys; empty, the world's own.
        seed: Of all entropy but Intel's.
        page_bits: Size of shards' states (2**bits pages).
        min_notice: Blocks from an order's record to its release.
        rescue_after: Blocks after XYZ until a generation is void.
        root_quorum: Platforms that must agree on a root.
        rules: Other fields of the shards' rules, by name: their authority, the
            handover policy, quorums of effects and rotation.
        confirm_every: Blocks without calls that are confirmed together.
        block_seconds: From one block to the next.
        versions: The versions of the L1 runtime that L1's program has.
        runtime: The one that L1 begins with.
        rehearsals: Since version 3: how many, and how far to postpone without.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: bytes = b"world",
        page_bits: int = 4,
        min_notice: int = 2,
        rescue_after: int = 8,
        root_quorum: int = 1,
        rules: Mapping[str, object] | None = None,
        confirm_every: int = 4,
        block_seconds: int = 2,
        versions: Mapping[int, RuntimeVersion] = RUNTIME_VERSIONS,
        runtime: int = FIRST_RUNTIME,
        rehearsals: tuple[int, int] | None = None,
    ) -> None:
        self.confirm_every = confirm_every
        self.workers: dict[str, WorldWorker] = {}
        self.releases: list[Release] = []
        #: Called with the height after every block, when all workers have followed.
        self.watchers: list[Callable[[Height], None]] = []
        self.genesis = b""
        self._seed = seed
        self._rules = (page_bits, min_notice, rescue_after, root_quorum)
        self._more_rules = dict(rules or {})
        self._rehearsals = rehearsals
        self._users: dict[str, WorldUser] = {}
        self._shards: list[ShardId] = []
        self._clones = 0
        self.intel = SimIntel(folder)
        self.chain = WorldChain(
            secret=self.secret("validator"),
            genesis=LedgerGenesis(
                chain_id=ChainId("world"),
                accounts=tuple((self.account(name), _FUNDS) for name in FUNDED),
                sudo=self.account("root"),
                anchors=(parse_trust_anchor(self.intel.root_der),),
                params=LedgerParams(),
                runtime=runtime,
            ),
            block_seconds=block_seconds,
            versions=versions,
        )
        self.block()
        self.register_collateral()

    # --- names, keys, entropy ---

    def secret(self, name: str) -> bytes:
        """The seed of a named account, on L1 and in shards."""
        return sha256(b"account " + name.encode())

    def account(self, name: str) -> AccountId:
        """The public key of a named account."""
        return AccountId(account_of(self.secret(name)))

    def entropy(self, label: str) -> Entropy:
        """A seeded stream of bytes; a label names one stream, made once."""
        counter = itertools.count()
        prefix = b"sealift/testing/" + label.encode() + b"/"

        def stream(size: int) -> bytes:
            return hkdf(self._seed, info=prefix + b"%d" % next(counter), size=size)

        return stream

    # --- L1 ---

    @property
    def height(self) -> Height:
        """The last block."""
        return self.chain.height

    def block(self) -> Height:
        """Make one block of all that waits; then every worker follows.

        A worker that dies on the way stays dead until it is restarted.
        """
        height = self.chain.produce().height
        for worker in self.workers.values():
            try:
                worker.step()
            except CrashError:
                continue
        for watcher in self.watchers:
            watcher(height)
        return height

    def blocks(self, count: int) -> Height:
        """So many blocks."""
        for _ in range(count):
            self.block()
        return self.height

    def run_until(self, height: int) -> Height:
        """Blocks until ``height`` is the last one."""
        while self.height < height:
            self.block()
        return self.height

    def send(self, who: str, call: str, /, **arguments: object) -> Sent:
        """An L1 transaction of a named account; it stands in the next block."""
        return self.chain.send(self.secret(who), call, arguments)

    def act(self, who: str, call: str, /, **arguments: object) -> Sent:
        """:meth:`send`, and a block.

        Raises:
            RefusedError: L1 refused it.
        """
        sent = self.send(who, call, **arguments)
        self.block()
        return sent.check()

    def carry(self, shard: ShardId, envelope: bytes) -> Sent:
        """Have an envelope carried to L1 with the next block."""
        return self.send(
            "carrier", "enclave_bridge.invoke", shard=shard, ciphertext=envelope
        )

    def register_collateral(self) -> Sent:
        """Bring what Intel publishes now to L1.

        Raises:
            RefusedError: L1 refused it.
        """
        published = self.intel.collateral_json(now=UnixSeconds(self.chain.now()))
        return self.act(
            "carrier",
            "teerex.register_collateral",
            collateral=encode(parse_collateral(published)),
        )

    # --- releases, shards, workers ---

    def release(
        self,
        runtime: Runtime,
        *,
        isv_svn: int = 1,
        sources: Mapping[str, bytes] | None = None,
    ) -> Release:
        """Build a release of an application; see :class:`Release`.

        Args:
            runtime: What runs.
            isv_svn: Its security version.
            sources: Measured beside the metadata; default: the files of its
                pallets. One changed byte makes another fingerprint.
        """
        release = make_release(
            runtime,
            l1=L1TrustRoot(
                chain_id=self.chain.chain_id,
                height=1,
                header_hash=self.chain.hash_of(1).hex(),
            ),
            root_der=self.intel.root_der,
            isv_svn=isv_svn,
            sources=sources,
        )
        self.releases.append(release)
        return release

    def machine(self, name: str) -> SimMachine:
        """A simulated machine; made when it is first named."""
        return SimMachine(self.intel, name, entropy=self.entropy(f"machine {name}"))

    @property
    def shard(self) -> ShardId:
        """The first shard.

        Raises:
            WorldError: There is none.
        """
        if not self._shards:
            raise WorldError("there is no shard yet", hint="world.begin(release)")
        return self._shards[0]

    def config(
        self,
        release: Release,
        *,
        min_isv_svn: int = 0,
        policy: AttestationPolicy | None = None,
        max_instances: int = 0,
        operators: tuple[str, ...] = (),
        mr_signer: MrSigner | None = None,
        isv_prod_id: int | None = None,
    ) -> ShardConfig:
        """The configuration of a generation that runs a release."""
        return ShardConfig(
            code={PLATFORM_KIND: release.fingerprint},
            min_isv_svn=min_isv_svn,
            attestation=policy or AttestationPolicy(),
            max_instances=max_instances,
            operators=tuple(self.account(name) for name in operators),
            mr_signer=mr_signer,
            isv_prod_id=isv_prod_id,
        )

    def create_shard(
        self,
        release: Release,
        *,
        funds: Mapping[str, int] | None = None,
        genesis: Mapping[str, object] | None = None,
        config: ShardConfig | None = None,
    ) -> ShardId:
        """Create a shard whose first generation runs ``release``.

        Args:
            release: The code.
            funds: Tokens inside the shard by user's name (default: alice, bob
                and carol, 1,000 each).
            genesis: Of the application's own pallets.
            config: Instead of the default one.
        """
        self.genesis = genesis_blob(self.account, funds, genesis)
        page_bits, min_notice, rescue_after, root_quorum = self._rules
        call, gate = creation(self._rehearsals)
        self.act(
            "authority",
            call,
            **gate,
            rules=msgspec.structs.replace(
                ShardRules(
                    authority=SudoAuthority(key=self.account("authority")),
                    genesis=sha256(self.genesis),
                    min_notice=min_notice,
                    rescue_after=rescue_after,
                    root_quorum=root_quorum,
                    page_bits=page_bits,
                    effects_quorum=1,
                ),
                **self._more_rules,
            ),
            config=config or self.config(release),
        )
        shard = shard_id_of(
            self.chain.chain_id, self.account("authority"), len(self._shards)
        )
        self._shards.append(shard)
        return shard

    def begin(
        self,
        release: Release,
        *,
        worker: str = "old",
        funds: Mapping[str, int] | None = None,
        genesis: Mapping[str, object] | None = None,
        config: ShardConfig | None = None,
    ) -> WorldWorker:
        """Create a shard, start its first worker, and have it give birth."""
        self.create_shard(release, funds=funds, genesis=genesis, config=config)
        self.block()
        first = self.worker(worker, release)
        first.give_birth(self.genesis)
        return first

    def worker(
        self,
        name: str,
        release: Release,
        *,
        machine: str | None = None,
        operator: str = "operator",
        upstream: WorldWorker | None = None,
    ) -> WorldWorker:
        """Start a worker; it follows the chain, without keys.

        Args:
            name: Its own.
            release: The code.
            machine: Where it runs (default: one of its own).
            operator: The L1 account that pays.
            upstream: Whom it fetches state from, once it has keys.
        """
        worker = WorldWorker(
            self,
            name,
            release,
            shard=self.shard,
            machine=self.machine(machine or f"machine-{name}"),
            operator=operator,
        )
        worker.upstream = upstream
        self.workers[name] = worker
        worker.start()
        worker.step()
        return worker

    def clone(self, worker: WorldWorker, disk: WorldDisk) -> WorldWorker:
        """Another host on the same machine, started from a copy of a disk.

        It follows only when it is told to (:meth:`WorldWorker.step`), and is mute.

        Raises:
            RefusedError: The enclave refuses what is on the disk.
        """
        self._clones += 1
        clone = WorldWorker(
            self,
            f"{worker.name} {self._clones}",
            worker.release,
            shard=worker.shard,
            machine=worker.machine,
            operator=worker.operator,
        )
        clone.mute, clone.upstream = True, worker.upstream
        clone.disk = disk.copy()
        clone.start()
        return clone

    # --- what stands on L1 ---

    def balance(self, name: str) -> int:
        """What a named account has free on L1."""
        key = storage_key("balances", "accounts", self.account(name))
        return self.chain.read(int, key) or 0

    def schedule_now(self) -> Schedule:
        """The schedule after the last block.

        Raises:
            WorldError: There is none.
        """
        schedule = self.chain.read(Schedule, schedule_key(self.shard))
        if schedule is None:
            raise WorldError("the shard has no schedule")
        return schedule

    def frontier(self) -> Frontier:
        """The last confirmed block and root.

        Raises:
            WorldError: The shard has no keys yet.
        """
        frontier = self.chain.read(Frontier, frontier_key(self.shard))
        if frontier is None:
            raise WorldError("the shard is not born")
        return frontier

    def generation_at(self, height: int) -> Generation:
        """Who runs a block, as the schedule says now."""
        return config_at(self.schedule_now(), height).generation

    # --- what the authority decides ---

    def upgrade_order(
        self,
        release: Release,
        *,
        release_from: int | None = None,
        upgrade_at: int | None = None,
        config: ShardConfig | None = None,
        delay: int = 1,
    ) -> SignedOrder:
        """An order of the authority that ``release`` shall run.

        Args:
            release: What shall run.
            release_from: When it may have the keys (default: as early as the
                notice allows, if the order is in a block after ``delay`` blocks).
            upgrade_at: XYZ (default: enough later for provisioning).
            config: Instead of the default one.
            delay: Blocks until the order is recorded.
        """
        schedule = self.schedule_now()
        notice = schedule.rules.min_notice
        release_from = release_from or self.height + delay + notice
        upgrade_at = upgrade_at or release_from + PROVISIONING_BLOCKS
        standing = (EntryStatus.PENDING, EntryStatus.ACTIVE)
        last = max(e.generation for e in schedule.entries if e.status in standing)
        return self.sign_order(
            UpgradeOrder(
                chain_id=self.chain.chain_id,
                shard=self.shard,
                serial=schedule.serial,
                predecessor=last,
                config=config or self.config(release),
                release_from=Height(release_from),
                upgrade_at=Height(upgrade_at),
                expiry=Height(self.height + 50),
            )
        )

    def order(self, kind: Callable[..., Decision], /, **fields: object) -> Decision:
        """An order of any kind, for now: chain, shard, serial, expiry filled in."""
        base: dict[str, object] = {
            "chain_id": self.chain.chain_id,
            "shard": self.shard,
            "serial": self.schedule_now().serial,
            "expiry": Height(self.height + 50),
        }
        return kind(**(base | fields))

    def sign_order(self, order: Order, *, who: str = "authority") -> SignedOrder:
        """An order with a signature."""
        return sign_order(order, self.secret(who))

    def submit(self, order: SignedOrder) -> Sent:
        """Bring an order to L1; makes a block.

        Raises:
            RefusedError: L1 refused it.
        """
        return self.act("carrier", "enclave_bridge.submit_order", order=order)

    def schedule(
        self,
        release: Release,
        *,
        release_from: int | None = None,
        upgrade_at: int | None = None,
        config: ShardConfig | None = None,
    ) -> ScheduleEntry:
        """The authority schedules a release, directly on L1; makes a block.

        Raises:
            RefusedError: L1 refused the order.
        """
        order = self.upgrade_order(
            release, release_from=release_from, upgrade_at=upgrade_at, config=config
        )
        self.submit(order)
        return self.schedule_now().entries[-1]

    def cancel(self, generation: int) -> Sent:
        """The authority cancels a pending entry; makes a block.

        Raises:
            RefusedError: L1 refused the order.
        """
        return self.submit(self.sign_order(self.cancel_order(generation)))

    def cancel_order(self, generation: int) -> CancelOrder:
        """An order that a pending generation shall not run."""
        return self.order(CancelOrder, generation=Generation(generation))

    def set_status(self, status: ShardStatus) -> Sent:
        """The authority sets maintenance or raises floors; makes a block.

        Raises:
            RefusedError: L1 refused the order.
        """
        return self.submit(self.sign_order(self.order(StatusOrder, status=status)))

    # --- users ---

    def user(self, name: str) -> WorldUser:
        """A user of the shard, by name; the same one each time."""
        if name not in self._users:
            self._users[name] = WorldUser(
                self, secret=self.secret(name), entropy=self.entropy(f"user {name}")
            )
        return self._users[name]

    def sealed_receipt(self, envelope: Digest) -> SealedReceipt | None:
        """The receipt that any worker has for an envelope."""
        for worker in self.workers.values():
            if envelope in worker.disk.receipts:
                return worker.disk.receipts[envelope]
        return None

    def serving(self) -> WorldWorker:
        """The worker that answers reads now.

        Raises:
            WorldError: None runs the generation of the last followed block.
        """
        entry = config_at(self.schedule_now(), self.height - 1)
        for worker in self.workers.values():
            names = entry.config.code.get(PLATFORM_KIND) == worker.release.fingerprint
            if worker.running and names and worker.status().epochs:
                return worker
        raise WorldError(f"no worker runs generation {entry.generation}")

    def running_runtime(self) -> Runtime:
        """The runtime of the generation that runs the next block.

        Raises:
            WorldError: No release here has its fingerprint.
        """
        entry = config_at(self.schedule_now(), self.height + 1)
        for release in self.releases:
            if entry.config.code.get(PLATFORM_KIND) == release.fingerprint:
                return release.runtime
        raise WorldError(f"no release of generation {entry.generation} is known")
