"""Everything that people and hosts do to a shard, one method a deed.

A deed takes three small numbers that choose among what is there; with zeros it does
what most likely counts. It answers whether it took effect, or ``None`` if there was
nothing to do it with.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from governance_cast import ADVISORY, MR_SIGNER, public_keys
from governance_laws import law
from governance_life import Deed
from governance_orders import Governed, Made
from governance_schedule import NoError
from governance_trees import coalitions

from sealift.crypto import sha256
from sealift.protocol import (
    CancelOrder,
    EffectsFact,
    HoldKeysStatement,
    PostponeOrder,
    RotationRequest,
    RulesOrder,
    ShardStatus,
    StageKeysStatement,
    StatusOrder,
    UpgradeOrder,
    WithdrawOrder,
)

HONEST = (
    "upgrade", "emergency_upgrade", "cancel", "postpone", "pause", "resume",
    "raise_floor", "rotate", "other_rules", "withdraw", "emergency_act", "propose",
    "vote", "close", "endorse_one", "endorse_rest", "stake_votes", "join", "leave",
    "all_attest", "handover",
    "confirm", "catch_up", "stage", "hold", "ask_keys_of", "wait_some", "wait_long",
    "new_process",
)  # fmt: skip
#: So many blocks a vote may take.
SLACK = 6


def choose(options: Sequence[Any], number: int) -> Any:
    """One of some, by a number."""
    return options[number % len(options)]


class Honest(Governed):
    """A shard and what may be done to it by whom it concerns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.reached: Counter[tuple[str, bool]] = Counter()
        self.stash: list[Made] = []
        super().__init__(*args, **options)

    def do(self, name: str, a: int = 0, b: int = 0, c: int = 0) -> bool | None:
        """One deed, counted."""
        self.label = name
        outcome: bool | None = getattr(self, name)(a, b, c)
        self.who_runs()
        if outcome is not None:
            self.reached[(name, outcome)] += 1
        return outcome

    @property
    def following(self) -> int:
        return self.world.height + 1

    # --- what the authority decides ---

    def upgrade(self, a: int, b: int, c: int) -> bool:
        return self.decide(self.an_upgrade(a, b, emergency=False), route=c)

    def emergency_upgrade(self, a: int, b: int, c: int) -> bool:
        return self.decide(self.an_upgrade(a, b, emergency=True), route=c)

    def an_upgrade(self, a: int, b: int, *, emergency: bool) -> Any:
        """Code B, C or A; one in five comes too early or too late."""
        s = self.model.s
        standing = [e for e in s.entries if e.status in ("pending", "active")]
        rules = s.rules
        notice = rules.emergency_notice if emergency else rules.min_notice
        release = self.following + notice + (0, SLACK, SLACK, 1, -1)[b % 5]
        last = standing[-1].upgrade
        least = standing[-1].config.min_isv_svn
        config = self.config(
            choose("BCA", a),
            min_isv_svn=max(least - (a == 11), 0),
            max_instances=choose((0, 0, 0, 2), a // 3),
        )
        if a == 10:
            config = msgspec.structs.replace(config, operators=())
        return self.order(
            UpgradeOrder,
            predecessor=standing[-1].generation if b < 10 else b % 3,
            config=config,
            release_from=release,
            upgrade_at=max(release, last) + 1 + a % 3,
            emergency=emergency,
        )

    def _ahead(self, number: int) -> int:
        """A pending generation, the last one first; now and then another."""
        ahead = [e.generation for e in self.model.pending()][::-1]
        others = [e.generation for e in self.model.s.entries]
        return choose(ahead if ahead and number < 9 else others, number)

    def cancel(self, a: int, b: int, c: int) -> bool:
        order = self.order(CancelOrder, generation=self._ahead(a))
        return self.decide(order, route=c, emergency=b % 4 == 3)

    def postpone(self, a: int, b: int, c: int) -> bool:
        generation = self._ahead(a)
        at = self.model.entry(generation).upgrade + (1, 3, 2, 0, -1)[b % 5]
        order = self.order(PostponeOrder, generation=generation, upgrade_at=max(at, 0))
        return self.decide(order, route=c)

    def status(self, **fields: Any) -> ShardStatus:
        """As it stands, with some of it changed."""
        return msgspec.structs.replace(self.model.standing(), **fields)

    def pause(self, a: int, b: int, c: int) -> bool:
        order = self.order(StatusOrder, status=self.status(mode="maintenance"))
        return self.decide(order, route=c, emergency=b % 2 == 1)

    def resume(self, a: int, b: int, c: int) -> bool:
        order = self.order(StatusOrder, status=self.status(mode="normal"))
        return self.decide(order, route=c, emergency=b % 3 == 2)

    def raise_floor(self, a: int, b: int, c: int) -> bool:
        """One in six lowers one."""
        now = self.model.standing()
        fields: dict[str, Any] = choose(
            (
                {"not_before": self.world.height - 1},
                {"rejected_advisories": (ADVISORY,)},
                {"min_isv_svn": min(now.min_isv_svn + 1, 3)},
                {"min_isv_svn": max(now.min_isv_svn - 1, 0)},
                {"not_before": self.following + 5},
                {"revoked_signers": (MR_SIGNER,)}
                if a == 11
                else {"not_before": self.following},
            ),
            a,
        )
        order = self.order(StatusOrder, status=self.status(**fields))
        return self.decide(order, route=c, emergency=b % 4 == 3)

    def rotate(self, a: int, b: int, c: int) -> bool:
        not_before = choose((0, self.world.height - 3, 0, self.following + 9), a)
        order = self.order(
            StatusOrder,
            status=self.status(),
            rotate=RotationRequest(not_before=not_before, grace=b % 3),
        )
        return self.decide(order, route=c, emergency=b % 4 == 3)

    def other_rules(self, a: int, b: int, c: int) -> bool:
        """Other notices and quorums; one in five is too soon, or not for them."""
        rules = self.model.s.rules
        fields: dict[str, Any] = choose(
            (
                {"min_notice": 3 + b % 3, "rules_notice": 5},
                {"rescue_after": 5 + b % 4},
                {"rotation_quorum": 1 + b % 2, "root_quorum": 1 + b % 2},
                {"emergency_notice": 1 + b % 3},
                {"genesis": b"other" + bytes(27)},
                {"emergency_floor": 5},
            ),
            a,
        )
        notice = max(rules.min_notice, rules.rules_notice)
        at = self.following + notice + (SLACK, SLACK + 2, 0, -1)[b % 4]
        changed = msgspec.structs.replace(rules, **fields)
        order = self.order(RulesOrder, rules=changed, effective_at=at)
        return self.decide(order, route=c)

    def withdraw(self, a: int, b: int, c: int) -> bool | None:
        if self.model.s.change is None and a % 4:
            return None
        return self.decide(self.order(WithdrawOrder), route=c, emergency=b % 4 == 3)

    def emergency_act(self, a: int, b: int, c: int) -> bool:
        """Pause, cancel, floors and rotation at once; and what it may not do."""
        kind = ("pause", "floor", "cancel", "withdraw", "rules", "code")[a % 6]
        order: Any
        if kind in ("pause", "floor"):
            floors = {"not_before": self.world.height} if kind == "floor" else {}
            order = self.order(
                StatusOrder,
                status=self.status(mode="maintenance", **floors),
                rotate=RotationRequest(not_before=0) if b % 2 else None,
            )
        elif kind == "cancel":
            order = self.order(CancelOrder, generation=self._ahead(b))
        elif kind == "withdraw":
            order = self.order(WithdrawOrder)
        elif kind == "rules":
            order = self.order(
                RulesOrder,
                rules=self.model.s.rules,
                effective_at=self.following + 99,
            )
        else:
            order = self.an_upgrade(b, 0, emergency=True)
        counted = self.decide(order, route=c, emergency=True)
        tight = kind in ("pause", "floor", "cancel", "withdraw")
        authority = coalitions(self.model.s.rules.authority)
        alone = any(len(one) == 1 for one in authority)
        law(tight or alone or not counted, "an emergency did what it may not", kind)
        return counted if tight else None

    # --- votes and endorsements, one by one ---

    def an_order(self, number: int) -> Any:
        """Any act, for endorsements that come one after the other."""
        match number % 4:
            case 0:
                return self.an_upgrade(number, 1, emergency=False)
            case 1:
                return self.order(StatusOrder, status=self.status(mode="maintenance"))
            case 2:
                return self.order(
                    StatusOrder,
                    status=self.status(),
                    rotate=RotationRequest(not_before=0),
                )
            case _:
                return self.order(CancelOrder, generation=self._ahead(0))

    def propose(self, a: int, b: int, c: int) -> bool:
        """By one that has a seat, if there is one and ``c`` is not 7."""
        names = self.seated() if c != 7 else list(self.cast)
        name = choose(names or list(self.cast), b)
        return self.run(self.proposal(self.an_order(a), name))[0]

    def vote(self, a: int, b: int, c: int) -> bool | None:
        digests = sorted(self.model.s.motions)
        if not digests:
            return None
        seats = self.seated() if b < 9 else []
        name = choose(seats or list(self.cast), b)
        by = "alice" if c == 7 else ""
        return self.run(self.ballot(choose(digests, a), name, aye=c % 4 != 3, by=by))[0]

    def close(self, a: int, b: int, c: int) -> bool | None:
        digests = sorted(self.model.s.motions)
        if not digests:
            return None
        return self.run(self.closing(choose(digests, a)))[0]

    def endorse_one(self, a: int, b: int, c: int) -> bool:
        """One member alone: it waits, or decides if one is enough."""
        order = self.an_order(a)
        return self.run(self.submission(self.endorse(order, {self._member(b)})))[0]

    def _member(self, number: int) -> tuple[str, bytes]:
        names = [
            name
            for tree in (self.model.s.rules.authority, self.model.s.rules.emergency)
            if tree is not None
            for found in coalitions(tree)
            for name in sorted(found, key=repr)
            if isinstance(name, tuple)
        ]
        return choose(names or [("key", self.world.account("authority"))], number)

    def endorse_rest(self, a: int, b: int, c: int) -> bool | None:
        """One member more of an order that waits."""
        waiting = self.model.waiting()
        if not waiting:
            return None
        order, said = waiting[choose(sorted(waiting), a)]
        everyone = isinstance(order, RulesOrder)
        sets = coalitions(self.model.s.rules.authority, everyone=everyone)
        want = sorted(choose(sets, c) - said, key=repr)
        signers = [one for one in want if isinstance(one, tuple)]
        if signers:
            return self.run(self.submission(self.endorse(order, signers)))[0]
        if "workers" in want:
            self.council(order)
        if "stake" in want:
            self.stake(order)
        return order.digest() in self.model.s.consumed

    def stake_votes(self, a: int, b: int, c: int) -> bool | None:
        order = self.an_order(a)
        return self.stake(order)

    # --- instances ---

    def join(self, a: int, b: int, c: int) -> bool:
        """Comes, or is attested again: well, with old code, ill, or moved."""
        name = choose(list(self.cast), a)
        return self.register(
            name,
            svn=1 if b == 5 else 3,
            ill=b == 6,
            machine=choose(("m1", "m4"), c) if b == 7 else "",
        )

    def leave(self, a: int, b: int, c: int) -> bool | None:  # type: ignore[override]
        here = [n for n, one in self.cast.items() if one.key in self.model.s.seen]
        if len(here) < 3 or b % 3:
            return None
        return super().leave(choose(here, a), by="alice" if b == 3 else "")

    def all_attest(self, a: int, b: int, c: int) -> bool:
        """Whoever has the running code, or code that is to run."""
        codes = {e.code for e in [self.model.active, *self.model.pending()]}
        took = [
            self.register(name)
            for name, one in self.cast.items()
            if one.code in codes and name != "twin"
        ]
        return any(took)

    def attend(self, one: Any) -> None:
        """Attested again if it does not count, as its worker would."""
        due = self.model.s.due
        floor = 0 if due is None else due.not_before
        seen = self.model.s.seen.get(one.key)
        late = seen is not None and seen[-1].said >= floor
        if not late or not self.model.speaks(one.key, self.model.active, floor):
            self.register(one.name)

    def handover(self, a: int, b: int, c: int) -> bool | None:
        """The next generation comes as it should, or confirms nothing at XYZ."""
        ahead = self.model.pending()
        if not ahead:
            return None
        self.all_attest(0, 0, 0)
        self.catch_up(0, 0, 0)
        self.wait(min(max(ahead[0].upgrade - self.world.height, 0), 20))
        if a % 4 == 3:
            return None
        self.all_attest(0, 0, 0)
        return self.catch_up(0, 0, 0)

    def ask_keys_of(self, a: int, b: int, c: int) -> bool | None:
        """mu-ra's rules: whoever is registered asks whoever is."""
        here = [n for n, one in self.cast.items() if one.key in self.model.s.seen]
        holding = [n for n in here if self.cast[n].key in self.laws.holds]
        if not here or not holding:
            return None
        return self.ask_keys(choose(here, a), choose(holding, b))

    # --- roots ---

    def claim(self, one: Any, last: int, generation: int, **fields: Any) -> Deed:
        world = self.world
        first = fields.get("first", world.frontier(self.shard).confirmed + 1)
        facts = tuple(
            EffectsFact(height=height, effects=world.facts[height])
            for height in sorted(world.facts)
            if first <= height <= last
        )
        statement = world.confirmation(
            self.shard, one, last, generation=generation, effects=facts, **fields
        )
        return Deed(
            "carol" if "carol" in world.secrets else "alice",
            "enclave_bridge.confirm",
            {
                "confirmation": statement,
                "signature": statement.sign(one.secret),
                "effects": facts,
            },
            lambda m: m.confirm(statement),
        )

    def confirm(self, a: int, b: int, c: int) -> bool:
        one = choose(list(self.cast.values()), a)
        last = max(self.world.height - c % 5, 1)
        generation = choose(self.model.s.entries, b).generation
        if b < 9:
            runs = [
                e for e in self.model.s.entries if e.status in ("active", "retired")
            ]
            generation = max((e.generation for e in runs if e.since <= last), default=0)
        return self.run(self.claim(one, last, generation))[0]

    def catch_up(self, a: int, b: int, c: int) -> bool:
        """Whoever may confirms what is its own, range by range, to the head."""
        model, head = self.model, self.world.height
        for _ in range(len(model.s.entries) + 1):
            first = model.s.confirmed + 1
            if first > head:
                break
            entry = model.at(first)
            last = first
            while last < head and model.at(last + 1) == entry:
                last += 1
            speakers = [o for o in self.cast.values() if o.code == entry.code]
            for one in speakers:
                if model.s.confirmed < last and model.speaks(one.key, entry):
                    self.run(self.claim(one, last, entry.generation))
        return model.s.confirmed >= head

    def lie(self, a: int, b: int, c: int) -> bool | None:
        """Another root than the honest one: evidence, never a second history."""
        model = self.model
        last = model.s.confirmed if a % 2 else self.world.height
        known = model.s.roots.get(last)
        try:
            entry = model.at(last)
        except NoError:
            return None
        live = [o for o in self.cast.values() if model.speaks(o.key, entry)]
        if not live:
            return None
        one = choose(live, b)
        fields: dict[str, Any] = {"root": sha256(b"lie %d" % last)}
        if known is not None:
            fields |= {"first": known.first, "prev_root": known.prev_root}
        elif model.s.rules.root_quorum == 1:
            return None  # one platform's word is the truth there
        before = model.s.root
        self.run(self.claim(one, last, entry.generation, **fields))
        return model.s.root in (before, fields["root"])

    # --- keys ---

    def stage(self, a: int, b: int, c: int) -> bool | None:
        """The next keys by one of the running code; now and then by another."""
        s = self.model.s
        if s.due is None or not self.demands:
            return None
        one = self._keeper(a)
        if c < 9:
            self.attend(one)
            self.catch_up(0, 0, 0)
        public = self._fresh(b)
        under = self._acting_registration(one)
        if c == 10 and under is not None:  # quoted at another time
            under = sha256(under)
        took = self.run(self.staging(one, public, self.demands[-1], under))[0]
        if took:
            self.laws.given(one.key, public, self.world.height)
        return took

    def _keeper(self, number: int) -> Any:
        code = self.model.active.code
        mine = [one for one in self.cast.values() if one.code == code]
        return choose(mine if number < 9 else list(self.cast.values()), number)

    def _fresh(self, number: int) -> Any:
        """New keys by the handover policy; now and then old ones."""
        s = self.model.s
        if number == 11:
            return self.keys_made[0]
        passed: dict[str, bytes] = {}
        if s.due is not None and s.due.why == "upgrade":
            last, handed = s.epochs[-1].keys, s.rules.handover
            for name, policy in (
                ("shielding_key", handed.shielding),
                ("state_key_commitment", handed.state),
                ("root_key_commitment", handed.root),
            ):
                if policy == "pass":
                    passed[name] = getattr(last, name)
        made = public_keys(len(self.keys_made), **passed)
        self.keys_made.append(made)
        return made

    def _acting_registration(self, one: Any) -> bytes | None:
        record = self.world.enclave(one)
        return None if record is None else record.statement.digest()

    def staging(
        self,
        one: Any,
        public: Any,
        demand: tuple[bytes | None, Any],
        under: bytes | None = None,
    ) -> Deed:
        acting = self._acting_registration(one)
        under = under or acting
        epoch = self.model.s.epochs[-1].epoch + 1
        statement = StageKeysStatement(
            chain_id="test-chain",
            shard=self.shard,
            epoch=epoch,
            keys=public,
            signing_key=one.key,
            demand=demand[0],
            registration=under,
        )
        return Deed(
            "bob",
            "enclave_bridge.stage_keys",
            {"statement": statement, "signature": statement.sign(one.secret)},
            lambda m: m.stage(
                one.key, epoch, public, demand[1], acting=under == acting
            ),
        )

    def hold(self, a: int, b: int, c: int) -> bool | None:
        staged = self.model.s.staged
        if staged is None:
            return None
        one = self._keeper(a)
        if c < 9:
            self.attend(one)
            staged = self.model.s.staged or staged
        epoch = staged.due.epoch
        statement = HoldKeysStatement(
            chain_id="test-chain",
            shard=self.shard,
            epoch=epoch,
            keys=staged.keys if b != 11 else self.keys_made[0],
            signing_key=one.key,
        )
        keys = statement.keys
        deed = Deed(
            "bob",
            "enclave_bridge.hold_keys",
            {"statement": statement, "signature": statement.sign(one.secret)},
            lambda m: m.hold(one.key, epoch, keys),
        )
        took = self.run(deed)[0]
        if took:
            self.laws.given(one.key, keys, self.world.height)
        return took

    # --- time ---

    def wait_some(self, a: int, b: int, c: int) -> bool:
        self.wait(1 + a % 6)
        return True

    def wait_long(self, a: int, b: int, c: int) -> bool:
        """Until attestations lapse, or a late generation is void."""
        self.wait(8 + a)
        return True

    def new_process(self, a: int, b: int, c: int) -> bool:
        self.restart()
        return True
