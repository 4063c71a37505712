"""L1 as a function of its acts, and who its enclaves are, for the explorer of sessions.

Schedules, cancels, rotations, records and proofs of the state are the real ones;
headers are made here and count as verified.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from sealift.base import encode
from sealift.bundle import measure
from sealift.crypto import sha256
from sealift.frame import SimpleTreeStore, prove_ics23
from sealift.ledger._orders import owe_rotation, record_cancel
from sealift.ledger._rotation import activate, stage
from sealift.protocol import (
    CancelOrder,
    EnclaveRecord,
    EntryStatus,
    EpochKeys,
    Frontier,
    KeyEpoch,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SudoAuthority,
    collateral_key,
    enclave_key,
    frontier_key,
    schedule_key,
)
from sealift.protocol.ecall import StateProof
from sealift.provisioning import epoch_public
from sealift.relay import (
    Header,
    HeaderNotKeptError,
    RelayCheckpoint,
    Timestamp,
    TrustRoot,
)
from sealift.relay import header_hash as hash_of
from sealift.relay._verified import SEAL, VerifiedHeader

NOW, CHAIN, SHARD = 1_800_000_000, "explored", b"S" * 32
#: L1 stands here in the beginning, and the notice of generation 1 ends there.
BORN, RELEASE, XYZ = 10, 12, 90


class Kind(NamedTuple):
    """An enclave's code, level, machine and the epochs it is born with."""

    code: bytes
    isv_svn: int
    machine: str
    epochs: tuple[int, ...] = ()


#: A provider, its twin without keys, the next generation, and code of nobody.
KINDS = {
    "P": Kind(b"code 1", 3, "alpha", (0,)),
    "Q": Kind(b"code 1", 3, "gamma"),
    "N": Kind(b"code 2", 2, "beta"),
    "X": Kind(b"other code", 3, "alpha"),
}


def epoch_keys(epoch: int) -> EpochKeys:
    made = [sha256(b"secret" + bytes([epoch, n])) for n in range(3)]
    return EpochKeys(
        epoch=epoch, shielding_secret=made[0], state_key=made[1], root_key=made[2]
    )


SECRETS = [
    secret
    for epoch in (0, 1)
    for secret in (
        epoch_keys(epoch).shielding_secret,
        epoch_keys(epoch).state_key,
        epoch_keys(epoch).root_key,
    )
]


def entry(generation: int, code: bytes) -> ScheduleEntry:
    born = generation == 0
    return ScheduleEntry(
        generation=generation,
        predecessor=None if born else 0,
        config=ShardConfig(
            code={"insecure-sim": measure({"app/a.py": code}).mrenclave}
        ),
        order=sha256(b"order"),
        recorded_at=1 if born else 5,
        release_from=1 if born else RELEASE,
        upgrade_at=1 if born else XYZ,
        since=1 if born else XYZ,
        status=EntryStatus.ACTIVE if born else EntryStatus.PENDING,
    )


Acts = tuple[str, ...]


def header(height: int, app_hash: bytes) -> Header:
    return Header(
        chain_id=CHAIN,
        height=height,
        time=Timestamp(seconds=NOW),
        last_commit_hash=sha256(b"commit"),
        data_hash=sha256(b"data"),
        validators_hash=sha256(b"validators"),
        next_validators_hash=sha256(b"validators"),
        consensus_hash=sha256(b"consensus"),
        app_hash=app_hash,
        last_results_hash=sha256(b"results"),
        evidence_hash=sha256(b""),
        proposer_address=bytes(20),
    )


ROOT = TrustRoot(chain_id=CHAIN, height=1, header_hash=hash_of(header(1, b"")))


class Chain:
    """L1 as a function of its acts: one act a block, from block 11 on."""

    def __init__(self, collateral: tuple[bytes, bytes]) -> None:
        self._collateral = collateral
        self.frontier = Frontier(confirmed=9, root=sha256(b"root"), generation=0)
        self.records: dict[str, EnclaveRecord] = {}
        self._states: dict[Acts, tuple[Schedule, dict[bytes, bytes]]] = {}
        self._trees: dict[Acts, SimpleTreeStore] = {}
        self._proofs: dict[tuple[Acts, bytes], StateProof] = {}
        self._headers: dict[tuple[Acts, int], VerifiedHeader] = {}

    def schedule(self, acts: Acts) -> Schedule:
        return self._state(acts)[0]

    def header(self, acts: Acts, height: int) -> VerifiedHeader:
        """Header ``height``, which commits to the state one block before."""
        key = (acts[: max(height - 1 - BORN, 0)], height)
        if key not in self._headers:
            app_hash = sha256(b"old") if height <= BORN else self.tree(key[0]).root()
            made = header(height, app_hash)
            self._headers[key] = VerifiedHeader(
                header=made, hash=hash_of(made), seal=SEAL
            )
        return self._headers[key]

    def proofs(self, acts: Acts, keys: tuple[bytes, ...]) -> tuple[StateProof, ...]:
        return tuple(self._proof(acts, key) for key in keys)

    def _proof(self, acts: Acts, key: bytes) -> StateProof:
        if (acts, key) not in self._proofs:
            tree = self.tree(acts)
            self._proofs[acts, key] = StateProof(
                key=key, value=tree.get(key), proof=prove_ics23(tree, key)
            )
        return self._proofs[acts, key]

    def tree(self, acts: Acts) -> SimpleTreeStore:
        if acts not in self._trees:
            schedule, values = self._state(acts)
            tree = SimpleTreeStore()
            tree.apply(
                values
                | {
                    schedule_key(SHARD): encode(schedule),
                    frontier_key(SHARD): encode(self.frontier),
                }
            )
            self._trees[acts] = tree
        return self._trees[acts]

    def _state(self, acts: Acts) -> tuple[Schedule, dict[bytes, bytes]]:
        if acts not in self._states:
            if acts:
                schedule, values = self._state(acts[:-1])
                height = BORN + len(acts)
                made = self._after(schedule, dict(values), acts[-1], height)
            else:
                first = self.records["P"]
                made = (
                    _first(),
                    {
                        collateral_key(self._collateral[0]): self._collateral[1],
                        enclave_key(first.statement.signing_key): encode(first),
                    },
                )
            self._states[acts] = made
        return self._states[acts]

    def _after(
        self, schedule: Schedule, values: dict[bytes, bytes], act: str, height: int
    ) -> tuple[Schedule, dict[bytes, bytes]]:
        if act.startswith("register"):
            record = self.records[act]
            record = msgspec.structs.replace(
                record, registered_at=height, attested_at=height
            )
            values[enclave_key(record.statement.signing_key)] = encode(record)
        elif act == "cancel":
            order = CancelOrder(
                chain_id=CHAIN,
                shard=SHARD,
                serial=schedule.serial,
                generation=1,
                expiry=1000,
            )
            schedule, _ = record_cancel(schedule, order)
            if height >= RELEASE:
                schedule = owe_rotation(
                    schedule, "cancel", generation=0, not_before=0, grace=0
                )
        elif act == "floor":
            status = msgspec.structs.replace(schedule.status, min_isv_svn=3)
            schedule = msgspec.structs.replace(schedule, status=status)
        elif act == "rotate" and schedule.rotation is not None:
            keys, mine = epoch_public(epoch_keys(1)), self.records["P"].statement
            after = stage(
                schedule,
                keys,
                schedule.rotation,
                signing_key=mine.signing_key,
                height=height,
            )
            schedule, _ = activate(after, {mine.signing_key}, height=height)
        return schedule, values


def _first() -> Schedule:
    epoch = KeyEpoch(epoch=0, keys=epoch_public(epoch_keys(0)), valid_from=1, grace=0)
    return Schedule(
        chain_id=CHAIN,
        shard=SHARD,
        rules=ShardRules(
            authority=SudoAuthority(key=b"a" * 32),
            genesis=sha256(b"genesis"),
            min_notice=2,
            rescue_after=20,
            grace=0,
        ),
        serial=2,
        entries=(entry(0, KINDS["P"].code), entry(1, KINDS["N"].code)),
        epochs=(epoch,),
        status=ShardStatus(),
    )


def repeating(seed: bytes) -> Callable[[int], bytes]:
    """Entropy that is the same when a session is played again."""
    count = 0

    def entropy(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(seed + count.to_bytes(4)).digest(size)

    return entropy


class Shown:
    """A relay that was shown a chain so far; its headers count as verified."""

    def __init__(self, chain: "Chain", acts: Acts) -> None:
        self._chain, self._acts = chain, acts
        self.evidence = None
        self.trust_root = ROOT

    @property
    def head(self) -> VerifiedHeader:
        return self.header_at(BORN + len(self._acts) + 1)

    def header_at(self, height: int) -> VerifiedHeader:
        if height > BORN + len(self._acts) + 1:
            raise HeaderNotKeptError("not shown", got=height)
        return self._chain.header(self._acts, height)

    def checkpoint_at(self, height: int) -> RelayCheckpoint:
        return RelayCheckpoint(
            trust_root=self.trust_root,
            header=self.header_at(height).header,
            next_validators=None,
        )
