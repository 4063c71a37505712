"""The new generation comes late, or never: nothing that was called is lost."""

from collections.abc import Callable

import pytest
from story import Story

from sealift.protocol import EntryStatus
from sealift.testing import RefusedError


def test_calls_wait_in_l1_for_a_new_one_that_comes_late(story: Story) -> None:
    entry = story.schedule()
    xyz = entry.upgrade_at
    story.business_until(xyz + 3)
    waiting = [call for call in story.calls[:-2] if call.height >= xyz]
    assert len(waiting) >= 6
    assert all(call.find_receipt() is None for call in waiting)
    assert story.old.executions[-1] == xyz - 1

    new = story.join(entry)
    story.business(2)
    assert new.executions[0] == xyz
    story.settle()
    story.check_calls()
    story.check_chain_of_roots()
    assert story.world.frontier().generation == entry.generation


def test_a_late_one_is_provisioned_though_the_old_enclave_was_restarted(
    story: Story,
) -> None:
    entry = story.schedule()
    story.business_until(entry.upgrade_at + 2)
    story.old.restart()
    story.join(entry)
    story.settle()
    story.check_calls()


def test_if_it_never_comes_the_predecessor_is_given_the_waiting_blocks(
    story: Story,
) -> None:
    world, old = story.world, story.old
    entry = story.schedule()
    xyz = entry.upgrade_at
    rescued_at = xyz + world.schedule_now().rules.rescue_after
    story.business_until(rescued_at - 1)
    assert old.executions[-1] == xyz - 1
    story.business(3)
    assert world.schedule_now().entry(entry.generation).status is EntryStatus.VOID
    story.settle()
    rescuer = world.generation_at(xyz)
    assert rescuer == entry.generation + 1
    assert old.executions == list(range(old.executions[0], world.height))
    story.check_calls()
    story.check_chain_of_roots()
    assert world.frontier().generation == rescuer
    old.restart()
    story.business(2)
    story.settle()
    story.check_calls()


def test_a_restart_between_xyz_and_the_rescue_loses_no_waiting_block(
    story: Story,
) -> None:
    entry = story.schedule()
    story.business_until(entry.upgrade_at + 4)
    story.old.restart()
    story.business(6)
    story.settle()
    story.check_calls()


@pytest.mark.parametrize("after", [1, 2, 5])
def test_inv7_a_rescuer_that_is_killed_while_it_catches_up_goes_on(
    story: Story, after: int
) -> None:
    """Its disk has blocks of a generation that its checkpoint has not heard of."""
    world, old = story.world, story.old
    entry = story.schedule()
    xyz = entry.upgrade_at
    rescued_at = xyz + world.schedule_now().rules.rescue_after
    old.crash_before = f"keep block {xyz + after}"
    story.business_until(rescued_at + 2)
    assert not old.running
    assert old.executions[-1] == xyz + after - 1
    old.restart()
    story.business(3)
    story.settle()
    assert not old.status().halted
    story.check_calls()
    story.check_chain_of_roots()
    assert world.frontier().generation == entry.generation + 1


@pytest.fixture
def voided(new_story: Callable[..., Story]) -> Story:
    """The new one executed from XYZ on, but its host told nobody; then rescue."""
    story = new_story(rescue_after=4)
    entry = story.schedule()
    new = story.join(entry)
    new.mute = True
    story.business_until(entry.upgrade_at + 3)
    assert new.executions[0] == entry.upgrade_at
    story.business(3)
    assert story.world.schedule_now().entry(1).status is EntryStatus.VOID
    return story


def test_the_voided_enclave_discovers_it_and_stops(voided: Story) -> None:
    new = voided.world.workers["new"]
    last = new.executions[-1]
    voided.business(3)
    assert new.executions[-1] == last
    assert new.refusals[-1].name == "DivergedStateError"
    assert "voided" in new.status().halted
    with pytest.raises(RefusedError) as refused:
        voided.alice.ask("auction.my_bid", 0, worker=new)
    assert refused.value.name in {"NotServingError", "DivergedStateError"}
    with pytest.raises(RefusedError) as refused:
        new.export_snapshot()
    assert refused.value.name == "DivergedStateError"


def test_the_voided_enclave_discovers_it_again_after_a_restart(voided: Story) -> None:
    new = voided.world.workers["new"]
    before = len(new.executions)
    new.restart()
    voided.business(3)
    assert len(new.executions) == before
    assert new.refusals[-1].name == "DivergedStateError"


def test_the_confirmations_of_a_voided_generation_are_refused(voided: Story) -> None:
    new = voided.world.workers["new"]
    assert new.signed
    for said in new.signed:
        if said.confirmation is None:
            continue
        with pytest.raises(RefusedError) as refused:
            voided.world.act(
                "carrier",
                "enclave_bridge.confirm",
                confirmation=said.confirmation,
                signature=said.signature,
            )
        assert refused.value.name == "VoidedGenerationError"


def test_what_the_voided_generation_did_never_took_effect(voided: Story) -> None:
    voided.settle()
    voided.check_calls()
    voided.old.restart()
    voided.business(2)
    voided.settle()
    voided.check_calls()
    assert voided.world.frontier().generation == 2
    assert voided.old.roots[voided.world.frontier().confirmed]


def test_the_voided_code_is_not_given_keys_again(voided: Story) -> None:
    again = voided.world.worker("again", voided.b)
    with pytest.raises(RefusedError) as refused:
        again.request_keys(voided.old)
    assert refused.value.name == "WrongFingerprintForShardError"
    assert again.status().epochs == ()


def test_the_authority_may_try_again_after_a_rescue(voided: Story) -> None:
    """A corrected release is another fingerprint; the voided one stays void."""
    world = voided.world
    fixed = world.release(voided.v2, isv_svn=2)
    entry = voided.schedule(fixed)
    assert entry.predecessor == 2
    voided.join(entry, name="newer", release=fixed)
    voided.business_until(entry.upgrade_at + 2)
    voided.settle()
    voided.check_calls()
    assert world.frontier().generation == entry.generation
