"""A world in memory: one chain, simulated machines, instances, honest hosts.

Quotes, RA-TLS and HPKE are real; only L1 is a dictionary that tests may falsify
as a chain, a registry or a host could.
"""

import datetime as dt
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sealift.attestation import TrustAnchor, parse_collateral, parse_trust_anchor
from sealift.base import Digest, Height, UnixSeconds, encode
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.crypto import (
    HpkeSuite,
    account_of,
    hpke_generate,
    hpke_open,
    sha256,
)
from sealift.insecure_sim import SimIdentity, SimIntel, SimMachine
from sealift.protocol import (
    CollateralRecord,
    EnclaveRecord,
    EntryStatus,
    EpochKeys,
    Frontier,
    KeyEpoch,
    KeyPackage,
    RegistrationStatement,
    RotationDue,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    StagedEpoch,
    SudoAuthority,
    collateral_key,
    enclave_key,
    frontier_key,
    schedule_key,
)
from sealift.protocol.ecall import Registration
from sealift.provisioning import (
    EntitledEpochs,
    MuRaSession,
    Output,
    ProvenState,
    epoch_public,
)
from sealift.relay import Header, RelayCheckpoint, Timestamp, TrustRoot
from sealift.relay import header_hash as hash_of

NOW = 1_800_000_000
CHAIN = "sealift-test"
SHARD = b"S" * 32
OPERATOR = b"o" * 32
OLD, NEW, OTHER = b"code 1", b"code 2", b"other code"
HEAD = 100


def header_at(height: int, chain: str = CHAIN, salt: bytes = b"") -> Header:
    return Header(
        chain_id=chain,
        height=height,
        time=Timestamp(seconds=NOW + height),
        last_commit_hash=sha256(b"commit" + salt),
        data_hash=sha256(b"data"),
        validators_hash=sha256(b"validators"),
        next_validators_hash=sha256(b"validators"),
        consensus_hash=sha256(b"consensus"),
        app_hash=sha256(b"app" + height.to_bytes(8, "big")),
        last_results_hash=sha256(b"results"),
        evidence_hash=sha256(b""),
        proposer_address=bytes(20),
    )


def epoch_keys(epoch: int, salt: bytes = b"") -> EpochKeys:
    def secret(name: bytes) -> bytes:
        return sha256(b"secret" + name + bytes([epoch]) + salt)

    return EpochKeys(
        epoch=epoch,
        shielding_secret=secret(b"shielding"),
        state_key=secret(b"state"),
        root_key=secret(b"root"),
    )


def entry(generation: int, code: bytes, **changes: Any) -> ScheduleEntry:
    """A generation: 0 runs from block 1, 1 is released at 90 and runs from 200."""
    born = generation == 0
    values: dict[str, Any] = {
        "generation": generation,
        "predecessor": None if born else generation - 1,
        "config": ShardConfig(
            code={"insecure-sim": measure({"app/a.py": code}).mrenclave}
        ),
        "order": sha256(b"order"),
        "recorded_at": 1 if born else 50,
        "release_from": 1 if born else 90,
        "upgrade_at": 1 if born else 200,
        "since": 1 if born else 200,
        "status": EntryStatus.ACTIVE if born else EntryStatus.PENDING,
    }
    return ScheduleEntry(**(values | changes))


class Node:
    """One enclave instance: the port ``Instance``, with attacks as attributes."""

    def __init__(
        self,
        world: "World",
        name: str,
        code: bytes,
        *,
        isv_svn: int = 2,
        epochs: tuple[EpochKeys, ...] = (),
    ) -> None:
        self.world, self.name = world, name
        self.machine = SimMachine(world.intel, name, entropy=os.urandom)
        self.identity = world.start(self.machine, code, isv_svn)
        self.secret = sha256(b"signing" + name.encode())
        self.hpke = hpke_generate(HpkeSuite.MLKEM768_X25519, os.urandom)
        self.chain_id: Any = CHAIN
        self.shard: Any = SHARD
        self.epochs = epochs
        self.package_changes: dict[str, Any] = {}
        self.forgotten: set[int] = set()
        self.salt = b""
        self.asked_for_keys = 0
        self.gives_all = True
        self.entitled: EntitledEpochs | None = None
        self.installed: KeyPackage | None = None
        self.entropy: Any = os.urandom

    @property
    def fingerprint(self) -> Any:
        return self.identity.mrenclave

    @property
    def signing_key(self) -> Any:
        return account_of(self.secret)

    @property
    def hpke_key(self) -> bytes:
        return self.hpke.public

    @property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        return (parse_trust_anchor(self.world.intel.root_der),)

    def head(self) -> tuple[Height, Digest]:
        return Height(HEAD), hash_of(header_at(HEAD, salt=self.salt))

    def header_hash(self, height: int) -> Digest | None:
        if height in self.forgotten or height > self.world.height:
            return None
        return hash_of(header_at(height, salt=self.salt))

    def quote(self, report_data: bytes) -> bytes:
        return self.machine.quote(self.identity, report_data)

    def register(self, **binds: Any) -> Registration:
        statement = RegistrationStatement(
            chain_id=self.chain_id,
            shard=self.shard,
            operator=OPERATOR,
            signing_key=self.signing_key,
            hpke_key=self.hpke_key,
            block_height=Height(HEAD),
            block_hash=hash_of(header_at(HEAD)),
            **({"tls_key": sha256(b"none")} | binds),
        )
        return Registration(
            statement=statement,
            signature=statement.sign(self.secret),
            quote=self.quote(statement.report_data()),
        )

    def open_package(self, sealed: bytes, *, info: bytes) -> bytes:
        return hpke_open(
            HpkeSuite.MLKEM768_X25519,
            self.hpke.secret,
            sealed,
            info=info,
            what="the key package",
        )

    def key_package(
        self, *, checkpoint_at: Height, entitled: EntitledEpochs
    ) -> KeyPackage:
        self.asked_for_keys += 1
        self.entitled = entitled
        header = header_at(checkpoint_at, salt=self.salt)
        checkpoint = RelayCheckpoint(
            trust_root=TrustRoot(
                chain_id=CHAIN, height=1, header_hash=hash_of(header_at(1))
            ),
            header=header,
            next_validators=None,
        )
        honest: dict[str, Any] = {
            "epochs": self.given(entitled),
            "checkpoint": encode(checkpoint),
            "schedule": self.world.schedule.digest(),
            "frontier": self.world.frontier,
        }
        return KeyPackage(**(honest | self.package_changes))

    def given(self, entitled: EntitledEpochs) -> tuple[EpochKeys, ...]:
        """The acting epochs, and the staged one if held; liars give all they have."""
        if self.gives_all:
            return self.epochs
        staged = () if entitled.staged is None else (entitled.staged.epoch,)
        allowed = (*(one.epoch for one in entitled.acting), *staged)
        return tuple(keys for keys in self.epochs if keys.epoch in allowed)

    def install(self, package: KeyPackage, *, schedule: Schedule) -> bytes:
        self.installed = package
        return b"sealed store of " + self.name.encode()


class World:
    """L1 as a dictionary, one simulated Intel, and the shard's standing."""

    def __init__(self, folder: Path, vendor: bytes) -> None:
        self.intel = SimIntel(folder)
        self.vendor = vendor
        self.height = HEAD
        self.schedule = Schedule(
            chain_id=CHAIN,
            shard=SHARD,
            rules=ShardRules(
                authority=SudoAuthority(key=b"a" * 32),
                genesis=sha256(b"genesis"),
                min_notice=10,
                rescue_after=20,
            ),
            serial=2,
            entries=(entry(0, OLD), entry(1, NEW)),
            status=ShardStatus(),
        )
        self.frontier = Frontier(confirmed=99, root=sha256(b"root"), generation=0)
        self.values: dict[bytes, bytes | None] = {}
        self.act(epoch_keys(0))

    def start(self, machine: SimMachine, code: bytes, isv_svn: int) -> SimIdentity:
        measurement = measure({"app/a.py": code})
        tbs = make_tbs(
            measurement, isv_prod_id=1, isv_svn=isv_svn, date=dt.date(2026, 11, 23)
        )
        return machine.einit(measurement, sign_sigstruct(tbs, self.vendor))

    def entries(self, *entries: ScheduleEntry) -> None:
        self.schedule = msgspec.structs.replace(self.schedule, entries=entries)

    def change(self, generation: int, **changes: Any) -> None:
        """Change fields of one entry of the schedule."""
        self.entries(
            *(
                msgspec.structs.replace(each, **changes)
                if each.generation == generation
                else each
                for each in self.schedule.entries
            )
        )

    def configure(self, generation: int, **changes: Any) -> None:
        """Change fields of one entry's config."""
        config = self.schedule.entry(generation).config
        self.change(generation, config=msgspec.structs.replace(config, **changes))

    def rule(self, **changes: Any) -> None:
        """Change fields of the shard's rules."""
        rules = msgspec.structs.replace(self.schedule.rules, **changes)
        self.schedule = msgspec.structs.replace(self.schedule, rules=rules)

    def act(self, keys: EpochKeys, *, valid_from: int = 1, not_before: int = 0) -> None:
        """One more epoch acts."""
        epoch = KeyEpoch(
            epoch=keys.epoch,
            keys=epoch_public(keys),
            valid_from=valid_from,
            grace=5,
            not_before=not_before,
        )
        self.schedule = msgspec.structs.replace(
            self.schedule, epochs=(*self.schedule.epochs, epoch)
        )

    def stage(
        self, keys: EpochKeys, *, generation: int = 0, not_before: int = 0
    ) -> None:
        """An epoch is staged that acts later."""
        due = RotationDue(
            epoch=keys.epoch,
            why="order",
            generation=generation,
            not_before=not_before,
            grace=5,
        )
        staged = StagedEpoch(
            epoch=keys.epoch,
            keys=epoch_public(keys),
            due=due,
            staged_at=HEAD,
            holders=(),
        )
        self.schedule = msgspec.structs.replace(
            self.schedule, staged=staged, rotation=due
        )

    def register(self, node: Node, statement: RegistrationStatement) -> EnclaveRecord:
        """What the ledger does: put a registration into the next block."""
        self.height += 1
        record = EnclaveRecord(
            statement=statement,
            operator=statement.operator,
            platform="insecure-sim",
            fingerprint=node.identity.mrenclave,
            mr_signer=node.identity.mrsigner,
            isv_prod_id=node.identity.isv_prod_id,
            isv_svn=node.identity.isv_svn,
            platform_id=sha256(node.name.encode()),
            tcb_status="UpToDate",
            advisories=(),
            tcb_evaluation_number=1,
            registered_at=self.height,
            attested_at=self.height,
        )
        self.values[enclave_key(node.signing_key)] = encode(record)
        return record

    def record(self, node: Node, **changes: Any) -> None:
        """Replace fields of an instance's record on L1."""
        key = enclave_key(node.signing_key)
        held = msgspec.msgpack.decode(self.values[key] or b"", type=EnclaveRecord)
        self.values[key] = encode(msgspec.structs.replace(held, **changes))

    def state(self, keys: tuple[bytes, ...]) -> ProvenState:
        """An honest proof of the newest state."""
        collateral = parse_collateral(self.intel.collateral_json(now=NOW))
        now = {
            schedule_key(SHARD): encode(self.schedule),
            frontier_key(SHARD): encode(self.frontier),
            collateral_key(self.intel.fmspc): encode(
                CollateralRecord(
                    collateral=encode(collateral),
                    recorded_at=1,
                    tcb_issued_at=NOW,
                    qe_issued_at=NOW,
                    tcb_evaluation_number=1,
                    qe_evaluation_number=1,
                    pck_crl_number=1,
                    root_crl_number=1,
                )
            ),
        } | self.values
        return ProvenState(
            height=Height(self.height),
            time=UnixSeconds(NOW + self.height),
            values={key: now.get(key) for key in keys},
        )


@dataclass
class Talk:
    """Two ends and the two hosts between them, which do as the test says."""

    world: World
    provider_node: Node
    requester_node: Node
    carry: Callable[[str, bytes], list[bytes]] = lambda _, chunk: [chunk]
    prove: Callable[[str, ProvenState], ProvenState] = lambda _, state: state
    bring: Callable[[Registration], Any] | None = None
    wire: list[tuple[str, bytes]] = field(default_factory=list)
    outputs: list[tuple[str, Output]] = field(default_factory=list)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    proofs: int = 0
    until: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        self.ends = {
            "provider": MuRaSession("provider", self.provider_node),
            "requester": MuRaSession("requester", self.requester_node),
        }
        self._queue: list[tuple[str, bytes]] = []

    def run(self) -> "Talk":
        for role in ("provider", "requester"):
            self._settle(role, self.ends[role].start())
        while self._queue and not self._reached():
            source, chunk = self._queue.pop(0)
            sink = "requester" if source == "provider" else "provider"
            for each in self.carry(source, chunk):
                if sink in self.errors or sink in self.done or self._reached():
                    continue
                self._settle(sink, self.ends[sink].feed([each]))
        return self

    def _reached(self) -> bool:
        """Whether an end stands in the state in which a test wants to step in."""
        if self.until is None:
            return False
        role, state = self.until
        return self.ends[role].state.name == state

    def _settle(self, role: str, output: Output) -> None:
        while True:
            self.outputs.append((role, output))
            for chunk in output.send:
                self.wire.append((role, chunk))
                self._queue.append((role, chunk))
            if output.error is not None:
                self.errors[role] = output.error
                return
            if output.done:
                self.done.add(role)
                return
            if output.registration is not None:
                self._bring(output.registration)
            if not output.wanted or self._reached():
                return
            self.proofs += 1
            state = self.prove(role, self.world.state(output.wanted))
            output = self.ends[role].prove(state)

    def _bring(self, registration: Registration) -> None:
        if self.bring is not None:
            self.bring(registration)
        else:
            self.world.register(self.requester_node, registration.statement)

    def refused(self, role: str, name: str) -> None:
        """``role`` refused by this name, the other heard it, no key went out."""
        other = "requester" if role == "provider" else "provider"
        assert self.errors[role][0] == name, self.errors
        heard = self.errors[other]
        assert heard[0] in {"RefusedByPeerError", name}, self.errors  # or both saw it
        assert heard[0] == name or name in heard[1]
        assert self.done == set()
        assert self.requester_node.installed is None
        self.no_secret_seen()
        if role == "provider":
            assert self.provider_node.asked_for_keys == 0

    def no_secret_seen(self) -> None:
        """What hosts see holds no byte of any key, not even hashed ones of L1."""
        seen = b"".join(chunk for _, chunk in self.wire)
        seen += b"".join((out.key_store or b"") for _, out in self.outputs)
        seen += b"".join(
            str(out.error).encode("utf-8", "replace") for _, out in self.outputs
        )
        for keys in self.provider_node.epochs:
            for secret in (keys.shielding_secret, keys.state_key, keys.root_key):
                assert secret not in seen
                assert secret.hex().encode() not in seen


def seeded(seed: bytes) -> Callable[[int], bytes]:
    """Entropy that repeats: for tests that need the same bytes twice."""
    counter = iter(range(1_000_000))

    def entropy(size: int) -> bytes:
        return hashlib.shake_256(seed + bytes([next(counter) % 256])).digest(size)

    return entropy
