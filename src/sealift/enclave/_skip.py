"""Going on after a gap in which nothing has to be executed here (ADR 0021).

A newcomer has nothing of the shard, and a state that came from elsewhere covers
the blocks below it: the headers between teach such an enclave nothing that the
state after them does not prove.
"""

from sealift.base import Height, UnixSeconds, decode
from sealift.protocol import (
    Frontier,
    certificate_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)
from sealift.protocol.ecall import Followed, SkipTo
from sealift.relay import ChainRelay, ForkDetectedError, LightBlock

from ._birth import settle_birth
from ._checkpoint import ResumePoint, seal_checkpoint
from ._epochs import settle_epochs
from ._errors import RepeatedBlockError, SkipIncompleteError, SkipNotAllowedError
from ._judge import judge_state
from ._shard import Shard
from ._view import BIRTH_EPOCH, ChainView, follow_view, names, verify_proofs
from ._witness import light_blocks


def skip_to(shard: Shard, request: SkipTo) -> Followed:
    """Move relay and view to block *h*, over blocks that are not looked at.

    1. The path is verified from the relay's head: every step by as much power as
    following needs (:data:`~sealift.relay.CLOCKLESS_RULES`), over no longer than
    the trusting period. It ends with *h* and *h*+1, and *h* is above what was
    followed. 2. The shard's record, schedule, frontier, first keys and certificate
    are proven after *h*, each present or absent: none may be left as it was.
    3. The view is what following would have made of them (:func:`follow_view`).
    4. Nothing up to *h* is left to execute: L1 has confirmed it, by a frontier
    that is proven after *h* or a later block; or the shard had no keys after *h*.
    5. Nothing up to *h* is this enclave's: there is a state that has it; or it
    holds no keys and no birth of the shard; or the schedule names other code for
    every block that is left out.

    Whatever is refused has changed nothing; but two chains stop the enclave.

    Raises:
        HaltedError: The chain has forked.
        SkipIncompleteError: 1 or 2: something is not brought.
        RepeatedBlockError: 1: it leads back, or nowhere.
        ForkDetectedError: 1: two signed blocks; the enclave stops for good.
        SkipNotAllowedError: 4 or 5.
        SealiftError: As the steps' functions.
    """
    shard.check_going()
    # 1.
    relay, height = walked(shard, light_blocks(request.path))
    header, next_header = relay.header_at(height), relay.head
    # 2.
    values = verify_proofs(next_header, request.proofs)
    missing = [key for key in _needed(shard) if key not in values]
    if missing:
        raise SkipIncompleteError(
            "a skip proves all that it leaves out",
            got=f"no proof of {len(missing)} keys",
            expected="record, schedule, frontier, first keys, certificate",
        )
    # 3.
    time = UnixSeconds(header.time.seconds)
    view = follow_view(
        shard.view, height, time, values, chain_id=shard.chain_id, shard=shard.shard
    )
    # 4.
    _check_confirmed_to(shard, request, relay, view)
    # 5.
    _check_not_mine(shard, view)
    # all is verified; from here on nothing refuses
    shard.relay = relay
    shard.view = view
    shard.point = ResumePoint(relay=relay.checkpoint(), view=view)
    # Those that waited are confirmed (4.) and not to be executed here (5.).
    shard.queue.clear()
    shard.lost = None
    settle_birth(shard)
    shard.keys = settle_epochs(shard.keys, view.schedule)
    judge_state(shard)
    return Followed(
        height=height,
        runs=None if view.record is None else view.record.generation,
        mine=shard.is_mine(height),
        waiting=0,
        checkpoint=seal_checkpoint(shard.keys, shard.resume_point()),
    )


def walked(shard: Shard, path: list[LightBlock]) -> tuple[ChainRelay, Height]:
    """A relay at the end of the path, and the height that is skipped to."""
    last = path[-1].header.height
    height = Height(last - 1)
    if len(path) > 1 and path[-2].header.height != height:
        raise SkipIncompleteError(
            "a path ends with two headers in a row",
            got=f"{path[-2].header.height}, {last}",
            expected=f"{height}, {last}",
        )
    if height <= shard.view.height or last < shard.relay.head.height:
        raise RepeatedBlockError(
            "a skip leads forward",
            got=height,
            expected=f"> {max(shard.view.height, shard.relay.head.height - 2)}",
        )
    return _walk(shard, shard.relay.trial(), path), height


def _walk(shard: Shard, relay: ChainRelay, path: list[LightBlock]) -> ChainRelay:
    """Move a trial along; a fork that it meets is this enclave's."""
    try:
        for block in path:
            relay.skip(block, now=None)
    except ForkDetectedError:
        shard.relay = relay
        raise
    return relay


def _needed(shard: Shard) -> tuple[bytes, ...]:
    return (
        record_key(shard.shard),
        schedule_key(shard.shard),
        frontier_key(shard.shard),
        keys_key(shard.shard, BIRTH_EPOCH),
        certificate_key(shard.shard),
    )


def _check_confirmed_to(
    shard: Shard, request: SkipTo, relay: ChainRelay, view: ChainView
) -> None:
    """4: no block up to ``view.height`` is without a confirmed root."""
    if view.first_keys is None and view.unborn_at == view.height:
        return
    frontier = view.frontier
    if request.beyond:
        further = _walk(shard, relay.trial(), light_blocks(request.beyond))
        proven = verify_proofs(further.head, request.beyond_proofs)
        raw = proven.get(frontier_key(shard.shard))
        frontier = None if raw is None else decode(Frontier, raw)
    if frontier is None or frontier.confirmed < view.height:
        raise SkipNotAllowedError(
            "blocks of the gap are not confirmed",
            got="no frontier" if frontier is None else f"up to {frontier.confirmed}",
            expected=f"≥ {view.height}",
            hint="Follow them, or prove a later frontier.",
        )


def _check_not_mine(shard: Shard, view: ChainView) -> None:
    """5: none of the blocks that are left out is to be executed here."""
    state = shard.state
    if state is not None and state.height >= view.height and not state.diverged:
        return
    newborn = shard.keys.candidate or shard.birth or shard.genesis
    if state is None and not shard.keys.epochs and not newborn:
        return
    first = Height(shard.view.height + 1)
    schedule = view.schedule
    changes = [] if schedule is None else [one.since for one in schedule.entries]
    # who runs changes at these heights only
    for height in {first, *(at for at in changes if first < at <= view.height)}:
        if names(view.entry_at(height), shard.me):
            raise SkipNotAllowedError(
                "a block of the gap is mine to execute",
                got=f"block {height} on the way to {view.height}",
                expected="blocks of other code, or a state that has them",
                hint="Follow them, or import a snapshot first.",
            )
