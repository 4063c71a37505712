"""`system`: nonces, block hashes and the version of the runtime."""

from sealift.base import AccountId, Digest, Height, Message, Nonce, UnixSeconds
from sealift.frame import (
    Context,
    Event,
    Pallet,
    StorageMap,
    StorageValue,
    call,
    ensure_root,
)

from ._errors import NonceError, RuntimeUpgradeError
from ._genesis import KEPT_BLOCK_HASHES


class SystemGenesis(Message, kw_only=True):
    """The digest of the genesis that the state came from."""

    genesis: Digest


class LastBlock(Message, kw_only=True):
    """The last block that was executed; height 0 is the genesis."""

    height: Height
    time: UnixSeconds


class RuntimePlan(Message, kw_only=True):
    """From ``height`` on, blocks are executed by version ``version``."""

    version: int
    height: Height


class RuntimeUpgradeScheduled(Event, kw_only=True):
    """Root has decided when another runtime version takes over."""

    version: int
    height: Height


class RuntimeUpgradeCancelled(Event, kw_only=True):
    """Root has withdrawn its plan."""

    version: int


class RuntimeUpgraded(Event, kw_only=True):
    """From this block on, this version executes."""

    version: int


class RuntimeUpgradeFailed(Event, kw_only=True):
    """The version could not take the state over: the one before goes on.

    ``error`` is the name of why. Nothing of the migration is in the state.
    """

    version: int
    error: str


class System(Pallet):
    """Nonces, the last block hashes, the runtime's version.

    Where ``genesis``, ``last_block``, ``version`` and ``plan`` lie, and how they are
    encoded, is the same in all versions of the runtime: by them the ledger finds
    out which version a block is executed with.

    Args:
        version: Of the runtime that this pallet is part of; a chain that begins
            with it begins so.
    """

    name = "system"
    events = (
        RuntimeUpgradeScheduled,
        RuntimeUpgradeCancelled,
        RuntimeUpgraded,
        RuntimeUpgradeFailed,
    )
    errors = (RuntimeUpgradeError, NonceError)

    genesis_digest = StorageValue("genesis", Digest)
    last_block = StorageValue("last_block", LastBlock)
    version = StorageValue("version", int)
    plan = StorageValue("plan", RuntimePlan)
    nonces = StorageMap("nonces", key=AccountId, value=Nonce, default=Nonce(0))
    block_hashes = StorageMap("block_hashes", key=Height, value=Digest)

    def __init__(self, *, version: int) -> None:
        self._number = version

    def genesis(self, ctx: Context, config: SystemGenesis) -> None:
        """Remember the genesis and begin at height 0."""
        self.genesis_digest.put(ctx, config.genesis)
        self.version.put(ctx, self._number)
        self.note_block(ctx)

    def on_initialize(self, ctx: Context) -> None:
        """Move on."""
        self.note_block(ctx)

    def take_over(self, ctx: Context) -> None:
        """The planned version is this one, and has taken the state over."""
        self.version.put(ctx, self._number)
        self.plan.delete(ctx)
        ctx.emit(RuntimeUpgraded(version=self._number))

    def give_up(self, ctx: Context, version: int, error: str) -> None:
        """The planned version could not take the state over; this one goes on."""
        self.plan.delete(ctx)
        ctx.emit(RuntimeUpgradeFailed(version=version, error=error))

    def note_block(self, ctx: Context) -> None:
        """Remember height and time of this block."""
        block = ctx.block
        self.last_block.put(ctx, LastBlock(height=block.height, time=block.time))

    def note_hash(self, ctx: Context, block_hash: Digest) -> None:
        """Remember the hash of this block, and forget the oldest."""
        height = ctx.block.height
        self.block_hashes.put(ctx, height, block_hash)
        if height > KEPT_BLOCK_HASHES:
            self.block_hashes.delete(ctx, Height(height - KEPT_BLOCK_HASHES))

    def block_hash(self, ctx: Context, height: int) -> Digest | None:
        """The hash of a block, if it is one of the last 256."""
        return self.block_hashes.find(ctx, Height(height)) if height >= 0 else None

    def nonce(self, ctx: Context, account: AccountId) -> Nonce:
        """The nonce that the account's next transaction must have."""
        return self.nonces.get(ctx, account)

    def consume_nonce(self, ctx: Context, account: AccountId) -> None:
        """Use up the account's nonce."""
        self.nonces.put(ctx, account, Nonce(self.nonces.get(ctx, account) + 1))

    @call(weight=100)
    def set_code(self, ctx: Context, *, version: int, height: Height) -> None:
        """Plan a runtime version; naming the current one withdraws the plan."""
        ensure_root(ctx.origin)
        current = self.version.get(ctx)
        if version == current and self.plan.exists(ctx):
            self.plan.delete(ctx)
            ctx.emit(RuntimeUpgradeCancelled(version=version))
            return
        if version <= current:
            raise RuntimeUpgradeError(
                "runtime version is not newer", got=version, expected=f"> {current}"
            )
        if height <= ctx.block.height:
            raise RuntimeUpgradeError(
                "runtime upgrade is not ahead",
                got=height,
                expected=f"> {ctx.block.height}",
            )
        self.plan.put(ctx, RuntimePlan(version=version, height=height))
        ctx.emit(RuntimeUpgradeScheduled(version=version, height=height))
