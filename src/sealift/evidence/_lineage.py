"""What verification yields, and what a client makes of it."""

from dataclasses import dataclass, field
from typing import Final

from sealift.base import (
    AccountId,
    Bytes32,
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    InvariantError,
    Message,
    PlatformId,
    ShardId,
    StateRoot,
    UnixSeconds,
)
from sealift.protocol import (
    EntryStatus,
    Frontier,
    KeyEpoch,
    Schedule,
    config_at,
    epoch_at,
)

from ._errors import EvidenceStaleError, LineageForeignError

#: Whoever holds it may make a verified lineage: the verifier of this package.
SEAL: Final = object()


class DecidedAct(Message):
    """An act of the shard's authority: what, when, and in words by whom."""

    kind: str
    order: Digest
    serial: int
    height: Height
    time: UnixSeconds
    by: tuple[str, ...]
    generation: Generation | None = None


class RuledChange(Message):
    """A change that no act asked for: a rule made it, in this block."""

    height: Height
    words: str


class VerifiedInstance(Message):
    """An instance whose quote was verified, and the generation that admitted it."""

    signing_key: AccountId
    platform_id: PlatformId
    operator: AccountId
    tcb_status: str
    isv_svn: int
    attested_at: Height


class VerifiedRehearsal(Message):
    """A machine's last word on a generation before XYZ, by an attested instance.

    ``milliseconds`` is its host's word; ``check`` names what failed.
    """

    platform_id: PlatformId
    signing_key: AccountId
    good: bool
    check: str
    height: Height
    blocks: int
    milliseconds: int
    size: int


class TermsAhead(Message):
    """Other terms of rehearsals that are decided, and from when on they count."""

    effective_at: Height
    required: int
    postpone_by: int


class GenerationLineage(Message):
    """One generation: what code, who decided it, when it ran, who ran it.

    ``rehearsals`` are those that counted when it was judged in block XYZ-1, if its
    shard asked for any. ``ran_to`` is its last block as the schedule stands,
    ``None`` if it runs or never ran; ``confirmed_to`` its last block with a root.
    """

    generation: Generation
    predecessor: Generation | None
    code: dict[str, Fingerprint]
    status: EntryStatus
    decided_by: tuple[str, ...]
    recorded_at: Height
    release_from: Height
    since: Height
    ran_to: Height | None
    confirmed_from: Height | None
    confirmed_to: Height | None
    certificate: bool
    instances: tuple[VerifiedInstance, ...]
    order: Digest
    source: str = ""
    rehearsals: tuple[VerifiedRehearsal, ...] = ()
    rehearsals_required: int = 0


class EpochLineage(Message):
    """One key epoch: since when, by whom, and what of it is public."""

    epoch: Epoch
    shielding_key: Bytes32
    state_key_commitment: Digest
    root_key_commitment: Digest
    valid_from: Height
    not_before: Height
    why: str
    staged_by: AccountId
    holders: tuple[AccountId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLineage:
    """A shard from its creation to block ``last``, every link of it verified.

    It says nothing of what came after ``last``. Only the verifier makes it.
    """

    chain_id: ChainId
    shard: ShardId
    trusted_from: Height
    head: Height
    last: Height
    head_time: UnixSeconds
    creator: AccountId
    created_at: Height
    genesis_root: StateRoot | None
    schedule: Schedule
    frontier: Frontier | None
    generations: tuple[GenerationLineage, ...]
    epochs: tuple[EpochLineage, ...]
    acts: tuple[DecidedAct, ...]
    ruled: tuple[RuledChange, ...]
    roots: int
    rehearsals_required: int
    postpone_by: int
    terms_ahead: TermsAhead | None
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not SEAL:
            raise InvariantError("VerifiedLineage comes from verification only")

    @property
    def current(self) -> GenerationLineage | None:
        """The generation that runs block ``last``; none in the block of creation."""
        if self.last <= self.created_at:
            return None
        running = config_at(self.schedule, self.last).generation
        return next(one for one in self.generations if one.generation == running)


class LineagePin(Message):
    """What a client trusted once: a generation by its code, an epoch by its key.

    Either may be left out, not both.
    """

    generation: Generation | None = None
    fingerprint: Fingerprint | None = None
    epoch: Epoch | None = None
    shielding_key: Bytes32 | None = None


class CurrentLineage(Message):
    """Where a pinned lineage stands now: what to encrypt to, and who runs it."""

    last: Height
    generation: Generation
    code: dict[str, Fingerprint]
    epoch: Epoch
    shielding_key: Bytes32
    passed: tuple[Generation, ...]


def follow_lineage(lineage: VerifiedLineage, pin: LineagePin) -> CurrentLineage:
    """From what a client trusted once to what stands now, offline.

    1. The pin says something, and the shard is born.
    2. Its generation ran, and ran the pinned code.
    3. Its epoch is one of the shard's, with the pinned key.

    Each link between was verified with the lineage; the caller owes that the
    lineage is new enough (:func:`require_fresh`).

    Raises:
        LineageForeignError: 1, 2 or 3.
    """
    named = (pin.generation, pin.fingerprint, pin.epoch, pin.shielding_key)
    current = lineage.current
    if current is None or not lineage.epochs or all(one is None for one in named):  # 1
        raise LineageForeignError(
            "nothing to follow",
            got="an empty pin or a shard without keys",
            expected="a generation or an epoch that was trusted",
        )
    ran = [one for one in lineage.generations if _ran(one)]
    if pin.generation is not None or pin.fingerprint is not None:  # 2
        ran = [one for one in ran if _is_pinned(one, pin)]
        if not ran:
            raise LineageForeignError(
                "the pinned generation is no part of this lineage",
                got=_pinned_generation(pin),
                expected=", ".join(
                    f"{one.generation} {_codes(one)}" for one in lineage.generations
                ),
            )
    acting = [one for one in lineage.epochs if one.valid_from <= lineage.last]
    if pin.epoch is not None or pin.shielding_key is not None:  # 3
        pinned = [
            one
            for one in lineage.epochs
            if pin.epoch in (None, one.epoch)
            and pin.shielding_key in (None, one.shielding_key)
        ]
        if not pinned:
            raise LineageForeignError(
                "the pinned epoch is no part of this lineage",
                got=f"{pin.epoch} {(pin.shielding_key or b'').hex()}",
                expected=", ".join(
                    f"{one.epoch} {one.shielding_key.hex()}" for one in lineage.epochs
                ),
            )
    now = _acting(lineage, acting)
    since = min(one.generation for one in ran)
    return CurrentLineage(
        last=lineage.last,
        generation=current.generation,
        code=current.code,
        epoch=now.epoch,
        shielding_key=now.keys.shielding_key,
        passed=tuple(
            one.generation
            for one in lineage.generations
            if one.generation >= since and _ran(one)
        ),
    )


def require_fresh(
    lineage: VerifiedLineage,
    *,
    at_least: Height | None,
    max_age: int | None,
    now: UnixSeconds,
) -> None:
    """Return if a lineage speaks of late enough a block.

    Args:
        lineage: Verified.
        at_least: The block it must speak of, or a later one.
        max_age: Most seconds from its last block to ``now``.
        now: The clock.

    Raises:
        EvidenceStaleError: It ends too early.
    """
    if at_least is not None and lineage.last < at_least:
        raise EvidenceStaleError(
            "the evidence ends before that block",
            got=lineage.last,
            expected=f"≥ {at_least}",
            hint="What was decided after it, it cannot show: export it anew.",
        )
    age = now - lineage.head_time
    if max_age is not None and age > max_age:
        raise EvidenceStaleError(
            "the evidence is too old",
            got=f"{age} s",
            expected=f"≤ {max_age} s",
            hint="What was decided since, it cannot show: export it anew.",
        )


def _acting(lineage: VerifiedLineage, acting: list[EpochLineage]) -> KeyEpoch:
    """The epoch of the last block, or of the next one right after the birth."""
    at = lineage.last if acting else lineage.last + 1
    return epoch_at(lineage.schedule, at)


def _ran(one: GenerationLineage) -> bool:
    return one.status in (EntryStatus.ACTIVE, EntryStatus.RETIRED)


def _is_pinned(one: GenerationLineage, pin: LineagePin) -> bool:
    return pin.generation in (None, one.generation) and (
        pin.fingerprint is None or pin.fingerprint in one.code.values()
    )


def _codes(one: GenerationLineage) -> str:
    return " ".join(code.hex() for code in one.code.values())


def _pinned_generation(pin: LineagePin) -> str:
    code = "" if pin.fingerprint is None else pin.fingerprint.hex()
    return f"{'' if pin.generation is None else pin.generation} {code}".strip()
