"""Metrics: the names that operators build their alarms on, and honest gaps."""

import asyncio
import math

from prometheus_client.parser import text_string_to_metric_families

from sealift.worker import _fetch, _life, _rehearsal, _report, _rotation
from sealift.worker._metrics import WAITS, Metrics, Reading

NAMES = {
    "sealift_l1_block_height",
    "sealift_imported_block_height",
    "sealift_block_lag",
    "sealift_state_block_height",
    "sealift_blocks_to_upgrade",
    "sealift_instances_holding_keys",
    "sealift_attestation_age_blocks",
    "sealift_operator_funds",
    "sealift_stf_state_size_bytes",
    "sealift_effects_pending",
    "sealift_key_epoch",
    "sealift_key_epoch_held",
    "sealift_staged_epoch",
    "sealift_staged_epoch_holders",
    "sealift_rotation_due_blocks",
    "sealift_policy_warnings",
    "sealift_witnesses",
    "sealift_witnesses_agreeing",
    "sealift_enclave_halted",
    "sealift_calls_executed",
    "sealift_enclave_labels",
    "sealift_fork_seen",
    "sealift_confirmed_block_height",
    "sealift_confirmation_lag",
    "sealift_attestation_remaining_blocks",
    "sealift_collateral_seconds_left",
    "sealift_disk_free_bytes",
    "sealift_waiting",
    "sealift_rehearsal_good",
    "sealift_rehearsals_missing",
}


def reading(**changes: object) -> Reading:
    fields: dict[str, object] = {
        "l1_height": 12,
        "imported_height": 9,
        "state_height": 8,
        "blocks_to_upgrade": 5,
        "instances_with_keys": 2,
        "attestation_age_blocks": 3,
        "operator_funds": 10**15,
        "calls_executed": 7,
        "state_bytes": 100,
        "halted": False,
        "fingerprint": "aa",
        "version": "1.0.0",
        **changes,
    }
    return Reading(**fields)


def raw(*readings: Reading) -> str:
    async def whole() -> bytes:
        left = iter(readings)

        async def read() -> Reading:
            return next(left)

        metrics = Metrics("shard", read)
        text = b""
        for _ in readings:
            text = await metrics.render()
        return text

    return asyncio.run(whole()).decode()


def scrape(*readings: Reading) -> dict[str, float]:
    found = {}
    text = raw(*readings)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert sample.labels["shard"] == "shard"
                found[sample.name.removesuffix("_total")] = sample.value
    return found


def test_the_names_are_those_that_are_documented() -> None:
    assert set(scrape(reading())) == NAMES


def test_witnesses_are_counted_and_named() -> None:
    witnesses = {"a": "agrees", "b": "behind", "c": "unreachable", "d": "conflict"}
    found = scrape(reading(witnesses={"gone": "agrees"}), reading(witnesses=witnesses))
    assert (found["sealift_witnesses"], found["sealift_witnesses_agreeing"]) == (4, 2)
    assert found["sealift_witness_state"] == 1


def test_what_is_not_known_is_not_a_number() -> None:
    found = scrape(
        reading(
            state_height=None,
            blocks_to_upgrade=None,
            attestation_age_blocks=None,
            operator_funds=None,
            instances_with_keys=None,
            key_epoch=None,
            staged_epoch=None,
            policy_warnings=None,
        )
    )
    unknown = {name for name, value in found.items() if math.isnan(value)}
    assert unknown == {
        "sealift_state_block_height",
        "sealift_blocks_to_upgrade",
        "sealift_attestation_age_blocks",
        "sealift_operator_funds",
        "sealift_instances_holding_keys",
        "sealift_key_epoch",
        "sealift_staged_epoch",
        "sealift_policy_warnings",
        "sealift_confirmed_block_height",
        "sealift_confirmation_lag",
        "sealift_attestation_remaining_blocks",
        "sealift_collateral_seconds_left",
        "sealift_disk_free_bytes",
        "sealift_rehearsal_good",
        "sealift_rehearsals_missing",
    }


def test_calls_are_counted_once_and_the_lag_is_never_negative() -> None:
    found = scrape(reading(calls_executed=3), reading(calls_executed=8))
    assert found["sealift_calls_executed"] == 8
    assert found["sealift_block_lag"] == 2
    assert scrape(reading(imported_height=12))["sealift_block_lag"] == 0
    assert scrape(reading(halted=True))["sealift_enclave_halted"] == 1


def test_confirmation_lags_behind_what_was_verified() -> None:
    assert scrape(reading(confirmed_height=4))["sealift_confirmation_lag"] == 5
    assert scrape(reading(confirmed_height=11))["sealift_confirmation_lag"] == 0


def test_each_thing_that_is_waited_for_is_a_series_of_its_own() -> None:
    waits = {"state", "l1-node"}
    text = raw(reading(waiting=frozenset(waits)), reading(waiting=frozenset({"state"})))
    found = {
        sample.labels["what"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "sealift_waiting"
    }
    assert set(found) == set(WAITS)
    assert {what for what, value in found.items() if value} == {"state"}


def test_every_topic_of_health_has_its_name_in_the_metrics() -> None:
    topics = {_life.L1, _life.ANNOUNCEMENT, _life.ATTESTATION, _life.SNAPSHOT}
    topics |= {_report.KEYS, _fetch.STATE, _rotation.ROTATION, _rehearsal.REHEARSAL}
    named = {_report._NAMES.get(topic, topic) for topic in topics}
    assert named | {"l1-node"} == set(WAITS)
