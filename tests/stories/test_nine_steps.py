"""The handover of DESIGN §11, step by step, while the business goes on."""

from typing import Any

from story import Story

from sealift.base import encode
from sealift.protocol import (
    EnclaveRecord,
    HandoverCertificate,
    certificate_key,
    enclave_key,
)


def test_the_nine_steps_of_a_handover(story: Story) -> None:
    world, old = story.world, story.old

    # 1. The old worker runs.
    story.business(3)
    assert old.executions[-1] == world.height - 1

    # 2. The authority schedules fingerprint B at block XYZ: a TrustedCall by sudo.
    order = world.upgrade_order(story.b, delay=4)
    said = world.user("authority").call(
        "enclave_update.update_mrenclave", order=encode(order)
    )
    story.business(3)
    assert said.receipt().outcome == "ok"
    entry = world.schedule_now().entries[-1]
    assert entry.config.code == {"insecure-sim": story.b.fingerprint}
    xyz = entry.upgrade_at

    # 3. and 4. The new worker asks for keys; the old enclave provisions it.
    new = story.join(entry)
    assert new.status().epochs == (0,)

    # 5. and 6. It runs beside the old one and announces itself on L1.
    world.send(
        "operator",
        "teerex.announce",
        signing_key=new.signing_key,
        url="http://same-host.test:2001",
    )
    story.business()
    record = world.chain.read(EnclaveRecord, enclave_key(new.signing_key))
    assert record is not None
    assert record.url == "http://same-host.test:2001"
    assert record.statement.provider == old.signing_key

    # 7. It follows without executing; its state is the old one's, block by block.
    while world.height < xyz:
        assert new.status().state_height == old.status().state_height
        assert new.status().root == old.status().root
        assert new.executions == []
        story.business()

    # 8. At XYZ the old enclave stops by itself; its certificate goes to L1.
    assert old.executions[-1] == xyz - 1
    story.business(3)
    assert old.executions[-1] == xyz - 1
    assert old.idle == "not-mine"
    certificate = world.chain.read(HandoverCertificate, certificate_key(world.shard))
    assert certificate is not None
    assert (certificate.height, certificate.root) == (xyz - 1, old.roots[xyz - 1])

    # 9. The new enclave migrates and executes from XYZ.
    assert new.executions[0] == xyz
    layout: Any = story.alice.ask("auction.my_bid", 0)
    assert layout[0] == "Bid"  # version 2 keeps bids in books
    _goes_on(story, xyz)

    # Restart is part of every upgrade: both come back and go on.
    root = new.status().root
    old.restart()
    new.restart()
    assert new.status().root == root
    assert old.executions[-1] == xyz - 1
    story.business(3)
    _goes_on(story, xyz)


def _goes_on(story: Story, xyz: int) -> None:
    """Nothing was lost, doubled or reordered, and no one waited longer."""
    story.settle()
    old, new = story.old, story.world.workers["new"]
    first = old.executions[0]
    executed = old.executions + new.executions
    assert executed == list(range(first, story.world.height)), "each block once"
    assert old.executions[-1] == xyz - 1
    story.check_calls()
    story.check_chain_of_roots()
    assert set(story.seen_after.values()) == {1}, "a gap of no block"
    assert story.world.frontier().generation == 1
    assert old.refusals == new.refusals == []
