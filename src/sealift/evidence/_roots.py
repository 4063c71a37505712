"""Step 6: roots, from the genesis to the frontier; and words on effects (step 3)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from sealift.base import Digest, Generation, Height, PlatformId, StateRoot
from sealift.protocol import (
    Confirmation,
    Effect,
    EffectsFact,
    EffectsStatement,
    EntryStatus,
    Frontier,
    HandoverCertificate,
    Order,
    Schedule,
    ScheduleEntry,
    StakeDecision,
    Tally,
    config_at,
    effects_digest,
    effects_root,
)

from ._calls import Confirm, PostCertificate, PostEffects, RootConfirmed, StakeDecided
from ._entries import RAN, active_entry, is_rescuer
from ._errors import ActUnprovenError, RootChainError
from ._instances import Instances


@dataclass(frozen=True, slots=True, kw_only=True)
class RootLink:
    """A confirmed range: the root after ``last``, and the machines that said so."""

    generation: Generation
    first: Height
    last: Height
    root: StateRoot
    platforms: tuple[PlatformId, ...]


@dataclass(slots=True)
class Roots:
    """The chain of roots while the file is replayed.

    Args:
        instances: Who may confirm.
    """

    instances: Instances
    frontier: Frontier | None = None
    genesis: StateRoot | None = None
    links: list[RootLink] = field(default_factory=list)
    certificates: dict[Generation, HandoverCertificate] = field(default_factory=dict)
    #: The last certificate, and the block it was posted in.
    posted: tuple[Height, HandoverCertificate] | None = None
    #: What confirmed blocks did outside: :func:`effects_digest` by block.
    facts: dict[Height, Digest] = field(default_factory=dict)
    _named: dict[Digest, tuple[EffectsFact, ...]] = field(default_factory=dict)
    _said: list[tuple[Confirmation, PlatformId]] = field(default_factory=list)

    @property
    def confirmed(self) -> Height | None:
        """The last confirmed block; none before the birth."""
        return None if self.frontier is None else self.frontier.confirmed

    def begin(self, height: Height, root: StateRoot, generation: Generation) -> None:
        """The birth: the root of the genesis, before the first block."""
        self.genesis = root
        self.frontier = Frontier(confirmed=height, root=root, generation=generation)

    def say(self, given: Confirm, schedule: Schedule, *, height: Height) -> None:
        """Take an instance's word on a range.

        Raises:
            RootChainError: Another generation runs the range, or the effects beside
                it are not those that it names.
            InstanceRefusedError: Who signed may not confirm it.
        """
        claim = given.confirmation
        named = effects_root(given.effects)
        if claim.effects_root != named:
            raise RootChainError(
                f"a confirmation in block {height} names other effects than it brings",
                got=claim.effects_root,
                expected=named,
            )
        self._require_here(claim, schedule)
        entry = self._running(schedule, claim.generation, claim.first, claim.last)
        platform = self.instances.speaker(
            claim,
            claim.signing_key,
            given.signature,
            entry=entry,
            status=schedule.status,
            height=height,
        )
        self._said.append((claim, platform))
        self._named[named] = given.effects

    def accept(self, told: RootConfirmed, schedule: Schedule, height: Height) -> None:
        """A root counts: it begins at the frontier, and as many platforms agree.

        Raises:
            RootChainError: It does not, or too few.
        """
        frontier = self._frontier()
        wanted = (told.generation, told.first, told.last, told.root)
        claims = [
            (claim, platform)
            for claim, platform in self._said
            if (claim.generation, claim.first, claim.last, claim.root) == wanted
            and claim.prev_root == frontier.root
        ]
        if told.first != frontier.confirmed + 1 or not claims:
            raise RootChainError(
                f"the chain of roots breaks in block {height}",
                got=f"a root for {told.first} … {told.last}",
                expected=f"one from {frontier.confirmed + 1} on, that begins with "
                f"{frontier.root.hex()}",
            )
        entry = schedule.entry(told.generation)
        agreeing = sorted(
            {
                platform
                for claim, platform in claims
                if _same(claim, claims[-1][0])
                and self.instances.counts(
                    claim.signing_key, entry, schedule.status, height=height
                )
            }
        )
        quorum = schedule.rules.root_quorum
        if len(agreeing) < quorum:
            raise RootChainError(
                f"a root counted in block {height} without its quorum",
                got=f"{len(agreeing)} platforms",
                expected=f"≥ {quorum}",
            )
        root = StateRoot(told.root)
        self.links.append(
            RootLink(
                generation=told.generation,
                first=told.first,
                last=told.last,
                root=root,
                platforms=tuple(agreeing),
            )
        )
        for fact in self._named[claims[-1][0].effects_root]:
            self.facts[fact.height] = fact.effects
        self.frontier = Frontier(
            confirmed=told.last, root=root, generation=told.generation
        )
        kept = [one for one in self._said if one[0].last > told.last]
        self._said = [*kept, claims[-1]]
        alive = {claim.effects_root for claim, _ in self._said}
        self._named = {root: self._named[root] for root in alive}

    def conflict(self, height: Height, last: Height) -> None:
        """Two roots for one block stopped the shard: both words must be here.

        Raises:
            RootChainError: They are not.
        """
        words = [claim for claim, _ in self._said if claim.last == last]
        roots = {(c.root, c.receipts_root, c.effects_root, c.prev_root) for c in words}
        known = {link.root for link in self.links if link.last == last}
        differ = {root for root, *_ in roots} - known if known else set()
        if len(roots) < 2 and not differ:  # noqa: PLR2004 - one word contradicts none
            raise RootChainError(
                f"the shard was stopped in block {height} without a contradiction",
                got=f"{len(roots)} words on block {last}",
                expected="two that cannot both be true",
            )

    def certify(
        self, given: PostCertificate, schedule: Schedule, *, height: Height
    ) -> None:
        """Take the old generation's last word, which fits schedule and roots.

        Raises:
            RootChainError: It does not fit.
            InstanceRefusedError: Who signed may not say it.
        """
        claim = given.certificate
        self._require_here(claim, schedule)
        successor = schedule.entry(claim.successor)
        root = next(
            (link.root for link in self.links if link.last == claim.height), None
        )
        fits = (
            successor.status in RAN
            and not is_rescuer(successor)
            and successor.predecessor == claim.generation
            and successor.upgrade_at == claim.height + 1
        )
        if not fits or root != claim.root:
            raise RootChainError(
                f"a handover certificate in block {height} does not fit",
                got=f"{claim.generation} → {claim.successor} after {claim.height}, "
                f"root {claim.root.hex()}",
                expected=f"{successor.predecessor} → {successor.generation} after "
                f"{successor.upgrade_at - 1}, "
                f"root {'none' if root is None else root.hex()}",
            )
        self.instances.speaker(
            claim,
            claim.signing_key,
            given.signature,
            entry=schedule.entry(claim.generation),
            status=schedule.status,
            height=height,
        )
        self.certificates[claim.successor] = claim
        self.posted = (height, claim)

    def _require_here(
        self, claim: Confirmation | HandoverCertificate, schedule: Schedule
    ) -> None:
        if (claim.chain_id, claim.shard) != (schedule.chain_id, schedule.shard):
            raise RootChainError(
                "a word on roots of another chain or shard",
                got=f"{claim.chain_id} {claim.shard.hex()}",
                expected=f"{schedule.chain_id} {schedule.shard.hex()}",
            )

    def _running(
        self, schedule: Schedule, named: Generation, *heights: Height
    ) -> ScheduleEntry:
        runs = {config_at(schedule, height).generation for height in heights}
        entry = schedule.entry(named)
        if runs != {named} or entry.status is EntryStatus.VOID:
            raise RootChainError(
                f"blocks {heights[0]} … {heights[-1]} were confirmed by a generation "
                "that does not run them",
                got=named,
                expected=sorted(runs),
            )
        return entry

    def _frontier(self) -> Frontier:
        if self.frontier is None:
            raise RootChainError(
                "roots of a shard that is not born", expected="epoch 0"
            )
        return self.frontier


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    statement: EffectsStatement
    platform: PlatformId
    effects: tuple[Effect, ...]


@dataclass(slots=True)
class Effects:
    """Words on what blocks do outside: of them, only decisions make a lineage.

    Args:
        instances: Who may speak.
    """

    instances: Instances
    _words: list[_Word] = field(default_factory=list)

    def say(
        self,
        given: PostEffects,
        schedule: Schedule,
        *,
        confirmed: Height | None,
        height: Height,
    ) -> None:
        """Take an instance's word on the effects of a block.

        Of a confirmed block an instance of the running generation may speak too.

        Raises:
            ActUnprovenError: It is for another shard, or names other effects.
            InstanceRefusedError: Who signed may not speak.
        """
        claim = given.statement
        here = (schedule.chain_id, schedule.shard, effects_digest(given.effects))
        if (claim.chain_id, claim.shard, claim.effects) != here:
            raise ActUnprovenError(
                f"a word on effects in block {height} does not name them, or is of "
                "another shard",
                got=claim.effects,
                expected=here[2],
            )
        entry = schedule.entry(claim.generation)
        if config_at(schedule, claim.height).generation != claim.generation:
            raise ActUnprovenError(
                f"effects of block {claim.height} by a generation that does not run it",
                got=claim.generation,
                expected=config_at(schedule, claim.height).generation,
            )
        platform = self.instances.speaker(
            claim,
            claim.signing_key,
            given.signature,
            entry=self._speaking_for(claim, schedule, entry, confirmed, height),
            status=schedule.status,
            height=height,
        )
        word = _Word(statement=claim, platform=platform, effects=given.effects)
        self._words.append(word)

    def _speaking_for(
        self,
        claim: EffectsStatement,
        schedule: Schedule,
        entry: ScheduleEntry,
        confirmed: Height | None,
        height: Height,
    ) -> ScheduleEntry:
        """The generation by which who signed a word may speak of its block."""
        status, key = schedule.status, claim.signing_key
        settled = confirmed is not None and claim.height <= confirmed
        if not settled or self.instances.counts(key, entry, status, height=height):
            return entry
        active = active_entry(schedule)
        counts = self.instances.counts(key, active, status, height=height)
        return active if counts else entry

    def conflict(self, height: Height) -> None:
        """Two words on effects stopped the shard: both must be here.

        Raises:
            ActUnprovenError: They are not.
        """
        words = [one.statement for one in self._words]
        if words and any(_contradict(one, words[-1]) for one in words[:-1]):
            return
        raise ActUnprovenError(
            f"the shard was stopped in block {height} without a contradiction",
            expected="two words on effects that cannot both be true",
        )

    def decision(
        self,
        told: StakeDecided,
        schedule: Schedule,
        *,
        confirmed: Height | None,
        facts: Mapping[Height, Digest],
        height: Height,
    ) -> tuple[Order, Tally | None, int]:
        """The order that holders have passed, and how many platforms say so.

        As many distinct platforms as the rules want agree on the effects of the
        block, which is confirmed, and was confirmed with these effects.

        Raises:
            ActUnprovenError: They don't.
        """
        quorum = schedule.rules.effects_quorum
        most = 0
        for word in self._words:
            decision = _passed(word.effects, told.order)
            claim = word.statement
            if decision is None or confirmed is None or claim.height > confirmed:
                continue
            entry = schedule.entry(claim.generation)
            agreeing = {
                one.platform
                for one in self._words
                if _same_effects(one.statement, claim)
                and self.instances.counts(
                    one.statement.signing_key,
                    self._speaking_for(
                        one.statement, schedule, entry, confirmed, height
                    ),
                    schedule.status,
                    height=height,
                )
            }
            if len(agreeing) >= quorum and entry.status is not EntryStatus.VOID:
                _require_confirmed(claim, facts)
                return decision.order, decision.tally, len(agreeing)
            most = max(most, len(agreeing))
        raise ActUnprovenError(
            f"holders decided in block {height} without enough platforms' word",
            got=f"{most} platforms",
            expected=f"≥ {quorum}, on a confirmed block",
        )


def _require_confirmed(claim: EffectsStatement, facts: Mapping[Height, Digest]) -> None:
    found = facts.get(claim.height)
    if found != claim.effects:
        raise ActUnprovenError(
            f"block {claim.height}, in which holders decided, was confirmed with "
            "other effects, or with none",
            got=claim.effects,
            expected="none" if found is None else found,
        )


def _passed(effects: tuple[Effect, ...], digest: Digest) -> StakeDecision | None:
    for one in effects:
        if (
            isinstance(one, StakeDecision)
            and one.passed
            and one.order.digest() == digest
        ):
            return one
    return None


def _same(left: Confirmation, right: Confirmation) -> bool:
    return left == msgspec.structs.replace(right, signing_key=left.signing_key)


def _same_effects(left: EffectsStatement, right: EffectsStatement) -> bool:
    return left == msgspec.structs.replace(right, signing_key=left.signing_key)


def _contradict(left: EffectsStatement, right: EffectsStatement) -> bool:
    if left.height == right.height:
        return (left.previous, left.effects) != (right.previous, right.effects)
    low, high = sorted((left, right), key=lambda one: one.height)
    return high.previous < low.height
