"""The ledger's state on disk behind CometBFT: one SQLite file.

CometBFT keeps the blocks; here stand the state after the last committed one
and what each block changed. Guarantees that height, app hash and changes of a
block are there together or not at all, after ``kill -9`` or power loss at any
instant: WAL with ``synchronous=FULL``, one ``COMMIT`` for a block.
"""

import sqlite3
from pathlib import Path
from typing import Final

from sealift.base import Height, Message, SealiftError, decode, encode
from sealift.frame import Changes
from sealift.node import ChainCorruptError, ForeignChainError, NotNextBlockError
from sealift.node._state_log import (
    STATE_TABLES,
    StateLog,
    explained,
    open_database,
    write_changes,
)
from sealift.relay.rpc import GenesisDoc

#: Version of the tables, in ``PRAGMA user_version``.
SCHEMA_VERSION: Final = 1
#: The file, in errors.
_WHAT: Final = "the ledger's state"
_GENESIS_LIMIT: Final = 128 * 1024 * 1024
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE head (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    genesis BLOB NOT NULL,
    height INTEGER NOT NULL,
    app_hash BLOB NOT NULL
) STRICT;
{STATE_TABLES}PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class StoredHead(Message, kw_only=True):
    """The last committed block, and how its chain began."""

    genesis: GenesisDoc
    height: Height
    app_hash: bytes


class AbciStore(StateLog):
    """State and changes; made by :meth:`open`."""

    @classmethod
    def open(cls, path: Path) -> "AbciStore":
        """The store of a file, which is made if it is not there.

        Raises:
            ForeignChainError: Another version's tables.
            ChainCorruptError: No database, or a damaged one; it is kept.
            ChainStoreError: It cannot be opened.
            DiskFullError: No space.
        """
        with explained(_WHAT):
            writer = open_database(path)
            try:
                _require_schema(writer)
                return cls(
                    writer=writer,
                    reader=open_database(path),
                    past=open_database(path),
                    what=_WHAT,
                )
            except BaseException:
                writer.close()
                raise

    @property
    def head(self) -> StoredHead | None:
        """The last committed block; ``None`` before the first one.

        Raises:
            ChainCorruptError: The row cannot be read.
        """
        with explained(_WHAT):
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
        with explained(_WHAT), self._writer as db:
            db.execute("BEGIN IMMEDIATE")
            if _height(db) is not None:
                raise NotNextBlockError("the chain has begun", got=height)
            db.execute(
                "INSERT INTO head VALUES (1, ?, ?, ?)",
                (encode(genesis), height, app_hash),
            )
            write_changes(db, Height(height - 1), first)
            write_changes(db, height, changes)

    def append(self, height: Height, *, app_hash: bytes, changes: Changes) -> None:
        """Make the next block durable, with all its changes, or nothing of it.

        Raises:
            NotNextBlockError: It does not follow the last one.
            DiskFullError: No space; the state is as before.
            ChainStoreError: As in :meth:`begin`.
        """
        with explained(_WHAT), self._writer as db:
            db.execute("BEGIN IMMEDIATE")
            last = _height(db)
            if last is None or height != last + 1:
                raise NotNextBlockError(
                    "block does not follow the last one",
                    got=height,
                    expected="a beginning" if last is None else last + 1,
                )
            db.execute("UPDATE head SET height = ?, app_hash = ?", (height, app_hash))
            write_changes(db, height, changes)


def _height(db: sqlite3.Connection) -> int | None:
    row = db.execute("SELECT height FROM head").fetchone()
    return None if row is None else int(row[0])


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
