"""The auditor: former code executes its own range again, and this says the roots.

An enclave of the running generation that holds every key follows the chain from
before the shard's birth. It opens each confirmed block's calls, has the code that
ran it execute them, applies the changes to a state of its own, and makes the root.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sealift.attestation import TrustAnchor
from sealift.base import (
    Bytes32,
    Digest,
    Generation,
    Height,
    SealiftError,
    StateRoot,
    UnixSeconds,
    decode,
    encode,
)
from sealift.crypto import AEAD_KEY_BYTES, hpke_seal, sha256
from sealift.frame import PageStore
from sealift.protocol import (
    AuditStatement,
    Frontier,
    KeyEpochRecord,
    Schedule,
    ScheduleEntry,
    config_at,
    frontier_key,
    keys_key,
    schedule_key,
)
from sealift.protocol.audit import (
    AUDIT_PART_BYTES,
    AuditBegin,
    AuditBegun,
    AuditCall,
    AuditDeposit,
    AuditInvited,
    AuditNext,
    AuditSealed,
    AuditStands,
    AuditTake,
    AuditTaken,
    AuditWaits,
    BlockTask,
    ChangesPart,
    GenesisTask,
    StateTask,
    TaskDone,
)
from sealift.protocol.ecall import (
    MAX_FRAME_BYTES,
    AuditAdmit,
    AuditPresent,
    Followed,
    ImportBlock,
)
from sealift.provisioning import ProvenState, verify_auditee
from sealift.relay import VerifiedHeader, verify_txs
from sealift.stf import open_for_audit

from ._audit_records import AUDIT_SUITE, AuditRecords, audit_key_info
from ._birth import birth_height, settle_candidate
from ._epochs import epoch_of, settle_epochs
from ._errors import (
    AuditChallengeError,
    AuditOrderError,
    AuditRecordError,
    AuditRoleError,
    AuditRootError,
    GenesisMismatchError,
    HaltedError,
    NoKeysError,
    NotNamedError,
    RepeatedBlockError,
    SkipIncompleteError,
)
from ._follow import MAX_WAITING_BLOCKS, import_block
from ._shard import Shard, WaitingBlock
from ._skip import walked
from ._state import GENESIS_HEIGHT, keyed_root, page_key
from ._view import BIRTH_EPOCH, names, verify_proofs
from ._witness import light_blocks

_NONCE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What L1 proved of the shard after block ``height``, once the challenge was in.

    Attributes:
        header: Of ``height``.
        next_header: Commits to the state.
        schedule: Who ran which block, and which floors act now.
        confirmed: Up to here L1 has roots, and nothing changes who ran what.
        born: The shard's first keys and genesis root.
    """

    height: Height
    header: VerifiedHeader
    next_header: VerifiedHeader
    schedule: Schedule
    confirmed: Height
    born: KeyEpochRecord

    def entry_at(self, height: int) -> ScheduleEntry:
        """Whose block a confirmed block is."""
        return config_at(self.schedule, height)


@dataclass(slots=True, kw_only=True)
class _Auditee:
    """The code that works for the audit now; ``state``: what it is still owed."""

    generation: Generation
    records: AuditRecords
    state: Iterator[StateTask] | None
    asked: WaitingBlock | None = None
    answering: bool = False
    changes: dict[bytes, bytes | None] = field(default_factory=dict)


class Auditor:
    """An enclave that audits, and does nothing else.

    It signs nothing, gives no keys, answers no reads. What leaves it in the open are
    the facts that an executing instance says too: roots, leaves of receipts,
    digests of effects. What leaves it sealed goes only to code that the schedule
    named for that very range, on genuine hardware, above all floors of the present.

    Args:
        shard: Started, without a checkpoint; nothing was followed yet.
        anchors: The measured attestation roots.
        request: The shard's genesis.

    Raises:
        HaltedError: The chain has forked.
        AuditRoleError: It has followed, or has a state.
        NoKeysError: No keys are held.
    """

    def __init__(
        self, shard: Shard, anchors: tuple[TrustAnchor, ...], request: AuditBegin
    ) -> None:
        shard.check_going()
        if (
            shard.state is not None
            or shard.birth is not None
            or shard.relay.head.height != shard.relay.trust_root.height
        ):
            raise AuditRoleError(
                "an auditor begins at the measured trust root, without a state",
                got=f"a relay at {shard.relay.head.height}",
                expected=f"a relay at {shard.relay.trust_root.height}",
                hint="Start it without a checkpoint.",
            )
        if not shard.keys.epochs and shard.keys.candidate is None:
            raise NoKeysError("an auditor needs the shard's keys", got="none")
        self._shard = shard
        self._anchors = anchors
        self._genesis = request.genesis
        self._challenge = Bytes32(shard.entropy(_NONCE))
        self._present: Present | None = None
        self._store: PageStore | None = None
        self._height = GENESIS_HEIGHT
        self._invited: AuditStatement | None = None
        self._auditee: _Auditee | None = None
        shard.audited = []

    def begun(self) -> AuditBegun:
        """The challenge that L1 has to show."""
        return AuditBegun(challenge=self._challenge)

    def follow(self, request: ImportBlock) -> Followed:
        """Follow a block, all of it verified (:func:`import_block`); it waits.

        Raises:
            AuditOrderError: Too many wait already.
            HaltedError: It is not the block that the present was proven with.
            SealiftError: As :func:`import_block`.
        """
        shard = self._shard
        if len(self._waiting) >= MAX_WAITING_BLOCKS:
            raise AuditOrderError(
                "too many blocks wait to be audited",
                got=len(self._waiting),
                expected=f"< {MAX_WAITING_BLOCKS}",
            )
        followed = import_block(shard, request)
        present = self._present
        if (
            present is not None
            and followed.height == present.height
            and shard.relay.header_at(followed.height).hash != present.header.hash
        ):
            self._present = None
            raise HaltedError(
                "the chain that is followed is not the one that was shown as present",
                got=shard.relay.header_at(followed.height).hash,
                expected=present.header.hash.hex(),
            )
        return followed

    def present(self, request: AuditPresent) -> AuditStands:
        """Learn what is now: who ran what, what is confirmed, which floors act.

        1. The path is verified from the relay's head to *h* and *h*+1. 2. Block *h*
        holds the challenge, so it was made after this audit was begun: a host
        cannot hide that code was withdrawn since. 3. Schedule, frontier and first
        keys are proven after *h*. 4. They are this shard's, it is born, and not
        before the measured trust root. 5. It names this very code for block *h*:
        withdrawn code opens no calls for others. 6. The blob is its genesis.

        Raises:
            HaltedError: The chain has forked.
            SkipIncompleteError: 1 or 3: something is not brought.
            RepeatedBlockError: 1: it leads back, or to an earlier present.
            AuditChallengeError: 2.
            AuditRootError: 4.
            NoKeysError: 4: its first keys are not held.
            NotNamedError: 5.
            GenesisMismatchError: 6.
            SealiftError: As the steps' functions; nothing has changed.
        """
        shard = self._shard
        shard.check_going()
        # 1.
        relay, height = walked(shard, light_blocks(request.path))
        if self._present is not None and height <= self._present.height:
            raise RepeatedBlockError(
                "a later present was proven already",
                got=height,
                expected=f"> {self._present.height}",
            )
        header, next_header = relay.header_at(height), relay.head
        # 2.
        verify_txs(header, request.txs)
        if not any(self._challenge in tx for tx in request.txs):
            raise AuditChallengeError(
                f"block {height} does not hold this audit's challenge",
                expected=self._challenge.hex(),
                hint="Bring it to L1 in any transaction, and show that block.",
            )
        # 3.
        values = verify_proofs(next_header, request.proofs)
        schedule, frontier, born = (
            values.get(key)
            for key in (
                schedule_key(shard.shard),
                frontier_key(shard.shard),
                keys_key(shard.shard, BIRTH_EPOCH),
            )
        )
        if schedule is None or frontier is None or born is None:
            raise SkipIncompleteError(
                "the present is not proven",
                expected="schedule, frontier and first keys, and that they are there",
                hint="A shard that is not born has nothing to audit.",
            )
        present = Present(
            height=height,
            header=header,
            next_header=next_header,
            schedule=decode(Schedule, schedule),
            confirmed=decode(Frontier, frontier).confirmed,
            born=decode(KeyEpochRecord, born),
        )
        # 4.
        first = birth_height(present.born)
        if first < shard.relay.trust_root.height:
            raise AuditRootError(
                "the measured trust root lies above the shard's birth",
                got=shard.relay.trust_root.height,
                expected=f"≤ {first}",
                hint="Only code that was built with an earlier trust root can audit.",
            )
        keys = settle_candidate(shard.keys, present.born)
        keys = settle_epochs(keys, present.schedule)
        keys.epoch(BIRTH_EPOCH)
        # 5.
        if not names(present.entry_at(height), shard.me):
            raise NotNamedError(
                "only the code that runs the shard now can audit it",
                got=shard.me.mrenclave,
                expected=f"the generation of block {height}",
                hint="Audit from a home of the running version.",
            )
        # 6.
        self._check_genesis(present.schedule.rules.genesis)
        self._present, shard.keys = present, keys
        return AuditStands(height=height, confirmed=present.confirmed)

    def next(self, _: AuditNext) -> AuditInvited | AuditSealed | AuditWaits:
        """What comes next: code to start, bytes for it, or blocks to import.

        Raises:
            AuditOrderError: The present is not proven yet.
            NoKeysError: The keys of a block's epoch are not held.
        """
        self._shard.check_going()
        present = self._now()
        auditee = self._auditee
        if auditee is not None and auditee.answering:
            return AuditWaits(reason="no-answer", height=self._height)
        block: WaitingBlock | None = None
        if self._store is None:
            height = birth_height(present.born)
        else:
            found = self._next_block(present)
            if isinstance(found, AuditWaits):
                return found
            block, height = found, found.height
        entry = present.entry_at(height)
        if auditee is None or auditee.generation != entry.generation:
            return self._invite(entry, height)
        if auditee.state is not None:
            part = next(auditee.state)
            if part.last:
                auditee.state = None
            return AuditSealed(sealed=auditee.records.seal(encode(part)))
        task = self._genesis_task() if block is None else self._block_task(block, entry)
        sealed = auditee.records.seal(encode(task))
        auditee.asked, auditee.answering = block, True
        return AuditSealed(sealed=sealed)

    def admit(self, request: AuditAdmit) -> AuditSealed:
        """Seal a fresh key to an auditee that may have its range, and only to it.

        Steps of :func:`~sealift.provisioning.verify_auditee`. An invitation serves
        one auditee.

        Raises:
            AuditOrderError: None is invited.
            SealiftError: As those steps; the invitation stands.
        """
        self._shard.check_going()
        present, invited = self._now(), self._invited
        if invited is None:
            raise AuditOrderError("no code is invited now")
        state = ProvenState(
            height=present.height,
            time=UnixSeconds(present.next_header.time.seconds),
            values=verify_proofs(present.next_header, request.proofs),
        )
        verify_auditee(
            request.quote,
            request.statement,
            invited=invited,
            entry=present.schedule.entry(invited.generation),
            status=present.schedule.status,
            platform=self._shard.me.kind,
            anchors=self._anchors,
            state=state,
        )
        key = self._shard.entropy(AEAD_KEY_BYTES)
        sealed = hpke_seal(
            AUDIT_SUITE,
            request.statement.hpke_key,
            key,
            info=audit_key_info(request.statement),
        )
        records = AuditRecords(key, "auditor", entropy=self._shard.entropy)
        self._invited = None
        self._auditee = _Auditee(
            generation=invited.generation,
            records=records,
            state=None if self._store is None else _state_tasks(self._store.copy()),
        )
        return AuditSealed(sealed=sealed)

    def take(self, request: AuditTake) -> AuditTaken:
        """Take the auditee's answer; its last part makes the root.

        Raises:
            AuditOrderError: No answer is due.
            AuditRecordError: It is not the auditee's next record, or no answer to
                what it was asked.
        """
        self._shard.check_going()
        auditee = self._auditee
        if auditee is None or not auditee.answering:
            raise AuditOrderError("no answer is due")
        part = _answer(auditee.records.open(request.sealed))
        auditee.changes.update(part.changes)
        if part.done is None:
            return AuditTaken(done=False)
        block, changes = auditee.asked, auditee.changes
        auditee.asked, auditee.answering, auditee.changes = None, False, {}
        if block is None:
            return self._begin_state(auditee, changes)
        return self._advance(auditee, block, changes, part.done)

    # --- the state ---

    def _begin_state(
        self, auditee: _Auditee, changes: dict[bytes, bytes | None]
    ) -> AuditTaken:
        present, keys = self._now(), self._shard.keys.epoch(BIRTH_EPOCH)
        store = PageStore(bits=present.schedule.rules.page_bits, key=page_key(keys))
        store.apply(changes)
        self._store = store
        self._height = birth_height(present.born)
        return AuditTaken(
            done=True,
            height=self._height,
            generation=auditee.generation,
            genesis=True,
            root=self._root(BIRTH_EPOCH, GENESIS_HEIGHT, store),
        )

    def _advance(
        self,
        auditee: _Auditee,
        block: WaitingBlock,
        changes: dict[bytes, bytes | None],
        done: TaskDone,
    ) -> AuditTaken:
        if self._store is None or done.height != block.height:
            raise AuditRecordError(
                "an answer about another block", got=done.height, expected=block.height
            )
        self._store.apply(changes)
        self._height = block.height
        epoch = epoch_of(block.schedule, block.height)
        return AuditTaken(
            done=True,
            height=block.height,
            generation=auditee.generation,
            root=self._root(epoch, block.height, self._store),
            leaves=done.leaves,
            effects=done.effects,
            calls=done.calls,
        )

    def _root(self, epoch: int, height: Height, store: PageStore) -> StateRoot:
        keys = self._shard.keys.epoch(epoch)
        return keyed_root(keys, self._shard.shard, height, store.root())

    # --- blocks ---

    @property
    def _waiting(self) -> list[WaitingBlock]:
        return self._shard.audited if self._shard.audited is not None else []

    def _now(self) -> Present:
        if self._present is None:
            raise AuditOrderError(
                "the present is not proven yet", expected="AuditPresent"
            )
        return self._present

    def _next_block(self, present: Present) -> WaitingBlock | AuditWaits:
        waiting = self._waiting
        while waiting and waiting[0].height <= self._height:
            del waiting[0]
        followed = self._shard.view.height
        if self._height >= present.confirmed:
            reached = followed >= present.height
            return AuditWaits(
                reason="done" if reached else "no-block",
                height=None if reached else Height(followed + 1),
            )
        if not waiting:
            return AuditWaits(reason="no-block", height=Height(followed + 1))
        return waiting[0]

    def _invite(self, entry: ScheduleEntry, height: Height) -> AuditInvited:
        shard = self._shard
        code = entry.config.code.get(shard.me.kind)
        if code is None:
            raise AuditOrderError(
                f"generation {entry.generation} did not run on this platform",
                got=shard.me.kind,
                expected=f"one of {sorted(entry.config.code)}",
                hint="Audit on such a platform.",
            )
        self._auditee = None
        if self._invited is None or self._invited.generation != entry.generation:
            self._invited = AuditStatement(
                chain_id=shard.chain_id,
                shard=shard.shard,
                generation=entry.generation,
                nonce=Bytes32(shard.entropy(_NONCE)),
                hpke_key=b"",
            )
        return AuditInvited(
            chain_id=shard.chain_id,
            shard=shard.shard,
            generation=entry.generation,
            fingerprint=code,
            height=height,
            nonce=self._invited.nonce,
        )

    def _genesis_task(self) -> GenesisTask:
        rules = self._now().schedule.rules
        return GenesisTask(blob=self._genesis, page_bits=rules.page_bits)

    def _block_task(self, block: WaitingBlock, entry: ScheduleEntry) -> BlockTask:
        shard = self._shard
        missing = shard.missing(block)
        if missing:
            raise NoKeysError(
                f"block {block.height} needs keys that are not held",
                got=f"without epoch {' and '.join(map(str, missing))}",
            )
        return BlockTask(
            height=block.height,
            block_hash=block.block_hash,
            time=block.time,
            items=tuple(
                AuditCall(
                    envelope=item,
                    plain=open_for_audit(
                        item,
                        keys=shard.keys.shielding_secrets,
                        chain_id=shard.chain_id,
                        shard=shard.shard,
                    ),
                )
                if isinstance(item, bytes)
                else AuditDeposit(beneficiary=item.beneficiary, amount=item.amount)
                for item in block.raw
            ),
            schedule=None if block.schedule is None else encode(block.schedule),
            code=tuple(entry.config.code.values()),
            effects_done=block.effects_done,
        )

    def _check_genesis(self, wanted: Digest) -> None:
        digest = sha256(self._genesis)
        if digest != wanted:
            raise GenesisMismatchError(
                "not the shard's genesis", got=digest, expected=wanted.hex()
            )


def _state_tasks(store: PageStore) -> Iterator[StateTask]:
    """The state in parts that fit a frame; the last one says so."""
    part: list[tuple[bytes, bytes]] = []
    size = 0
    for page in store.pages():
        for key, value in decode(
            dict[bytes, bytes], page, limit=MAX_FRAME_BYTES
        ).items():
            if size > AUDIT_PART_BYTES:
                yield StateTask(page_bits=store.bits, entries=tuple(part), last=False)
                part, size = [], 0
            part.append((key, value))
            size += len(key) + len(value)
    yield StateTask(page_bits=store.bits, entries=tuple(part), last=True)


def _answer(plain: bytes) -> ChangesPart:
    """Part of an answer; the refusal of what is none shows no byte of it."""
    try:
        return decode(ChangesPart, plain, limit=MAX_FRAME_BYTES)
    except SealiftError:
        raise AuditRecordError(
            "a record that is no answer", expected="one that this code knows"
        ) from None
