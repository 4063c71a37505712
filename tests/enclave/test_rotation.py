"""New keys: who makes them, who reads what, and what a host can't undo (DESIGN §12)."""

from collections.abc import Callable

import msgspec
import pytest
from enclave_world import (
    CODE_A,
    CODE_B,
    GENESIS,
    SHARD,
    FakePlatform,
    Host,
    MigratingExtra,
    World,
    entry,
    runtime_v1,
    schedule,
)
from rotation_world import GRACE, Rotation, held_keys, secrets

from sealift.base import decode
from sealift.enclave import (
    DivergedStateError,
    KeysContradictedError,
    NoKeysError,
    NoRotationDueError,
    NothingStagedError,
    NotNamedError,
    RotationTooEarlyError,
    ScheduleNotBroughtError,
    StagedElsewhereError,
    WrongEpochError,
)
from sealift.enclave._diff import seal_diff
from sealift.enclave._rotation import _next_keys
from sealift.enclave._state import DiffHeader, SealedDiff, SnapshotBody, keyed_root
from sealift.enclave._state import SealedSnapshotHeader as SealedHeader
from sealift.frame import ProofInvalidError
from sealift.protocol import (
    EntryStatus,
    HandoverPolicy,
    NoEpochError,
    RotationDue,
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
            body = decode(SnapshotBody, decode(SealedHeader, header).body)
            assert (body.height, body.epoch) == (height, epoch)

    def test_the_genesis_state_is_of_the_first_epoch(self, rotation: Rotation) -> None:
        shown = rotation.ledger.shown()
        with pytest.raises(NoEpochError):
            epoch_at(shown, rotation.world.frontier.confirmed)
        header, _ = rotation.a.export()
        assert decode(SnapshotBody, decode(SealedHeader, header).body).epoch == 0


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
        outer = decode(SealedHeader, header)
        body = msgspec.structs.replace(decode(SnapshotBody, outer.body), epoch=0)
        outer = msgspec.structs.replace(outer, body=msgspec.msgpack.encode(body))
        with pytest.raises(WrongEpochError):
            a.call(e.SnapshotBegin(header=msgspec.msgpack.encode(outer)))


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


class TestStaging:
    def test_nothing_is_due(self, rotation: Rotation) -> None:
        rotation.a.follow()
        with pytest.raises(NoRotationDueError):
            rotation.a.call(e.StageKeys())
        with pytest.raises(NothingStagedError):
            rotation.a.call(e.HoldKeys())

    def test_the_same_keys_when_asked_again(self, rotation: Rotation) -> None:
        a = rotation.a
        rotation.demand()
        said = rotation.stage(a)
        assert rotation.stage(a) == said
        assert a.status().staged == a.status().rotation_due == 1
        a.restart()
        assert rotation.stage(a) == said
        assert rotation.take_staged(said)
        assert rotation.stage(a) == said  # harmless: L1 has them
        rotation.act()
        assert rotation.stage(a) == said

    def test_a_store_rolled_back_to_before_the_staging(
        self, rotation: Rotation
    ) -> None:
        """Other keys are made; L1 has the first, and says so."""
        a = rotation.a
        rotation.demand()
        old = a.key_store
        said = rotation.stage(a)
        assert rotation.take_staged(said)
        a.key_store = old
        a.restart()
        a.follow()
        with pytest.raises(StagedElsewhereError):
            a.call(e.StageKeys())
        with pytest.raises(NoKeysError):
            a.call(e.HoldKeys())

    def test_two_instances_race(self, rotation: Rotation) -> None:
        a, b = rotation.a, rotation.b
        rotation.demand()
        first, second = rotation.stage(a), rotation.stage(b)
        assert first.keys != second.keys
        assert rotation.take_staged(first)
        assert not rotation.take_staged(second)
        b.follow()
        with pytest.raises(StagedElsewhereError):
            b.call(e.StageKeys())
        with pytest.raises(NoKeysError):
            b.call(e.HoldKeys())
        rotation.provision(a, b)
        assert rotation.hold(b).keys == first.keys
        with pytest.raises(StagedElsewhereError):
            b.call(e.StageKeys())  # held, but it was not b that made them
        acting = rotation.activate()
        rotation.to(acting.valid_from)
        for host in (a, b):
            host.follow()
            assert host.status().epochs == (0, 1)
        assert held_keys(a) == held_keys(b)

    def test_what_lost_the_race_is_dropped_when_the_other_acts(
        self, rotation: Rotation
    ) -> None:
        a, b = rotation.a, rotation.b
        rotation.demand()
        first = rotation.stage(a)
        rotation.stage(b)
        assert rotation.take_staged(first)
        b.follow()
        assert b.status().staged == 1  # kept: nothing acts yet
        acting = rotation.activate()
        rotation.to(acting.valid_from)
        b.follow()
        assert (b.status().epochs, b.status().staged) == ((0,), None)
        assert b.status().missing == (1,)

    def test_keys_of_a_dead_stager(self, rotation: Rotation) -> None:
        """Nobody can hold them; a new demand makes others, whatever comes back."""
        a, b = rotation.a, rotation.b
        rotation.demand()
        dead = rotation.stage(a)
        assert rotation.take_staged(dead)
        b.follow()
        with pytest.raises(StagedElsewhereError):
            b.call(e.StageKeys())
        rotation.demand(not_before=5)
        fresh = rotation.stage(b)
        assert rotation.take_staged(fresh)
        assert not rotation.take_staged(dead)
        rotation.hold(b)
        acting = rotation.activate()
        rotation.to(acting.valid_from)
        a.restart()
        a.follow()
        assert (a.status().epochs, a.status().missing) == ((0,), (1,))
        b.follow()
        rotation.provision(b, a)
        assert held_keys(a) == held_keys(b)

    def test_dropped_keys_never_come_back(self, rotation: Rotation) -> None:
        """The same rotation is due again: who is to be shut out may hold the old."""
        a = rotation.a
        rotation.demand()
        first = rotation.stage(a)
        assert rotation.take_staged(first)
        due = rotation.ledger.rotation
        rotation.demand()
        assert rotation.ledger.rotation == due
        second = rotation.stage(a)
        assert not set(msgspec.structs.astuple(first.keys)) & set(
            msgspec.structs.astuple(second.keys)
        )
        assert not rotation.take_staged(first)
        assert rotation.take_staged(second)

    def test_another_act_in_between_changes_the_demand(
        self, rotation: Rotation
    ) -> None:
        a = rotation.a
        rotation.demand()
        first = rotation.stage(a)
        rotation.act()
        assert not rotation.take_staged(first)
        assert rotation.take_staged(rotation.stage(a))

    def test_two_rotations_in_a_row(self, rotation: Rotation) -> None:
        a = rotation.a
        for number in (1, 2):
            acting = rotation.rotate(a)
            rotation.to(
                acting.valid_from + 1,
                rotation.l1.invoke(a.transfer(1, nonce=number - 1)),
            )
            a.run()
            a.restart()
            a.run()
            assert a.status().epochs == tuple(range(number + 1))
        assert a.free() == 998


class TestUpgrade:
    """The rotation that an upgrade owes goes by the handover policy."""

    def rules(self, rotation: Rotation, **policy: str) -> None:
        now = rotation.ledger.schedule
        rules = msgspec.structs.replace(now.rules, handover=HandoverPolicy(**policy))
        rotation.ledger.schedule = msgspec.structs.replace(now, rules=rules)

    def upgraded(self, rotation: Rotation) -> Host:
        """Code B has taken over, and its first block is executed."""
        world, l1, a = rotation.world, rotation.l1, rotation.a
        rules = rotation.ledger.schedule.rules
        xyz = l1.height + 4
        new = world.twin(
            platform=FakePlatform(CODE_B, machine=b"m5"),
            runtime=runtime_v1(MigratingExtra(), version=2),
            seed=b"new",
        )
        for status, old in (("pending", "active"), ("active", "retired")):
            while l1.height + 1 < xyz + (2 if status == "active" else 0):
                if status == "active" or l1.height + 1 < xyz:
                    rotation.ledger.schedule = schedule(
                        entry(0, CODE_A, 3, status=EntryStatus(old)),
                        entry(1, CODE_B, xyz, status=EntryStatus(status)),
                        rules=rules,
                    )
                l1.block()
        a.run()
        new.follow()
        new.snapshot = a.export()
        new.offer(new.snapshot)
        new.run()
        assert new.status().state_height == xyz
        self.xyz = xyz
        return new

    def confirm(self, rotation: Rotation, new: Host) -> None:
        rotation.world.confirm(rotation.a)
        rotation.world.confirm(new)
        assert rotation.world.frontier.generation == 1
        new.run()

    def test_the_old_generation_never_makes_the_new_ones_keys(
        self, rotation: Rotation
    ) -> None:
        a, new = rotation.a, self.upgraded(rotation)
        rotation.demand("upgrade", generation=1)
        a.follow()
        with pytest.raises(NotNamedError):
            a.call(e.StageKeys())
        self.confirm(rotation, new)
        a.follow()
        with pytest.raises(NotNamedError):
            a.call(e.StageKeys())

    def test_the_new_makes_none_before_it_has_confirmed(
        self, rotation: Rotation
    ) -> None:
        new = self.upgraded(rotation)
        rotation.demand("upgrade", generation=1)
        new.follow()
        with pytest.raises(NotNamedError):  # the frontier is the old one's still
            new.call(e.StageKeys())
        rotation.world.confirm(rotation.a)
        new.follow()
        with pytest.raises(RotationTooEarlyError):
            new.call(e.StageKeys())
        rotation.world.confirm(new)
        assert rotation.take_staged(rotation.stage(new))

    def test_a_scheduled_one_makes_none_for_the_running(
        self, rotation: Rotation
    ) -> None:
        rotation.ledger.schedule = schedule(
            entry(0, CODE_A, 3),
            entry(1, CODE_B, 1000, status=EntryStatus.PENDING),
        )
        new = rotation.world.twin(platform=FakePlatform(CODE_B), seed=b"new")
        rotation.demand()
        new.follow()
        with pytest.raises(NotNamedError):
            new.call(e.StageKeys())

    @pytest.mark.parametrize("how", ["pass", "re-derive", "rotate"])
    @pytest.mark.parametrize("name", ["shielding", "state", "root"])
    def test_each_secret_by_its_policy(
        self, rotation: Rotation, name: str, how: str
    ) -> None:
        others = {"shielding": "rotate", "state": "rotate", "root": "rotate"}
        self.rules(rotation, **(others | {name: how}))
        new = self.upgraded(rotation)
        self.confirm(rotation, new)
        acting = rotation.rotate(new, why="upgrade", generation=1)
        rotation.to(acting.valid_from + 1)
        new.run()
        assert new.status().state_height == acting.valid_from + 1
        old, next_ = held_keys(new)
        index = ["shielding", "state", "root"].index(name)
        same = [x == y for x, y in zip(secrets(old), secrets(next_), strict=True)]
        assert same == [how == "pass" and i == index for i in range(3)]
        # Derived keys are a function: another instance comes to the same ones.
        shard = new.enclave._shard
        due = RotationDue(epoch=1, why="upgrade", generation=1, not_before=0, grace=0)
        again = secrets(_next_keys(shard, shard.view.schedule, due))
        assert (again[index] == secrets(next_)[index]) == (how != "rotate")

    @pytest.mark.parametrize("why", ["order", "cancel", "rescue"])
    def test_for_any_other_reason_all_secrets_are_fresh(
        self, rotation: Rotation, why: str
    ) -> None:
        self.rules(rotation, shielding="pass", state="re-derive", root="pass")
        rotation.rotate(rotation.a, why=why)
        rotation.l1.block()
        rotation.a.follow()
        old, new = held_keys(rotation.a)
        assert not set(secrets(old)) & set(secrets(new))

    def test_the_old_one_reads_nothing_after_the_handover(
        self, rotation: Rotation
    ) -> None:
        a, new = rotation.a, self.upgraded(rotation)
        self.confirm(rotation, new)
        acting = rotation.rotate(new, why="upgrade", generation=1)
        rotation.to(acting.valid_from + 1, rotation.l1.invoke(new.transfer(4, nonce=0)))
        new.run()
        new.restart()
        rotation.l1.block()
        new.run()
        assert new.free() == 996
        a.follow()
        header, _ = new.export()
        with pytest.raises(NoKeysError):
            a.call(e.SnapshotBegin(header=header))
        assert a.run().reason == "not-mine"


class TestInstalling:
    def test_what_is_held_is_never_lost(self, rotation: Rotation) -> None:
        a, b = rotation.a, rotation.b
        acting = rotation.rotate(a, b)
        rotation.to(acting.valid_from)
        b.follow()
        before = held_keys(b)
        rotation.provision(a, b, epochs=before[:1])
        assert held_keys(b) == before
        b.restart()
        assert held_keys(b) == before

    def test_keys_that_contradict_what_is_held(self, rotation: Rotation) -> None:
        a, b = rotation.a, rotation.b
        before, sealed = held_keys(b), b.key_store
        other = msgspec.structs.replace(before[0], state_key=b"x" * 32)
        with pytest.raises(KeysContradictedError):
            rotation.provision(a, b, epochs=(other,))
        assert (held_keys(b), b.key_store) == (before, sealed)

    def test_a_package_without_the_staged_epoch(self, rotation: Rotation) -> None:
        a, b = rotation.a, rotation.b
        rotation.demand()
        assert rotation.take_staged(rotation.stage(a))
        rotation.provision(a, b, epochs=held_keys(a))
        with pytest.raises(NoKeysError):
            b.call(e.HoldKeys())
        rotation.provision(a, b)
        rotation.hold(b)

    def test_a_staged_epoch_of_another_demand_is_not_given(
        self, rotation: Rotation
    ) -> None:
        """``a`` holds keys that L1 has dropped: they stay where they are."""
        a, b = rotation.a, rotation.b
        rotation.demand()
        assert rotation.take_staged(rotation.stage(a))
        rotation.demand()
        assert rotation.take_staged(rotation.stage(b))
        a.follow()
        assert a.status().staged == 1
        late = Host(rotation.l1, FakePlatform(machine=b"m6"), seed=b"late")
        rotation.provision(a, late)
        assert late.status().staged is None
        rotation.provision(b, late)
        assert rotation.hold(late).keys == rotation.ledger.staged.keys

    def test_keys_made_here_meanwhile_are_not_overwritten(
        self, rotation: Rotation
    ) -> None:
        """A package of before the last demand comes in after it."""
        a, b = rotation.a, rotation.b
        rotation.demand()
        assert rotation.take_staged(rotation.stage(a))
        rotation.a.follow()
        old = rotation.ledger.shown()
        package = rotation.package(a)
        rotation.demand()
        said = rotation.stage(b)
        rotation.install(b, package, schedule=old)
        assert rotation.stage(b) == said

    def test_an_acting_epoch_that_the_provider_lacks(self, rotation: Rotation) -> None:
        acting = rotation.rotate(rotation.a)
        rotation.to(acting.valid_from)
        late = Host(rotation.l1, FakePlatform(machine=b"m6"), seed=b"late")
        with pytest.raises(NoKeysError):
            rotation.provision(rotation.b, late)
