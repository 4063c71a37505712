"""What this enclave knows of the shard on L1, all of it proven."""

from collections.abc import Iterable, Mapping
from typing import Final

from sealift.base import (
    ChainId,
    Digest,
    Epoch,
    Generation,
    Height,
    Message,
    ShardId,
    UnixSeconds,
    decode,
)
from sealift.crypto import sha256
from sealift.protocol import (
    EntryStatus,
    Frontier,
    HandoverCertificate,
    KeyEpochRecord,
    NoGenerationError,
    Schedule,
    ScheduleEntry,
    ScheduleRecord,
    certificate_key,
    config_at,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)
from sealift.protocol.ecall import StateProof
from sealift.protocol.platform import IdentityReply
from sealift.relay import VerifiedHeader, verify_state

from ._errors import (
    DuplicateProofError,
    RecordMissingError,
    ScheduleNotBroughtError,
    WrongRecordError,
    WrongScheduleError,
)

#: The epoch of a shard's first keys.
BIRTH_EPOCH: Final = Epoch(0)


class ChainView(Message, kw_only=True):
    """The shard as the last followed block left it; grows by proofs only.

    Attributes:
        schedule: The schedule in the state after ``height``; once there is a
            record, the one that it names.
        height: The last followed block.
        time: Its time.
        record: Its record; ``None`` before the shard's first.
        frontier: The last that was proven.
        first_keys: The record of epoch 0, once proven.
        unborn_at: Where epoch 0 was last proven absent.
        certificate: The last handover certificate that was proven.
        schedule_digest: SHA-256 of the schedule's bytes on L1. A later release of
            L1 may have appended what this code does not know of.
    """

    height: Height
    time: UnixSeconds
    schedule: Schedule | None = None
    record: ScheduleRecord | None = None
    frontier: Frontier | None = None
    first_keys: KeyEpochRecord | None = None
    unborn_at: Height = Height(0)
    certificate: HandoverCertificate | None = None
    schedule_digest: Digest | None = None

    def entry_at(self, height: int) -> ScheduleEntry | None:
        """Who runs ``height`` by what is proven now; ``None``: nobody."""
        if self.schedule is None:
            return None
        try:
            return config_at(self.schedule, height)
        except NoGenerationError:
            return None

    def knows(self, generation: Generation) -> bool:
        """Whether the schedule, as proven now, has come to this number."""
        return self.schedule is not None and any(
            entry.generation >= generation for entry in self.schedule.entries
        )

    def successor_of(self, entry: ScheduleEntry, height: Height) -> Generation | None:
        """Who runs from ``height + 1`` if ``height`` is the entry's last block.

        Only what the state after ``height`` (or a later one) says counts: until
        then an upgrade may be cancelled or postponed.
        """
        if self.schedule is None or self.height < height:
            return None
        live = (EntryStatus.PENDING, EntryStatus.ACTIVE, EntryStatus.RETIRED)
        for other in self.schedule.entries:
            if (
                other.since == other.upgrade_at == height + 1
                and other.status in live
                and other.predecessor == entry.generation
            ):
                return other.generation
        return None


def names(entry: ScheduleEntry | None, me: IdentityReply) -> bool:
    """Whether an entry names this code, on this platform, at this SVN."""
    if entry is None or me.isv_svn < entry.config.min_isv_svn:
        return False
    return entry.config.code.get(me.kind) == me.mrenclave


def verify_proofs(
    next_header: VerifiedHeader, proofs: Iterable[StateProof]
) -> dict[bytes, bytes | None]:
    """What the proofs prove against the state before ``next_header``.

    Raises:
        DuplicateProofError: A key stands twice.
        SealiftError: As :func:`sealift.relay.verify_state`.
    """
    values: dict[bytes, bytes | None] = {}
    for proof in proofs:
        if proof.key in values:
            raise DuplicateProofError("a key is proven twice", got=proof.key)
        state = verify_state(next_header, proof.key, proof.value, proof.proof)
        values[state.key] = state.value
    return values


def follow_view(
    view: ChainView,
    height: Height,
    time: UnixSeconds,
    values: Mapping[bytes, bytes | None],
    *,
    chain_id: ChainId,
    shard: ShardId,
) -> ChainView:
    """The view after block ``height``, from values proven after it.

    1. The record is proven: present, or absent while there has been none.
    2. It is the record of this very block.
    3. The schedule it names is known, or was brought.
    4. By that schedule, the record's generation runs this block.
    5. What else is proven replaces what was known.

    Raises:
        RecordMissingError: 1.
        WrongRecordError: 2 or 4.
        ScheduleNotBroughtError: 3.
        WrongScheduleError: A schedule of another shard or chain.
        DecodeError: A value that is not what its key says.
    """
    # 1.
    key = record_key(shard)
    raw = values.get(key)
    if raw is None and (key not in values or view.record is not None):
        raise RecordMissingError(
            f"the schedule record of block {height} is not proven",
            got="absent" if key in values else "not brought",
            expected="present" if view.record else "present, or proven absent",
        )
    record = None if raw is None else decode(ScheduleRecord, raw)
    known = [(view.schedule, view.schedule_digest)]
    brought = values.get(schedule_key(shard))
    if brought is not None:
        newest = _schedule(brought, chain_id, shard)
        known.insert(0, (newest, sha256(brought)))
    schedule, digest = known[0]
    if record is not None:
        # 2.
        if record.height != height:
            raise WrongRecordError(
                "record of another block", got=record.height, expected=height
            )
        # 3.
        schedule, digest = _named(record, known), record.schedule
        # 4.
        entry = config_at(schedule, height)
        if entry.generation != record.generation:
            raise WrongRecordError(
                f"record and schedule disagree about block {height}",
                got=record.generation,
                expected=entry.generation,
            )
    # 5.
    first = values.get(keys_key(shard, BIRTH_EPOCH))
    unborn = keys_key(shard, BIRTH_EPOCH) in values and first is None
    frontier = values.get(frontier_key(shard))
    certificate = values.get(certificate_key(shard))
    return ChainView(
        height=height,
        time=time,
        schedule=schedule,
        record=record,
        frontier=view.frontier if frontier is None else decode(Frontier, frontier),
        first_keys=view.first_keys if first is None else decode(KeyEpochRecord, first),
        unborn_at=height if unborn else view.unborn_at,
        certificate=view.certificate
        if certificate is None
        else decode(HandoverCertificate, certificate),
        schedule_digest=digest,
    )


def _schedule(raw: bytes, chain_id: ChainId, shard: ShardId) -> Schedule:
    schedule = decode(Schedule, raw)
    if (schedule.chain_id, schedule.shard) != (chain_id, shard):
        raise WrongScheduleError(
            "schedule of another shard", got=schedule.shard, expected=shard.hex()
        )
    return schedule


def _named(
    record: ScheduleRecord, known: Iterable[tuple[Schedule | None, Digest | None]]
) -> Schedule:
    for schedule, digest in known:
        if schedule is not None and digest == record.schedule:
            return schedule
    raise ScheduleNotBroughtError(
        "the record names a schedule that was not brought",
        got="another schedule, or none",
        expected=record.schedule.hex(),
        hint="Prove the schedule together with this block.",
    )
