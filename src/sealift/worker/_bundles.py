"""Finding the bundle that an upgrade names: in the worker's folder, or by its hash.

A worker stages by itself what L1's schedule names. It takes a bundle that lies in
its bundle directory; else it fetches one from where the order says, but only if
the order also says the SHA-256 of the file: whoever serves it is trusted in nothing.
"""

import asyncio
import fcntl
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp

from sealift.base import ChainId, Digest, Fingerprint, SealiftError
from sealift.bundle import MAX_BUNDLE_BYTES, parse_bundle, verify_bundle
from sealift.crypto import sha256
from sealift.protocol import Schedule, ScheduleEntry
from sealift.transport.bundle_folder import read_bundle_file
from sealift.transport.files import PUBLIC_MODE, make_folder, refuse_write, sync_folder
from sealift.transport.gramine import gramine_fingerprint

from ._config import WorkerConfig
from ._errors import BundleFetchError, BundleHashError
from ._instances import GRAMINE_SUFFIX, SUFFIX, Judged, code_of, judge_bundle

_PART_BYTES: Final = 1 << 16
#: Most seconds that a fetch takes, and that its server may say nothing.
_FETCH_SECONDS: Final = 1800.0
_SILENT_SECONDS: Final = 30.0
_MOST_REDIRECTS: Final = 3
#: Seconds between two tries to have a bundle: they double.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 300.0

_Seen = tuple[str, int, int]


class BundleFinder:
    """Has the bundles that a schedule names, from disk or from their source.

    Args:
        config: Where to look, and whether to fetch.
        http: What fetches.
        most: Most bytes of a bundle's file.
    """

    def __init__(
        self,
        config: WorkerConfig,
        http: aiohttp.ClientSession,
        *,
        most: int = MAX_BUNDLE_BYTES,
    ) -> None:
        self._config = config
        self._http = http
        self._most = most
        #: Codes of the files that were looked at, as they were then.
        self._known: dict[_Seen, Fingerprint | None] = {}
        self._pauses: dict[Fingerprint, tuple[float, float]] = {}
        #: Why there is no bundle of a code, by its name.
        self.troubles: dict[Fingerprint, str] = {}

    async def find(
        self, entry: ScheduleEntry, schedule: Schedule, chain_id: ChainId
    ) -> Judged | None:
        """The bundle of an entry; None where there is none (see :attr:`troubles`).

        A try that fails is followed by a pause, longer each time.

        Args:
            entry: Of the shard's schedule.
            schedule: The shard's.
            chain_id: The home's chain.
        """
        code = code_of(entry, self._config.platform)
        if code is None:
            return None
        now = asyncio.get_running_loop().time()
        if now < self._pauses.get(code, (0.0, 0.0))[1]:
            return None
        try:
            found = await self._find(code, entry, schedule, chain_id)
        except SealiftError as error:
            self.failed(code, error)
            return None
        self.troubles.pop(code, None)
        self._pauses.pop(code, None)
        if found is None:  # a file may come at any time: looking is cheap
            self._pauses[code] = (_FIRST_PAUSE, now + _FIRST_PAUSE)
        return found

    def failed(self, code: Fingerprint, error: SealiftError) -> None:
        """Note why a bundle is not staged; it is tried again after a pause."""
        now = asyncio.get_running_loop().time()
        pause, _ = self._pauses.get(code, (_FIRST_PAUSE, 0.0))
        self.troubles[code] = str(error)
        self._pauses[code] = (min(pause * 2, _LONGEST_PAUSE), now + pause)

    async def _find(
        self,
        code: Fingerprint,
        entry: ScheduleEntry,
        schedule: Schedule,
        chain_id: ChainId,
    ) -> Judged | None:
        """1. From the folder. 2. From its source. 3. Why neither."""
        refused: SealiftError | None = None
        for path in await asyncio.to_thread(lambda: list(self._of(code))):  # 1
            try:
                return await asyncio.to_thread(self._judged, path, schedule, chain_id)
            except SealiftError as error:
                refused = refused or error
        if not entry.source or self._config.platform != "insecure-sim":
            if refused is not None:
                raise refused
            return None
        if not self._config.fetch:
            raise BundleFetchError(
                f"the bundle of generation {entry.generation} is not here",
                got="[bundles] fetch = false",
                expected=f"its file in {self._config.bundles}",
                hint=f"Get it from {entry.source}, look at it, and put it there.",
            )
        if entry.bundle is None:
            raise BundleFetchError(
                f"generation {entry.generation}'s order names a source and no hash",
                got=entry.source,
                expected="the SHA-256 of the file beside it",
                hint=f"Get it yourself, compare MRENCLAVE, put it into "
                f"{self._config.bundles}.",
            )
        path = await fetch_bundle(  # 2
            self._http,
            entry.source,
            digest=entry.bundle,
            folder=self._config.bundles,
            most=self._most,
        )
        return await asyncio.to_thread(self._judged, path, schedule, chain_id)

    def _judged(self, path: Path, schedule: Schedule, chain_id: ChainId) -> Judged:
        platform = self._config.platform
        return judge_bundle(
            read_bundle_file(path),
            platform=platform,
            chain_id=chain_id,
            schedule=schedule,
            gramine=path.with_suffix(GRAMINE_SUFFIX)
            if platform == "gramine-sgx"
            else None,
        )

    def _of(self, code: Fingerprint) -> Iterator[Path]:
        """The files in the folder that hold this code."""
        for path in sorted(self._config.bundles.glob(f"*{SUFFIX}")):
            with suppress(OSError):
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):
                    continue
                seen = (path.name, found.st_mtime_ns, found.st_size)
                if seen not in self._known:
                    self._known[seen] = self._code_in(path)
                if self._known[seen] == code:
                    yield path

    def _code_in(self, path: Path) -> Fingerprint | None:
        try:
            if self._config.platform == "gramine-sgx":
                return gramine_fingerprint(path.with_suffix(GRAMINE_SUFFIX))
            return verify_bundle(parse_bundle(read_bundle_file(path))).fingerprint
        except SealiftError:  # it is nobody's bundle, and stays where it is
            return None


async def fetch_bundle(
    http: aiohttp.ClientSession,
    source: str,
    *,
    digest: Digest,
    folder: Path,
    most: int = MAX_BUNDLE_BYTES,
) -> Path:
    """Have a file by its hash, durable, whole or not at all.

    1. It is streamed to a file beside, not longer than a bundle can be. 2. What is
    on disk then is hashed. 3. Only what has the hash gets a bundle's name.

    Args:
        http: The client.
        source: ``http://``, ``https://`` or ``file://``.
        digest: SHA-256 of the file.
        folder: Where it is put.
        most: Most bytes.

    Returns:
        Its path.

    Raises:
        BundleFetchError: It cannot be had, is cut, or has no end.
        BundleHashError: It is another file.
        FileError: The disk does not take it; nothing is left of it.
    """
    target = folder / f"{digest.hex()}{SUFFIX}"
    make_folder(folder)
    with _scratch(target) as (descriptor, fresh):
        left = most
        async for part in _parts(http, source):  # 1
            left -= len(part)
            if left < 0:
                raise BundleFetchError(
                    f"{source} has no end",
                    got=f"> {most} B",
                    expected=f"≤ {most} B",
                    hint="Get the file from the shard's authority.",
                )
            try:
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError as error:
                refuse_write(error, target)
        try:
            os.fsync(descriptor)
        except OSError as error:
            refuse_write(error, target)
        got = sha256(await asyncio.to_thread(read_bundle_file, fresh))  # 2
        if got != digest:
            raise BundleHashError(
                f"{source} gives another file",
                got=got,
                expected=digest.hex(),
                hint="It was not kept. Ask the shard's authority for the right one.",
            )
        try:
            fresh.replace(target)  # 3
        except OSError as error:
            refuse_write(error, target)
    sync_folder(folder)
    return target


@contextmanager
def _scratch(target: Path) -> Iterator[tuple[int, Path]]:
    """A file beside the target, gone with the block unless it was renamed."""
    prefix, suffix = f".{target.name}.", ".new"
    _sweep(target.parent.glob(f"{prefix}*{suffix}"))
    try:
        descriptor, name = tempfile.mkstemp(
            prefix=prefix, suffix=suffix, dir=target.parent
        )
    except OSError as error:
        refuse_write(error, target)
    fresh = Path(name)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.fchmod(descriptor, PUBLIC_MODE)
        except OSError as error:
            refuse_write(error, target)
        yield descriptor, fresh
    finally:
        os.close(descriptor)
        with suppress(OSError):
            fresh.unlink()


def _sweep(left: Iterable[Path]) -> None:
    """Remove what fetches have left that were killed: nobody holds its lock."""
    for path in left:
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


async def _parts(http: aiohttp.ClientSession, source: str) -> AsyncIterator[bytes]:
    try:
        where = urlsplit(source)
    except ValueError as error:
        raise BundleFetchError(f"no address ({error})", got=source) from error
    if where.scheme == "file" and where.netloc in ("", "localhost"):
        for part in _file_parts(Path(unquote(where.path)), source):
            yield part
        return
    if where.scheme not in ("http", "https"):
        raise BundleFetchError(
            "no bundle is fetched from there",
            got=source,
            expected="http://, https:// or file://",
        )
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS, sock_read=_SILENT_SECONDS)
    try:
        async with http.get(
            source, timeout=timeout, max_redirects=_MOST_REDIRECTS
        ) as answer:
            if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                raise BundleFetchError(
                    f"{source} does not give the bundle",
                    got=f"HTTP {answer.status}",
                    hint="Put the file into the bundle directory yourself.",
                )
            async for part in answer.content.iter_chunked(_PART_BYTES):
                yield part
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise BundleFetchError(
            f"{source} cannot be read ({str(error) or type(error).__name__})",
            hint="Put the file into the bundle directory yourself.",
        ) from error


def _file_parts(path: Path, source: str) -> Iterator[bytes]:
    try:
        # Not blocking: what is no file could keep whoever opens it for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleFetchError(f"{source} is no file", got=str(path))
            while part := file.read(_PART_BYTES):
                yield part
    except (OSError, ValueError) as error:
        raise BundleFetchError(f"{source} cannot be read ({error})") from error
