"""Who is eligible, for how long without a break, and who would fall out."""

from typing import Any

import pytest

from sealift.attestation import PolicyRefusedError, Rule
from sealift.frame import BlockInfo, Overlay, WeightExceededError, WeightMeter
from sealift.ledger import Forecast, forecast, is_eligible, require_eligible
from sealift.ledger._eligibility import narrowed, unbroken_since
from sealift.ledger._errors import SvnTooLowError, WrongVendorError
from sealift.ledger._runtime import compose
from sealift.ledger._teerex import RECORD_WEIGHT
from sealift.protocol import AttestationPolicy, ShardStatus

AGE = 8


@pytest.fixture
def seated(world: Any) -> Any:
    """A born shard whose attestations lapse after a few blocks."""
    world.one, world.two = world.instance("one"), world.instance("two")
    config = world.config(policy={"max_age_blocks": AGE})
    world.shard = world.born_shard(world.one, world.two, config=config)
    return world


def since(world: Any, instance: Any) -> Any:
    return world.enclave(instance).unbroken_since


# vendor and product


def test_code_of_another_vendor_is_refused_where_one_is_named(world: Any) -> None:
    config = world.config(mr_signer=b"w" * 32)
    shard = world.create_shard(config)
    world.collateral()
    with pytest.raises(WrongVendorError):
        world.register(shard, world.instance("one"))
    world.register(shard, world.instance("one"), mrsigner=b"w" * 32)


def test_another_product_of_the_vendor_is_refused(world: Any) -> None:
    shard = world.create_shard(world.config(mr_signer=b"v" * 32, isv_prod_id=2))
    world.collateral()
    with pytest.raises(WrongVendorError):
        world.register(shard, world.instance("one"), isv_prod_id=1)
    world.register(shard, world.instance("one"), isv_prod_id=2)


def test_product_0_is_a_product_and_not_no_product(world: Any) -> None:
    shard = world.create_shard(world.config(isv_prod_id=0))
    world.collateral()
    with pytest.raises(WrongVendorError):
        world.register(shard, world.instance("one"), isv_prod_id=1)


# floors


def test_attestations_from_before_a_floor_count_no_more(seated: Any) -> None:
    """A vulnerability day: everybody shows again what he runs on."""
    seated.submit(seated.status_order(seated.shard, not_before=seated.next))
    seated.block()
    with pytest.raises(PolicyRefusedError) as refusal:
        seated.confirm(seated.shard, seated.one, seated.height)
    assert "not before" in str(refusal.value)
    seated.register(seated.shard, seated.one)
    seated.confirm(seated.shard, seated.one, seated.height)


def test_an_advisory_that_the_shard_rejects_silences_who_has_it(world: Any) -> None:
    one = world.instance("one")
    shard = world.create_shard()
    world.collateral()
    world.register(shard, one, advisories=("INTEL-SA-00001",))
    world.publish_key(shard, one)
    world.blocks_until(world.height + 2)
    world.confirm(shard, one, world.height)
    floor = world.status_order(shard, rejected_advisories=("INTEL-SA-00001",))
    world.submit(floor)
    world.block()
    with pytest.raises(PolicyRefusedError):
        world.confirm(shard, one, world.height)
    with pytest.raises(PolicyRefusedError):
        world.register(shard, one, advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    world.register(shard, one)
    world.confirm(shard, one, world.height)


def test_floors_narrow_a_policy_and_never_widen_it() -> None:
    policy = AttestationPolicy(
        rejected_advisories=("B",), min_tcb_evaluation_number=5, not_before=7
    )
    assert narrowed(policy, ShardStatus()) == policy
    floors = ShardStatus(
        rejected_advisories=("A",), min_tcb_evaluation_number=6, not_before=9
    )
    both = narrowed(policy, floors)
    assert both.rejected_advisories == ("A", "B")
    assert (both.min_tcb_evaluation_number, both.not_before) == (6, 9)
    lower = ShardStatus(min_tcb_evaluation_number=4, not_before=6)
    assert narrowed(policy, lower) == policy


# seats


def test_a_seat_is_as_old_as_its_first_registration(seated: Any) -> None:
    born = seated.enclave(seated.one).registered_at
    assert since(seated, seated.one) == born
    for _ in range(3):
        seated.blocks_until(seated.enclave(seated.one).attested_at + AGE - 1)
        seated.register(seated.shard, seated.one)
        assert since(seated, seated.one) == born
    assert seated.enclave(seated.one).attested_at == seated.height


def test_seat_age_resets_after_a_lapse(seated: Any) -> None:
    """Else a machine could rest for a year and vote as if it had served."""
    former = seated.enclave(seated.one).attested_at
    seated.blocks_until(former + AGE)
    seated.register(seated.shard, seated.one)  # one block too late
    assert seated.height == former + AGE + 1
    assert since(seated, seated.one) == seated.height
    assert seated.enclave(seated.one).registered_at == former


def test_the_last_block_of_an_attestation_still_keeps_the_seat(seated: Any) -> None:
    former = seated.enclave(seated.one).attested_at
    seated.blocks_until(former + AGE - 1)
    seated.register(seated.shard, seated.one)
    assert since(seated, seated.one) == former


def test_seat_age_begins_anew_on_another_machine(seated: Any) -> None:
    """A seat is a platform's: it is not carried to another one."""
    seated.one.machine = b"m" * 32
    seated.register(seated.shard, seated.one)
    assert since(seated, seated.one) == seated.height


def test_seat_age_begins_anew_with_other_code(seated: Any) -> None:
    seated.upgrade(seated.shard, code=seated.CODE_B)
    seated.one.code = seated.CODE_B
    seated.register(seated.shard, seated.one)
    assert since(seated, seated.one) == seated.height


def test_who_left_and_comes_back_begins_anew(seated: Any) -> None:
    seated.call("teerex.unregister_enclave", by="operator", signing_key=seated.one.key)
    seated.register(seated.shard, seated.one)
    assert since(seated, seated.one) == seated.height


def test_an_announcement_does_not_touch_the_seat(seated: Any) -> None:
    before = since(seated, seated.two)
    seated.call(
        "teerex.announce", by="operator", signing_key=seated.two.key, url="http://x"
    )
    assert since(seated, seated.two) == before


def test_a_record_from_before_seats_vouches_for_its_last_attestation(
    seated: Any,
) -> None:
    """Records of earlier releases have no ``unbroken_since``: 0 is no old seat."""
    known = seated.replace(seated.enclave(seated.one), unbroken_since=0)
    entry = seated.schedule(seated.shard).entries[0]
    height = known.attested_at + 2
    record = seated.replace(known, attested_at=height)
    assert unbroken_since(record, known, entry, height=height) == known.attested_at


def test_the_age_that_counts_is_that_of_the_entry_which_admits(seated: Any) -> None:
    """The same code under a stricter entry: what is lapsed there is a break."""
    known = seated.enclave(seated.one)
    entry = seated.schedule(seated.shard).entries[0]
    strict = seated.replace(entry, config=seated.config(policy={"max_age_blocks": 2}))
    height = known.attested_at + 3
    record = seated.replace(known, attested_at=height)
    assert unbroken_since(record, known, entry, height=height) == known.attested_at
    assert unbroken_since(record, known, strict, height=height) == height


# all instances


def test_all_instances_of_a_shard_come_in_order_and_only_they(seated: Any) -> None:
    other = seated.create_shard()
    seated.register(other, seated.instance("elsewhere"))
    found = all_of(seated, seated.shard)
    keys = [one.statement.signing_key for one in found]
    assert keys == sorted([seated.one.key, seated.two.key])
    assert all_of(seated, b"n" * 32) == ()


def test_looking_at_all_instances_costs_weight_for_each(seated: Any) -> None:
    all_of(seated, seated.shard, limit=2 * RECORD_WEIGHT)
    with pytest.raises(WeightExceededError):
        all_of(seated, seated.shard, limit=2 * RECORD_WEIGHT - 1)


def all_of(world: Any, shard: bytes, *, limit: int = 10_000) -> Any:
    pallets = compose(world.verifier)
    ctx = pallets.runtime.context(
        Overlay.over(world.store),
        BlockInfo(chain_id="test-chain", height=world.next, time=0),
        meter=WeightMeter(limit),
    )
    return pallets.teerex.all_instances(ctx, shard)


# forecast


def test_a_forecast_names_who_falls_out_and_every_reason(seated: Any) -> None:
    entry = seated.schedule(seated.shard).entries[0]
    good, bad = seated.enclave(seated.one), seated.enclave(seated.two)
    bad = seated.replace(bad, isv_svn=1, tcb_status="OutOfDate", advisories=("SA",))
    floors = ShardStatus(min_isv_svn=3, rejected_advisories=("SA",))
    found = forecast((good, bad), entry, floors, height=seated.height)
    assert found[0] == Forecast(seated.one.key, None, "accepted")
    assert found[1].signing_key == seated.two.key
    assert found[1].refusal == "SvnTooLowError"
    for rule in (Rule.TCB_STATUS_ACCEPTED, Rule.ADVISORY_REJECTED):
        assert rule in found[1].sentence
    assert "ISV_SVN" in found[1].sentence


def test_a_forecast_says_what_the_ledger_will_say(seated: Any) -> None:
    """One rule book: nobody is told that he stays who then falls out."""
    entry = seated.schedule(seated.shard).entries[0]
    named = seated.replace(entry, config=seated.config(operators=(b"o" * 32,)))
    record = seated.enclave(seated.one)
    cases = (
        (entry, ShardStatus(), seated.height),
        (entry, ShardStatus(min_isv_svn=9), seated.height),
        (entry, ShardStatus(not_before=seated.height), seated.height),
        (named, ShardStatus(), seated.height),
        (entry, ShardStatus(), record.attested_at + AGE + 1),
    )
    for which, status, height in cases:
        (told,) = forecast((record,), which, status, height=height)
        fine = is_eligible(record, which, status, height=height)
        assert fine == (told.refusal is None)
    with pytest.raises(SvnTooLowError):
        require_eligible(
            record, entry, ShardStatus(min_isv_svn=9), height=seated.height
        )
