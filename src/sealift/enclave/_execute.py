"""Executing what waits, and signing what became of it (DESIGN §10.5-§10.8)."""

from typing import Final

from sealift.base import Digest, Height
from sealift.frame import MigrationCheckError, MigrationFailedError
from sealift.protocol import (
    BlockEffects,
    Confirmation,
    EffectsStatement,
    HandoverCertificate,
    ScheduleEntry,
    SealedReceipt,
    effects_digest,
    effects_root,
    seal_receipts,
)
from sealift.protocol.ecall import (
    MAX_FRAME_BYTES,
    Confirm,
    Confirmed,
    Executed,
    Idle,
)
from sealift.stf import BlockOutcome

from ._checkpoint import seal_checkpoint
from ._diff import seal_diff
from ._epochs import epoch_of
from ._errors import (
    ConfirmRangeError,
    NoStateError,
    NotDurableError,
    StateUnconfirmedError,
)
from ._judge import check_confirmed, note_executed, prune, root_at
from ._rehearse import keep_shadow
from ._shadow import TakenOver, take_over
from ._shard import Shard, WaitingBlock, given_block
from ._state import ShardState, TrailEntry, effects_facts, keyed_root, receipts_root
from ._view import names

#: A larger diff is left out; the host then takes a snapshot instead.
MAX_DIFF_BYTES: Final = MAX_FRAME_BYTES // 2


def execute(shard: Shard) -> Executed | Idle:
    """Execute the next waiting block, if it is mine (DESIGN §10.4-§10.6).

    4. ``config_at`` of the newest proven schedule names this code for it; it is
       asked of the chain, whatever the disk holds. The keys of the block's epoch,
       and of those whose calls it takes, are held. A state from elsewhere waits
       until L1 covers it.
    5. Its calls are opened, if they are not yet, and executed in block order; the
    first block of this code on the records that were migrated ahead.
    6. New root, sealed receipts, encrypted diff and this instance's word for the
       block's effects are produced.

    Raises:
        HaltedError: The chain has forked.
        DivergedStateError: The state is not the confirmed one.
        MigrationRefusedError: This code can't take the state over; nothing has
            changed, and asking again gives the same answer.
    """
    shard.check_going()
    if not shard.keys.epochs:
        return Idle(reason="no-keys", detail="The shard's keys are not held.")
    state = shard.sound_state()
    if state is None:
        return Idle(reason="no-state", detail="There is no state to execute on.")
    # 4.
    block = _next(shard, state)
    if isinstance(block, Idle):
        keep_shadow(shard)
        return block
    entry = shard.view.entry_at(block.height)
    if entry is None or not names(entry, shard.me):
        keep_shadow(shard)
        return Idle(reason="not-mine", detail=f"Block {block.height} is of other code.")
    missing = shard.missing(block)
    if missing:
        return Idle(
            reason="no-keys",
            detail=f"Block {block.height} needs the keys of epoch "
            f"{' and '.join(map(str, missing))}, which are not held: request them.",
        )
    try:
        check_confirmed(shard, state)
    except StateUnconfirmedError as error:
        return Idle(reason="behind", detail=f"{error.code}: {error}")
    # 5.
    items = block.opened
    if items is None:
        items = shard.open_items(block)
    code = entry.config.code.values()
    given = given_block(block, items=items, schedule=block.schedule, code=code)
    try:
        taken = take_over(shard.shadow, shard.executor, state)
        outcome = shard.executor.execute_block(
            state.store if taken is None else taken.store,
            given,
            before=None if taken is None else state.store,
        )
    except (MigrationCheckError, MigrationFailedError) as error:
        # The sentence is the application's and may tell of the state; the host
        # hears the name of the check alone.
        name, _, _ = str(error.got).partition(":")
        raise type(error)(error.what, got=name, check=error.check) from None
    # 6.
    return _finish(shard, state, block, entry, outcome=outcome, taken=taken)


def confirm(shard: Shard, request: Confirm) -> Confirmed:
    """Sign the blocks above ``after`` up to ``durable`` (DESIGN §10.7, §10.8).

    1. What is said to be durable was executed. 2. The range does not begin
    under the proven frontier, and the root it begins with is known. 3. This
    instance executed every block of it, as one generation that is still its
    own. 4. If the generation's last block is durable, its certificate.

    Roots are a function of the chain, so the same code never signs two for one
    height.

    Raises:
        HaltedError: The chain has forked.
        NoStateError: There is no state.
        DivergedStateError: The state is not the confirmed one.
        NotDurableError: 1.
        ConfirmRangeError: 2 or 3.
    """
    shard.check_going()
    state = shard.sound_state()
    if state is None:
        raise NoStateError("there is no state to confirm")
    # 1.
    if request.durable > state.height:
        raise NotDurableError(
            "more is durable than was executed",
            got=request.durable,
            expected=f"≤ {state.height}",
        )
    # 2. and 3.
    claimed = _claimed(shard, state, request)
    confirmation = _confirmation(shard, claimed) if claimed else None
    # 4.
    certificate = _certificate(shard, state, request.durable)
    seed = shard.keys.seed
    return Confirmed(
        confirmation=confirmation,
        signature=None if confirmation is None else confirmation.sign(seed),
        certificate=certificate,
        certificate_signature=None if certificate is None else certificate.sign(seed),
        effects=() if confirmation is None else effects_facts(claimed),
    )


def _next(shard: Shard, state: ShardState) -> WaitingBlock | Idle:
    wanted = state.height + 1
    if shard.queue and shard.queue[0].height == wanted:
        return shard.queue[0]
    if wanted > shard.view.height:
        return Idle(reason="no-block", detail=f"Block {wanted} was not followed yet.")
    if not shard.is_mine(wanted):
        return Idle(reason="not-mine", detail=f"Block {wanted} is of other code.")
    return Idle(
        reason="behind",
        detail=f"Block {wanted} does not wait any more: apply diffs or a snapshot, "
        "or start again from the checkpoint.",
    )


def _finish(
    shard: Shard,
    state: ShardState,
    block: WaitingBlock,
    entry: ScheduleEntry,
    *,
    outcome: BlockOutcome,
    taken: TakenOver | None,
) -> Executed:
    if taken is not None:
        state.store = taken.store
    shard.shadow = shard.rehearsal = None
    keys = shard.keys.epoch(epoch_of(block.schedule, block.height))
    effects = _effects(shard, block, entry, outcome)
    receipts = sealed_receipts(block.block_hash, outcome)
    state.store.apply(outcome.changes)
    root = keyed_root(keys, shard.shard, block.height, state.store.root())
    done = TrailEntry(
        maker=shard.keys.signing_key,
        height=block.height,
        time=block.time,
        block_hash=block.block_hash,
        generation=entry.generation,
        prev_root=state.root,
        root=root,
        leaves=tuple(receipt.leaf() for receipt in receipts),
        effects=None if effects is None else effects.statement.effects,
    )
    diff = seal_diff(
        shard.keys,
        keys.epoch,
        done,
        outcome.changes,
        entropy=shard.entropy,
        migrated=None if taken is None else taken.passage,
    )
    state.epoch = keys.epoch
    state.height, state.root, state.root_height = block.height, root, block.height
    state.time = block.time
    state.trail.append(done)
    note_executed(shard, state)
    del shard.queue[0]
    prune(shard)
    return Executed(
        height=block.height,
        diff=diff if len(diff) <= MAX_DIFF_BYTES else b"",
        receipts=receipts,
        orders=outcome.orders,
        checkpoint=seal_checkpoint(shard.keys, shard.resume_point()),
        calls=outcome.counts.calls,
        last_of_generation=shard.view.successor_of(entry, block.height) is not None,
        effects=effects,
    )


def _effects(
    shard: Shard, block: WaitingBlock, entry: ScheduleEntry, outcome: BlockOutcome
) -> BlockEffects | None:
    """This instance's word for what the block does on L1 (ADR 0016)."""
    if not outcome.effects:
        return None
    statement = EffectsStatement(
        chain_id=shard.chain_id,
        shard=shard.shard,
        generation=entry.generation,
        height=block.height,
        previous=outcome.effects_before,
        effects=effects_digest(outcome.effects),
        signing_key=shard.keys.signing_key,
    )
    return BlockEffects(
        statement=statement,
        signature=statement.sign(shard.keys.seed),
        effects=outcome.effects,
    )


def sealed_receipts(
    block_hash: Digest, outcome: BlockOutcome
) -> tuple[SealedReceipt, ...]:
    """Sealed receipts; of an envelope that did not open nobody can be told."""
    return seal_receipts(
        (
            (one.receipt, one.reply_key, one.envelope)
            for one in outcome.receipts
            if one.reply_key is not None
        ),
        block_hash=block_hash,
        height=outcome.height,
    )


def _claimed(shard: Shard, state: ShardState, request: Confirm) -> list[TrailEntry]:
    frontier = shard.view.frontier
    # 2.
    if frontier is None or request.after < frontier.confirmed:
        raise ConfirmRangeError(
            "the range begins under the frontier",
            got=request.after,
            expected="a proven frontier first"
            if frontier is None
            else f"≥ {frontier.confirmed}",
        )
    if request.after > request.durable or root_at(state, request.after) is None:
        raise ConfirmRangeError(
            "the root after this block is not known",
            got=request.after,
            expected=f"{frontier.confirmed} … {request.durable}",
        )
    # 3.
    claimed = [e for e in state.trail if request.after < e.height <= request.durable]
    for entry in claimed:
        runs = shard.view.entry_at(entry.height)
        mine = (
            names(runs, shard.me)
            and entry.maker == shard.keys.signing_key
            and entry.generation == claimed[0].generation
        )
        if not mine:
            raise ConfirmRangeError(
                f"block {entry.height} was not executed here by this generation",
                got=f"executed by {entry.maker.hex()} as generation {entry.generation}",
                expected=f"by {shard.keys.signing_key.hex()}",
            )
    return claimed


def _confirmation(shard: Shard, claimed: list[TrailEntry]) -> Confirmation:
    first, last = claimed[0], claimed[-1]
    return Confirmation(
        chain_id=shard.chain_id,
        shard=shard.shard,
        generation=last.generation,
        first=first.height,
        last=last.height,
        prev_root=first.prev_root,
        root=last.root,
        receipts_root=receipts_root(claimed),
        effects_root=effects_root(effects_facts(claimed)),
        signing_key=shard.keys.signing_key,
    )


def _certificate(
    shard: Shard, state: ShardState, durable: Height
) -> HandoverCertificate | None:
    if durable != state.height:
        return None
    entry = shard.view.entry_at(state.height)
    if entry is None or not names(entry, shard.me):
        return None
    successor = shard.view.successor_of(entry, state.height)
    if successor is None:
        return None
    return HandoverCertificate(
        chain_id=shard.chain_id,
        shard=shard.shard,
        generation=entry.generation,
        successor=successor,
        height=state.height,
        root=state.root,
        signing_key=shard.keys.signing_key,
    )
