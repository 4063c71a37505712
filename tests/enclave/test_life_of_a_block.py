"""Birth, execution, confirmation: what an honest host gets."""

from sealift.relay import merkle_root

EMPTY = merkle_root(())


def test_a_shard_is_born_executes_and_confirms(world: World) -> None:
    host, l1 = world.host, world.l1
    assert host.status().state_height == 5
    assert host.status().root == world.frontier.root
    tx = l1.invoke(host.transfer(7, nonce=0))
    at = l1.block(tx)
    l1.block()
    assert host.run().reason == "no-block"
    receipt = host.opened(host.receipts[0])
    assert (receipt.outcome, receipt.height) == ("ok", at)
    assert host.free() == 993
    world.confirm()
    host.follow()
    assert host.status().state_height >= at
    assert host.read().confirmed
