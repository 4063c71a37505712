"""Snapshots on disk: whole or partial, damaged ones named, none dropped unread."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from doubles import CODE, SHARD, written
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import Epoch, StateRoot
from sealift.transport.files import DiskFullError
from sealift.worker import SnapshotDamagedError, SnapshotManifestError
from sealift.worker import _snapshots as module
from sealift.worker._snapshots import (
    About,
    Draft,
    Manifest,
    SnapshotFolder,
    name_of,
    parse_manifest,
)

ABOUT = About(shard=SHARD, fingerprint=CODE)


@pytest.fixture
def folder(tmp_path: Path) -> SnapshotFolder:
    return SnapshotFolder(tmp_path / "snapshots")


def test_a_snapshot_is_read_back_piece_by_piece(folder: SnapshotFolder) -> None:
    made = written(folder, 20, b"one", b"two")
    again = SnapshotFolder(folder.path)
    assert again.names() == [made.name] == [name_of(20, b"header")]
    assert again.verify(made.name) == made
    assert again.header(made.name) == b"header"
    assert [again.chunk(made.name, n) for n in (0, 1)] == [b"one", b"two"]
    assert made.size == len(b"headeronetwo")
    assert again.find(made.name).manifest == made
    with pytest.raises(SnapshotDamagedError, match="no such chunk"):
        again.chunk(made.name, 2)


def test_what_its_enclave_said_stands_in_the_manifest(folder: SnapshotFolder) -> None:
    draft = folder.draft(7, b"header")
    draft.put(0, b"chunk")
    root = StateRoot(b"\x0a" * 32)
    made = draft.finish(1, _about(root, Epoch(3)))
    assert (made.root, made.epoch, made.sealed_format) == (root.hex(), 3, 2)
    assert (made.shard, made.fingerprint) == (SHARD.hex(), CODE.hex())


def _about(root: StateRoot, epoch: Epoch) -> About:
    return About(shard=SHARD, fingerprint=CODE, root=root, epoch=epoch, sealed_format=2)


def test_without_its_manifest_it_is_partial_and_gone_on_with(
    folder: SnapshotFolder,
) -> None:
    draft = folder.draft(7, b"header")
    draft.put(0, b"one")
    with pytest.raises(SnapshotDamagedError, match="1 chunks missing, the first is 1"):
        draft.finish(2, ABOUT)
    assert folder.find(draft.name).manifest is None
    with pytest.raises(SnapshotDamagedError, match="manifest of the snapshot is miss"):
        folder.verify(draft.name)
    on = SnapshotFolder(folder.path).draft(7, b"header")
    assert on.get(0) == b"one"
    assert on.get(1) is None
    on.put(1, b"two")
    assert len(on.finish(2, ABOUT).chunks) == 2


def altered(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("how", [altered, cut, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("piece", "words"),
    [("header", "the header"), ("chunks/000001", "chunk 1")],
)
def test_a_damaged_piece_is_named_and_left(
    folder: SnapshotFolder, piece: str, words: str, how: Callable[[Path], None]
) -> None:
    made = written(folder, 20, b"one", b"two")
    path = folder.path / made.name / piece
    how(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(SnapshotDamagedError, match=words):
        folder.verify(made.name)
    assert (path.read_bytes() if path.exists() else None) == before
    assert folder.chunk(made.name, 0) == b"one"


def test_two_chunks_that_were_swapped_are_found(folder: SnapshotFolder) -> None:
    made = written(folder, 20, b"one", b"two")
    chunks = folder.path / made.name / "chunks"
    (chunks / "000000").rename(chunks / "x")
    (chunks / "000001").rename(chunks / "000000")
    (chunks / "x").rename(chunks / "000001")
    with pytest.raises(SnapshotDamagedError, match="chunk 0"):
        folder.verify(made.name)


def test_the_manifest_of_another_snapshot_is_refused(folder: SnapshotFolder) -> None:
    one, two = written(folder, 20, b"one"), written(folder, 21, b"two")
    again = SnapshotFolder(folder.path)
    (folder.path / one.name / "manifest").write_bytes(
        (folder.path / two.name / "manifest").read_bytes()
    )
    with pytest.raises(SnapshotManifestError, match="of another snapshot"):
        again.verify(one.name)
    assert again.find(one.name).manifest is None


GOOD = {
    "format": 1,
    "shard": "0" * 64,
    "fingerprint": "0" * 64,
    "height": 3,
    "header": [1, "0" * 64],
    "chunks": [[1, "0" * 64]],
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"height": -1},
        {"height": 1 << 63},
        {"chunks": []},
        {"chunks": [[1 << 40, "0" * 64]]},
        {"chunks": [[1, "0" * 63]]},
        {"shard": "0" * 64 + "\n"},
        {"header": None},
    ],
    ids=str,
)
def test_what_is_no_manifest_is_refused(change: dict[str, object]) -> None:
    assert parse_manifest(msgspec.json.encode(GOOD), what="it").height == 3
    with pytest.raises(SnapshotManifestError, match="it is no manifest"):
        parse_manifest(msgspec.json.encode({**GOOD, **change}), what="it")


def test_a_manifest_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = msgspec.json.encode({**GOOD, "chunks": [[1, "0" * 64]] * 4})
    monkeypatch.setattr(module, "MAX_CHUNKS", 3)
    with pytest.raises(SnapshotManifestError, match="without end"):
        parse_manifest(many, what="it")
    monkeypatch.setattr(module, "MAX_CHUNKS", 4)
    assert len(parse_manifest(many, what="it").chunks) == 4
    monkeypatch.setattr(module, "MAX_SNAPSHOT_BYTES", 4)
    with pytest.raises(SnapshotManifestError, match="5 B"):
        parse_manifest(many, what="it")
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", len(many) - 2)
    with pytest.raises(SnapshotManifestError, match="no manifest"):
        parse_manifest(many, what="it")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    try:
        assert isinstance(parse_manifest(raw, what="it"), Manifest)
    except SnapshotManifestError:
        return


def test_a_full_disk_is_named_and_nothing_half_is_left(
    folder: SnapshotFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(folder, 5, b"old")
    draft = folder.draft(7, b"header")
    draft.put(0, b"one")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFullError, match="no space to write"):
            draft.put(1, b"two")
    chunks = folder.path / draft.name / "chunks"
    assert [path.name for path in chunks.iterdir()] == ["000000"]
    assert folder.verify(before.name) == before


def test_everything_is_flushed_before_the_manifest_says_it_is_whole(
    folder: SnapshotFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = folder.draft(7, b"header")
    draft.put(0, b"one")
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        there = (folder.path / draft.name / "manifest").exists()
        flushed.append(f"{path.name}{'+' if there else ''}")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    draft.finish(1, ABOUT)
    assert flushed[:2] == ["000000", "chunks"]
    assert flushed[-2:] == [f"{draft.name}+", "snapshots+"]
    assert next(name for name in flushed if "manifest" in name)[-1] != "+"


def test_a_chunk_that_is_not_the_wanted_one_is_dropped(folder: SnapshotFolder) -> None:
    draft = folder.draft(7, b"header")
    draft.put(0, b"one")
    assert draft.get(0, module.piece_of(b"one")) == b"one"
    assert draft.get(0, module.piece_of(b"two")) is None
    assert draft.get(0) is None


def download(folder: SnapshotFolder, height: int, manifest: Manifest | None) -> Draft:
    draft = folder.draft(height, b"header")
    draft.want(manifest)
    return draft


def test_what_is_swept_is_what_nobody_named_and_no_download(
    folder: SnapshotFolder,
) -> None:
    named, orphan = written(folder, 5, b"old"), written(folder, 6, b"unnamed")
    export = folder.draft(7, b"header")
    export.put(0, b"cut off")
    old = download(folder, 8, None)
    whole = download(folder, 9, None)
    whole.put(0, b"all of it")
    whole.finish(1, ABOUT)  # killed before it was named
    foreign = folder.path / "notes"
    foreign.mkdir()
    folder.sweep({named.name})
    assert folder.names() == [named.name, whole.name]
    assert folder.partial() == [whole.name]
    assert foreign.is_dir()
    assert download(folder, 9, None).get(0) == b"all of it"
    assert {orphan.name, export.name, old.name}.isdisjoint(folder.names())


def test_what_is_wanted_is_read_back_or_named(folder: SnapshotFolder) -> None:
    peer = SnapshotFolder(folder.path.parent / "peer")
    manifest = written(peer, 7, b"one")
    draft = download(folder, 7, manifest)
    assert folder.wanted(draft.name) == (b"header", manifest)
    (folder.path / draft.name / "header").write_bytes(b"another")
    with pytest.raises(SnapshotDamagedError, match="header of a partial snapshot"):
        folder.wanted(draft.name)
    assert folder.wanted(download(folder, 7, None).name) == (b"header", None)
    draft.settled()
    with pytest.raises(SnapshotDamagedError, match="what is wanted"):
        folder.wanted(draft.name)


def test_what_is_set_aside_is_kept_and_not_opened_again(
    folder: SnapshotFolder,
) -> None:
    for _ in range(2):
        made = written(folder, 5, b"chunk")
        folder.set_aside(made.name)
    assert folder.names() == []
    kept = sorted(path.name for path in folder.path.iterdir())
    assert kept == [f"{made.name}.damaged", f"{made.name}.damaged1"]
    assert (folder.path / kept[1] / "chunks" / "000000").read_bytes() == b"chunk"


def test_what_is_not_there_is_not_set_aside(folder: SnapshotFolder) -> None:
    made = written(folder, 5, b"chunk")
    shutil.rmtree(folder.path / made.name)
    assert folder.set_aside(made.name) is None
    assert list(folder.path.iterdir()) == []


def test_what_is_removed_is_gone_and_again_is_nothing(folder: SnapshotFolder) -> None:
    made = written(folder, 5, b"chunk")
    folder.remove(made.name)
    folder.remove(made.name)
    assert folder.names() == []
    with pytest.raises(SnapshotDamagedError):
        folder.manifest(made.name)
