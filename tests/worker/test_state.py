"""The state's way back from disk: refused as a whole, by name, and kept."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from doubles import CODE, SHARD, FakeEnclave, refusal, status, stored

from sealift.base import Height, Message
from sealift.protocol.ecall import (
    DiffApply,
    Genesis,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotHeader,
    StateReply,
)
from sealift.worker import StoreError, WorkerStore
from sealift.worker._channel import EnclaveChannel
from sealift.worker._state import restore_state


class Disk:
    """An enclave whose state grows by what is brought, and a store."""

    def __init__(self, path: Path) -> None:
        self.height: int | None = None
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.enclave = FakeEnclave(
            Genesis=lambda _: self.at(3),
            SnapshotBegin=lambda _: SnapshotHeader(
                header=b"header", height=Height(20), chunks=2
            ),
            SnapshotChunk=lambda r: self.at(20 if r.index == 1 else None),
            DiffApply=lambda r: self.at(int(r.diff)),
            GetStatus=lambda _: status(
                state_height=None if self.height is None else Height(self.height)
            ),
        )

    def at(self, height: int | None) -> Message:
        self.height = height if height is not None else self.height
        return StateReply(
            height=None if self.height is None else Height(self.height), root=None
        )

    def restore(
        self, genesis: bytes | None = b"genesis", *, peers: bool = False
    ) -> int | None:
        return asyncio.run(
            restore_state(
                EnclaveChannel(self.enclave), self.store, genesis=genesis, peers=peers
            )
        )


@pytest.fixture
def disk(tmp_path: Path):
    made = Disk(tmp_path)
    yield made
    made.store.close()


def diffs(disk: Disk, *heights: int) -> None:
    for height in heights:
        disk.store.commit_diff(Height(height), b"%d" % height)


def snapshot(disk: Disk) -> None:
    disk.store.put_snapshot(stored(disk.store, 20, b"a", b"b"))


def test_an_empty_disk_gives_nothing_back(disk: Disk) -> None:
    assert disk.restore() is None
    assert not disk.enclave.count(Genesis)


def test_a_birth_begins_at_the_genesis_and_goes_on_by_diffs(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    diffs(disk, 4, 5)
    assert disk.restore() == 5
    assert disk.enclave.count(DiffApply) == 2


def test_a_snapshot_comes_first_and_only_later_diffs_after_it(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    snapshot(disk)
    diffs(disk, 19, 20, 21)
    assert disk.restore() == 21
    assert disk.enclave.count(Genesis) == 0
    assert disk.enclave.count(SnapshotBegin) == 1
    assert disk.enclave.count(SnapshotChunk) == 2
    assert disk.enclave.count(DiffApply) == 1


def test_whose_birth_another_forestalled_asks_for_the_keys(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    disk.enclave.answers["Genesis"] = lambda _: refusal("NoKeysError")
    assert disk.restore() is None


@pytest.mark.parametrize(
    ("request_name", "code"),
    [
        ("SnapshotBegin", "ForeignSnapshotError"),
        ("SnapshotChunk", "SnapshotForgedError"),
        ("DiffApply", "DiffOrderError"),
    ],
)
def test_what_the_enclave_refuses_is_named_and_stays(
    disk: Disk, request_name: str, code: str
) -> None:
    snapshot(disk)
    diffs(disk, 21)
    disk.enclave.answers[request_name] = lambda _: refusal(code)
    with pytest.raises(StoreError, match=code) as caught:
        disk.restore()
    assert "left as it is" in caught.value.hint
    assert disk.store.snapshot() is not None
    assert disk.store.diff(21) == b"21"


def test_another_genesis_is_refused(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    disk.enclave.answers["Genesis"] = lambda _: refusal("GenesisMismatchError")
    with pytest.raises(StoreError, match="GenesisMismatchError"):
        disk.restore()


class Story(Disk):
    """Two snapshots, after blocks 10 and 20, and the diffs that lead on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.offered = b""
        self.refuse: set[bytes] = set()
        self.enclave.answers.update(
            SnapshotBegin=self.begin, SnapshotChunk=self.chunk, DiffApply=self.diff
        )
        for height in (10, 20):
            one = stored(self.store, height, b"a", b"b", header=b"snapshot %d" % height)
            self.store.put_snapshot(one)
        diffs(self, *range(9, 24))

    def begin(self, request: SnapshotBegin) -> Message:
        assert request.header is not None
        self.offered = request.header
        height = int(request.header.split()[1])
        return SnapshotHeader(header=request.header, height=Height(height), chunks=2)

    def chunk(self, request: SnapshotChunk) -> Message:
        if self.offered in self.refuse:
            return refusal("SnapshotForgedError")
        done = request.index == 1
        return self.at(int(self.offered.split()[1]) if done else None)

    def diff(self, request: DiffApply) -> Message:
        if int(request.diff) != (self.height or 0) + 1:
            return refusal("DiffOrderError")
        return self.at(int(request.diff))

    def path_of(self, height: int) -> Path:
        one = self.store.snapshot_at(height)
        assert one is not None
        return self.store.snapshots.path / one.name

    def kept(self) -> list[str]:
        return sorted(p.name.partition("-")[0] + p.suffix for p in self.folders())

    def folders(self) -> list[Path]:
        return list(self.store.snapshots.path.iterdir())


@pytest.fixture
def story(tmp_path: Path):
    made = Story(tmp_path)
    yield made
    made.store.close()


def refused_by_the_enclave(story: Story) -> None:
    story.refuse.add(b"snapshot 20")


def without_a_chunk(story: Story) -> None:
    (story.path_of(20) / "chunks" / "000001").unlink()


def altered(story: Story) -> None:
    (story.path_of(20) / "chunks" / "000000").write_bytes(b"b")


def without_a_manifest(story: Story) -> None:
    (story.path_of(20) / "manifest").unlink()


def with_a_foreign_manifest(story: Story) -> None:
    data = (story.path_of(10) / "manifest").read_bytes()
    (story.path_of(20) / "manifest").write_bytes(data)


DAMAGES = [
    refused_by_the_enclave,
    without_a_chunk,
    altered,
    without_a_manifest,
    with_a_foreign_manifest,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_the_newest_good_snapshot_is_loaded_and_the_rest_replayed(
    story: Story, damage: Callable[[Story], None]
) -> None:
    damage(story)
    before = {p: p.read_bytes() for p in story.path_of(20).rglob("*") if p.is_file()}
    name = story.path_of(20).name
    assert story.restore() == 23
    assert [one.height for one in story.store.stored_snapshots()] == [10]
    assert story.kept() == ["10", "20.damaged"]  # set aside, nothing of it dropped
    for path, data in before.items():
        aside = Path(str(path).replace(name, f"{name}.damaged"))
        assert aside.read_bytes() == data
    assert story.restore() == 23


def test_where_all_are_damaged_the_birth_leads_on(story: Story) -> None:
    story.refuse |= {b"snapshot 10", b"snapshot 20"}
    story.store.put_meta("born", b"\x01")
    diffs(story, *range(4, 9))
    assert story.restore() == 23
    assert story.kept() == ["10.damaged", "20.damaged"]


def test_a_newest_snapshot_that_is_gone_is_no_reason_to_stop(story: Story) -> None:
    (name,) = (one for one in story.store.snapshots.names() if one.startswith("20-"))
    shutil.rmtree(story.store.snapshots.path / name)
    assert story.restore() == 23
    assert story.kept() == ["10"]
    assert [int(one.height) for one in story.store.stored_snapshots()] == [10]


def test_where_nothing_leads_as_far_as_before_all_stays_as_it_is(
    story: Story,
) -> None:
    story.refuse |= {b"snapshot 10", b"snapshot 20"}
    with pytest.raises(StoreError, match="SnapshotForgedError") as caught:
        story.restore()
    assert "left as it is" in caught.value.hint
    assert story.kept() == ["10", "20"]
    story.refuse = {b"snapshot 20"}
    story.store._db.execute("DELETE FROM diffs WHERE height = 15")
    with pytest.raises(StoreError, match="SnapshotForgedError"):
        story.restore()
    assert story.kept() == ["10", "20"]


def test_where_peers_can_be_asked_the_worker_goes_on_with_less(story: Story) -> None:
    story.refuse = {b"snapshot 20"}
    story.store._db.execute("DELETE FROM diffs WHERE height = 15")
    assert story.restore(peers=True) == 14
    assert story.kept() == ["10", "20.damaged"]
    story.refuse = {b"snapshot 10"}
    story.height = None
    assert story.restore(peers=True) is None


def test_a_gap_in_the_diffs_behind_a_good_snapshot_is_refused(story: Story) -> None:
    story.store._db.execute("DELETE FROM diffs WHERE height = 22")
    with pytest.raises(StoreError, match="DiffOrderError"):
        story.restore()


def test_what_nobody_named_is_swept_at_the_start(story: Story) -> None:
    """Killed between the snapshot and the block that would have named it."""
    stored(story.store, 24, b"a", b"b", header=b"snapshot 24")
    assert story.restore() == 23
    assert story.kept() == ["10", "20"]
