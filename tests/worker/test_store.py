"""The worker's database: whole or not at all, its owner's, never dropped."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from doubles import CODE, SHARD, effects, executed, order, receipt

from sealift.base import Digest, Fingerprint, Height, ShardId
from sealift.worker import StoreError, StoreMismatchError, WorkerError, WorkerStore
from sealift.worker._store import StoredSnapshot


def opened(path: Path) -> WorkerStore:
    return WorkerStore(path, shard=SHARD, fingerprint=CODE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkerStore]:
    with closing(opened(tmp_path / "worker.db")) as made:
        yield made


def named(height: int, name: str = "") -> StoredSnapshot:
    return StoredSnapshot(height=Height(height), name=name or f"{height}-{'0' * 12}")


class Died(BaseException):
    """kill -9 between two writes."""


class Dying:
    """A connection whose process is killed before its n-th write."""

    def __init__(self, db: sqlite3.Connection, writes: int) -> None:
        self.db, self.left = db, writes

    def __getattr__(self, name: str) -> object:
        return getattr(self.db, name)

    def execute(self, query: str, *values: object) -> object:
        self._count(query)
        return self.db.execute(query, *values)

    def executemany(self, query: str, values: object) -> object:
        self._count(query)
        return self.db.executemany(query, values)

    def _count(self, query: str) -> None:
        if query.split(maxsplit=1)[0] in {"SELECT", "PRAGMA", "ROLLBACK"}:
            return
        if not self.left:
            raise Died
        self.left -= 1


@pytest.mark.parametrize("writes", range(12))
def test_killed_before_any_write_of_a_block_all_of_it_or_nothing_is_there(
    tmp_path: Path, writes: int
) -> None:
    path = tmp_path / "worker.db"
    store = opened(path)
    store.commit_block(executed(1))
    store._db = Dying(store._db, writes)
    block = executed(2, receipts=(receipt(2),), orders=(order(),), effects=effects(2))
    died = False
    try:
        store.commit_block(block, named(2))
    except Died:
        died = True
    store._db.db.close()  # the kernel does it for the dead
    again = opened(path)
    there = (
        again.diff(2) is not None,
        again.receipt(receipt(2).envelope) is not None,
        again.meta("checkpoint") == b"checkpoint 2",
        len(again.orders()) == 1,
        again.effects_pending() == 1,
        again.snapshot() is not None,
    )
    assert set(there) == {not died}
    assert again.diff(1) == b"diff 1"
    again.close()
    assert died == (writes < 8)


def test_killed_while_the_file_is_made_the_next_start_makes_it(tmp_path: Path) -> None:
    real = sqlite3.connect
    for writes in range(8):
        path = tmp_path / f"{writes}.db"

        def connect(where: Path, n: int = writes, **options: object) -> Dying:
            return Dying(real(where, **options), n)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sealift.worker._store.sqlite3.connect", connect)
            with pytest.raises(Died):
                opened(path)
        store = opened(path)
        assert store.meta("shard") == SHARD
        store.close()


def test_a_copy_of_a_call_keeps_the_first_receipt(store: WorkerStore) -> None:
    store.commit_block(executed(1, receipts=(receipt(1),)))
    store.commit_block(executed(2, receipts=(receipt(2, index=5),)))
    found = store.receipt(receipt(1).envelope)
    assert found == receipt(1)
    assert store.receipts_at(2) == []
    assert store.receipts_at(1) == [receipt(1)]
    assert store.receipt(Digest(bytes(32))) is None


@pytest.mark.parametrize(
    ("shard", "code", "named"),
    [
        (ShardId(bytes(32)), CODE, "another shard"),
        (SHARD, Fingerprint(bytes(32)), "another fingerprint"),
    ],
)
def test_the_database_of_another_is_refused_and_left_alone(
    tmp_path: Path, shard: ShardId, code: Fingerprint, named: str
) -> None:
    path = tmp_path / "worker.db"
    opened(path).close()
    before = path.read_bytes()
    with pytest.raises(StoreMismatchError, match=named):
        WorkerStore(path, shard=shard, fingerprint=code)
    assert path.read_bytes() == before
    opened(path).close()


@pytest.mark.parametrize(
    "content", [b"x" * 4096, b"SQLite format 3\x00" + b"\xff" * 999]
)
def test_what_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "worker.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be used") as caught:
        opened(path)
    assert "left as it is" in caught.value.hint
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be used"):
        opened(tmp_path / "none" / "worker.db")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE receipts SET data = x'00'",
        "DROP TABLE receipts",
    ],
)
def test_a_damaged_row_or_table_is_a_named_refusal(
    store: WorkerStore, damage: str
) -> None:
    store.commit_block(executed(1, receipts=(receipt(1),)))
    store._db.execute(damage)
    with pytest.raises(StoreError, match="cannot be used"):
        store.receipt(receipt(1).envelope)
    with pytest.raises(StoreError, match="cannot be used"):
        store.receipts_at(1)


def test_damaged_names_of_holders_are_a_named_refusal(store: WorkerStore) -> None:
    store.put_meta("holders", b"\xc1")
    with pytest.raises(StoreError, match="cannot be used"):
        store.holders()


def test_a_failed_write_is_named_and_what_was_there_stays(store: WorkerStore) -> None:
    store.commit_block(executed(1))
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="was not written") as caught:
        store.commit_block(executed(2))
    assert "start again" in caught.value.hint
    assert store.diff(1) == b"diff 1"
    store._db.execute("PRAGMA query_only = OFF")
    store.commit_block(executed(2))


def test_an_instance_is_counted_once_however_often_it_is_provisioned(
    store: WorkerStore,
) -> None:
    assert store.holders() == 0
    store.add_holders(b"me")
    store.add_holders(b"me", b"other")
    store.add_holders(b"other")
    store.add_holders()
    assert store.holders() == 2


def test_diffs_come_in_order_and_no_more_than_asked(store: WorkerStore) -> None:
    for height in (3, 1, 2):
        store.commit_diff(Height(height), b"%d" % height)
    assert store.diffs_after(0) == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert store.diffs_after(1, most=1) == [(2, b"2")]
    store.drop_diffs_below(3)
    assert store.diffs_after(0) == [(3, b"3")]


def test_so_many_snapshots_stay_named_as_are_kept_the_newest(
    store: WorkerStore,
) -> None:
    assert store.snapshot() is None
    assert store.durable() is None
    for height in (5, 12, 9):
        store.put_snapshot(named(height))
    assert store.snapshot() == named(12)
    assert store.snapshot_at(5) == named(5)
    assert store.stored_snapshots() == [named(12), named(9), named(5)]
    store.retain_snapshots(2)
    assert store.stored_snapshots() == [named(12), named(9)]
    store.retain_snapshots(0)  # never none
    assert store.stored_snapshots() == [named(12)]
    store.commit_diff(Height(11), b"diff")
    assert store.durable() == 12
    store.forget_snapshot(12)
    assert store.durable() == 11


def test_another_snapshot_of_a_height_takes_its_place(store: WorkerStore) -> None:
    for snapshot in (named(5), named(9, "9-" + "1" * 12), named(9, "9-" + "2" * 12)):
        store.put_snapshot(snapshot)
    assert [one.name[:3] for one in store.stored_snapshots()] == ["9-2", "5-0"]


def test_diffs_are_weighed_above_a_height(store: WorkerStore) -> None:
    assert store.diffs_weight(0) == (0, 0, 0)
    for height in (3, 4, 6):
        store.commit_diff(Height(height), bytes(height))
    assert store.diffs_weight(3) == (2, 6, 10)


def test_a_state_taken_over_leaves_no_snapshot_of_another_line(
    store: WorkerStore,
) -> None:
    store.put_snapshot(named(3))
    store.put_snapshot(named(9))
    store.replace_state(named(5))
    found = store.snapshot()
    assert found is not None
    assert found.height == 5
    assert store.snapshot_at(3) is store.snapshot_at(9) is None


def test_a_state_taken_over_drops_what_led_elsewhere(store: WorkerStore) -> None:
    for height in (4, 5, 6):
        store.commit_block(executed(height, effects=effects(height)))
    store.replace_state(named(5))
    assert store.diffs_after(5) == []
    assert [one.height for one in store.effects()] == [4, 5]


def test_orders_wait_until_they_are_dropped_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    store = opened(path)
    store.commit_block(executed(1, orders=(order(0), order(1))))
    store.close()
    store = opened(path)
    (first, one), (_, two) = store.orders()
    assert (one.order.serial, two.order.serial) == (0, 1)
    store.drop_order(first)
    assert [o.order.serial for _, o in store.orders()] == [1]
    store.close()


#: The tables of format 1, as its release made them.
FORMAT_1 = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE diffs (height INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    (
        "CREATE TABLE receipts (envelope BLOB PRIMARY KEY, height INTEGER NOT NULL,"
        " data BLOB NOT NULL) WITHOUT ROWID"
    ),
    "CREATE INDEX receipts_by_height ON receipts (height)",
    "CREATE TABLE orders (number INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    (
        "CREATE TABLE snapshots (height INTEGER PRIMARY KEY, header BLOB NOT NULL,"
        " chunks INTEGER NOT NULL)"
    ),
    (
        "CREATE TABLE chunks (height INTEGER NOT NULL, number INTEGER NOT NULL,"
        " data BLOB NOT NULL, PRIMARY KEY (height, number)) WITHOUT ROWID"
    ),
)


def file_of_format_1(path: Path, shard: bytes = SHARD) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in FORMAT_1:
        db.execute(statement)
    rows = [
        ("format", b"\x01"),
        ("shard", bytes(shard)),
        ("fingerprint", bytes(CODE)),
        ("checkpoint", b"checkpoint 9"),
    ]
    db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
    db.execute("INSERT INTO diffs VALUES (9, x'aa')")
    db.close()


def test_a_file_of_the_release_before_is_opened_with_all_it_holds(
    tmp_path: Path,
) -> None:
    path = tmp_path / "worker.db"
    file_of_format_1(path)
    for height in (9, 10):  # the second time it is of this release
        store = opened(path)
        assert store.diff(9) == b"\xaa"
        assert store.meta("checkpoint") == b"checkpoint %d" % height
        store.commit_block(executed(10, effects=effects(10)))
        assert store.effects_pending() == 1
        store.close()


@pytest.mark.parametrize("writes", range(4))
def test_killed_while_a_file_is_brought_up_the_next_start_does_it(
    tmp_path: Path, writes: int
) -> None:
    path = tmp_path / "worker.db"
    file_of_format_1(path)
    real = sqlite3.connect
    made: list[sqlite3.Connection] = []

    def connect(where: Path, **options: object) -> Dying:
        made.append(real(where, **options))
        return Dying(made[0], writes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sealift.worker._store.sqlite3.connect", connect)
        with pytest.raises(Died):
            opened(path)
    made[0].close()  # the kernel does it for the dead
    store = opened(path)
    assert (store.diff(9), store.effects_pending()) == (b"\xaa", 0)
    store.close()


def test_a_file_of_a_later_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    file_of_format_1(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("UPDATE meta SET value = x'63' WHERE name = 'format'")
    db.close()
    with pytest.raises(StoreMismatchError, match="another format"):
        opened(path)


#: What a release of format 2 had beside the tables of format 1.
EFFECTS = (
    "CREATE TABLE effects (height INTEGER PRIMARY KEY, data BLOB NOT NULL,"
    " said INTEGER NOT NULL)"
)


def file_of_format_2(path: Path) -> None:
    """With two whole snapshots, and one that lacks a chunk."""
    file_of_format_1(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(EFFECTS)
    db.execute("UPDATE meta SET value = x'02' WHERE name = 'format'")
    for height, chunks in ((5, 2), (7, 2), (9, 3)):
        db.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?)",
            (height, b"header %d" % height, chunks),
        )
    for height, number in ((5, 0), (5, 1), (7, 1), (9, 0), (9, 1), (9, 2)):
        data = b"chunk %d of %d" % (number, height)
        db.execute("INSERT INTO chunks VALUES (?, ?, ?)", (height, number, data))
    db.close()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def are_folders(store: WorkerStore) -> None:
    """The whole ones of :func:`file_of_format_2`."""
    assert [one.height for one in store.stored_snapshots()] == [9, 5]
    for one, chunks in zip(store.stored_snapshots(), (3, 2), strict=True):
        manifest = store.snapshots.verify(one.name)
        assert store.snapshots.header(one.name) == b"header %d" % one.height
        assert [store.snapshots.chunk(one.name, n) for n in range(chunks)] == [
            b"chunk %d of %d" % (n, one.height) for n in range(chunks)
        ]
        assert len(manifest.chunks) == chunks


def test_snapshots_of_a_file_of_format_2_become_folders(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    file_of_format_2(path)
    for _ in range(2):  # the second time it is of this release
        store = opened(path)
        are_folders(store)
        assert store.diff(9) == b"\xaa"
        assert store.meta("checkpoint") == b"checkpoint 9"
        store.close()
    # One that was not whole is no snapshot, and nothing of it is dropped.
    assert rows(path, "SELECT height, chunks FROM snapshots_2") == [(7, 2)]
    assert rows(path, "SELECT data FROM chunks_2") == [(b"chunk 1 of 7",)]
    assert all("7-" not in name[:2] for name in store.snapshots.names())


@pytest.mark.parametrize("writes", range(10))
def test_killed_while_snapshots_leave_a_file_the_next_start_does_it(
    tmp_path: Path, writes: int
) -> None:
    path = tmp_path / "worker.db"
    file_of_format_2(path)
    real = sqlite3.connect
    made: list[sqlite3.Connection] = []

    def connect(where: Path, **options: object) -> Dying:
        made.append(real(where, **options))
        return Dying(made[0], writes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sealift.worker._store.sqlite3.connect", connect)
        with pytest.raises(Died):
            opened(path)
    made[0].close()
    store = opened(path)
    are_folders(store)
    store.close()


def test_a_disk_too_full_for_the_folders_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.db"
    file_of_format_2(path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreError, match="do not leave the database") as caught:
            opened(path)
    assert "make room" in caught.value.hint
    assert rows(path, "SELECT count(*) FROM chunks") == [(6,)]
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == []
    store = opened(path)
    are_folders(store)
    store.close()


def test_another_shards_file_of_format_2_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    file_of_format_2(path)
    with pytest.raises(StoreMismatchError, match="of another shard"):
        WorkerStore(path, shard=ShardId(bytes(32)), fingerprint=CODE)
    assert rows(path, "SELECT count(*) FROM chunks") == [(6,)]
    assert not (tmp_path / "snapshots").exists()
