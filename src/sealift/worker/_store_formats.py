"""Databases of older releases, brought up to this one's format when opened."""

import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from sealift.base import Fingerprint, ShardId
from sealift.transport.files import FileError

from ._errors import StoreError
from ._snapshots import About, SnapshotFolder, name_of

CREATE_EFFECTS: Final = (
    "CREATE TABLE effects (height INTEGER PRIMARY KEY, data BLOB NOT NULL,"
    " said INTEGER NOT NULL)"
)
CREATE_SNAPSHOTS: Final = (
    "CREATE TABLE snapshots (height INTEGER PRIMARY KEY, name BLOB NOT NULL)"
)
Transaction = Callable[[], AbstractContextManager[None]]


def effects_of_format_2(db: sqlite3.Connection) -> None:
    """From format 1: a block's effects were not kept yet."""
    db.execute(CREATE_EFFECTS)


def snapshots_of_format_3(
    db: sqlite3.Connection,
    folder: SnapshotFolder,
    *,
    shard: ShardId,
    fingerprint: Fingerprint,
    transaction: Transaction,
    done: Callable[[], None],
) -> None:
    """From format 2: snapshots were rows, all chunks of them in this file.

    1. Each becomes a folder, chunk by chunk, durably. 2. In one transaction they
    are named and their rows go. Cut off before, it is done again; one that lacks
    chunks stays in its rows, as ``snapshots_2`` and ``chunks_2``.

    Raises:
        StoreError: The disk does not take the folders; nothing was changed.
    """
    about = About(shard=shard, fingerprint=fingerprint)
    named: list[tuple[int, str]] = []
    rows = db.execute("SELECT height, header, chunks FROM snapshots").fetchall()
    for height, header, chunks in rows:  # 1.
        try:
            name = _written_out(db, folder, (height, header, chunks), about)
        except FileError as error:
            raise StoreError(
                f"the snapshots do not leave the database for {folder.path} ({error})",
                expected="room for them once more",
                hint="The database was left as it is; make room, then start again.",
            ) from error
        if name:
            named.append((height, name))
    with transaction():  # 2.
        db.execute("ALTER TABLE snapshots RENAME TO snapshots_2")
        db.execute("ALTER TABLE chunks RENAME TO chunks_2")
        for height, _ in named:
            db.execute("DELETE FROM snapshots_2 WHERE height = ?", (height,))
            db.execute("DELETE FROM chunks_2 WHERE height = ?", (height,))
        if not db.execute("SELECT count(*) FROM snapshots_2").fetchone()[0]:
            db.execute("DROP TABLE snapshots_2")
            db.execute("DROP TABLE chunks_2")
        db.execute(CREATE_SNAPSHOTS)
        db.executemany(
            "INSERT INTO snapshots VALUES (?, ?)",
            [(height, name.encode()) for height, name in named],
        )
        done()


def _written_out(
    db: sqlite3.Connection,
    folder: SnapshotFolder,
    snapshot: tuple[int, bytes, int],
    about: About,
) -> str:
    """The name of the folder that was made of it; nothing where it lacks chunks."""
    height, header, chunks = snapshot
    name = name_of(height, header)
    try:
        draft = folder.draft(height, header)
        for number in range(chunks):
            row = db.execute(
                "SELECT data FROM chunks WHERE height = ? AND number = ?",
                (height, number),
            ).fetchone()
            if row is None:
                folder.remove(name)
                return ""
            draft.put(number, row[0])
        draft.finish(chunks, about)
    except FileError:
        with contextlib.suppress(FileError):
            folder.remove(name)
        raise
    return name
