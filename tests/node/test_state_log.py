"""The tables of state and changes that both engines keep."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import ChainId, Height
from sealift.node import ChainCorruptError, ChainStoreError, SoloStore
from sealift.node._state_log import (
    STATE_TABLES,
    StateLog,
    explained,
    open_database,
    write_changes,
)
from sealift.node.abci import AbciStore
from sealift.relay import Timestamp
from sealift.relay.rpc import GenesisDoc
from sealift.transport.files import DiskFullError

GENESIS = GenesisDoc(genesis_time=Timestamp(seconds=1), chain_id=ChainId("c"))
KEYS = st.binary(min_size=1, max_size=2)
BLOCKS = st.lists(
    st.dictionaries(KEYS, st.none() | st.binary(max_size=2), max_size=4), max_size=6
)


@settings(max_examples=40, deadline=None)
@given(blocks=BLOCKS)
def test_every_state_leads_to_every_other(
    blocks: list[dict[bytes, bytes | None]],
) -> None:
    db = open_database(None)
    db.executescript(STATE_TABLES)
    log = StateLog(writer=db, reader=db, what="it")
    states: list[dict[bytes, bytes]] = [{}]
    for height, changes in enumerate(blocks, 1):
        write_changes(db, Height(height), changes)
        merged = states[-1] | changes
        states.append({key: new for key, new in merged.items() if new is not None})
    assert log.entries() == states[-1]
    for low in range(len(states)):
        for high in range(low, len(states)):
            there = log.changes_between(Height(low), Height(high))
            back = log.reversal_between(Height(low), Height(high))
            for start, move, end in ((low, there, high), (high, back, low)):
                merged = states[start] | move
                moved = {key: new for key, new in merged.items() if new is not None}
                assert moved == states[end]
    log.close()


def test_both_engines_keep_the_same_tables(tmp_path: Path) -> None:
    """One tool reads either file; neither engine has rules of its own."""
    SoloStore.create(tmp_path / "solo", GENESIS, app_hash=b"h", entries={}).close()
    AbciStore.open(tmp_path / "abci").close()
    found = []
    for name in ("solo", "abci"):
        db = sqlite3.connect(tmp_path / name)
        wanted = "SELECT sql FROM sqlite_master WHERE name IN ('state', 'change')"
        found.append(sorted(row[0] for row in db.execute(wanted)))
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.close()
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_connection_waits_for_the_disk_at_every_commit(tmp_path: Path) -> None:
    db = open_database(tmp_path / "db")
    full = 2
    assert db.execute("PRAGMA synchronous").fetchone() == (full,)
    db.close()


def test_full_disk_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    store = AbciStore.open(tmp_path / "state")
    try:
        store.begin(GENESIS, first={}, app_hash=b"1", changes={b"a": b"1"})
        writer = store._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFullError, match="ledger's state"):
            store.append(Height(2), app_hash=b"2", changes={b"b": bytes(100_000)})
        assert store.entries() == {b"a": b"1"}
        assert store.head is not None
        assert store.head.height == 1
    finally:
        store.close()


def test_failures_are_told_by_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"not a database at all, only text" * 100)
    with (
        pytest.raises(ChainCorruptError, match="the thing is damaged"),
        explained("the thing"),
    ):
        open_database(tmp_path / "text")
    with (
        pytest.raises(ChainStoreError, match="the thing failed"),
        explained("the thing"),
    ):
        open_database(tmp_path / "no" / "folder")
