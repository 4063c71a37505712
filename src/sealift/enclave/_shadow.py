"""The shadow: the copy's records as this code has them, ready before block XYZ.

A million records do not migrate within a block. But what is declared of single
records (:class:`sealift.frame.RecordMigration`) is pure, so it is done ahead: page
by page while the old code still works, and again for each record that a diff
changes. At XYZ what needs a view of the whole is left, and the block.
"""

from dataclasses import dataclass

from sealift.base import Height, Message
from sealift.frame import (
    MigrationPlan,
    MigrationRefusedError,
    PageMigration,
    PageStore,
    PalletMigration,
)
from sealift.stf import Executor

from ._state import ShardState

#: About so many records are converted by one request; some 25 ms.
STEP_RECORDS = 5_000


class RecordsMigrated(Message, kw_only=True):
    """That a block began with a code's record migrations, and which.

    Whoever applies its diff runs them first; to whose code they are others', the
    diff is of no use.
    """

    from_runtime: int
    to_runtime: int
    pallets: tuple[PalletMigration, ...]


@dataclass(slots=True, kw_only=True)
class Shadow:
    """Records that are migrated ahead, and the passage that they are migrated for."""

    passage: RecordsMigrated
    pages: PageMigration

    @property
    def ready(self) -> bool:
        """Whether block XYZ finds every record migrated."""
        return self.pages.complete and self.pages.refusal is None


@dataclass(slots=True, kw_only=True)
class TakenOver:
    """A state whose records are this code's, before anything else of it migrates."""

    passage: RecordsMigrated
    store: PageStore


def kept(shadow: Shadow | None, executor: Executor, state: ShardState) -> Shadow | None:
    """The shadow of a state, a step further; a new one if it is of another state.

    Returns:
        ``None`` if no record of the state migrates, or if this code would refuse it:
        then executing on it tells why.
    """
    try:
        plan = _plan(executor, state)
    except MigrationRefusedError:
        return None
    if plan is None:
        return None
    passage = passage_of(plan)
    if (
        shadow is None
        or not shadow.pages.is_of(state.store)
        or shadow.passage != passage
    ):
        pages = PageMigration(state.store, plan.records)
        shadow = Shadow(passage=passage, pages=pages)
    shadow.pages.advance(STEP_RECORDS)
    return shadow


def take_over(
    shadow: Shadow | None, executor: Executor, state: ShardState
) -> TakenOver | None:
    """A state's records as this code has them: the shadow's, or made now.

    Returns:
        ``None`` if no record of the state migrates.

    Raises:
        MigrationRefusedError: This code does not take the state over.
    """
    plan = _plan(executor, state)
    if plan is None:
        return None
    passage = passage_of(plan)
    usable = (
        shadow is not None
        and shadow.pages.is_of(state.store)
        and shadow.passage == passage
        and not shadow.pages.hopeless
    )
    pages = (
        shadow.pages
        if shadow is not None and usable
        else PageMigration(state.store, plan.records)
    )
    return TakenOver(passage=passage, store=pages.migrated())


def passage_of(plan: MigrationPlan) -> RecordsMigrated:
    """What a diff says of a migration."""
    return RecordsMigrated(
        from_runtime=plan.from_runtime,
        to_runtime=plan.to_runtime,
        pallets=plan.migrated,
    )


def _plan(executor: Executor, state: ShardState) -> MigrationPlan | None:
    """What becomes of the state, if any of its records could change."""
    height = Height(state.height + 1)
    plan = executor.plan(state.store, height=height, time=state.time)
    return plan if plan is not None and plan.records else None
