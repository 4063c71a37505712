"""The ledger's schedule and the verifier's are derived twice, and are the same."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from ghosts import Ghost, haunted
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lineages import export, heights_of, replace, verify

from sealift.attestation import parse_collateral
from sealift.base import Height, UnixSeconds, encode
from sealift.evidence import explain_lineage
from sealift.frame import Runtime
from sealift.protocol import (
    AttestationPolicy,
    CancelOrder,
    Frontier,
    HandoverPolicy,
    PostponeOrder,
    Ratio,
    RehearsalsOrder,
    RotationRequest,
    RulesOrder,
    Schedule,
    ShardStatus,
    StatusOrder,
    WithdrawOrder,
    WorkersAuthority,
    frontier_key,
    schedule_key,
)
from sealift.testing import RefusedError, World

Make = Callable[..., World]
POLICIES = (
    HandoverPolicy(),
    HandoverPolicy(shielding="pass"),
    HandoverPolicy(shielding="pass", state="pass", root="pass"),
)


class Life:
    """A shard of ghosts to which anything may happen; much of it is refused."""

    def __init__(self, world: World, ghosts: list[Ghost]) -> None:
        self.world = world
        self.ghosts = ghosts
        self.epoch = 0

    def decide(self, kind: Any, **fields: Any) -> None:
        order = self.world.order(kind, **fields)
        self.world.submit(self.world.sign_order(order))

    def upgrade(self, a: int, b: int) -> None:
        base = self.world.upgrade_order(self.world.releases[1]).order
        release = Height(self.world.height + 2 + a % 5)
        order = replace(
            base, release_from=release, upgrade_at=Height(release + 1 + b % 4)
        )
        self.world.submit(self.world.sign_order(order))

    def cancel(self, a: int, _: int) -> None:
        self.decide(CancelOrder, generation=max(self.last - a % 2, 0))

    def postpone(self, a: int, b: int) -> None:
        at = Height(self.world.height + 1 + b % 6)
        self.decide(PostponeOrder, generation=max(self.last - a % 2, 0), upgrade_at=at)

    def status(self, a: int, b: int) -> None:
        mode = ("normal", "maintenance")[a % 2]
        rotate = RotationRequest(not_before=Height(0), grace=b % 3)
        self.decide(
            StatusOrder, status=ShardStatus(mode=mode), rotate=rotate if b % 4 else None
        )

    def rules(self, a: int, b: int) -> None:
        rules = replace(
            self.world.schedule_now().rules,
            min_notice=1 + a % 3,
            rescue_after=3 + b % 3,
            grace=a % 5,
            handover=POLICIES[b % 3],
        )
        at = Height(self.world.height + 2 + b % 4)
        self.decide(RulesOrder, rules=rules, effective_at=at)

    def withdraw(self, *_: int) -> None:
        self.decide(WithdrawOrder)

    def register(self, a: int, b: int) -> None:
        release = self.world.releases[b % 2]
        ghost = Ghost(self.world, f"late-{a % 4}-{b % 2}", release)
        ghost.register()
        self.ghosts.append(ghost)

    def confirm(self, a: int, b: int) -> None:
        self.ghosts[a % len(self.ghosts)].confirm(self.world.height - b % 3)

    def stage(self, a: int, _: int) -> None:
        epochs = self.world.schedule_now().epochs
        self.ghosts[a % len(self.ghosts)].stage(len(epochs))

    def hold(self, a: int, _: int) -> None:
        epochs = self.world.schedule_now().epochs
        self.ghosts[a % len(self.ghosts)].hold(len(epochs))

    def leave(self, a: int, _: int) -> None:
        key = self.ghosts[a % len(self.ghosts)].key
        self.world.act("operator", "teerex.unregister_enclave", signing_key=key)

    def rehearse(self, a: int, b: int) -> None:
        entry = self.world.schedule_now().entries[-1]
        if 0 < entry.release_from - self.world.height < 9:
            self.world.run_until(entry.release_from)
        ghost = Ghost(self.world, f"late-{a % 4}-1", self.world.releases[1])
        ghost.register()
        ghost.rehearse(self.last, good=b % 4 > 0)

    def terms(self, a: int, b: int) -> None:
        self.decide(
            RehearsalsOrder,
            required=a % 3,
            postpone_by=10 + b if a % 3 else 0,
            effective_at=Height(self.world.height + 2 + b % 5),
        )

    def wait(self, a: int, _: int) -> None:
        self.world.blocks(1 + a % 4)

    @property
    def last(self) -> int:
        return self.world.schedule_now().entries[-1].generation


DEEDS = (
    "upgrade", "upgrade", "cancel", "postpone", "status", "rules", "withdraw",
    "register", "confirm", "confirm", "stage", "hold", "leave", "wait", "wait",
)  # fmt: skip


#: What only shards of version 3 live through, and what they do as well.
GATED_DEEDS = (
    *DEEDS,
    "rehearse",
    "rehearse",
    "rehearse",
    "terms",
    "register",
    "upgrade",
)


@settings(
    deadline=None,
    max_examples=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # worlds shrink slowly
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    deeds=st.lists(
        st.tuples(st.sampled_from(GATED_DEEDS), st.integers(0, 11), st.integers(0, 11)),
        min_size=15,
        max_size=30,
    )
)
def test_whatever_is_rehearsed_both_come_to_the_same(
    new_world: Make, v1: Runtime, deeds: list[tuple[str, int, int]]
) -> None:
    world = new_world(rescue_after=5, runtime=3, rehearsals=(1, 10))
    life = Life(world, haunted(world, v1, "one"))
    for deed, a, b in deeds:
        with contextlib.suppress(RefusedError):
            getattr(life, deed)(a, b)
    world.blocks(2)
    lineage = verify(world, export(world))
    kept = world.chain.read(Schedule, schedule_key(world.shard), height=lineage.last)
    assert lineage.schedule == kept


@settings(
    deadline=None,
    max_examples=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # worlds shrink slowly
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    deeds=st.lists(
        st.tuples(st.sampled_from(DEEDS), st.integers(0, 11), st.integers(0, 11)),
        min_size=8,
        max_size=25,
    ),
    quorum=st.integers(1, 2),
)
def test_whatever_happens_both_come_to_the_same(
    new_world: Make, v1: Runtime, deeds: list[tuple[str, int, int]], quorum: int
) -> None:
    world = new_world(rescue_after=5, rules={"rotation_quorum": quorum})
    life = Life(world, haunted(world, v1, "one", "two"))
    for deed, a, b in deeds:
        with contextlib.suppress(RefusedError):
            getattr(life, deed)(a, b)
    world.blocks(2)
    lineage = verify(world, export(world))
    last = lineage.last
    kept = world.chain.read(Schedule, schedule_key(world.shard), height=last)
    assert lineage.schedule == kept
    known = world.chain.read(Frontier, frontier_key(world.shard), height=last)
    assert lineage.frontier == known
    assert len(explain_lineage(lineage)) >= 5


def test_collateral_that_was_renewed_between_two_registrations(
    new_world: Make, v1: Runtime
) -> None:
    """Each quote by what the ledger had then, also within one block."""
    world = new_world()
    haunted(world, v1, "one")
    advisories = ("INTEL-SA-00001",)
    newer = world.intel.tcb_recovery(
        now=UnixSeconds(world.chain.now()), advisories=advisories
    )
    published = world.intel.collateral_json(now=UnixSeconds(world.chain.now()))
    late = Ghost(world, "late", world.releases[0])
    late.machine.install_microcode(newer)
    world.send(
        "carrier",
        "teerex.register_collateral",
        collateral=encode(parse_collateral(published)),
    )
    late.register()
    world.blocks(2)
    file = export(world)
    lineage = verify(world, file)
    (first,) = lineage.generations
    assert [one.tcb_status for one in first.instances] == ["UpToDate", "UpToDate"]
    assert len([s for s in file.states if s.key.startswith(b"teerex/")]) >= 2


def test_a_seat_outlives_another_attestation_and_not_a_break(
    new_world: Make, v1: Runtime
) -> None:
    world = new_world()
    operators = (world.account("operator"),)
    terms = WorkersAuthority(
        threshold=Ratio(numerator=1, denominator=2), seat_age=12, period=20
    )
    world._more_rules = {"authority": terms}
    probe = world.release(v1, sources={"app.py": b"first"})
    config = replace(
        world.config(probe, policy=AttestationPolicy(max_age_blocks=8)),
        operators=operators,
    )
    one, two, broken = haunted(world, v1, "one", "two", "broken", config=config)
    for _ in range(3):
        world.blocks(3)
        one.register()
        two.register()
    broken.register()  # ten blocks after its former attestation: too late
    at = world.height + 12
    order = replace(
        world.upgrade_order(world.releases[2]).order,
        config=config,
        release_from=Height(at),
        upgrade_at=Height(at + 2),
    )
    one.propose(order)
    two.vote(order)
    world.blocks(2)
    lineage = verify(world, export(world))
    assert lineage.acts[0].by == ("2 of 2 platforms of its hosts",)
    assert len(heights_of(export(world), "teerex.register_sgx_enclave")) == 10
    with pytest.raises(RefusedError):
        broken.vote(order)
