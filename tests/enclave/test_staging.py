"""Who makes the next keys, when, of what; and what is installed (DESIGN §12)."""

import msgspec
import pytest
from enclave_world import (
    CODE_A,
    CODE_B,
    FakePlatform,
    Host,
    MigratingExtra,
    World,
    entry,
    runtime_v1,
    schedule,
)
from rotation_world import Rotation, held_keys, secrets

from sealift.base import Message
from sealift.enclave import (
    KeysContradictedError,
    NoKeysError,
    NoRotationDueError,
    NothingStagedError,
    NotNamedError,
    NotQuotedError,
    PlatformRefusedError,
    RotationTooEarlyError,
    StagedElsewhereError,
)
from sealift.enclave._rotation import _next_keys
from sealift.protocol import (
    EntryStatus,
    HandoverPolicy,
    RotationDue,
)
from sealift.protocol import ecall as e


@pytest.fixture
def rotation(world: World) -> Rotation:
    return Rotation(world)


def refuse(*_: object, **__: object) -> None:
    raise PlatformRefusedError("no key today")


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

    def test_keys_of_before_an_attestation_are_not_published_under_it(
        self, rotation: Rotation
    ) -> None:
        """Made on a platform that was broken then, published after it was patched."""
        a = rotation.a
        rotation.demand()
        before = rotation.stage(a)
        a.restart()  # the platform is patched meanwhile
        assert rotation.stage(a) == before  # L1 refuses them once another one acts
        done = a.call(e.Register(operator=b"n" * 32))
        after = rotation.stage(a)
        assert before.registration != after.registration == done.statement.digest()
        for name in ("shielding_key", "state_key_commitment", "root_key_commitment"):
            assert getattr(before.keys, name) != getattr(after.keys, name)
        assert rotation.take_staged(after)
        a.call(e.Register(operator=b"o" * 32))
        assert rotation.stage(a) == after  # L1 has them: they are what is staged

    def test_a_process_that_has_quoted_nothing_makes_no_keys(
        self, rotation: Rotation
    ) -> None:
        a = rotation.a
        a.restart()
        rotation.demand()
        a.follow()
        with pytest.raises(NotQuotedError):
            a.call(e.StageKeys())
        a.call(e.Register(operator=bytes(32)))
        assert rotation.take_staged(rotation.stage(a))

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

    def test_a_refusal_changes_nothing(self, rotation: Rotation) -> None:
        a, b = rotation.a, rotation.b

        def refused(host: Host, request: Message, error: type[Exception]) -> None:
            before = host.enclave._shard.keys
            with pytest.raises(error):
                host.call(request)
            assert host.enclave._shard.keys == before

        rotation.demand()
        b.follow()
        refused(b, e.HoldKeys(), NothingStagedError)
        b.call(e.Register(operator=bytes(32)))
        b.platform.seal_key = refuse  # type: ignore[method-assign]
        refused(b, e.StageKeys(), PlatformRefusedError)
        del b.platform.seal_key
        assert rotation.take_staged(rotation.stage(a))
        b.follow()
        refused(b, e.StageKeys(), StagedElsewhereError)
        refused(b, e.HoldKeys(), NoKeysError)

    def test_a_dead_stagers_keys_are_given_up_and_others_made(
        self, rotation: Rotation
    ) -> None:
        """Nobody else got them: without this the rotation would never end."""
        a, b = rotation.a, rotation.b
        rotation.demand()
        dead = rotation.stage(a)
        assert rotation.take_staged(dead)
        b.follow()
        with pytest.raises(StagedElsewhereError):
            b.call(e.StageKeys())
        rotation.to(rotation.l1.height + 5)  # ``rescue_after``
        other = rotation.stage(b)
        assert other.demand == dead.demand
        assert other.keys != dead.keys
        rotation.ledger.staged = None
        assert rotation.take_staged(other)
        rotation.activate()

    def test_who_comes_back_does_not_stage_what_was_given_up(
        self, rotation: Rotation
    ) -> None:
        """L1 takes no keys twice."""
        a = rotation.a
        rotation.demand()
        first = rotation.stage(a)
        assert rotation.take_staged(first)
        rotation.to(rotation.l1.height + 5)
        second = rotation.stage(a)
        assert second.keys != first.keys
        assert rotation.stage(a) == second

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

    def test_an_upgrade_overtakes_a_rotation(self, rotation: Rotation) -> None:
        """Staged by the old generation, it acts under the new one."""
        a = rotation.a
        rotation.demand()
        assert rotation.take_staged(rotation.stage(a))
        new = self.upgraded(rotation)
        rotation.provision(a, new)
        rotation.hold(new)
        a.follow()
        with pytest.raises(NotNamedError):
            a.call(e.StageKeys())
        acting = rotation.activate()
        rotation.to(acting.valid_from + 1, rotation.l1.invoke(new.transfer(4, nonce=0)))
        new.run()
        assert new.status().epochs == (0, 1)
        assert new.free() == 996

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
