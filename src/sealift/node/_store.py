"""The embedded chain on disk: one SQLite file, one transaction for a block.

Guarantees that a block is there with commit, results, indexes and state
changes, or not at all, after ``kill -9`` or power loss at any instant: WAL
with ``synchronous=FULL``, and one ``COMMIT`` for everything of a block.
"""

import sqlite3
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

from ._chain import ChainTip, CommittedBlock, genesis_tip
from ._errors import (
    ChainCorruptError,
    ChainStoreError,
    ForeignChainError,
    HeightUnknownError,
    NotNextBlockError,
)
from ._state_log import (
    STATE_TABLES,
    StateLog,
    explained,
    open_database,
    write_changes,
)

T = TypeVar("T")
#: Version of the tables, in ``PRAGMA user_version``.
SCHEMA_VERSION: Final = 1
#: The file, in errors.
_WHAT: Final = "the chain's database"
_MAGIC: Final = b"SQLite format 3\x00"
_ROW_LIMIT: Final = 128 * 1024 * 1024
_SCHEMA: Final = f"""
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
{STATE_TABLES}"""
# v0.38 state/txindex/kv: a later result replaces an earlier one, except that a
# failure never hides a success.
_INDEX_TX: Final = """
INSERT INTO tx (hash, height, position, code) VALUES (?, ?, ?, ?)
ON CONFLICT (hash) DO UPDATE SET
    height = excluded.height, position = excluded.position, code = excluded.code
WHERE tx.code != 0 OR excluded.code = 0
"""


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


class SoloStore(StateLog):
    """Blocks, commits, results and every change of the state.

    Made by :meth:`create` or :meth:`open`.
    """

    def __init__(
        self,
        *,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        past: sqlite3.Connection,
        genesis: GenesisDoc,
    ) -> None:
        super().__init__(writer=writer, reader=reader, past=past, what=_WHAT)
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
        with explained(_WHAT):
            writer = open_database(path)
            with writer as db:
                _write_first(db, genesis, app_hash, entries)
            reader = writer if path is None else open_database(path)
            past = writer if path is None else open_database(path)
            return cls(writer=writer, reader=reader, past=past, genesis=genesis)

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
        with explained(_WHAT):
            store = cls(
                writer=open_database(path),
                reader=open_database(path),
                past=open_database(path),
                genesis=genesis,
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
        with explained(_WHAT):
            self._check_origin()
            self._check_last()

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
        with explained(_WHAT), self._writer as db:
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
            write_changes(db, height, block.changes)

    @property
    def height(self) -> Height:
        """The last durable block; one below the first if there is none."""
        with explained(_WHAT):
            found = self._reader.execute("SELECT MAX(height) FROM block").fetchone()[0]
        first = self._genesis.initial_height
        return Height(first - 1 if found is None else found)

    def block(self, height: Height) -> StoredBlock:
        """A block.

        Raises:
            HeightUnknownError: There is none of that height.
        """
        with explained(_WHAT):
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
        with explained(_WHAT):
            row = self._reader.execute(
                "SELECT height FROM block WHERE hash = ?", (block_hash,)
            ).fetchone()
        return None if row is None else Height(row[0])

    def find_tx(self, digest: bytes) -> TxPlace | None:
        """Where the transaction with that hash stands, if it does."""
        with explained(_WHAT):
            row = self._reader.execute(
                "SELECT height, position FROM tx WHERE hash = ?", (digest,)
            ).fetchone()
        return None if row is None else TxPlace(height=Height(row[0]), position=row[1])

    @property
    def first_app_hash(self) -> bytes:
        """Root of the state below the first block."""
        with explained(_WHAT):
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
    write_changes(db, Height(genesis.initial_height - 1), entries)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def genesis_hash(genesis: GenesisDoc) -> bytes:
    """SHA-256 of the canonical encoding of a genesis."""
    return sha256(encode(GENESIS_DOC.render(genesis)))


def _stored(kind: type[T], data: bytes) -> T:
    try:
        return decode(kind, data, limit=_ROW_LIMIT)
    except SealiftError as error:
        raise ChainCorruptError(
            "a stored row cannot be read", got=str(error), hint="It is kept as it is"
        ) from error
