"""``timestamp``: verified block time, the only clock there is."""

from sealift.base import Height, Message, UnixSeconds
from sealift.frame import Context, Pallet, StorageValue

from ._getters import getter


class Moment(Message, kw_only=True, tag=False):
    """A block's height and time."""

    height: Height
    time: UnixSeconds


class Timestamp(Pallet):
    """Time for pallets and readers.

    Only blocks that hold something for the shard are noted, so that idle
    blocks leave the state as it is.
    """

    name = "timestamp"
    storage_version = 1

    last: StorageValue[Moment] = StorageValue(
        "last", Moment, default=Moment(height=Height(0), time=UnixSeconds(0))
    )

    def now(self, ctx: Context) -> UnixSeconds:
        """Time of the block that is executing, seconds."""
        return ctx.block.time

    def note(self, ctx: Context) -> None:
        """Note the block that is executing; called by the executor."""
        self.last.put(ctx, Moment(height=ctx.block.height, time=ctx.block.time))

    @getter(public=True)
    def last_block(self, ctx: Context) -> Moment:
        """The last block that held something for the shard."""
        return self.last.get(ctx)
