"""What a shard's governance comes to, written a second time, from the documents.

From ``docs/protocols/schedule.md``, ``keys.md`` and ``effects.md``; no rule of
``sealift.ledger`` is imported, only messages. It prefers the slow and plain way:
who has a seat is looked for in all attestations there were, who may decide in all
sets of members that are enough. A model refuses by :class:`NoError`.
"""

from dataclasses import replace
from typing import Any

from governance_schedule import (
    DEAD,
    FLOORS,
    Due,
    KeysActing,
    Motion,
    NoError,
    Scheduled,
    Staged,
    want,
)
from governance_trees import all_leaves

from sealift.protocol import ShardStatus, StakeAuthority, WorkersAuthority

MAX_MOTIONS = 8


class Model(Scheduled):
    """The rest of the documents' rules: votes, roots and keys."""

    # --- the council ---

    def terms(self) -> Any:
        for leaf in all_leaves(self.s.rules):
            if isinstance(leaf, WorkersAuthority):
                return leaf
        raise NoError("workers don't vote here")

    def over(self, motion: Motion) -> bool:
        return (
            motion.generation != self.active.generation
            or motion.order.serial != self.s.serial
            or self.s.height > min(motion.closes, motion.order.expiry)
        )

    def propose(self, order: Any, key: bytes, operator: bytes) -> None:
        s = self.s
        want(order.shard == s.shard, "no such shard")
        terms = self.terms()
        self.here_and_now(order)
        s.motions = {k: m for k, m in s.motions.items() if not self.over(m)}
        want(order.digest() not in s.motions, "is a motion already")
        want(len(s.motions) < MAX_MOTIONS, "too many motions")
        motion = Motion(
            order=order,
            terms=terms,
            generation=self.active.generation,
            opened=s.height,
            closes=s.height + terms.period,
            seats=frozenset(
                self.last(k).machine for k in s.seen if self.seat(k, terms, s.height)
            ),
        )
        self._vote(motion, key, operator, aye=True)

    def vote(self, digest: bytes, key: bytes, operator: bytes, *, aye: bool) -> None:
        motion = self.s.motions.get(digest)
        if motion is None or self.over(motion):
            raise NoError("no such motion")
        self._vote(motion, key, operator, aye=aye)

    def close(self, digest: bytes) -> None:
        motion = self.s.motions.get(digest)
        want(motion is not None and self.over(motion), "it stands, or is unknown")
        self.s.motions = {k: m for k, m in self.s.motions.items() if k != digest}

    def _vote(self, motion: Motion, key: bytes, operator: bytes, *, aye: bool) -> None:
        mine = self.last(key)
        want(mine.operator == operator, "another's instance")
        seated = self.seat(key, motion.terms, motion.opened)
        want(seated and mine.machine in motion.seats, "no seat")
        others = tuple(v for v in motion.votes if v[0] != mine.machine)
        motion = replace(motion, votes=(*others, (mine.machine, key, aye)))
        ayes = [
            machine
            for machine, voter, for_it in motion.votes
            if for_it and self.seat(voter, motion.terms, motion.opened)
        ]
        digest = motion.order.digest()
        self.s.motions = {**self.s.motions, digest: motion}
        share = motion.terms.threshold
        if len(ayes) * share.denominator > len(motion.seats) * share.numerator:
            self.s.motions = {k: m for k, m in self.s.motions.items() if k != digest}
            self.note_vote(motion.order, motion.terms)

    def stake(self, order: Any, key: bytes, generation: int, height: int) -> None:
        """The holders were for it, says one platform; one is enough here."""
        s = self.s
        want(s.cursor < height <= s.confirmed, "done, or not confirmed")
        want(s.epochs and s.epochs[0].valid_from <= height, "before the birth")
        entry = self.entry(generation)
        want(entry.status != "void" and self.at(height) == entry, "not its block")
        told = self.speaks(key, entry) or self.speaks(key, self.active)
        want(told, "not eligible")
        s.cursor = height
        self.attempt(lambda m: m._stake_decides(order))

    def _stake_decides(self, order: Any) -> None:
        want(order.shard == self.s.shard, "foreign")
        for leaf in all_leaves(self.s.rules):
            if isinstance(leaf, StakeAuthority):
                self.note_vote(order, leaf)
                return
        raise NoError("holders don't decide here")

    # --- roots ---

    def confirm(self, claim: Any) -> None:
        s = self.s
        want(claim.first <= claim.last < s.height, "range")
        entry = self.entry(claim.generation)
        want(entry.status != "void", "void")
        for height in range(claim.first, claim.last + 1):
            want(self.at(height) == entry, "another's block")
        want(self.speaks(claim.signing_key, entry), "not eligible")
        if claim.last <= s.confirmed:
            known = s.roots.get(claim.last)
            want(known is not None and _lie(known, claim), "stale")
            self._maintenance()
            return
        want(claim.first == s.confirmed + 1, "not at the frontier")
        want(claim.prev_root == s.root, "chain of roots")
        want(not s.disputed, "disputed")
        live = [v for v in s.votes if self.speaks(v[0], entry)]
        if any(_lie(other, claim) for _, other in live):
            s.votes, s.disputed = (), True
            self._maintenance()
            return
        same = [self.last(k).machine for k, other in live if _same(other, claim)]
        mine = self.last(claim.signing_key).machine
        if len({*same, mine}) < s.rules.root_quorum:
            want(mine not in same, "said so already")
            s.votes = (*s.votes, (claim.signing_key, claim))
            return
        s.votes, s.confirmed, s.root = (), claim.last, claim.root
        s.frontier_generation = claim.generation
        s.roots = {**s.roots, claim.last: claim}

    def _maintenance(self) -> None:
        if self.standing().mode != "maintenance":
            floors = {n: getattr(self.standing(), n) for n in FLOORS}
            self.s.next_status = ShardStatus(mode="maintenance", **floors)
            self.s.serial += 1

    # --- keys ---

    def demand(self) -> Any:
        """What keys are made for; every act makes it another."""
        return (self.s.serial, self.s.due)

    def stage(
        self, key: bytes, epoch: int, keys: Any, demand: Any, *, acting: bool
    ) -> None:
        s, due = self.s, self.s.due
        if due is None or epoch != due.epoch:
            raise NoError("not owed")
        want(s.frontier_generation >= due.generation, "too early")
        if s.staged is not None:
            want(s.height >= s.staged.at + s.rules.rescue_after, "staged already")
        want(demand == self.demand(), "another demand")
        want(self.speaks(key, self.active, due.not_before), "not eligible")
        want(acting, "made under another registration")
        want(self.last(key).said >= due.not_before, "quoted before the demand")
        self._by_policy(keys, due)
        s.staged = Staged(keys, due, s.height, (key,))
        self._act()

    def _by_policy(self, keys: Any, due: Due) -> None:
        former = [e.keys for e in self.s.epochs]
        former += [self.s.staged.keys] if self.s.staged is not None else []
        handed = self.s.rules.handover
        for name, policy in (
            ("shielding_key", handed.shielding),
            ("state_key_commitment", handed.state),
            ("root_key_commitment", handed.root),
        ):
            mine = getattr(keys, name)
            if due.why == "upgrade" and policy == "pass":
                last = self.s.epochs[-1].keys
                want(mine == getattr(last, name), "to be passed on")
            else:
                want(all(getattr(k, name) != mine for k in former), "an old key")

    def hold(self, key: bytes, epoch: int, keys: Any) -> None:
        staged = self.s.staged
        if staged is None or (epoch, keys) != (staged.due.epoch, staged.keys):
            raise NoError("not staged")
        want(key not in staged.holders, "said so already")
        want(self.speaks(key, self.active, staged.due.not_before), "not eligible")
        self.s.staged = replace(staged, holders=(*staged.holders, key))
        self._act()

    def _act(self) -> None:
        s, staged = self.s, self.s.staged
        if staged is None:
            return
        due = staged.due
        live = [
            k for k in staged.holders if self.speaks(k, self.active, due.not_before)
        ]
        s.staged = replace(staged, holders=tuple(live))
        if len(live) < s.rules.rotation_quorum:
            return
        acting = KeysActing(
            epoch=due.epoch,
            keys=staged.keys,
            valid_from=max(s.height + 2, s.epochs[-1].valid_from + 1),
            grace=due.grace,
            not_before=due.not_before,
            decided=s.height,
            by=tuple(live),
        )
        s.epochs, s.staged, s.due = (*s.epochs, acting), None, None

    def may_have(self, key: bytes) -> frozenset[int]:
        """Epochs whose keys an instance gets, asking by its last attestation."""
        s, mine = self.s, self.last(key)
        current = self.at(s.confirmed + 1)
        fitting = [
            e
            for e in s.entries
            if e.status not in DEAD
            and e.code == mine.code
            and (not e.config.operators or mine.operator in e.config.operators)
            and (
                e == current
                or (e.generation > current.generation and e.release <= mine.height)
            )
        ]
        want(fitting, "nothing that stands names it, or its notice runs")
        entry = current if current in fitting else fitting[0]
        want(self.fits(mine, entry), "policy")
        want(all(mine.height >= e.not_before for e in s.epochs), "attested too early")
        found = {e.epoch for e in s.epochs}
        if s.staged is not None:
            due = s.staged.due
            if mine.height >= due.not_before and entry.generation >= due.generation:
                found.add(due.epoch)
        return frozenset(found)

    def may_give(self, key: bytes) -> bool:
        current = self.at(self.s.confirmed + 1)
        before = [e for e in self.s.entries if e.generation == current.predecessor]
        giving = [current, *(e for e in before if e.status not in DEAD)]
        mine = self.last(key)
        return any(
            e.code == mine.code
            and (not e.config.operators or mine.operator in e.config.operators)
            for e in giving
        )


def _same(left: Any, right: Any) -> bool:
    names = ("first", "last", "root", "prev_root", "generation")
    return all(getattr(left, n) == getattr(right, n) for n in names)


def _lie(left: Any, right: Any) -> bool:
    """Whether both can't be true: one block, two roots."""
    same_block = (left.last, left.generation) == (right.last, right.generation)
    return same_block and left.root != right.root
