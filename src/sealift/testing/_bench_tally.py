"""Benchmarks of a referendum: its votes, and the blocks in which it ends."""

import functools
import statistics
from functools import partial

from sealift.base import Digest, Fingerprint, Generation, Height, encode
from sealift.frame import Overlay, PageStore, Signed, WeightMeter, storage_key
from sealift.protocol import (
    EntryStatus,
    Ratio,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    StakeAuthority,
    StakeDecision,
    StatusOrder,
)

from ._bench_shard import (
    CHAIN,
    FUNDS,
    ROUNDS,
    SHARD,
    BenchShard,
    Result,
    SealedCall,
    compared,
    timed,
)

VOTERS = 100_000
#: Calls in every measured block.
CALLS = 500
#: Of so many blocks around the end, one is measured without a poll as well.
ORDINARY_EVERY = 5
_ENDED = storage_key("democracy", "ended")
_VOTE_WEIGHT = 10_000
_TERMS = StakeAuthority(
    threshold=Ratio(numerator=1, denominator=2),
    quorum=Ratio(numerator=1, denominator=5),
    stake_age=2,
    period=20,
    min_voters=2,
)


def bench_votes(*, voters: int = VOTERS, calls: int = CALLS) -> Result:
    """Whole blocks of votes, against the bare cryptography of their calls."""
    return _referendum(voters, calls).votes


def bench_tally(*, voters: int = VOTERS, calls: int = CALLS) -> Result:
    """The longest of the blocks in which a referendum ends and is forgotten.

    Every block has as many transfers; the floor is the median block of the same
    shard where nobody ever proposed anything. The longest is one of about a
    hundred, so that it shows the machine's noise as well. The ratio is of this
    load: what the end adds to a block is the same in an empty one.
    """
    return _referendum(voters, calls).tally


class _Referendum:
    """One referendum from its proposal until almost all have voted.

    All but a sample vote by the pallet's call, without envelope and signature;
    the sample's votes come sealed, in blocks that are measured (``votes``).
    """

    def __init__(self, voters: int, calls: int) -> None:
        self.calls = calls
        self.voters = voters
        #: Users who transfer, then those who vote in sealed calls, then who proposes.
        self.sample = range(calls, calls * (ROUNDS + 1))
        keyed = self.sample.stop + 1
        self.shard = BenchShard(keyed=keyed, silent=max(0, voters + 1 - keyed))
        self.quiet = self.shard.store.copy()
        self.schedule = _schedule()
        self.decisions: list[StakeDecision] = []
        self._propose(keyed - 1)
        self._vote_silently()
        self.votes = self._vote_sealed()

    def _propose(self, number: int) -> None:
        order = StatusOrder(
            chain_id=CHAIN,
            shard=SHARD,
            serial=0,
            status=ShardStatus(mode="maintenance"),
            expiry=Height(900),
        )
        call = self.shard.seal(number, 0, "democracy.propose", order=encode(order))
        self._block([call])
        self.closes_at = self.shard.height + _TERMS.stake_age + _TERMS.period
        for _ in range(_TERMS.stake_age):
            self._block([])

    def _vote_silently(self) -> None:
        shard = self.shard
        overlay, info = Overlay.over(shard.store), shard.info()
        ballots = {
            aye: shard.runtime.encode_call("democracy.vote", poll=0, aye=aye)
            for aye in (True, False)
        }
        for number in range(self.voters):
            if number in self.sample:
                continue
            outcome = shard.runtime.dispatch(
                overlay,
                info,
                Signed(account=shard.users[number]),
                ballots[_is_for(number)],
                meter=WeightMeter(_VOTE_WEIGHT),
            )
            if outcome.failure is not None:
                raise SystemExit(f"bench: {outcome.failure.message}")
        shard.store.apply(overlay.changes)

    def _vote_sealed(self) -> Result:
        calls = self.calls
        blocks = [
            [
                self.shard.seal(
                    number, 0, "democracy.vote", poll=0, aye=_is_for(number)
                )
                for number in self.sample[first : first + calls]
            ]
            for first in range(0, len(self.sample), calls)
        ]
        ours, bare = iter(blocks), iter(blocks)
        mine, floor, ratio = compared(
            lambda: self._block(next(ours)), lambda: self.shard.bare(next(bare))
        )
        return Result(
            value=calls / mine, unit="votes/s", floor=calls / floor, ratio=ratio
        )

    @functools.cached_property
    def tally(self) -> Result:
        """From the closing block on, until nothing of the poll is left."""
        shard, calls = self.shard, self.calls
        shard.height = self.closes_at - 1
        around: list[float] = []
        ordinary: list[float] = []
        while not around or shard.store.get(_ENDED) is not None:
            if len(around) % ORDINARY_EVERY == 0:
                load = shard.transfers(calls, len(ordinary))
                ordinary.append(timed(partial(self._block, load, self.quiet)))
            load = shard.transfers(calls, len(around))
            around.append(timed(partial(self._block, load)))
        self._check()
        longest, floor = max(around), statistics.median(ordinary)
        return Result(
            value=longest * 1000, unit="ms", floor=floor * 1000, ratio=floor / longest
        )

    def _block(self, load: list[SealedCall], store: PageStore | None = None) -> None:
        outcome = self.shard.execute(load, store=store, schedule=self.schedule)
        self.decisions += [e for e in outcome.effects if isinstance(e, StakeDecision)]

    def _check(self) -> None:
        """What was measured was the referendum that was meant."""
        ayes = sum(map(_is_for, range(self.voters)))
        (decision,) = self.decisions
        tally = decision.tally
        told = None if tally is None else (tally.ayes, tally.nays, tally.voters)
        meant = (ayes * FUNDS, (self.voters - ayes) * FUNDS, self.voters)
        if told != meant or self.shard.store.items(b"democracy/shares/"):
            raise SystemExit(f"bench tally: counted {told}, there were {meant}")


@functools.cache
def _referendum(voters: int, calls: int) -> _Referendum:
    """The same one for both benchmarks of a run."""
    return _Referendum(voters, calls)


def _is_for(number: int) -> bool:
    return number % 3 != 0


def _schedule() -> Schedule:
    """A shard whose holders decide."""
    return Schedule(
        chain_id=CHAIN,
        shard=SHARD,
        serial=0,
        rules=ShardRules(
            authority=_TERMS, genesis=Digest(bytes(32)), min_notice=5, rescue_after=10
        ),
        entries=(
            ScheduleEntry(
                generation=Generation(0),
                predecessor=None,
                config=ShardConfig(
                    code={"insecure-sim": Fingerprint(b"f" * 32)},
                ),
                order=Digest(bytes(32)),
                recorded_at=Height(1),
                release_from=Height(1),
                upgrade_at=Height(2),
                since=Height(2),
                status=EntryStatus.ACTIVE,
            ),
        ),
        status=ShardStatus(),
    )
