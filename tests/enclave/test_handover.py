"""XYZ: who executes what, before, at and after; rescue; rolled-back disks."""

from typing import Any

import pytest
from enclave_world import (
    CODE_A,
    CODE_B,
    FakePlatform,
    MigratingExtra,
    World,
    entry,
    runtime_v1,
    schedule,
)

from sealift.base import encode
from sealift.enclave import (
    ConfirmRangeError,
    DivergedStateError,
)
from sealift.frame import ForeignStateError, MigrationFailedError, Runtime
from sealift.protocol import EntryStatus, Frontier, HandoverCertificate
from sealift.protocol import ecall as e
from sealift.stf import StandardPallets


class Upgrade:
    """Code B is to run from block XYZ; its instance follows the old one."""

    def __init__(self, world: World, runtime: Runtime | None = None) -> None:
        self.world, self.l1, self.old = world, world.l1, world.host
        self.xyz = self.l1.height + 5
        self.put(EntryStatus.PENDING)
        self.new = world.twin(
            platform=FakePlatform(CODE_B, machine=b"m2"),
            runtime=runtime or runtime_v1(MigratingExtra(), version=2),
        )
        self.new.follow()
        self.new.offer(self.old.export())

    def put(self, status: EntryStatus, *more: Any, old: str = "active") -> None:
        self.l1.ledger.schedule = schedule(
            entry(0, CODE_A, 3, status=EntryStatus(old)),
            entry(1, CODE_B, self.xyz, status=status),
            *more,
        )

    def to(self, height: int, *txs: bytes) -> None:
        """Blocks up to ``height``, calls in the first, and one header more."""
        while self.l1.height < height:
            self.one(*txs)
            txs = ()

    def one(self, *txs: bytes) -> None:
        if self.l1.height + 1 == self.xyz:
            self.put(EntryStatus.ACTIVE, old="retired")
        self.l1.block(*txs)

    def hand_diffs(self) -> None:
        for height in sorted(self.old.diffs):
            if self.new.status().state_height == height - 1:
                self.new.call(e.DiffApply(diff=self.old.diffs[height]))


@pytest.fixture
def upgrade(world: World) -> Upgrade:
    return Upgrade(world)


def test_the_old_stops_before_xyz_and_the_new_goes_on(upgrade: Upgrade) -> None:
    old, new, xyz = upgrade.old, upgrade.new, upgrade.xyz
    upgrade.to(xyz - 1, upgrade.l1.invoke(old.transfer(7, nonce=0)))
    upgrade.to(xyz + 1, upgrade.l1.invoke(old.transfer(9, nonce=1)))
    assert old.run().reason == "not-mine"
    assert old.status().state_height == xyz - 1
    upgrade.hand_diffs()
    assert new.run().reason == "no-block"
    assert new.status().state_height == xyz
    assert new.free() == 984
    assert [r.height for r in old.receipts] == [xyz - 4]
    assert [r.height for r in new.receipts] == [xyz]


def test_the_new_confirms_at_once_on_the_old_ones_last_root(
    upgrade: Upgrade,
) -> None:
    old, new, xyz = upgrade.old, upgrade.new, upgrade.xyz
    upgrade.to(xyz + 1)
    old.run()
    upgrade.hand_diffs()
    new.run()
    last = old.call(e.Confirm(after=5, durable=xyz - 1)).confirmation
    first = new.call(e.Confirm(after=xyz - 1, durable=xyz)).confirmation
    assert (last.generation, last.last) == (0, xyz - 1)
    assert (first.generation, first.first, first.prev_root) == (1, xyz, last.root)
    with pytest.raises(ConfirmRangeError):
        new.call(e.Confirm(after=xyz - 2, durable=xyz))


def test_the_last_block_gets_a_certificate(upgrade: Upgrade) -> None:
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.to(xyz)
    old.follow()
    done = []
    while isinstance(one := old.execute(), e.Executed):
        done.append(one)
    assert [one.last_of_generation for one in done] == [False] * (len(done) - 1) + [
        True
    ]
    early = old.call(e.Confirm(after=5, durable=xyz - 2))
    assert early.certificate is None
    reply = old.call(e.Confirm(after=5, durable=xyz - 1))
    said = reply.certificate
    said.verify(said.signing_key, reply.certificate_signature)
    assert (said.generation, said.successor, said.height) == (0, 1, xyz - 1)
    assert said.root == old.status().root
    old.restart()
    old.follow()
    again = old.call(e.Confirm(after=5, durable=xyz - 1)).certificate
    assert again == said


def test_no_certificate_for_a_cancelled_upgrade(upgrade: Upgrade) -> None:
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.to(xyz - 2)
    upgrade.put(EntryStatus.CANCELLED)
    upgrade.l1.block()
    upgrade.l1.block()
    old.run()
    reply = old.call(e.Confirm(after=5, durable=old.status().state_height))
    assert reply.certificate is None


def test_a_cancelled_upgrade_leaves_the_shard_to_the_old(upgrade: Upgrade) -> None:
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.put(EntryStatus.CANCELLED)
    for _ in range(8):
        upgrade.l1.block()
    assert old.run().reason == "no-block"
    assert old.status().state_height > xyz


def test_the_new_executes_nothing_before_xyz(upgrade: Upgrade) -> None:
    upgrade.to(upgrade.xyz)
    assert upgrade.new.run().reason == "not-mine"
    assert upgrade.new.status().state_height == 5


@pytest.mark.parametrize("back", [1, 3])
def test_a_rolled_back_disk_executes_nothing_at_or_after_xyz(
    upgrade: Upgrade, back: int
) -> None:
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.to(xyz - 2)
    old.run()
    checkpoint = old.checkpoint
    upgrade.to(xyz + 2)
    old.run()
    root = old.status().root
    # the disk is set back to before XYZ-1, the process starts again
    for height in sorted(old.diffs)[-back:]:
        del old.diffs[height]
    old.checkpoint = checkpoint if back == 1 else None
    old.boot()
    old.start()
    if back != 1:
        old.follow(5)
    old.load()
    while isinstance(old.execute(), e.Executed):
        pass
    old.run()
    assert old.status().state_height == xyz - 1
    assert old.status().root == root
    for _ in range(3):
        assert old.execute().reason == "not-mine"


def test_an_old_host_cannot_hide_xyz_by_hiding_blocks(upgrade: Upgrade) -> None:
    """Without a proof of who runs XYZ there is no block XYZ to execute."""
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.to(xyz + 1)
    old.follow(xyz - 1)
    while isinstance(old.execute(), e.Executed):
        pass
    assert old.status().state_height == xyz - 1
    assert old.execute().reason == "no-block"


def test_rescue_gives_the_waiting_blocks_back_to_the_predecessor(
    upgrade: Upgrade,
) -> None:
    old, new, xyz = upgrade.old, upgrade.new, upgrade.xyz
    upgrade.to(xyz - 1)
    upgrade.to(xyz, upgrade.l1.invoke(old.transfer(7, nonce=0)))
    upgrade.to(xyz + 2, upgrade.l1.invoke(old.transfer(9, nonce=1)))
    assert old.run().reason == "not-mine"
    upgrade.hand_diffs()
    new.run()
    assert new.status().state_height == xyz + 1
    rescuer = entry(2, CODE_A, xyz, upgrade_at=xyz + 4, predecessor=0)
    upgrade.put(EntryStatus.VOID, rescuer, old="retired")
    upgrade.l1.block()
    upgrade.l1.block()
    # the voided code's work is void, also what it executed already
    new.follow()
    with pytest.raises(DivergedStateError):
        new.execute()
    with pytest.raises(DivergedStateError):
        new.call(e.Confirm(after=xyz - 1, durable=xyz))
    assert new.status().halted
    assert old.run().reason == "no-block"
    assert old.status().state_height == upgrade.l1.height - 1
    assert old.free() == 984
    said = old.call(e.Confirm(after=xyz - 1, durable=xyz + 1)).confirmation
    assert (said.generation, said.first) == (2, xyz)
    with pytest.raises(ConfirmRangeError):
        # not in one breath with its own earlier generation
        old.call(e.Confirm(after=xyz - 2, durable=xyz + 1))


def test_rescue_works_after_a_restart_of_the_predecessor(upgrade: Upgrade) -> None:
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.to(xyz + 2, upgrade.l1.invoke(old.transfer(7, nonce=0)))
    old.run()
    rescuer = entry(2, CODE_A, xyz, upgrade_at=xyz + 4, predecessor=0)
    upgrade.put(EntryStatus.VOID, rescuer, old="retired")
    upgrade.l1.block()
    upgrade.l1.block()
    old.restart()
    assert old.run().reason == "no-block"
    assert old.status().state_height == upgrade.l1.height - 1


def test_what_the_new_code_confirmed_the_old_forgets(upgrade: Upgrade) -> None:
    old, new, xyz = upgrade.old, upgrade.new, upgrade.xyz
    upgrade.to(xyz + 2)
    old.run()
    assert old.status().waiting == 2
    upgrade.hand_diffs()
    new.run()
    upgrade.l1.block(
        frontier=Frontier(confirmed=xyz + 1, root=new.roots[xyz + 1], generation=1)
    )
    upgrade.l1.block()
    old.follow()
    waiting = [block.height for block in old.enclave._shard.queue]
    assert waiting == [xyz + 2, xyz + 3]


def test_a_failed_migration_refuses_and_the_enclave_goes_on(world: World) -> None:
    extra = MigratingExtra()
    extra.fails = True
    upgrade = Upgrade(world, runtime_v1(extra, version=2))
    new, xyz = upgrade.new, upgrade.xyz
    upgrade.to(xyz + 1)
    upgrade.old.run()
    upgrade.hand_diffs()
    new.follow()
    before = new.status()
    for _ in range(2):
        with pytest.raises(MigrationFailedError):
            new.execute()
        assert new.status() == before
    extra.fails = False
    assert new.run().reason == "no-block"
    assert new.status().state_height == xyz


def test_code_of_another_application_takes_no_state(world: World) -> None:
    other = Runtime(name="other", version=2, pallets=StandardPallets().pallets)
    upgrade = Upgrade(world, other)
    upgrade.to(upgrade.xyz + 1)
    upgrade.old.run()
    upgrade.hand_diffs()
    upgrade.new.follow()
    with pytest.raises(ForeignStateError):
        upgrade.new.execute()


def test_a_late_newcomer_takes_the_confirmed_state(upgrade: Upgrade) -> None:
    old, xyz = upgrade.old, upgrade.xyz
    upgrade.to(xyz)
    old.run()
    upgrade.world.confirm(old)
    late = upgrade.world.twin(
        platform=FakePlatform(CODE_B, machine=b"m3"),
        seed=b"late",
        runtime=runtime_v1(MigratingExtra(), version=2),
    )
    late.follow()
    late.offer(old.export())
    assert late.run().reason == "no-block"
    assert late.status().state_height == upgrade.l1.height - 1


def test_a_certificate_on_l1_covers_a_state_as_well(world: World) -> None:
    host, l1 = world.host, world.l1
    for _ in range(3):
        l1.block()
    host.run()
    state = host.status()
    taker = world.twin()
    taker.follow()
    taker.offer(host.export())
    certificate = HandoverCertificate(
        chain_id="test-chain",
        shard=b"s" * 32,
        generation=0,
        successor=1,
        height=state.state_height,
        root=state.root,
        signing_key=state.signing_key,
    )
    l1.block()
    taker.follow()
    idle = taker.execute()
    assert (idle.reason, idle.detail[:21]) == ("behind", "StateUnconfirmedError")
    l1.block(certificate=certificate)
    l1.block()
    assert taker.run().reason == "no-block"


def test_what_is_confirmed_leaves_the_trail(world: World) -> None:
    for _ in range(4):
        world.l1.block()
    world.host.run()
    state = world.host.enclave._shard.state
    assert [done.height for done in state.trail] == [6, 7, 8, 9]
    world.confirm()
    world.host.run()
    assert [done.height for done in state.trail] == [10, 11]


def test_a_late_instance_does_not_confirm_what_is_confirmed(world: World) -> None:
    late = world.twin()
    late.follow()
    late.offer(world.host.export())
    for _ in range(3):
        world.l1.block()
    world.host.run()
    world.confirm()
    late.follow()
    while late.status().state_height < 7:
        late.execute()
    with pytest.raises(ConfirmRangeError):
        late.call(e.Confirm(after=5, durable=7))


def test_a_state_that_was_not_confirmed_is_given_up(world: World) -> None:
    host, l1 = world.host, world.l1
    for _ in range(2):
        l1.block()
    host.run()
    l1.block(frontier=Frontier(confirmed=6, root=b"x" * 32, generation=0))
    l1.block()
    host.follow()
    with pytest.raises(DivergedStateError):
        host.execute()
    for request in (e.SnapshotBegin(), e.Ask(envelope=b""), e.DiffApply(diff=b"")):
        with pytest.raises(DivergedStateError):
            host.call(request)
    assert "confirmed" in host.status().halted


def test_a_state_that_leads_past_a_confirmed_root_is_given_up(world: World) -> None:
    """The frontier was ahead of this instance: reaching it, roots must agree."""
    host, l1 = world.host, world.l1
    l1.block(frontier=Frontier(confirmed=6, root=b"x" * 32, generation=0))
    l1.block()
    host.follow()
    host.execute()
    with pytest.raises(DivergedStateError):
        host.execute()


def test_a_snapshot_of_the_confirmed_state_heals(world: World) -> None:
    host, l1 = world.host, world.l1
    good = world.twin()
    good.follow()
    good.offer(host.export())
    l1.block()
    good.run()
    host.follow()
    shard = host.enclave._shard
    shard.state.store.apply({b"bit": b"flip"})
    host.execute()
    l1.block(frontier=Frontier(confirmed=6, root=good.roots[6], generation=0))
    l1.block()
    host.follow()
    with pytest.raises(DivergedStateError):
        host.execute()
    host.offer(good.export())
    assert host.run().reason == "no-block"
    good.run()
    assert host.status().root == good.status().root


def test_encoding_of_a_status_is_public(world: World) -> None:
    status = encode(world.host.status())
    keys = world.host.enclave._shard.keys
    secrets = [keys.seed, keys.hpke_seed, keys.tls_secret]
    secrets += [
        secret
        for one in keys.epochs
        for secret in (one.shielding_secret, one.state_key, one.root_key)
    ]
    assert all(secret not in status for secret in secrets)
