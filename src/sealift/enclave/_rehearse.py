"""The rehearsal: the migration on the copy, and the next real blocks after it.

Between ``release_from`` and XYZ the new enclave tries what it will have to do at
XYZ, on what will be there, and says how it went (DESIGN §11.7). Nothing of it stays.
"""

from typing import Final

from sealift.base import Height
from sealift.frame import CallGuard, Changes, MigrationRefusedError
from sealift.protocol import (
    EntryStatus,
    RehearsalStatement,
    ScheduleEntry,
)
from sealift.protocol.ecall import Idle, Rehearsed

from ._shadow import Shadow, kept
from ._shard import Rehearsal, Shard, WaitingBlock, given_block
from ._state import ShardState

#: So many blocks are executed in the copy's shadow.
MAX_BLOCKS: Final = 8
#: A copy that has moved on by so many blocks is rehearsed on again.
AGAIN_AFTER: Final = 256
#: What is said to have failed if a block could not be executed.
SHADOW_BLOCK: Final = "shadow-block"


def rehearse(shard: Shard) -> Rehearsed | Idle:
    """How the migration and the blocks after it went, as far as it was tried.

    1. Keys and state are held. 2. The schedule, as proven now, has this code run
    from a later block, and its notice has run. 3. Every record of the copy was
    tried (:mod:`._shadow`). 4. The migration is run with its checks on the copy,
    once for this entry and block; again when the entry is postponed, when the copy
    has moved on by :data:`AGAIN_AFTER` blocks, or when a record's verdict changed.
    5. Real blocks above the copy are executed on what it left, up to
    :data:`MAX_BLOCKS`, as they come; what they do is dropped. 6. The verdict names
    the check that failed, never what it saw.

    It is good if the migration and its checks passed, and no block and no step of a
    migration raised. What single calls and hooks come to is no part of it: users can
    make calls fail.

    Raises:
        HaltedError: The chain has forked.
        DivergedStateError: The state is not the confirmed one.
    """
    shard.check_going()
    # 1.
    if not shard.keys.epochs:
        return Idle(reason="no-keys", detail="The shard's keys are not held.")
    state = shard.sound_state()
    if state is None:
        return Idle(reason="no-state", detail="There is no copy to rehearse on.")
    # 2.
    entry = _scheduled(shard)
    if entry is None:
        shard.rehearsal = None
        return Idle(reason="not-mine", detail="No upgrade to this code is ahead.")
    if shard.view.height < entry.release_from:
        return Idle(
            reason="not-mine",
            detail=f"The notice runs until block {entry.release_from}.",
        )
    # 3.
    keep_shadow(shard)
    shadow = shard.shadow
    if shadow is not None and not (shadow.pages.complete or shadow.pages.hopeless):
        done = int(100 * shadow.pages.done)
        return Idle(reason="behind", detail=f"{done} % of the copy's records tried.")
    # 4.
    rehearsal = shard.rehearsal
    if rehearsal is None or not _stands(rehearsal, state, entry, shadow):
        if not _joins(shard, state):
            return Idle(
                reason="behind",
                detail=f"Block {state.height + 1} does not wait any more: apply diffs.",
            )
        rehearsal = shard.rehearsal = _migrated(shard, state, entry, shadow)
    # 5.
    _run_blocks(shard, rehearsal, entry)
    # 6.
    statement = RehearsalStatement(
        chain_id=shard.chain_id,
        shard=shard.shard,
        generation=entry.generation,
        order=rehearsal.order,
        upgrade_at=rehearsal.upgrade_at,
        signing_key=shard.keys.signing_key,
        height=rehearsal.height,
        blocks=rehearsal.blocks,
        good=not rehearsal.check,
        check=rehearsal.check,
        size=rehearsal.size,
    )
    return Rehearsed(statement=statement, signature=statement.sign(shard.keys.seed))


def keep_shadow(shard: Shard) -> None:
    """Have the shadow follow the state, a bounded step further; or drop it."""
    state = shard.state
    if state is None or state.diverged or shard.ahead() is None:
        shard.shadow = None
        return
    shard.shadow = kept(shard.shadow, shard.executor, state)


def note_changes(shard: Shard, changes: Changes) -> None:
    """Tell the shadow what a diff changed in the state."""
    if shard.shadow is not None:
        shard.shadow.pages.note(changes)


def note_block(shard: Shard, block: WaitingBlock) -> None:
    """Keep a block that was followed for the rehearsal, if it is the next."""
    rehearsal = shard.rehearsal
    if rehearsal is None or rehearsal.store is None:
        return
    ahead = rehearsal.blocks + len(rehearsal.waiting)
    if ahead < MAX_BLOCKS and block.height == rehearsal.height + ahead + 1:
        rehearsal.waiting.append(block)


def _scheduled(shard: Shard) -> ScheduleEntry | None:
    entry = shard.ahead()
    if entry is None or entry.status is not EntryStatus.PENDING:
        return None
    return entry if shard.view.height < entry.upgrade_at else None


def _stands(
    rehearsal: Rehearsal,
    state: ShardState,
    entry: ScheduleEntry,
    shadow: Shadow | None,
) -> bool:
    refusal = None if shadow is None else shadow.pages.refusal
    of_records = rehearsal.check.startswith("record:")
    return (
        (rehearsal.order, rehearsal.upgrade_at) == (entry.order, entry.upgrade_at)
        and state.height < rehearsal.height + AGAIN_AFTER
        and of_records == (refusal is not None)
    )


def _joins(shard: Shard, state: ShardState) -> bool:
    """Whether the blocks above the copy wait here, or are still to come."""
    first = state.height + 1
    waits = bool(shard.queue) and shard.queue[0].height == first
    return waits or shard.view.height < first


def _migrated(
    shard: Shard, state: ShardState, entry: ScheduleEntry, shadow: Shadow | None
) -> Rehearsal:
    """Run the migration on the copy."""
    size = sum(len(page) for page in state.store.pages())
    rehearsal = Rehearsal(
        order=entry.order,
        upgrade_at=entry.upgrade_at,
        height=state.height,
        size=1 << max(size - 1, 0).bit_length(),
        store=None,
        check="",
        waiting=[block for block in shard.queue if block.height > state.height],
    )
    del rehearsal.waiting[MAX_BLOCKS:]
    try:
        store = (state.store if shadow is None else shadow.pages.migrated()).copy()
        done = shard.executor.rehearse(
            store,
            height=Height(state.height + 1),
            time=state.time,
            before=None if shadow is None else state.store,
        )
    except MigrationRefusedError as error:
        rehearsal.check = error.check or error.code
        rehearsal.waiting.clear()
        return rehearsal
    if done is not None:
        store.apply(done.changes)
    rehearsal.store = store
    return rehearsal


def _run_blocks(shard: Shard, rehearsal: Rehearsal, entry: ScheduleEntry) -> None:
    """Execute what waits in the shadow; nothing of it leaves."""
    while rehearsal.store is not None and rehearsal.waiting:
        block = rehearsal.waiting[0]
        if shard.missing(block):
            return
        del rehearsal.waiting[0]
        given = given_block(
            block,
            items=shard.open_items(block),
            schedule=block.schedule,
            code=entry.config.code.values(),
        )
        guard = CallGuard()
        with guard:
            outcome = shard.executor.execute_block(rehearsal.store, given)
            rehearsal.store.apply(outcome.changes)
            if outcome.step_failures:
                rehearsal.check = f"{outcome.step_failures[0][0]}.migrate_step"
        if guard.failure is not None:
            rehearsal.check = SHADOW_BLOCK
        if not rehearsal.check:
            rehearsal.blocks += 1
        if rehearsal.check or rehearsal.blocks == MAX_BLOCKS:
            rehearsal.store = None
            rehearsal.waiting.clear()
