"""An enclave that answers as told, an L1 that stands or lies, an account."""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    Message,
    MrSigner,
    PlatformId,
    SealiftError,
    ShardId,
    StateRoot,
    decode,
    encode,
)
from sealift.ledger import SignedConfirmation
from sealift.protocol import (
    BlockEffects,
    Confirmation,
    EffectsStatement,
    EnclaveRecord,
    EntryStatus,
    EpochKeysPublic,
    Frontier,
    HandoverCertificate,
    KeyEndorsement,
    KeyEpoch,
    RegistrationStatement,
    RotationDue,
    Schedule,
    ScheduleEntry,
    SealedReceipt,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignedOrder,
    StagedEpoch,
    SudoAuthority,
    Unshield,
    UpgradeOrder,
    effects_digest,
)
from sealift.protocol.ecall import (
    Confirmed,
    EnclaveStatus,
    Executed,
    Refused,
    Request,
)
from sealift.worker import WorkerStore
from sealift.worker._outbox import Included
from sealift.worker._snapshots import About, Manifest, SnapshotFolder
from sealift.worker._store import StoredSnapshot

SHARD = ShardId(b"\x07" * 32)
ME = AccountId(b"\x08" * 32)
CODE = Fingerprint(b"\x09" * 32)
ROOT = StateRoot(b"\x0a" * 32)
SIGNATURE = b"\x0b" * 64


class LostError(SealiftError):
    """Something outside is gone, in a test."""


class FakeEnclave:
    """Answers each kind of request by a function; notes all that was asked."""

    def __init__(self, **answers: Callable[..., Message]) -> None:
        self.answers = answers
        self.asked: list[Message] = []
        self.gone: SealiftError | None = None

    async def call(self, payload: bytes) -> bytes:
        await asyncio.sleep(0)
        if self.gone is not None:
            raise self.gone
        request: Message = decode(cast("type[Message]", Request), payload)
        self.asked.append(request)
        return encode(self.answers[type(request).__name__](request))

    def count(self, kind: type[Message]) -> int:
        return sum(isinstance(one, kind) for one in self.asked)


class FakeAccount:
    """Puts every act into a block at once, or does what it is told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, object]]] = []
        self.refuse_sending: SealiftError | None = None
        self.outcomes: dict[str, Callable[[dict[str, object]], Included]] = {}
        self.waits: list[asyncio.Event] = []

    async def send(self, call: str, args: dict[str, object]) -> bytes:
        if self.refuse_sending is not None:
            raise self.refuse_sending
        self.sent.append((call, args))
        return (len(self.sent) - 1).to_bytes(4, "big")

    async def wait(self, tx_hash: bytes) -> Included:
        call, args = self.sent[int.from_bytes(tx_hash, "big")]
        await asyncio.sleep(0)
        if call in self.outcomes:
            return self.outcomes[call](args)
        return Included(height=Height(9), code=0, log="")

    def calls(self, name: str) -> list[dict[str, object]]:
        return [args for call, args in self.sent if call == name]


class FakeL1:
    """An L1 node whose frontier and head are set by the test."""

    def __init__(self, *, confirmed: int | None = 0, head: int = 1) -> None:
        self.frontier = confirmed
        self.head = head
        self.lost: SealiftError | None = None
        self.values: dict[bytes, bytes] = {}
        self.executed_effects: int | None = None
        self.said: list[SignedConfirmation] = []

    async def confirmed(self, shard: ShardId) -> Height | None:
        assert shard == SHARD
        if self.lost is not None:
            raise self.lost
        return None if self.frontier is None else Height(self.frontier)

    async def votes(self, shard: ShardId) -> tuple[SignedConfirmation, ...]:
        assert shard == SHARD
        if self.lost is not None:
            raise self.lost
        return tuple(self.said)

    async def effects_done(self, shard: ShardId) -> Height | None:
        assert shard == SHARD
        if self.lost is not None:
            raise self.lost
        done = self.executed_effects
        return None if done is None else Height(done)

    async def wait_for_height(self, height: int) -> Height:
        if self.lost is not None:
            raise self.lost
        while self.head < height:
            await asyncio.sleep(0.001)
        return Height(self.head)

    async def prove(self, key: bytes, height: int) -> tuple[bytes | None, bytes]:
        if self.lost is not None:
            raise self.lost
        return self.values.get(key), b"proof"


def written(
    folder: SnapshotFolder, height: int, *chunks: bytes, header: bytes = b"header"
) -> Manifest:
    """A whole snapshot of these chunks, in a folder."""
    draft = folder.draft(height, header)
    for number, data in enumerate(chunks):
        draft.put(number, data)
    return draft.finish(len(chunks), About(shard=SHARD, fingerprint=CODE))


def stored(
    store: WorkerStore, height: int, *chunks: bytes, header: bytes = b"header"
) -> StoredSnapshot:
    """The same beside a database, that is still to name it."""
    made = written(store.snapshots, height, *chunks, header=header)
    return StoredSnapshot(height=Height(height), name=made.name)


def refusal(code: str = "SomeError", message: str = "because") -> Refused:
    return Refused(code=code, message=message)


def receipt(height: int, index: int = 0, envelope: bytes = b"\x01") -> SealedReceipt:
    return SealedReceipt(
        envelope=Digest(envelope * 32),
        height=Height(height),
        index=index,
        sealed=b"sealed",
    )


def executed(height: int, **changes: object) -> Executed:
    fields: dict[str, object] = {
        "height": Height(height),
        "diff": b"diff %d" % height,
        "receipts": (),
        "orders": (),
        "checkpoint": b"checkpoint %d" % height,
        "calls": 0,
        "last_of_generation": False,
        **changes,
    }
    return Executed(**fields)  # type: ignore[arg-type]


def confirmation(first: int, last: int) -> Confirmation:
    return Confirmation(
        chain_id="test",
        shard=SHARD,
        generation=Generation(0),
        first=Height(first),
        last=Height(last),
        prev_root=ROOT,
        root=ROOT,
        receipts_root=Digest(bytes(32)),
        effects_root=Digest(bytes(32)),
        signing_key=ME,
    )


def vote(
    first: int, last: int, *, key: AccountId = ME, platform: int = 0
) -> SignedConfirmation:
    """What an instance on a machine has said on L1, and others have not yet."""
    said = msgspec.structs.replace(confirmation(first, last), signing_key=key)
    return SignedConfirmation(
        confirmation=said,
        signature=SIGNATURE,
        platform_id=PlatformId(bytes([platform]) * 32),
    )


def confirmed(first: int, last: int, *, certificate: bool = False) -> Confirmed:
    return Confirmed(
        confirmation=confirmation(first, last) if first <= last else None,
        signature=SIGNATURE if first <= last else None,
        certificate=HandoverCertificate(
            chain_id="test",
            shard=SHARD,
            generation=Generation(0),
            successor=Generation(1),
            height=Height(last),
            root=ROOT,
            signing_key=ME,
        )
        if certificate
        else None,
        certificate_signature=SIGNATURE if certificate else None,
    )


def order(serial: int = 0) -> SignedOrder:
    return SignedOrder(
        order=UpgradeOrder(
            chain_id="test",
            shard=SHARD,
            serial=serial,
            predecessor=Generation(0),
            config=ShardConfig(code={"insecure-sim": CODE}, min_isv_svn=1),
            release_from=Height(10),
            upgrade_at=Height(20),
            expiry=Height(10),
        ),
        endorsements=(KeyEndorsement(key=bytes(32), signature=SIGNATURE),),
    )


def effects(height: int, previous: int = 0, amount: int = 5) -> BlockEffects:
    what = (Unshield(beneficiary=ME, amount=amount),)
    return BlockEffects(
        statement=EffectsStatement(
            chain_id="test",
            shard=SHARD,
            generation=Generation(0),
            height=Height(height),
            previous=Height(previous),
            effects=effects_digest(what),
            signing_key=ME,
        ),
        signature=SIGNATURE,
        effects=what,
    )


def status(**changes: object) -> EnclaveStatus:
    fields: dict[str, object] = {
        "shard": SHARD,
        "signing_key": ME,
        "head": Height(1),
        "state_height": None,
        "root": None,
        "epochs": (Epoch(0),),
        "shielding_key": None,
        "generation": None,
        "waiting": 0,
        "accounts_bytes": 0,
        **changes,
    }
    return EnclaveStatus(**fields)  # type: ignore[arg-type]


def entry(generation: int = 0, **changes: object) -> ScheduleEntry:
    since = changes.pop("since", 1)
    code = changes.pop("code", CODE)
    config = changes.pop("config", ShardConfig(code={"insecure-sim": code}))
    fields: dict[str, object] = {
        "generation": Generation(generation),
        "predecessor": Generation(generation - 1) if generation else None,
        "config": config,
        "order": Digest(bytes(32)),
        "recorded_at": Height(0),
        "release_from": Height(max(since - 1, 0)),
        "upgrade_at": Height(since),
        "since": Height(since),
        "status": EntryStatus.ACTIVE,
        **changes,
    }
    return ScheduleEntry(**fields)  # type: ignore[arg-type]


def schedule(**changes: object) -> Schedule:
    fields: dict[str, object] = {
        "chain_id": "test",
        "shard": SHARD,
        "serial": 0,
        "rules": ShardRules(
            authority=SudoAuthority(key=ME),
            genesis=Digest(bytes(32)),
            min_notice=5,
            rescue_after=50,
        ),
        "entries": (entry(),),
        "status": ShardStatus(),
        "epochs": (epoch(0),),
        **changes,
    }
    return Schedule(**fields)  # type: ignore[arg-type]


def public(number: int) -> EpochKeysPublic:
    some = bytes([number]) * 32
    return EpochKeysPublic(
        shielding_key=some,
        state_key_commitment=Digest(some),
        root_key_commitment=Digest(some),
    )


def epoch(number: int, valid_from: int = 1) -> KeyEpoch:
    return KeyEpoch(
        epoch=Epoch(number),
        keys=public(number),
        valid_from=Height(valid_from),
        grace=0,
    )


def due(number: int = 1, **changes: object) -> RotationDue:
    fields: dict[str, object] = {
        "epoch": Epoch(number),
        "why": "order",
        "generation": Generation(0),
        "not_before": Height(0),
        "grace": 10,
        **changes,
    }
    return RotationDue(**fields)  # type: ignore[arg-type]


def staged(number: int = 1, *holders: bytes, **changes: object) -> StagedEpoch:
    return StagedEpoch(
        epoch=Epoch(number),
        keys=public(number),
        due=due(number, **changes),
        staged_at=Height(5),
        holders=tuple(AccountId(one) for one in holders),
    )


def frontier(confirmed: int = 9, generation: int = 0) -> Frontier:
    return Frontier(
        confirmed=Height(confirmed), root=ROOT, generation=Generation(generation)
    )


def registration_statement(key: AccountId = ME) -> RegistrationStatement:
    return RegistrationStatement(
        chain_id="test",
        shard=SHARD,
        operator=ME,
        signing_key=key,
        tls_key=Digest(bytes(32)),
        hpke_key=bytes(32),
        block_height=Height(1),
        block_hash=Digest(bytes(32)),
    )


def record(key: AccountId = ME, **changes: object) -> EnclaveRecord:
    fields: dict[str, object] = {
        "statement": registration_statement(key),
        "operator": ME,
        "platform": "insecure-sim",
        "fingerprint": CODE,
        "mr_signer": MrSigner(bytes(32)),
        "isv_prod_id": 1,
        "isv_svn": 1,
        "platform_id": PlatformId(bytes(32)),
        "tcb_status": "UpToDate",
        "advisories": (),
        "tcb_evaluation_number": 1,
        "registered_at": Height(1),
        "attested_at": Height(1),
        "url": "",
        **changes,
    }
    return EnclaveRecord(**fields)  # type: ignore[arg-type]
