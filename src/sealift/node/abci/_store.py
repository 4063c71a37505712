"""The ledger's state on disk behind CometBFT: one SQLite file.

CometBFT keeps the blocks; here stand the state after the last committed one
and what each block changed. Guarantees that height, app hash and changes of a
block are there together or not at all, after ``kill -9`` or power loss at any
instant: WAL with ``synchronous=FULL``, one ``COMMIT`` for a block.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sealift.base import Height, Message, SealiftError, decode, encode
from sealift.frame import Changes
from sealift.node import (
    ChainCorruptError,
    ChainStoreError,
    ForeignChainError,
    NotNextBlockError,
)
from sealift.relay.rpc import GenesisDoc
from sealift.transport.files import DiskFullError

#: Version of the tables, in ``PRAGMA user_version``.
SCHEMA_VERSION: Final = 1
_GENESIS_LIMIT: Final = 128 * 1024 * 1024
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE head (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    genesis BLOB NOT NULL,
    height INTEGER NOT NULL,
    app_hash BLOB NOT NULL
) STRICT;
CREATE TABLE state (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE change (
    height INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB,
    previous BLOB,
    PRIMARY KEY (height, key)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StoredHead(Message, kw_only=True):
    """The last committed block, and how its chain began."""

    genesis: GenesisDoc
    height: Height
    app_hash: bytes


class AbciStore:
    """State and changes; made by :meth:`open`.

    Reads go through a connection of their own and see only what is durable;
    the one writer may run in another thread.
    """

    def __init__(
        self, *, writer: sqlite3.Connection, reader: sqlite3.Connection
    ) -> None:
        self._writer = writer
        self._reader = reader

    @classmethod
    def open(cls, path: Path) -> "AbciStore":
        """The store of a file, which is made if it is not there.

        Raises:
            ForeignChainError: Another version's tables.
            ChainCorruptError: No database, or a damaged one; it is kept.
            ChainStoreError: It cannot be opened.
            DiskFullError: No space.
        """
        with _explained():
            writer = _connection(path)
            try:
                _require_schema(writer)
                return cls(writer=writer, reader=_connection(path))
            except BaseException:
                writer.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with _explained():
            self._reader.close()
            self._writer.close()

    @property
    def head(self) -> StoredHead | None:
        """The last committed block; ``None`` before the first one.

        Raises:
            ChainCorruptError: The row cannot be read.
        """
        with _explained():
            row = self._reader.execute(
                "SELECT genesis, height, app_hash FROM head"
            ).fetchone()
        if row is None:
            return None
        try:
            genesis = decode(GenesisDoc, row[0], limit=_GENESIS_LIMIT)
        except SealiftError as error:
            raise ChainCorruptError(
                "the stored genesis cannot be read",
                got=str(error),
                hint="It is kept as it is",
            ) from error
        return StoredHead(genesis=genesis, height=Height(row[1]), app_hash=row[2])

    def entries(self) -> dict[bytes, bytes]:
        """The newest state, all of it."""
        with _explained():
            return dict(self._reader.execute("SELECT key, value FROM state"))

    def begin(
        self, genesis: GenesisDoc, *, first: Changes, app_hash: bytes, changes: Changes
    ) -> None:
        """Make the first block durable, with the state below it.

        Args:
            genesis: How the chain starts.
            first: The state that the genesis makes.
            app_hash: Root of the state after the first block.
            changes: What that block changed.

        Raises:
            NotNextBlockError: There are blocks already.
            DiskFullError: No space; nothing is there.
            ChainStoreError: Another failure: whether the block is there is
                known only after the store was opened again.
        """
        height = genesis.initial_height
        with _explained(), self._writer as db:
            db.execute("BEGIN IMMEDIATE")
            if _height(db) is not None:
                raise NotNextBlockError("the chain has begun", got=height)
            db.execute(
                "INSERT INTO head VALUES (1, ?, ?, ?)",
                (encode(genesis), height, app_hash),
            )
            _write_changes(db, Height(height - 1), first)
            _write_changes(db, height, changes)

    def append(self, height: Height, *, app_hash: bytes, changes: Changes) -> None:
        """Make the next block durable, with all its changes, or nothing of it.

        Raises:
            NotNextBlockError: It does not follow the last one.
            DiskFullError: No space; the state is as before.
            ChainStoreError: As in :meth:`begin`.
        """
        with _explained(), self._writer as db:
            db.execute("BEGIN IMMEDIATE")
            last = _height(db)
            if last is None or height != last + 1:
                raise NotNextBlockError(
                    "block does not follow the last one",
                    got=height,
                    expected="a beginning" if last is None else last + 1,
                )
            db.execute("UPDATE head SET height = ?, app_hash = ?", (height, app_hash))
            _write_changes(db, height, changes)

    def changes_between(self, low: Height, high: Height) -> dict[bytes, bytes | None]:
        """Net changes from the state after ``low`` to the one after ``high``."""
        with _explained():
            return dict(
                self._reader.execute(
                    "SELECT key, value FROM change WHERE height > ? AND height <= ?"
                    " ORDER BY height",
                    (low, high),
                )
            )

    def reversal_between(self, low: Height, high: Height) -> dict[bytes, bytes | None]:
        """Net changes from the state after ``high`` back to the one after ``low``."""
        with _explained():
            return dict(
                self._reader.execute(
                    "SELECT key, previous FROM change WHERE height > ? AND height <= ?"
                    " ORDER BY height DESC",
                    (low, high),
                )
            )


def _height(db: sqlite3.Connection) -> int | None:
    row = db.execute("SELECT height FROM head").fetchone()
    return None if row is None else int(row[0])


def _write_changes(db: sqlite3.Connection, height: Height, changes: Changes) -> None:
    """Record changes with what they replaced, and make them the newest state."""
    for key in sorted(changes):
        value = changes[key]
        row = db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        db.execute(
            "INSERT INTO change VALUES (?, ?, ?, ?)",
            (height, key, value, None if row is None else row[0]),
        )
        if value is None:
            db.execute("DELETE FROM state WHERE key = ?", (key,))
        else:
            db.execute(
                "INSERT INTO state VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, value),
            )


def _connection(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10.0
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _require_schema(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version or db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise ForeignChainError(
            "state written by another version",
            got=f"layout {version}",
            expected=f"layout {SCHEMA_VERSION}",
            hint="It is kept as it is",
        )
    db.executescript(_SCHEMA)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(
                "no space for the ledger's state", got=str(error)
            ) from error
        if code in _DAMAGED:
            raise ChainCorruptError(
                "the ledger's state is damaged",
                got=str(error),
                hint="It is kept as it is",
            ) from error
        raise ChainStoreError("the ledger's state failed", got=str(error)) from error
