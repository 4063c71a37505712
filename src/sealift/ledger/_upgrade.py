"""From one version of the L1 runtime to the next: the first act of a block."""

from dataclasses import dataclass

from sealift.base import SealiftError
from sealift.frame import (
    ROOT,
    BlockInfo,
    EmittedEvent,
    MigrationRefusedError,
    Overlay,
    WeightMeter,
)

from ._runtime import LedgerPallets
from ._system import RuntimePlan, System
from ._versions import Compositions

#: A migration may weigh as much as so many full blocks.
MIGRATION_BLOCKS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A state that is read without knowing which version wrote it."""

    storage: Overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Which version executes a block.

    Attributes:
        pallets: The version's.
        version: Its number.
        upgraded: Whether it took over in this block.
        events: What the take-over, or its failure, has to tell.
        failure: Why the planned version could not take over; ``None`` if none was
            due, or it did.
    """

    pallets: LedgerPallets
    version: int
    upgraded: bool = False
    events: tuple[EmittedEvent, ...] = ()
    failure: SealiftError | None = None


def plan_in(overlay: Overlay) -> RuntimePlan | None:
    """The plan that a state has, if it has one."""
    return System.plan.find(Bare(storage=overlay))


def version_in(overlay: Overlay) -> int:
    """The version that a state belongs to."""
    return System.version.get(Bare(storage=overlay))


def begin(
    overlay: Overlay, block: BlockInfo, compositions: Compositions, *, block_weight: int
) -> Begun:
    """Find the version that executes a block, and let it take over if it is due.

    1. No plan is due: the version that the state names.
    2. A due one: this program must have both versions.
    3. The new version migrates the state: all of it or nothing. It may weigh as much
       as :data:`MIGRATION_BLOCKS` blocks.
    4. If that is refused, it is refused on every node alike, for it follows from the
       state: the plan is dropped, an event tells of it, and the version before
       executes this block and those after it.

    Args:
        overlay: The block's; over the state before it.
        block: The block.
        compositions: What this program has.
        block_weight: What a block may weigh.

    Raises:
        UnknownRuntimeVersionError: Step 1 or 2; nothing is written, the node halts.
    """
    number, plan = version_in(overlay), plan_in(overlay)
    standing = compositions.pallets(number, block=block.height)  # 1
    if plan is None or plan.height > block.height:
        return Begun(pallets=standing, version=number)
    planned = compositions.pallets(plan.version, block=block.height)  # 2
    layer = overlay.child()
    meter = WeightMeter(MIGRATION_BLOCKS * block_weight)
    try:
        report = planned.runtime.migrate(layer, block, meter)  # 3
    except MigrationRefusedError as error:  # 4
        ctx = standing.runtime.context(overlay, block, ROOT)
        standing.system.give_up(ctx, plan.version, error.code)
        return Begun(
            pallets=standing, version=number, events=ctx.emitted, failure=error
        )
    ctx = planned.runtime.context(layer, block, ROOT)
    planned.system.take_over(ctx)
    layer.commit_to(overlay)
    return Begun(
        pallets=planned,
        version=plan.version,
        upgraded=True,
        events=(*report.events, *ctx.emitted),
    )
