"""Whether a shard's authority decided: endorsements against its tree. Pure.

Orders are the same for every authority (DESIGN §4.5). Signatures travel with an
order; votes of workers and of stake are decided elsewhere and noted here.
"""

from collections.abc import Callable

from sealift.base import AccountId, Height, Message, MrSigner
from sealift.crypto import SignatureInvalidError
from sealift.protocol import (
    MAX_DEPTH,
    MAX_MEMBERS,
    UNANIMOUS,
    Authority,
    CancelOrder,
    KeyEndorsement,
    Leaf,
    Order,
    Schedule,
    ShardRules,
    ShardStatus,
    SignedOrder,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    WithdrawOrder,
    WorkersAuthority,
    depth,
    leaves,
    missing,
    satisfied,
)

from ._errors import OrderSignatureError, ShardRulesError, VendorOrderError


class OpenOrder(Message, kw_only=True):
    """An order and who has endorsed it so far; not all that must have.

    ``stake`` and ``workers`` say whether that vote was for it.
    """

    order: Order
    keys: tuple[AccountId, ...] = ()
    vendors: tuple[MrSigner, ...] = ()
    stake: bool = False
    workers: bool = False
    recorded_at: Height = Height(0)


def verify_authorities(rules: ShardRules) -> None:
    """Return if a shard can be governed by the authorities of its rules.

    1. Trees are small, and no combination is empty.
    2. No two members of one tree are the same; of stake and of workers there is
       one at most in both trees together, so that one vote has one meaning.
    3. Ratios can be exceeded, quorums reached.
    4. The emergency notice is not below its floor.

    Raises:
        ShardRulesError: It can't.
    """
    trees = [tree for tree in (rules.authority, rules.emergency) if tree is not None]
    for tree in trees:  # 1, 2
        found = list(leaves(tree))
        distinct = len({repr(leaf) for leaf in found}) == len(found)
        if depth(tree) > MAX_DEPTH or not 1 <= len(found) <= MAX_MEMBERS:
            raise ShardRulesError(
                "authority is empty or too large",
                got=f"{len(found)} members, {depth(tree)} deep",
                expected=f"1 … {MAX_MEMBERS} members, ≤ {MAX_DEPTH} deep",
            )
        if not distinct or not _whole(tree):
            raise ShardRulesError("a combination is empty, or has a member twice")
    every = [leaf for tree in trees for leaf in leaves(tree)]
    for kind in (StakeAuthority, WorkersAuthority):
        votes = {repr(leaf) for leaf in every if isinstance(leaf, kind)}
        if len(votes) > 1:
            raise ShardRulesError(
                f"{kind.__name__} stands twice, with other terms", expected="one vote"
            )
    for leaf in every:  # 3
        _verify_terms(leaf)
    if rules.emergency_notice and (  # 4
        not rules.emergency_floor or rules.emergency_notice < rules.emergency_floor
    ):
        raise ShardRulesError(
            "emergency notice is below its floor",
            got=rules.emergency_notice,
            expected=f"≥ {rules.emergency_floor}"
            if rules.emergency_floor
            else "0: this shard was born without a way for emergency code",
        )


def collect(schedule: Schedule, signed: SignedOrder, known: OpenOrder) -> OpenOrder:
    """What is known of an order, with the endorsements that came with it.

    1. Each is a signature over this very order. 2. By a member of an authority of
    the shard that was not revoked. 3. A vendor's word is for code of its product,
    at no lower version.

    Raises:
        OrderSignatureError: 1 or 2; or nothing new came.
        VendorOrderError: 3.
    """
    try:  # 1
        signed.verify_endorsements()
    except SignatureInvalidError as error:
        raise OrderSignatureError(
            "an endorsement is not over this order", got=error.expected
        ) from error
    keys, vendors = set(known.keys), set(known.vendors)
    for one in signed.endorsements:
        if isinstance(one, KeyEndorsement):
            _require_key(schedule, one.key)  # 2
            keys.add(one.key)
        else:
            leaf = _require_vendor(schedule, one.mr_signer)  # 2
            _require_product(schedule, signed.order, leaf)  # 3
            vendors.add(one.mr_signer)
    return OpenOrder(
        order=signed.order,
        keys=tuple(sorted(keys)),
        vendors=tuple(sorted(vendors)),
        stake=known.stake,
        workers=known.workers,
        recorded_at=known.recorded_at,
    )


def decides(schedule: Schedule, opened: OpenOrder, *, standing: ShardStatus) -> bool:
    """Whether those that endorsed an order may decide it.

    The authority may decide everything; a change of rules or of rehearsals takes all
    members of its ``AnyOf``. The emergency authority may decide what only tightens.

    Args:
        schedule: As it is.
        opened: The order and its endorsements.
        standing: The status that would act without it.
    """
    return not lacking(schedule, opened, standing=standing)


def lacking(
    schedule: Schedule, opened: OpenOrder, *, standing: ShardStatus
) -> tuple[Leaf, ...]:
    """Members whose endorsement an order still lacks; none if it is decided."""
    rules, order = schedule.rules, opened.order
    given = _given(schedule, opened)
    emergency = rules.emergency
    if (
        emergency is not None
        and tightens(order, standing)
        and satisfied(emergency, given)
    ):
        return ()
    return missing(rules.authority, given, unanimous=isinstance(order, UNANIMOUS))


def tightens(order: Order, standing: ShardStatus) -> bool:
    """Whether an order brings no new code and lifts no maintenance."""
    if isinstance(order, StatusOrder):
        lifts = standing.mode == "maintenance" and order.status.mode == "normal"
        return not lifts
    return isinstance(order, CancelOrder | WithdrawOrder)


def _given(schedule: Schedule, opened: OpenOrder) -> Callable[[Leaf], bool]:
    revoked = schedule.status.revoked_signers

    def given(leaf: Leaf) -> bool:
        match leaf:
            case SudoAuthority():
                return leaf.key in opened.keys
            case SignerAuthority():
                return leaf.mr_signer in opened.vendors and (
                    leaf.mr_signer not in revoked
                )
            case StakeAuthority():
                return opened.stake
            case WorkersAuthority():
                return opened.workers

    return given


def _members(schedule: Schedule) -> list[Leaf]:
    trees = (schedule.rules.authority, schedule.rules.emergency)
    return [leaf for tree in trees if tree is not None for leaf in leaves(tree)]


def _require_key(schedule: Schedule, key: AccountId) -> None:
    known = [one.key for one in _members(schedule) if isinstance(one, SudoAuthority)]
    if key not in known:
        raise OrderSignatureError(
            "order is not signed by a member of the shard's authority",
            got=key,
            expected=", ".join(one.hex() for one in known) or "no key decides here",
        )


def _require_vendor(schedule: Schedule, mr_signer: MrSigner) -> SignerAuthority:
    if mr_signer in schedule.status.revoked_signers:
        raise OrderSignatureError("the vendor's key was revoked", got=mr_signer)
    for one in _members(schedule):
        if isinstance(one, SignerAuthority) and one.mr_signer == mr_signer:
            return one
    raise OrderSignatureError(
        "order is signed by a vendor that is no member of the shard's authority",
        got=mr_signer,
    )


def _require_product(schedule: Schedule, order: Order, leaf: SignerAuthority) -> None:
    """The version ratchet: no older code, whatever the vendor once signed."""
    if not isinstance(order, UpgradeOrder):
        return
    config = order.config
    before = schedule.entry(order.predecessor).config.min_isv_svn
    floor = max(leaf.min_svn, before)
    if (config.mr_signer, config.isv_prod_id) != (leaf.mr_signer, leaf.prod_id):
        raise VendorOrderError(
            "the order does not ask for code of the vendor's product",
            got=f"{(config.mr_signer or b'').hex()} {config.isv_prod_id}",
            expected=f"{leaf.mr_signer.hex()} {leaf.prod_id}",
        )
    if config.min_isv_svn < floor:
        raise VendorOrderError(
            "the order asks for an older version than runs",
            got=config.min_isv_svn,
            expected=f"min_isv_svn ≥ {floor}",
        )


def _whole(tree: Authority) -> bool:
    """Whether no combination in a tree is empty."""
    members = getattr(tree, "members", None)
    return members is None or (bool(members) and all(_whole(one) for one in members))


def _verify_terms(leaf: Leaf) -> None:
    if not isinstance(leaf, WorkersAuthority | StakeAuthority):
        return
    quorum = (leaf.quorum,) if isinstance(leaf, StakeAuthority) else ()
    for ratio in (leaf.threshold, *quorum):
        if ratio.numerator > ratio.denominator:
            raise ShardRulesError("a share is more than all", got=ratio)
    if not leaf.threshold.exceeded_by(1, 1):
        raise ShardRulesError(
            "a threshold can't be exceeded", got=leaf.threshold, expected="< 1"
        )
