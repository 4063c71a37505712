"""A worker in one object: an enclave that can die, and a disk that can lie."""

from collections.abc import Callable
from typing import TypeVar, cast

from sealift.base import AccountId, Height, Message, ShardId, decode, encode
from sealift.crypto import account_of
from sealift.enclave import Enclave, PlatformClient
from sealift.insecure_sim import SimMachine, SimPlatform
from sealift.protocol import (
    Frontier,
    certificate_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)
from sealift.protocol.ecall import (
    MAX_FRAME_BYTES,
    BornKeys,
    Confirm,
    Confirmed,
    DiffApply,
    EnclaveStatus,
    Execute,
    Executed,
    Followed,
    Genesis,
    GetStatus,
    HoldKeys,
    Idle,
    ImportBlock,
    KeysHeld,
    KeysPublished,
    KeysStaged,
    Refused,
    Register,
    Registration,
    Reply,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotGet,
    SnapshotHeader,
    StageKeys,
    Start,
    Started,
    StateReply,
)

from ._chain import Sent
from ._disk import Surroundings, WorldDisk
from ._effects import EffectsOutbox
from ._errors import CrashError, RefusedError, WorldError
from ._pump import provision
from ._release import Release

M = TypeVar("M", bound=Message)

_FETCHED = frozenset({"not-mine", "behind", "no-state"})


class WorldWorker:
    """An honest host around one enclave; tests make it dishonest.

    It does what the real worker does, in the same order, each thing that can
    be interrupted as one *act*: set :attr:`crash_at` to die before an act.

    Attributes:
        name: For people, and for the enclave's entropy.
        disk: What survives :meth:`kill`; replace it to roll back.
        running: Whether there is a process.
        paused: Whether the host withholds new blocks from the enclave.
        mute: Whether the host withholds from L1 what the enclave says.
        upstream: Whom state is fetched from while it is not made here.
        acts: Names of everything done so far.
        crash_at: Index into ``acts`` before which the host dies, once.
        crash_before: Beginning of the name of an act, likewise.
        refusals: What the enclave refused, newest last.
        roots: The state root after each block executed here.
        signed: What was confirmed, as signed.
    """

    def __init__(
        self,
        world: Surroundings,
        name: str,
        release: Release,
        *,
        shard: ShardId,
        machine: SimMachine,
        operator: str,
    ) -> None:
        self.name = name
        self.release = release
        self.shard = shard
        self.machine = machine
        self.operator = operator
        self.disk = WorldDisk()
        self.running = False
        self.paused = False
        self.mute = False
        self.upstream: WorldWorker | None = None
        self.acts: list[str] = []
        self.crash_at: int | None = None
        self.crash_before: str | None = None
        self.refusals: list[RefusedError] = []
        self.roots: dict[Height, bytes] = {}
        self.executions: list[Height] = []
        self._effects = EffectsOutbox(self)
        self.signed: list[Confirmed] = []
        self.idle = ""
        self._world = world
        self._entropy = world.entropy(f"enclave {name}")
        self._signed_to: Height | None = None
        self._first_executed: Height | None = None
        self._executed: Height | None = None
        self._enclave: Enclave | None = None

    # --- the process ---

    def boot(self) -> Enclave:
        """Measure, EINIT, and a new process that knows nothing."""
        bundle = self.release.bundle
        sigstruct = bundle.bundle.sigstruct
        if sigstruct is None:
            raise WorldError("the release is not signed")
        identity = self.machine.einit(bundle.measurement, sigstruct)
        platform = SimPlatform(self.machine)
        self._enclave = Enclave(
            manifest=self.release.manifest,
            platform=PlatformClient(
                lambda payload: encode(platform.answer(identity, payload))
            ),
            entropy=self._entropy,
            runtime=self.release.runtime,
        )
        return self._enclave

    def start(self) -> Started:
        """Boot and bring up from the disk; the state follows as it can.

        Raises:
            RefusedError: The enclave refuses what is on the disk.
        """
        self.boot()
        self.act("start")
        started = self.call(
            Start(
                shard=self.shard,
                key_store=self.disk.key_store,
                checkpoint=self.disk.checkpoint,
                light_block=self._world.chain.light_block(1),
            ),
            Started,
        )
        self.act("keep key store")
        self.disk.key_store = started.key_store
        self._signed_to = self._first_executed = self._executed = None
        self.running = True
        self._restore()
        return started

    def kill(self) -> None:
        """The process is gone; the disk stays."""
        self._enclave = None
        self.running = False

    def restart(self, disk: WorldDisk | None = None) -> None:
        """Kill, and start from the disk, or from another one; then catch up."""
        self.kill()
        if disk is not None:
            self.disk = disk.copy()
        self.start()
        self.step()

    def ask_enclave(self, request: Message) -> Message:
        """One frame in, one frame out; a refusal is an answer.

        Raises:
            WorldError: There is no process.
        """
        if self._enclave is None:
            raise WorldError(f"the enclave of {self.name} does not run")
        kind = cast("type[Message]", Reply)
        frame = self._enclave.handle(encode(request))
        return decode(kind, frame, limit=MAX_FRAME_BYTES)

    def call(self, request: Message, kind: type[M]) -> M:
        """Ask the enclave for one kind of reply.

        Raises:
            RefusedError: It refuses.
            WorldError: Another reply came, or there is no process.
        """
        reply = self.ask_enclave(request)
        if isinstance(reply, Refused):
            raise RefusedError(reply.code, reply.message)
        if not isinstance(reply, kind):
            raise WorldError("another reply", got=reply, expected=kind.__name__)
        return reply

    def status(self) -> EnclaveStatus:
        """How the enclave stands."""
        return self.call(GetStatus(), EnclaveStatus)

    @property
    def signing_key(self) -> AccountId:
        """The instance's identity on L1."""
        return self.status().signing_key

    # --- following and executing ---

    def step(self, *, upto: int | None = None) -> None:
        """Everything that can be done now: follow, execute, confirm.

        Args:
            upto: The last block that the host shows (default: all there are).

        Raises:
            CrashError: The host died before the act it was to die at.
        """
        if not self.running or self.paused:
            return
        try:
            self._execute_ready()
            last = self._world.chain.height if upto is None else upto
            while self.status().head < last:
                if not self._follow_one():
                    break
                self._execute_ready()
            self._confirm_rest()
            self._effects.carry()
        except CrashError:
            self.kill()
            raise

    def import_request(self, height: int) -> ImportBlock:
        """Block ``height`` as an honest host brings it."""
        chain = self._world.chain
        block = chain.block(height)
        keys = (
            record_key(self.shard),
            schedule_key(self.shard),
            frontier_key(self.shard),
            keys_key(self.shard, 0),
            certificate_key(self.shard),
        )
        return ImportBlock(
            light_block=chain.light_block(height + 1),
            txs=block.block.txs,
            results=tuple(encode(one.committed()) for one in block.results),
            proofs=chain.prove(height, keys),
        )

    def _follow_one(self) -> bool:
        height = self.status().head
        self.act(f"import {height}")
        try:
            followed = self.call(self.import_request(height), Followed)
        except RefusedError as error:
            self.refusals.append(error)
            return False
        self.act(f"keep checkpoint {height}")
        self.disk.checkpoint = followed.checkpoint
        if self.status().state_height is None:
            self._restore()
        return True

    def _execute_ready(self) -> None:
        while True:
            self.act("execute")
            try:
                reply = self.ask_enclave(Execute())
            except WorldError:
                return
            if isinstance(reply, Executed):
                self._keep(reply)
                continue
            if isinstance(reply, Refused):
                self.refusals.append(RefusedError(reply.code, reply.message))
                return
            if not isinstance(reply, Idle):
                raise WorldError("another reply", got=reply, expected="Executed")
            self.idle = reply.reason
            # Behind the frontier, state is fetched; above it, it waits for L1.
            waits = reply.detail.startswith("StateUnconfirmedError")
            if waits or reply.reason not in _FETCHED or not self.fetch_state():
                return

    def _keep(self, block: Executed) -> None:
        self.act(f"keep block {block.height}")
        self.disk.diffs[block.height] = block.diff
        self.disk.checkpoint = block.checkpoint
        for receipt in block.receipts:
            self.disk.receipts.setdefault(receipt.envelope, receipt)
        root = self.status().root
        if root is not None:
            self.roots[block.height] = root
        self.executions.append(block.height)
        self._executed = block.height
        if self._first_executed is None:
            self._first_executed = block.height
        if block.effects is not None:
            self.disk.effects[block.height] = block.effects
            self._effects.carry()
        for signed in block.orders:
            if not self.mute:
                self.act("carry order")
                self.send("enclave_bridge.submit_order", order=signed)
        signed_to = self._signed_to
        if (
            block.calls
            or block.last_of_generation
            or signed_to is None
            or block.height - signed_to >= self._world.confirm_every
        ):
            self._confirm(block.height)

    # --- confirming ---

    def _confirm_rest(self) -> None:
        if self._executed is not None and self._signed_to is None:
            self._confirm(self._executed)

    def _confirm(self, durable: Height) -> None:
        refused: RefusedError | None = None
        for after in self._begin_after():
            if after >= durable:
                self._signed_to = after
                return
            self.act(f"confirm {after + 1} … {durable}")
            try:
                reply = self.call(Confirm(durable=durable, after=after), Confirmed)
            except RefusedError as error:
                refused = error  # the frontier may lie before what was executed here
                continue
            self._carry(reply)
            return
        if refused is not None:
            self.refusals.append(refused)
            self._signed_to = None  # from L1's frontier, as the real worker does

    def _begin_after(self) -> list[Height]:
        if self._signed_to is not None:
            return [self._signed_to]
        followed = self.status().head - 1
        frontier = self._world.chain.read(
            Frontier, frontier_key(self.shard), height=followed
        )
        found = [] if frontier is None else [frontier.confirmed]
        first = self._first_executed
        if first is not None and first - 1 not in found:
            found.append(Height(first - 1))
        return found

    def _carry(self, reply: Confirmed) -> None:
        self.signed.append(reply)
        if reply.confirmation is not None:
            self._signed_to = reply.confirmation.last
        if self.mute:
            return
        if reply.confirmation is not None:
            self.act(f"send confirmation {reply.confirmation.last}")
            self.send(
                "enclave_bridge.confirm",
                heard=self._heard,
                confirmation=reply.confirmation,
                signature=reply.signature,
                effects=reply.effects,
            )
        if reply.certificate is not None:
            self.act(f"send certificate {reply.certificate.height}")
            self.send(
                "enclave_bridge.post_certificate",
                certificate=reply.certificate,
                signature=reply.certificate_signature,
            )

    def _heard(self, sent: Sent) -> None:
        if sent.refusal:
            self._signed_to = None

    # --- effects and keys ---

    def stage_keys(self) -> Sent:
        """Make the next epoch's keys, as is due, and bring them to L1; a block.

        Raises:
            RefusedError: The enclave or L1 refuses.
        """
        staged = self.call(StageKeys(), KeysStaged)
        self.act("keep staged keys")
        self.disk.key_store = staged.key_store
        self.act("send staged keys")
        sent = self.send(
            "enclave_bridge.stage_keys",
            statement=staged.statement,
            signature=staged.signature,
        )
        self._world.block()
        return sent.check()

    def hold_keys(self) -> Sent:
        """Say on L1 that the staged epoch's keys are held here; makes a block.

        Raises:
            RefusedError: The enclave or L1 refuses.
        """
        held = self.call(HoldKeys(), KeysHeld)
        self.act("send held keys")
        sent = self.send(
            "enclave_bridge.hold_keys",
            statement=held.statement,
            signature=held.signature,
        )
        self._world.block()
        return sent.check()

    # --- birth and provisioning ---

    def register(self) -> Sent:
        """Register, or attest again, without a challenge; makes a block.

        Raises:
            RefusedError: L1 refuses the registration.
        """
        registration = self.call(Register(operator=self.account), Registration)
        return self.send_registration(registration)

    def give_birth(self, genesis: bytes) -> None:
        """Register, make the keys of epoch 0, and publish them.

        Raises:
            RefusedError: The enclave or L1 refuses.
        """
        self.register()
        self._wait_for_head()
        born = self.call(BornKeys(blob=genesis), KeysPublished)
        self.act("keep born keys")
        self.disk.key_store, self.disk.genesis = born.key_store, genesis
        self.act("send keys")
        sent = self.send(
            "enclave_bridge.publish_key",
            statement=born.statement,
            signature=born.signature,
        )
        self._world.block()
        sent.check()
        self._world.block()

    def request_keys(self, provider: "WorldWorker") -> None:
        """Be provisioned by another worker, over mu-ra; makes blocks meanwhile.

        Raises:
            RefusedError: Either enclave, or L1, ended it; no keys were given.
        """
        provision(self._world, provider=provider, requester=self)

    def send_registration(self, registration: Registration) -> Sent:
        """Bring a registration to L1; makes a block.

        Raises:
            RefusedError: L1 refuses it.
        """
        self.act("send registration")
        sent = self.send(
            "teerex.register_sgx_enclave",
            statement=registration.statement,
            signature=registration.signature,
            quote=registration.quote,
            url=f"http://{self.name}.test",
        )
        self._world.block()
        return sent.check()

    def _wait_for_head(self) -> None:
        target = self._world.chain.height
        while self.status().head <= target:
            self._world.block()

    # --- state ---

    def export_snapshot(self) -> tuple[Height, bytes, tuple[bytes, ...]]:
        """The state as it is now, in sealed chunks: height, header, chunks.

        Raises:
            RefusedError: There is none, or it is void.
        """
        begun = self.call(SnapshotBegin(), SnapshotHeader)
        chunks = tuple(
            self.call(SnapshotGet(index=index), SnapshotChunk).data
            for index in range(begun.chunks)
        )
        return begun.height, begun.header, chunks

    def import_snapshot(
        self, snapshot: tuple[Height, bytes, tuple[bytes, ...]]
    ) -> None:
        """Take a snapshot over, and keep it.

        Raises:
            RefusedError: It is not what it must be.
        """
        height, header, chunks = snapshot
        self.act("import snapshot")
        self.call(SnapshotBegin(header=header), SnapshotHeader)
        for index, data in enumerate(chunks):
            self.call(SnapshotChunk(index=index, data=data), StateReply)
        self.act("keep snapshot")
        self.disk.snapshot = (height, header, chunks)
        self.disk.diffs = {h: d for h, d in self.disk.diffs.items() if h > height}

    def take_snapshot(self) -> None:
        """Write the own state to the disk as a snapshot; diffs up to it go."""
        snapshot = self.export_snapshot()
        self.act("keep snapshot")
        self.disk.snapshot = snapshot
        self.disk.diffs = {h: d for h, d in self.disk.diffs.items() if h > snapshot[0]}

    def fetch_state(self) -> bool:
        """Fetch what :attr:`upstream` has and this enclave lacks; whether any."""
        peer = self.upstream
        status = self.status()
        if peer is None or not peer.running or not status.epochs:
            return False
        try:
            if status.state_height is None:
                self.import_snapshot(peer.export_snapshot())
                return True
            return self._fetch_diffs(peer.disk, status.state_height)
        except RefusedError as error:
            self.refusals.append(error)
            return False

    def _fetch_diffs(self, theirs: WorldDisk, after: Height) -> bool:
        height = Height(after + 1)
        while height in theirs.diffs:
            self.act(f"apply diff {height}")
            self.call(DiffApply(diff=theirs.diffs[height]), StateReply)
            self.act(f"keep diff {height}")
            self.disk.diffs[height] = theirs.diffs[height]
            height = Height(height + 1)
        return height > after + 1

    def _restore(self) -> None:
        """Bring the state back from the disk, as far as the enclave takes it.

        Raises:
            RefusedError: It refuses what is on the disk.
        """
        disk = self.disk
        if not self._load_base():
            return
        height = self.status().state_height
        while height is not None and (following := Height(height + 1)) in disk.diffs:
            height = self.call(DiffApply(diff=disk.diffs[following]), StateReply).height
        # What is durable is to be confirmed, also if nothing more is executed here.
        self._executed = height

    def _load_base(self) -> bool:
        disk = self.disk
        if disk.snapshot is not None:
            _, header, chunks = disk.snapshot
            self.call(SnapshotBegin(header=header), SnapshotHeader)
            for index, data in enumerate(chunks):
                self.call(SnapshotChunk(index=index, data=data), StateReply)
        elif disk.genesis is not None:
            try:
                self.call(Genesis(blob=disk.genesis), StateReply)
            except RefusedError as error:
                if error.name != "NoKeysError":
                    raise
                return False  # it is to be provisioned first
        return True

    # --- small things ---

    def send(
        self, call: str, *, heard: Callable[[Sent], None] | None = None, **args: object
    ) -> Sent:
        secret = self._world.secret(self.operator)
        return self._world.chain.send(secret, call, args, heard=heard)

    @property
    def account(self) -> AccountId:
        """The operator's account."""
        return AccountId(account_of(self._world.secret(self.operator)))

    def keep_key_store(self, sealed: bytes) -> None:
        """Make a sealed key store durable."""
        self.act("keep provisioned keys")
        self.disk.key_store = sealed

    def act(self, name: str) -> None:
        here = self.crash_before is not None and name.startswith(self.crash_before)
        if here or (self.crash_at is not None and len(self.acts) >= self.crash_at):
            self.crash_at = self.crash_before = None
            raise CrashError(f"{self.name} died before it could {name}")
        self.acts.append(name)
