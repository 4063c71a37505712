"""`enclave_bridge`: effects of a shard's blocks, executed on L1 once each."""

from sealift.base import Amount, Epoch, Height, ShardId, encode
from sealift.frame import Context, call, ensure_signed
from sealift.protocol import (
    Effect,
    EffectsFact,
    EffectsStatement,
    Order,
    Schedule,
    ScheduleEntry,
    ShardStatus,
    StakeAuthority,
    StakeDecision,
    Unshield,
    leaves,
)

from ._bridge_roots import RootKeeper, running
from ._bridge_storage import (
    EffectFailed,
    EffectsConflicting,
    EffectsExecuted,
    EffectsRefuted,
    EffectsVoted,
    FundsUnshielded,
    StakeDecided,
    UnshieldOwed,
    vault_account,
)
from ._effects import (
    KEPT_EFFECTS,
    MAX_OPEN_EFFECT_BLOCKS,
    ConfirmedEffects,
    EffectsConflict,
    OpenEffects,
    SignedEffects,
    contradict,
    refutes,
    verify_named,
    weight_of,
)
from ._entries import active_entry
from ._errors import (
    DisputedEffectsError,
    EffectsDoneError,
    EffectsFullError,
    EffectsRangeError,
    EffectsRefutedError,
    EffectsRepeatedError,
    ExistentialDepositError,
    OrderForeignError,
    OrderSignatureError,
)
from ._roots import SignedConfirmation
from ._succession import Rescue

#: Bytes of effects that are read for one weight.
_BYTES_PER_WEIGHT = 64


class EffectKeeper(RootKeeper):
    """Executes effects in the order of their blocks, each exactly once.

    A block's effects are executed when enough platforms agree on them, its root is
    confirmed, and those of the block before are done. In maintenance too: funds
    can always leave.

    Args:
        vault: See :class:`sealift.ledger._bridge_schedule.ScheduleKeeper`.
    """

    @call(weight=500)
    def post_effects(
        self,
        ctx: Context,
        *,
        statement: EffectsStatement,
        signature: bytes,
        effects: tuple[Effect, ...],
    ) -> None:
        """Say what a block does on L1; anybody's account may carry it.

        1. For this chain and a born shard of it; the block is final, after the
           shard's birth, and after the one before.
        2. The effects are those that the statement names, and not too many.
        3. The named generation runs the block, and was not voided.
        4. Signed by an instance that is eligible for it; or for the running one,
           once the block is confirmed: who has the state knows what waits in it.
        5. Nothing is disputed up to this block.
        6. It contradicts no word that stands or was executed: else both are
           evidence, and neither counts. Who is no longer eligible is convicted, and
           stops nothing.
        7. The confirmed root of its range says the same of the block.
        8. Not executed already; one platform counts once; there is room.
        9. Executed as soon as it may be.
        """
        for one in effects:
            if isinstance(one, StakeDecision):
                self.require_known(one.order)
        ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, statement)  # 1
        shard = schedule.shard
        self._verify_block(ctx, schedule, statement)
        ctx.charge(len(encode(effects)) // _BYTES_PER_WEIGHT)
        verify_named(statement, effects)  # 2
        entry = running(schedule, statement.generation, statement.height)  # 3
        entry = self._speaking_for(ctx, schedule, statement, entry)
        record = self._verify_signer(ctx, schedule, statement, signature, entry)  # 4
        disputed = self.effect_disputes.find(ctx, shard)
        if disputed is not None and disputed <= statement.height:  # 5
            raise DisputedEffectsError(
                "effects of this block, or of one before, are contradicted",
                got=statement.height,
                expected=f"< {disputed}",
                hint="The shard's authority must set its status to normal first",
            )
        vote = SignedEffects(
            statement=statement, signature=signature, platform_id=record.platform_id
        )
        convicted = False
        for other in self._contradicted(ctx, schedule, vote):  # 6
            if self._speaks_still(ctx, schedule, other):
                self._dispute(ctx, schedule, other, vote)
                return
            convicted |= self._outvote(ctx, other, vote)
        if convicted and statement.height <= self.effects_cursor.get(ctx, shard):
            return  # too late for more than evidence
        if self._refuted(ctx, statement):  # 7
            raise EffectsRefutedError(
                "the confirmed root says otherwise of this block's effects",
                got=f"{statement.effects.hex()} after block {statement.previous}",
                expected=f"what the confirmed range of block {statement.height} names",
            )
        agreeing = self._note(ctx, schedule, vote, effects)  # 8
        ctx.emit(EffectsVoted(shard=shard, height=statement.height, agreeing=agreeing))
        self._execute_due(ctx, shard)  # 9

    def _accept(
        self,
        ctx: Context,
        vote: SignedConfirmation,
        effects: tuple[EffectsFact, ...],
    ) -> None:
        super()._accept(ctx, vote, effects)
        claim = vote.confirmation
        shard = claim.shard
        known = self.effects_facts.find(ctx, shard)
        if known is None:
            known = ConfirmedEffects(since=claim.first)
        facts = (*known.facts, *effects)
        self._put_facts(ctx, shard, known.since, facts)
        for waiting in self.effects_waiting.get(ctx, shard):
            if self._refuted(ctx, waiting):
                self._drop_effects_of(ctx, shard, waiting.height)
                ctx.emit(EffectsRefuted(shard=shard, height=waiting.height))
        self._execute_due(ctx, shard)

    def _put_facts(
        self,
        ctx: Context,
        shard: ShardId,
        since: Height,
        facts: tuple[EffectsFact, ...],
    ) -> None:
        """Keep what is known of blocks whose effects are not executed yet."""
        cursor = self.effects_cursor.get(ctx, shard)
        open_facts = tuple(one for one in facts if one.height > cursor)
        known = ConfirmedEffects(since=since, facts=open_facts)
        self.effects_facts.put(ctx, shard, known)

    def _refuted(self, ctx: Context, statement: EffectsStatement) -> bool:
        """Whether a confirmed root says otherwise (:func:`refutes`)."""
        known = self.effects_facts.find(ctx, statement.shard)
        return known is not None and refutes(
            known,
            statement,
            done=self.effects_cursor.get(ctx, statement.shard),
            confirmed=self._frontier(ctx, statement.shard).confirmed,
        )

    def _speaking_for(
        self,
        ctx: Context,
        schedule: Schedule,
        statement: EffectsStatement,
        entry: ScheduleEntry,
    ) -> ScheduleEntry:
        """The generation for which who signed a word must be eligible.

        The one that ran the block. Of a confirmed block the running one may speak
        too: its word is held against the confirmed root, so those who ran the block
        need not be there any more.
        """
        known = self.effects_facts.find(ctx, statement.shard)
        judged = (
            known is not None
            and known.since <= statement.height
            and statement.height <= self._frontier(ctx, statement.shard).confirmed
        )
        key = statement.signing_key
        if not judged or self._counts_still(ctx, schedule, entry, key):
            return entry
        active = active_entry(schedule)
        return active if self._counts_still(ctx, schedule, active, key) else entry

    def _note_rescue(self, ctx: Context, schedule: Schedule, rescued: Rescue) -> None:
        """What a voided generation said of its blocks is said by nobody."""
        super()._note_rescue(ctx, schedule, rescued)
        shard = schedule.shard
        since = rescued.rescuer.since
        self._drop_effects(ctx, shard, since)
        disputed = self.effect_disputes.find(ctx, shard)
        if disputed is not None and disputed >= since:
            self.effect_disputes.delete(ctx, shard)

    def _apply_status(
        self, ctx: Context, shard: ShardId, schedule: Schedule
    ) -> Schedule:
        """An authority that sets the status to normal has decided the dispute."""
        ahead: ShardStatus | None = self.next_status.find(ctx, shard)
        if ahead is not None and ahead.mode == "normal":
            self.effect_disputes.delete(ctx, shard)
        return super()._apply_status(ctx, shard, schedule)

    def _verify_block(
        self, ctx: Context, schedule: Schedule, statement: EffectsStatement
    ) -> None:
        shard, height = schedule.shard, statement.height
        self._frontier(ctx, shard)
        born = self.epochs.get(ctx, (shard, Epoch(0))).valid_from
        if not born <= height < ctx.block.height or statement.previous >= height:
            raise EffectsRangeError(
                "block is not final yet, before the birth, or not after the one before",
                got=f"{height} after {statement.previous}",
                expected=f"{born} … {ctx.block.height - 1}, and more than `previous`",
            )

    def _contradicted(
        self, ctx: Context, schedule: Schedule, vote: SignedEffects
    ) -> list[SignedEffects]:
        """Words that can't be true beside this one; of one block, one that counts."""
        shard = vote.statement.shard
        found = [
            told
            for told in self.effects_told.get(ctx, shard)
            if contradict(told.statement, vote.statement)
        ]
        for waiting in self.effects_waiting.get(ctx, shard):
            if contradict(waiting, vote.statement):
                votes = self.effects_open.get(ctx, (shard, waiting.height)).votes
                counting = (v for v in votes if self._speaks_still(ctx, schedule, v))
                found.append(next(counting, votes[0]))
        return found

    def _speaks_still(
        self, ctx: Context, schedule: Schedule, vote: SignedEffects
    ) -> bool:
        statement = vote.statement
        entry = schedule.entry(statement.generation)
        entry = self._speaking_for(ctx, schedule, statement, entry)
        return self._counts_still(ctx, schedule, entry, statement.signing_key)

    def _dispute(
        self,
        ctx: Context,
        schedule: Schedule,
        first: SignedEffects,
        second: SignedEffects,
    ) -> None:
        """Keep both words, and execute nothing from here on."""
        shard = schedule.shard
        height = _block_of(first, second)
        self._keep_words(ctx, first, second)
        self._drop_effects(ctx, shard, height)
        self.effect_disputes.put(ctx, shard, height)
        self.enter_maintenance(ctx, schedule)
        ctx.emit(EffectsConflicting(shard=shard, height=height))

    def _outvote(
        self, ctx: Context, evicted: SignedEffects, vote: SignedEffects
    ) -> bool:
        """Keep both words; the one that nobody counts any more makes room.

        Whether this is the first evidence about the block.
        """
        new = self._keep_words(ctx, evicted, vote)
        self._drop_effects_of(ctx, evicted.statement.shard, evicted.statement.height)
        return new

    def _keep_words(
        self, ctx: Context, first: SignedEffects, second: SignedEffects
    ) -> bool:
        """Keep the first conflict about a block; whether this is it."""
        key = (first.statement.shard, _block_of(first, second))
        if self.effect_conflicts.contains(ctx, key):
            return False
        conflict = EffectsConflict(
            first=first, second=second, recorded_at=ctx.block.height
        )
        self.effect_conflicts.put(ctx, key, conflict)
        return True

    def _note(
        self,
        ctx: Context,
        schedule: Schedule,
        vote: SignedEffects,
        effects: tuple[Effect, ...],
    ) -> int:
        """Step 8 of :meth:`post_effects`: how many platforms have said so.

        A platform may say it again if its former word counts no more, or if words
        that had lost their standing and regained it now suffice.
        """
        statement = vote.statement
        shard, height = statement.shard, statement.height
        cursor = self.effects_cursor.get(ctx, shard)
        if height <= cursor:
            raise EffectsDoneError(
                "effects up to this block were executed",
                got=height,
                expected=f"> {cursor}",
            )
        opened = self.effects_open.find(ctx, (shard, height))
        if opened is None:
            waiting = self.effects_waiting.get(ctx, shard)
            # the next one always has a place, or nothing would ever get out
            if len(waiting) >= MAX_OPEN_EFFECT_BLOCKS and statement.previous != cursor:
                raise EffectsFullError(
                    "too many blocks' effects wait",
                    got=len(waiting),
                    expected=f"< {MAX_OPEN_EFFECT_BLOCKS}",
                    hint="Those of earlier blocks must be agreed on first",
                )
            self.effects_waiting.put(ctx, shard, (*waiting, statement))
            opened = OpenEffects(effects=effects, votes=())
        mine = [one for one in opened.votes if one.platform_id == vote.platform_id]
        standing = any(self._speaks_still(ctx, schedule, one) for one in mine)
        if standing and self._due(ctx, shard) is None:
            raise EffectsRepeatedError(
                "this platform said so before", got=vote.platform_id
            )
        votes = (*(one for one in opened.votes if one not in mine), vote)
        self.effects_open.put(
            ctx, (shard, height), OpenEffects(effects=opened.effects, votes=votes)
        )
        return len(votes)

    def _drop_effects(self, ctx: Context, shard: ShardId, first: Height) -> None:
        """Forget what waits of block ``first`` and later ones."""
        waiting = self.effects_waiting.get(ctx, shard)
        for one in waiting:
            if one.height >= first:
                self.effects_open.delete(ctx, (shard, one.height))
        kept = tuple(one for one in waiting if one.height < first)
        self.effects_waiting.put(ctx, shard, kept)

    def _drop_effects_of(self, ctx: Context, shard: ShardId, height: Height) -> None:
        """Forget what waits of one block."""
        waiting = self.effects_waiting.get(ctx, shard)
        self.effects_open.delete(ctx, (shard, height))
        kept = tuple(one for one in waiting if one.height != height)
        self.effects_waiting.put(ctx, shard, kept)

    def _execute_due(self, ctx: Context, shard: ShardId) -> None:
        """Execute along the chain of blocks, as far as may be.

        What the block has no weight for waits for the next word or root.
        """
        while (due := self._due(ctx, shard)) is not None:
            weight = weight_of(due.effects)
            if weight > ctx.meter.left:
                return
            ctx.charge(weight)
            self._execute(ctx, due)

    def _due(self, ctx: Context, shard: ShardId) -> OpenEffects | None:
        """The effects that are to be executed next, if they may be now.

        What is disputed does not wait: it was dropped, and is refused.
        """
        cursor = self.effects_cursor.get(ctx, shard)
        waiting = self.effects_waiting.get(ctx, shard)
        head = next((one for one in waiting if one.previous == cursor), None)
        if head is None or head.height > self._frontier(ctx, shard).confirmed:
            return None
        schedule = self.schedule_of(ctx, shard)
        opened = self.effects_open.get(ctx, (shard, head.height))
        agreeing = {
            one.platform_id
            for one in opened.votes
            if self._speaks_still(ctx, schedule, one)
        }
        return opened if len(agreeing) >= schedule.rules.effects_quorum else None

    def _execute(self, ctx: Context, due: OpenEffects) -> None:
        first = due.votes[0]
        shard, height = first.statement.shard, first.statement.height
        self._drop_effects_of(ctx, shard, height)
        self.effects_cursor.put(ctx, shard, height)
        known = self.effects_facts.find(ctx, shard)
        if known is not None:
            self._put_facts(ctx, shard, known.since, known.facts)
        told = (*self.effects_told.get(ctx, shard), first)
        self.effects_told.put(ctx, shard, told[-KEPT_EFFECTS:])
        for index, effect in enumerate(due.effects):
            if isinstance(effect, Unshield):
                error = self._unshield(ctx, shard, effect)
            else:
                error = self._decide(ctx, shard, effect)
            if error:
                ctx.emit(
                    EffectFailed(shard=shard, height=height, index=index, error=error)
                )
        ctx.emit(EffectsExecuted(shard=shard, height=height, count=len(due.effects)))

    def _unshield(self, ctx: Context, shard: ShardId, effect: Unshield) -> str:
        """Pay, with what was owed before; the name of the refusal, or nothing."""
        key = (shard, effect.beneficiary)
        amount = Amount(self.unshield_owed.get(ctx, key) + effect.amount)
        vault = vault_account(shard)
        failure = ctx.attempt(
            lambda inner: self._vault.move(inner, vault, effect.beneficiary, amount)
        )
        if failure is None:
            self.unshield_owed.delete(ctx, key)
            ctx.emit(
                FundsUnshielded(
                    shard=shard, beneficiary=effect.beneficiary, amount=amount
                )
            )
            return ""
        if failure.code == ExistentialDepositError.__name__:
            self.unshield_owed.put(ctx, key, amount)
            ctx.emit(
                UnshieldOwed(shard=shard, beneficiary=effect.beneficiary, owed=amount)
            )
            return ""
        return failure.code

    def _decide(self, ctx: Context, shard: ShardId, effect: StakeDecision) -> str:
        """Tell how a vote ended; if it was for it, let the order have its vote."""
        order = effect.order
        ctx.emit(
            StakeDecided(
                shard=shard,
                order=order.digest(),
                kind=type(order).__name__,
                passed=effect.passed,
                tally=effect.tally,
            )
        )
        if not effect.passed:
            return ""
        failure = ctx.attempt(lambda inner: self._note_stake(inner, shard, order))
        return "" if failure is None else failure.code

    def _note_stake(self, ctx: Context, shard: ShardId, order: Order) -> None:
        """Count the vote of this shard's holders, and of no other's.

        Raises:
            OrderForeignError: The order is another shard's.
            OrderSignatureError: Here holders don't decide.
            PalletError: See :meth:`note_vote`.
        """
        if order.shard != shard:
            raise OrderForeignError(
                "holders decide for their own shard", got=order.shard, expected=shard
            )
        rules = self.schedule_of(ctx, shard).rules
        for tree in (rules.authority, rules.emergency):
            for leaf in () if tree is None else leaves(tree):
                if isinstance(leaf, StakeAuthority):
                    self.note_vote(ctx, order, leaf)
                    return
        raise OrderSignatureError("holders don't decide in this shard", got=shard)


def _block_of(first: SignedEffects, second: SignedEffects) -> Height:
    """The block that two words contradict each other about: the earlier one."""
    return min(first.statement.height, second.statement.height)
