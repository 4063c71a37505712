"""Skipping over a long gap by halves, as a generator that asks for light blocks.

Source: CometBFT's ``light/client.go`` (``verifySkipping``), v0.38, and
tendermint-rs' scheduler; trust is taken from the *next* validators of what was
verified last.
"""

from collections.abc import Generator
from typing import TypeAlias

from sealift.base import Height

from ._errors import (
    BisectionLimitError,
    HeightError,
    NotEnoughTrustError,
    ValidatorSetMismatchError,
)
from ._relay import ChainRelay
from ._types import LightBlock, Timestamp
from ._verified import VerifiedHeader

#: Yields a height that it wants, is sent the light block, returns the new head.
Bisection: TypeAlias = Generator[Height, LightBlock, VerifiedHeader]


def bisect(
    relay: ChainRelay,
    target: Height,
    *,
    now: Timestamp | None,
    most: int | None = None,
) -> Bisection:
    """Move a relay's head to a later height by as few headers as trust allows.

    1. The head's next validators are known, or its light block is asked for
    again. 2. The target is asked for and tried by :meth:`ChainRelay.skip`.
    3. Where trust does not reach, the height half-way is tried first; what was
    asked for waits and is not asked for again. 4. A header that is verified is
    the new head, and what waits is tried from it.

    Bound: let *d* be the distance over which trust always reaches (a header at
    most so far on is verified at once). A gap *g* takes at most
    ``ceil(2·g/d)·(ceil(log2 g) + 1)`` trials, of which ``ceil(2·g/d)`` succeed:
    O(turnover · log gap). Whatever a host sends, there are no more than
    :func:`most_trials` of them, and ``log2 g`` blocks wait at once: every trial
    moves the head or halves an interval.

    Every verified header stays the relay's head when the generator is closed or
    a step refuses: bisecting again goes on from there.

    Args:
        relay: Is moved.
        target: Not below the head.
        now: The clock, where there is one.
        most: Trials after which it gives up; the bound above if not given.

    Raises:
        HeightError: The target lies below the head, or another height was sent.
        ValidatorSetMismatchError: A block between came without next validators,
            or with others than its header names.
        BisectionLimitError: More trials than ``most``.
        ForkDetectedError: As :meth:`ChainRelay.skip`.
        SealiftError: As :meth:`ChainRelay.skip`; the head is what was verified.
    """
    if target < relay.head.height:
        raise HeightError(
            "the target lies below the head",
            got=target,
            expected=f"≥ {relay.head.height}",
        )
    left = most_trials(target - relay.head.height) if most is None else most
    # 1.
    if target > relay.head.height + 1 and not relay.knows_next:
        block = yield relay.head.height
        _require_height(block, relay.head.height)
        _require_next(block)
        relay.advance(block, now=now)
    waiting: list[LightBlock] = []
    while relay.head.height < target:
        # 2.
        if not waiting:
            waiting.append((yield target))
            _require_height(waiting[0], target)
        if left <= 0:
            raise BisectionLimitError(
                f"no trust in header {target} after so many trials",
                got=f"head {relay.head.height}",
                hint="What was verified is kept: going on from there is possible.",
            )
        left -= 1
        block = waiting[-1]
        try:
            relay.skip(block, now=now)
        except NotEnoughTrustError:
            # 3.
            middle = Height((relay.head.height + block.header.height) // 2)
            between = yield middle
            _require_height(between, middle)
            _require_next(between)
            waiting.append(between)
        else:
            # 4.
            waiting.pop()
    return relay.head


def most_trials(gap: int) -> int:
    """How many trials a gap can take, whatever the validators do: gap·(log2+2)."""
    return gap * (max(gap, 1).bit_length() + 1)


def _require_height(block: LightBlock, height: int) -> None:
    if block.header.height != height:
        raise HeightError(
            "a block of another height was sent",
            got=block.header.height,
            expected=height,
        )


def _require_next(block: LightBlock) -> None:
    header = block.header
    same = header.validators_hash == header.next_validators_hash
    if block.next_validators is None and not same:
        raise ValidatorSetMismatchError(
            f"next validators of {header.height} were not sent",
            expected=header.next_validators_hash,
            hint="A header between is verified to go on from: they are needed.",
        )
