"""`enclave_bridge`, its second half: keys, confirmed roots, certificates."""

import msgspec

from sealift.base import Epoch, Generation, Height, ShardId, StateRoot
from sealift.frame import Context, call, ensure_signed
from sealift.protocol import (
    Confirmation,
    EffectsFact,
    EntryStatus,
    EpochKeysPublic,
    Frontier,
    HandoverCertificate,
    KeyEpoch,
    KeyEpochRecord,
    PublishKeyStatement,
    Schedule,
    ScheduleEntry,
    config_at,
)

from ._bridge_speakers import SpeakerKeeper
from ._bridge_storage import (
    CertificatePosted,
    KeyPublished,
    RootConfirmed,
    RootsConflicting,
    RootVoted,
)
from ._effects import verify_facts
from ._entries import is_rescuer
from ._errors import (
    BrokenRootChainError,
    CertificateError,
    ConfirmationRangeError,
    DisputedRangeError,
    EpochOrderError,
    EpochPublishedError,
    StaleConfirmationError,
    VoidedGenerationError,
    WrongGenerationError,
)
from ._roots import (
    KEPT_RANGES,
    RootConflict,
    SignedConfirmation,
    add_vote,
    conflicting,
    same_claim,
)

_RAN = (EntryStatus.ACTIVE, EntryStatus.RETIRED)


class RootKeeper(SpeakerKeeper):
    """Accepts keys, roots and handover certificates of eligible instances.

    Anybody's account may carry a statement; the instance's signature counts.

    Args:
        vault: See :class:`sealift.ledger._bridge_schedule.ScheduleKeeper`.
    """

    @call(weight=500)
    def publish_key(
        self, ctx: Context, *, statement: PublishKeyStatement, signature: bytes
    ) -> None:
        """Begin a shard's first key epoch: the birth of the shard.

        1. For this chain and a shard of it.
        2. Epoch 0, not published yet.
        3. Signed by an instance that is eligible for the running generation.
        """
        ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, statement)  # 1
        epoch = statement.epoch
        if self.epochs.contains(ctx, (schedule.shard, epoch)):  # 2
            raise EpochPublishedError("key epoch was published already", got=epoch)
        if epoch != 0:
            raise EpochOrderError(
                "key epoch may not be published now", got=epoch, expected=0
            )
        height = Height(ctx.block.height)
        entry = config_at(schedule, height)
        self._verify_signer(ctx, schedule, statement, signature, entry)  # 3
        valid_from = Height(height + 1)
        self.epochs.put(
            ctx,
            (schedule.shard, epoch),
            KeyEpochRecord(statement=statement, valid_from=valid_from),
        )
        first = KeyEpoch(
            epoch=Epoch(epoch),
            keys=EpochKeysPublic(
                shielding_key=statement.shielding_key,
                state_key_commitment=statement.state_key_commitment,
                root_key_commitment=statement.root_key_commitment,
            ),
            valid_from=valid_from,
            grace=0,
        )
        self.put_schedule(ctx, msgspec.structs.replace(schedule, epochs=(first,)))
        self.frontiers.put(
            ctx,
            schedule.shard,
            Frontier(
                confirmed=height,
                root=statement.genesis_root,
                generation=entry.generation,
            ),
        )
        ctx.emit(
            KeyPublished(
                shard=schedule.shard, epoch=Epoch(epoch), valid_from=valid_from
            )
        )

    @call(weight=500)
    def confirm(
        self,
        ctx: Context,
        *,
        confirmation: Confirmation,
        signature: bytes,
        effects: tuple[EffectsFact, ...] = (),
    ) -> None:
        """Confirm the blocks ``first`` to ``last`` of a shard (DESIGN §10.8).

        1. For this chain and a born shard of it; the range is final.
        2. One generation, not voided, runs the whole range, and it is the named.
        3. Signed by an instance that is eligible for that generation; ``effects`` is
           what its ``effects_root`` is made of.
        4. A range at or below the frontier is confirmed already: the same again
           is refused without harm, another root is evidence.
        5. It begins at the frontier, and with its root.
        6. No conflict: else both are evidence, neither counts.
        7. As many platforms agree as the shard's rules want.

        In maintenance confirmations go on: what is final must be confirmed.
        """
        ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, confirmation)  # 1
        shard = schedule.shard
        frontier = self._frontier(ctx, shard)
        if not confirmation.first <= confirmation.last < ctx.block.height:
            raise ConfirmationRangeError(
                "range is empty, or not final yet",
                got=f"{confirmation.first} … {confirmation.last}",
                expected=f"first ≤ last < {ctx.block.height}",
            )
        entry = running(  # 2
            schedule, confirmation.generation, confirmation.first, confirmation.last
        )
        record = self._verify_signer(ctx, schedule, confirmation, signature, entry)  # 3
        ctx.charge(len(effects))
        verify_facts(confirmation, effects)
        vote = SignedConfirmation(
            confirmation=confirmation,
            signature=signature,
            platform_id=record.platform_id,
        )
        if confirmation.last <= frontier.confirmed:  # 4
            self._judge_late(ctx, schedule, vote)
            return
        if confirmation.first != frontier.confirmed + 1:  # 5
            raise ConfirmationRangeError(
                "range does not begin at the frontier",
                got=confirmation.first,
                expected=frontier.confirmed + 1,
            )
        if confirmation.prev_root != frontier.root:
            raise BrokenRootChainError(
                "prev_root is not the frontier's root",
                got=confirmation.prev_root,
                expected=frontier.root,
            )
        self._count(ctx, schedule, entry, vote, effects)

    @call(weight=500)
    def post_certificate(
        self, ctx: Context, *, certificate: HandoverCertificate, signature: bytes
    ) -> None:
        """Post the old generation's last word (DESIGN §11.8).

        1. For this chain and a born shard of it.
        2. It fits the schedule: the successor took over from this generation,
           one block after ``height``.
        3. Signed by an instance that is eligible for the old generation.
        4. Its root is the confirmed one at that height.
        5. None was posted for this successor, or a later one.
        """
        ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, certificate)  # 1
        shard = schedule.shard
        frontier = self._frontier(ctx, shard)
        successor = schedule.entry(certificate.successor)  # 2
        fits = (
            successor.status in _RAN
            and not is_rescuer(successor)
            and successor.predecessor == certificate.generation
            and successor.upgrade_at == certificate.height + 1
        )
        if not fits:
            raise CertificateError(
                "certificate does not fit the schedule",
                got=f"{certificate.generation} → {successor.generation} "
                f"after {certificate.height}",
                expected=f"{successor.predecessor} → {successor.generation} "
                f"after {successor.upgrade_at - 1}, once it is active",
            )
        entry = schedule.entry(certificate.generation)
        self._verify_signer(ctx, schedule, certificate, signature, entry)  # 3
        root = self._confirmed_root(ctx, shard, frontier, certificate.height)
        if root != certificate.root:  # 4
            raise CertificateError(
                "root is not the confirmed one at that height",
                got=certificate.root,
                expected=root or "a confirmation up to that height first",
            )
        posted = self.certificates.find(ctx, shard)
        if posted is not None and posted.successor >= certificate.successor:  # 5
            raise CertificateError(
                "a certificate stands already",
                got=certificate.successor,
                expected=f"> {posted.successor}",
            )
        self.certificates.put(ctx, shard, certificate)
        ctx.emit(
            CertificatePosted(
                shard=shard,
                successor=certificate.successor,
                height=certificate.height,
            )
        )

    def _judge_late(
        self, ctx: Context, schedule: Schedule, late: SignedConfirmation
    ) -> None:
        last = late.confirmation.last
        known = self.confirmed.find(ctx, (schedule.shard, last))
        if known is None or not conflicting(known.confirmation, late.confirmation):
            raise StaleConfirmationError(
                "range is confirmed already",
                got=f"{late.confirmation.first} … {last}",
            )
        self._keep_evidence(ctx, schedule, known, late)

    def _count(
        self,
        ctx: Context,
        schedule: Schedule,
        entry: ScheduleEntry,
        vote: SignedConfirmation,
        effects: tuple[EffectsFact, ...],
    ) -> None:
        """Steps 6 and 7 of :meth:`confirm`."""
        shard, claim = schedule.shard, vote.confirmation
        if self.disputes.contains(ctx, shard):
            raise DisputedRangeError(
                "conflicting roots stand for this range",
                got=f"{claim.first} … {claim.last}",
                hint="The shard's authority must set its status to normal first",
            )
        votes = self.votes.get(ctx, shard)
        for other in votes:
            voter = other.confirmation.signing_key
            if not conflicting(other.confirmation, claim):
                continue
            if self._counts_still(ctx, schedule, entry, voter):  # 6
                self.votes.delete(ctx, shard)
                self.disputes.put(ctx, shard, claim.first)
                self._keep_evidence(ctx, schedule, other, vote)
                return
            self._note_conflict(ctx, other, vote)  # evicted: evidence, no dispute
        agreeing = {vote.platform_id}  # 7
        repeated = False
        for other in votes:
            voter = other.confirmation.signing_key
            if not same_claim(other.confirmation, claim) or not self._counts_still(
                ctx, schedule, entry, voter
            ):
                continue
            repeated |= other.platform_id == vote.platform_id
            agreeing.add(other.platform_id)
        if len(agreeing) >= schedule.rules.root_quorum:
            self._accept(ctx, vote, effects)
            return
        if repeated:
            raise StaleConfirmationError(
                "this platform confirmed the range already",
                got=f"{claim.first} … {claim.last}",
            )
        self.votes.put(ctx, shard, add_vote(votes, vote))
        ctx.emit(RootVoted(shard=shard, last=claim.last, agreeing=len(agreeing)))

    def _accept(
        self,
        ctx: Context,
        vote: SignedConfirmation,
        effects: tuple[EffectsFact, ...],  # noqa: ARG002 - EffectKeeper's
    ) -> None:
        claim = vote.confirmation
        shard = claim.shard
        self.votes.delete(ctx, shard)
        self.frontiers.put(
            ctx,
            shard,
            Frontier(
                confirmed=claim.last, root=claim.root, generation=claim.generation
            ),
        )
        self.confirmed.put(ctx, (shard, claim.last), vote)
        heights = (*self.confirmed_heights.get(ctx, shard), claim.last)
        for old in heights[:-KEPT_RANGES]:
            self.confirmed.delete(ctx, (shard, old))
        self.confirmed_heights.put(ctx, shard, heights[-KEPT_RANGES:])
        ctx.emit(
            RootConfirmed(
                shard=shard,
                generation=claim.generation,
                first=claim.first,
                last=claim.last,
                root=claim.root,
            )
        )

    def _keep_evidence(
        self,
        ctx: Context,
        schedule: Schedule,
        first: SignedConfirmation,
        second: SignedConfirmation,
    ) -> None:
        """Keep the first conflict about a block, and stop taking calls."""
        self._note_conflict(ctx, first, second)
        self.enter_maintenance(ctx, schedule)
        ctx.emit(RootsConflicting(shard=schedule.shard, last=first.confirmation.last))

    def _note_conflict(
        self, ctx: Context, first: SignedConfirmation, second: SignedConfirmation
    ) -> None:
        key = (first.confirmation.shard, first.confirmation.last)
        if not self.conflicts.contains(ctx, key):
            self.conflicts.put(
                ctx,
                key,
                RootConflict(first=first, second=second, recorded_at=ctx.block.height),
            )

    def _confirmed_root(
        self, ctx: Context, shard: ShardId, frontier: Frontier, height: Height
    ) -> StateRoot | None:
        if frontier.confirmed == height:
            return frontier.root
        known = self.confirmed.find(ctx, (shard, height))
        return None if known is None else known.confirmation.root


def running(schedule: Schedule, named: Generation, *heights: Height) -> ScheduleEntry:
    """The named generation, if it runs these blocks and all between them.

    Raises:
        NoGenerationError: There is none of that number.
        VoidedGenerationError: It was voided by rescue.
        WrongGenerationError: Another one runs one of them.
    """
    entry = schedule.entry(named)
    if entry.status is EntryStatus.VOID:
        raise VoidedGenerationError("generation was voided by rescue", got=named)
    for height in heights:
        runs = config_at(schedule, height).generation
        if runs != named:
            raise WrongGenerationError(
                f"block {height} is run by another generation",
                got=named,
                expected=runs,
            )
    return entry
