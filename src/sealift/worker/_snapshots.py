"""Snapshots on disk: a folder each, in pieces that are verified one by one.

``<height>-<digest>/`` holds ``header``, ``chunks/NNNNNN`` and ``manifest``, which
is written last, when all else is durable: a folder without a manifest is partial.
Every piece stands with its length and SHA-256 in the manifest, so that a damaged
one is found, and named, without an enclave. What is in the pieces only an enclave
can read, and only it says whether they are true.

All of this waits for the disk: callers on an event loop use a thread.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from sealift.base import Epoch, Fingerprint, Height, ShardId, StateRoot
from sealift.protocol.ecall import MAX_FRAME_BYTES
from sealift.transport.files import (
    FileError,
    make_folder,
    refuse_write,
    sync_folder,
    write_durably,
)

from ._errors import SnapshotDamagedError, SnapshotManifestError

#: Of the manifest, not of what the enclave seals.
FORMAT: Final = 1
#: The folder of an instance's snapshots, beside its database.
FOLDER: Final = "snapshots"
MANIFEST: Final = "manifest"
#: What a download is to become: a manifest, as the peer has shown it.
WANTED: Final = "wanted"
HEADER: Final = "header"
CHUNKS: Final = "chunks"
#: Appended to the name of a snapshot that did not open. It is kept.
ASIDE: Final = ".damaged"
#: Most pieces, and most bytes of all of them: beyond any state.
MAX_CHUNKS: Final = 65_536
MAX_SNAPSHOT_BYTES: Final = 4 * 1024 * 1024 * 1024
#: A manifest with the most pieces is shorter.
MAX_MANIFEST_BYTES: Final = 8 * 1024 * 1024
_MODE: Final = 0o700
_NAME: Final = re.compile(r"([0-9]{1,18})-([0-9a-f]{12})", re.ASCII)
_SHOWN: Final = 6

_Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAME_BYTES)]
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A header or a chunk: its length and SHA-256."""

    size: _Size
    sha256: _Hex32

    def fits(self, data: bytes) -> bool:
        """Whether this is the piece."""
        return self == piece_of(data)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is made of, and what its enclave said of it.

    The host wrote it: it finds damage, and proves nothing to anybody. ``root`` and
    ``epoch`` are empty where an enclave of an older release did not say them.
    """

    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    shard: _Hex32
    fingerprint: _Hex32
    height: _Number
    header: Piece
    chunks: Annotated[tuple[Piece, ...], msgspec.Meta(min_length=1)]
    root: str = ""
    epoch: int | None = None
    sealed_format: int = 1

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.height}-{self.header.sha256[: 2 * _SHOWN]}"

    @property
    def size(self) -> int:
        """Bytes of all pieces together."""
        return self.header.size + sum(piece.size for piece in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What an enclave said of a snapshot that it makes or takes."""

    shard: ShardId
    fingerprint: Fingerprint
    root: StateRoot | None = None
    epoch: Epoch | None = None
    sealed_format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A folder with a snapshot's name: whole with its manifest, else partial."""

    name: str
    height: Height
    manifest: Manifest | None
    bytes_here: int


def piece_of(data: bytes) -> Piece:
    """The length and hash of some bytes."""
    return Piece(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def name_of(height: int, header: bytes) -> str:
    """The name of the folder of a snapshot: the same header, the same name."""
    return f"{height}-{piece_of(header).sha256[: 2 * _SHOWN]}"


def is_name(text: str) -> bool:
    """Whether a folder of this name is a snapshot."""
    return _NAME.fullmatch(text) is not None


def parse_manifest(raw: bytes, *, what: str) -> Manifest:
    """A manifest, from this disk or from a stranger.

    Raises:
        SnapshotManifestError: Not a manifest, of another format, or of more pieces
            or bytes than any snapshot has.
    """
    try:
        found = msgspec.json.decode(raw[: MAX_MANIFEST_BYTES + 1], type=Manifest)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise SnapshotManifestError(
            f"{what} is no manifest of a snapshot ({error})",
            expected=f"format {FORMAT}",
            hint="It was left as it is.",
        ) from error
    if len(found.chunks) > MAX_CHUNKS or found.size > MAX_SNAPSHOT_BYTES:
        raise SnapshotManifestError(
            f"{what} is of a snapshot without end",
            got=f"{len(found.chunks)} chunks, {found.size} B",
            expected=f"≤ {MAX_CHUNKS} chunks, ≤ {MAX_SNAPSHOT_BYTES} B",
        )
    return found


class SnapshotFolder:
    """The snapshots of one enclave instance, or a collection of some.

    Args:
        path: Where they are; made when the first one is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifests: dict[str, Manifest] = {}

    def names(self) -> list[str]:
        """Names of all that is here, whole or partial, ascending by height."""
        try:
            found = [p.name for p in self.path.iterdir() if is_name(p.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SnapshotDamagedError(
                f"{self.path} cannot be read ({error.strerror})"
            ) from error
        return sorted(found, key=lambda name: (int(name.partition("-")[0]), name))

    def find(self, name: str) -> Found:
        """What is here under a name; one with a manifest that is none is partial."""
        manifest = None
        with contextlib.suppress(SnapshotDamagedError, SnapshotManifestError):
            manifest = self.manifest(name)
        folder = self.path / name
        return Found(
            name=name,
            height=Height(int(name.partition("-")[0])),
            manifest=manifest,
            bytes_here=sum(size for _, size in _files(folder)),
        )

    def manifest(self, name: str) -> Manifest:
        """The manifest of a whole snapshot.

        Raises:
            SnapshotDamagedError: There is none.
            SnapshotManifestError: It is not one, or of another snapshot.
        """
        known = self._manifests.get(name)
        if known is None:
            path = self.path / name / MANIFEST
            known = parse_manifest(_read(path, what="the manifest"), what=str(path))
            if known.name != name:
                raise SnapshotManifestError(
                    f"{path} is of another snapshot",
                    got=known.name,
                    expected=name,
                    hint="It was left as it is.",
                )
            self._manifests[name] = known
        return known

    def header(self, name: str) -> bytes:
        """The header of a whole snapshot, verified.

        Raises:
            SnapshotDamagedError: It is missing or altered.
            SnapshotManifestError: As :meth:`manifest`.
        """
        return _verified(self.path / name / HEADER, self.manifest(name).header)

    def chunk(self, name: str, number: int) -> bytes:
        """One chunk of a whole snapshot, verified.

        Raises:
            SnapshotDamagedError: It is missing or altered.
            SnapshotManifestError: As :meth:`manifest`.
        """
        chunks = self.manifest(name).chunks
        if not 0 <= number < len(chunks):
            raise SnapshotDamagedError(
                "no such chunk", got=number, expected=f"0 … {len(chunks) - 1}"
            )
        return _verified(_chunk_path(self.path / name, number), chunks[number])

    def verify(self, name: str) -> Manifest:
        """Read every piece of a whole snapshot.

        Raises:
            SnapshotDamagedError: A piece is missing or altered: which.
            SnapshotManifestError: As :meth:`manifest`.
        """
        manifest = self.manifest(name)
        self.header(name)
        for number in range(len(manifest.chunks)):
            self.chunk(name, number)
        return manifest

    def draft(self, height: int, header: bytes) -> "Draft":
        """Begin a snapshot, or go on with a partial one of this header.

        Raises:
            FileError: The disk does not take it.
        """
        folder = self.path / name_of(height, header)
        make_folder(self.path, mode=_MODE)
        make_folder(folder, mode=_MODE)
        make_folder(folder / CHUNKS, mode=_MODE)
        self._manifests.pop(folder.name, None)
        return Draft(folder, height=height, header=header)

    def remove(self, name: str) -> None:
        """Drop a snapshot: first its manifest, so that no half of it looks whole."""
        folder = self.path / name
        self._manifests.pop(name, None)
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
        except FileNotFoundError:  # the folder is no folder
            return
        except OSError as error:
            refuse_write(error, folder)
        shutil.rmtree(folder, ignore_errors=True)

    def set_aside(self, name: str) -> Path | None:
        """Put a snapshot that did not open where it is not opened again; it is kept.

        Returns:
            Where it is now; ``None``: there was nothing of it.

        Raises:
            FileError: The disk does not take it.
        """
        self._manifests.pop(name, None)
        number = 0
        while (aside := self.path / f"{name}{ASIDE}{number or ''}").exists():
            number += 1
        try:
            (self.path / name).rename(aside)
        except FileNotFoundError:
            return None
        except OSError as error:
            refuse_write(error, aside)
        sync_folder(self.path)
        return aside

    def sweep(self, named: set[str]) -> None:
        """Drop what nobody named: exports cut off, snapshots nothing leads to.

        A download that was cut off is gone on with; of several the newest.
        """
        resumable = None
        for name in reversed(self.names()):
            if name in named:
                continue
            folder = self.path / name
            if resumable is None and (folder / WANTED).is_file():
                resumable = name
                self._manifests.pop(name, None)
                with contextlib.suppress(OSError):
                    (folder / MANIFEST).unlink(missing_ok=True)
                continue
            with contextlib.suppress(FileError):
                self.remove(name)

    def partial(self) -> list[str]:
        """Downloads that were cut off, the newest first."""
        return [
            name
            for name in reversed(self.names())
            if (self.path / name / WANTED).is_file()
            and not (self.path / name / MANIFEST).exists()
        ]

    def wanted(self, name: str) -> tuple[bytes, Manifest | None]:
        """Header and, where the peer showed one, manifest of a partial download.

        Raises:
            SnapshotDamagedError: What is here does not say it.
        """
        folder = self.path / name
        header = _read(folder / HEADER, what="the header")
        if name_of(int(name.partition("-")[0]), header) != name:
            raise SnapshotDamagedError(
                "the header of a partial snapshot is altered", got=str(folder / HEADER)
            )
        raw = _read(folder / WANTED, what="what is wanted")
        if not raw:  # a peer of an older release shows none
            return header, None
        manifest = parse_manifest(raw, what=str(folder / WANTED))
        return header, manifest


class Draft:
    """A snapshot that is being written, chunk by chunk; also one that was cut off.

    Chunks replace nothing half: each is written beside and moved. They are not
    flushed one by one, since :meth:`finish` does, and since what a crash leaves of
    them is judged by its hash.
    """

    def __init__(self, folder: Path, *, height: int, header: bytes) -> None:
        self.folder = folder
        self.height = Height(height)
        self._header = header
        self._pieces: dict[int, Piece] = {}
        path = folder / HEADER
        if not path.exists() or path.read_bytes() != header:
            write_durably(path, header)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    def want(self, manifest: Manifest | None) -> None:
        """Note durably that this is a download, and what it is to become.

        Raises:
            FileError: The disk does not take it.
        """
        raw = b"" if manifest is None else msgspec.json.encode(manifest)
        write_durably(self.folder / WANTED, raw)

    def put(self, number: int, data: bytes) -> None:
        """Write one chunk; it is whole or not there.

        Raises:
            DiskFullError: No space; what was there is untouched.
            FileError: Another failure.
        """
        path = _chunk_path(self.folder, number)
        fresh = path.with_suffix(".new")
        try:
            fresh.write_bytes(data)
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            refuse_write(error, path)
        self._pieces[number] = piece_of(data)

    def get(self, number: int, piece: Piece | None = None) -> bytes | None:
        """A chunk that is here, if it is the wanted one; another one is dropped."""
        path = _chunk_path(self.folder, number)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if piece is not None and not piece.fits(data):
            self.drop(number)
            return None
        self._pieces[number] = piece_of(data)
        return data

    def drop(self, number: int) -> None:
        """Throw away one chunk; what was whole is partial then."""
        self._pieces.pop(number, None)
        with contextlib.suppress(OSError):
            (self.folder / MANIFEST).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            _chunk_path(self.folder, number).unlink()

    def finish(self, chunks: int, about: About) -> Manifest:
        """Make all of it durable, and then whole: the manifest comes last.

        Args:
            chunks: How many there are; each was put or got here.
            about: What the enclave said of it.

        Raises:
            SnapshotDamagedError: One is not here.
            FileError: The disk does not take it; it stays partial.
        """
        missing = [n for n in range(chunks) if n not in self._pieces]
        if missing:
            raise SnapshotDamagedError(
                f"the snapshot {self.name} is not whole",
                got=f"{len(missing)} chunks missing, the first is {missing[0]}",
                expected=f"{chunks} chunks",
            )
        for number in range(chunks):
            _sync(_chunk_path(self.folder, number))
        sync_folder(self.folder / CHUNKS)
        manifest = Manifest(
            format=FORMAT,
            shard=about.shard.hex(),
            fingerprint=about.fingerprint.hex(),
            height=self.height,
            header=piece_of(self._header),
            chunks=tuple(self._pieces[number] for number in range(chunks)),
            root="" if about.root is None else about.root.hex(),
            epoch=about.epoch,
            sealed_format=about.sealed_format,
        )
        write_durably(self.folder / MANIFEST, msgspec.json.encode(manifest))
        sync_folder(self.folder.parent)
        return manifest

    def settled(self) -> None:
        """It is named now: no download to go on with."""
        with contextlib.suppress(OSError):
            (self.folder / WANTED).unlink(missing_ok=True)


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / CHUNKS / f"{number:06d}"


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in (folder / HEADER, folder / MANIFEST, *folder.glob(f"{CHUNKS}/*")):
        with contextlib.suppress(OSError):
            yield path, path.stat().st_size


def _read(path: Path, *, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SnapshotDamagedError(
            f"{what} of the snapshot is missing",
            got=f"{path}: {error.strerror}",
            hint="It was left as it is.",
        ) from error


def _verified(path: Path, piece: Piece) -> bytes:
    what = "the header" if path.name == HEADER else f"chunk {int(path.name)}"
    data = _read(path, what=what)
    if not piece.fits(data):
        got = piece_of(data)
        raise SnapshotDamagedError(
            f"{what} of the snapshot is altered",
            got=f"{path}: {got.size} B, SHA-256 {got.sha256[:16]}…",
            expected=f"{piece.size} B, {piece.sha256[:16]}…",
            hint="It was left as it is.",
        )
    return data


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        refuse_write(error, path)
