"""What newly proven facts mean for the state and for what waits."""

from sealift.base import Generation, Height, StateRoot

from ._epochs import epoch_of
from ._errors import SnapshotContradictedError, StateUnconfirmedError
from ._shard import Shard
from ._state import ShardState
from ._view import ChainView, names


def judge_state(shard: Shard) -> None:
    """Compare the state with what is proven now.

    1. A block that was executed under a generation which the newest schedule
    no longer gives it (rescue) makes the state void. A generation that the view has
    not heard of is a rescuer's, who goes on from a checkpoint before the rescue: it is
    judged once the view is as new as what it executed by.
    2. So does a root that was made under another epoch than its height's: whose
    time is over still has the keys of his time.
    3. Where the frontier lies in or under the trail, roots must agree.
    4. What is confirmed leaves the trail.
    """
    frontier = shard.view.frontier
    if frontier is not None:
        shard.remember(frontier.confirmed, frontier.root)
    state = shard.state
    if state is None:
        return
    # 1.
    for entry in state.trail:
        if voided(shard.view, entry.height, entry.generation):
            state.diverged = (
                f"block {entry.height} was executed by generation "
                f"{entry.generation}, which was voided"
            )
            return
    # 2.
    epoch = epoch_of(shard.view.schedule, state.height)
    if state.height <= shard.view.height and state.epoch != epoch:
        state.diverged = (
            f"root after block {state.height} was made under key epoch "
            f"{state.epoch}, but epoch {epoch} acted"
        )
        return
    # 3.
    if frontier is None:
        return
    if frontier.confirmed > state.height:
        shard.confirmed[frontier.confirmed] = frontier.root
        return
    own = root_at(state, frontier.confirmed)
    if own is not None and own != frontier.root:
        state.diverged = (
            f"root after block {frontier.confirmed} is {own.hex()}, but "
            f"{frontier.root.hex()} was confirmed"
        )
        return
    # 4.
    state.last = state.last_block()
    state.trail = [e for e in state.trail if e.height > frontier.confirmed]


def voided(view: ChainView, height: Height, generation: Generation) -> bool:
    """Whether a block was executed by a generation that the schedule took it from."""
    runs = view.entry_at(height)
    return (
        runs is not None
        and height <= view.height
        and runs.generation != generation
        and view.knows(generation)
    )


def check_snapshot(shard: Shard, height: Height, root: StateRoot) -> bool:
    """Compare a root from elsewhere with all that L1 is proven to have confirmed.

    Returns:
        Whether it is confirmed; if not, this enclave has not seen what L1
        confirmed for that block.

    Raises:
        SnapshotContradictedError: L1 has confirmed another.
    """
    known = {*shard.proven.items(), *shard.confirmed.items()}
    frontier, certificate = shard.view.frontier, shard.view.certificate
    if frontier is not None:
        known.add((frontier.confirmed, frontier.root))
    if certificate is not None:
        known.add((certificate.height, certificate.root))
    roots = {wanted for at, wanted in known if at == height}
    if roots - {root}:
        raise SnapshotContradictedError(
            f"L1 has confirmed another root after block {height}",
            got=root,
            expected=" or ".join(sorted(wanted.hex() for wanted in roots)),
            hint="Fetch a snapshot of the confirmed state from another worker.",
        )
    return bool(roots)


def root_at(state: ShardState, height: int) -> StateRoot | None:
    """The state's root after an earlier block, if the trail still knows it."""
    if height == state.height:
        return state.root
    for entry in state.trail:
        if entry.height == height:
            return entry.root
        if entry.height == height + 1:
            return entry.prev_root
    return None


def note_executed(shard: Shard, state: ShardState) -> None:
    """Compare a root that was just reached with one confirmed earlier."""
    wanted = shard.confirmed.pop(state.height, None)
    if wanted is not None and wanted != state.root:
        state.diverged = (
            f"root after block {state.height} is {state.root.hex()}, but "
            f"{wanted.hex()} was confirmed"
        )
    if wanted is not None:
        shard.confirmed = {h: r for h, r in shard.confirmed.items() if h > state.height}


def check_confirmed(shard: Shard, state: ShardState) -> None:
    """Return only if a state from elsewhere may be built on.

    Its root must be the frontier's, or the one that a handover certificate on
    L1 names, or lie under the frontier: then executing must lead to it. At a
    handover the last state of the generation before is taken at once: it came
    authenticated under the state key, and what is executed on it is void as
    soon as another root is seen confirmed.

    Raises:
        StateUnconfirmedError: It is none of these.
    """
    if state.trusted:
        return
    frontier = shard.view.frontier
    certificate = shard.view.certificate
    same = (state.height, state.root)
    if frontier is not None and (
        state.height < frontier.confirmed or same == (frontier.confirmed, frontier.root)
    ):
        state.trusted = True
        return
    if certificate is not None and same == (certificate.height, certificate.root):
        state.trusted = True
        return
    entry = shard.view.entry_at(state.height + 1)
    if (
        names(entry, shard.me)
        and entry is not None
        and (entry.since == state.height + 1 == entry.upgrade_at)
    ):
        state.trusted = True
        return
    raise StateUnconfirmedError(
        "a state from elsewhere is not confirmed on L1",
        got=f"{state.root.hex()} after block {state.height}",
        expected="no frontier yet"
        if frontier is None
        else f"{frontier.root.hex()} after block {frontier.confirmed}, or older",
        hint="Follow the chain until its frontier covers this state.",
    )


def prune(shard: Shard) -> None:
    """Forget waiting blocks that this enclave can't have to execute any more."""
    needed = shard.needed_from()
    frontier = shard.view.frontier
    confirmed = 0 if frontier is None else frontier.confirmed
    keep = 0
    for block in shard.queue:
        behind = needed is None or block.height < needed
        others = block.height <= confirmed and not shard.is_mine(block.height)
        if not (behind or others):
            break
        keep += 1
    del shard.queue[:keep]
