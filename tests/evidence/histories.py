"""Histories that real enclaves live through, over the real ledger.

Nothing here is made up: whoever decides, confirms, stages or hands over does it
as it would elsewhere. Each function goes on with a world until its story is told.
"""

from typing import Any

import msgspec

from sealift.base import Height, encode
from sealift.bundle import parse_sigstruct
from sealift.crypto import rsa_public_modulus, rsa_sign_pkcs1_sha256
from sealift.frame import Runtime
from sealift.protocol import (
    EnclaveRecord,
    Order,
    Ratio,
    RotationRequest,
    RulesOrder,
    ScheduleEntry,
    ShardStatus,
    SignedOrder,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    UpgradeOrder,
    VendorEndorsement,
    WorkersAuthority,
    enclave_key,
)
from sealift.testing import World, WorldWorker
from sealift.testing._release import vendor_key

HALF = Ratio(numerator=1, denominator=2)
TENTH = Ratio(numerator=1, denominator=10)
STAKE = StakeAuthority(
    threshold=HALF, quorum=TENTH, stake_age=3, period=4, min_voters=2
)
HOSTS = WorkersAuthority(threshold=HALF, seat_age=2, period=20)
OPERATORS = ("operator", "operator-2")


class HistoryError(Exception):
    """A history that did not go as it was told."""


def begun(world: World, v1: Runtime, v2: Runtime, **config: Any) -> WorldWorker:
    """A born shard; ``world.releases`` are both versions."""
    first = world.release(v1)
    world.release(v2)
    old = world.begin(first, config=world.config(first, **config))
    world.blocks(3)
    return old


def second_of(world: World, old: WorldWorker) -> WorldWorker:
    """Another instance of the first generation, on a machine of its own."""
    second = world.worker(
        "second", world.releases[0], operator="operator-2", upstream=old
    )
    second.request_keys(old)
    world.blocks(3)
    return second


def order_of(world: World, *, notice: int = 16, **fields: Any) -> UpgradeOrder:
    """An upgrade to version 2, with time for a vote before its notice."""
    release = world.height + notice
    base: dict[str, Any] = {
        "predecessor": 0,
        "config": world.config(world.releases[1]),
        "release_from": Height(release),
        "upgrade_at": Height(release + 7),
        "expiry": Height(world.height + 60),
    }
    return world.order(UpgradeOrder, **(base | fields))


def handed_over(
    world: World, old: WorldWorker, *, rotate: bool = True
) -> ScheduleEntry:
    """Steps 3 to 9 for what is pending; then the keys that an upgrade owes."""
    entry = world.schedule_now().entries[-1]
    world.run_until(entry.release_from)
    new = world.worker("new", world.releases[1], upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at + 3)
    if rotate:
        new.stage_keys()
    world.blocks(6)
    return entry


def ballot(world: World, order: Order, **ayes: bool) -> None:
    """Alice proposes, everybody named votes; until the result is on L1."""
    alice = world.user("alice")
    known: Any = alice.ask("democracy.polls")
    alice.call("democracy.propose", order=encode(order))
    world.blocks(2)
    polls: Any = alice.ask("democracy.polls")
    fresh = [one for one in polls if one not in known]
    if len(fresh) != 1:
        raise HistoryError("the order is not voted on")
    number, opens_at, closes_at = fresh[0][0], fresh[0][4], fresh[0][5]
    world.run_until(opens_at)
    votes = [
        world.user(name).call("democracy.vote", poll=number, aye=aye)
        for name, aye in ayes.items()
    ]
    world.run_until(closes_at + 4)
    if any(one.receipt().outcome != "ok" for one in votes):
        raise HistoryError("a vote did not count")


# --- whole histories ---


def key_upgrades(world: World, v1: Runtime, v2: Runtime) -> None:
    """A key decides; the keys of the shard rotate at the upgrade."""
    old = begun(world, v1, v2)
    world.user("alice").call(
        "balances.transfer", dest=world.user("bob").account, amount=7
    )
    world.blocks(2)
    world.schedule(world.releases[1])
    handed_over(world, old)


def holders_upgrade(world: World, v1: Runtime, v2: Runtime) -> None:
    """Holders decide by secret vote; two machines must say so.

    The world's rules are to be ``authority=STAKE, effects_quorum=2``.
    """
    old = begun(world, v1, v2)
    second_of(world, old)
    order = order_of(world, notice=22)
    ballot(world, order, alice=True, bob=True, carol=False)
    handed_over(world, old)


def hosts_vote(world: World, order: Order, *instances: WorldWorker) -> None:
    """The hosts of these instances are for an order; the first one proposes it."""
    for operator, instance in zip(OPERATORS, instances, strict=True):
        if instance is instances[0]:
            world.act(
                operator,
                "council.propose",
                order=order,
                signing_key=instance.signing_key,
            )
            continue
        world.act(
            operator,
            "council.vote",
            shard=world.shard,
            order=order.digest(),
            signing_key=instance.signing_key,
            aye=True,
        )


def hosts_upgrade(world: World, v1: Runtime, v2: Runtime) -> None:
    """Two of two platforms vote for it; the rules' authority is ``HOSTS``."""
    old = begun(world, v1, v2, operators=OPERATORS)
    second = second_of(world, old)
    config = world.config(world.releases[1], operators=OPERATORS)
    order = order_of(world, config=config)
    hosts_vote(world, order, old, second)
    handed_over(world, old)


def vendor_authority(world: World, v1: Runtime) -> SignerAuthority:
    """The vendor that signs the bundles of every world of this process."""
    probe = world.release(v1, sources={"app.py": b"probe"})
    world.releases.remove(probe)
    sigstruct = parse_sigstruct(probe.bundle.bundle.sigstruct or b"")
    return SignerAuthority(mr_signer=sigstruct.mrsigner, prod_id=1)


def vendor_upgrades(world: World, v1: Runtime, v2: Runtime) -> None:
    """The vendor's signature decides; it signed the code as well."""
    vendor = vendor_authority(world, v1)
    world._more_rules = {"authority": vendor}
    old = begun(world, v1, v2)
    config = world.config(world.releases[1], mr_signer=vendor.mr_signer, isv_prod_id=1)
    order = order_of(world, notice=4, config=config)
    endorsement = VendorEndorsement(
        modulus=rsa_public_modulus(vendor_key()).to_bytes(384, "little"),
        signature=rsa_sign_pkcs1_sha256(vendor_key(), order.preimage()),
    )
    world.submit(SignedOrder(order=order, endorsements=(endorsement,)))
    handed_over(world, old)


def vulnerability_day(world: World, v1: Runtime, v2: Runtime) -> WorldWorker:
    """One act raises the floor, evicts who is outdated, and rotates; the evicted."""
    old = begun(world, v1, v2)
    evicted = second_of(world, old)
    fixed = world.intel.tcb_recovery(
        now=world.chain.now(), advisories=("INTEL-SA-00001",)
    )
    world.register_collateral()
    old.machine.install_microcode(fixed)
    old.restart()
    old.register()
    record = world.chain.read(EnclaveRecord, enclave_key(old.signing_key))
    if record is None:
        raise HistoryError("the patched instance is not registered")
    order = world.order(
        StatusOrder,
        status=ShardStatus(
            min_tcb_evaluation_number=record.tcb_evaluation_number,
            not_before=record.attested_at,
        ),
        rotate=RotationRequest(not_before=record.attested_at, grace=0),
    )
    world.submit(world.sign_order(order))
    world.blocks(2)
    old.register()  # keys are made under a quote that is as late as the floor
    old.stage_keys()
    world.blocks(6)
    return evicted


def key_then_holders(world: World, v1: Runtime, v2: Runtime) -> None:
    """A key hands the shard to its holders, of whom one votes on an upgrade."""
    old = begun(world, v1, v2)
    rules = msgspec.structs.replace(world.schedule_now().rules, authority=STAKE)
    at = Height(world.height + 5)
    world.submit(
        world.sign_order(world.order(RulesOrder, rules=rules, effective_at=at))
    )
    world.run_until(at + 2)
    ballot(world, order_of(world, notice=20), alice=True)  # fewer than min_voters
    handed_over(world, old)
