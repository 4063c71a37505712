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

from ._errors import NonceError, RuntimeUpgradeError, UnknownRuntimeVersionError
from ._genesis import KEPT_BLOCK_HASHES

#: The version of the L1 runtime that this release executes.
RUNTIME_VERSION = 1


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


class System(Pallet):
    """Nonces, the last block hashes, the runtime's version."""

    name = "system"
    events = (RuntimeUpgradeScheduled, RuntimeUpgradeCancelled, RuntimeUpgraded)
    errors = (RuntimeUpgradeError, NonceError)

    genesis_digest = StorageValue("genesis", Digest)
    last_block = StorageValue("last_block", LastBlock)
    version = StorageValue("version", int)
    plan = StorageValue("plan", RuntimePlan)
    nonces = StorageMap("nonces", key=AccountId, value=Nonce, default=Nonce(0))
    block_hashes = StorageMap("block_hashes", key=Height, value=Digest)

    def genesis(self, ctx: Context, config: SystemGenesis) -> None:
        """Remember the genesis and begin at height 0."""
        self.genesis_digest.put(ctx, config.genesis)
        self.version.put(ctx, RUNTIME_VERSION)
        self.note_block(ctx)

    def on_initialize(self, ctx: Context) -> None:
        """Take over at the planned height, and move on."""
        plan = self.plan.find(ctx)
        if plan is not None and plan.height <= ctx.block.height:
            self.version.put(ctx, plan.version)
            self.plan.delete(ctx)
            ctx.emit(RuntimeUpgraded(version=plan.version))
        self.note_block(ctx)

    def require_runtime(self, ctx: Context) -> None:
        """Return if this release has the runtime that executes this block.

        Raises:
            UnknownRuntimeVersionError: It has not; the node must halt.
        """
        plan = self.plan.find(ctx)
        due = plan is not None and plan.height <= ctx.block.height
        version = plan.version if plan is not None and due else self.version.get(ctx)
        if version != RUNTIME_VERSION:
            raise UnknownRuntimeVersionError(
                f"block {ctx.block.height} needs another runtime version",
                got=RUNTIME_VERSION,
                expected=version,
                hint="Install the release that has it and start again",
            )

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
