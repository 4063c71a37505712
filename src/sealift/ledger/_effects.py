"""What a block's effects are agreed by: words, contradictions, bounds. Pure.

The blocks of a shard that have effects form a chain (DESIGN §10.9): each names
the one before it.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

import msgspec

from sealift.base import Height, Message, PlatformId, encode
from sealift.protocol import (
    MAX_EFFECTS,
    MAX_EFFECTS_BYTES,
    MAX_RANGE_EFFECTS,
    Confirmation,
    Effect,
    EffectsFact,
    EffectsStatement,
    StakeDecision,
    effects_digest,
    effects_root,
)

from ._errors import EffectsMismatchError

#: So many blocks' effects of a shard may wait for agreement, and for roots.
MAX_OPEN_EFFECT_BLOCKS = 64
#: The words on so many executed blocks are kept, to catch a liar late.
KEPT_EFFECTS = 64
#: Weight of carrying out one effect.
EFFECT_WEIGHT = 300
DECISION_WEIGHT = 3_000

_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class SignedEffects(Message, kw_only=True):
    """A word on a block's effects, with its signature and the machine it is from."""

    statement: EffectsStatement
    signature: _Signature
    platform_id: PlatformId


class OpenEffects(Message, kw_only=True):
    """Effects that wait, and the words for them, which all say the same."""

    effects: tuple[Effect, ...]
    votes: tuple[SignedEffects, ...]


class EffectsConflict(Message, kw_only=True):
    """Evidence: two eligible instances signed what cannot both be true."""

    first: SignedEffects
    second: SignedEffects
    recorded_at: Height


class ConfirmedEffects(Message, kw_only=True):
    """What confirmed roots say of effects; of executed blocks it is forgotten.

    Nothing is known of blocks below ``since``. ``facts`` are ascending.
    """

    since: Height
    facts: tuple[EffectsFact, ...] = ()


def verify_facts(confirmation: Confirmation, facts: tuple[EffectsFact, ...]) -> None:
    """Return if these are the blocks with effects that a confirmation names.

    Raises:
        EffectsMismatchError: They are not, or not ascending within its range, or
            too many.
    """
    if len(facts) > MAX_RANGE_EFFECTS:
        raise EffectsMismatchError(
            "the range has too many blocks with effects",
            got=len(facts),
            expected=f"≤ {MAX_RANGE_EFFECTS}",
        )
    root = effects_root(facts)
    if root != confirmation.effects_root:
        raise EffectsMismatchError(
            "effects are not those that the confirmation names",
            got=root,
            expected=confirmation.effects_root,
        )
    heights = [confirmation.first - 1, *(one.height for one in facts)]
    ascend = all(low < high for low, high in pairwise(heights))
    if not ascend or heights[-1] > confirmation.last:
        raise EffectsMismatchError(
            "effects are not of ascending blocks of the range",
            got=heights[1:],
            expected=f"{confirmation.first} … {confirmation.last}",
        )


def refutes(
    known: ConfirmedEffects, statement: EffectsStatement, *, done: int, confirmed: int
) -> bool:
    """Whether confirmed roots say otherwise than a word on a block's effects.

    Args:
        known: What they say.
        statement: The word.
        done: The last block whose effects were executed.
        confirmed: The last confirmed block.
    """
    height = statement.height
    if not max(known.since, done + 1) <= height <= confirmed:
        return False
    before = done
    for fact in known.facts:
        if fact.height == height:
            if fact.effects != statement.effects:
                return True
            # of what lies below ``since`` nothing is known
            free = before < known.since and statement.previous < known.since
            return statement.previous != before and not free
        before = fact.height
    return True


def verify_named(statement: EffectsStatement, effects: tuple[Effect, ...]) -> None:
    """Return if these are the effects that a statement names, and not too many.

    Raises:
        EffectsMismatchError: They are not.
    """
    if not 0 < len(effects) <= MAX_EFFECTS:
        raise EffectsMismatchError(
            "a block has no such number of effects",
            got=len(effects),
            expected=f"1 … {MAX_EFFECTS}",
        )
    size = len(encode(effects))
    if size > MAX_EFFECTS_BYTES:
        raise EffectsMismatchError(
            "effects are too large", got=size, expected=f"≤ {MAX_EFFECTS_BYTES} B"
        )
    digest = effects_digest(effects)
    if digest != statement.effects:
        raise EffectsMismatchError(
            "effects are not those that the statement names",
            got=digest,
            expected=statement.effects,
        )


def contradict(left: EffectsStatement, right: EffectsStatement) -> bool:
    """Whether two words on effects cannot both be true, whoever said them.

    A block has one set of effects and one block before it; and who names a
    ``previous`` says that no block between has any.
    """
    if left.height == right.height:
        return (left.previous, left.effects) != (right.previous, right.effects)
    low, high = sorted((left, right), key=lambda one: one.height)
    return high.previous < low.height


def weight_of(effects: Iterable[Effect]) -> int:
    """Weight of carrying out the effects of a block."""
    return sum(
        DECISION_WEIGHT if isinstance(one, StakeDecision) else EFFECT_WEIGHT
        for one in effects
    )
