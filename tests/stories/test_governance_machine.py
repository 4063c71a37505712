"""Real enclaves under a governance that may do anything; hosts that roll back.

The upper layer of ``tests/ledger/test_governance_machine.py``: there the rules meet
a model, here keys go by real mu-ra, and enclaves restart, from older disks too.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from story import Story

from sealift.protocol import (
    EntryStatus,
    PostponeOrder,
    RotationRequest,
    ScheduleRecord,
    StatusOrder,
    config_at,
    record_key,
)
from sealift.testing import RefusedError, WorldDisk, WorldWorker

DEAD = (EntryStatus.CANCELLED, EntryStatus.LAPSED, EntryStatus.VOID)
SMALL = st.integers(0, 11)
DEEDS = (
    "schedule", "cancel", "postpone", "rotate", "stage", "hold", "join", "attest",
    "restart", "roll_back", "silence", "call", "wait", "replay",
)  # fmt: skip


class Life:
    """An auction, up to five workers, three codes."""

    def __init__(self, story: Story) -> None:
        self.story, self.world = story, story.world
        story.flowing = False
        self.codes = [story.a, story.b, self.world.release(story.v2, isv_svn=2)]
        self.disks: list[tuple[WorldWorker, WorldDisk]] = []
        self.decided: list[Any] = []
        self.ever: dict[str, set[int]] = {}
        self.ran: dict[int, int] = {}
        self.frontier = 0
        self.reached: Counter[tuple[str, bool]] = Counter()
        self.check()

    def do(self, name: str, a: int = 0, b: int = 0) -> bool:
        """One deed; whether anything was refused."""
        try:
            took = getattr(self, name)(a, b) is not False
        except RefusedError:
            took = False
        self.reached[(name, took)] += 1
        self.check()
        return took

    def worker(self, number: int) -> WorldWorker:
        workers = list(self.world.workers.values())
        return workers[number % len(workers)]

    # --- deeds ---

    def decide(self, order: Any) -> None:
        signed = self.world.sign_order(order)
        self.world.submit(signed)
        self.decided.append(signed)

    def schedule(self, a: int, b: int) -> None:
        order = self.world.upgrade_order(self.codes[(a + 1) % 3]).order
        self.decide(order)

    def _last(self) -> int:
        return self.world.schedule_now().entries[-1].generation

    def cancel(self, a: int, b: int) -> None:
        self.decide(self.world.cancel_order(self._last()))

    def postpone(self, a: int, b: int) -> None:
        last = self.world.schedule_now().entries[-1]
        order = self.world.order(
            PostponeOrder, generation=last.generation, upgrade_at=last.upgrade_at + 2
        )
        self.decide(order)

    def rotate(self, a: int, b: int) -> None:
        """One in three evicts who was attested before."""
        schedule = self.world.schedule_now()
        asked = RotationRequest(not_before=self.world.height if a % 3 == 2 else 0)
        order = self.world.order(StatusOrder, status=schedule.status, rotate=asked)
        self.decide(order)

    def stage(self, a: int, b: int) -> None:
        worker = self.worker(a)
        if b % 4 != 3:  # else by a process that may have quoted nothing
            worker.register()
        worker.stage_keys()

    def hold(self, a: int, b: int) -> None:
        self.worker(a).hold_keys()

    def join(self, a: int, b: int) -> None:
        """A new worker of some code, or one that asks again, at any provider."""
        code = self.codes[a % 3]
        name = f"{'abc'[a % 3]}{b % 2}"
        taker = self.world.workers.get(name)
        if taker is None:
            taker = self.world.worker(name, code, upstream=self.story.old)
        taker.request_keys(self.worker(b // 2))

    def attest(self, a: int, b: int) -> None:
        self.worker(a).register()

    def restart(self, a: int, b: int) -> None:
        worker = self.worker(a)
        self.disks.append((worker, worker.disk.copy()))
        worker.restart()

    def roll_back(self, a: int, b: int) -> bool:
        """A worker starts from a disk of its own that is older."""
        if not self.disks:
            return False
        worker, disk = self.disks[a % len(self.disks)]
        worker.restart(disk)
        return True

    def silence(self, a: int, b: int) -> None:
        """A host keeps what its enclave signs to itself, or does no longer."""
        worker = self.worker(a)
        worker.mute = not worker.mute
        if not worker.mute:
            worker.restart()

    def call(self, a: int, b: int) -> None:
        user = self.story.alice if a % 2 else self.story.bob
        user.call("balances.transfer", dest=self.story.carol.account, amount=1)
        self.world.block()

    def wait(self, a: int, b: int) -> None:
        self.world.blocks(1 + a)

    def replay(self, a: int, b: int) -> bool:
        """Whether L1 refused what was decided before."""
        if not self.decided:
            return False
        before = self.world.schedule_now().serial
        with pytest.raises(RefusedError):
            self.world.submit(self.decided[a % len(self.decided)])
        return self.world.schedule_now().serial == before

    # --- what must hold ---

    def check(self) -> None:
        self.one_generation_for_each_block()
        self.keys_for_the_scheduled()

    def one_generation_for_each_block(self) -> None:
        """1: what is confirmed was confirmed by who ran it, and stays."""
        schedule, frontier = self.world.schedule_now(), self.world.frontier()
        assert frontier.confirmed >= self.frontier
        for height in range(self.frontier + 1, frontier.confirmed + 1):
            if height >= schedule.entries[0].since:
                self.ran[height] = config_at(schedule, height).generation
        self.frontier = frontier.confirmed
        for height, generation in self.ran.items():
            assert config_at(schedule, height).generation == generation
        record = self.world.chain.read(
            ScheduleRecord, record_key(self.world.shard), height=self.world.height
        )
        assert record is not None
        assert record.generation == config_at(schedule, record.height).generation
        for worker in self.world.workers.values():
            for said in worker.signed:
                claim = said.confirmation
                if claim is None or claim.last > frontier.confirmed:
                    continue
                if schedule.entry(claim.generation).status not in DEAD:
                    for height in range(claim.first, claim.last + 1):
                        assert self.ran.get(height, 0) == claim.generation

    def keys_for_the_scheduled(self) -> None:
        """3 and 8: no epoch is new to a code that nothing standing names in time."""
        schedule, frontier = self.world.schedule_now(), self.world.frontier()
        current = config_at(schedule, frontier.confirmed + 1).generation
        for worker in self.world.workers.values():
            if not worker.running:
                continue
            status = worker.status()
            held = set(status.epochs)
            held |= set() if status.staged is None else {status.staged}
            ever = self.ever.setdefault(worker.name, set())
            if held <= ever:
                continue
            code = worker.release.fingerprint
            assert any(
                code in entry.config.code.values()
                and entry.status not in DEAD
                and entry.release_from <= self.world.height
                and entry.generation >= current - 1
                for entry in schedule.entries
            ), (worker.name, held - ever)
            ever |= held


Make = Callable[..., Story]


def machine_for(make: Make, reached: Counter[tuple[str, bool]]) -> Any:
    class EnclaveMachine(RuleBasedStateMachine):
        """One rule for every deed."""

        life: Life

        @initialize(quorum=st.integers(1, 2), handover=st.booleans())
        def begin(self, quorum: Any, handover: Any) -> None:
            self.life = Life(make(rules={"rotation_quorum": quorum}))
            if handover:  # begins on the eve of XYZ
                self.life.do("schedule")
                self.life.do("wait", 1)
                self.life.do("join", 1)

        @rule(name=st.sampled_from(DEEDS), a=SMALL, b=SMALL)
        def deed(self, name: Any, a: Any, b: Any) -> None:
            took = self.life.do(name, a, b)
            event(f"{name}: {'took effect' if took else 'refused'}")

        @invariant()
        def confirmed_claims_and_keys(self) -> None:
            if hasattr(self, "life"):
                self.life.check()

        def teardown(self) -> None:
            if hasattr(self, "life"):
                reached.update(self.life.reached)

    return EnclaveMachine


def run(make: Make, *, examples: int, steps: int) -> Counter[tuple[str, bool]]:
    reached: Counter[tuple[str, bool]] = Counter()
    run_state_machine_as_test(
        machine_for(make, reached),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),  # worlds shrink slowly
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return reached


def test_invariants_1_3_8_and_11_hold_for_real_enclaves(new_story: Make) -> None:
    run(new_story, examples=6, steps=20)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_invariants_1_3_8_and_11_hold_for_real_enclaves_long(
    new_story: Make, request: pytest.FixtureRequest
) -> None:
    runs = request.config.getoption("--campaign-runs", default=1)
    run(new_story, examples=4 * runs, steps=40)


def test_every_deed_comes_to_what_it_is_for(new_story: Make) -> None:
    """Else the machine would prove nothing."""
    life = Life(new_story())
    script = (
        ("schedule",), ("postpone",), ("cancel",), ("replay",), ("schedule",),
        ("wait", 2), ("join", 1), ("restart", 1), ("wait", 4), ("call",),
        ("wait", 1), ("stage", 1), ("wait", 3), ("roll_back",), ("rotate",),
        ("wait", 1), ("stage", 1), ("attest", 1), ("wait", 2), ("silence", 1),
        ("silence", 1), ("wait", 2),
    )  # fmt: skip
    for name, *numbers in script:
        life.do(name, *numbers)
    assert life.ever["b0"] >= {1}, "the new generation has keys of its own"
    assert not life.ever[life.story.old.name] & {1, 2}, "which the old one never gets"
    quorum = Life(new_story(rules={"rotation_quorum": 2}))
    for name in ("join", "rotate", "wait", "stage", "wait", "join"):
        quorum.do(name)
    quorum.do("hold", 1)
    reached = life.reached + quorum.reached
    assert {name for name, took in reached if took} == set(DEEDS)
