"""The instances of a home: one folder for each code that was ever staged in it.

The code that ``[enclave] bundle`` names has the home itself, as it always had;
each other has ``instances/<fingerprint>/`` with a copy of its bundle, its sealed
keys and its database. Nothing here is ever removed: a rescue may name an old code
again, and its folder is all that it needs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from sealift.base import ChainId, Fingerprint, SealiftError
from sealift.bundle import parse_bundle, verify_bundle
from sealift.crypto import sha256
from sealift.protocol import EntryStatus, Schedule, ScheduleEntry
from sealift.protocol.ecall import ECALL_VERSIONS
from sealift.transport.bundle_folder import read_bundle_file
from sealift.transport.files import (
    PRIVATE_MODE,
    make_folder,
    read_json,
    refuse_write,
    write_durably,
)
from sealift.transport.gramine import gramine_fingerprint

from ._config import INSTANCES, Platform, WorkerConfig
from ._errors import (
    BundleChainError,
    BundleHashError,
    BundleNotScheduledError,
    BundleVersionError,
)
from ._store import WorkerStore

BUNDLE_FILE: Final = "app.bundle"
#: What a bundle's file ends in, and beside it under Gramine the signed folder.
SUFFIX: Final = ".bundle"
GRAMINE_SUFFIX: Final = ".gramine"
_ABOUT_FILE: Final = "instance.json"
_FOLDER_MODE: Final = 0o700
_NAME: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TO_RUN: Final = frozenset({EntryStatus.PENDING, EntryStatus.ACTIVE})
#: In an instance's database: for which generation it has handed the shard over.
HANDED_OVER: Final = "handed_over"


class _About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gramine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A bundle that may be staged here."""

    fingerprint: Fingerprint
    version: str
    data: bytes
    gramine: Path | None = None


def code_of(entry: ScheduleEntry, platform: Platform) -> Fingerprint | None:
    """The code of a generation on a platform."""
    return entry.config.code.get(platform)


def judge_bundle(
    data: bytes,
    *,
    platform: Platform,
    chain_id: ChainId,
    schedule: Schedule | None,
    gramine: Path | None = None,
) -> Judged:
    """Whether a bundle may be staged in a home.

    1. It is a bundle, signed for its content. 2. It and this host speak a version
    of the ECALL table. 3. It was built for the home's chain. 4. The schedule names
    its code for this platform, running or to run. 5. Its file is the one whose
    hash stands there.

    Args:
        data: The bundle's file.
        platform: What it would run on.
        chain_id: The home's chain.
        schedule: The shard's; ``None`` where it is not known: 4 and 5 are owed.
        gramine: Under Gramine: the folder that was signed.

    Raises:
        BundleFormatError, SigstructError: 1.
        BundleVersionError: 2.
        BundleChainError: 3.
        BundleNotScheduledError: 4.
        BundleHashError: 5.
    """
    bundle = parse_bundle(data)
    verified = verify_bundle(bundle)  # 1
    manifest = bundle.manifest
    low, high = manifest.ecall_versions  # 2
    oldest, newest = ECALL_VERSIONS
    if high < oldest or low > newest:
        raise BundleVersionError(
            f"{manifest.name} {manifest.version} speaks another ECALL table",
            got=f"versions {low} to {high}",
            expected=f"one of {oldest} to {newest}",
            hint="Run it with the release that it was built for.",
        )
    built_for, _, _ = manifest.l1.values()  # 3
    if built_for != chain_id:
        raise BundleChainError(
            f"{manifest.name} {manifest.version} was built for another chain",
            got=built_for,
            expected=chain_id,
            hint="Build it with the trust root of this chain.",
        )
    code = verified.fingerprint if gramine is None else gramine_fingerprint(gramine)
    if schedule is not None:
        entry = _named(schedule, code, platform)  # 4
        digest = sha256(data)
        if entry.bundle is not None and entry.bundle != digest:  # 5
            raise BundleHashError(
                f"generation {entry.generation} runs another file of this code",
                got=digest,
                expected=entry.bundle.hex(),
                hint="Its content is the same, its signature is not. Get the file "
                "that the order names.",
            )
    return Judged(
        fingerprint=code, version=manifest.version, data=data, gramine=gramine
    )


def _named(schedule: Schedule, code: Fingerprint, platform: Platform) -> ScheduleEntry:
    named = [one for one in schedule.entries if one.status in _TO_RUN]
    for entry in reversed(named):
        if code_of(entry, platform) == code:
            return entry
    words = [
        f"generation {entry.generation} {mine.hex()}"
        for entry in named
        if (mine := code_of(entry, platform)) is not None
    ]
    raise BundleNotScheduledError(
        f"the schedule does not name this code for {platform}",
        got=code,
        expected="; ".join(words) or f"no code for {platform}",
        hint="Wait for the order, or get the bundle that it names.",
    )


def home_fingerprint(config: WorkerConfig) -> Fingerprint:
    """The code that the home's own ``[enclave] bundle`` names.

    Raises:
        SealiftError: The bundle, or the signed folder, cannot be read.
    """
    if config.platform == "gramine-sgx":
        return gramine_fingerprint(config.gramine)
    return verify_bundle(parse_bundle(read_bundle_file(config.bundle))).fingerprint


def home_chain(config: WorkerConfig) -> ChainId:
    """The chain of a home: that which its own bundle was built for.

    Raises:
        SealiftError: The bundle cannot be read.
    """
    manifest = parse_bundle(read_bundle_file(config.bundle)).manifest
    return manifest.l1.values()[0]


def put_bundle(config: WorkerConfig, judged: Judged) -> Path:
    """Put a bundle into a home's bundle directory, durably; its path.

    Raises:
        FileError: It cannot be written.
    """
    path = config.bundles / f"{judged.fingerprint.hex()}{SUFFIX}"
    make_folder(config.bundles)
    beside = path.with_suffix(GRAMINE_SUFFIX)
    if judged.gramine is not None and not beside.is_symlink():
        try:
            beside.symlink_to(judged.gramine)
        except OSError as error:
            refuse_write(error, beside)
    write_durably(path, judged.data)
    return path


def instance_config(config: WorkerConfig, fingerprint: Fingerprint) -> WorkerConfig:
    """How an instance runs that was staged in a home.

    Raises:
        UnreadableFileError: What is noted about it cannot be read; it is kept.
    """
    name = fingerprint.hex()
    folder = config.home / INSTANCES / name
    about = _About()
    if (folder / _ABOUT_FILE).exists():
        about = read_json(
            folder / _ABOUT_FILE, _About, what=f"the note about instance {name}"
        )
    return replace(
        config,
        instance=name,
        bundle=folder / BUNDLE_FILE,
        gramine=Path(about.gramine) if about.gramine else config.gramine,
        genesis=None,  # never born here: its state comes from the one before
        upstream="",
    )


def staged_instances(config: WorkerConfig) -> Iterator[Fingerprint]:
    """The codes that were staged in a home, sorted."""
    folder = config.home / INSTANCES
    for path in sorted(folder.glob("*")):
        if _NAME.fullmatch(path.name) and (path / BUNDLE_FILE).is_file():
            yield Fingerprint(bytes.fromhex(path.name))


def install_instance(config: WorkerConfig, judged: Judged) -> WorkerConfig:
    """Make an instance's folder, whole or not at all; what is there is kept.

    Raises:
        DiskFullError: There is no room; nothing counts as staged.
        FileError: It cannot be written.
    """
    folder = config.home / INSTANCES / judged.fingerprint.hex()
    if not (folder / BUNDLE_FILE).exists():
        make_folder(folder, mode=_FOLDER_MODE)
        if judged.gramine is not None:
            about = _About(gramine=str(judged.gramine))
            raw = msgspec.json.encode(about)
            write_durably(folder / _ABOUT_FILE, raw, mode=PRIVATE_MODE)
        write_durably(folder / BUNDLE_FILE, judged.data, mode=PRIVATE_MODE)  # last
    return instance_config(config, judged.fingerprint)


def open_archive(config: WorkerConfig, fingerprint: Fingerprint) -> list[WorkerStore]:
    """What an instance that does not run has on disk, of all of its lives.

    One that cannot be opened is left as it is, and left out.
    """
    found = []
    folders = [config.base, *sorted((config.base / "lives").glob("*"))]
    for folder in folders:
        path = folder / "worker.db"
        if path.is_file():
            try:
                store = WorkerStore(path, shard=config.shard, fingerprint=fingerprint)
            except SealiftError:
                continue
            found.append(store)
    return found
