"""An enclave in this process, a host with a disk, and a small L1 to follow."""

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sealift.base import Message, SealiftError, decode, encode
from sealift.bundle import AttestationRoot, L1TrustRoot, Manifest
from sealift.crypto import account_of, hkdf, sha256
from sealift.enclave import Enclave, PlatformRefusedError
from sealift.enclave._keystore import seal_key_store
from sealift.frame import Context, Pallet, Runtime, SimpleTreeStore, call, prove_ics23
from sealift.node import (
    CommittedBlock,
    ExecutedBlock,
    SoloChain,
    genesis_tip,
    light_block_of,
    solo_validators,
)
from sealift.protocol import (
    EntryStatus,
    EpochKeysPublic,
    Frontier,
    Getter,
    GetterBody,
    GetterReply,
    InvokeArgs,
    KeyEpoch,
    KeyEpochRecord,
    PublishKeyStatement,
    Receipt,
    RotationDue,
    Schedule,
    ScheduleEntry,
    ScheduleRecord,
    SealedReceipt,
    ShardConfig,
    ShardRules,
    ShardStatus,
    ShieldFundsArgs,
    StagedEpoch,
    SudoAuthority,
    Transaction,
    TransactionBody,
    TrustedCall,
    TrustedCallBody,
    certificate_key,
    config_at,
    frontier_key,
    keys_key,
    open_receipt,
    open_reply,
    record_key,
    schedule_key,
    seal_message,
)
from sealift.protocol import ecall as e
from sealift.protocol.platform import IdentityReply, SealKeyReply
from sealift.relay import Timestamp
from sealift.relay.rpc import ExecTxResult, GenesisDoc
from sealift.stf import StandardPallets

CHAIN = "test-chain"
SHARD = b"s" * 32
CODE_A, CODE_B = b"A" * 32, b"B" * 32
ALICE, BOB, SUDO = (sha256(name) for name in (b"alice", b"bob", b"sudo"))
GENESIS = encode(
    {
        "balances": {
            "endowments": [
                {"account": account_of(who), "free": 1000} for who in (ALICE, BOB)
            ]
        },
        "sudo": {"key": account_of(SUDO).hex()},
    }
)


def _root_certificate() -> bytes:
    key = ec.derive_private_key(12345, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SGX Root CA")])
    day = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + dt.timedelta(days=10_000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )


ROOT_DER = _root_certificate()


def runtime_v1(*more: Pallet, version: int = 1) -> Runtime:
    return Runtime(
        name="test", version=version, pallets=[*StandardPallets().pallets, *more]
    )


class Starving(Pallet):
    """Runs out of memory, or of stack, as a call tells it."""

    name = "starving"
    storage_version = 1

    @call(weight=10)
    def eat(self, ctx: Context) -> None:
        raise MemoryError

    @call(weight=10)
    def crash(self, ctx: Context) -> None:
        raise ZeroDivisionError


class MigratingExtra(Pallet):
    """A pallet of version 2 whose migration fails if told so."""

    name = "extra"
    storage_version = 2
    migrates_from = 0
    fails = False

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        if self.fails:
            raise ValueError("cannot")


class FakePlatform:
    """A machine: keys by code and level, quotes that are only labels."""

    def __init__(
        self,
        code: bytes = CODE_A,
        *,
        machine: bytes = b"m1",
        kind: str = "insecure-sim",
        isv_svn: int = 1,
        cpu: int = 1,
    ) -> None:
        self.code, self.machine, self.kind = code, machine, kind
        self.isv_svn, self.cpu = isv_svn, cpu

    @property
    def cpu_svn(self) -> bytes:
        return self.cpu.to_bytes(16, "big")

    def identity(self) -> IdentityReply:
        return IdentityReply(
            kind=self.kind,
            mrenclave=self.code,
            mrsigner=b"v" * 32,
            isv_prod_id=1,
            isv_svn=self.isv_svn,
            cpu_svn=self.cpu_svn,
        )

    def quote(self, report_data: bytes) -> bytes:
        return b"quote" + self.code + report_data

    def seal_key(
        self, label: bytes, *, cpu_svn: bytes | None, isv_svn: int | None
    ) -> SealKeyReply:
        cpu = self.cpu_svn if cpu_svn is None else cpu_svn
        isv = self.isv_svn if isv_svn is None else isv_svn
        if cpu > self.cpu_svn or isv > self.isv_svn:
            raise PlatformRefusedError("SVN is newer than mine")
        info = encode((self.code, label, cpu, isv))
        return SealKeyReply(key=hkdf(self.machine, info=info), cpu_svn=cpu, isv_svn=isv)


class FakeLedger:
    """An L1 state machine that writes what the test tells it to."""

    fixed_validators = True

    def __init__(self) -> None:
        self.store = SimpleTreeStore()
        self.schedule: Schedule | None = None
        self.epochs: tuple[KeyEpoch, ...] = ()
        self.staged: StagedEpoch | None = None
        self.rotation: RotationDue | None = None
        self.puts: dict[bytes, bytes | None] = {}
        self.codes: list[int] = []
        self.pending: dict[bytes, bytes | None] = {}

    def init_chain(self, genesis: GenesisDoc) -> ExecutedBlock:
        self.store.apply({b"begun": b"1"})
        return ExecutedBlock(app_hash=self.store.root(), changes={b"begun": b"1"})

    def finalize_block(self, *, height: int, txs: Sequence[bytes], **_: Any) -> Any:
        changes: dict[bytes, bytes | None] = {b"height": b"%d" % height, **self.puts}
        schedule = self.shown()
        if schedule is not None:
            changes[schedule_key(SHARD)] = encode(schedule)
            if any(entry.since <= height for entry in schedule.entries):
                record = ScheduleRecord(
                    height=height,
                    generation=config_at(schedule, height).generation,
                    schedule=schedule.digest(),
                )
                changes.setdefault(record_key(SHARD), encode(record))
        codes = self.codes or [0] * len(txs)
        tree = self.store.copy()
        tree.apply(changes)
        self.pending = changes
        return ExecutedBlock(
            app_hash=tree.root(),
            changes=changes,
            results=tuple(ExecTxResult(code=code) for code in codes),
        )

    def shown(self) -> Schedule | None:
        """The schedule as it stands on L1, with its key epochs."""
        if self.schedule is None:
            return None
        return msgspec.structs.replace(
            self.schedule,
            epochs=self.epochs,
            staged=self.staged,
            rotation=self.rotation,
        )

    def commit(self) -> None:
        self.store.apply(self.pending)
        self.puts, self.codes = {}, []


def entry(generation: int, code: bytes, since: int, **changes: Any) -> ScheduleEntry:
    fields: dict[str, Any] = {
        "generation": generation,
        "predecessor": generation - 1 if generation else None,
        "config": ShardConfig(code={"insecure-sim": code}),
        "order": bytes(32),
        "recorded_at": 1,
        "release_from": 2,
        "upgrade_at": since,
        "since": since,
        "status": EntryStatus.ACTIVE,
    }
    return ScheduleEntry(**(fields | changes))


def birth_epoch(record: KeyEpochRecord) -> KeyEpoch:
    said = record.statement
    return KeyEpoch(
        epoch=0,
        keys=EpochKeysPublic(
            shielding_key=said.shielding_key,
            state_key_commitment=said.state_key_commitment,
            root_key_commitment=said.root_key_commitment,
        ),
        valid_from=record.valid_from,
        grace=0,
    )


class L1:
    """A chain of real blocks over :class:`FakeLedger`."""

    SECRET = bytes(range(32))
    START = 1_700_000_000

    def __init__(self, *, branch: bytes = b"") -> None:
        self.ledger = FakeLedger()
        self.doc = GenesisDoc(
            genesis_time=Timestamp(seconds=self.START),
            chain_id=CHAIN,
            validators=solo_validators(account_of(self.SECRET)),
            app_state=b"{}",
        )
        begun = self.ledger.init_chain(self.doc)
        self.chain = SoloChain(
            secret=self.SECRET,
            genesis=self.doc,
            application=self.ledger,
            tip=genesis_tip(self.doc, begun.app_hash),
        )
        self.blocks: dict[int, CommittedBlock] = {}
        self.states: dict[int, SimpleTreeStore] = {}
        self.nonces = itertools.count()
        self.branch = branch

    @property
    def height(self) -> int:
        return self.chain.tip.height

    def block(self, *txs: bytes, codes: Sequence[int] = (), **puts: Any) -> int:
        """One block; ``frontier=…`` and the like go into the state after it."""
        self.ledger.codes = list(codes)
        for name, value in puts.items():
            key = {
                "frontier": frontier_key(SHARD),
                "keys": keys_key(SHARD, 0),
                "record": record_key(SHARD),
                "certificate": certificate_key(SHARD),
            }[name]
            self.ledger.puts[key] = None if value is None else encode(value)
            if isinstance(value, KeyEpochRecord):
                self.ledger.epochs = (birth_epoch(value),)
        now = Timestamp(seconds=self.START + 2 * (self.height + 1))
        block = self.chain.produce_block(now, txs)
        self.blocks[block.height] = block
        self.states[block.height] = self.ledger.store.copy()
        return block.height

    def light(self, height: int) -> bytes:
        return encode(light_block_of(self.blocks[height], self.doc.validators))

    def hash(self, height: int) -> bytes:
        return self.blocks[height].block_id.hash

    def proof(self, height: int, key: bytes) -> e.StateProof:
        state = self.states[height]
        return e.StateProof(
            key=key, value=state.get(key), proof=prove_ics23(state, key)
        )

    def proofs(self, height: int) -> tuple[e.StateProof, ...]:
        keys = (
            record_key(SHARD),
            schedule_key(SHARD),
            frontier_key(SHARD),
            keys_key(SHARD, 0),
            certificate_key(SHARD),
        )
        return tuple(self.proof(height, key) for key in keys)

    def request(self, height: int, **changes: Any) -> e.ImportBlock:
        """Block ``height`` as an honest host brings it."""
        block = self.blocks[height]
        fields: dict[str, Any] = {
            "light_block": self.light(height + 1),
            "txs": block.block.txs,
            "results": tuple(encode(r.committed()) for r in block.results),
            "proofs": self.proofs(height),
        }
        return e.ImportBlock(**(fields | changes))

    def tx(self, call: str, args: Message) -> bytes:
        body = TransactionBody(
            chain_id=CHAIN,
            signer=account_of(BOB),
            nonce=next(self.nonces),
            call=call,
            args=encode(args),
            valid_until=10_000,
        )
        return encode(Transaction(body=body, signature=body.sign(BOB)))

    def invoke(self, envelope: bytes, *, shard: bytes = SHARD) -> bytes:
        args = InvokeArgs(shard=shard, ciphertext=envelope)
        return self.tx("enclave_bridge.invoke", args)

    def shield(self, who: bytes, amount: int) -> bytes:
        args = ShieldFundsArgs(shard=SHARD, beneficiary=account_of(who), amount=amount)
        return self.tx("enclave_bridge.shield_funds", args)


def _named(root: type[SealiftError] = SealiftError) -> dict[str, type[SealiftError]]:
    """Every error by name; the enclave's own win where names are shared."""
    found = {root.__name__: root}
    for child in root.__subclasses__():
        for name, kind in _named(child).items():
            if name not in found or kind.__module__.startswith("sealift.enclave"):
                found[name] = kind
    return found


def raise_refused(refused: e.Refused) -> NoReturn:
    """Raise what the enclave refused with, as the host sees it."""
    kind = _named()[refused.code]
    error = kind.__new__(kind, refused.message)
    SealiftError.__init__(error, refused.message)
    raise error


class Host:
    """A worker in one object: a process that can die, and a disk that can lie."""

    shard: Any = SHARD

    def __init__(
        self,
        l1: L1,
        platform: FakePlatform | None = None,
        *,
        runtime: Runtime | None = None,
        seed: bytes = b"e",
        start: bool = True,
    ) -> None:
        self.l1 = l1
        self.platform = platform or FakePlatform()
        self.runtime = runtime or runtime_v1()
        self.counter = itertools.count()
        self.seed = seed
        self.key_store: bytes | None = None
        self.checkpoint: bytes | None = None
        self.diffs: dict[int, bytes] = {}
        self.snapshot: tuple[bytes, list[bytes]] | None = None
        self.receipts: list[SealedReceipt] = []
        self.roots: dict[int, bytes] = {}
        self.receipts_roots: dict[int, bytes] = {}
        self.boot()
        if start:
            self.start()

    def entropy(self, size: int) -> bytes:
        return hkdf(self.seed, info=b"%d" % next(self.counter), size=size)

    def manifest(self) -> Manifest:
        return Manifest(
            name="test",
            version="1",
            isv_prod_id=1,
            isv_svn=1,
            target="cp311-linux_x86_64",
            entry="app:runtime",
            l1=L1TrustRoot(chain_id=CHAIN, height=1, header_hash=self.l1.hash(1).hex()),
            attestation_roots=(
                AttestationRoot(kind="insecure-sim", der=ROOT_DER.hex()),
            ),
            ecall_versions=(1, 1),
            metadata="00" * 32,
        )

    def boot(self) -> None:
        """A new process; nothing survives but the disk."""
        self.enclave = Enclave(
            manifest=self.manifest(),
            platform=self.platform,
            entropy=self.entropy,
            runtime=self.runtime,
        )

    def call(self, request: Message) -> Any:
        reply = decode(e.Reply, self.enclave.handle(encode(request)))
        if isinstance(reply, e.Refused):
            raise_refused(reply)
        return reply

    def start(self) -> e.Started:
        started = self.call(
            e.Start(
                shard=self.shard,
                key_store=self.key_store,
                checkpoint=self.checkpoint,
                light_block=self.l1.light(1),
            )
        )
        self.key_store = started.key_store
        return started

    def restart(self) -> None:
        """Kill, start from the disk, load the state."""
        self.boot()
        self.start()
        self.load()

    def load(self) -> None:
        if self.snapshot is not None:
            self.offer(self.snapshot)
        elif self.status().epochs:
            self.call(e.Genesis(blob=GENESIS))
        for height in sorted(self.diffs):
            if self.status().state_height == height - 1:
                self.call(e.DiffApply(diff=self.diffs[height]))

    def status(self) -> e.EnclaveStatus:
        return self.call(e.GetStatus())

    def follow(self, upto: int | None = None) -> list[e.Followed]:
        """Import every block whose next header is there."""
        last = self.l1.height - 1 if upto is None else upto
        done = []
        while self.status().head <= last:
            followed = self.call(self.l1.request(self.status().head))
            self.checkpoint = followed.checkpoint
            done.append(followed)
        return done

    def execute(self) -> e.Executed | e.Idle:
        done = self.call(e.Execute())
        if isinstance(done, e.Executed):
            self.diffs[done.height] = done.diff
            self.checkpoint = done.checkpoint
            self.receipts += done.receipts
            self.roots[done.height] = self.status().root
            leaves = encode([r.leaf() for r in done.receipts])
            self.receipts_roots[done.height] = sha256(leaves)
        return done

    def run(self) -> e.Idle:
        """Follow and execute until idle."""
        self.follow()
        while isinstance(done := self.execute(), e.Executed):
            pass
        return done

    def export(self) -> tuple[bytes, list[bytes]]:
        header = self.call(e.SnapshotBegin())
        chunks = [
            self.call(e.SnapshotGet(index=index)).data for index in range(header.chunks)
        ]
        return header.header, chunks

    def offer(self, snapshot: tuple[bytes, list[bytes]]) -> e.StateReply:
        header, chunks = snapshot
        self.call(e.SnapshotBegin(header=header))
        for index, data in enumerate(chunks):
            reply = self.call(e.SnapshotChunk(index=index, data=data))
        return reply

    # --- what users do ---

    def newest_epoch(self) -> KeyEpoch:
        """What L1 shows as acting in the next block: what an honest user seals to."""
        acting = [
            one for one in self.l1.ledger.epochs if one.valid_from <= self.l1.height + 1
        ]
        return acting[-1] if acting else self.l1.ledger.epochs[0]

    def seal(
        self,
        who: bytes,
        call: str,
        *,
        nonce: int,
        epoch: KeyEpoch | None = None,
        **args: Any,
    ) -> bytes:
        body = TrustedCallBody(
            chain_id=CHAIN,
            shard=self.shard,
            signer=account_of(who),
            nonce=nonce,
            call=call,
            args=self.runtime.encode_call(call, **args).args,
            valid_until=self.l1.height + 50,
            reply_key=sha256(who),
        )
        sealed = TrustedCall(body=body, signature=body.sign(who))
        return self.sealed(sealed, epoch)

    def sealed(self, message: Any, epoch: KeyEpoch | None) -> bytes:
        if self.shard == SHARD:
            epoch = epoch or self.newest_epoch()
            key, number = epoch.keys.shielding_key, epoch.epoch
        else:  # over the real ledger
            key, number = self.status().shielding_key, max(self.status().epochs)
        return encode(seal_message(message, shielding_key=key, epoch=number))

    def transfer(
        self,
        amount: int,
        *,
        nonce: int,
        who: bytes = ALICE,
        epoch: KeyEpoch | None = None,
    ) -> bytes:
        return self.seal(
            who,
            "balances.transfer",
            nonce=nonce,
            epoch=epoch,
            dest=account_of(BOB),
            amount=amount,
        )

    def getter(
        self, who: bytes = ALICE, *, epoch: KeyEpoch | None = None, **changes: Any
    ) -> bytes:
        fields: dict[str, Any] = {
            "chain_id": CHAIN,
            "shard": self.shard,
            "signer": account_of(who),
            "getter": "balances.free",
            "args": encode([]),
            "min_height": 0,
            "valid_until": self.l1.height + 5,
            "reply_key": b"g" * 32,
        }
        body = GetterBody(**(fields | changes))
        getter = Getter(body=body, signature=body.sign(who))
        return self.sealed(getter, epoch)

    def read(self, who: bytes = ALICE, **changes: Any) -> GetterReply:
        answer = self.call(e.Ask(envelope=self.getter(who, **changes)))
        return open_reply(answer.sealed, reply_key=b"g" * 32)

    def free(self, who: bytes = ALICE) -> int:
        return msgspec.msgpack.decode(self.read(who).value)

    def opened(self, sealed: SealedReceipt, who: bytes = ALICE) -> Receipt:
        return open_receipt(
            sealed, reply_key=sha256(who), block_hash=self.l1.hash(sealed.height)
        )


RULES = ShardRules(
    authority=SudoAuthority(key=account_of(SUDO)),
    genesis=sha256(GENESIS),
    min_notice=1,
    rescue_after=5,
    page_bits=4,
)


def schedule(*entries: ScheduleEntry, **changes: Any) -> Schedule:
    fields: dict[str, Any] = {
        "chain_id": CHAIN,
        "shard": SHARD,
        "rules": RULES,
        "serial": len(entries),
        "entries": entries,
        "status": ShardStatus(),
    }
    return Schedule(**(fields | changes))


class World:
    """A shard that code A gave birth to; block 4 published its keys."""

    def __init__(self, **options: Any) -> None:
        self.l1 = L1()
        self.l1.block()
        self.host = Host(self.l1, **options)
        self.birth()

    def birth(self) -> None:
        l1, host = self.l1, self.host
        l1.ledger.schedule = schedule(entry(0, CODE_A, 3))
        l1.block()
        l1.block()
        l1.block()
        host.follow()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store = born.key_store
        self.publish(born.statement)
        host.follow()

    def publish(self, statement: PublishKeyStatement) -> None:
        height = self.l1.height + 1
        self.frontier = Frontier(
            confirmed=height, root=statement.genesis_root, generation=0
        )
        self.l1.block(
            keys=KeyEpochRecord(statement=statement, valid_from=height + 1),
            frontier=self.frontier,
        )
        self.l1.block()

    def confirm(self, host: Host | None = None, **puts: Any) -> None:
        """Confirm what is executed; the next block's state shows it."""
        host = host or self.host
        reply = host.call(
            e.Confirm(durable=host.status().state_height, after=self.frontier.confirmed)
        )
        said = reply.confirmation
        if said is not None:
            said.verify(said.signing_key, reply.signature)
            assert said.prev_root == self.frontier.root
            self.frontier = Frontier(
                confirmed=said.last, root=said.root, generation=said.generation
            )
        self.l1.block(frontier=self.frontier, **puts)
        self.l1.block()

    def twin(self, *, seed: bytes = b"twin", **options: Any) -> Host:
        """Another instance that has been given the shard's keys."""
        options.setdefault("platform", FakePlatform(machine=b"m2"))
        other = Host(self.l1, seed=seed, **options)
        give_keys(self.host, other)
        return other


def give_keys(giver: Host, taker: Host) -> None:
    """What provisioning does, without the session."""
    held, wants = giver.enclave._shard, taker.enclave._shard
    wants.keys = msgspec.structs.replace(wants.keys, epochs=held.keys.epochs)
    taker.key_store = seal_key_store(wants.keys, taker.platform, entropy=taker.entropy)
