"""`enclave_bridge`: key epochs after the first (DESIGN §12)."""

from sealift.base import AccountId, Height
from sealift.frame import Context, call, ensure_signed
from sealift.protocol import (
    EnclaveRecord,
    HoldKeysStatement,
    RotationDue,
    Schedule,
    StageKeysStatement,
)

from ._bridge_effects import EffectKeeper
from ._bridge_storage import EpochActivated, KeysHeld, KeysStaged
from ._entries import active_entry
from ._rotation import (
    activate,
    hold,
    narrowed_by,
    require_due,
    require_staged,
    stage,
    verify_attested,
    verify_demand,
    verify_keys,
)


class EpochKeeper(EffectKeeper):
    """Lets a new epoch's keys act once enough instances hold them.

    Instances of the running generation stage and hold; no act of the authority is
    in it, so the serial stays.

    Args:
        vault: See :class:`sealift.ledger._bridge_schedule.ScheduleKeeper`.
    """

    @call(weight=1_000)
    def stage_keys(
        self, ctx: Context, *, statement: StageKeysStatement, signature: bytes
    ) -> None:
        """Publish the next epoch's keys; anybody's account may carry it.

        1. For this chain and a born shard of it.
        2. A rotation to this epoch is owed; the generation that owes it has
           confirmed a block; no other keys are staged, or they are given up; and
           the keys were made for this very demand.
        3. Signed by an instance that is eligible for the active generation, and
           attested as late as the rotation asks for; the keys were made under
           this very attestation.
        4. The keys follow the handover policy; none is an old one.
        5. The schedule has room for the epoch.
        6. It acts when as many instances hold it as the rules want.
        """
        ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, statement)  # 1
        frontier = self._frontier(ctx, schedule.shard)
        height = Height(ctx.block.height)
        due = require_due(  # 2
            schedule, statement.epoch, frontier=frontier, height=height
        )
        verify_demand(schedule, statement.demand)
        record = self._verify_keeper(ctx, schedule, statement, signature, due)  # 3
        verify_attested(record, statement.registration, due)
        verify_keys(schedule, statement.keys, due)  # 4
        after = stage(  # 5
            schedule,
            statement.keys,
            due,
            signing_key=statement.signing_key,
            height=height,
        )
        ctx.emit(
            KeysStaged(
                shard=schedule.shard,
                epoch=due.epoch,
                signing_key=statement.signing_key,
            )
        )
        self._activate(ctx, after, due)  # 6

    @call(weight=1_000)
    def hold_keys(
        self, ctx: Context, *, statement: HoldKeysStatement, signature: bytes
    ) -> None:
        """Say that an instance holds the staged keys; anybody may carry it.

        1. For this chain and a born shard of it.
        2. These very keys are staged, and the instance didn't say so before.
        3. Signed by an instance that is eligible for the active generation, and
           attested as late as the rotation asks for.
        4. The epoch acts when as many hold it as the rules want. Who is no longer
           eligible is dropped.
        """
        ensure_signed(ctx.origin)
        schedule = self._schedule_for(ctx, statement)  # 1
        self._frontier(ctx, schedule.shard)
        signing_key = statement.signing_key
        staged = require_staged(  # 2
            schedule, statement.epoch, statement.keys, signing_key=signing_key
        )
        self._verify_keeper(ctx, schedule, statement, signature, staged.due)  # 3
        after = hold(schedule, staged, signing_key)
        ctx.emit(
            KeysHeld(
                shard=schedule.shard,
                epoch=staged.epoch,
                signing_key=signing_key,
                holders=len(staged.holders) + 1,
            )
        )
        self._activate(ctx, after, staged.due)  # 4

    def _verify_keeper(
        self,
        ctx: Context,
        schedule: Schedule,
        statement: StageKeysStatement | HoldKeysStatement,
        signature: bytes,
        due: RotationDue,
    ) -> EnclaveRecord:
        return self._verify_signer(
            ctx,
            schedule,
            statement,
            signature,
            active_entry(schedule),
            status=narrowed_by(schedule.status, due),
        )

    def _activate(self, ctx: Context, schedule: Schedule, due: RotationDue) -> None:
        """Store the schedule; the staged epoch will act if enough hold it."""
        holders = schedule.staged.holders if schedule.staged is not None else ()
        counting = {one for one in holders if self._keeps(ctx, schedule, one, due)}
        after, epoch = activate(schedule, counting, height=Height(ctx.block.height))
        self.put_schedule(ctx, after)
        if epoch is not None:
            ctx.emit(
                EpochActivated(
                    shard=schedule.shard,
                    epoch=epoch.epoch,
                    valid_from=epoch.valid_from,
                )
            )

    def _keeps(
        self, ctx: Context, schedule: Schedule, signing_key: AccountId, due: RotationDue
    ) -> bool:
        return self._counts_still(
            ctx,
            schedule,
            active_entry(schedule),
            signing_key,
            status=narrowed_by(schedule.status, due),
        )
