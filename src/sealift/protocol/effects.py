"""Effects: what a shard's block does outside, on L1 (DESIGN §10.9)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeAlias

import msgspec

from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    Digest,
    Generation,
    Height,
    Message,
    ShardId,
    encode,
)
from sealift.crypto import sha256

from ._statement import Statement
from .orders import Order

#: Most effects of one block; calls beyond are refused in it by name.
MAX_EFFECTS = 256
#: Most bytes that the effects of one block have together, encoded.
MAX_EFFECTS_BYTES = 256 * 1024
#: Most blocks with effects in the range of one confirmation.
MAX_RANGE_EFFECTS = 256
_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Unshield(Message):
    """Funds leave the shard's vault for an account on L1."""

    beneficiary: AccountId
    amount: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Tally(Message):
    """How a vote ended, in smallest units of stake, and by how many voters."""

    ayes: Amount
    nays: Amount
    electorate: Amount
    voters: int


class StakeDecision(Message):
    """The shard's holders have voted on an order.

    Without a ``tally`` fewer than the authority's ``min_voters`` took part.
    """

    order: Order
    passed: bool
    tally: Tally | None = None


#: What a block may do on L1; others come by appending.
Effect: TypeAlias = Unshield | StakeDecision


class EffectsStatement(Statement):
    """What an instance says of the effects of one block it executed.

    The blocks of a shard that have effects form a chain: ``previous`` is the one
    before, 0 for the first. L1 executes along it, so each effect once and in
    order. ``effects`` is :func:`effects_digest` of them.
    """

    DOMAIN: ClassVar[str] = "sealift/effects/v1"
    chain_id: ChainId
    shard: ShardId
    generation: Generation
    height: Height
    previous: Height
    effects: Digest
    signing_key: AccountId


class BlockEffects(Message):
    """The effects of a block with one instance's word for them."""

    statement: EffectsStatement
    signature: _Signature
    effects: tuple[Effect, ...]


class EffectsFact(Message):
    """That a block has effects, and which: :func:`effects_digest` of them."""

    height: Height
    effects: Digest


def effects_root(facts: Sequence[EffectsFact]) -> Digest:
    """What a confirmation says of the effects in its range: SHA-256 over the facts.

    They are those of all blocks with effects in the range, ascending; none is a
    statement too.
    """
    return sha256(b"sealift/effects-root/v1\x00" + encode(tuple(facts)))


def effects_digest(effects: Sequence[Effect]) -> Digest:
    """SHA-256 over a domain and the effects of one block, in order."""
    return sha256(b"sealift/effects-digest/v1\x00" + encode(tuple(effects)))
