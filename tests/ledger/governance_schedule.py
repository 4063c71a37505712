"""A shard's schedule, instances and orders, written a second time from documents.

The lower half of ``governance_model.py``, which says how.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from governance_trees import all_leaves, coalitions, name_of

from sealift.protocol import (
    CancelOrder,
    PostponeOrder,
    RulesOrder,
    ShardStatus,
    SignerAuthority,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    WithdrawOrder,
    WorkersAuthority,
)

KIND = "insecure-sim"
MAX_AHEAD, MAX_WAITING = 8, 16
DEAD = ("cancelled", "lapsed", "void")
RAN = ("active", "retired")


class NoError(Exception):
    """The documents refuse this."""


def want(holds: object, why: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise NoError(why)


@dataclass(frozen=True)
class Entry:
    """One generation."""

    generation: int
    predecessor: int | None
    config: Any
    order: bytes
    recorded: int
    release: int
    upgrade: int
    since: int
    status: str

    @property
    def code(self) -> bytes:
        return self.config.code[KIND]


@dataclass(frozen=True)
class Seen:
    """One attestation; ``age`` is how long it counts by the entry that let it in."""

    height: int
    said: int
    code: bytes
    machine: bytes
    svn: int
    advisories: tuple[str, ...]
    operator: bytes
    age: int


@dataclass(frozen=True)
class Due:
    """New keys are owed."""

    epoch: int
    why: str
    generation: int
    not_before: int
    grace: int


@dataclass(frozen=True)
class Staged:
    """New keys that do not act yet."""

    keys: Any
    due: Due
    at: int
    holders: tuple[bytes, ...]


@dataclass(frozen=True)
class KeysActing:
    """An epoch; ``decided`` is the block in which enough held it, ``by`` whom."""

    epoch: int
    keys: Any
    valid_from: int
    grace: int
    not_before: int
    decided: int = 0
    by: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Motion:
    """An order before the council; ``votes`` by platform: (signing key, aye)."""

    order: Any
    terms: Any
    generation: int
    opened: int
    closes: int
    seats: frozenset[bytes]
    votes: tuple[tuple[bytes, bytes, bool], ...] = ()


@dataclass
class State:
    """One shard; every container is replaced, never changed."""

    chain: str
    shard: bytes
    rules: Any
    entries: tuple[Entry, ...]
    height: int
    serial: int = 0
    status: Any = field(default_factory=ShardStatus)
    next_status: Any = None
    epochs: tuple[KeysActing, ...] = ()
    staged: Staged | None = None
    due: Due | None = None
    change: Any = None  # (rules, effective_at, recorded_at, order)
    confirmed: int = 0
    root: bytes = b""
    frontier_generation: int = 0
    roots: dict[int, Any] = field(default_factory=dict)
    votes: tuple[tuple[bytes, Any], ...] = ()
    disputed: bool = False
    seen: dict[bytes, tuple[Seen, ...]] = field(default_factory=dict)
    opened: dict[bytes, Any] = field(default_factory=dict)
    motions: dict[bytes, Motion] = field(default_factory=dict)
    cursor: int = 0
    consumed: tuple[bytes, ...] = ()


class Scheduled:
    """Who runs, who is known, and what orders do."""

    def __init__(self, state: State) -> None:
        self.s = state

    def attempt(self, act: Any) -> str:
        """Do it whole or not at all; empty, or why not."""
        before = copy.copy(self.s)
        try:
            act(self)
        except NoError as no:
            self.s = before
            return str(no)
        return ""

    # --- who runs what ---

    def entry(self, generation: int | None) -> Entry:
        for one in self.s.entries:
            if one.generation == generation:
                return one
        raise NoError("no such generation")

    @property
    def active(self) -> Entry:
        (one,) = [e for e in self.s.entries if e.status == "active"]
        return one

    def at(self, height: int) -> Entry:
        """Who runs a block: of those that ran, the last that has begun."""
        ran = [e for e in self.s.entries if e.status in RAN and e.since <= height]
        want(ran, "before the shard's birth")
        return max(ran, key=lambda e: e.generation)

    def pending(self) -> list[Entry]:
        return [e for e in self.s.entries if e.status == "pending"]

    def mark(self, which: Any, status: str) -> None:
        self.s.entries = tuple(
            replace(e, status=status) if e.generation in which else e
            for e in self.s.entries
        )

    # --- the beginning of a block ---

    def begin(self) -> None:
        s = self.s
        s.height += 1
        if s.next_status is not None:
            s.status, s.next_status = s.next_status, None
            if s.status.mode == "normal":
                s.disputed = False
        if s.change is not None and s.change[1] <= s.height:
            s.rules, s.change, s.serial = s.change[0], None, s.serial + 1
        self._rescue()
        for due in self.pending():
            if due.upgrade > s.height:
                continue
            if due.predecessor != self.active.generation:
                self.mark({due.generation}, "lapsed")
                continue
            self.mark({self.active.generation}, "retired")
            self.mark({due.generation}, "active")
            handed = s.rules.handover
            if {handed.shielding, handed.state, handed.root} != {"pass"}:
                self.owe("upgrade", due.generation, 0, s.rules.grace)

    def _rescue(self) -> None:
        s = self.s
        late = [
            e
            for e in s.entries
            if e.status in RAN
            and e.predecessor is not None
            and e.since == e.upgrade
            and s.epochs
            and s.confirmed < e.since
            and s.height >= e.since + s.rules.rescue_after
        ]
        if not late:
            return
        first = late[0]
        dead = {first.generation}
        for e in s.entries:
            if e.predecessor in dead:
                dead.add(e.generation)
        for e in s.entries:
            if e.generation in dead and e.status in (*RAN, "pending"):
                self.mark({e.generation}, "lapsed" if e.status == "pending" else "void")
        before = self.entry(first.predecessor)
        self.mark({before.generation}, "retired")
        made = Entry(
            generation=len(s.entries),
            predecessor=before.generation,
            config=before.config,
            order=first.order,
            recorded=s.height,
            release=s.height,
            upgrade=s.height,
            since=first.since,
            status="active",
        )
        s.entries = (*s.entries, made)
        s.votes = ()
        s.disputed = (
            False if s.disputed and self._dispute_at >= made.since else (s.disputed)
        )
        self.owe("rescue", made.generation, 0, s.rules.grace)

    @property
    def _dispute_at(self) -> int:
        """A dispute is about the range that begins at the frontier."""
        return self.s.confirmed + 1

    def owe(self, why: str, generation: int, not_before: int, grace: int) -> None:
        s, old = self.s, self.s.due
        if not s.epochs:
            return
        s.staged = None
        if old is not None:
            if why == "upgrade" and old.why != "upgrade":
                why = old.why
            generation = max(generation, old.generation)
            not_before = max(not_before, old.not_before)
            grace = min(grace, old.grace)
        s.due = Due(s.epochs[-1].epoch + 1, why, generation, not_before, grace)

    # --- instances ---

    def last(self, key: bytes) -> Seen:
        want(self.s.seen.get(key), "not registered")
        return self.s.seen[key][-1]

    def fits(self, seen: Seen, entry: Entry, not_before: int = 0) -> bool:
        """Whether an attestation counts now, for this generation."""
        config, status, policy = entry.config, self.s.status, entry.config.attestation
        rejected = {*policy.rejected_advisories, *status.rejected_advisories}
        oldest = max(
            policy.not_before,
            status.not_before,
            not_before,
            self.s.height - policy.max_age_blocks,
        )
        return (
            seen.code == entry.code
            and seen.svn >= max(config.min_isv_svn, status.min_isv_svn)
            and (not config.operators or seen.operator in config.operators)
            and not rejected & set(seen.advisories)
            and oldest <= seen.height <= self.s.height
        )

    def speaks(self, key: bytes, entry: Entry, not_before: int = 0) -> bool:
        found = self.s.seen.get(key)
        return bool(found) and self.fits(found[-1], entry, not_before)

    def unbroken(self, key: bytes) -> int:
        """Since when attested without a break, on one machine, by one code."""
        found = self.s.seen[key]
        since = found[-1].height
        for older, newer in zip(found[-2::-1], found[:0:-1], strict=True):
            same = (older.code, older.machine) == (newer.code, newer.machine)
            if not same or newer.height - older.height > newer.age:
                break
            since = older.height
        return since

    def seat(self, key: bytes, terms: Any, opened: int) -> bool:
        if not self.speaks(key, self.active):
            return False
        return (
            self.last(key).operator in self.active.config.operators
            and self.unbroken(key) + terms.seat_age <= opened
        )

    def admitting(self) -> list[Entry]:
        found = [self.active, *self.pending()]
        if self.s.epochs:
            found += [self.at(self.s.confirmed + 1), self.at(self.s.confirmed)]
        return list({e.generation: e for e in found}.values())

    def register(self, key: bytes, seen: Seen) -> None:
        s = self.s
        known = s.seen.get(key, ())
        if known:
            want(seen.said > known[-1].said, "older statement")
            want(seen.operator == known[-1].operator, "another's instance")
        for entry in self.admitting():
            if seen.code != entry.code or not self.fits(seen, entry):
                continue
            age = entry.config.attestation.max_age_blocks
            live = [
                other
                for other, all_of in s.seen.items()
                if other != key
                and all_of[-1].code == entry.code
                and all_of[-1].height >= s.height - age
            ]
            most = entry.config.max_instances
            if most and len(live) >= most:
                continue
            s.seen = {**s.seen, key: (*known, replace(seen, age=age))}
            return
        raise NoError("no generation admits it")

    def leave(self, key: bytes, operator: bytes) -> None:
        want(self.last(key).operator == operator, "another's instance")
        self.s.seen = {k: v for k, v in self.s.seen.items() if k != key}

    # --- orders ---

    def here_and_now(self, order: Any) -> None:
        s = self.s
        want(order.chain_id == s.chain and order.shard == s.shard, "foreign")
        want(order.serial == s.serial, "serial")
        want(order.expiry >= s.height, "expired")

    def submit(self, order: Any, keys: Any, vendors: Any, *, genuine: bool) -> None:
        want(genuine, "an endorsement is not over this order")
        members = list(all_leaves(self.s.rules))
        for one in keys:
            want(SudoAuthority(key=one) in members, "no member")
        for one in vendors:
            self._vendor(order, one, members)
        self.here_and_now(order)
        said = {("key", one) for one in keys} | {("vendor", one) for one in vendors}
        known = self._said(order)
        if self.decided(order, known | said):
            self.carry_out(order)
            return
        want(said - known, "nothing new")
        self._keep(order, known | said)

    def _vendor(self, order: Any, vendor: bytes, members: list[Any]) -> None:
        want(vendor not in self.s.status.revoked_signers, "revoked")
        mine = [
            m
            for m in members
            if isinstance(m, SignerAuthority) and m.mr_signer == vendor
        ]
        want(mine, "no member")
        if isinstance(order, UpgradeOrder):
            config = order.config
            want(config.mr_signer == vendor, "another vendor's code")
            want(config.isv_prod_id == mine[0].prod_id, "another product")
            before = self.entry(order.predecessor).config.min_isv_svn
            want(config.min_isv_svn >= max(mine[0].min_svn, before), "older code")

    def note_vote(self, order: Any, terms: Any) -> None:
        """A vote of workers or of stake was for it."""
        self.here_and_now(order)
        want(terms in list(all_leaves(self.s.rules)), "no member")
        said = self._said(order) | {name_of(terms)}
        if not self.decided(order, said):
            self._keep(order, said)
        elif self.attempt(lambda m: m.carry_out(order)):
            self.s.opened = {
                k: v for k, v in self.s.opened.items() if k != order.digest()
            }

    def _said(self, order: Any) -> frozenset[Any]:
        known = self.s.opened.get(order.digest())
        return frozenset() if known is None else known[1]

    def _keep(self, order: Any, said: frozenset[Any]) -> None:
        digest = order.digest()
        others = {k: v for k, v in self.waiting().items() if k != digest}
        want(len(others) < MAX_WAITING, "too many orders wait")
        self.s.opened = {**others, digest: (order, said)}

    def waiting(self) -> dict[bytes, Any]:
        """Orders that lack endorsements and can still get them."""
        s = self.s
        return {
            digest: (order, said)
            for digest, (order, said) in s.opened.items()
            if order.serial == s.serial and order.expiry >= s.height
        }

    def standing(self) -> Any:
        return self.s.next_status or self.s.status

    def decided(self, order: Any, said: frozenset[Any]) -> bool:
        rules = self.s.rules
        revoked = {("vendor", one) for one in self.s.status.revoked_signers}
        said = said - revoked
        everyone = isinstance(order, RulesOrder)
        if any(one <= said for one in coalitions(rules.authority, everyone=everyone)):
            return True
        if isinstance(order, StatusOrder):
            lifts = (self.standing().mode, order.status.mode)
            tightens = lifts != ("maintenance", "normal")
        else:
            tightens = isinstance(order, CancelOrder | WithdrawOrder)
        return (
            tightens
            and rules.emergency is not None
            and any(one <= said for one in coalitions(rules.emergency))
        )

    def carry_out(self, order: Any) -> None:
        match order:
            case UpgradeOrder():
                self._upgrade(order)
            case CancelOrder():
                self._cancel(order)
            case PostponeOrder():
                self._postpone(order)
            case StatusOrder():
                self._status(order)
            case RulesOrder():
                self._rules(order)
            case _:
                want(self.s.change is not None, "no change")
                self.s.change = None
        self.s.serial += 1
        self.s.opened = {}
        self.s.consumed = (*self.s.consumed, order.digest())

    def notice(self, order: Any) -> int:
        rules = self.s.rules
        if not order.emergency:
            return rules.min_notice
        want(rules.emergency_notice, "no way for emergency code")
        return rules.emergency_notice

    def _upgrade(self, order: Any) -> None:
        s = self.s
        last = [e for e in s.entries if e.status in ("pending", "active")][-1]
        want(order.predecessor == last.generation, "predecessor")
        want(s.height + self.notice(order) <= order.release_from, "notice")
        want(order.release_from < order.upgrade_at, "notice")
        want(order.upgrade_at > last.upgrade, "not after the one before")
        want(len(self.pending()) < MAX_AHEAD, "too many ahead")
        self._livable(s.rules, order.config)
        made = Entry(
            generation=len(s.entries),
            predecessor=order.predecessor,
            config=order.config,
            order=order.digest(),
            recorded=s.height,
            release=order.release_from,
            upgrade=order.upgrade_at,
            since=order.upgrade_at,
            status="pending",
        )
        s.entries = (*s.entries, made)

    def _livable(self, rules: Any, config: Any) -> None:
        workers = any(isinstance(m, WorkersAuthority) for m in all_leaves(rules))
        want(config.operators or not workers, "workers vote, and no operators")
        few = 0 < config.max_instances < rules.root_quorum
        want(not few, "fewer instances than must agree")
        floor, wait = rules.emergency_floor, rules.emergency_notice
        want(not wait or (floor and wait >= floor), "below the emergency floor")

    def _cancel(self, order: Any) -> None:
        entry = self.entry(order.generation)
        want(entry.status == "pending", "not pending")
        gone = {entry.generation}
        for e in self.pending():
            if e.predecessor in gone:
                gone.add(e.generation)
        self.mark(gone, "lapsed")
        self.mark({entry.generation}, "cancelled")
        if any(self.entry(g).release <= self.s.height for g in gone):
            self.owe("cancel", self.active.generation, 0, self.s.rules.grace)

    def _postpone(self, order: Any) -> None:
        entry = self.entry(order.generation)
        want(entry.status == "pending", "not pending")
        want(order.upgrade_at > max(entry.upgrade, self.s.height), "not later")
        after = [e for e in self.pending() if e.generation > entry.generation]
        want(all(order.upgrade_at < e.upgrade for e in after), "past its successor")
        at = order.upgrade_at
        self.s.entries = tuple(
            replace(e, upgrade=at, since=at) if e is entry else e
            for e in self.s.entries
        )

    def _status(self, order: Any) -> None:
        s, new, old = self.s, order.status, self.standing()
        want(floors_hold(old, new), "a floor falls")
        want(new.not_before <= s.height, "floor ahead")
        if not floors_hold(new, s.status):
            s.staged = None
        if order.rotate is not None:
            want(order.rotate.not_before <= s.height, "rotation ahead")
            asked = order.rotate
            self.owe("order", self.active.generation, asked.not_before, asked.grace)
        s.next_status = new

    def _rules(self, order: Any) -> None:
        old, new = self.s.rules, order.rules
        self._livable(new, self.active.config)
        for name in ("genesis", "page_bits", "emergency_floor"):
            want(getattr(old, name) == getattr(new, name), "fixed")
        notice = max(old.min_notice, old.rules_notice)
        want(order.effective_at >= self.s.height + notice, "notice")
        self.s.change = (new, order.effective_at, self.s.height, order.digest())


FLOORS = (
    "min_isv_svn",
    "min_tcb_evaluation_number",
    "not_before",
    "rejected_advisories",
    "revoked_signers",
)


def floors_hold(old: Any, new: Any) -> bool:
    """Whether no floor of ``old`` falls in ``new``."""
    return (
        all(getattr(old, name) <= getattr(new, name) for name in FLOORS[:3])
        and set(old.rejected_advisories) <= set(new.rejected_advisories)
        and set(old.revoked_signers) <= set(new.revoked_signers)
    )
