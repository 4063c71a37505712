"""The state's way back from disk: refused as a whole, by name, and kept."""

import asyncio
from pathlib import Path

import pytest
from doubles import CODE, SHARD, FakeEnclave, refusal, status

from sealift.base import Height, Message
from sealift.protocol.ecall import (
    DiffApply,
    Genesis,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotHeader,
    StateReply,
)
from sealift.worker import StoreError, WorkerStore
from sealift.worker._channel import EnclaveChannel
from sealift.worker._state import restore_state
from sealift.worker._store import WholeSnapshot


class Disk:
    """An enclave whose state grows by what is brought, and a store."""

    def __init__(self, path: Path) -> None:
        self.height: int | None = None
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.enclave = FakeEnclave(
            Genesis=lambda _: self.at(3),
            SnapshotBegin=lambda _: SnapshotHeader(
                header=b"header", height=Height(20), chunks=2
            ),
            SnapshotChunk=lambda r: self.at(20 if r.index == 1 else None),
            DiffApply=lambda r: self.at(int(r.diff)),
            GetStatus=lambda _: status(
                state_height=None if self.height is None else Height(self.height)
            ),
        )

    def at(self, height: int | None) -> Message:
        self.height = height if height is not None else self.height
        return StateReply(
            height=None if self.height is None else Height(self.height), root=None
        )

    def restore(self, genesis: bytes | None = b"genesis") -> int | None:
        return asyncio.run(
            restore_state(EnclaveChannel(self.enclave), self.store, genesis=genesis)
        )


@pytest.fixture
def disk(tmp_path: Path):
    made = Disk(tmp_path)
    yield made
    made.store.close()


def diffs(disk: Disk, *heights: int) -> None:
    for height in heights:
        disk.store.commit_diff(Height(height), b"%d" % height)


def snapshot(disk: Disk) -> None:
    disk.store.put_snapshot(
        WholeSnapshot(height=Height(20), header=b"header", chunks=(b"a", b"b"))
    )


def test_an_empty_disk_gives_nothing_back(disk: Disk) -> None:
    assert disk.restore() is None
    assert not disk.enclave.count(Genesis)


def test_a_birth_begins_at_the_genesis_and_goes_on_by_diffs(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    diffs(disk, 4, 5)
    assert disk.restore() == 5
    assert disk.enclave.count(DiffApply) == 2


def test_a_snapshot_comes_first_and_only_later_diffs_after_it(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    snapshot(disk)
    diffs(disk, 19, 20, 21)
    assert disk.restore() == 21
    assert disk.enclave.count(Genesis) == 0
    assert disk.enclave.count(SnapshotBegin) == 1
    assert disk.enclave.count(SnapshotChunk) == 2
    assert disk.enclave.count(DiffApply) == 1


def test_whose_birth_another_forestalled_asks_for_the_keys(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    disk.enclave.answers["Genesis"] = lambda _: refusal("NoKeysError")
    assert disk.restore() is None


@pytest.mark.parametrize(
    ("request_name", "code"),
    [
        ("SnapshotBegin", "ForeignSnapshotError"),
        ("SnapshotChunk", "SnapshotForgedError"),
        ("DiffApply", "DiffOrderError"),
    ],
)
def test_what_the_enclave_refuses_is_named_and_stays(
    disk: Disk, request_name: str, code: str
) -> None:
    snapshot(disk)
    diffs(disk, 21)
    disk.enclave.answers[request_name] = lambda _: refusal(code)
    with pytest.raises(StoreError, match=code) as caught:
        disk.restore()
    assert "left as it is" in caught.value.hint
    assert disk.store.snapshot() is not None
    assert disk.store.diff(21) == b"21"


def test_another_genesis_is_refused(disk: Disk) -> None:
    disk.store.put_meta("born", b"\x01")
    disk.enclave.answers["Genesis"] = lambda _: refusal("GenesisMismatchError")
    with pytest.raises(StoreError, match="GenesisMismatchError"):
        disk.restore()
