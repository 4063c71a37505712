"""What L1 confirmed, as the host of an audit reads it; and bundles at hand."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audit_world import AuditWorld, runtime

from sealift.base import Height
from sealift.bundle import encode_bundle
from sealift.protocol import EntryStatus, ScheduleEntry, ShardConfig
from sealift.testing import World, _release
from sealift.worker import Judged, Shelf, WorkerConfig, load_config
from sealift.worker._audit_facts import AuditFacts
from sealift.worker._audit_home import ShelfBundle, _start
from sealift.worker._config import TEMPLATE
from sealift.worker._errors import (
    AuditBundleMissingError,
    AuditBundleTooOldError,
    AuditKeysError,
    AuditRangeError,
    AuditUnfinishedError,
)
from sealift.worker._instances import install_instance


def test_the_ranges_are_those_that_l1_counted(audited: AuditWorld) -> None:
    world = audited.world
    facts = AuditFacts(shard=world.shard)
    for height in range(1, world.height):
        facts.follow(Height(height), audited.auditor_of.import_request(height))
    ranges = facts._ranges
    signed = [
        reply.confirmation
        for worker in world.workers.values()
        for reply in worker.signed
        if reply.confirmation is not None
    ]
    assert len(ranges) > 5
    for one in ranges:
        assert any(
            (said.first, said.last, said.root, said.receipts_root, said.effects_root)
            == (one.first, one.last, one.root, one.receipts_root, one.effects_root)
            for said in signed
        )
    pairs = itertools.pairwise(ranges)
    assert all(left.last + 1 == right.first for left, right in pairs)


def test_a_frontier_without_confirmations_is_no_frontier(audited: AuditWorld) -> None:
    """They stand in verified blocks: a host that hides one hears of it."""
    facts = AuditFacts(shard=audited.world.shard)
    hidden = [
        msgspec.structs.replace(
            audited.auditor_of.import_request(height), txs=(), results=()
        )
        for height in range(1, audited.world.height)
    ]

    def follow() -> None:
        for height, block in enumerate(hidden, 1):
            facts.follow(Height(height), block)

    with pytest.raises(AuditRangeError):
        follow()


def test_an_audit_that_compared_less_than_is_confirmed_is_none(
    audited: AuditWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AuditFacts, "compare", lambda _: None)
    with pytest.raises(AuditUnfinishedError):
        audited.audit()


# --- bundles at hand ---


@pytest.fixture
def home(tmp_path: Path) -> tuple[WorkerConfig, World]:
    """A home whose bundle is a release's, and the world that it is from."""
    world = World(tmp_path / "world")
    release = world.release(runtime())
    bundle = tmp_path / "running.bundle"
    bundle.write_bytes(encode_bundle(release.bundle.bundle))
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "worker.toml").write_text(
        TEMPLATE.format(
            rpc="http://127.0.0.1:1",
            shard="00" * 32,
            genesis="",
            bundle=bundle,
            sim=tmp_path / "world",
            machine="alpha",
            port=0,
            upstream="",
        )
    )
    return load_config(folder), world


def entry(code: bytes, **more: Any) -> ScheduleEntry:
    fields: dict[str, Any] = {
        "generation": 0,
        "predecessor": None,
        "config": ShardConfig(code={"insecure-sim": code}),
        "order": bytes(32),
        "recorded_at": 1,
        "release_from": 2,
        "upgrade_at": 3,
        "since": 3,
        "status": EntryStatus.RETIRED,
    }
    return ScheduleEntry(**(fields | more))


class _Schedule:
    """As much of a schedule as a shelf looks at."""

    def __init__(self, one: ScheduleEntry) -> None:
        self.one = one

    def entry(self, generation: int) -> ScheduleEntry:
        assert generation == 0
        return self.one


def test_a_missing_bundle_is_named_with_where_it_may_be_had(
    home: tuple[WorkerConfig, World],
) -> None:
    config, world = home
    shelf = Shelf(config)
    code = world.releases[0].fingerprint
    known: Any = _Schedule(entry(code))
    assert isinstance(shelf.find(code, 0, known), ShelfBundle)
    wanted: Any = _Schedule(
        entry(b"x" * 32, bundle=b"h" * 32, source="https://vendor.test/v1.bundle")
    )
    with pytest.raises(AuditBundleMissingError) as caught:
        shelf.find(b"x" * 32, 0, wanted)
    for told in ((b"x" * 32).hex(), (b"h" * 32).hex(), "https://vendor.test/v1.bundle"):
        assert told in str(caught.value)


def test_bundles_that_were_staged_in_the_home_are_at_hand(
    home: tuple[WorkerConfig, World],
) -> None:
    config, world = home
    data = encode_bundle(world.release(runtime(), isv_svn=2).bundle.bundle)
    code = world.releases[-1].fingerprint
    assert code != world.releases[0].fingerprint
    with pytest.raises(AuditBundleMissingError):
        Shelf(config).find(code, 0, _Schedule(entry(code)))  # type: ignore[arg-type]
    install_instance(config, Judged(fingerprint=code, version="2", data=data))
    found = Shelf(config).find(code, 0, _Schedule(entry(code)))  # type: ignore[arg-type]
    assert found.bundle.fingerprint == code


def test_a_bundle_of_an_earlier_release_is_refused_by_name(
    home: tuple[WorkerConfig, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its enclave speaks version 1 of the table and knows of no audits."""
    config, world = home
    monkeypatch.setattr(_release, "ECALL_VERSIONS", (1, 1))
    old = world.release(runtime())
    folder = config.home / "former"
    folder.mkdir()
    (folder / "junk.bundle").write_bytes(b"no bundle")
    (folder / "old.bundle").write_bytes(encode_bundle(old.bundle.bundle))
    known: Any = _Schedule(entry(old.fingerprint))
    with pytest.raises(AuditBundleTooOldError):
        Shelf(config, folders=[folder]).find(old.fingerprint, 0, known)


def test_a_home_without_sealed_keys_cannot_audit(
    home: tuple[WorkerConfig, World],
) -> None:
    nobody: Any = None
    with pytest.raises(AuditKeysError):
        asyncio.run(_start(nobody, home[0], light=b""))
