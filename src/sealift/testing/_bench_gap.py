"""``gap_1k``, ``gap_100k``, ``gap_1m``, ``gap_ratio``: what users see around XYZ.

Real time, one process: a block is made every :data:`BLOCK_SECONDS`; the ledger,
both enclaves, their hosts and the users share it, so that nothing is hidden that a
machine of its own would hide.
"""

import gc
import statistics
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from sealift.protocol.ecall import Idle, Rehearse, Rehearsed

from ._bench_crowd import crowd_runtime, crowd_world
from ._bench_shard import Result
from ._user import UserCall, WorldUser
from ._worker import WorldWorker
from ._world import World

#: A fast chain: what a handover adds shows sooner.
BLOCK_SECONDS: Final = 0.5
_CALLS: Final = 30
#: Blocks that are around XYZ, and ordinary ones before them.
_NEAR: Final = 2
_BEFORE: Final = 10
_ROUNDS: Final = 3
#: A receipt that has not come by then is lost.
_PATIENCE: Final = 6
#: Of a rehearsal: each migrates some thousand records.
_REQUESTS: Final = 5000


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What users saw: seconds from submitted call to receipt, by block."""

    ordinary: float
    worst: float
    late: float


def bench_gap(accounts: int) -> Result:
    """The gap at an upgrade, in block intervals, with transfers in every block.

    ``value``: by how much longer than a block interval it took, at most, until the
    next block's receipts were there. ``floor`` and ``ratio``: submit to receipt in
    ordinary blocks, in block intervals, against the worst around XYZ.
    """
    seen = handover(accounts)
    return Result(
        value=seen.late / BLOCK_SECONDS,
        unit="blocks",
        floor=seen.ordinary / BLOCK_SECONDS,
        ratio=seen.ordinary / seen.worst,
        worst_ms=seen.worst * 1000,
        ordinary_ms=seen.ordinary * 1000,
        late_ms=seen.late * 1000,
        block_ms=BLOCK_SECONDS * 1000,
        accounts=accounts,
    )


def bench_gap_ratio(*, few: int = 1000, many: int = 1_000_000) -> Result:
    """Worst time from submitted call to receipt around XYZ, many by few accounts."""
    small, large = handover(few), handover(many)
    ratio = large.worst / small.worst
    return Result(
        value=ratio,
        unit="x",
        floor=1.0,
        ratio=ratio,
        few_ms=small.worst * 1000,
        many_ms=large.worst * 1000,
    )


@cache
def handover(accounts: int) -> Seen:
    """Upgrades under load: the old enclave, one that has followed it, XYZ.

    Some in a row, each to the next version, and the median of what was seen: a
    machine that others use now and then makes one of them wait. Measured once for
    each number of accounts in a process.
    """
    with tempfile.TemporaryDirectory() as name:
        handovers = _Handovers(Path(name), accounts)
        seen = [handovers.next() for _ in range(_ROUNDS)]
    return Seen(
        ordinary=statistics.median(one.ordinary for one in seen),
        worst=statistics.median(one.worst for one in seen),
        late=statistics.median(one.late for one in seen),
    )


class _Handovers:
    def __init__(self, folder: Path, accounts: int) -> None:
        self._world, _, self._old = crowd_world(folder, accounts, keyed=_CALLS)
        self._users = [self._world.user(f"user-{n}") for n in range(_CALLS)]
        self._version = 1
        self._sent: dict[int, tuple[float, list[UserCall]]] = {}
        self._heard: dict[int, float] = {}

    def next(self) -> Seen:
        """Upgrade to the next version; its worker is then the old one."""
        world = self._world
        self._version += 1
        self._sent, self._heard = {}, {}
        release = world.release(crowd_runtime(self._version))
        entry = world.schedule(release, upgrade_at=world.height + 24 + _BEFORE)
        world.run_until(entry.release_from)
        new = world.worker(f"version-{self._version}", release, upstream=self._old)
        new.request_keys(self._old)
        world.block()
        if new.status().state_height != self._old.status().state_height:
            raise SystemExit("bench gap: the new enclave has not the old one's state")
        _rehearse(world, new)
        xyz = entry.upgrade_at
        if world.height >= xyz - _BEFORE - 2:
            raise SystemExit("bench gap: too late for what is to be measured")
        world.run_until(xyz - _BEFORE - 2)
        gc.collect()
        gc.freeze()
        try:
            self._flow(xyz + _NEAR + 2)
        finally:
            gc.unfreeze()
        _check_handed_over(world, self._old, new, xyz)
        del world.workers[self._old.name]
        self._old = new
        return self._judge(xyz)

    def _flow(self, last: int) -> None:
        """Blocks at their time, a call of each user in each, until ``last``."""
        world = self._world
        due = time.perf_counter()
        while world.height < last:
            began = time.perf_counter()
            calls = [_transfer(user, self._users[0]) for user in self._users]
            self._sent[world.height + 1] = (began, calls)
            due += BLOCK_SECONDS
            time.sleep(max(0.0, due - time.perf_counter()))
            world.block()
            self._hear()

    def _hear(self) -> None:
        now = time.perf_counter()
        for height, (_, calls) in self._sent.items():
            if height in self._heard:
                continue
            if height < self._world.height - _PATIENCE:
                raise SystemExit(f"bench gap: calls of block {height} are lost")
            receipts = [call.find_receipt() for call in calls]
            if None not in receipts:
                if any(one is not None and one.outcome != "ok" for one in receipts):
                    raise SystemExit("bench gap: calls failed")
                self._heard[height] = now

    def _judge(self, xyz: int) -> Seen:
        waits = {h: at - self._sent[h][0] for h, at in self._heard.items()}
        before = [h for h in waits if h < xyz - _NEAR]
        around = [h for h in waits if abs(h - xyz) <= _NEAR]
        if len(before) < _BEFORE // 2 or len(around) != 2 * _NEAR + 1:
            raise SystemExit("bench gap: too few blocks with calls around XYZ")
        between = [self._heard[h] - self._heard[h - 1] for h in around]
        usual = statistics.median(
            self._heard[h] - self._heard[h - 1] for h in before[1:]
        )
        late = max(between) - usual
        return Seen(
            ordinary=statistics.median(waits[h] for h in before),
            worst=max(waits[h] for h in around),
            late=max(0.0, late),
        )


def _rehearse(world: World, new: WorldWorker) -> None:
    """As its host does: ask until every record of the copy was migrated ahead."""
    for _ in range(_REQUESTS):
        reply = new.ask_enclave(Rehearse())
        if isinstance(reply, Rehearsed) and reply.statement.good:
            return
        if not isinstance(reply, Idle) or reply.reason != "behind":
            raise SystemExit(f"bench gap: no good rehearsal ({reply})")
        if "tried" not in reply.detail:
            world.block()
    raise SystemExit("bench gap: the rehearsal does not end")


def _transfer(user: WorldUser, dest: WorldUser) -> UserCall:
    return user.call("balances.transfer", dest=dest.account, amount=1)


def _check_handed_over(
    world: World, old: WorldWorker, new: WorldWorker, xyz: int
) -> None:
    """The old one stopped before XYZ, the new one began with it; L1 confirmed both."""
    if max(old.executions) != xyz - 1 or min(new.executions) != xyz:
        raise SystemExit("bench gap: XYZ was not handed over")
    if (
        world.frontier().generation != world.generation_at(xyz)
        or old.refusals
        or new.refusals
    ):
        raise SystemExit("bench gap: the new generation was not confirmed")
