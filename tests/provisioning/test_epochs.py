"""Key epochs in a session: who is given which, and what the other end believes."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from mura_world import HEAD, NEW, NOW, OLD, SHARD, Node, Talk, World, entry, epoch_keys

from sealift.crypto import sha256
from sealift.protocol import AttestationPolicy, EntryStatus, ShardStatus, keys_key
from sealift.provisioning import ProvenState, epoch_public

ALL = tuple(epoch_keys(number) for number in range(3))


@pytest.fixture
def rotated(world: World, provider: Node) -> World:
    """Epochs 0 and 1 act, 2 is staged; the provider holds all three."""
    world.act(epoch_keys(1), valid_from=50)
    world.stage(epoch_keys(2))
    provider.epochs, provider.gives_all = ALL, False
    return world


def refused_after_keys(talk: Talk, name: str) -> None:
    talk.run()
    assert talk.errors["requester"][0] == name, talk.errors
    assert talk.requester_node.installed is None
    talk.no_secret_seen()


def given(talk: Talk) -> list[int]:
    talk.run()
    assert talk.done == {"provider", "requester"}, talk.errors
    installed = talk.requester_node.installed
    assert installed is not None
    return [keys.epoch for keys in installed.epochs]


class TestWhoIsGivenWhat:
    def test_all_that_act_and_the_staged_one(self, rotated: World, talk: Talk) -> None:
        assert given(talk) == [0, 1, 2]

    def test_no_staged_one_where_the_provider_has_none(
        self, rotated: World, talk: Talk
    ) -> None:
        talk.provider_node.epochs = ALL[:2]
        assert given(talk) == [0, 1]

    def test_a_running_instance_asks_again(
        self, rotated: World, provider: Node, node: Callable[..., Node]
    ) -> None:
        twin = node("twin", OLD, epochs=ALL[:1])
        assert given(Talk(rotated, provider, twin)) == [0, 1, 2]

    def test_nobody_is_asked_for_the_birth_record(
        self, rotated: World, talk: Talk
    ) -> None:
        talk.run()
        wanted = {key for _, output in talk.outputs for key in output.wanted}
        assert not wanted & {keys_key(SHARD, number) for number in range(3)}


class TestTooEarly:
    """``not_before``: whoever was attested before may be what is to be shut out."""

    def test_an_acting_epoch(
        self, world: World, provider: Node, requester: Node
    ) -> None:
        world.act(epoch_keys(1), not_before=world.height + 2)
        provider.epochs = ALL[:2]
        talk = Talk(world, provider, requester)
        talk.run().refused("provider", "AttestedTooEarlyError")

    def test_exactly_then_is_early_enough(
        self, world: World, provider: Node, requester: Node
    ) -> None:
        at = world.height + 1  # the block that will hold the registration
        world.act(epoch_keys(1), not_before=at)
        world.record(provider, attested_at=at)
        provider.epochs = ALL[:2]
        assert given(Talk(world, provider, requester)) == [0, 1]

    def test_an_old_registration_is_not_this_sessions(
        self, world: World, provider: Node, requester: Node
    ) -> None:
        """A host shows what was registered before the floor: another challenge."""
        before = world.register(requester, requester.register().statement)
        world.act(epoch_keys(1), not_before=world.height + 1)
        provider.epochs = ALL[:2]

        def bring(_: Any) -> None:
            world.height += 1
            assert before.attested_at < world.height

        talk = Talk(world, provider, requester, bring=bring).run()
        assert talk.errors["requester"][0] == "KeyBindingError"
        assert provider.asked_for_keys == 0

    def test_the_staged_one_is_left_out(
        self, rotated: World, provider: Node, requester: Node
    ) -> None:
        rotated.stage(epoch_keys(2), not_before=rotated.height + 50)
        provider.gives_all = False
        assert given(Talk(rotated, provider, requester)) == [0, 1]
        assert provider.entitled is not None
        assert provider.entitled.staged is None

    def test_a_provider_that_was_attested_before(
        self, world: World, provider: Node, requester: Node
    ) -> None:
        """It can't have the new keys rightfully, whatever its own relay shows."""
        shown = world.schedule
        world.act(epoch_keys(1), not_before=world.height + 1)
        fresh = world.schedule
        provider.epochs = ALL[:2]

        def prove(role: str, state: ProvenState) -> ProvenState:
            world.schedule = shown if role == "provider" else fresh
            return world.state(tuple(state.values))

        talk = Talk(world, provider, requester, prove=prove)
        talk.run().refused("requester", "AttestedTooEarlyError")

    def test_a_floor_of_the_status(self, talk: Talk) -> None:
        world = talk.world
        status = msgspec.structs.replace(
            world.schedule.status, not_before=world.height + 2
        )
        world.schedule = msgspec.structs.replace(world.schedule, status=status)
        talk.run().refused("provider", "PolicyRefusedError")


class TestGenerations:
    """Invariant 8, for the keys that a generation made for itself."""

    def upgraded(self, world: World, *more: Any) -> None:
        """The new code runs, has confirmed, and epoch 1 is its own."""
        world.entries(
            entry(0, OLD, status=EntryStatus.RETIRED),
            entry(1, NEW, status=EntryStatus.ACTIVE, since=60, upgrade_at=60),
            *more,
        )
        world.frontier = msgspec.structs.replace(world.frontier, generation=1)

    def test_the_old_one_asks_for_what_its_successor_staged(
        self, world: World, node: Callable[..., Node]
    ) -> None:
        self.upgraded(world)
        world.stage(epoch_keys(1), generation=1)
        new = node("new", NEW, epochs=ALL[:2])
        world.register(new, new.register().statement)
        talk = Talk(world, new, node("old", OLD)).run()
        talk.refused("provider", "EarlierGenerationError")

    def test_and_when_it_acts(self, world: World, node: Callable[..., Node]) -> None:
        self.upgraded(world)
        world.act(epoch_keys(1), valid_from=90)
        new = node("new", NEW, epochs=ALL[:2])
        world.register(new, new.register().statement)
        talk = Talk(world, new, node("old", OLD)).run()
        talk.refused("provider", "EarlierGenerationError")

    def test_a_generation_that_a_rotation_is_not_for_gets_no_staged_key(
        self, world: World, provider: Node, node: Callable[..., Node]
    ) -> None:
        """Even where a ledger let it be staged before the frontier came so far."""
        world.stage(epoch_keys(1), generation=1)
        provider.epochs, provider.gives_all = ALL[:2], False
        assert given(Talk(world, provider, node("twin", OLD))) == [0]

    def test_nor_may_it_give_one(
        self, world: World, provider: Node, requester: Node
    ) -> None:
        world.stage(epoch_keys(1), generation=1)
        provider.epochs = ALL[:2]
        refused_after_keys(Talk(world, provider, requester), "NotProvenError")

    def rescued(self, world: World) -> None:
        world.entries(
            entry(0, OLD, status=EntryStatus.RETIRED),
            entry(1, NEW, status=EntryStatus.VOID, since=60, upgrade_at=60),
            entry(
                2,
                OLD,
                predecessor=0,
                status=EntryStatus.ACTIVE,
                release_from=80,
                upgrade_at=80,
                since=60,
            ),
        )
        world.frontier = msgspec.structs.replace(world.frontier, generation=2)
        world.stage(epoch_keys(1), generation=2)

    def test_a_rescuer_of_the_same_fingerprint_gets_them(
        self, world: World, provider: Node, node: Callable[..., Node]
    ) -> None:
        self.rescued(world)
        provider.epochs, provider.gives_all = ALL[:2], False
        assert given(Talk(world, provider, node("twin", OLD))) == [0, 1]

    def test_the_voided_one_does_not(
        self, world: World, provider: Node, node: Callable[..., Node]
    ) -> None:
        self.rescued(world)
        provider.epochs = ALL[:2]
        talk = Talk(world, provider, node("voided", NEW)).run()
        talk.refused("provider", "NotScheduledError")

    def test_a_later_one_whose_notice_has_run_gets_what_is_staged(
        self, world: World, provider: Node, node: Callable[..., Node]
    ) -> None:
        world.stage(epoch_keys(1))
        provider.epochs, provider.gives_all = ALL[:2], False
        assert given(Talk(world, provider, node("new", NEW))) == [0, 1]


def test_advisories_that_the_status_rejects(talk: Talk) -> None:
    """A floor raised on a vulnerability day narrows every generation's policy."""
    world = talk.world
    svn = world.intel.tcb_recovery(now=NOW - 1000, advisories=("INTEL-SA-00001",))
    talk.provider_node.machine.install_microcode(svn)
    lenient = AttestationPolicy(accepted_tcb_statuses=("UpToDate", "OutOfDate"))
    world.configure(1, attestation=lenient)
    status = ShardStatus(rejected_advisories=("INTEL-SA-00001",))
    world.schedule = msgspec.structs.replace(world.schedule, status=status)
    talk.run().refused("provider", "PolicyRefusedError")
    assert "INTEL-SA-00001" in talk.errors["provider"][1]


class TestPackages:
    """A provider, or its host's view, that is not what it should be."""

    def test_an_acting_epoch_left_out(self, rotated: World, talk: Talk) -> None:
        talk.provider_node.epochs = ALL[:1]
        refused_after_keys(talk, "CommitmentMismatchError")

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_an_epoch_swapped(self, rotated: World, talk: Talk, number: int) -> None:
        epochs = list(ALL)
        epochs[number] = epoch_keys(number, salt=b"other")
        talk.provider_node.epochs = tuple(epochs)
        refused_after_keys(talk, "CommitmentMismatchError")

    def test_the_next_ones_secrets_under_the_last_ones_number(
        self, rotated: World, talk: Talk
    ) -> None:
        swapped = msgspec.structs.replace(epoch_keys(2), epoch=1)
        talk.provider_node.epochs = (ALL[0], swapped, ALL[2])
        refused_after_keys(talk, "CommitmentMismatchError")

    def test_a_staged_epoch_that_l1_has_dropped(
        self, rotated: World, talk: Talk
    ) -> None:
        fresh = msgspec.structs.replace(rotated.schedule, staged=None)
        stale = rotated.schedule

        def prove(role: str, state: ProvenState) -> ProvenState:
            rotated.schedule = stale if role == "provider" else fresh
            return rotated.state(tuple(state.values))

        talk.prove = prove
        refused_after_keys(talk, "NotProvenError")

    def test_more_epochs_than_l1_knows(self, rotated: World, talk: Talk) -> None:
        talk.provider_node.epochs = (*ALL, epoch_keys(3))
        talk.provider_node.gives_all = True
        refused_after_keys(talk, "NotProvenError")

    def test_public_sides_are_of_one_secret_each(self) -> None:
        seen = {
            value
            for keys in ALL
            for value in msgspec.structs.astuple(epoch_public(keys))
        }
        assert len(seen) == 9


class TestVendor:
    """``mr_signer`` and ``isv_prod_id`` are enforced where they are given."""

    def test_another_vendor(self, talk: Talk) -> None:
        talk.world.configure(1, mr_signer=sha256(b"another vendor"))
        talk.run().refused("provider", "WrongVendorError")

    def test_another_product(self, talk: Talk) -> None:
        talk.world.configure(1, isv_prod_id=7)
        talk.run().refused("provider", "WrongVendorError")

    def test_a_provider_of_another_product(self, talk: Talk) -> None:
        talk.world.configure(0, isv_prod_id=7)
        talk.run().refused("requester", "WrongVendorError")

    def test_the_right_ones(self, talk: Talk) -> None:
        identity = talk.requester_node.identity
        talk.world.configure(
            1, mr_signer=identity.mrsigner, isv_prod_id=identity.isv_prod_id
        )
        assert given(talk) == [0]


def test_heights_of_the_world_are_as_the_stories_say(world: World) -> None:
    assert world.height == HEAD
    assert world.frontier.confirmed == HEAD - 1
