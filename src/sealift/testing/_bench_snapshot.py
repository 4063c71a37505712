"""``snapshot`` and ``memory``: a state of a million accounts, out, on disk, and in."""

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealift.base import encode
from sealift.crypto import hkdf, open_sealed, seal, system_entropy
from sealift.frame import PageStore
from sealift.protocol.ecall import (
    SnapshotBegin,
    SnapshotChunk,
    SnapshotDrop,
    SnapshotGet,
    SnapshotHeader,
    StateReply,
)

from ._bench_crowd import PAGE_BITS, crowd_member, crowd_world
from ._bench_shard import Result
from ._worker import WorldWorker

_ROUNDS: Final = 5
_MIB: Final = 1024 * 1024
_BATCH: Final = 50_000


def bench_snapshot(*, accounts: int = 1_000_000) -> Result:
    """A snapshot by ECALLs to an fsynced file and from it into another enclave.

    ``floor``: the same bytes, chunk by chunk, sealed and opened and on the same
    disk. ``value`` and ``floor`` are MiB a second, there and back; the import
    verifies every chunk, the floor nothing.
    """
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world, release, giver = crowd_world(folder / "world", accounts, keyed=1)
        taker = world.worker("taker", release, operator="operator-2")
        taker.request_keys(giver)
        mebibytes = 0.0
        for number in range(_ROUNDS):
            world.block()  # a snapshot is taken over only if it leads further
            ours = _timed(_Ours(giver, taker, folder / f"ours-{number}"))
            sizes = _sizes(folder / f"ours-{number}")
            bare = _timed(_Bare(sizes, folder / f"bare-{number}"))
            pairs.append((ours, bare))
            mebibytes = sum(sizes) / _MIB
        if taker.status().root != giver.status().root:
            raise SystemExit("bench snapshot: it led to another root")
    return Result(
        value=mebibytes / statistics.median(mine for mine, _ in pairs),
        unit="MiB/s",
        floor=mebibytes / statistics.median(floor for _, floor in pairs),
        ratio=statistics.median(floor / mine for mine, floor in pairs),
        size_mib=mebibytes,
        accounts=accounts,
    )


def bench_memory(*, accounts: int = 1_000_000) -> Result:
    """What a process grows by that makes and holds the state, an account.

    ``floor``: the bytes of the entries alone.
    """
    command = [sys.executable, "-m", __name__, str(accounts)]
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603
    if done.returncode:
        raise SystemExit("bench memory: its process died")
    grown, bare = map(float, done.stdout.split())
    return Result(
        value=grown / accounts,
        unit="B/account",
        floor=bare / accounts,
        ratio=bare / grown,
        accounts=accounts,
    )


class _Ours:
    """Export, fsynced file, read, import."""

    def __init__(self, giver: WorldWorker, taker: WorldWorker, folder: Path) -> None:
        self._giver, self._taker, self._folder = giver, taker, folder

    def run(self) -> None:
        giver, taker = self._giver, self._taker
        begun = giver.call(SnapshotBegin(), SnapshotHeader)
        self._folder.mkdir()
        for index in range(begun.chunks):
            chunk = giver.call(SnapshotGet(index=index), SnapshotChunk)
            _write(self._folder / f"{index:06}", chunk.data)
        giver.call(SnapshotDrop(what="export"), StateReply)
        taker.call(SnapshotBegin(header=begun.header), SnapshotHeader)
        for index, path in enumerate(sorted(self._folder.iterdir())):
            data = path.read_bytes()
            taker.call(SnapshotChunk(index=index, data=data), StateReply)


class _Bare:
    """AEAD and disk alone, for as many bytes in as many chunks."""

    def __init__(self, sizes: Sequence[int], folder: Path) -> None:
        self._chunks = [system_entropy(size) for size in sizes]
        self._folder = folder

    def run(self) -> None:
        self._folder.mkdir()
        key = hkdf(bytes(32), info=b"bench")
        for index, plain in enumerate(self._chunks):
            sealed = seal(key, plain, context=b"", entropy=system_entropy)
            _write(self._folder / f"{index:06}", sealed)
        for path in sorted(self._folder.iterdir()):
            open_sealed(key, path.read_bytes(), context=b"", what="a chunk")


def _timed(work: _Ours | _Bare) -> float:
    gc.collect()
    began = time.perf_counter()
    work.run()
    return time.perf_counter() - began


def _sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(folder.iterdir())]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _grow(accounts: int) -> tuple[int, int]:
    """Bytes by which this process grows, and bytes of the entries."""
    gc.collect()
    before = _resident()
    store = PageStore(bits=PAGE_BITS, key=bytes(32))
    bare = 0
    batch: dict[bytes, bytes] = {}
    for first in range(0, accounts, _BATCH):
        batch.clear()
        for number in range(first, min(first + _BATCH, accounts)):
            who, record = crowd_member(b"crowd", number)
            key, value = b"crowd/members/" + who, encode(record)
            bare += len(key) + len(value)
            batch[key] = value
        store.apply(batch)
    batch.clear()
    store.root()
    gc.collect()
    return _resident() - before, bare


if __name__ == "__main__":
    sys.stdout.write(" ".join(map(str, _grow(int(sys.argv[1])))))
