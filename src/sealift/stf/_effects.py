"""``effects``: what the shard's blocks do on L1, and how much of it (DESIGN §10.9)."""

from typing import Protocol

from sealift.base import Height, Message, encode
from sealift.frame import Context, Event, Pallet, PalletError, StorageValue
from sealift.protocol import MAX_EFFECTS, MAX_EFFECTS_BYTES, Effect

#: Of a block's places for effects, so many are kept for hooks.
RESERVED_EFFECTS = 8
#: Of a block's bytes of effects, so many are kept for hooks: all polls may end
#: in one block, each with a large order.
RESERVED_BYTES = 144 * 1024
#: Of the list that the effects of a block stand in.
_LIST_BYTES = 3


class EffectIssued(Event, kw_only=True):
    """An effect leaves for L1, encoded; told outside of receipts only."""

    effect: bytes


class EffectsFullError(PalletError):
    """The block has as many effects as it may; the call may be made again."""


class EffectsUsed(Message, kw_only=True, tag=False):
    """What the effects of the last block that had any take."""

    height: Height
    count: int
    size: int


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
    executes them.
    """

    name = "effects"
    storage_version = 1
    events = (EffectIssued,)
    errors = (EffectsFullError,)

    last: StorageValue[Height] = StorageValue("last", Height, default=Height(0))
    used: StorageValue[EffectsUsed] = StorageValue("used", EffectsUsed)

    def issue(self, ctx: Context, effect: Effect, *, from_hook: bool = False) -> None:
        """Have L1 do something, once (port :class:`EffectsPort`)."""
        raw = encode(effect)
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
