"""Former code in an audit: it executes its range again, without any key (ADR).

An auditee knows nothing but what the auditor seals to it: no key of the shard, no
identity on L1, no chain. It can sign nothing that L1 or a user would believe.
"""

from collections.abc import Iterable
from typing import Final, cast

from sealift.base import Height, Message, SealiftError, UnixSeconds, decode, encode
from sealift.bundle import Manifest
from sealift.crypto import Entropy, hpke_open, hpke_public
from sealift.frame import MigrationCheckError, MigrationFailedError, PageStore, Runtime
from sealift.protocol import AuditStatement, Schedule, effects_digest
from sealift.protocol.audit import (
    AUDIT_PART_BYTES,
    AuditCall,
    AuditMore,
    AuditOpen,
    AuditOpened,
    AuditTask,
    AuditWork,
    AuditWorked,
    BlockTask,
    ChangesPart,
    GenesisTask,
    StateTask,
    TaskDone,
)
from sealift.protocol.ecall import MAX_FRAME_BYTES
from sealift.protocol.platform import IdentityReply
from sealift.stf import Executor, Item, ShardBlock, ShieldedFunds, verify_opened

from ._audit_records import AUDIT_SUITE, AuditRecords, audit_key_info
from ._epochs import taken_epochs
from ._errors import AuditOrderError, AuditRecordError
from ._execute import sealed_receipts
from ._platform import PlatformPort
from ._shard import given_block
from ._start import trust_root
from ._state import GENESIS_HEIGHT

_SEED: Final = 32
_Change = tuple[bytes, bytes | None]


class Auditee:
    """One range of one generation, executed again for an auditor.

    Args:
        request: Which shard and generation, and the auditor's nonce.
        manifest: What the bundle says of itself.
        me: Who this code is.
        platform: The TEE.
        entropy: Source of its key.
        runtime: The application.
    """

    def __init__(
        self,
        request: AuditOpen,
        *,
        manifest: Manifest,
        me: IdentityReply,
        platform: PlatformPort,
        entropy: Entropy,
        runtime: Runtime,
    ) -> None:
        self._platform = platform
        self._entropy = entropy
        self._seed = entropy(_SEED)
        self._statement = AuditStatement(
            chain_id=trust_root(manifest).chain_id,
            shard=request.shard,
            generation=request.generation,
            nonce=request.nonce,
            hpke_key=hpke_public(AUDIT_SUITE, self._seed),
        )
        self._executor = Executor(
            runtime,
            chain_id=self._statement.chain_id,
            shard=request.shard,
            fingerprint=me.mrenclave,
        )
        self._records: AuditRecords | None = None
        self._store: PageStore | None = None
        self._whole = False
        self._height: Height | None = None
        self._parts: list[ChangesPart] = []

    def opened(self) -> AuditOpened:
        """The statement, and a quote over it.

        Raises:
            PlatformRefusedError: The platform makes no quote.
        """
        quote = self._platform.quote(self._statement.report_data())
        return AuditOpened(statement=self._statement, quote=quote)

    def work(self, request: AuditWork) -> AuditWorked:
        """Take the audit's key first, then one task after the other.

        Raises:
            HpkeError: The key is not sealed to this process.
            AuditRecordError: A record that is not the auditor's next one.
            AuditOrderError: An answer was not taken yet, or a task out of turn.
            MigrationRefusedError: This code does not take the state over.
        """
        if self._parts:
            raise AuditOrderError("the answer before was not taken", expected="more")
        if self._records is None:
            key = hpke_open(
                AUDIT_SUITE,
                self._seed,
                request.sealed,
                info=audit_key_info(self._statement),
                what="the key of the audit",
            )
            self._records = AuditRecords(key, "auditee", entropy=self._entropy)
            return AuditWorked(sealed=None, more=False)
        task = _task(self._records.open(request.sealed))
        if isinstance(task, StateTask):
            self._take_state(task)
            return AuditWorked(sealed=None, more=False)
        if isinstance(task, GenesisTask):
            self._parts = self._genesis(task)
        else:
            self._parts = self._block(task)
        return self.more(AuditMore())

    def more(self, _: AuditMore) -> AuditWorked:
        """The next part of the answer.

        Raises:
            AuditOrderError: There is none.
        """
        if self._records is None or not self._parts:
            raise AuditOrderError("there is no more of an answer")
        sealed = self._records.seal(encode(self._parts.pop(0)))
        return AuditWorked(sealed=sealed, more=bool(self._parts))

    def _genesis(self, task: GenesisTask) -> list[ChangesPart]:
        if self._store is not None:
            raise AuditOrderError("there is a state already", got="a genesis")
        store = PageStore(bits=task.page_bits, key=self._entropy(_SEED))
        self._executor.apply_genesis(
            store, task.blob, height=GENESIS_HEIGHT, time=UnixSeconds(0)
        )
        self._store, self._whole = store, True
        done = TaskDone(height=GENESIS_HEIGHT, leaves=(), effects=None, calls=0)
        return _parts(store.items(b""), done)

    def _take_state(self, task: StateTask) -> None:
        if self._whole:
            raise AuditOrderError("there is a state already", got="more of one")
        if self._store is None:
            self._store = PageStore(bits=task.page_bits, key=self._entropy(_SEED))
        self._store.apply(dict(task.entries))
        self._whole = task.last

    def _block(self, task: BlockTask) -> list[ChangesPart]:
        """Execute as an instance does that has followed the chain (§10.5, §10.6)."""
        if self._store is None or not self._whole:
            raise AuditOrderError("a block before there is a state", got=task.height)
        if self._height is not None and task.height != self._height + 1:
            raise AuditOrderError(
                "not the next block", got=task.height, expected=self._height + 1
            )
        try:
            outcome = self._executor.execute_block(self._store, self._given(task))
        except (MigrationCheckError, MigrationFailedError) as error:
            # As in execute(): the host hears the name of the check alone.
            name, _, _ = str(error.got).partition(":")
            raise type(error)(error.what, got=name) from None
        receipts = sealed_receipts(task.block_hash, outcome)
        self._store.apply(outcome.changes)
        self._height = task.height
        done = TaskDone(
            height=task.height,
            leaves=tuple(receipt.leaf() for receipt in receipts),
            effects=effects_digest(outcome.effects) if outcome.effects else None,
            calls=outcome.counts.calls,
        )
        return _parts(outcome.changes.items(), done)

    def _given(self, task: BlockTask) -> ShardBlock:
        schedule = None
        if task.schedule is not None:
            schedule = decode(Schedule, task.schedule, limit=MAX_FRAME_BYTES)
        calls = [item for item in task.items if isinstance(item, AuditCall)]
        opened = iter(
            verify_opened(
                [(one.envelope, one.plain) for one in calls],
                chain_id=self._statement.chain_id,
                shard=self._statement.shard,
                accepted=taken_epochs(schedule, task.height),
            )
        )
        items: list[Item] = [
            next(opened)
            if isinstance(item, AuditCall)
            else ShieldedFunds(beneficiary=item.beneficiary, amount=item.amount)
            for item in task.items
        ]
        return given_block(task, items=tuple(items), schedule=schedule, code=task.code)


def _task(plain: bytes) -> GenesisTask | StateTask | BlockTask:
    """A task; the refusal of what is none shows no byte of it."""
    try:
        task = decode(cast("type[Message]", AuditTask), plain, limit=MAX_FRAME_BYTES)
    except SealiftError:
        raise _no_task() from None
    if not isinstance(task, GenesisTask | StateTask | BlockTask):
        raise _no_task()
    return task


def _no_task() -> AuditRecordError:
    return AuditRecordError(
        "a record that is no task", expected="one that this code knows"
    )


def _parts(changes: Iterable[_Change], done: TaskDone) -> list[ChangesPart]:
    """The answer in parts that fit a frame, at least one."""
    parts: list[ChangesPart] = []
    part: list[_Change] = []
    size = 0
    for key, value in changes:
        if size > AUDIT_PART_BYTES:
            parts.append(ChangesPart(changes=tuple(part), done=None))
            part, size = [], 0
        part.append((key, value))
        size += len(key) + len(value or b"")
    return [*parts, ChangesPart(changes=tuple(part), done=done)]
