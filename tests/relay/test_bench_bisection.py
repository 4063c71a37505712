"""The count that `sealift bench --only bisection` reports, small."""

from sealift.relay import RelayRules
from sealift.testing._bench_bisection import bench_bisection, reach


def test_trials_stay_under_the_bound_and_above_what_must_be() -> None:
    found = bench_bisection(headers=1000, validators=12, every=3)
    trials, floor = found["value"], found["floor"]
    assert isinstance(trials, int)
    assert isinstance(floor, int)
    assert floor <= found["verified"] <= trials <= found["bound"]
    assert found["ratio"] == floor / trials


def test_over_how_many_headers_trust_reaches() -> None:
    third = RelayRules(trusting_period=1)
    assert reach(third, validators=100, every=10) == 660
    two_thirds = RelayRules(trusting_period=1, trust_numerator=2, trust_denominator=3)
    assert reach(two_thirds, validators=100, every=10) == 330
