"""What operators do with snapshots, without an enclave."""

import asyncio
import shutil
from pathlib import Path

import pytest
from doubles import CODE, SHARD, entry, stored, written
from doubles import schedule as schedule_of
from small_bundles import code_in, small_bundle
from test_run import RIGHT, home_with

from sealift.base import Fingerprint, Height
from sealift.protocol import EntryStatus
from sealift.transport.files import FileLockedError, hold_lock
from sealift.transport.http import make_app, serve
from sealift.worker import (
    Judged,
    NoSnapshotError,
    SnapshotDamagedError,
    UpstreamError,
    WorkerConfig,
    WorkerStore,
    copy_snapshot,
    fetch_snapshot,
    list_snapshots,
    load_config,
    prune_snapshots,
    verify_snapshot,
)
from sealift.worker._api import API_ERRORS
from sealift.worker._archive import FetchProgress, furthest_instance
from sealift.worker._front import Rank
from sealift.worker._instances import install_instance
from sealift.worker._plan import generation_at
from sealift.worker._rate import Bandwidth
from sealift.worker._snapshots import SnapshotFolder
from sealift.worker._state_api import StateRoutes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with three snapshots, a cut-off one and one that was set aside."""
    home = home_with(tmp_path, RIGHT)
    store = WorkerStore(home / "worker.db", shard=SHARD, fingerprint=CODE)
    for height in (5, 7, 9):
        store.put_snapshot(stored(store, height, b"one", b"two"))
    store.snapshots.draft(11, b"header").put(0, b"cut off")
    store.snapshots.set_aside(written(store.snapshots, 3, b"bad").name)
    store.close()
    return home


def seen(where: Path) -> list[tuple[int, str]]:
    return [(one.height, one.standing) for one in list_snapshots(where)]


def test_a_home_and_a_folder_are_listed_newest_first(home: Path) -> None:
    everything = [
        (11, "partial"),
        (9, "whole"),
        (7, "whole"),
        (5, "whole"),
        (3, "damaged"),
    ]
    assert seen(home) == everything
    assert seen(home / "snapshots") == everything
    with pytest.raises(NoSnapshotError, match="no such folder"):
        list_snapshots(home / "elsewhere")


def test_the_enclave_that_is_asked_is_the_one_that_would_answer(
    tmp_path: Path,
) -> None:
    """After an upgrade the home's own code is at XYZ-1, and lacks the newest keys."""
    datas = [small_bundle(app=b"v = %d\n" % number) for number in (1, 2, 3)]
    old, new, void = (Fingerprint(code_in(data)) for data in datas)
    (tmp_path / "b.bundle").write_bytes(datas[0])
    text = RIGHT.replace('bundle = "../app.bundle"', 'bundle = "b.bundle"')
    config = load_config(home_with(tmp_path, text))
    schedule = schedule_of(
        entries=(
            entry(0, code=old, status=EntryStatus.RETIRED),
            entry(1, since=100, code=new),
            entry(2, since=90, code=void, status=EntryStatus.VOID),
        )
    )

    def rank(code: Fingerprint, height: int | None) -> Rank:
        if height is None:
            return Rank()
        run = generation_at(schedule, code, height, config.platform)
        return Rank(generation=run, height=height)

    def stands(one: WorkerConfig, code: Fingerprint, height: int) -> None:
        store = WorkerStore(one.database, shard=config.shard, fingerprint=code)
        store.commit_diff(Height(height), b"diff")
        store.close()

    assert furthest_instance(config, rank) == config
    stands(config, old, 99)
    staged = {}
    for code, data in ((new, datas[1]), (void, datas[2])):
        judged = Judged(fingerprint=code, version="2", data=data)
        staged[code] = install_instance(config, judged)
    assert furthest_instance(config, rank) == config  # neither has a state
    stands(staged[void], void, 120)
    stands(staged[new], new, 99)
    assert furthest_instance(config, rank) == config  # the upgrade has not begun
    stands(staged[new], new, 100)
    assert furthest_instance(config, rank) == staged[new]
    (tmp_path / "b.bundle").unlink()
    assert furthest_instance(config, rank) == staged[new]


def test_older_ones_are_pruned_and_what_was_set_aside_stays(home: Path) -> None:
    config = load_config(home)
    with hold_lock(home / "worker.lock"), pytest.raises(FileLockedError):
        prune_snapshots(config, 1)
    assert len(seen(home)) == 5
    dropped = prune_snapshots(config, 2)
    assert sorted(int(path.name.split("-")[0]) for path in dropped) == [5, 11]
    assert seen(home) == [(9, "whole"), (7, "whole"), (3, "damaged")]
    prune_snapshots(config, 0)  # never the last one
    assert seen(home) == [(9, "whole"), (3, "damaged")]


def test_a_copy_is_whole_and_damage_in_it_is_named(home: Path, tmp_path: Path) -> None:
    newest = next(one for one in list_snapshots(home) if one.standing == "whole")
    to = copy_snapshot(newest.path, tmp_path / "backup")
    assert verify_snapshot(to) == verify_snapshot(newest.path) == newest.manifest
    (to / "chunks" / "000001").write_bytes(b"2wo")
    with pytest.raises(SnapshotDamagedError, match="chunk 1 of the snapshot is alt"):
        verify_snapshot(to)
    copy_snapshot(newest.path, tmp_path / "backup")  # mends it
    assert verify_snapshot(to) == newest.manifest
    partial = list_snapshots(home)[0]
    with pytest.raises(NoSnapshotError, match="no whole snapshot in this folder"):
        verify_snapshot(partial.path)


def test_a_download_without_an_enclave_goes_on_where_it_was_cut_off(
    home: Path, tmp_path: Path
) -> None:
    store = WorkerStore(home / "worker.db", shard=SHARD, fingerprint=CODE)
    served, told = Bandwidth(0), []
    routes = StateRoutes(store, served)
    newest = store.snapshot()
    assert newest is not None
    backup = tmp_path / "backup"
    draft = SnapshotFolder(backup).draft(9, b"header")  # as a killed one leaves it
    draft.want(store.snapshots.manifest(newest.name))
    draft.put(0, b"one")
    draft.put(1, b"bad")

    async def main() -> None:
        app = make_app([], errors=API_ERRORS)
        for (method, path), handler in routes.handlers().items():
            app.router.add_route(method, path, handler)
        async with serve(app) as where:
            found = await fetch_snapshot(where.url, backup, rate=0, told=told.append)
            assert found.path == backup / newest.name
            path = store.snapshots.path / newest.name / "chunks" / "000001"
            path.write_bytes(b"oops")
            shutil.rmtree(backup)
            with pytest.raises(UpstreamError, match="refuses"):
                await fetch_snapshot(where.url, backup, rate=0, told=told.append)

    asyncio.run(main())
    assert told[:2] == [
        FetchProgress(name=newest.name, chunks=1, of=2, bytes_fetched=0),
        FetchProgress(name=newest.name, chunks=2, of=2, bytes_fetched=3),
    ]
    assert seen(backup) == [(9, "partial")]
    assert served.taken == len(b"two") + len(b"one")
    store.close()
