"""Audits from genesis: what they replay, and what they find."""

from pathlib import Path

import pytest
from audit_world import AuditWorld, LoudDiary, runtime

from sealift.enclave import _execute
from sealift.frame import storage_key
from sealift.protocol import ShardStatus
from sealift.worker._audit import AuditReport
from sealift.worker._errors import AuditBundleMissingError, EnclaveRefusedError


def enclave_state(audited: AuditWorld, worker: str = "old"):  # type: ignore[no-untyped-def]
    """The state inside a worker's enclave: what no host can reach."""
    enclave = audited.world.workers[worker]._enclave
    assert enclave is not None
    assert enclave._shard is not None
    assert enclave._shard.state is not None
    return enclave._shard.state.store


def test_every_former_code_replays_its_own_range_to_the_confirmed_roots(
    audited: AuditWorld,
) -> None:
    report = audited.audit()
    assert report.difference is None
    assert report.compared == report.confirmed
    assert report.confirmed >= audited.world.frontier().confirmed - 4
    assert [one.generation for one in report.generations] == [0, 1]
    assert [code for _, code in audited.started] == [
        release.fingerprint for release in audited.releases
    ]
    first, second = report.generations
    assert first.last is not None
    assert second.first == first.last + 1
    assert report.calls == 5, "two, the one that is no envelope, and two"
    assert len(audited.auditor_of.status().epochs) == 2, "over a rotation, too"


def test_an_audit_leaves_the_running_worker_alone(audited: AuditWorld) -> None:
    """It goes on executing, and what it signs afterwards is taken by L1."""
    before = audited.auditor_of.disk.copy()
    audited.audit()
    assert audited.auditor_of.disk.key_store == before.key_store
    audited.write("five")
    audited.world.blocks(3)
    assert audited.world.workers["new"].refusals == []
    assert audited.world.frontier().confirmed > audited.world.height - 5


def test_a_shard_without_an_upgrade_is_audited_by_the_code_that_runs(
    tmp_path: Path,
) -> None:
    audited = AuditWorld(tmp_path)
    audited.write("one")
    audited.world.blocks(5)
    report = audited.audit()
    assert (report.difference, report.calls) == (None, 1)
    assert [one.generation for one in report.generations] == [0]


def test_three_generations(audited: AuditWorld) -> None:
    third = audited.world.release(runtime(LoudDiary, 3))
    audited.shelf[third.fingerprint] = third
    audited.upgrade(third, "newest")
    audited.write("six")
    audited.world.blocks(6)
    report = audited.audit()
    assert report.difference is None
    assert [one.generation for one in report.generations] == [0, 1, 2]


def test_a_rescue_is_replayed_by_the_rescuer_over_the_voided_blocks(
    tmp_path: Path,
) -> None:
    """Version 2 never confirms: its blocks are version 1's again, as a generation of
    their own, and nobody starts version 2 for an audit.
    """
    audited = AuditWorld(tmp_path)
    world = audited.world
    audited.write("one")
    entry = world.schedule(audited.releases[1])
    world.run_until(entry.upgrade_at)
    audited.write("in the gap")
    world.run_until(entry.upgrade_at + 14)
    audited.write("after")
    world.blocks(6)
    assert world.generation_at(entry.upgrade_at) == 2
    audited.shelf = {audited.releases[0].fingerprint: audited.releases[0]}
    report = audited.audit()
    assert report.difference is None
    assert [one.generation for one in report.generations] == [0, 2]
    assert report.generations[1].first == entry.upgrade_at
    assert report.calls == 3


# --- what it finds ---


def wrong(report: AuditReport) -> tuple[int, str, int]:
    found = report.difference
    assert found is not None
    assert found.expected != found.got
    assert report.compared is not None
    assert report.compared < found.first
    return found.generation, found.fact, found.block


def test_a_state_that_was_changed_behind_the_codes_back_is_found_at_its_block(
    tmp_path: Path,
) -> None:
    """A broken TEE, or a quorum of liars: L1 has a root that the code never made."""
    audited = AuditWorld(tmp_path)
    audited.write("one", "two")
    audited.world.blocks(6)
    key = storage_key("diary", "count")
    store = enclave_state(audited)
    assert store.get(key) == b"\x02"
    store.apply({key: b"\x2a"})
    changed_after = audited.world.height - 1
    audited.write("three", "four")
    audited.world.blocks(6)
    report = audited.audit()
    generation, fact, _ = wrong(report)
    assert (generation, fact) == (0, "root")
    assert report.difference is not None
    # It shows in the first range that was confirmed with it.
    assert report.difference.first <= changed_after + 1 <= report.difference.last


def test_a_migration_that_was_not_the_codes_own_is_found_at_its_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = AuditWorld(tmp_path)
    audited.write("one")
    audited.world.blocks(3)
    with monkeypatch.context() as lying:
        lying.setattr(LoudDiary, "on_runtime_upgrade", lambda *_: None)
        audited.upgrade(audited.releases[1], "new")
    audited.write("two")
    audited.world.blocks(5)
    generation, fact, _ = wrong(report := audited.audit())
    assert (generation, fact) == (1, "root")
    assert report.difference is not None
    assert report.difference.first == report.generations[1].first


def test_receipts_that_were_not_the_codes_own_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = AuditWorld(tmp_path)
    audited.write("one")
    audited.world.block()
    with monkeypatch.context() as lying:
        lying.setattr(_execute, "sealed_receipts", lambda *_: ())
        audited.write("two")
        height = audited.world.height
        audited.world.block()
    audited.write("three")
    audited.world.blocks(6)
    generation, fact, block = wrong(audited.audit())
    assert (generation, fact, block) == (0, "receipts root", height)


def test_effects_that_were_not_the_codes_own_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = AuditWorld(tmp_path)
    audited.write("one")
    with monkeypatch.context() as lying:
        lying.setattr(_execute, "_effects", lambda *_: None)
        audited.world.user("alice").call(
            "balances.unshield", beneficiary=audited.world.account("bob"), amount=5
        )
        height = audited.world.block()
        audited.world.block()
    audited.world.blocks(6)
    generation, fact, block = wrong(audited.audit())
    assert (generation, fact, block) == (0, "effects root", height)


def test_an_audit_with_effects_is_the_same(tmp_path: Path) -> None:
    audited = AuditWorld(tmp_path)
    audited.world.user("alice").call(
        "balances.unshield", beneficiary=audited.world.account("bob"), amount=5
    )
    audited.world.blocks(12)
    report = audited.audit()
    assert (report.difference, report.calls) == (None, 1)


# --- what it is refused ---


def test_a_missing_bundle_is_named(audited: AuditWorld) -> None:
    del audited.shelf[audited.releases[0].fingerprint]
    with pytest.raises(AuditBundleMissingError):
        audited.audit()


def test_code_below_todays_floor_is_not_started_again(audited: AuditWorld) -> None:
    """Withdrawn as vulnerable: a host must not get at old calls through it."""
    audited.world.set_status(ShardStatus(min_isv_svn=2))
    with pytest.raises(EnclaveRefusedError) as caught:
        audited.audit()
    assert caught.value.refused == "IsvSvnTooLowError"


def test_code_of_a_revoked_vendor_is_not_started_again(audited: AuditWorld) -> None:
    signer = audited.releases[0].bundle.sigstruct.mrsigner
    audited.world.set_status(ShardStatus(revoked_signers=(signer,)))
    with pytest.raises(EnclaveRefusedError) as caught:
        audited.audit()
    assert caught.value.refused == "VendorRevokedError"


def test_code_that_todays_policy_rejects_is_not_started_again(
    audited: AuditWorld,
) -> None:
    audited.world.set_status(ShardStatus(min_tcb_evaluation_number=10_000))
    with pytest.raises(EnclaveRefusedError) as caught:
        audited.audit()
    assert caught.value.refused == "PolicyRefusedError"


def test_withdrawn_code_audits_nothing(audited: AuditWorld) -> None:
    """It holds the keys of its time, and opens no call for others any more."""
    audited.auditor_of = audited.world.workers["old"]
    with pytest.raises(EnclaveRefusedError) as caught:
        audited.audit()
    assert caught.value.refused == "NotNamedError"


def test_pinned_and_expired_calls_come_to_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call comes to may hang on the code's own MRENCLAVE and on key epochs."""
    audited = AuditWorld(tmp_path, rules={"grace": 1})
    alice = audited.world.user("alice")
    first = audited.releases[0].fingerprint
    for pin in (first, b"n" * 32):
        alice.call("diary.write", text="pinned", pin=pin)
        audited.world.block()
    audited.upgrade(audited.releases[1], "new")
    audited.world.blocks(4)
    old, new = audited.world.schedule_now().epochs
    assert audited.world.height > new.valid_from
    pinned = alice.call("diary.write", text="pinned", pin=first, nonce=1)
    sealed_to = (old.epoch, old.keys.shielding_key)
    monkeypatch.setattr(alice, "_sealed_to", lambda: sealed_to)
    late = alice.call("diary.write", text="late", nonce=1)
    audited.world.blocks(6)
    outcomes = [call.find_receipt() for call in (pinned, late)]
    assert [receipt and receipt.outcome for receipt in outcomes] == [
        "FingerprintPinError",
        "KeyEpochExpiredError",
    ]
    report = audited.audit()
    assert (report.difference, report.calls) == (None, 4)


def test_a_call_pinned_to_the_same_code_elsewhere_comes_to_the_same(
    tmp_path: Path,
) -> None:
    """A generation has a MRENCLAVE on each platform; a pin to any of them holds."""
    elsewhere = b"g" * 32
    audited = AuditWorld(tmp_path, other_code=elsewhere)
    alice = audited.world.user("alice")
    pinned = alice.call("diary.write", text="pinned", pin=elsewhere)
    audited.world.blocks(8)
    receipt = pinned.find_receipt()
    assert receipt is not None
    assert receipt.outcome == "ok"
    report = audited.audit()
    assert (report.difference, report.calls) == (None, 1)
