"""The newest state and what each block changed: tables that both engines keep.

One SQLite file, WAL with ``synchronous=FULL``: what a transaction committed is
there after ``kill -9`` or power loss.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sealift.base import Height
from sealift.frame import Changes
from sealift.transport.files import DiskFullError

from ._errors import ChainCorruptError, ChainStoreError

#: Definitions of the two tables, for a store's own schema.
STATE_TABLES: Final = """
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
"""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE: Final = 0xFF


class ChangeLog:
    """What blocks changed, read through one connection.

    Args:
        reader: The connection; one thread at a time: while it reads, whatever
            else is read through it sees the file as it was when that began.
        what: What the file is called in errors.
    """

    def __init__(self, reader: sqlite3.Connection, *, what: str) -> None:
        self._reader = reader
        self._what = what

    def changes_between(self, low: Height, high: Height) -> dict[bytes, bytes | None]:
        """Net changes from the state after ``low`` to the one after ``high``."""
        with explained(self._what):
            return dict(
                self._reader.execute(
                    "SELECT key, value FROM change WHERE height > ? AND height <= ?"
                    " ORDER BY height",
                    (low, high),
                )
            )

    def reversal_between(self, low: Height, high: Height) -> dict[bytes, bytes | None]:
        """Net changes from the state after ``high`` back to the one after ``low``."""
        with explained(self._what):
            return dict(
                self._reader.execute(
                    "SELECT key, previous FROM change WHERE height > ? AND height <= ?"
                    " ORDER BY height DESC",
                    (low, high),
                )
            )


class StateLog(ChangeLog):
    """State and changes of a file, below what else an engine keeps there.

    Reads go through a connection of their own, so that they see only what is
    durable; the one writer may run in another thread, and so may the one that
    reads of long ago.

    Args:
        writer: The one connection that writes.
        reader: The one that reads.
        past: The one that reads for long; ``None``: the reader.
        what: What the file is called in errors.
    """

    def __init__(
        self,
        *,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        past: sqlite3.Connection | None = None,
        what: str,
    ) -> None:
        super().__init__(reader, what=what)
        self._writer = writer
        self._past = reader if past is None else past
        #: The changes, for one thread that takes its time.
        self.past = ChangeLog(self._past, what=what)

    def close(self) -> None:
        """Close the file."""
        with explained(self._what):
            self._past.close()
            self._reader.close()
            self._writer.close()

    def entries(self) -> dict[bytes, bytes]:
        """The newest state, all of it."""
        with explained(self._what):
            return dict(self._reader.execute("SELECT key, value FROM state"))


def write_changes(db: sqlite3.Connection, height: Height, changes: Changes) -> None:
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


def open_database(path: Path | None) -> sqlite3.Connection:
    """A durable connection to a file; ``None`` keeps all in memory.

    Raises:
        sqlite3.Error: It cannot be opened; for :func:`explained`.
    """
    db = sqlite3.connect(
        ":memory:" if path is None else path,
        isolation_level=None,
        check_same_thread=False,
        timeout=10.0,
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Tell SQLite's failures inside the block in our words.

    Args:
        what: What the file is called.

    Raises:
        DiskFullError: No space.
        ChainCorruptError: No database, or a damaged one; it is kept.
        ChainStoreError: Any other failure.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"no space for {what}", got=str(error)) from error
        if code in _DAMAGED:
            raise ChainCorruptError(
                f"{what} is damaged", got=str(error), hint="It is kept as it is"
            ) from error
        raise ChainStoreError(f"{what} failed", got=str(error)) from error
