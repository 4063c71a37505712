"""What a worker keeps on disk: encrypted diffs, a snapshot, receipts.

SQLite, one transaction a block, ``synchronous=FULL``: what is committed here is
durable before a confirmation is asked for (DESIGN §10.7). Everything in it is
sealed by the enclave or public; nothing is ever dropped because it could not
be read.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sealift.base import Digest, Fingerprint, Height, ShardId, decode, encode
from sealift.protocol import SealedReceipt
from sealift.protocol.ecall import Executed

from ._errors import StoreError, StoreMismatchError

_FORMAT = 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE diffs (height INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE receipts (
  envelope BLOB PRIMARY KEY, height INTEGER NOT NULL, data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX receipts_by_height ON receipts (height);
CREATE TABLE snapshots (
  height INTEGER PRIMARY KEY, header BLOB NOT NULL, chunks INTEGER NOT NULL,
  whole INTEGER NOT NULL
);
CREATE TABLE chunks (
  height INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (height, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A whole snapshot on disk: the height after which it stands."""

    height: Height
    header: bytes
    chunks: int


class WorkerStore:
    """The database of one enclave instance.

    Args:
        path: The file; made when absent.
        shard: The shard it belongs to.
        fingerprint: The enclave it belongs to.

    Raises:
        StoreMismatchError: It belongs to another shard or enclave.
        StoreError: Not a database of this program.
    """

    def __init__(self, path: Path, *, shard: ShardId, fingerprint: Fingerprint) -> None:
        self.path = path
        new = not path.exists()
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if new or not self._tables():
                self._create(shard, fingerprint)
            self._check(shard, fingerprint)
        except sqlite3.Error as error:
            raise StoreError(
                f"{path} cannot be used ({error})",
                expected="a database that this worker wrote",
                hint="It was left as it is. Move it away to start from a peer.",
            ) from error

    def _tables(self) -> int:
        row = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return int(row[0])

    def _create(self, shard: ShardId, fingerprint: Fingerprint) -> None:
        self._db.executescript("BEGIN;" + _SCHEMA + "COMMIT;")
        rows = [
            ("format", encode(_FORMAT)),
            ("shard", bytes(shard)),
            ("fingerprint", bytes(fingerprint)),
        ]
        with self._transaction():
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def _check(self, shard: ShardId, fingerprint: Fingerprint) -> None:
        for name, expected in (
            ("format", encode(_FORMAT)),
            ("shard", bytes(shard)),
            ("fingerprint", bytes(fingerprint)),
        ):
            got = self.meta(name)
            if got != expected:
                raise StoreMismatchError(
                    f"{self.path} is of another {name}",
                    got=got if got is not None else "none",
                    expected=expected.hex(),
                    hint="Use another folder for this worker.",
                )

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def meta(self, name: str) -> bytes | None:
        """A small named value."""
        row = self._db.execute(
            "SELECT value FROM meta WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def put_meta(self, name: str, value: bytes) -> None:
        """Set a small named value, durably."""
        with self._transaction():
            self._db.execute("REPLACE INTO meta VALUES (?, ?)", (name, value))

    def holders(self) -> int:
        """How many instances are known here to hold the shard's keys."""
        return decode(int, self.meta("holders") or encode(0))

    def add_holders(self, count: int) -> None:
        """So many more instances hold the shard's keys."""
        self.put_meta("holders", encode(self.holders() + count))

    def commit_block(self, block: Executed) -> None:
        """Make an executed block durable: diff, receipts and checkpoint at once.

        An empty diff stands for a snapshot that was made durable before.
        """
        with self._transaction():
            if block.diff:
                self._db.execute(
                    "REPLACE INTO diffs VALUES (?, ?)", (block.height, block.diff)
                )
            # The first receipt of an envelope stays: copies answer with it.
            self._db.executemany(
                "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)",
                [(r.envelope, r.height, encode(r)) for r in block.receipts],
            )
            self._db.execute(
                "REPLACE INTO meta VALUES ('checkpoint', ?)", (block.checkpoint,)
            )

    def commit_diff(self, height: Height, diff: bytes) -> None:
        """Make a diff durable that another worker of the shard produced."""
        with self._transaction():
            self._db.execute("REPLACE INTO diffs VALUES (?, ?)", (height, diff))

    def diff(self, height: int) -> bytes | None:
        """The encrypted diff of a block."""
        row = self._db.execute(
            "SELECT data FROM diffs WHERE height = ?", (height,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def diffs_after(self, height: int) -> Iterator[tuple[Height, bytes]]:
        """All diffs above a height, ascending."""
        rows = self._db.execute(
            "SELECT height, data FROM diffs WHERE height > ? ORDER BY height", (height,)
        )
        for number, data in rows:
            yield Height(number), bytes(data)

    def receipt(self, envelope: Digest) -> SealedReceipt | None:
        """The sealed receipt that answers an envelope."""
        row = self._db.execute(
            "SELECT data FROM receipts WHERE envelope = ?", (envelope,)
        ).fetchone()
        return None if row is None else decode(SealedReceipt, bytes(row[0]))

    def receipts_at(self, height: int) -> list[SealedReceipt]:
        """All sealed receipts of a block."""
        rows = self._db.execute(
            "SELECT data FROM receipts WHERE height = ?", (height,)
        ).fetchall()
        return [decode(SealedReceipt, bytes(row[0])) for row in rows]

    def put_snapshot(
        self, height: Height, header: bytes, chunks: Iterable[bytes]
    ) -> None:
        """Keep a whole snapshot and drop what it makes superfluous.

        Older snapshots and the diffs up to it go only after the new one is
        durable, in the same transaction.
        """
        with self._transaction():
            self._db.execute("DELETE FROM chunks WHERE height = ?", (height,))
            count = 0
            for number, data in enumerate(chunks):
                self._db.execute(
                    "INSERT INTO chunks VALUES (?, ?, ?)", (height, number, data)
                )
                count += 1
            self._db.execute(
                "REPLACE INTO snapshots VALUES (?, ?, ?, 1)", (height, header, count)
            )
            self._db.execute("DELETE FROM snapshots WHERE height < ?", (height,))
            self._db.execute("DELETE FROM chunks WHERE height < ?", (height,))

    def drop_diffs_below(self, height: int) -> None:
        """Forget diffs that a durable snapshot has made superfluous."""
        with self._transaction():
            self._db.execute("DELETE FROM diffs WHERE height < ?", (height,))

    def snapshot(self) -> StoredSnapshot | None:
        """The newest whole snapshot."""
        row = self._db.execute(
            "SELECT height, header, chunks FROM snapshots WHERE whole = 1 "
            "ORDER BY height DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        return StoredSnapshot(
            height=Height(row[0]), header=bytes(row[1]), chunks=int(row[2])
        )

    def chunk(self, height: int, number: int) -> bytes:
        """One chunk of a snapshot.

        Raises:
            StoreError: It is not there.
        """
        row = self._db.execute(
            "SELECT data FROM chunks WHERE height = ? AND number = ?", (height, number)
        ).fetchone()
        if row is None:
            raise StoreError("a chunk of the snapshot is missing", got=number)
        return bytes(row[0])

    def height(self) -> Height | None:
        """The height that the disk alone can bring the state back to."""
        row = self._db.execute("SELECT max(height) FROM diffs").fetchone()
        snapshot = self.snapshot()
        heights = [
            *([row[0]] if row[0] is not None else []),
            *([snapshot.height] if snapshot else []),
        ]
        return Height(max(heights)) if heights else None


class _Transaction:
    """``BEGIN IMMEDIATE`` … ``COMMIT``; rolled back on any error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: object, _: object
    ) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error as failed:
                self._roll_back()
                raise _unwritten(failed) from failed
            return
        self._roll_back()
        if isinstance(error, sqlite3.Error):
            raise _unwritten(error) from error

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _unwritten(error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the worker's database was not written ({error})",
        expected="room on the disk and a file that may be written",
        hint="What was written before is whole; make room, then start again.",
    )
