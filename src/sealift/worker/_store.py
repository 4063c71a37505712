"""What a worker keeps on disk: encrypted diffs, receipts, effects, snapshots' names.

SQLite, one transaction a block, ``synchronous=FULL``: what is committed here is
durable before a confirmation is asked for (DESIGN §10.7). Snapshots are folders
beside it (:mod:`._snapshots`): durable first, then named here; what is not named
is no snapshot. Everything is sealed by the enclave or public; nothing is ever
dropped because it could not be read.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from sealift.base import (
    AccountId,
    DecodeError,
    Digest,
    Fingerprint,
    Height,
    SealiftError,
    ShardId,
    decode,
    encode,
)
from sealift.protocol import BlockEffects, SealedReceipt, SignedOrder
from sealift.protocol.ecall import Executed

from ._errors import StoreError, StoreMismatchError
from ._snapshots import FOLDER, SnapshotFolder
from ._store_formats import (
    CREATE_EFFECTS,
    CREATE_SNAPSHOTS,
    effects_of_format_2,
    snapshots_of_format_3,
)

#: 2 has ``effects``, 3 has snapshots in folders; a file of an older format is
#: brought up when it is opened.
_FORMAT = 3
T = TypeVar("T")
_Cell: TypeAlias = int | bytes
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE diffs (height INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    (
        "CREATE TABLE receipts (envelope BLOB PRIMARY KEY, height INTEGER NOT NULL,"
        " data BLOB NOT NULL) WITHOUT ROWID"
    ),
    "CREATE INDEX receipts_by_height ON receipts (height)",
    "CREATE TABLE orders (number INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    CREATE_EFFECTS,
    CREATE_SNAPSHOTS,
)
_KEPT_HINT = "It was left as it is. Move it away to start from a peer."


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A whole snapshot on disk: the height after which it stands, its folder."""

    height: Height
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEffects:
    """A block's effects; ``said``: L1 has had this instance's word for them."""

    height: Height
    effects: BlockEffects
    said: bool


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
        self.shard = shard
        self.fingerprint = fingerprint
        #: Where the snapshots are that are named here.
        self.snapshots = SnapshotFolder(path.parent / FOLDER)
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if not self._tables():
                self._create(shard, fingerprint)
            else:
                self._check_owner(shard, fingerprint)
                self._upgrade(shard, fingerprint)
            self._check("format", encode(_FORMAT))
            self._check_owner(shard, fingerprint)
        except sqlite3.Error as error:
            self._db.close()
            raise self._unusable(error) from error
        except SealiftError:
            self._db.close()
            raise

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path} cannot be used ({error})",
            expected="a database that this worker wrote",
            hint=_KEPT_HINT,
        )

    def _rows(self, query: str, *values: object) -> list[tuple[_Cell, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _row(self, query: str, *values: object) -> tuple[_Cell, ...] | None:
        rows = self._rows(query, *values)
        return rows[0] if rows else None

    def _tables(self) -> int:
        row = self._row("SELECT count(*) FROM sqlite_master")
        return 0 if row is None else int(row[0])

    def _create(self, shard: ShardId, fingerprint: Fingerprint) -> None:
        rows = [
            ("format", encode(_FORMAT)),
            ("shard", bytes(shard)),
            ("fingerprint", bytes(fingerprint)),
        ]
        with self._transaction():  # tables and owner at once, or nothing
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def _upgrade(self, shard: ShardId, fingerprint: Fingerprint) -> None:
        """Bring a file of an older format up, one by one."""
        if self.meta("format") == encode(1):
            with self._transaction():
                effects_of_format_2(self._db)
                self._note_format(2)
        if self.meta("format") == encode(2):
            snapshots_of_format_3(
                self._db,
                self.snapshots,
                shard=shard,
                fingerprint=fingerprint,
                transaction=self._transaction,
                done=lambda: self._note_format(3),
            )

    def _note_format(self, number: int) -> None:
        query = "UPDATE meta SET value = ? WHERE name = 'format'"
        self._db.execute(query, (encode(number),))

    def _check_owner(self, shard: ShardId, fingerprint: Fingerprint) -> None:
        self._check("shard", bytes(shard))
        self._check("fingerprint", bytes(fingerprint))

    def _check(self, name: str, expected: bytes) -> None:
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
        row = self._row("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else bytes(row[0])

    def put_meta(self, name: str, value: bytes) -> None:
        """Set a small named value, durably."""
        with self._transaction():
            self._db.execute("REPLACE INTO meta VALUES (?, ?)", (name, value))

    def is_used(self) -> bool:
        """Whether an enclave instance has left anything of its own here."""
        row = self._row(
            "SELECT EXISTS (SELECT 1 FROM diffs) OR EXISTS (SELECT 1 FROM snapshots)"
            " OR EXISTS (SELECT 1 FROM meta WHERE name IN"
            " ('checkpoint', 'born', 'holders'))"
        )
        return row is not None and bool(row[0])

    def holders(self) -> int:
        """How many instances are known here to hold the shard's keys."""
        return len(self._holders())

    def holder_keys(self) -> list[AccountId]:
        """Their signing keys, sorted."""
        return [AccountId(key) for key in sorted(self._holders())]

    def add_holders(self, *names: bytes) -> None:
        """These instances (signing keys) hold the shard's keys; counted once each."""
        known = self._holders()
        if not known.issuperset(names):
            self.put_meta("holders", encode(sorted(known.union(names))))

    def _holders(self) -> set[bytes]:
        raw = self.meta("holders")
        try:
            return set() if raw is None else set(decode(list[bytes], raw))
        except DecodeError as error:
            raise self._unusable(error) from error

    def commit_block(
        self, block: Executed, snapshot: StoredSnapshot | None = None
    ) -> None:
        """Make an executed block durable: all that came of it, or nothing.

        Args:
            block: With its diff, receipts, orders, effects and checkpoint.
            snapshot: The state after it, where its diff was too large; durable
                already, and no snapshot before this.
        """
        with self._transaction():
            if block.diff:
                self._db.execute(
                    "REPLACE INTO diffs VALUES (?, ?)", (block.height, block.diff)
                )
            if snapshot is not None:
                self._name_snapshot(snapshot)
            # The first receipt of an envelope stays: copies answer with it.
            self._db.executemany(
                "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)",
                [(r.envelope, r.height, encode(r)) for r in block.receipts],
            )
            self._db.executemany(
                "INSERT INTO orders (data) VALUES (?)",
                [(encode(order),) for order in block.orders],
            )
            if block.effects is not None:
                self._db.execute(
                    "REPLACE INTO effects VALUES (?, ?, 0)",
                    (block.height, encode(block.effects)),
                )
            self._db.execute(
                "REPLACE INTO meta VALUES ('checkpoint', ?)", (block.checkpoint,)
            )

    def orders(self) -> list[tuple[int, SignedOrder]]:
        """Orders of executed blocks that L1 has not answered yet, as executed."""
        rows = self._rows("SELECT number, data FROM orders ORDER BY number")
        return [(int(n), self._parsed(SignedOrder, data)) for n, data in rows]

    def drop_order(self, number: int) -> None:
        """L1 has taken or refused an order."""
        with self._transaction():
            self._db.execute("DELETE FROM orders WHERE number = ?", (number,))

    def effects(self, *, most: int = 1 << 62) -> list["PendingEffects"]:
        """The first blocks' effects that L1 has not executed, as far as is known."""
        rows = self._rows(
            "SELECT height, data, said FROM effects ORDER BY height LIMIT ?", most
        )
        return [
            PendingEffects(
                height=Height(int(height)),
                effects=self._parsed(BlockEffects, data),
                said=bool(said),
            )
            for height, data, said in rows
        ]

    def put_effects(self, block: BlockEffects) -> None:
        """Keep a word for effects of a block that another instance executed."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO effects VALUES (?, ?, 0)",
                (block.statement.height, encode(block)),
            )

    def effects_pending(self) -> int:
        """Of how many blocks L1 has not executed the effects, as far as is known."""
        row = self._row("SELECT count(*) FROM effects")
        return 0 if row is None else int(row[0])

    def effects_said(self, height: int) -> None:
        """L1 has this instance's word for the effects of a block."""
        with self._transaction():
            self._db.execute("UPDATE effects SET said = 1 WHERE height = ?", (height,))

    def drop_effects(self, height: int) -> None:
        """L1 has executed the effects of a block, or refused them for good."""
        with self._transaction():
            self._db.execute("DELETE FROM effects WHERE height = ?", (height,))

    def commit_diff(self, height: Height, diff: bytes) -> None:
        """Make a diff durable that another worker of the shard produced."""
        with self._transaction():
            self._db.execute("REPLACE INTO diffs VALUES (?, ?)", (height, diff))

    def diff(self, height: int) -> bytes | None:
        """The encrypted diff of a block."""
        row = self._row("SELECT data FROM diffs WHERE height = ?", height)
        return None if row is None else bytes(row[0])

    def diffs_after(
        self, height: int, *, most: int = 1 << 62, most_bytes: int = 1 << 62
    ) -> list[tuple[Height, bytes]]:
        """The first diffs above a height, ascending.

        Args:
            height: They are above it.
            most: Not more than so many.
            most_bytes: Nor longer together; the first comes at any length.
        """
        rows = self._rows(
            "SELECT height, data FROM diffs WHERE height > ? AND height IN ("
            " SELECT height FROM ("
            "  SELECT height, SUM(LENGTH(data)) OVER (ORDER BY height) AS total,"
            "   ROW_NUMBER() OVER (ORDER BY height) AS place"
            "  FROM (SELECT height, data FROM diffs WHERE height > ?"
            "   ORDER BY height LIMIT ?)"
            " ) WHERE total <= ? OR place = 1"
            ") ORDER BY height",
            *(height, height, most, most_bytes),
        )
        return [(Height(int(number)), bytes(data)) for number, data in rows]

    def receipt(self, envelope: Digest) -> SealedReceipt | None:
        """The sealed receipt that answers an envelope."""
        row = self._row("SELECT data FROM receipts WHERE envelope = ?", envelope)
        return None if row is None else self._parsed(SealedReceipt, row[0])

    def receipts_at(self, height: int) -> list[SealedReceipt]:
        """All sealed receipts of a block."""
        rows = self._rows("SELECT data FROM receipts WHERE height = ?", height)
        return [self._parsed(SealedReceipt, data) for (data,) in rows]

    def _parsed(self, kind: type[T], data: _Cell) -> T:
        try:
            return decode(kind, bytes(data))
        except DecodeError as error:
            raise self._unusable(error) from error

    def put_snapshot(self, snapshot: StoredSnapshot) -> None:
        """Name a snapshot that is durable; another of this height is none then."""
        with self._transaction():
            self._name_snapshot(snapshot)

    def replace_state(self, snapshot: StoredSnapshot) -> None:
        """Name a snapshot that was taken over from another worker.

        What this one had of later blocks led elsewhere, and goes at once with
        it: the enclave has accepted the new state in its place.
        """
        with self._transaction():
            self._db.execute("DELETE FROM snapshots")
            self._name_snapshot(snapshot)
            for table in ("diffs", "effects"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE height > ?",  # noqa: S608 - a constant
                    (snapshot.height,),
                )

    def _name_snapshot(self, snapshot: StoredSnapshot) -> None:
        self._db.execute(
            "REPLACE INTO snapshots VALUES (?, ?)",
            (snapshot.height, snapshot.name.encode()),
        )

    def retain_snapshots(self, keep: int) -> None:
        """Of the snapshots so many remain, the newest; at least one."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM snapshots WHERE height NOT IN"
                " (SELECT height FROM snapshots ORDER BY height DESC LIMIT ?)",
                (max(keep, 1),),
            )

    def forget_snapshot(self, height: int) -> None:
        """A snapshot was set aside: it is none any more."""
        with self._transaction():
            self._db.execute("DELETE FROM snapshots WHERE height = ?", (height,))

    def drop_diffs_below(self, height: int) -> None:
        """Forget diffs that a durable snapshot has made superfluous."""
        with self._transaction():
            self._db.execute("DELETE FROM diffs WHERE height < ?", (height,))

    def drop_receipts_below(self, height: int) -> None:
        """Forget receipts of calls that no copy can be made of any more."""
        with self._transaction():
            self._db.execute("DELETE FROM receipts WHERE height < ?", (height,))

    def snapshot(self) -> StoredSnapshot | None:
        """The newest whole snapshot."""
        return next(iter(self.stored_snapshots()), None)

    def snapshot_at(self, height: int) -> StoredSnapshot | None:
        """The whole snapshot of a height."""
        return next((s for s in self.stored_snapshots() if s.height == height), None)

    def stored_snapshots(self) -> list[StoredSnapshot]:
        """All whole snapshots, the newest first."""
        rows = self._rows("SELECT height, name FROM snapshots ORDER BY height DESC")
        return [
            StoredSnapshot(height=Height(int(height)), name=bytes(name).decode())
            for height, name in rows
        ]

    def diffs_weight(self, height: int) -> tuple[int, int, int]:
        """Diffs above a height: how many, the last one's height, all their bytes."""
        row = self._row(
            "SELECT count(*), coalesce(max(height), 0),"
            " coalesce(sum(length(data)), 0) FROM diffs WHERE height > ?",
            height,
        )
        return (0, 0, 0) if row is None else (int(row[0]), int(row[1]), int(row[2]))

    def durable(self) -> Height | None:
        """The last block after which the state is on disk; ``None``: none is."""
        row = self._row(
            "SELECT max(height) FROM (SELECT max(height) AS height FROM diffs"
            " UNION ALL SELECT max(height) FROM snapshots)"
        )
        return None if row is None or row[0] is None else Height(int(row[0]))


def owner_of(path: Path) -> tuple[ShardId, Fingerprint]:
    """To which shard and enclave a database belongs.

    Raises:
        StoreError: Not a database of this program.
    """
    try:
        db = sqlite3.connect(path)
        try:
            rows = dict(db.execute("SELECT name, value FROM meta").fetchall())
        finally:
            db.close()
        return ShardId(rows["shard"]), Fingerprint(rows["fingerprint"])
    except (sqlite3.Error, KeyError) as error:
        raise StoreError(
            f"{path} is no worker's database ({error})", hint=_KEPT_HINT
        ) from error


class _Transaction:
    """``BEGIN IMMEDIATE`` … ``COMMIT``; rolled back on any error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as failed:
            raise _unwritten(failed) from failed

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
