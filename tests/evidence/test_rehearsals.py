"""A postponement by rule is verified offline; one that is made up is not believed."""

from collections.abc import Callable
from typing import Any

import pytest
from ghosts import Ghost, haunted
from lineages import export, heights_of, replace, verify, without

from sealift.base import Height
from sealift.evidence import (
    ActUnprovenError,
    EvidenceError,
    InclusionError,
    InstanceRefusedError,
    ScheduleUnexplainedError,
    explain_lineage,
)
from sealift.frame import Runtime
from sealift.ledger import _bridge_speakers
from sealift.ledger.v3 import _bridge, _gate
from sealift.protocol import (
    EntryStatus,
    RehearsalsOrder,
    RulesOrder,
    ShardStatus,
    UpgradeOrder,
    WithdrawOrder,
)
from sealift.testing import World

Make = Callable[..., World]
BY = 10
Patch = pytest.MonkeyPatch


class Cast:
    """A gated shard of ghosts; two of the next generation are registered."""

    def __init__(self, world: World, runtime: Runtime) -> None:
        self.world = world
        (self.old,) = haunted(world, runtime, "one")
        self.order: UpgradeOrder = replace(
            world.upgrade_order(world.releases[1]).order,
            release_from=Height(world.height + 3),
            upgrade_at=Height(world.height + 12),
        )
        world.submit(world.sign_order(self.order))
        self.new = [Ghost(world, name, world.releases[1]) for name in ("a", "b")]
        for one in self.new:
            one.register()
        world.run_until(self.order.release_from)

    @property
    def at(self) -> Height:
        return self.world.schedule_now().entry(1).upgrade_at

    def terms(self, required: int, by: int = BY, **fields: Any) -> None:
        base: dict[str, Any] = {
            "required": required,
            "postpone_by": by,
            "effective_at": Height(self.world.height + 4),
        }
        order = self.world.order(RehearsalsOrder, **(base | fields))
        self.world.submit(self.world.sign_order(order))


@pytest.fixture
def cast(new_world: Make, v1: Runtime) -> Cast:
    return Cast(new_world(runtime=3, rehearsals=(2, BY)), v1)


def refuses(cast: Cast, error: type[EvidenceError], match: str) -> None:
    cast.world.blocks(2)
    with pytest.raises(error, match=match):
        verify(cast.world, export(cast.world))


def test_a_postponement_by_rule_is_verified_and_told(cast: Cast) -> None:
    world, first = cast.world, cast.order.upgrade_at
    cast.new[0].rehearse(1)
    cast.new[1].rehearse(1, good=False)
    world.run_until(first + 1)
    assert cast.at == first + BY
    lineage = verify(world, export(world))
    assert lineage.schedule == world.schedule_now()
    words = [one.words for one in lineage.ruled if one.height == first - 1]
    assert words == [
        f"generation 1 is postponed to block {first + BY}: 1 of 2 rehearsals were good"
    ]
    cast.new[0].rehearse(1)
    cast.new[1].rehearse(1)
    world.run_until(cast.at + 2)
    lineage = verify(world, export(world))
    after = lineage.generations[1]
    assert after.status is EntryStatus.ACTIVE
    assert (after.rehearsals_required, len(after.rehearsals)) == (2, 2)
    assert {one.milliseconds for one in after.rehearsals} == {16}
    told = " ".join(explain_lineage(lineage))
    assert "rehearsed well on 2 machines, of 2 asked for" in told
    assert "An upgrade takes good rehearsals on 2 machines" in told
    assert "is postponed to block" in told


def test_a_file_that_ends_before_the_postponement_knows_nothing_of_it(
    cast: Cast,
) -> None:
    world, first = cast.world, cast.order.upgrade_at
    world.run_until(first + 2)
    lineage = verify(world, export(world, to=first - 2))
    assert lineage.schedule.entry(1).upgrade_at == first
    lineage = verify(world, export(world, to=first - 1))
    assert lineage.schedule.entry(1).upgrade_at == first + BY


def test_terms_that_were_changed_and_withdrawn(cast: Cast) -> None:
    world = cast.world
    cast.terms(0, 0)
    world.submit(world.sign_order(world.order(WithdrawOrder)))
    cast.terms(1, 20)
    world.blocks(1)
    lineage = verify(world, export(world))
    assert lineage.terms_ahead is not None
    assert lineage.rehearsals_required == 2
    at = lineage.terms_ahead.effective_at
    assert f"from block {at} on an upgrade takes" in " ".join(explain_lineage(lineage))
    world.run_until(cast.order.upgrade_at)
    assert cast.at == cast.order.upgrade_at + 20
    cast.new[0].rehearse(1)
    world.run_until(cast.at + 2)
    lineage = verify(world, export(world))
    assert (lineage.rehearsals_required, lineage.postpone_by) == (1, 20)
    assert lineage.generations[1].status is EntryStatus.ACTIVE
    kinds = [one.kind for one in lineage.acts]
    assert kinds == [
        "UpgradeOrder",
        "RehearsalsOrder",
        "WithdrawOrder",
        "RehearsalsOrder",
    ]


def test_terms_that_count_already_outlive_a_withdrawal_of_rules(cast: Cast) -> None:
    world = cast.world
    cast.terms(1, 20)
    world.blocks(4)
    rules = replace(world.schedule_now().rules, grace=7)
    at = Height(world.height + 40)
    for order in (
        world.order(RulesOrder, rules=rules, effective_at=at),
        world.order(WithdrawOrder, serial=world.schedule_now().serial + 1),
    ):
        world.submit(world.sign_order(order))
    world.blocks(1)
    lineage = verify(world, export(world))
    assert lineage.acts[-1].kind == "WithdrawOrder"
    assert (lineage.rehearsals_required, lineage.postpone_by) == (1, 20)
    assert lineage.terms_ahead is None


@pytest.mark.parametrize("late", [0, 1])
def test_terms_are_those_of_the_block_before_xyz(cast: Cast, late: int) -> None:
    world, at = cast.world, cast.order.upgrade_at
    cast.terms(0, 0, effective_at=Height(at - 1 + late))
    world.run_until(at + 1)
    lineage = verify(world, export(world))
    assert lineage.schedule == world.schedule_now()
    assert lineage.schedule.entry(1).upgrade_at == at + late * BY


@pytest.mark.parametrize("late", [0, 1])
def test_who_is_evicted_before_the_judgement_has_no_voice_in_it(
    cast: Cast, late: int
) -> None:
    """A floor acts from the block after its order on, to the reader as to L1."""
    world, at = cast.world, cast.order.upgrade_at
    for one in cast.new:
        one.rehearse(1)
    world.run_until(at - 3 + late)
    world.set_status(ShardStatus(not_before=Height(world.height)))
    assert world.height == at - 2 + late
    world.run_until(at + 2)
    lineage = verify(world, export(world))
    assert lineage.schedule == world.schedule_now()
    assert lineage.schedule.entry(1).upgrade_at == at + (0 if late else BY)


def test_what_follows_is_put_off_with_it(cast: Cast) -> None:
    world, at = cast.world, cast.order.upgrade_at
    world.submit(world.upgrade_order(world.releases[0], upgrade_at=at + 4))
    world.run_until(at + 2)
    lineage = verify(world, export(world))
    later = [one.upgrade_at for one in lineage.schedule.entries[1:]]
    assert later == [at + BY, at + 4 + BY]


# forgeries by whoever makes the file


def test_rehearsals_that_were_left_out(cast: Cast) -> None:
    """As if the code had been brought in without them, or had been postponed."""
    for one in cast.new:
        one.rehearse(1)
    cast.world.run_until(cast.at + 2)
    file = export(cast.world)
    assert len(heights_of(file, "enclave_bridge.post_rehearsal")) == 2
    cut = without(file, lambda _, call: call == "enclave_bridge.post_rehearsal")
    with pytest.raises((ScheduleUnexplainedError, InclusionError)):
        verify(cast.world, cut)


def test_a_postponement_that_was_left_out(cast: Cast) -> None:
    first = cast.order.upgrade_at
    cast.world.run_until(first + 3)
    file = export(cast.world)
    kept = tuple(one for one in file.states if one.height not in (first - 1, first - 2))
    with pytest.raises(InclusionError, match="lacks a state proof"):
        verify(cast.world, replace(file, states=kept))


def test_a_change_of_terms_that_was_left_out(cast: Cast) -> None:
    cast.terms(1)
    height = cast.world.height
    cast.world.run_until(cast.at + 2)
    file = without(export(cast.world), lambda at, _: at == height)
    with pytest.raises((ScheduleUnexplainedError, InclusionError)):
        verify(cast.world, file)


# a chain whose validators took what they must not take


def test_a_postponement_that_nothing_explains(cast: Cast, monkeypatch: Patch) -> None:
    for one in cast.new:
        one.rehearse(1)
    monkeypatch.setattr(_bridge.RehearsedBridge, "_good", lambda *_: 0)
    cast.world.run_until(cast.order.upgrade_at)
    assert cast.at == cast.order.upgrade_at + BY
    refuses(cast, ScheduleUnexplainedError, "not what the acts and rules")


def test_an_upgrade_without_its_rehearsals(cast: Cast, monkeypatch: Patch) -> None:
    monkeypatch.setattr(_bridge.RehearsedBridge, "_good", lambda *_: 99)
    cast.world.run_until(cast.order.upgrade_at)
    monkeypatch.undo()
    refuses(cast, InclusionError, "lacks a state proof")


def test_a_postponement_by_other_blocks(cast: Cast, monkeypatch: Patch) -> None:
    real = _gate.put_off
    monkeypatch.setattr(
        _bridge, "put_off", lambda schedule, entry, by: real(schedule, entry, by=by + 1)
    )
    cast.world.run_until(cast.order.upgrade_at)
    refuses(cast, ScheduleUnexplainedError, "not what the acts and rules")


def test_a_rehearsal_with_a_forged_signature(cast: Cast, monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        _bridge.RehearsedBridge,
        "_verify_signer",
        lambda self, ctx, schedule, statement, *_: self.instances.instance(
            ctx, schedule.shard, statement.signing_key
        ),
    )
    cast.new[0].seed = cast.new[1].seed
    cast.new[0].rehearse(1)
    refuses(cast, InstanceRefusedError, "not signed by its instance")


def test_a_rehearsal_by_the_running_generation(cast: Cast, monkeypatch: Patch) -> None:
    monkeypatch.setattr(_bridge_speakers, "require_eligible", lambda *_, **__: None)
    cast.old.rehearse(1)
    refuses(cast, InstanceRefusedError, "may not speak")


def test_a_rehearsal_brought_by_somebody_else(cast: Cast, monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        _bridge, "ensure_signed", lambda _: cast.world.account("operator")
    )
    cast.new[0].rehearse(1, by="carrier")
    refuses(cast, InstanceRefusedError, "not brought by its operator")


@pytest.mark.parametrize(
    "fields",
    [{"upgrade_at": Height(7_777)}, {"order": b"o" * 32}, {"height": Height(7_777)}],
)
def test_a_rehearsal_of_something_else(
    cast: Cast, monkeypatch: Patch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(
        _bridge, "verify_word", lambda schedule, *_, **__: schedule.entry(1)
    )
    cast.new[0].rehearse(1, **fields)
    refuses(cast, ActUnprovenError, "no generation that waits")


def test_a_rehearsal_before_the_release(cast: Cast, monkeypatch: Patch) -> None:
    world = cast.world
    late = world.upgrade_order(
        world.releases[1],
        release_from=world.height + 12,
        upgrade_at=cast.order.upgrade_at + 9,
    )
    world.submit(late)
    monkeypatch.setattr(
        _bridge, "verify_word", lambda schedule, *_, **__: schedule.entry(2)
    )
    cast.new[0].rehearse(2)
    refuses(cast, ActUnprovenError, "no generation that waits")


@pytest.mark.parametrize("back", [0, 5])
def test_an_old_rehearsal_after_a_newer_one(
    cast: Cast, monkeypatch: Patch, back: int
) -> None:
    height = Height(cast.world.height - 1)
    cast.new[0].rehearse(1, height=height, good=False)
    monkeypatch.setattr(_bridge, "with_word", lambda kept, word, **_: (*kept[1:], word))
    cast.new[0].rehearse(1, height=Height(height - back), good=False)
    refuses(cast, ActUnprovenError, "older rehearsal")


def test_terms_without_their_notice(cast: Cast, monkeypatch: Patch) -> None:
    real = _gate.record_terms
    monkeypatch.setattr(
        _bridge,
        "record_terms",
        lambda schedule, gate, order, height: real(
            schedule, gate, order, height=Height(height - 10)
        ),
    )
    cast.terms(0, 0, effective_at=Height(cast.world.height + 1))
    refuses(cast, ActUnprovenError, "without their notice")


def test_terms_by_which_no_shard_can_live(cast: Cast, monkeypatch: Patch) -> None:
    monkeypatch.setattr(_gate, "verify_terms", lambda _: None)
    cast.terms(400, 3)
    refuses(cast, ActUnprovenError, "no shard can live")
