"""`enclave_bridge`, its first half: shards and their schedules."""

import msgspec

from sealift.base import AccountId, Amount, Generation, Height, ShardId, encode
from sealift.crypto import sha256
from sealift.frame import Context, call, ensure_signed
from sealift.protocol import (
    EntryStatus,
    Schedule,
    ScheduleEntry,
    ScheduleRecord,
    ShardConfig,
    ShardRules,
    ShardStatus,
    config_at,
)

from ._bridge_storage import (
    BridgeGenesis,
    BridgeStorage,
    GenerationActivated,
    GenerationLapsed,
    GenerationVoided,
    RulesChanged,
    ShardCreated,
    StatusChanged,
)
from ._entries import first_schedule, raise_serial, with_status
from ._errors import ShardLimitError, UnknownShardError
from ._orders import apply_change, owe_rotation
from ._ports import Vault
from ._rules import verify_rules
from ._succession import Rescue, promote, rescue


def shard_id_of(chain_id: str, creator: AccountId, index: int) -> ShardId:
    """The id of the ``index``-th shard of a chain; no code takes part in it."""
    preimage = encode((chain_id, creator, index))
    return ShardId(sha256(b"sealift/shard-id/v1\x00" + preimage))


class ScheduleKeeper(BridgeStorage):
    """Creates shards, and begins every block with the schedule.

    Args:
        vault: Where prices are burned and shielded funds go.
    """

    def __init__(self, *, vault: Vault) -> None:
        self._vault = vault

    def genesis(self, ctx: Context, config: BridgeGenesis) -> None:
        """Remember what a shard costs, and how many there may be."""
        self.shard_price.put(ctx, config.shard_price)
        self.max_shards.put(ctx, config.max_shards)

    def on_initialize(self, ctx: Context) -> None:
        """For each shard: status, rescue, promotion, and who runs this block.

        1. A status decided in the block before acts, and rules that are due.
        2. A generation that never came is void.
        3. A due entry runs, if it follows the running one; else it lapses. Its
           shard's keys are to be rotated.
        4. The record says who runs this height.
        """
        for shard in self.shards.get(ctx):
            schedule = self.schedules.get(ctx, shard)
            schedule = self._apply_status(ctx, shard, schedule)  # 1
            schedule = self._apply_change(ctx, schedule)
            frontier = self.frontiers.find(ctx, shard)
            confirmed = None if frontier is None else frontier.confirmed
            before = schedule
            schedule, rescued = rescue(  # 2
                schedule, height=ctx.block.height, confirmed=confirmed
            )
            if rescued is not None:
                self._note_rescue(ctx, schedule, rescued)
                schedule = _rescued(schedule, rescued)
            schedule, promoted = promote(schedule, height=ctx.block.height)  # 3
            if promoted is not None:
                schedule = _rotated_by_upgrade(schedule, promoted)
                ctx.emit(GenerationActivated(shard=shard, generation=promoted))
            if schedule is not before:
                self.tell_lapsed(ctx, before, schedule)
            self.put_schedule(ctx, schedule, running=True)  # 4

    def schedule_of(self, ctx: Context, shard: ShardId) -> Schedule:
        """The schedule of a shard.

        Raises:
            UnknownShardError: No such shard.
        """
        schedule = self.schedules.find(ctx, shard)
        if schedule is None:
            raise UnknownShardError("no such shard", got=shard)
        return schedule

    def admissible(self, ctx: Context, shard: ShardId) -> tuple[ScheduleEntry, ...]:
        """Entries whose code may be registered.

        The active one, the pending ones, then those of the last confirmed block
        and of the frontier: late blocks must still be confirmed, and keys
        provided, by the generation they belong to.

        Raises:
            UnknownShardError: No such shard.
        """
        schedule = self.schedule_of(ctx, shard)
        found = {
            entry.generation: entry
            for status in (EntryStatus.ACTIVE, EntryStatus.PENDING)
            for entry in schedule.entries
            if entry.status is status
        }
        frontier = self.frontiers.find(ctx, shard)
        if frontier is not None:
            for height in (frontier.confirmed + 1, frontier.confirmed):
                entry = config_at(schedule, height)
                found.setdefault(entry.generation, entry)
        return tuple(found.values())

    @call(weight=1_000)
    def create_shard(
        self, ctx: Context, *, rules: ShardRules, config: ShardConfig
    ) -> None:
        """Create a shard with its rules and its first generation.

        The id follows from chain, creator and the number of shards; the event
        tells it. The first generation runs from the next block on.
        """
        creator = ensure_signed(ctx.origin)
        verify_rules(rules, config)
        self.judge_config(ctx, config)
        shards = self.shards.get(ctx)
        most = self.max_shards.get(ctx)
        if len(shards) >= most:
            raise ShardLimitError(
                "this chain takes no more shards", got=len(shards), expected=f"< {most}"
            )
        self._vault.burn(ctx, creator, Amount(self.shard_price.get(ctx)))
        chain_id = ctx.block.chain_id
        shard = shard_id_of(chain_id, creator, len(shards))
        self.shards.put(ctx, (*shards, shard))
        schedule = first_schedule(
            chain_id=chain_id,
            shard=shard,
            rules=rules,
            config=config,
            order=sha256(b"sealift/birth/v1\x00" + encode((shard, rules, config))),
            height=ctx.block.height,
        )
        self.schedules.put(ctx, shard, schedule)
        ctx.emit(ShardCreated(shard=shard, creator=creator))

    def judge_config(self, ctx: Context, config: ShardConfig) -> None:
        """Return if this chain takes a new generation's configuration.

        Version 1 of the runtime asks no more than :func:`verify_config` does.
        """

    def enter_maintenance(self, ctx: Context, schedule: Schedule) -> None:
        """Put the shard into maintenance from the next block on.

        Raises the serial when it does: an order that was signed before anybody
        knew cannot lift what it did not know of.
        """
        standing = self.standing_status(ctx, schedule)
        if standing.mode == "maintenance":
            return
        status = msgspec.structs.replace(standing, mode="maintenance")
        self.next_status.put(ctx, schedule.shard, status)
        self.put_schedule(ctx, raise_serial(schedule))

    def standing_status(self, ctx: Context, schedule: Schedule) -> ShardStatus:
        """What will act from the next block, as it stands."""
        return self.next_status.find(ctx, schedule.shard) or schedule.status

    def _apply_status(
        self, ctx: Context, shard: ShardId, schedule: Schedule
    ) -> Schedule:
        status = self.next_status.find(ctx, shard)
        if status is None:
            return schedule
        self.next_status.delete(ctx, shard)
        if status.mode == "normal":
            self.disputes.delete(ctx, shard)
        ctx.emit(StatusChanged(shard=shard, status=status))
        return with_status(schedule, status)

    def _note_rescue(self, ctx: Context, schedule: Schedule, rescued: Rescue) -> None:
        shard = schedule.shard
        self.votes.delete(ctx, shard)
        disputed = self.disputes.find(ctx, shard)
        if disputed is not None and disputed >= rescued.rescuer.since:
            self.disputes.delete(ctx, shard)  # both sides were the voided one's
        for entry in rescued.voided:
            ctx.emit(
                GenerationVoided(
                    shard=shard,
                    generation=entry.generation,
                    rescuer=rescued.rescuer.generation,
                )
            )

    def _apply_change(self, ctx: Context, schedule: Schedule) -> Schedule:
        after = apply_change(schedule, height=ctx.block.height)
        if after is not schedule:
            ctx.emit(RulesChanged(shard=schedule.shard, rules=after.rules))
        return after

    def tell_lapsed(self, ctx: Context, before: Schedule, after: Schedule) -> None:
        was = {e.generation: e.status for e in before.entries}
        for entry in after.entries:
            lapsed = entry.status is EntryStatus.LAPSED
            if lapsed and was.get(entry.generation) is EntryStatus.PENDING:
                ctx.emit(
                    GenerationLapsed(shard=after.shard, generation=entry.generation)
                )

    def put_schedule(
        self, ctx: Context, schedule: Schedule, *, running: bool = False
    ) -> None:
        """Store a schedule, and keep the record beside it naming it.

        The record's generation is settled by the first act of a block; its
        digest follows the schedule, so that in every state both agree.
        """
        shard = schedule.shard
        self.schedules.put(ctx, shard, schedule)
        if not running and not self.records.contains(ctx, shard):
            return  # created in this block: no generation runs yet
        height = Height(ctx.block.height)
        generation = config_at(schedule, height).generation
        self.records.put(
            ctx,
            shard,
            ScheduleRecord(
                height=height,
                generation=generation,
                schedule=schedule.digest(),
                effects_done=self.effects_cursor.get(ctx, shard),
            ),
        )


def _rescued(schedule: Schedule, rescued: Rescue) -> Schedule:
    """The voided generations, and what lapsed with them, may hold the keys."""
    return owe_rotation(
        schedule,
        "rescue",
        generation=rescued.rescuer.generation,
        not_before=0,
        grace=schedule.rules.grace,
    )


def _rotated_by_upgrade(schedule: Schedule, promoted: Generation) -> Schedule:
    """The new generation's keys are its own, unless the policy passes all."""
    if schedule.rules.handover.passes:
        return schedule
    return owe_rotation(
        schedule,
        "upgrade",
        generation=promoted,
        not_before=0,
        grace=schedule.rules.grace,
    )
