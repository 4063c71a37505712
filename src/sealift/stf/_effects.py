"""``effects``: what the shard's blocks do on L1, and how much of it (DESIGN §10.9)."""

from typing import Protocol

from sealift.base import Height, Message, encode
from sealift.frame import Context, Event, Pallet, PalletError, StorageMap, StorageValue
from sealift.protocol import MAX_EFFECTS, MAX_EFFECTS_BYTES, Effect

#: Of a block's places for effects, so many are kept for hooks.
RESERVED_EFFECTS = 8
#: Of a block's bytes of effects, so many are kept for hooks: all polls may end
#: in one block, each with a large order.
RESERVED_BYTES = 144 * 1024
#: While so many blocks' effects wait on L1, calls get no more of them.
MAX_OUTSTANDING_BLOCKS = 64
#: Of the list that the effects of a block stand in.
_LIST_BYTES = 3


class EffectIssued(Event, kw_only=True):
    """An effect leaves for L1, encoded; told outside of receipts only."""

    effect: bytes


class EffectsFullError(PalletError):
    """No more effects fit, in the block or on L1; the call may be made again."""


class EffectsUsed(Message, kw_only=True, tag=False):
    """What the effects of the last block that had any take."""

    height: Height
    count: int
    size: int


class OutstandingEffects(Message, kw_only=True, tag=False):
    """What a block does on L1, as long as L1 is not known to have done it."""

    height: Height
    previous: Height
    effects: tuple[Effect, ...]


class EffectsPort(Protocol):
    """Port: what a pallet wants done on L1."""

    def issue(self, ctx: Context, effect: Effect, *, from_hook: bool = False) -> None:
        """Have L1 do something, once, if the running call or hook succeeds.

        Args:
            ctx: The call or hook; its failure takes the effect back.
            effect: What L1 shall do.
            from_hook: Use the places that are kept for hooks.

        Raises:
            EffectsFullError: The block has no place left for it.
        """
        ...


class Effects(Pallet):
    """Effects of the block that executes, in order, and where the last ones were.

    Law: a block has at most ``MAX_EFFECTS`` effects of ``MAX_EFFECTS_BYTES`` in
    all, and calls never take the places that are kept for hooks. ``last`` is the
    last block that had effects, 0 before the first: the chain along which L1
    executes them. ``outstanding`` has the effects that L1 has not executed, as far as
    the schedule's record says: whoever has the state can say them again. Where L1
    doesn't say, it has those of the last ``MAX_OUTSTANDING_BLOCKS`` blocks.
    """

    name = "effects"
    storage_version = 2
    events = (EffectIssued,)
    errors = (EffectsFullError,)

    last: StorageValue[Height] = StorageValue("last", Height, default=Height(0))
    used: StorageValue[EffectsUsed] = StorageValue("used", EffectsUsed)
    waiting: StorageValue[tuple[Height, ...]] = StorageValue(
        "waiting", tuple[Height, ...], default=()
    )
    outstanding = StorageMap("outstanding", key=Height, value=OutstandingEffects)

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        """From version 1: of earlier blocks' effects only who ran them speaks."""

    def forget(self, ctx: Context, done: Height | None) -> None:
        """Drop what L1 has executed: all up to ``done``, if it says."""
        waiting = self.waiting.get(ctx)
        if done is None:
            kept = waiting[-MAX_OUTSTANDING_BLOCKS:]
        else:
            kept = tuple(height for height in waiting if height > done)
        if kept != waiting:
            for height in waiting[: len(waiting) - len(kept)]:
                self.outstanding.delete(ctx, height)
            self.waiting.put(ctx, kept)

    def keep(
        self, ctx: Context, effects: tuple[Effect, ...], *, previous: Height
    ) -> None:
        """Keep what this block does on L1 until L1 has executed it."""
        if effects:
            height = ctx.block.height
            kept = OutstandingEffects(height=height, previous=previous, effects=effects)
            self.outstanding.put(ctx, height, kept)
            self.waiting.put(ctx, (*self.waiting.get(ctx), height))

    def issue(self, ctx: Context, effect: Effect, *, from_hook: bool = False) -> None:
        """Have L1 do something, once (port :class:`EffectsPort`)."""
        raw = encode(effect)
        waiting = len(self.waiting.get(ctx))
        if waiting > MAX_OUTSTANDING_BLOCKS and not from_hook:
            raise EffectsFullError(
                "L1 has too many blocks' effects to execute first",
                got=waiting,
                expected=f"≤ {MAX_OUTSTANDING_BLOCKS}",
                hint="Call again once platforms have agreed on them",
            )
        used = self.used.find(ctx)
        if used is None or used.height != ctx.block.height:
            used = EffectsUsed(height=ctx.block.height, count=0, size=_LIST_BYTES)
        count, size = used.count + 1, used.size + len(raw)
        most = MAX_EFFECTS - (0 if from_hook else RESERVED_EFFECTS)
        most_bytes = MAX_EFFECTS_BYTES - (0 if from_hook else RESERVED_BYTES)
        if count > most or size > most_bytes:
            raise EffectsFullError(
                "no place for another effect in this block",
                got=f"{count} of {size} B",
                expected=f"≤ {most} of ≤ {most_bytes} B",
                hint="Call again in a later block",
            )
        self.used.put(ctx, EffectsUsed(height=ctx.block.height, count=count, size=size))
        self.last.put(ctx, ctx.block.height)
        ctx.emit(EffectIssued(effect=raw))
