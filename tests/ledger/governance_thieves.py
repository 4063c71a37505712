"""What thieves, liars and those who come too late do to a shard.

As in ``governance_deeds.py``; the answer is whether L1 refused.
"""

import msgspec
from governance_deeds import Honest, choose
from governance_laws import law
from governance_orders import Made
from governance_trees import all_leaves, coalitions

from sealift.protocol import RotationRequest, StatusOrder, WorkersAuthority

THIEVES = (
    "replay", "replay_elsewhere", "late", "forge", "flood_orders", "flood_motions",
    "flood_upgrades", "lie", "stale_keys",
)  # fmt: skip


class Life(Honest):
    """A shard and all that may be done to it."""

    # --- thieves ---

    def replay(self, a: int, b: int, c: int) -> bool | None:
        """What was decided once, the same bytes: by order, motion or vote."""
        if not self.dead:
            return None
        made = self.dead[-1 - a % len(self.dead)]
        workers = any(
            isinstance(leaf, WorkersAuthority)
            for leaf in all_leaves(self.model.s.rules)
        )
        if b % 3 == 0 or not (workers or b % 3 == 1):
            return not self.run(self.submission(made))[0] or self._still_open(made)
        if b % 3 == 1:
            names = self.seated() or list(self.cast)
            return not self.run(self.proposal(made.order, choose(names, c)))[0] or (
                self._still_open(made)
            )
        return self._still_open(made) if self.stake(made.order) else None

    def _still_open(self, made: Made) -> bool:
        """It had never counted, so it may wait for endorsements again."""
        consumed = list(self.model.s.consumed).count(made.order.digest())
        law(consumed <= 1, "11: a decision counted twice")
        return True

    def replay_elsewhere(self, a: int, b: int, c: int) -> bool | None:
        """On the other shard, or of another chain; signed anew, or not."""
        if not self.dead:
            return None
        made = self.dead[-1 - a % len(self.dead)]
        order, keys = made.order, made.keys
        if b % 2:  # a true signature, for another chain
            foreign = msgspec.structs.replace(
                order, chain_id="other-chain", serial=self.model.s.serial
            )
            again = self.endorse(foreign, [("key", k) for k in keys])
            return not self.run(self.submission(again))[0]
        other = msgspec.structs.replace(order, shard=self.bystander, serial=0)
        if not keys and not made.vendors:
            return None
        moved = Made(other, keys, made.vendors, genuine=False)
        return not self.run(self.submission(moved, over=order))[0]

    def late(self, a: int, b: int, c: int) -> bool | None:
        """Signed in time by all, kept, and brought when other acts have passed."""
        if a % 2 == 0 or not self.stash:
            tree = self.model.s.rules.authority
            signers = [
                one
                for one in coalitions(tree, everyone=True)[0]
                if isinstance(one, tuple)
            ]
            expiry = {"expiry": self.world.height + 4} if b % 3 == 0 else {}
            order = self.order(
                StatusOrder,
                status=self.status(),
                rotate=RotationRequest(not_before=0),
                **expiry,
            )
            self.stash.append(self.endorse(order, signers))
            return None
        made = self.stash.pop(0)
        stale = (
            made.order.serial != self.model.s.serial
            or made.order.expiry < self.following
        )
        took = self.run(self.submission(made))[0]
        self.dead.append(made)
        return not took if stale else None

    def forge(self, a: int, b: int, c: int) -> bool:
        """A member's signature over another order, or an outsider's over this."""
        order = self.an_order(a)
        if b % 2:
            outsider = ("key", self.world.account("alice"))
            return not self.run(self.submission(self.endorse(order, {outsider})))[0]
        signed = self.an_order(a + 1)
        made = self.endorse(order, {self._member(b)}, over=signed)
        return not self.run(self.submission(made, over=signed))[0]

    def flood_orders(self, a: int, b: int, c: int) -> bool:
        """One member opens as many orders as it can in one block, some twice."""
        member = self._member(b)
        deeds = []
        for number in range(6 + a):
            made = self.endorse(self.an_order(2 * (number % 2) + 1), {member})
            deeds.append(self.submission(made))
            if number % 3 == 2:
                deeds.append(self.submission(made, by="alice"))
        return not all(self.run(*deeds))

    def flood_motions(self, a: int, b: int, c: int) -> bool | None:
        names = self.seated()
        if not names:
            return None
        name = choose(names, b)
        deeds = [self.proposal(self.an_order(2), name) for _ in range(4 + a)]
        return not all(self.run(*deeds))

    def flood_upgrades(self, a: int, b: int, c: int) -> bool:
        """Entry upon entry, until no more may stand ahead."""
        outcome = [self.upgrade(c, 1, c) for _ in range(2 + a)]
        return not all(outcome)

    def stale_keys(self, a: int, b: int, c: int) -> bool | None:
        """Keys that were made for a demand that stands no more."""
        if len(self.demands) < 2:
            return None
        former = self.demands[-2 - a % (len(self.demands) - 1)]
        one = self._keeper(b % 9)
        return not self.run(self.staging(one, self._fresh(0), former))[0]
