"""Benchmark of a long gap: how many headers a relay verifies, and how many it must."""

import math

from sealift.base import Height
from sealift.relay import (
    ChainRelay,
    LightBlock,
    NotEnoughTrustError,
    RelayRules,
    Timestamp,
    VerifiedHeader,
    bisect,
)

from ._bench_shard import Result
from ._headers import HeaderChain

HEADERS = 10_000
VALIDATORS = 100
#: One of the validators leaves, and another comes, after so many blocks.
EVERY = 10


class CountingRelay(ChainRelay):
    """A relay that counts its trials."""

    passed = 0
    failed = 0

    def skip(self, block: LightBlock, *, now: Timestamp | None) -> VerifiedHeader:
        """As the relay does."""
        try:
            verified = super().skip(block, now=now)
        except NotEnoughTrustError:
            self.failed += 1
            raise
        self.passed += 1
        return verified


def reach(rules: RelayRules, *, validators: int, every: int) -> int:
    """Over how many headers trust always reaches, one validator leaving at a time."""
    needed = validators * rules.trust_numerator // rules.trust_denominator
    return max((validators - needed - 1) * every, 1)


def bench_bisection(
    *, headers: int = HEADERS, validators: int = VALIDATORS, every: int = EVERY
) -> Result:
    """Trials of a bisection over the whole chain, by the trust level of clients.

    The floor is what theory says of whoever knows the validators beforehand: the
    gap by the distance over which trust reaches. ``ratio`` is floor ÷ trials, as
    everywhere; ``bound`` is the most trials that the documented bound allows.

    Raises:
        SystemExit: More trials than the bound, or the target was not reached.
    """
    chain = HeaderChain(length=headers, validators=validators, every=every)
    rules = RelayRules(trusting_period=10**6)
    relay = CountingRelay.bootstrap(
        chain.trust_root(), chain.light_block(1), rules=rules, now=None
    )
    if not isinstance(relay, CountingRelay):
        raise SystemExit("bench bisection: another relay")
    steps = bisect(relay, Height(headers), now=None)
    fetched = 0
    try:
        wanted = next(steps)
        while True:
            fetched += 1
            wanted = steps.send(chain.light_block(wanted))
    except StopIteration:
        pass
    gap = headers - 1
    far = reach(rules, validators=validators, every=every)
    hops = math.ceil(2 * gap / far)
    bound = hops * (math.ceil(math.log2(gap)) + 1)
    trials = relay.passed + relay.failed
    if relay.head.height != headers or trials > bound or relay.passed > hops:
        raise SystemExit(f"bench bisection: {relay.passed} + {relay.failed} trials")
    floor = math.ceil(gap / far)
    return Result(
        value=trials,
        unit="headers",
        floor=floor,
        ratio=floor / trials,
        verified=relay.passed,
        fetched=fetched,
        bound=bound,
    )
