"""The embedded chain on disk: one SQLite file, one transaction for a block.

Guarantees that a block is there with commit, results, indexes and state
changes, or not at all, after ``kill -9`` or power loss at any instant: WAL
with ``synchronous=FULL``, and one ``COMMIT`` for everything of a block.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sealift.base import Height, Message, SealiftError, decode, encode
from sealift.crypto import SignatureInvalidError, sha256, verify_signature
from sealift.frame import Changes
from sealift.relay import (
    Block,
    BlockId,
    Commit,
    block_id_of,
    tx_hash,
    vote_sign_bytes,
)
from sealift.relay.rpc import GENESIS_DOC, Event, ExecTxResult, GenesisDoc
from sealift.transport.files import DiskFullError

from ._chain import ChainTip, CommittedBlock, genesis_tip
from ._errors import (
    ChainCorruptError,
    ChainStoreError,
    ForeignChainError,
    HeightUnknownError,
    NotNextBlockError,
)

T = TypeVar("T")
#: Version of the tables, in ``PRAGMA user_version``.
SCHEMA_VERSION: Final = 1
_MAGIC: Final = b"SQLite format 3\x00"
_ROW_LIMIT: Final = 128 * 1024 * 1024
_SCHEMA: Final = """
CREATE TABLE chain (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    genesis_hash BLOB NOT NULL,
    first_app_hash BLOB NOT NULL
) STRICT;
CREATE TABLE block (
    height INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    block BLOB NOT NULL,
    block_id BLOB NOT NULL,
    seen_commit BLOB NOT NULL,
    outcome BLOB NOT NULL
) STRICT;
CREATE TABLE tx (
    hash BLOB PRIMARY KEY,
    height INTEGER NOT NULL,
    position INTEGER NOT NULL,
    code INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
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
# v0.38 state/txindex/kv: a later result replaces an earlier one, except that a
# failure never hides a success.
_INDEX_TX: Final = """
INSERT INTO tx (hash, height, position, code) VALUES (?, ?, ?, ?)
ON CONFLICT (hash) DO UPDATE SET
    height = excluded.height, position = excluded.position, code = excluded.code
WHERE tx.code != 0 OR excluded.code = 0
"""
_FULL_DISK: Final = sqlite3.SQLITE_FULL
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StoredBlock(Message, kw_only=True):
    """A block as it is read back."""

    block: Block
    block_id: BlockId
    seen_commit: Commit
    results: tuple[ExecTxResult, ...]
    events: tuple[Event, ...]
    app_hash: bytes


class TxPlace(Message, kw_only=True):
    """Where a transaction stands."""

    height: Height
    position: int


class _Outcome(Message, kw_only=True):
    results: tuple[ExecTxResult, ...]
    events: tuple[Event, ...]
    app_hash: bytes


class SoloStore:
    """Blocks, commits, results and every change of the state.

    Reads go through a connection of their own, so that they see only what is
    durable; the one writer may run in another thread. Make it by
    :meth:`create` or :meth:`open`.
    """

    def __init__(
        self,
        *,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        genesis: GenesisDoc,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._genesis = genesis

    @classmethod
    def create(
        cls,
        path: Path | None,
        genesis: GenesisDoc,
        *,
        app_hash: bytes,
        entries: Changes,
    ) -> "SoloStore":
        """A new chain with its first state.

        Args:
            path: The file, which must not be there; ``None`` keeps all in
                memory.
            genesis: The genesis.
            app_hash: Root of the first state.
            entries: The first state.

        Raises:
            ChainStoreError: There is a file, or it cannot be written.
            DiskFullError: No space.
        """
        if path is not None and path.exists():
            raise ChainStoreError(
                "there is a chain already", got=str(path), hint="It is kept as it is"
            )
        with _explained():
            writer = _connection(path)
            with writer as db:
                _write_first(db, genesis, app_hash, entries)
            reader = writer if path is None else _connection(path)
            return cls(writer=writer, reader=reader, genesis=genesis)

    @classmethod
    def open(cls, path: Path, genesis: GenesisDoc) -> "SoloStore":
        """An existing chain.

        1. The tables are this version's. 2. It began with this genesis. 3. Its
        last block is whole: named by its own hash, linked to the one before,
        decided by the validator.

        Raises:
            ChainStoreError: It cannot be read.
            ForeignChainError: 1 or 2 fails.
            ChainCorruptError: 3 fails, or SQLite finds damage.
        """
        _require_database(path)
        with _explained():
            store = cls(
                writer=_connection(path), reader=_connection(path), genesis=genesis
            )
        try:
            store.validate()
        except SealiftError:
            store.close()
            raise
        return store

    def validate(self) -> None:
        """The three checks of :meth:`open`.

        Raises:
            ForeignChainError: 1 or 2 fails.
            ChainCorruptError: 3 fails.
        """
        with _explained():
            self._check_origin()
            self._check_last()

    def close(self) -> None:
        """Close the file."""
        with _explained():
            self._reader.close()
            self._writer.close()

    def append(self, block: CommittedBlock) -> None:
        """Make a block durable, with all that belongs to it, or nothing of it.

        Raises:
            NotNextBlockError: It does not follow the last one.
            DiskFullError: No space; the chain is as before.
            ChainStoreError: Another failure: whether the block is there is
                known only after the store was opened again.
        """
        height = block.height
        outcome = _Outcome(
            results=block.results, events=block.events, app_hash=block.app_hash
        )
        with _explained(), self._writer as db:
            db.execute("BEGIN IMMEDIATE")
            self._check_next(db, block)
            db.execute(
                "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?)",
                (
                    height,
                    block.block_id.hash,
                    encode(block.block),
                    encode(block.block_id),
                    encode(block.commit),
                    encode(outcome),
                ),
            )
            db.executemany(
                _INDEX_TX,
                (
                    (tx_hash(tx), height, position, result.code)
                    for position, (tx, result) in enumerate(
                        zip(block.block.txs, block.results, strict=True)
                    )
                ),
            )
            _write_changes(db, height, block.changes)

    @property
    def height(self) -> Height:
        """The last durable block; one below the first if there is none."""
        with _explained():
            found = self._reader.execute("SELECT MAX(height) FROM block").fetchone()[0]
        first = self._genesis.initial_height
        return Height(first - 1 if found is None else found)

    def block(self, height: Height) -> StoredBlock:
        """A block.

        Raises:
            HeightUnknownError: There is none of that height.
        """
        with _explained():
            row = self._reader.execute(
                "SELECT block, block_id, seen_commit, outcome FROM block"
                " WHERE height = ?",
                (height,),
            ).fetchone()
        if row is None:
            raise HeightUnknownError(
                "no block of that height",
                got=height,
                expected=f"{self._genesis.initial_height} … {self.height}",
            )
        outcome = _stored(_Outcome, row[3])
        return StoredBlock(
            block=_stored(Block, row[0]),
            block_id=_stored(BlockId, row[1]),
            seen_commit=_stored(Commit, row[2]),
            results=outcome.results,
            events=outcome.events,
            app_hash=outcome.app_hash,
        )

    def height_of(self, block_hash: bytes) -> Height | None:
        """The height of the block with that hash, if there is one."""
        with _explained():
            row = self._reader.execute(
                "SELECT height FROM block WHERE hash = ?", (block_hash,)
            ).fetchone()
        return None if row is None else Height(row[0])

    def find_tx(self, digest: bytes) -> TxPlace | None:
        """Where the transaction with that hash stands, if it does."""
        with _explained():
            row = self._reader.execute(
                "SELECT height, position FROM tx WHERE hash = ?", (digest,)
            ).fetchone()
        return None if row is None else TxPlace(height=Height(row[0]), position=row[1])

    @property
    def first_app_hash(self) -> bytes:
        """Root of the state below the first block."""
        with _explained():
            row = self._reader.execute("SELECT first_app_hash FROM chain").fetchone()
        return bytes(row[0])

    @property
    def tip(self) -> ChainTip:
        """What the next block builds on."""
        if self.height < self._genesis.initial_height:
            return genesis_tip(self._genesis, self.first_app_hash)
        last = self.block(self.height)
        return CommittedBlock(
            block=last.block,
            block_id=last.block_id,
            commit=last.seen_commit,
            results=last.results,
            events=last.events,
            changes={},
            app_hash=last.app_hash,
        ).tip

    def entries(self) -> dict[bytes, bytes]:
        """The newest state, all of it."""
        with _explained():
            return dict(self._reader.execute("SELECT key, value FROM state"))

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

    def _check_origin(self) -> None:
        # 1.
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise ForeignChainError(
                "chain written by another version",
                got=f"layout {version}",
                expected=f"layout {SCHEMA_VERSION}",
                hint="It is kept as it is",
            )
        # 2.
        row = self._reader.execute("SELECT genesis_hash FROM chain").fetchone()
        expected = genesis_hash(self._genesis)
        if row is None or row[0] != expected:
            raise ForeignChainError(
                "chain began with another genesis",
                got=None if row is None else row[0],
                expected=expected,
                hint="It is kept as it is",
            )

    def _check_last(self) -> None:
        # 3.
        height = self.height
        if height < self._genesis.initial_height:
            return
        last = self.block(height)
        header = last.block.header
        if block_id_of(last.block) != last.block_id or header.height != height:
            raise ChainCorruptError("last block has another hash", got=height)
        if height > self._genesis.initial_height:
            before = self.block(Height(height - 1))
            if before.block_id != header.last_block_id:
                raise ChainCorruptError("last block follows another one", got=height)
        commit = last.seen_commit
        if commit.block_id != last.block_id or len(commit.signatures) != 1:
            raise ChainCorruptError("last block has another's commit", got=height)
        vote = commit.signatures[0]
        try:
            verify_signature(
                self._genesis.validators.validators[0].public_key,
                vote_sign_bytes(header.chain_id, commit, vote),
                vote.signature,
                what=f"the commit of block {height}",
            )
        except SignatureInvalidError as error:
            raise ChainCorruptError(
                "last block was not decided by the validator", got=str(error)
            ) from error

    def _check_next(self, db: sqlite3.Connection, block: CommittedBlock) -> None:
        row = db.execute(
            "SELECT height, hash FROM block ORDER BY height DESC LIMIT 1"
        ).fetchone()
        height, digest = row or (self._genesis.initial_height - 1, b"")
        header = block.block.header
        if (header.height, header.last_block_id.hash) != (height + 1, digest):
            raise NotNextBlockError(
                "block does not follow the last one",
                got=f"{header.height} after {header.last_block_id.hash.hex()}",
                expected=f"{height + 1} after {digest.hex()}",
            )


def _require_database(path: Path) -> None:
    """SQLite would make an absent or empty file into an empty database."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ChainStoreError(
            f"no chain here ({error.strerror})", got=str(path)
        ) from error
    if magic != _MAGIC:
        raise ChainCorruptError(
            "not a chain's database", got=str(path), hint="It is kept as it is"
        )


def _write_first(
    db: sqlite3.Connection, genesis: GenesisDoc, app_hash: bytes, entries: Changes
) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";"):
        db.execute(statement)
    db.execute("INSERT INTO chain VALUES (1, ?, ?)", (genesis_hash(genesis), app_hash))
    _write_changes(db, Height(genesis.initial_height - 1), entries)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def genesis_hash(genesis: GenesisDoc) -> bytes:
    """SHA-256 of the canonical encoding of a genesis."""
    return sha256(encode(GENESIS_DOC.render(genesis)))


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


def _connection(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(
        ":memory:" if path is None else path,
        isolation_level=None,
        check_same_thread=False,
        timeout=10.0,
    )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == _FULL_DISK:
            raise DiskFullError(
                "no space for the chain's database", got=str(error)
            ) from error
        if code in _DAMAGED:
            raise ChainCorruptError(
                "the chain's database is damaged",
                got=str(error),
                hint="It is kept as it is",
            ) from error
        raise ChainStoreError("the chain's database failed", got=str(error)) from error


def _stored(kind: type[T], data: bytes) -> T:
    try:
        return decode(kind, data, limit=_ROW_LIMIT)
    except SealiftError as error:
        raise ChainCorruptError(
            "a stored row cannot be read", got=str(error), hint="It is kept as it is"
        ) from error
