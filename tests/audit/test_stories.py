"""Audits from genesis: what they replay, and what they find."""

from pathlib import Path

from audit_world import AuditWorld


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
