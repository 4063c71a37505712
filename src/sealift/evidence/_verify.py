"""The verifier: a file, a trust root and roots in; a lineage out."""

from collections.abc import Sequence

from sealift.attestation import TrustAnchor
from sealift.base import Generation, Height, SealiftError, UnixSeconds
from sealift.protocol import EntryStatus, Schedule
from sealift.relay import RelayRules, Timestamp, TrustRoot

from ._entries import RAN
from ._errors import EvidenceError, ScheduleUnexplainedError
from ._file import EvidenceFile
from ._instances import Instances
from ._lineage import (
    SEAL,
    EpochLineage,
    GenerationLineage,
    VerifiedInstance,
    VerifiedLineage,
)
from ._proven import ProvenFile, prove_file
from ._replay import Replay


def verify_evidence(
    file: EvidenceFile,
    *,
    trust_root: TrustRoot,
    roots: Sequence[TrustAnchor],
    rules: RelayRules,
    now: Timestamp | None,
) -> VerifiedLineage:
    """The lineage of a shard, from its creation to the file's last block.

    1. Headers: by the relay from the trust root on. Every transaction stood in
       its block, took effect there and is signed; every state stood after it.
    2. Birth: the shard's creation with rules, code and genesis digest; its first
       keys, as L1 keeps them.
    3. Acts: each was decided by the authority of the schedule before it, by
       signatures, hosts' votes or holders' votes that are verified here. The
       schedule re-derived from acts and rules is L1's, wherever it changed and
       after the last block; no serial is left out. Where a shard asks for
       rehearsals, who rehearsed is verified too, and a postponement follows.
    4. Instances: each that spoke has a quote, genuine under ``roots`` at block
       time by the ledger's collateral of then; its MRENCLAVE is the scheduled
       one, and it quoted its own statement.
    5. Keys: each epoch was owed, staged and held by such instances.
    6. Roots: from the genesis to L1's frontier without a gap, each by its quorum
       of machines; handover certificates fit them.

    Owed by the caller: that the file is new enough
    (:func:`sealift.evidence.require_fresh`), that it is about the shard that was
    meant, and whether a fingerprint is that of a source (step 7, done by whoever
    can build).

    Args:
        file: As it was parsed; nothing of it is believed.
        trust_root: A block of L1 from a place the caller trusts, at or below the
            shard's creation.
        roots: Under which quotes are believed.
        rules: How long trust in validators lasts.
        now: The wall clock, to refuse headers from the future and trust that has
            expired; ``None``: there is none.

    Raises:
        EvidenceError: With the step that does not hold.
        EvidenceFormatError: A file that does not hang together.
    """
    proven = prove_file(file, trust_root=trust_root, rules=rules, now=now)  # 1
    instances = Instances(proven, tuple(roots))
    replay = Replay(proven, file.creation, instances)
    try:
        replay.run()  # 2, 3, 4, 5, 6
    except EvidenceError:
        raise
    except SealiftError as error:  # a rule of the protocol itself refuses
        raise ScheduleUnexplainedError(
            f"the file tells what cannot be ({error.what})",
            got=error.got,
            expected=error.expected,
        ) from error
    except RecursionError as error:  # an authority nested beyond any that can be
        raise ScheduleUnexplainedError("the file is nested too deeply") from error
    return _lineage(proven, replay)


def _lineage(proven: ProvenFile, replay: Replay) -> VerifiedLineage:
    schedule = replay.schedule
    return VerifiedLineage(
        seal=SEAL,
        chain_id=proven.chain_id,
        shard=proven.shard,
        trusted_from=proven.root.height,
        head=proven.head.height,
        last=proven.last,
        head_time=UnixSeconds(max(proven.head.time.seconds, 0)),
        creator=replay.creator,
        created_at=replay.created_at,
        genesis_root=replay.roots.genesis,
        schedule=schedule,
        frontier=replay.roots.frontier,
        generations=tuple(
            _generation(schedule, replay, entry.generation)
            for entry in schedule.entries
        ),
        epochs=tuple(
            EpochLineage(
                epoch=epoch.epoch,
                shielding_key=epoch.keys.shielding_key,
                state_key_commitment=epoch.keys.state_key_commitment,
                root_key_commitment=epoch.keys.root_key_commitment,
                valid_from=epoch.valid_from,
                not_before=epoch.not_before,
                why=story.why,
                staged_by=story.staged_by,
                holders=story.holders,
            )
            for epoch, story in zip(schedule.epochs, replay.keys, strict=True)
        ),
        acts=tuple(replay.acts),
        ruled=tuple(replay.ruled),
        roots=len(replay.roots.links),
        rehearsals_required=replay.rehearsals.at(proven.last).required,
        postpone_by=replay.rehearsals.at(proven.last).postpone_by,
        terms_ahead=replay.rehearsals.ahead_of(proven.last),
    )


def _generation(
    schedule: Schedule, replay: Replay, number: Generation
) -> GenerationLineage:
    entry = schedule.entry(number)
    acts = [act for act in replay.acts if act.generation == number]
    if number == 0:
        decided: tuple[str, ...] = (f"its creator {replay.creator.hex()}",)
    elif acts:
        decided = acts[0].by
    else:
        decided = ("the rule of rescue",)
    links = [link for link in replay.roots.links if link.generation == number]
    later = [
        e.since for e in schedule.entries if e.generation > number and e.status in RAN
    ]
    ran = entry.status is EntryStatus.RETIRED and later
    judged = replay.rehearsals.judged.get(number)
    return GenerationLineage(
        generation=number,
        predecessor=entry.predecessor,
        code=entry.config.code,
        status=entry.status,
        decided_by=decided,
        recorded_at=entry.recorded_at,
        release_from=entry.release_from,
        since=entry.since,
        ran_to=Height(min(later) - 1) if ran else None,
        confirmed_from=links[0].first if links else None,
        confirmed_to=links[-1].last if links else None,
        certificate=number in replay.roots.certificates,
        instances=tuple(
            VerifiedInstance(
                signing_key=key,
                platform_id=record.platform_id,
                operator=record.operator,
                tcb_status=record.tcb_status,
                isv_svn=record.isv_svn,
                attested_at=record.attested_at,
            )
            for key, (record, admitted) in sorted(replay.instances.seen.items())
            if admitted == number
        ),
        order=entry.order,
        source=entry.source,
        rehearsals=() if judged is None else judged.words,
        rehearsals_required=0 if judged is None else judged.required,
    )
