"""One sealed key store, two live enclaves with one signing key."""

from itertools import combinations

import pytest
from notebook import runtime

from sealift.ledger._roots import conflicting
from sealift.protocol import Confirmation
from sealift.protocol.ecall import Confirm, Confirmed, DiffApply, Refused
from sealift.testing import World, WorldWorker


def all_that_it_signs(worker: WorldWorker, low: int, high: int) -> list[Confirmation]:
    """Every range that a host can make an enclave sign."""
    found = []
    for after in range(low, high):
        for durable in range(after + 1, high + 1):
            reply = worker.ask_enclave(Confirm(after=after, durable=durable))
            if isinstance(reply, Confirmed) and reply.confirmation is not None:
                reply.confirmation.verify(worker.signing_key, reply.signature or b"")
                found.append(reply.confirmation)
    return found


def test_no_host_makes_twins_sign_what_cannot_both_be_true(world: World) -> None:
    """Two starts of one disk, given the chain by halves, whole, and with diffs of
    each other: whatever they sign, L1 finds no conflict in it.
    """
    old = world.workers["old"]
    disk = old.disk.copy()
    low = world.frontier().confirmed
    old.mute = True  # the frontier stays where it is
    for number in range(5):
        world.user("alice").call("notebook.write", text=f"{number}")
        world.block()
    whole, half, mixed = (world.clone(old, disk) for _ in range(3))
    whole.step()
    half.step(upto=world.height - 3)
    mixed.step(upto=world.height - 4)
    state = mixed.status().state_height
    assert state is not None
    for height in sorted(h for h in whole.disk.diffs if h > state):
        mixed.call(DiffApply(diff=whole.disk.diffs[height]), object)
    twins = (old, whole, half, mixed)
    assert {t.signing_key for t in twins} == {old.signing_key}
    high = old.status().state_height
    assert high is not None
    signed = [(t, all_that_it_signs(t, low, high)) for t in twins]
    assert all(found for _, found in signed)
    every = [one for _, found in signed for one in found]
    assert len(every) > 20
    for left, right in combinations(every, 2):
        assert not conflicting(left, right)
        if (left.first, left.last) == (right.first, right.last):
            assert left == right, "one range, one confirmation"


@pytest.mark.parametrize("until", [0, 1, 2])
def test_one_key_does_not_speak_for_two_generations(world: World, until: int) -> None:
    """A twin that is kept before XYZ signs nothing at or after it, whatever
    diffs of the next generation its host applies to it.
    """
    old = world.workers["old"]
    v2 = world.release(runtime(version=2))
    entry = world.schedule(v2)
    world.run_until(entry.release_from)
    new = world.worker("new", v2, upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at - 1)
    disk = old.disk.copy()
    world.run_until(entry.upgrade_at + 4)
    assert new.executions[0] == entry.upgrade_at
    twin = world.clone(old, disk)
    twin.step(upto=entry.upgrade_at - 1 + until)
    for height in sorted(h for h in new.disk.diffs if h >= entry.upgrade_at):
        twin.ask_enclave(DiffApply(diff=new.disk.diffs[height]))
    for said in all_that_it_signs(twin, entry.upgrade_at - 3, entry.upgrade_at + 3):
        assert said.last < entry.upgrade_at
        assert said.generation == 0
    reply = twin.ask_enclave(
        Confirm(after=entry.upgrade_at - 1, durable=entry.upgrade_at)
    )
    assert isinstance(reply, Refused)
    assert all(height < entry.upgrade_at for height in twin.executions)
