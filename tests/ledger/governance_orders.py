"""Orders, motions and holders' votes: made, signed, and brought to L1."""

from dataclasses import dataclass
from typing import Any

from governance_cast import MODULUS, SEAT_AGE, VENDOR, WORKERS
from governance_life import Chain, Deed
from governance_trees import coalitions

from sealift.crypto import rsa_sign_pkcs1_sha256
from sealift.protocol import (
    EffectsStatement,
    KeyEndorsement,
    SignedOrder,
    StakeDecision,
    SudoAuthority,
    VendorEndorsement,
    effects_digest,
)


@dataclass(frozen=True)
class Made:
    """An order and the endorsements that it came with."""

    order: Any
    keys: tuple[bytes, ...] = ()
    vendors: tuple[bytes, ...] = ()
    genuine: bool = True


class Governed(Chain):
    """A shard whose authority decides, by whatever its members have to do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        #: What was brought to L1 by those that had to decide it.
        self.dead: list[Made] = []
        super().__init__(*args, **options)

    def order(self, kind: Any, **fields: Any) -> Any:
        """An order for here and now; one that was never made before."""
        self._number += 1
        base = {
            "chain_id": "test-chain",
            "shard": self.shard,
            "serial": self.model.s.serial,
            "expiry": self.world.height + 10_000 + self._number,
        }
        return kind(**(base | fields))

    def endorse(self, order: Any, names: Any, *, over: Any = None) -> Made:
        """Signed by those of a coalition that sign; ``over``: what they signed."""
        made = Made(
            order,
            tuple(n[1] for n in sorted(names, key=repr) if n[0] == "key"),
            tuple(n[1] for n in sorted(names, key=repr) if n[0] == "vendor"),
            genuine=over is None or over == order,
        )
        self.orders[order.digest()] = order
        return made

    def signed(self, made: Made, *, over: Any = None) -> SignedOrder:
        order = made.order if over is None else over
        vendors = [
            VendorEndorsement(
                modulus=MODULUS,
                signature=rsa_sign_pkcs1_sha256(VENDOR, order.preimage()),
            )
            for _ in made.vendors
        ]
        keys = [
            KeyEndorsement(key=k, signature=order.sign(self.secrets[k]))
            for k in made.keys
        ]
        return SignedOrder(order=made.order, endorsements=(*keys, *vendors))

    def submission(self, made: Made, *, over: Any = None, by: str = "bob") -> Deed:
        """The transaction that brings an order to L1."""
        signed = self.signed(made, over=over)
        # who endorsed nothing endorsed no other order either
        genuine = made.genuine or not signed.endorsements
        return Deed(
            by,
            "enclave_bridge.submit_order",
            {"order": signed},
            lambda m: m.submit(made.order, made.keys, made.vendors, genuine=genuine),
        )

    def decide(self, order: Any, *, route: int = 0, emergency: bool = False) -> bool:
        """All that a coalition has to do for an order; whether it counted.

        Args:
            order: What is decided.
            route: Which of the coalitions that are enough.
            emergency: Of those of the emergency authority.
        """
        rules = self.model.s.rules
        tree = rules.emergency if emergency else rules.authority
        if tree is None:
            tree = SudoAuthority(key=self.world.account("root"))
        everyone = type(order).__name__ == "RulesOrder" and not emergency
        choice = coalitions(tree, everyone=everyone)
        members = choice[route % len(choice)]
        made = self.endorse(order, {m for m in members if isinstance(m, tuple)})
        if made.keys or made.vendors:
            self.run(self.submission(made))
        if "workers" in members:
            self.council(order)
        if "stake" in members:
            self.stake(order)
        counted = order.digest() in self.model.s.consumed
        self.dead.append(made)
        return counted

    # --- votes ---

    def proposal(self, order: Any, name: str) -> Deed:
        one = self.cast[name]
        self.orders[order.digest()] = order
        operator = self.world.account(one.operator)
        return Deed(
            one.operator,
            "council.propose",
            {"order": order, "signing_key": one.key},
            lambda m: m.propose(order, one.key, operator),
        )

    def ballot(self, digest: bytes, name: str, *, aye: bool, by: str = "") -> Deed:
        one = self.cast[name]
        by = by or one.operator
        operator = self.world.account(by)
        arguments = {
            "shard": self.shard,
            "order": digest,
            "signing_key": one.key,
            "aye": aye,
        }
        return Deed(
            by,
            "council.vote",
            arguments,
            lambda m: m.vote(digest, one.key, operator, aye=aye),
        )

    def closing(self, digest: bytes) -> Deed:
        arguments = {"shard": self.shard, "order": digest}
        return Deed("bob", "council.close", arguments, lambda m: m.close(digest))

    def seated(self) -> list[str]:
        """Who has a seat now, one for each machine first."""
        model = self.model
        found = [
            name
            for name, one in self.cast.items()
            if one.key in model.s.seen and model.seat(one.key, WORKERS, model.s.height)
        ]
        return sorted(found, key=lambda name: name == "twin")

    def council(self, order: Any) -> None:
        """Proposed by one that has a seat, and voted for until it is over."""
        seats = self.seated()
        if not seats:  # hosts that want to vote see to it in time
            self.all_attest(0, 0, 0)
            self.wait(SEAT_AGE + 1)
            seats = self.seated() or ["a1"]
        digest = order.digest()
        self.run(self.proposal(order, seats[0]))
        for name in seats[1:]:
            if digest not in self.model.s.motions:
                return
            self.run(self.ballot(digest, name, aye=True))

    def stake(self, order: Any) -> bool:
        """The holders' decision, in the next block: confirmed with it, then told.

        Decisions before that are still to be told go first. Whether it was told.
        """
        self.wait(1)  # nobody has said anything of this block
        height = self.world.height
        effects = (StakeDecision(order=order, passed=True),)
        self.decided[height] = effects
        self.world.facts[height] = effects_digest(effects)
        self.catch_up(0, 0, 0)
        if self.model.s.confirmed < height:
            return False
        told = True
        while told and (word := self.stake_word()) is not None:
            told = self.run(word)[0]
        return told

    def stake_word(self) -> Deed | None:
        """An instance's word on the first decision of holders that was not told."""
        s = self.model.s
        waiting = [at for at in sorted(self.decided) if s.cursor < at <= s.confirmed]
        if not waiting:
            return None
        height = waiting[0]
        entry = self.model.at(height)
        generation, code = entry.generation, entry.code
        names = [one for one in self.cast.values() if one.code == code]
        speakers = [one for one in names if one.key in s.seen] or names
        one = speakers[0]
        effects = self.decided[height]
        order = effects[0].order
        self.orders[order.digest()] = order
        statement = EffectsStatement(
            chain_id="test-chain",
            shard=self.shard,
            generation=generation,
            height=height,
            previous=s.cursor,
            effects=effects_digest(effects),
            signing_key=one.key,
        )
        return Deed(
            "bob",
            "enclave_bridge.post_effects",
            {
                "statement": statement,
                "signature": statement.sign(one.secret),
                "effects": effects,
            },
            lambda m: m.stake(order, one.key, generation, height),
        )
