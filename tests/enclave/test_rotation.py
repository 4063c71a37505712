"""New keys: who makes them, who reads what, and what a host can't undo (DESIGN §12)."""

from collections.abc import Callable

import msgspec
import pytest
from enclave_world import (
    GENESIS,
    SHARD,
    FakePlatform,
    Host,
    World,
)
from rotation_world import GRACE, Rotation, held_keys, secrets
from snapshot_forge import altered, facts_of

from sealift.base import decode
from sealift.enclave import (
    DivergedStateError,
    NoKeysError,
    ScheduleNotBroughtError,
    WrongEpochError,
)
from sealift.enclave._diff import seal_diff
from sealift.enclave._state import DiffHeader, SealedDiff, keyed_root
from sealift.frame import ProofInvalidError
from sealift.protocol import (
    NoEpochError,
    epoch_at,
    record_key,
    schedule_key,
)
from sealift.protocol import ecall as e
from sealift.stf import UnknownEpochError


@pytest.fixture
def rotation(world: World) -> Rotation:
    return Rotation(world)


def epoch_of_diff(diff: bytes) -> int:
    return decode(DiffHeader, decode(SealedDiff, diff).header).epoch


def hand_diffs(giver: Host, taker: Host) -> None:
    for height in sorted(giver.diffs):
        if taker.status().state_height == height - 1:
            taker.call(e.DiffApply(diff=giver.diffs[height]))


class TestTheWay:
    def test_from_one_epoch_to_the_next(self, rotation: Rotation) -> None:
        a, b, l1 = rotation.a, rotation.b, rotation.l1
        a.run()
        b.follow()
        b.offer(a.export())
        l1.block(l1.invoke(a.transfer(1, nonce=0)))
        second = rotation.rotate(a, b)
        rotation.to(second.valid_from + 1, l1.invoke(a.transfer(2, nonce=1)))
        for host in (a, b):
            assert host.run().reason == "no-block"
            assert host.status().epochs == (0, 1)
            assert host.status().staged is None
            assert host.status().state_height == second.valid_from + 1
            assert host.free() == 997
        assert a.roots == b.roots
        for height, diff in a.diffs.items():
            assert epoch_of_diff(diff) == int(height >= second.valid_from)

    def test_calls_of_the_old_epoch_are_taken_for_its_grace_only(
        self, rotation: Rotation
    ) -> None:
        a, l1 = rotation.a, rotation.l1
        first = rotation.ledger.epochs[0]
        second = rotation.rotate()
        end = second.valid_from + GRACE
        rotation.to(end - 3)
        l1.block(l1.invoke(a.transfer(3, nonce=0, epoch=first)))
        l1.block(l1.invoke(a.transfer(4, nonce=1, epoch=first)))
        l1.block(l1.invoke(a.transfer(5, nonce=1, epoch=second)))
        l1.block()
        a.run()
        assert l1.height == end + 2
        assert a.free() == 1000 - 3 - 5

    def test_calls_of_the_next_epoch_are_not_taken_before_it_acts(
        self, rotation: Rotation
    ) -> None:
        a, l1 = rotation.a, rotation.l1
        second = rotation.rotate()
        early = l1.block(l1.invoke(a.transfer(3, nonce=0, epoch=second)))
        assert early < second.valid_from
        l1.block(l1.invoke(a.transfer(5, nonce=0, epoch=second)))
        l1.block()
        a.run()
        assert a.free() == 995

    def test_a_read_under_an_old_epoch_is_refused_by_name(
        self, rotation: Rotation
    ) -> None:
        """Whoever keeps the old key could read its reply key, and so the reply."""
        a, first = rotation.a, rotation.ledger.epochs[0]
        second = rotation.rotate()
        rotation.to(second.valid_from)
        a.run()
        assert a.read(epoch=first).state_height == second.valid_from  # in its grace
        rotation.to(second.valid_from + GRACE)
        a.run()
        with pytest.raises(UnknownEpochError):
            a.read(epoch=first)
        assert a.free() == 1000

    def test_restart_at_every_step(self, make_world: Callable[[], World]) -> None:
        calm, shaken = Rotation(make_world()), Rotation(make_world())
        for one in (calm, shaken):
            restart = one.a.restart if one is shaken else one.a.status
            restart()
            one.l1.block(one.l1.invoke(one.a.transfer(1, nonce=0)))
            one.demand()
            one.a.run()
            restart()
            assert one.take_staged(one.stage(one.a))
            restart()
            one.hold(one.a)
            restart()
            second = one.activate()
            one.a.run()
            restart()
            one.to(second.valid_from - 1)
            one.a.run()
            restart()
            one.to(
                second.valid_from + 1,
                one.l1.invoke(one.a.transfer(2, nonce=1, epoch=second)),
            )
            one.a.run()
            restart()
            one.l1.block()
            one.a.run()
            assert one.a.status().epochs == (0, 1)
            assert one.a.free() == 997
            assert one.a.status().state_height == second.valid_from + 2

    def test_a_newcomer_comes_in_across_a_rotation(self, rotation: Rotation) -> None:
        a, l1 = rotation.a, rotation.l1
        a.run()
        old = a.export()
        second = rotation.rotate()
        rotation.to(second.valid_from + 1, l1.invoke(a.transfer(2, nonce=0)))
        a.run()
        late = Host(l1, FakePlatform(machine=b"m3"), seed=b"late")
        rotation.provision(a, late)
        assert late.status().epochs == (0, 1)
        late.offer(old)
        hand_diffs(a, late)
        assert late.status().root == a.status().root
        later = Host(l1, FakePlatform(machine=b"m4"), seed=b"later")
        rotation.provision(a, later)
        later.offer(a.export())
        rotation.world.confirm()
        for host in (a, late, later):
            host.run()
        assert a.status().root == late.status().root == later.status().root

    def test_a_snapshot_is_made_under_the_epoch_of_its_height(
        self, rotation: Rotation
    ) -> None:
        a = rotation.a
        second = rotation.rotate()
        for height, epoch in (
            (second.valid_from - 1, 0),
            (second.valid_from, 1),
        ):
            rotation.to(height)
            a.run()
            header, _ = a.export()
            body = facts_of(header)
            assert (body.height, body.epoch) == (height, epoch)

    def test_the_genesis_state_is_of_the_first_epoch(self, rotation: Rotation) -> None:
        shown = rotation.ledger.shown()
        with pytest.raises(NoEpochError):
            epoch_at(shown, rotation.world.frontier.confirmed)
        header, _ = rotation.a.export()
        assert facts_of(header).epoch == 0


class TestWithdrawn:
    """Invariant 8: the keys of an epoch that began after the withdrawal."""

    @pytest.fixture
    def withdrawn(self, rotation: Rotation) -> Host:
        """``b`` has disk, state and all keys of epoch 0; then its time is over."""
        a, b = rotation.a, rotation.b
        a.run()
        b.follow()
        rotation.before = a.export()
        b.offer(rotation.before)
        second = rotation.rotate(a)
        rotation.to(second.valid_from + 1, rotation.l1.invoke(a.transfer(2, nonce=0)))
        a.run()
        return b

    def test_it_reads_no_call_of_the_next_epoch(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        second = rotation.ledger.epochs[1]
        withdrawn.follow()
        idle = withdrawn.run()
        assert idle.reason == "no-keys"
        assert "epoch 1" in idle.detail
        assert withdrawn.status().state_height == second.valid_from - 1
        assert withdrawn.status().missing == (1,)
        assert withdrawn.status().shielding_key is None
        with pytest.raises(UnknownEpochError):
            withdrawn.read(epoch=second)

    def test_it_opens_no_diff_of_the_next_epoch(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        hand = rotation.a.diffs
        withdrawn.run()
        height = rotation.ledger.epochs[1].valid_from
        with pytest.raises(NoKeysError):
            withdrawn.call(e.DiffApply(diff=hand[height]))

    def test_it_opens_no_snapshot_of_the_next_epoch(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        header, _ = rotation.a.export()
        with pytest.raises(NoKeysError):
            withdrawn.call(e.SnapshotBegin(header=header))

    def test_it_neither_stages_nor_holds_what_is_next(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        rotation.demand()
        withdrawn.follow()
        with pytest.raises(NoKeysError):
            withdrawn.call(e.StageKeys())
        assert rotation.take_staged(rotation.stage(rotation.a))
        withdrawn.follow()
        with pytest.raises(NoKeysError):
            withdrawn.call(e.HoldKeys())

    def test_no_secret_of_the_next_epoch_comes_from_one_of_the_last(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        old, new = held_keys(rotation.a)
        assert not set(secrets(old)) & set(secrets(new))
        assert held_keys(withdrawn) == (old,)

    def forged(self, rotation: Rotation, victim: Host, *, height: int) -> bytes:
        """A diff in the victim's name, by a thief of epoch 0's keys alone."""
        thief = msgspec.structs.replace(
            victim.enclave._shard.keys, seed=b"t" * 32, epochs=held_keys(rotation.b)
        )
        mine = rotation.a.diffs[height]
        honest = decode(DiffHeader, decode(SealedDiff, mine).header).entry
        lied = msgspec.structs.replace(honest, maker=victim.status().signing_key)
        return seal_diff(thief, 0, lied, {}, entropy=rotation.a.entropy)

    def test_a_diff_of_the_old_epoch_at_a_height_of_the_next(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        a, height = rotation.a, rotation.ledger.epochs[1].valid_from
        a.restart()
        a.boot()
        a.start()
        a.call(e.Genesis(blob=GENESIS))
        for below in sorted(h for h in a.diffs if h < height):
            a.call(e.DiffApply(diff=a.diffs[below]))
        with pytest.raises(WrongEpochError):
            a.call(e.DiffApply(diff=self.forged(rotation, a, height=height)))
        assert a.status().state_height == height - 1
        a.call(e.DiffApply(diff=a.diffs[height]))

    def behind(self, rotation: Rotation, *, upto: int) -> Host:
        """``a`` on a rolled-back disk: its view is old, its state is after ``upto``."""
        a = rotation.a
        a.boot()
        a.checkpoint = None
        a.start()
        a.offer(rotation.before)
        for height in sorted(a.diffs):
            if a.status().state_height < height <= upto:
                a.call(e.DiffApply(diff=a.diffs[height]))
        assert a.status().state_height == upto
        assert a.enclave._shard.state.trusted
        return a

    def forged_on(self, rotation: Rotation, victim: Host, height: int) -> bytes:
        """A forgery that leads to its root, on the very state of the victim."""
        state = victim.enclave._shard.state
        old = held_keys(rotation.b)[0]
        thief = msgspec.structs.replace(
            victim.enclave._shard.keys, seed=b"t" * 32, epochs=(old,)
        )
        entry = decode(DiffHeader, decode(SealedDiff, rotation.a.diffs[height]).header)
        lied = msgspec.structs.replace(
            entry.entry,
            maker=victim.status().signing_key,
            prev_root=state.root,
            root=keyed_root(old, SHARD, height, state.store.root()),
        )
        return seal_diff(thief, 0, lied, {}, entropy=victim.entropy)

    def test_a_diff_in_the_name_of_its_victim_is_not_trusted(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        """The state key says that a holder made it, never that I did."""
        height = rotation.ledger.epochs[1].valid_from - 1
        a = self.behind(rotation, upto=height - 1)
        a.call(e.DiffApply(diff=self.forged_on(rotation, a, height)))
        assert not a.enclave._shard.state.trusted
        honest = self.behind(rotation, upto=height - 1)
        honest.call(e.DiffApply(diff=honest.diffs[height]))
        assert honest.enclave._shard.state.trusted

    def test_a_forgery_that_a_rolled_back_view_lets_in_ends_with_the_view(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        height = rotation.ledger.epochs[1].valid_from
        a = self.behind(rotation, upto=height - 1)
        a.call(e.DiffApply(diff=self.forged_on(rotation, a, height)))
        a.follow()
        assert "key epoch 0" in a.status().halted
        with pytest.raises(DivergedStateError):
            a.execute()

    def test_a_snapshot_of_the_old_epoch_at_a_height_of_the_next(
        self, rotation: Rotation, withdrawn: Host
    ) -> None:
        a = rotation.a
        header, _ = a.export()
        header = altered(header, epoch=0)
        with pytest.raises(WrongEpochError):
            a.call(e.SnapshotBegin(header=header))


class TestHosts:
    def test_key_store_rolled_back_to_before_the_rotation(
        self, rotation: Rotation
    ) -> None:
        a, b = rotation.a, rotation.b
        old = b.key_store
        a.run()
        b.follow()
        b.snapshot = a.export()
        b.offer(b.snapshot)
        second = rotation.rotate(a, b)
        rotation.to(second.valid_from + 1)
        a.run()
        b.run()
        b.key_store = old
        with pytest.raises(NoKeysError):
            b.restart()
        idle = b.run()
        assert (idle.reason, b.status().missing) == ("behind", (1,))
        b.checkpoint = None
        with pytest.raises(NoKeysError):
            b.restart()
        idle = b.run()
        assert (idle.reason, b.status().missing) == ("no-keys", (1,))
        assert b.status().state_height == second.valid_from - 1
        rotation.provision(a, b)
        hand_diffs(b, b)
        b.run()
        assert b.status().root == a.status().root

    def test_the_rotation_is_hidden(self, rotation: Rotation) -> None:
        a, l1 = rotation.a, rotation.l1
        a.run()
        second = rotation.rotate(a)
        rotation.to(second.valid_from + 1)
        a.follow(second.valid_from - 3)
        at = a.status().head  # the block in which the epoch was activated
        only = (l1.proof(at, record_key(SHARD)),)
        with pytest.raises(ScheduleNotBroughtError):
            a.call(l1.request(at, proofs=only))
        stale = l1.proof(at - 1, schedule_key(SHARD))
        with pytest.raises(ProofInvalidError):
            a.call(l1.request(at, proofs=(*only, stale)))
        a.run()
        assert a.status().state_height == second.valid_from + 1

    def test_keys_that_come_late_open_what_waits(self, rotation: Rotation) -> None:
        """A block that came before its keys is not executed without its calls."""
        a, b, l1 = rotation.a, rotation.b, rotation.l1
        a.run()
        b.follow()
        b.offer(a.export())
        second = rotation.rotate(a)
        rotation.to(second.valid_from - 1)
        l1.block(l1.invoke(a.transfer(8, nonce=0, epoch=second)))
        l1.block()
        a.run()
        assert b.run().reason == "no-keys"
        rotation.provision(a, b)
        b.run()
        assert b.free() == 992
        assert b.status().root == a.status().root

    def test_a_lost_checkpoint_costs_time_not_keys(self, rotation: Rotation) -> None:
        a = rotation.a
        second = rotation.rotate(a)
        rotation.to(second.valid_from + 1)
        a.run()
        a.checkpoint = None
        a.boot()
        a.start()
        assert a.status().staged == 1  # sealed as staged; the chain tells the rest
        a.follow()
        assert a.status().epochs == (0, 1)
        assert a.status().staged is None
