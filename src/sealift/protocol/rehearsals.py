"""Rehearsals as a gate: what L1 asks for before other code runs (DESIGN §11.7).

What stands here is kept by version 3 of the L1 runtime and by later ones, beside the
schedule, which says nothing of it.
"""

from typing import Annotated, Final

import msgspec

from sealift.base import Digest, Generation, Height, Message, PlatformId, ShardId

from .chain import RehearsalStatement

#: No more platforms can be asked to have rehearsed.
MAX_REHEARSALS: Final = 16
#: An upgrade without its rehearsals is put off by at least so many blocks, …
LEAST_POSTPONEMENT: Final = 10
#: … and by no more than these at once.
MOST_POSTPONEMENT: Final = 1_000_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class RehearsalTerms(Message):
    """Good rehearsals that an upgrade takes, by as many platforms; 0: none.

    Without them it is put off by ``postpone_by`` blocks.
    """

    required: _Count = 0
    postpone_by: _Count = 0


class TermsChange(Message):
    """Terms that will count for what is judged from ``effective_at`` on."""

    terms: RehearsalTerms
    effective_at: Height
    recorded_at: Height
    order: Digest


class RehearsalGate(Message):
    """A shard's terms, and a change of them that is ahead, or was."""

    terms: RehearsalTerms = RehearsalTerms()
    change: TermsChange | None = None

    def at(self, height: int) -> RehearsalTerms:
        """The terms that count in a block."""
        change = self.change
        if change is not None and change.effective_at <= height:
            return change.terms
        return self.terms

    def settled(self, height: int) -> "RehearsalGate":
        """The same without a change that counts already."""
        terms = self.at(height)
        ahead = self.change is not None and self.change.effective_at > height
        return RehearsalGate(terms=terms, change=self.change if ahead else None)

    @property
    def most(self) -> int:
        """The most rehearsals that it asks for, now or ahead."""
        ahead = 0 if self.change is None else self.change.terms.required
        return max(self.terms.required, ahead)


class Rehearsal(Message):
    """One platform's word on a pending generation, the newest of it.

    ``milliseconds`` is what its host measured, rounded up to a power of two.
    """

    statement: RehearsalStatement
    signature: _Signature
    milliseconds: _Milliseconds
    platform_id: PlatformId
    recorded_at: Height


class EntryRehearsals(Message):
    """Rehearsals of one pending entry; they count for this ``upgrade_at`` alone."""

    order: Digest
    upgrade_at: Height
    rehearsals: tuple[Rehearsal, ...]


def newness(statement: RehearsalStatement) -> tuple[int, int, bool]:
    """By what one word of a platform is newer than another.

    The later copy; on the same copy, more blocks; and after as many, that the next
    thing has failed.
    """
    return statement.height, statement.blocks, not statement.good


def is_rounded(number: int) -> bool:
    """Whether a number is a power of two: nothing finer is told."""
    return number > 0 and number & (number - 1) == 0


def rounded_up(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 if number <= 1 else 1 << (number - 1).bit_length()


def gate_key(shard: ShardId) -> bytes:
    """Where the :class:`RehearsalGate` of a shard stands."""
    return b"enclave_bridge/gate/" + shard


def rehearsals_key(shard: ShardId, generation: Generation) -> bytes:
    """Where the :class:`EntryRehearsals` of a pending generation stand."""
    part = generation.to_bytes(8, "big")
    key = b"".join(len(one).to_bytes(2, "big") + one for one in (shard, part))
    return b"enclave_bridge/rehearsals/" + key
