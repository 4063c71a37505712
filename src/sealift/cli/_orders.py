"""Orders made of words: what is proposed to a shard's authority. Pure."""

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from sealift.base import (
    AccountId,
    Digest,
    Fingerprint,
    Generation,
    Height,
    MrSigner,
    SealiftError,
)
from sealift.protocol import (
    AttestationPolicy,
    CancelOrder,
    EntryStatus,
    PostponeOrder,
    RehearsalGate,
    RehearsalsOrder,
    RehearsalTerms,
    RotationRequest,
    RulesOrder,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    WithdrawOrder,
    WorkersAuthority,
    leaves,
    satisfied,
)

from ._rules import vendor_member

#: An order that L1 has not seen this many blocks after its making is void; for
#: votes, as long again as they take.
_EXPIRY: Final = 500
#: Blocks that may pass before an order stands in one, at least …
_MARGIN: Final = 5
#: … and where they are fast, as many as pass in so many seconds; …
_MARGIN_SECONDS: Final = 5.0
#: … but not more than this, however fast a node says they are.
_MOST_MARGIN: Final = 500
#: And before a vote's result has come from the shard to L1.
_CARRIED: Final = 20


class HeightWordError(SealiftError):
    """Neither a block height nor a number of blocks from now."""


class NoRehearsalsError(SealiftError):
    """L1's runtime is older than rehearsals."""


class NothingToDoError(SealiftError):
    """An order that would change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeWords:
    """What was said of the next generation; ``identity`` is its bundle's vendor."""

    code: dict[str, Fingerprint]
    at: str
    release_from: str | None
    bundle: Digest | None
    source: str
    emergency: bool
    attestation: AttestationPolicy | None
    min_isv_svn: int | None
    max_instances: int | None
    operators: tuple[AccountId, ...]
    mr_signer: MrSigner | None
    prod_id: int | None
    identity: tuple[MrSigner | None, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWords:
    """What was said of mode and floors."""

    mode: Literal["normal", "maintenance"] | None
    min_isv_svn: int | None
    min_tcb_evaluation: int | None
    not_before: str | None
    advisories: tuple[str, ...]
    revoked: tuple[bytes, ...]
    rotate: bool
    grace: int | None

    @property
    def silent(self) -> bool:
        """Whether nothing was said at all."""
        return not (self.rotate or self.advisories or self.revoked) and all(
            one is None
            for one in (
                self.mode,
                self.min_isv_svn,
                self.min_tcb_evaluation,
                self.not_before,
            )
        )


def parse_height(word: str, head: Height) -> Height:
    """A block: a height, or ``+N`` blocks from the head.

    Raises:
        HeightWordError: Neither of the two.
    """
    found = re.fullmatch(r"(\+?)([0-9]{1,18})", word, re.ASCII)
    if found is None:
        raise HeightWordError(
            "not a block", got=word[:40], expected="a height, or +N blocks from now"
        )
    number = int(found[2])
    return Height(head + number if found[1] else number)


def voting_blocks(rules: ShardRules) -> int:
    """How long the longest vote of the shard's authorities takes."""
    took = [0]
    for tree in (rules.authority, rules.emergency):
        for leaf in leaves(tree) if tree is not None else ():
            if isinstance(leaf, StakeAuthority):
                took.append(leaf.stake_age + leaf.period)
            elif isinstance(leaf, WorkersAuthority):
                took.append(leaf.period)
    return max(took)


def needs_vote(rules: ShardRules) -> bool:
    """Whether signatures alone can't decide."""
    return not satisfied(
        rules.authority,
        lambda leaf: isinstance(leaf, SudoAuthority | SignerAuthority),
    )


def expiry(rules: ShardRules, height: Height) -> Height:
    """When an order made now is void."""
    return Height(height + _EXPIRY + 2 * voting_blocks(rules))


def last_standing(schedule: Schedule) -> ScheduleEntry:
    """The entry that the next one follows."""
    standing = (EntryStatus.PENDING, EntryStatus.ACTIVE)
    return max(
        (entry for entry in schedule.entries if entry.status in standing),
        key=lambda entry: entry.generation,
    )


def decided_alone(rules: ShardRules) -> bool:
    """Whether any one signature is enough."""
    tree = rules.authority
    return any(
        satisfied(tree, lambda leaf, one=one: leaf == one)  # type: ignore[misc]
        for one in leaves(tree)
        if isinstance(one, SudoAuthority | SignerAuthority)
    )


def upgrade_order(
    schedule: Schedule,
    height: Height,
    words: UpgradeWords,
    *,
    voted: bool = False,
    later: bool = False,
    interval: float = 0.0,
) -> UpgradeOrder:
    """A new generation after the last that stands.

    Notice begins when it is decided, so unless said otherwise it ends as soon as
    it may only where one signature decides now. Where blocks take an ``interval``
    (in seconds) of less than one it then has five seconds to get into one, but not
    more than half of what is left of the time until XYZ. Else, or if it is submitted
    ``later``, that half is for endorsements; votes get theirs before.

    Raises:
        HeightWordError: Not a block, or too little notice.
    """
    rules, last = schedule.rules, last_standing(schedule)
    upgrade_at = parse_height(words.at, height)
    if words.release_from is not None:
        release = parse_height(words.release_from, height)
    else:
        notice = rules.emergency_notice if words.emergency else rules.min_notice
        vote = voting_blocks(rules) + _CARRIED if voted or needs_vote(rules) else 0
        release = Height(height + notice + vote + _MARGIN)
        if release >= upgrade_at:
            name = "emergency_notice" if words.emergency else "min_notice"
            raise HeightWordError(
                "too little notice",
                got=f"block {upgrade_at}, {upgrade_at - height} ahead",
                expected=f"> {release}: the shard's {name} is {notice} blocks, "
                + (f"the vote takes {vote}, " if vote else "")
                + f"and {_MARGIN} for the way",
                hint=f"Say --at +{release - height + 2}, or later",
            )
        amidst = Height((release + upgrade_at) // 2)
        if later or vote or not decided_alone(rules):
            release = amidst
        else:
            release = min(Height(release - _MARGIN + _margin(interval)), amidst)
    return UpgradeOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        predecessor=last.generation,
        config=next_config(last.config, rules, words),
        release_from=release,
        upgrade_at=upgrade_at,
        expiry=expiry(rules, height),
        bundle=words.bundle,
        source=words.source,
        emergency=words.emergency,
    )


def _margin(interval: float) -> int:
    """Blocks that may pass before an order stands in one; 0 s: nobody knows."""
    if interval <= 0:
        return _MARGIN
    return min(max(_MARGIN, math.ceil(_MARGIN_SECONDS / interval)), _MOST_MARGIN)


def next_config(
    before: ShardConfig, rules: ShardRules, words: UpgradeWords
) -> ShardConfig:
    """The configuration of a generation, with what was said instead.

    Where the vendor is a member of the authority, product and version are the
    bundle's and the authority's unless said otherwise.
    """
    leaf = vendor_member(rules)
    signer, product = words.mr_signer, words.prod_id
    floor = before.min_isv_svn if words.min_isv_svn is None else words.min_isv_svn
    if leaf is not None:
        signer = signer or words.identity[0] or leaf.mr_signer
        product = words.identity[1] if product is None else product
        product = leaf.prod_id if product is None else product
        if words.min_isv_svn is None:
            floor = max(floor, leaf.min_svn)
    return msgspec.structs.replace(
        before,
        code=words.code,
        attestation=words.attestation or before.attestation,
        min_isv_svn=floor,
        max_instances=before.max_instances
        if words.max_instances is None
        else words.max_instances,
        operators=words.operators or before.operators,
        mr_signer=signer or before.mr_signer,
        isv_prod_id=before.isv_prod_id if product is None else product,
    )


def cancel_order(schedule: Schedule, height: Height, generation: int) -> CancelOrder:
    """A pending generation shall not run."""
    return CancelOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        generation=Generation(generation),
        expiry=expiry(schedule.rules, height),
    )


def postpone_order(
    schedule: Schedule, height: Height, generation: int, at: str
) -> PostponeOrder:
    """A pending generation shall run later.

    Raises:
        HeightWordError: Not a block.
    """
    return PostponeOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        generation=Generation(generation),
        upgrade_at=parse_height(at, height),
        expiry=expiry(schedule.rules, height),
    )


def status_order(
    schedule: Schedule, height: Height, standing: ShardStatus, words: StatusWords
) -> StatusOrder:
    """Mode and floors as said, the rest as it stands; what is said never lowers.

    Raises:
        HeightWordError: Not a block.
    """
    not_before = standing.not_before
    if words.not_before is not None:
        not_before = parse_height(words.not_before, height)
    rotate = None
    if words.rotate:
        rotate = RotationRequest(not_before=not_before, grace=words.grace or 0)
    revoked = (*standing.revoked_signers, *map(MrSigner, words.revoked))
    advisories = (*standing.rejected_advisories, *words.advisories)
    return StatusOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        status=ShardStatus(
            mode=words.mode or standing.mode,
            min_isv_svn=_or(words.min_isv_svn, standing.min_isv_svn),
            min_tcb_evaluation_number=_or(
                words.min_tcb_evaluation, standing.min_tcb_evaluation_number
            ),
            not_before=not_before,
            rejected_advisories=tuple(dict.fromkeys(advisories)),
            revoked_signers=tuple(dict.fromkeys(revoked)),
        ),
        expiry=expiry(schedule.rules, height),
        rotate=rotate,
    )


def rotation_order(
    schedule: Schedule,
    height: Height,
    standing: ShardStatus,
    *,
    not_before: str | None,
    grace: int,
) -> StatusOrder:
    """New keys, and nothing else changed.

    Raises:
        HeightWordError: Not a block.
    """
    since = Height(0) if not_before is None else parse_height(not_before, height)
    return StatusOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        status=standing,
        expiry=expiry(schedule.rules, height),
        rotate=RotationRequest(not_before=since, grace=grace),
    )


def rules_order(
    schedule: Schedule, height: Height, rules: ShardRules, at: str
) -> RulesOrder:
    """Other rules from a block on.

    Raises:
        HeightWordError: Not a block, or sooner than the longest notice.
        NothingToDoError: They are the rules that act.
    """
    if rules == schedule.rules:
        raise NothingToDoError("these are the rules that act already")
    effective = _at_longest_notice(schedule, height, at, what="other rules")
    return RulesOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        rules=rules,
        effective_at=effective,
        expiry=expiry(schedule.rules, height),
    )


def rehearsals_order(
    schedule: Schedule,
    height: Height,
    gate: RehearsalGate | None,
    terms: RehearsalTerms,
    at: str,
) -> RehearsalsOrder:
    """Other terms of rehearsals from a block on.

    Raises:
        NoRehearsalsError: This L1 takes none.
        HeightWordError: Not a block, or sooner than the longest notice.
        NothingToDoError: They are the terms that count.
    """
    if gate is None:
        raise NoRehearsalsError(
            "this L1 takes no rehearsals yet",
            expected="version 3 of its runtime, or a later one",
            hint="`sealift chain status` shows which it has",
        )
    ahead = gate.settled(height).change
    if gate.at(height) == terms and ahead is None:
        raise NothingToDoError("these are the terms that count already")
    effective = _at_longest_notice(schedule, height, at, what="other terms")
    return RehearsalsOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        required=terms.required,
        postpone_by=terms.postpone_by,
        effective_at=effective,
        expiry=expiry(schedule.rules, height),
    )


def withdraw_order(schedule: Schedule, height: Height) -> WithdrawOrder:
    """A change of rules, or of rehearsals, that is ahead shall not act."""
    return WithdrawOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        expiry=expiry(schedule.rules, height),
    )


def _at_longest_notice(
    schedule: Schedule, height: Height, at: str, *, what: str
) -> Height:
    """The block that is named, if votes and the longest notice have time until then.

    Raises:
        HeightWordError: They have not, or it is not a block.
    """
    effective = parse_height(at, height)
    vote = voting_blocks(schedule.rules)
    least = height + schedule.rules.longest_notice + _MARGIN
    least += vote + _CARRIED if vote else 0
    if effective < least:
        raise HeightWordError(
            f"too little notice for {what}",
            got=f"block {effective}, {effective - height} ahead",
            expected=f"≥ {least}: the longest notice is "
            f"{schedule.rules.longest_notice} blocks"
            + (f", the votes take {vote}" if vote else ""),
        )
    return effective


def _or(value: int | None, other: int) -> int:
    return other if value is None else value
