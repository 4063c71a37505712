"""Snapshots go no faster than they may, and nobody who waits is starved."""

import asyncio

import pytest

from sealift.worker._rate import Bandwidth


class Clock:
    """Time passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


def bandwidth(rate: int) -> tuple[Bandwidth, Clock]:
    clock = Clock()
    return Bandwidth(rate, now=clock, sleep=clock.sleep), clock


def test_bytes_go_as_fast_as_they_may_after_a_short_burst() -> None:
    limit, clock = bandwidth(1000)

    async def main() -> None:
        await limit.take(250)  # what may go at once after a pause
        assert clock.now == 100.0
        for _ in range(10):
            await limit.take(500)

    asyncio.run(main())
    assert clock.now == pytest.approx(105.0)
    assert limit.taken == 5250


def test_a_pause_is_not_saved_up_for_long() -> None:
    limit, clock = bandwidth(1000)

    async def main() -> None:
        clock.now += 3600
        await limit.take(5000)

    asyncio.run(main())
    assert clock.now == pytest.approx(3700 + 4.75)


def test_those_who_wait_go_in_their_order() -> None:
    limit, _ = bandwidth(1000)
    gone: list[int] = []

    async def one(number: int) -> None:
        await limit.take(1000)
        gone.append(number)

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(5)))

    asyncio.run(main())
    assert gone == [0, 1, 2, 3, 4]


def test_without_a_limit_nobody_waits() -> None:
    limit, clock = bandwidth(0)
    asyncio.run(limit.take(1 << 40))
    assert (clock.now, limit.taken) == (100.0, 1 << 40)
