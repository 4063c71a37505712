"""Evidence of what real enclaves did: exported, verified offline, told in words."""

import pytest
from lineages import export, heights_of, verify

from sealift.evidence import EvidenceFile, VerifiedLineage, explain_lineage
from sealift.insecure_sim import PLATFORM_KIND
from sealift.protocol import (
    EntryStatus,
    Frontier,
    Schedule,
    StakeAuthority,
    SudoAuthority,
    frontier_key,
    schedule_key,
)
from sealift.testing import World


def text_of(lineage: VerifiedLineage) -> str:
    return "\n".join(explain_lineage(lineage))


def told(world: World) -> tuple[VerifiedLineage, str]:
    """Verified from bytes; the same schedule and frontier that L1 has."""
    lineage = verify(world, export(world))
    last, shard = lineage.last, world.shard
    schedule = world.chain.read(Schedule, schedule_key(shard), height=last)
    assert lineage.schedule == schedule
    frontier = world.chain.read(Frontier, frontier_key(shard), height=last)
    assert lineage.frontier == frontier
    return lineage, text_of(lineage)


def check_upgrade(world: World, lineage: VerifiedLineage, text: str) -> None:
    """Which generation ran which blocks, by what code, and that one passed it on."""
    first, second = lineage.generations
    assert (first.status, second.status) == (EntryStatus.RETIRED, EntryStatus.ACTIVE)
    assert first.code == {PLATFORM_KIND: world.releases[0].fingerprint}
    assert second.code == {PLATFORM_KIND: world.releases[1].fingerprint}
    ran = [
        height
        for height in range(first.since, lineage.last + 1)
        if world.generation_at(height) == 0
    ]
    assert (first.since, first.ran_to) == (ran[0], ran[-1])
    assert second.since == ran[-1] + 1
    assert first.confirmed_to == first.ran_to
    assert second.confirmed_from == second.since
    assert f"ran from block {first.since} to {first.ran_to}; its roots" in text
    assert f"runs from block {second.since} on; its roots" in text
    assert "; the old one's handover certificate fits" in text
    assert (
        f"notice ran from block {second.recorded_at} to {second.release_from}" in text
    )
    executed = {
        height
        for worker in world.workers.values()
        if worker.release.fingerprint == second.code[PLATFORM_KIND]
        for height in worker.executions
    }
    assert min(executed) == second.since


def check_epochs(world: World, lineage: VerifiedLineage, text: str) -> None:
    """Birth and the rotation that the upgrade owed, by whom and since when."""
    born, rotated = lineage.epochs
    new = world.workers["new"]
    assert (born.why, rotated.why) == ("birth", "upgrade")
    assert rotated.staged_by == new.signing_key
    assert rotated.holders == (new.signing_key,)
    assert rotated.valid_from > lineage.generations[1].since
    line = (
        f"Epoch 1 (by upgrade): shielding key {rotated.shielding_key.hex()}, "
        f"from block {rotated.valid_from} on; made by instance "
    )
    assert line in text
    assert new.status().epochs == (0, 1)


def test_a_key_upgrades_and_the_keys_rotate(key_history: World) -> None:
    lineage, text = told(key_history)
    check_upgrade(key_history, lineage, text)
    check_epochs(key_history, lineage, text)
    (act,) = lineage.acts
    assert act.by == (f"the key {key_history.account('authority').hex()}",)
    assert f"was decided by {act.by[0]} in block {act.height}" in text
    assert f"Act 0: UpgradeOrder {act.order.hex()}, in block {act.height}" in text


def test_holders_decide_and_two_machines_say_so(holders_history: World) -> None:
    lineage, text = told(holders_history)
    check_upgrade(holders_history, lineage, text)
    check_epochs(holders_history, lineage, text)
    (act,) = lineage.acts
    assert act.by == (
        "its holders, by the word of 2 platforms (2000 for, 1000 against)",
    )
    assert f"by {act.by[0]}." in text
    posted = heights_of(export(holders_history), "enclave_bridge.post_effects")
    assert len(posted) == 2
    assert "2 instances on 2 machines attested by quote" in text
    assert "alice" not in text
    assert holders_history.user("alice").account.hex() not in text


def test_a_tally_of_few_is_not_told(few_history: World) -> None:
    """Who was alone in voting is not shown by the evidence of it."""
    lineage, text = told(few_history)
    (_, act) = lineage.acts
    assert act.by == ("its holders, by the word of 1 platform",)
    assert " for, " not in text


def test_hosts_decide(hosts_history: World) -> None:
    lineage, text = told(hosts_history)
    check_upgrade(hosts_history, lineage, text)
    (act,) = lineage.acts
    assert act.by == ("2 of 2 platforms of its hosts",)
    assert "was decided by 2 of 2 platforms of its hosts in block" in text


def test_the_vendor_decides(vendor_history: World) -> None:
    lineage, text = told(vendor_history)
    check_upgrade(vendor_history, lineage, text)
    mr_signer = vendor_history.releases[1].bundle.sigstruct.mrsigner
    assert lineage.acts[0].by == (f"the vendor {mr_signer.hex()}",)
    assert f"by the vendor {mr_signer.hex()} in block" in text


def test_a_vulnerability_day(day_history: World) -> None:
    """The act, the floor that acts by rule, the new keys; the evicted has none."""
    lineage, text = told(day_history)
    kept, evicted = day_history.workers["old"], day_history.workers["second"]
    (act,) = lineage.acts
    assert act.kind == "StatusOrder"
    assert f"Act 0: StatusOrder {act.order.hex()}" in text
    born, rotated = lineage.epochs
    assert (born.why, rotated.why) == ("birth", "order")
    assert rotated.not_before > 0
    assert rotated.holders == (kept.signing_key,)
    assert evicted.signing_key not in rotated.holders
    assert "Epoch 1 (by order)" in text
    assert f"By rule, in block {act.height + 1}: the status acts: normal." in text
    (only,) = lineage.generations
    attested = {one.signing_key: one.attested_at for one in only.instances}
    assert attested[evicted.signing_key] < rotated.not_before
    assert attested[kept.signing_key] >= rotated.not_before
    assert lineage.schedule.status.min_tcb_evaluation_number > 1


def test_a_key_hands_the_shard_to_its_holders(few_history: World) -> None:
    lineage, text = told(few_history)
    check_upgrade(few_history, lineage, text)
    rules, upgrade = lineage.acts
    assert (rules.kind, upgrade.kind) == ("RulesOrder", "UpgradeOrder")
    assert rules.by == (f"the key {few_history.account('authority').hex()}",)
    assert isinstance(lineage.schedule.rules.authority, StakeAuthority)
    (change,) = (
        one for one in lineage.ruled if one.words == "the shard lives by other rules"
    )
    assert rules.height < change.height < upgrade.height
    assert f"By rule, in block {change.height}: the shard lives by other rules." in text


def test_before_the_rules_change_it_is_told_as_ahead(few_history: World) -> None:
    """The same history, read in the middle: what was decided, and not yet acts."""
    (at, *_) = heights_of(export(few_history), "enclave_bridge.submit_order")
    lineage = verify(few_history, export(few_history, to=at + 1))
    assert isinstance(lineage.schedule.rules.authority, SudoAuthority)
    assert "Ahead: other rules from block" in text_of(lineage)
    assert len(lineage.generations) == 1


@pytest.mark.parametrize(
    "name",
    ["key", "holders", "few", "hosts", "vendor", "day"],
)
def test_each_block_of_a_history_can_be_the_last_one(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Whenever it is exported, it is true of all that had happened by then."""
    world: World = request.getfixturevalue(f"{name}_history")
    created = verify(world, export(world)).created_at
    acts = 0
    for last in range(created, world.height - 1, 3):
        file: EvidenceFile = export(world, to=last)
        lineage = verify(world, file)
        assert lineage.last == last
        assert len(lineage.acts) >= acts
        acts = len(lineage.acts)
