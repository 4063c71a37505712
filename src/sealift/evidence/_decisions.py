"""Step 3: who decided an act: signatures, hosts' votes, holders' votes."""

from dataclasses import dataclass, field

from sealift.base import (
    AccountId,
    Digest,
    Generation,
    Height,
    MrSigner,
    PlatformId,
    SealiftError,
)
from sealift.protocol import (
    CancelOrder,
    KeyEndorsement,
    Leaf,
    Order,
    RehearsalsOrder,
    RulesOrder,
    Schedule,
    ShardStatus,
    SignedOrder,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    SudoAuthority,
    Tally,
    UpgradeOrder,
    WithdrawOrder,
    WorkersAuthority,
    leaves,
    missing,
    satisfied,
)

from ._calls import MotionEnded, MotionOpened, Propose, Vote
from ._entries import active_entry, require
from ._errors import ActUnprovenError
from ._instances import Instances
from ._proven import ProvenCall


@dataclass(slots=True, kw_only=True)
class Gathered:
    """What is known of one order: the endorsements whose proof was verified.

    ``workers`` and ``stake`` say in words how those votes ended; empty: not.
    """

    order: Order
    keys: set[AccountId] = field(default_factory=set)
    vendors: set[MrSigner] = field(default_factory=set)
    workers: str = ""
    stake: str = ""


@dataclass(slots=True, kw_only=True)
class _Motion:
    order: Order
    terms: WorkersAuthority
    generation: Generation
    opened_at: Height
    seats: frozenset[PlatformId]
    votes: dict[PlatformId, tuple[AccountId, bool]]


@dataclass(slots=True)
class Decisions:
    """Collects endorsements while the file is replayed, and judges acts by them.

    Args:
        instances: Who has a seat among the hosts.
    """

    instances: Instances
    gathered: dict[Digest, Gathered] = field(default_factory=dict)
    _motions: dict[Digest, _Motion] = field(default_factory=dict)

    def about(self, order: Order) -> Gathered:
        """What is known of an order, from now on."""
        return self.gathered.setdefault(order.digest(), Gathered(order=order))

    def forget(self, digest: Digest) -> None:
        """A decided order could not be carried out: all begins anew."""
        self.gathered.pop(digest, None)

    def endorse(self, signed: SignedOrder, *, height: Height) -> None:
        """Take the signatures that came with an order.

        Raises:
            ActUnprovenError: One is not over this order.
        """
        try:
            signed.verify_endorsements()
        except SealiftError as error:
            raise ActUnprovenError(
                f"an endorsement in block {height} is not over its order",
                got=error.expected,
                expected="a signature over the order's digest",
            ) from error
        known = self.about(signed.order)
        for one in signed.endorsements:
            if isinstance(one, KeyEndorsement):
                known.keys.add(one.key)
            else:
                known.vendors.add(one.mr_signer)

    def propose(self, call: ProvenCall, given: Propose, schedule: Schedule) -> None:
        """A host brings an order before the council, and is for it.

        Raises:
            ActUnprovenError: Hosts don't vote here, or the seats are others.
        """
        terms = next(
            (one for one in _members(schedule) if isinstance(one, WorkersAuthority)),
            None,
        )
        if terms is None:
            raise ActUnprovenError(
                f"a motion in block {call.height}", expected="a shard whose hosts vote"
            )
        opened = call.height
        seats = frozenset(
            record.platform_id
            for key, record in self.instances.records.items()
            if self._seated(schedule, key, terms, opened_at=opened, now=opened)
        )
        told = [e.seats for e in call.events if isinstance(e, MotionOpened)]
        require(
            told == [len(seats)],
            f"a motion in block {opened} has other seats than the registry",
            got=told,
            expected=len(seats),
        )
        digest = given.order.digest()
        self._motions[digest] = _Motion(
            order=given.order,
            terms=terms,
            generation=active_entry(schedule).generation,
            opened_at=opened,
            seats=seats,
            votes={},
        )
        self._take(call, digest, given.signing_key, schedule, aye=True)

    def vote(self, call: ProvenCall, given: Vote, schedule: Schedule) -> None:
        """A host votes, or changes its vote.

        Raises:
            ActUnprovenError: There is no such motion, or it has no seat.
        """
        require(
            given.order in self._motions,
            f"a vote in block {call.height} on a motion that the file lacks",
            got=given.order,
            expected="its proposal",
        )
        self._take(call, given.order, given.signing_key, schedule, aye=given.aye)

    def end(self, call: ProvenCall, ended: MotionEnded, schedule: Schedule) -> None:
        """A motion is over. If it passed: more than the threshold of seats is for it.

        Raises:
            ActUnprovenError: It is not.
        """
        if ended.how != "passed":
            return  # perhaps to make room for the same order, proposed anew
        motion = self._motions.pop(ended.order, None)
        if motion is None:
            raise ActUnprovenError(
                f"a motion passed in block {call.height} that the file lacks",
                got=ended.order,
            )
        ayes = {
            platform
            for platform, (key, aye) in motion.votes.items()
            if aye
            and self._seated(
                schedule,
                key,
                motion.terms,
                opened_at=motion.opened_at,
                now=call.height,
            )
        }
        require(
            motion.terms.threshold.exceeded_by(len(ayes), len(motion.seats))
            and motion.terms in _members(schedule)
            and motion.generation == active_entry(schedule).generation,
            f"a motion passed in block {call.height} without its majority",
            got=f"{len(ayes)} of {len(motion.seats)} platforms",
            expected=f"more than {motion.terms.threshold}",
        )
        self.about(
            motion.order
        ).workers = f"{len(ayes)} of {len(motion.seats)} platforms of its hosts"

    def note_stake(
        self,
        order: Order,
        tally: Tally | None,
        schedule: Schedule,
        *,
        platforms: int,
        height: Height,
    ) -> None:
        """Holders have passed an order, by the word of so many platforms.

        Raises:
            ActUnprovenError: Holders don't vote here, or the tally is no majority.
        """
        terms = next(
            (one for one in _members(schedule) if isinstance(one, StakeAuthority)), None
        )
        if terms is None:
            raise ActUnprovenError(
                f"holders decided in block {height}",
                expected="a shard whose holders vote",
            )
        said = "1 platform" if platforms == 1 else f"{platforms} platforms"
        words = f"its holders, by the word of {said}"
        if tally is not None:
            votes = tally.ayes + tally.nays
            require(
                terms.threshold.exceeded_by(tally.ayes, votes)
                and terms.quorum.reached_by(votes, tally.electorate),
                f"holders passed an order in block {height} without a majority",
                got=f"{tally.ayes} for, {tally.nays} against, of {tally.electorate}",
                expected=f"more than {terms.threshold} of those that vote, at least "
                f"{terms.quorum} of all",
            )
            words += f" ({tally.ayes} for, {tally.nays} against)"
        self.about(order).stake = words

    def decided(
        self,
        digest: Digest,
        schedule: Schedule,
        *,
        standing: ShardStatus,
        height: Height,
    ) -> tuple[Order, tuple[str, ...]]:
        """An order that took effect, and in words who decided it.

        By the authority of the schedule **before** it: members that suffice. A
        change of rules or of rehearsals takes all members of an ``AnyOf``; the
        emergency authority may decide what only tightens.

        Raises:
            ActUnprovenError: Nobody's word for it is in the file, or too few's.
        """
        known = self.gathered.get(digest)
        if known is None:
            raise ActUnprovenError(
                f"an act took effect in block {height} whose order the file lacks",
                got=digest,
                expected="the order with its endorsements",
            )
        order, rules = known.order, schedule.rules

        def given(leaf: Leaf) -> bool:
            return _given(leaf, known, schedule)

        unanimous = isinstance(order, RulesOrder | RehearsalsOrder)
        by_emergency = (
            rules.emergency is not None
            and _tightens(order, standing)
            and satisfied(rules.emergency, given)
        )
        if not by_emergency:
            lacking = missing(rules.authority, given, unanimous=unanimous)
            require(
                not lacking,
                f"{type(order).__name__} took effect in block {height} undecided",
                got=", ".join(_words(known, _members(schedule), schedule)) or "nobody",
                expected=", ".join(name_of(leaf) for leaf in lacking),
            )
        tree = rules.emergency if by_emergency else rules.authority
        members = list(leaves(tree)) if tree is not None else []
        return order, _words(known, members, schedule)

    def _take(
        self,
        call: ProvenCall,
        digest: Digest,
        signing_key: AccountId,
        schedule: Schedule,
        *,
        aye: bool,
    ) -> None:
        motion = self._motions[digest]
        record = self.instances.records.get(signing_key)
        seated = (
            record is not None
            and record.operator == call.signer
            and record.platform_id in motion.seats
            and self._seated(
                schedule,
                signing_key,
                motion.terms,
                opened_at=motion.opened_at,
                now=call.height,
            )
        )
        if record is None or not seated:
            raise ActUnprovenError(
                f"a vote in block {call.height} by an instance without a seat",
                got=signing_key,
                expected="an operator's instance, attested since "
                f"{motion.opened_at - motion.terms.seat_age} or before",
            )
        motion.votes.pop(record.platform_id, None)
        motion.votes[record.platform_id] = (signing_key, aye)

    def _seated(
        self,
        schedule: Schedule,
        signing_key: AccountId,
        terms: WorkersAuthority,
        *,
        opened_at: Height,
        now: Height,
    ) -> bool:
        entry = active_entry(schedule)
        record = self.instances.records.get(signing_key)
        return (
            record is not None
            and record.operator in entry.config.operators
            and record.unbroken_since + terms.seat_age <= opened_at
            and self.instances.counts(signing_key, entry, schedule.status, height=now)
        )


def name_of(leaf: Leaf) -> str:
    """A member of an authority in words."""
    match leaf:
        case SudoAuthority():
            return f"the key {leaf.key.hex()}"
        case SignerAuthority():
            return f"the vendor {leaf.mr_signer.hex()}"
        case StakeAuthority():
            return "the shard's holders"
        case WorkersAuthority():
            return "the shard's hosts"


def _words(known: Gathered, members: list[Leaf], schedule: Schedule) -> tuple[str, ...]:
    said = []
    for leaf in members:
        if not _given(leaf, known, schedule):
            continue
        if isinstance(leaf, StakeAuthority):
            said.append(known.stake)
        elif isinstance(leaf, WorkersAuthority):
            said.append(known.workers)
        else:
            said.append(name_of(leaf))
    return tuple(said)


def _given(leaf: Leaf, known: Gathered, schedule: Schedule) -> bool:
    match leaf:
        case SudoAuthority():
            return leaf.key in known.keys
        case SignerAuthority():
            return (
                leaf.mr_signer in known.vendors
                and leaf.mr_signer not in schedule.status.revoked_signers
                and _of_product(leaf, known.order, schedule)
            )
        case StakeAuthority():
            return bool(known.stake)
        case WorkersAuthority():
            return bool(known.workers)


def _of_product(leaf: SignerAuthority, order: Order, schedule: Schedule) -> bool:
    """A vendor's word is for its own product, at no lower version."""
    if not isinstance(order, UpgradeOrder):
        return True
    config = order.config
    before = schedule.entry(order.predecessor).config.min_isv_svn
    return (
        (config.mr_signer, config.isv_prod_id) == (leaf.mr_signer, leaf.prod_id)
    ) and config.min_isv_svn >= max(leaf.min_svn, before)


def _tightens(order: Order, standing: ShardStatus) -> bool:
    if isinstance(order, StatusOrder):
        return standing.mode != "maintenance" or order.status.mode != "normal"
    return isinstance(order, CancelOrder | WithdrawOrder)


def _members(schedule: Schedule) -> list[Leaf]:
    trees = (schedule.rules.authority, schedule.rules.emergency)
    return [leaf for tree in trees if tree is not None for leaf in leaves(tree)]
