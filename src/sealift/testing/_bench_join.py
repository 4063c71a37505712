"""``join_ratio`` and ``catchup``: newcomers, and workers that were away."""

import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from sealift.base import Height
from sealift.protocol import (
    Frontier,
    certificate_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)
from sealift.protocol.ecall import Followed, SkipTo

from ._bench_crowd import Meter, crowd_world
from ._bench_shard import Result
from ._release import Release
from ._worker import WorldWorker
from ._world import World

_ROUNDS: Final = 5
_PAGE_BITS: Final = 12
_CALLS: Final = 20
#: Blocks that a worker may have to execute itself when it is back.
_OWN: Final = 2


def bench_join_ratio(
    *, few: int = 10, many: int = 10_000, accounts: int = 50_000
) -> Result:
    """A newcomer's way to the newest block, by long and by short history.

    It comes with its trust root only: registration and mu-ra, a skip over the
    history, a snapshot, the blocks since. Processor time inside both enclaves is
    counted, the making of blocks is not. Both shards have the same accounts;
    ``ratio`` is long by short.
    """
    with tempfile.TemporaryDirectory() as name:
        short = _Shard(Path(name) / "short", accounts, history=few)
        long = _Shard(Path(name) / "long", accounts, history=many)
        pairs = [(long.join(), short.join()) for _ in range(_ROUNDS)]
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    return Result(
        value=ratio,
        unit="x",
        floor=1.0,
        ratio=ratio,
        long_ms=statistics.median(slow for slow, _ in pairs) * 1000,
        short_ms=statistics.median(fast for _, fast in pairs) * 1000,
        blocks_long=many,
        blocks_short=few,
        accounts=accounts,
    )


def bench_catchup(*, blocks: int = 100, accounts: int = 10_000) -> Result:
    """Blocks a second by which a worker that was away comes back by diffs.

    ``floor``: the same blocks as the one who was there followed and executed them.
    A ratio above 1 says that coming back costs less than to have been there.
    """
    with tempfile.TemporaryDirectory() as name:
        world, release, old = crowd_world(
            Path(name), accounts, keyed=_CALLS, page_bits=_PAGE_BITS
        )
        other = world.worker("other", release, operator="operator-2", upstream=old)
        other.request_keys(old)
        world.blocks(2)
        other.mute = other.paused = True
        users = [world.user(f"user-{number}") for number in range(_CALLS)]
        meter = Meter(time.process_time)
        meter.watch(old)
        for _ in range(blocks):
            for user in users:
                user.call("balances.transfer", dest=users[0].account, amount=1)
            world.block()
        floor = meter.take()
        back = Meter(time.process_time)
        back.watch(other)
        other.paused = False
        other.fetch_state()
        other.step()
        mine = back.take()
        if other.status().root != old.status().root or len(other.executions) > _OWN:
            raise SystemExit("bench catchup: it did not come back by diffs")
    return Result(
        value=blocks / mine, unit="blocks/s", floor=blocks / floor, ratio=floor / mine
    )


class _Shard:
    """A shard with a history, which newcomers join one after another."""

    def __init__(self, folder: Path, accounts: int, *, history: int) -> None:
        folder.mkdir()
        world, release, old = crowd_world(
            folder, accounts, keyed=1, page_bits=_PAGE_BITS
        )
        self._world: World = world
        self._release: Release = release
        self._old: WorldWorker = old
        self._joined = 0
        world.run_until(world.height + history)

    def join(self) -> float:
        """Seconds inside both enclaves until a newcomer stands where the old does."""
        world, old = self._world, self._old
        self._joined += 1
        new = WorldWorker(
            world,
            f"newcomer-{self._joined}",
            self._release,
            shard=world.shard,
            machine=world.machine(f"machine-{self._joined}"),
            operator="operator-2",
        )
        new.mute, new.upstream = True, old
        gc.collect()
        meter, theirs = Meter(time.process_time), Meter(time.process_time)
        with meter.running():
            new.start()
            new.call(self._skip(), Followed)
        meter.watch(new)
        theirs.watch(old)
        world.workers[new.name] = new
        new.request_keys(old)
        world.block()
        spent = meter.take() + theirs.take()
        if new.status().root != old.status().root or new.status().root is None:
            raise SystemExit("bench join: the newcomer did not arrive")
        del world.workers[new.name]
        new.kill()
        del old.ask_enclave
        return spent

    def _skip(self) -> SkipTo:
        """Over all that is confirmed, as a host brings it."""
        chain, shard = self._world.chain, self._world.shard
        seen = Height(self._world.height - 1)
        frontier = chain.read(Frontier, frontier_key(shard), height=seen)
        if frontier is None:
            raise SystemExit("bench join: nothing is confirmed")
        height = frontier.confirmed
        keys = (
            record_key(shard),
            schedule_key(shard),
            frontier_key(shard),
            keys_key(shard, 0),
            certificate_key(shard),
        )
        return SkipTo(
            path=(chain.light_block(height), chain.light_block(height + 1)),
            proofs=chain.prove(height, keys),
            beyond=(chain.light_block(seen + 1),),
            beyond_proofs=chain.prove(seen, (frontier_key(shard),)),
        )
