"""One machine over everything that governs a shard, against the documents' model.

Orders of every authority and emergency, motions and votes, instances that come,
lapse and are evicted, roots, key epochs, and thieves who replay, forge and flood:
all on the real ledger. After every block the whole shard must be what
``governance_model.py`` says, and ``governance_laws.py`` must hold: DESIGN §14's
invariants 1, 3, 8 and 11, notices, frozen entries, and that a refusal changes
nothing. An entry is frozen from XYZ on: there is no time before it in which a
cancel would come too late.

``BUGS`` are planted one by one; the machine finds each.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import governance_life
from governance_deeds import HONEST
from governance_laws import LawBrokenError
from governance_thieves import THIEVES, Life
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from sealift.ledger import _authority, _bridge_keys, _bridge_orders, _council, _orders
from sealift.ledger import _bridge_schedule as _schedule
from sealift.ledger._bridge_keys import EpochKeeper
from sealift.ledger._errors import (
    OrderExpiredError,
    OrderForeignError,
    OrderSerialError,
)

FORMS = ("sudo", "signer", "workers", "stake", "any", "all", "any of all", "all of any")
EMERGENCIES = ("none", "guard", "guard or workers")
SMALL = st.integers(0, 11)
DEEDS = HONEST + THIEVES


def machine_for(new_world: Any, reached: Counter[tuple[str, bool]]) -> Any:
    """A machine over the world of the tests, that counts what it reaches."""

    class GovernanceMachine(RuleBasedStateMachine):
        """One rule: any of the deeds."""

        life: Life

        @initialize(
            authority=st.sampled_from(FORMS),
            emergency=st.sampled_from(EMERGENCIES),
            quorums=st.tuples(st.sampled_from([1, 1, 2]), st.sampled_from([2, 1])),
            handover=st.integers(0, 2),
        )
        def begin(self, **options: Any) -> None:
            self.life = Life(new_world, **options)

        @rule(name=st.sampled_from(HONEST + DEEDS), a=SMALL, b=SMALL, c=SMALL)
        def deed(self, name: Any, a: Any, b: Any, c: Any) -> None:
            outcome = self.life.do(name, a, b, c)
            if outcome is not None:
                event(f"{name}: {'took effect' if outcome else 'refused'}")

        def teardown(self) -> None:
            if hasattr(self, "life"):
                reached.update(self.life.reached)

    return GovernanceMachine


def run(new_world: Any, *, examples: int, steps: int) -> Counter[tuple[str, bool]]:
    """Lives of a fixed seed; what they reached."""
    reached: Counter[tuple[str, bool]] = Counter()
    run_state_machine_as_test(
        machine_for(new_world, reached),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return reached


def walk(new_world: Any, seed: int, *, deeds: int = 60) -> Life:
    """A life of the machine's deeds by the dice: evenly, and the same each time."""
    dice = random.Random(seed)
    life = Life(
        new_world,
        authority=dice.choice(FORMS),
        emergency=dice.choice(EMERGENCIES),
        quorums=(dice.choice([1, 1, 2]), dice.choice([1, 2])),
        handover=dice.randrange(3),
    )
    for _ in range(deeds):
        numbers = [dice.randrange(16) for _ in range(3)]
        life.do(dice.choice(HONEST + DEEDS), *numbers)
    return life


def test_invariants_1_3_8_and_11_hold_whatever_everybody_does(new_world: Any) -> None:
    reached = run(new_world, examples=80, steps=25)
    told = {name: (reached[name, True], reached[name, False]) for name in DEEDS}
    print("\n".join(f"{name}: {counts}" for name, counts in told.items()))


@pytest.mark.parametrize("seed", range(16))
def test_invariants_1_3_8_and_11_hold_in_a_life_by_the_dice(
    new_world: Any, seed: int
) -> None:
    walk(new_world, seed)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_invariants_1_3_8_and_11_hold_in_a_long_campaign(
    new_world: Any, request: pytest.FixtureRequest
) -> None:
    """``--campaign-runs N``: ten lives each, from ``--campaign-seed`` on."""
    runs = request.config.getoption("--campaign-runs", default=1)
    first = request.config.getoption("--campaign-seed", default=1_000)
    for seed in range(first, first + 10 * runs):
        try:
            walk(new_world, seed, deeds=80)
        except LawBrokenError as broken:
            broken.add_note(f"in the life of seed {seed}")
            raise


# --- that it comes to anything ---


def play(new_world: Any, options: dict[str, Any], script: str) -> Life:
    """A life by a script: deeds with up to three numbers."""
    life = Life(new_world, **options)
    for line in script.split(","):
        name, *numbers = line.split()
        life.do(name, *map(int, numbers))
    return life


#: Between them they reach what each deed is for.
SCRIPTS: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"authority": "sudo"},
        """all_attest, ask_keys_of 1, confirm, upgrade, cancel, replay, replay 0 1,
        replay_elsewhere, replay_elsewhere 0 1, upgrade, join 4, ask_keys_of 3,
        postpone 0 1,
        wait_some 2, all_attest, ask_keys_of 3, handover, stage,
        hold 1, ask_keys_of, ask_keys_of 1, rotate, stage, stale_keys, stage, hold 1,
        wait_some 3, join 4, raise_floor 0, raise_floor 1, catch_up, rotate 1 1 1,
        stage, hold 1, other_rules, withdraw, other_rules 2 1, wait_long,
        emergency_upgrade, handover, stage, hold 1, flood_upgrades 8,
        emergency_act 2, emergency_act 1 1, pause, resume, new_process,
        late, pause, late 1, late, late 1, forge, forge 0 1, leave, wait_long""",
    ),
    (
        {"authority": "sudo", "quorums": (1, 1)},
        """upgrade, wait_long 0, catch_up, all_attest, stage, upgrade, all_attest,
        catch_up, wait_some 4, cancel, stage, upgrade 1, catch_up, wait_long 11,
        wait_some, catch_up, all_attest, catch_up, stage""",
    ),
    (
        {"authority": "sudo", "quorums": (1, 2)},
        """all_attest, rotate, stage, leave, hold 1, hold 2, wait_some 2, rotate 1,
        stage 1, raise_floor, hold 2, stage 2, hold 1""",
    ),
    (
        {"authority": "workers", "emergency": "guard or workers"},
        """all_attest, wait_some 5, propose, vote 0 1, propose 1, vote 0 0 3, vote 0 1,
        wait_long 3, close, all_attest, wait_some 5, upgrade 0 1, flood_motions 6,
        pause 0 1, replay 0 1, catch_up""",
    ),
    (
        {"authority": "all"},
        """endorse_one 2, endorse_rest, endorse_one, endorse_rest, upgrade,
        other_rules 1, flood_orders 11, flood_orders 11, wait_some 5, wait_some 5,
        endorse_one 1, endorse_rest, upgrade, raise_floor 11, upgrade""",
    ),
    (
        {"authority": "stake", "quorums": (2, 2)},
        """all_attest, wait_some 2, catch_up, stake_votes 2, endorse_rest, wait_some 2,
        confirm 0 0 1, lie 0 1, resume, lie 0 0, lie 0 1, all_attest, catch_up,
        wait_some, catch_up, lie 1, resume, wait_some, catch_up, upgrade, replay 0 2""",
    ),
    (
        {"authority": "any of all", "handover": 1},
        """all_attest, wait_some 5, catch_up, upgrade, handover, stage, hold 1,
        all_attest, wait_some 3, pause, upgrade 0 1 1, replay 0 0""",
    ),
)
#: What L1 tells when a shard lives through all this.
TOLD = {
    f"enclave_bridge.{name}"
    for name in (
        "EpochActivated", "GenerationActivated", "GenerationCancelled",
        "GenerationLapsed", "GenerationPostponed", "GenerationScheduled",
        "GenerationVoided", "KeysHeld", "KeysStaged", "OrderEndorsed",
        "OrderRecorded", "RootConfirmed", "RootsConflicting", "RootVoted",
        "RulesChanged", "RulesScheduled", "StakeDecided", "StatusChanged",
    )
} | {f"council.Motion{how}" for how in ("Opened", "Voted", "Ended")}  # fmt: skip


def test_every_deed_comes_to_what_it_is_for(new_world: Any) -> None:
    """Else the machine would prove nothing."""
    reached: Counter[tuple[str, bool]] = Counter()
    told: Counter[str] = Counter()
    waited = 0
    for options, script in SCRIPTS:
        life = play(new_world, options, script)
        waited += life.cast["b1"].key in life.laws.holds
        reached.update(life.reached)
        told.update(life.told)
    assert {name for name, yes in reached if yes} >= set(DEEDS)
    assert set(told) >= TOLD
    assert waited, "nobody of a later generation got keys"


# --- planted bugs ---


def verify(
    schedule: Any, order: Any, height: int, *, chain: bool, serial: bool
) -> None:
    """What :func:`verify_order` asks, with something left out."""
    if chain and (order.chain_id, order.shard) != (schedule.chain_id, schedule.shard):
        raise OrderForeignError("foreign")
    if serial and order.serial != schedule.serial:
        raise OrderSerialError("serial")
    if order.expiry < height:
        raise OrderExpiredError("expired")


def any_serial(patch: Any) -> None:
    """Whatever was once endorsed counts again."""

    def planted(schedule: Any, order: Any, *, height: int) -> None:
        verify(schedule, order, height, chain=True, serial=False)

    patch(_bridge_orders, "verify_order", planted)
    patch(_council, "verify_order", planted)


def any_chain(patch: Any) -> None:
    def planted(schedule: Any, order: Any, *, height: int) -> None:
        verify(schedule, order, height, chain=False, serial=True)

    patch(_bridge_orders, "verify_order", planted)


def emergencies_wait_for_nothing(patch: Any) -> None:
    real = _orders._notice

    def planted(rules: Any, *, emergency: bool) -> int:
        return min(real(rules, emergency=emergency), 0 if emergency else 10**9)

    patch(_orders, "_notice", planted)


def broken_seats(patch: Any) -> None:
    """A seat is as old as its first registration, whatever lapsed since."""
    real = _council._has_seat

    def planted(schedule: Any, record: Any, terms: Any, **heights: Any) -> bool:
        old = msgspec.structs.replace(record, unbroken_since=record.registered_at)
        return real(schedule, old, terms, **heights)

    patch(_council, "_has_seat", planted)


def one_holder_is_enough(patch: Any) -> None:
    real = _bridge_keys.activate

    def planted(schedule: Any, counting: Any, *, height: Any) -> Any:
        rules = msgspec.structs.replace(schedule.rules, rotation_quorum=1)
        one = msgspec.structs.replace(schedule, rules=rules)
        after, epoch = real(one, counting, height=height)
        return msgspec.structs.replace(after, rules=schedule.rules), epoch

    patch(_bridge_keys, "activate", planted)


def the_evicted_acknowledge(patch: Any) -> None:
    patch(EpochKeeper, "_keeps", lambda *_: True)


def the_cancelled_run(patch: Any) -> None:
    def planted(schedule: Any, order: Any) -> Any:
        _orders._pending(schedule, order.generation)
        return msgspec.structs.replace(schedule, serial=schedule.serial + 1), ()

    patch(_bridge_orders, "record_cancel", planted)


def orphans_stay(patch: Any) -> None:
    patch(_orders, "lapse_orphans", lambda entries: (entries, ()))


def a_cancel_owes_nothing(patch: Any) -> None:
    patch(_bridge_orders, "owe_rotation", lambda schedule, *_, **__: schedule)


def emergencies_bring_code(patch: Any) -> None:
    patch(_authority, "tightens", lambda *_: True)


def one_member_changes_the_rules(patch: Any) -> None:
    real = _authority.missing

    def planted(tree: Any, given: Any, *, unanimous: bool = False) -> Any:
        return real(tree, given)

    patch(_authority, "missing", planted)


def confirmed_generations_are_voided(patch: Any) -> None:
    real = _schedule.rescue

    def planted(schedule: Any, *, height: int, confirmed: Any) -> Any:
        return real(schedule, height=height, confirmed=confirmed and 0)

    patch(_schedule, "rescue", planted)


def keys_of_another_demand(patch: Any) -> None:
    patch(_bridge_keys, "verify_demand", lambda *_: None)


def staged_keys_outlive_a_floor(patch: Any) -> None:
    real = _bridge_orders.record_status

    def planted(schedule: Any, standing: Any, order: Any, *, height: int) -> Any:
        after = real(schedule, standing, order, height=height)
        return msgspec.structs.replace(after, staged=schedule.staged)

    patch(_bridge_orders, "record_status", planted)


def keys_before_the_notice(patch: Any) -> None:
    real = governance_life.requester_entry

    def planted(standing: Any, record: Any, *, held_at: int) -> Any:
        return real(standing, record, held_at=10**6)

    patch(governance_life, "requester_entry", planted)


def ended_orders_keep_their_place(patch: Any) -> None:
    """Those that expired, or that new rules overtook, fill the table."""
    patch(_bridge_orders.OrderKeeper, "_forget", lambda *_: None)


BUGS: tuple[Callable[[Any], None], ...] = (
    any_serial,
    any_chain,
    emergencies_wait_for_nothing,
    broken_seats,
    one_holder_is_enough,
    the_evicted_acknowledge,
    the_cancelled_run,
    orphans_stay,
    a_cancel_owes_nothing,
    emergencies_bring_code,
    one_member_changes_the_rules,
    confirmed_generations_are_voided,
    keys_of_another_demand,
    staged_keys_outlive_a_floor,
    keys_before_the_notice,
    ended_orders_keep_their_place,
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    new_world: Any, monkeypatch: pytest.MonkeyPatch, bug: Callable[[Any], None]
) -> None:
    bug(monkeypatch.setattr)
    with pytest.raises(LawBrokenError) as found:
        live_all(new_world)
    print(found.value)


def live_all(new_world: Any) -> None:
    """The scripts, then by the dice."""
    for options, script in SCRIPTS:
        play(new_world, options, script)
    for seed in range(60):
        walk(new_world, seed)
