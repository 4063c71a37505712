"""What would drop a worker out is told by name, and long before it does."""

import msgspec
import pytest
from doubles import CODE, ME, entry, record, schedule
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import AccountId, Fingerprint, Height, MrSigner, SealiftError
from sealift.ledger import require_eligible
from sealift.protocol import (
    AttestationPolicy,
    EntryStatus,
    Schedule,
    ShardConfig,
    ShardStatus,
)
from sealift.worker._forecast import (
    COLLATERAL_SECONDS,
    Risk,
    collateral_risk,
    forecast,
)

OTHER = AccountId(b"\x0c" * 32)
ELSE = Fingerprint(b"\x0e" * 32)
NOW = Height(100)
FRESH = record(attested_at=Height(90))


def config(code: bytes = CODE, **changes: object) -> ShardConfig:
    names = AttestationPolicy.__struct_fields__
    policy = {name: changes.pop(name) for name in names if name in changes}
    return ShardConfig(
        code={"insecure-sim": code}, attestation=AttestationPolicy(**policy), **changes
    )


def ahead(what: ShardConfig) -> Schedule:
    """This code runs, and at block 150 this configuration takes over."""
    pending = entry(1, since=150, config=what, status=EntryStatus.PENDING)
    return schedule(entries=(entry(), pending))


def rules(*risks: Risk) -> list[tuple[str, int]]:
    return [(risk.rule, risk.blocks) for risk in risks]


#: What breaks one rule, and its name.
BREAKS = [
    ({"accepted_tcb_statuses": ("ConfigurationNeeded",)}, "tcb-status"),
    ({"accepted_tcb_statuses": ()}, "tcb-status"),
    ({"rejected_advisories": ("INTEL-SA-1",)}, "advisory"),
    ({"min_tcb_evaluation_number": 2}, "tcb-evaluation"),
    ({"operators": (OTHER,)}, "operator"),
    ({"min_isv_svn": 2}, "isv-svn"),
    ({"mr_signer": MrSigner(b"\x01" * 32)}, "mr-signer"),
    ({"isv_prod_id": 2}, "isv-prod-id"),
    ({"not_before": Height(95)}, "not-before"),
]
MINE = record(attested_at=Height(90), advisories=("INTEL-SA-1",))


def test_an_instance_that_all_accept_has_nothing_to_fear() -> None:
    good = config(operators=(ME,), mr_signer=MrSigner(bytes(32)), isv_prod_id=1)
    assert forecast(FRESH, ahead(good), NOW) == ()
    assert forecast(FRESH, schedule(), NOW) == ()


@pytest.mark.parametrize(("changes", "rule"), BREAKS)
def test_a_rule_of_the_next_generation_is_told_with_the_blocks_left(
    changes: dict[str, object], rule: str
) -> None:
    (risk,) = forecast(MINE, ahead(config(**changes)), NOW)
    assert (risk.rule, risk.blocks) == (rule, 50)
    assert "generation 1" in risk.detail
    assert "in 50 blocks" in str(risk)
    assert str(risk).endswith(risk.hint)


@pytest.mark.parametrize(("changes", "rule"), BREAKS)
def test_a_rule_that_is_broken_now_is_told_once(
    changes: dict[str, object], rule: str
) -> None:
    running = schedule(entries=(entry(config=config(**changes)),))
    (risk,) = forecast(MINE, running, NOW)
    assert (risk.rule, risk.blocks) == (rule, 0)
    assert ", now: " in str(risk)


@pytest.mark.parametrize(("changes", "rule"), BREAKS[:5])
def test_what_is_of_the_machine_counts_for_other_code_on_it(
    changes: dict[str, object], rule: str
) -> None:
    found = forecast(MINE, ahead(config(ELSE, **changes)), NOW)
    assert rules(*found) == [(rule, 50)]


@pytest.mark.parametrize(("changes", "_"), BREAKS[5:])
def test_what_is_of_the_code_does_not_count_for_other_code(
    changes: dict[str, object], _: str
) -> None:
    assert forecast(MINE, ahead(config(ELSE, **changes)), NOW) == ()


@pytest.mark.parametrize(
    ("floors", "rule"),
    [
        ({"min_isv_svn": 2}, "isv-svn"),
        ({"min_tcb_evaluation_number": 2}, "tcb-evaluation"),
        ({"not_before": Height(95)}, "not-before"),
        ({"rejected_advisories": ("INTEL-SA-1",)}, "advisory"),
    ],
)
def test_a_raised_floor_counts_at_once(floors: dict[str, object], rule: str) -> None:
    raised = schedule(status=ShardStatus(**floors))
    assert rules(*forecast(MINE, raised, NOW)) == [(rule, 0)]


@pytest.mark.parametrize(
    ("age", "found"), [(74, []), (76, [("attestation-age", 24)]), (100, None)]
)
def test_an_attestation_that_grows_old_is_told_before_it_lapses(
    age: int, found: list[tuple[str, int]] | None
) -> None:
    running = schedule(entries=(entry(config=config(max_age_blocks=100)),))
    old = record(attested_at=Height(1000 - age))
    got = rules(*forecast(old, running, Height(1000)))
    assert got == (found if found is not None else [("attestation-age", 0)])


def test_a_shorter_age_of_the_next_generation_is_told() -> None:
    (risk,) = forecast(FRESH, ahead(config(max_age_blocks=20)), NOW)
    assert (risk.rule, risk.blocks) == ("attestation-age", 50)
    assert "60 blocks before then" in risk.detail


def test_an_unborn_shard_has_a_forecast_too() -> None:
    early = entry(since=150, status=EntryStatus.PENDING, config=config(min_isv_svn=9))
    found = forecast(FRESH, schedule(entries=(early,)), NOW)
    assert rules(*found) == [("isv-svn", 50)]


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (None, "no collateral"),
        (-5, "expires in"),
        (3600 * 30, "expires in 30 h"),
        (COLLATERAL_SECONDS, "expires in 168 h"),
        (COLLATERAL_SECONDS + 1, ""),
    ],
)
def test_collateral_that_runs_out_is_told_a_week_before(
    left: int | None, told: str
) -> None:
    found = collateral_risk(left)
    assert bool(found) == bool(told)
    assert all(told in str(risk) for risk in found)


@given(
    change=st.sampled_from([changes for changes, _ in BREAKS[:6]]),
    attested=st.integers(0, 100),
    limit=st.integers(1, 200),
)
def test_whom_l1_would_refuse_the_forecast_has_told(
    change: dict[str, object], attested: int, limit: int
) -> None:
    """The one judge is L1's; the forecast misses none of its refusals."""
    running = entry(config=config(max_age_blocks=limit, **change))
    what = schedule(entries=(running,))
    one = msgspec.structs.replace(MINE, attested_at=Height(attested))
    try:
        require_eligible(one, running, what.status, height=NOW)
    except SealiftError:
        assert any(not risk.blocks for risk in forecast(one, what, NOW))
