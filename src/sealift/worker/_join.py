"""Joining a shard: keys, a state, and up to L1's head; then a worker may run.

However long the shard's history is: what others have executed and L1 has confirmed
is skipped, and the state comes as a snapshot. Every step is durable when it is
done, so that a join that was killed goes on where it was.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from sealift.base import Height, SealiftError
from sealift.protocol.ecall import EnclaveStatus, GetStatus
from sealift.transport.clock import Clock

from ._config import load_config
from ._run import OpenWorker, open_worker

#: What a join waits for now, in their order.
Step: TypeAlias = Literal["chain", "keys", "state", "blocks", "done"]
#: Seconds between two looks.
LOOK_SECONDS: Final = 0.25
#: So many blocks behind L1's head is at its head: a block is verified by the next.
_NEAR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinProgress:
    """How far a join is.

    ``chunks`` of the snapshot are here, ``of`` how many (both ``None``: none is
    being fetched); ``waits_for`` says what is in the way.
    """

    step: Step
    l1_head: int
    imported: int
    skipped_to: Height | None
    frontier: Height | None
    state_height: Height | None
    chunks: int | None
    of: int | None
    waits_for: str


async def join(
    home: Path,
    upstream: str,
    *,
    clock: Clock,
    told: Callable[[JoinProgress], None],
) -> JoinProgress:
    """Get keys and state from a worker of the shard, and follow L1 to its head.

    1. The chain, over what is settled by a skip. 2. The keys. 3. A snapshot. 4. The
    blocks since. It ends when the state is at L1's frontier and L1's head is
    verified; ``worker run`` goes on.

    Args:
        home: Of the worker that joins.
        upstream: URL of a worker that has keys and state.
        clock: The wall clock.
        told: Hears how far it is, now and then.

    Returns:
        Where the worker stands.

    Raises:
        SealiftError: What ended it, by name; what was reached is on disk.
    """
    config = load_config(home)
    async with open_worker(config, clock=clock, upstream=upstream) as worker:
        worker.life.url = config.api.url
        living = asyncio.create_task(worker.join(), name="joining")
        try:
            while True:
                done, _ = await asyncio.wait((living,), timeout=LOOK_SECONDS)
                if done:
                    living.result()
                progress = await look(worker)
                told(progress)
                if progress.step == "done":
                    return progress
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)


async def look(worker: OpenWorker) -> JoinProgress:
    """How far a worker is that joins; not done while L1 does not answer.

    Raises:
        EnclaveGoneError: The enclave does not say.
    """
    status = await worker.channel.call(GetStatus(), EnclaveStatus)
    progress = worker.follower.progress
    head = max(worker.view.head, progress.l1_head)
    chunks, of = progress.fetched_chunks or (None, None)
    reasons = list(worker.life.health().reasons)
    frontier: Height | None = None
    try:
        frontier = await worker.view.confirmed(worker.config.shard)
        step = _step(status, frontier, head=head, imported=progress.imported)
    except SealiftError as error:
        step = "chain"
        reasons.append(str(error))
    return JoinProgress(
        step=step,
        l1_head=head,
        imported=progress.imported,
        skipped_to=progress.skipped_to,
        frontier=frontier,
        state_height=status.state_height,
        chunks=chunks,
        of=of,
        waits_for="; ".join(reasons),
    )


def _step(
    status: EnclaveStatus, frontier: Height | None, *, head: int, imported: int
) -> Step:
    near = head > 0 and imported >= head - _NEAR
    if not status.epochs:
        return "keys" if near else "chain"
    if status.state_height is None or status.halted:
        return "state"
    if not near or (frontier is not None and status.state_height < frontier):
        return "blocks"
    return "done"
