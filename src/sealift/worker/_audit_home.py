"""An audit from a worker's home: its sealed keys, bundles on disk, processes.

The running worker is not disturbed: only a copy of its sealed key store is read, and
everything that is unpacked or logged lies in a folder of the audit's own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sealift.base import (
    Bytes32,
    Fingerprint,
    Generation,
    Height,
    SealiftError,
    encode,
)
from sealift.bundle import VerifiedBundle, parse_bundle, verify_bundle
from sealift.protocol import NoGenerationError, Schedule
from sealift.protocol.ecall import HelloReply, Start, Started
from sealift.transport.account import L1Account
from sealift.transport.bundle_folder import read_bundle_file, verify_folder
from sealift.transport.files import read_or_explain
from sealift.transport.gramine import BUNDLE_FOLDER, gramine_fingerprint
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import Backoff, L1Client, system_jitter

from ._audit import AUDIT_VERSION, Audit, AuditReport
from ._channel import EnclaveChannel
from ._config import WorkerConfig
from ._errors import (
    AuditBundleMissingError,
    AuditBundleTooOldError,
    AuditKeysError,
    EnclaveRefusedError,
    WrongChainError,
)
from ._gramine import GramineSgxHost
from ._instances import instance_config, staged_instances
from ._l1 import L1View
from ._lives import KEY_STORE_LEVEL, lives
from ._outlook import running_instance
from ._platform import EnclaveHost, InsecureSim

_SUFFIX: Final = ".bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfBundle:
    """A bundle at hand, and how it is started here.

    ``gramine`` is the folder that was signed for it, where that is the platform.
    """

    path: Path
    bundle: VerifiedBundle
    gramine: Path | None


class Shelf:
    """Bundles at hand, by the MRENCLAVE that they have on the home's platform.

    Args:
        config: The home; its own bundle is at hand, and those staged in it.
        files: Bundles; each must be one.
        folders: Of these, every ``*.bundle`` that is one.
        gramine: Under Gramine, folders that were signed, each of one bundle.

    Raises:
        BundleFolderError: A file cannot be read.
        BundleFormatError: A file is no bundle.
        SigstructError: It is not signed for its content.
        GramineFolderError: A folder was not signed.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        files: Iterable[Path] = (),
        folders: Iterable[Path] = (),
        gramine: Iterable[Path] = (),
    ) -> None:
        self._config = config
        here = list(_codes(config))
        found = [_shelved(path) for path in (*(one.bundle for one in here), *files)]
        for folder in folders:
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                try:
                    found.append(_shelved(path))
                except SealiftError:
                    continue  # a draft, or of something else
        if config.platform == "gramine-sgx":
            folders = (*(one.gramine for one in here), *gramine)
            signed = {_fingerprint_in(one): one for one in folders}
            self._at_hand = {
                gramine_fingerprint(signed[one.bundle.fingerprint]): replace(
                    one, gramine=signed[one.bundle.fingerprint]
                )
                for one in found
                if one.bundle.fingerprint in signed
            }
        else:
            self._at_hand = {one.bundle.fingerprint: one for one in found}

    def find(
        self, fingerprint: Fingerprint, generation: Generation, schedule: Schedule
    ) -> ShelfBundle:
        """The bundle of a generation, if its enclaves can be audited.

        Raises:
            AuditBundleMissingError: It is not at hand; says where it may be had.
            AuditBundleTooOldError: Its release knows of no audits.
        """
        one = self._at_hand.get(fingerprint)
        if one is None:
            raise AuditBundleMissingError(
                f"the bundle of generation {generation} is not at hand",
                got=f"{len(self._at_hand)} others",
                expected=f"MRENCLAVE {fingerprint.hex()}"
                f"{_source(schedule, generation)}",
                hint="Name it with --bundle FILE, or its folder with --bundles.",
            )
        low, high = one.bundle.bundle.manifest.ecall_versions
        if high < AUDIT_VERSION:
            raise _too_old(f"generation {generation}", f"{low} … {high}")
        return one

    def host(self, one: ShelfBundle, folder: Path) -> EnclaveHost:
        """Starts it on the home's platform; unpacked and logged in ``folder``."""
        config = replace(self._config, home=folder, bundle=one.path)
        if one.gramine is not None:
            config = replace(config, gramine=one.gramine)
        return host_of(config)


def host_of(config: WorkerConfig) -> EnclaveHost:
    """The platform of a home."""
    if config.platform == "gramine-sgx":
        return GramineSgxHost(config)
    return InsecureSim(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfAuditees:
    """Former code, started from a shelf, one process for each range."""

    shelf: Shelf
    folder: Path

    @asynccontextmanager
    async def start(
        self, fingerprint: Fingerprint, generation: Generation, schedule: Schedule
    ) -> AsyncIterator[EnclaveChannel]:
        """See :class:`sealift.worker._audit.Auditees`."""
        one = await asyncio.to_thread(
            self.shelf.find, fingerprint, generation, schedule
        )
        async with self.shelf.host(one, self.folder).enclave() as running:
            channel = EnclaveChannel(running)
            _check_version(f"generation {generation}", await channel.hello())
            yield channel


async def audit_home(
    config: WorkerConfig,
    shelf: Shelf,
    *,
    genesis: bytes,
    payer: Path,
    progress: Callable[[AuditReport], None],
) -> AuditReport:
    """Audit the shard of a worker's home, from genesis.

    1. The node follows the bundle's chain. 2. The home, or the instance in it whose
    code L1 says runs now, has a sealed key store that the platform opens; the newest
    such. 3. :meth:`Audit.run`; its challenge is brought to L1 by a transfer of one
    token to it, as to an account.

    Args:
        config: The home, of the version that runs now; a worker may be running.
        shelf: Where former code is.
        genesis: The shard's blob.
        payer: The key file of the account that pays for the challenge.
        progress: Told after every audited block.

    Raises:
        WrongChainError: 1.
        AuditKeysError: 2.
        AuditBundleTooOldError: The home's own bundle knows of no audits.
        SealiftError: 3.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sealift-audit-")))
        l1 = await stack.enter_async_context(
            L1Client(config.l1.rpc, backoff=Backoff(jitter=system_jitter))
        )
        view = L1View(l1)
        config = await running_instance(config, l1)
        host = host_of(replace(config, home=folder, instance=""))
        running = await stack.enter_async_context(host.enclave())
        channel = EnclaveChannel(running)
        _check_version("this home", await channel.hello())
        chain_id, trust, _ = running.manifest.l1.values()
        # 1.
        network = (await l1.status()).node_info.network
        if network != chain_id:
            raise WrongChainError(
                f"the L1 node at {l1.url} follows another chain",
                got=network,
                expected=chain_id,
                hint="Correct [l1] rpc, or use the bundle of that chain.",
            )
        # 2.
        started = await _start(channel, config, light=await _light(view, trust))
        account = L1Account(read_account_key(payer), l1, chain_id)

        async def announce(challenge: Bytes32) -> Height:
            sent = await account.send(
                "balances.transfer", {"dest": challenge, "amount": 1}
            )
            return (await account.wait(sent)).height

        # 3.
        audit = Audit(
            auditor=channel,
            head=started.head,
            signing_key=started.signing_key,
            l1=view,
            shard=config.shard,
            auditees=ShelfAuditees(shelf=shelf, folder=folder),
            announce=announce,
            progress=progress,
        )
        return await audit.run(genesis)


def _codes(config: WorkerConfig) -> Iterator[WorkerConfig]:
    """The home's own code, then those that were staged in it."""
    yield config
    for code in staged_instances(config):
        yield instance_config(config, code)


async def _light(view: L1View, height: Height) -> bytes:
    return encode(await view.light_block(height))


async def _start(
    channel: EnclaveChannel, config: WorkerConfig, *, light: bytes
) -> Started:
    """Start from the newest key store that opens; nothing is written back."""
    refused: EnclaveRefusedError | None = None
    for one in lives(config):
        if not one.key_store.exists():
            continue
        sealed = await asyncio.to_thread(
            read_or_explain, one.key_store, what="the sealed key store"
        )
        request = Start(
            shard=config.shard, key_store=sealed, checkpoint=None, light_block=light
        )
        try:
            return await channel.call(request, Started)
        except EnclaveRefusedError as error:
            if error.refused != KEY_STORE_LEVEL:
                raise
            refused = refused or error
    raise AuditKeysError(
        f"no sealed keys in {config.home} open here",
        got="none there" if refused is None else str(refused),
        expected="the home of a worker that has the shard's keys, on its machine",
    )


def _check_version(whose: str, hello: HelloReply) -> None:
    if hello.version < AUDIT_VERSION:
        raise _too_old(whose, str(hello.version))


def _too_old(whose: str, versions: str) -> AuditBundleTooOldError:
    return AuditBundleTooOldError(
        f"the bundle of {whose} is of a release that knows of no audits",
        got=f"version {versions} of the ECALL table",
        expected=f"≥ {AUDIT_VERSION}",
        hint="Of its range only roots and handovers can be verified: "
        "`sealift evidence verify`.",
    )


def _shelved(path: Path) -> ShelfBundle:
    bundle = verify_bundle(parse_bundle(read_bundle_file(path)))
    return ShelfBundle(path=path, bundle=bundle, gramine=None)


def _fingerprint_in(folder: Path) -> Fingerprint:
    """MRENCLAVE, as the simulator has it, of the bundle in a folder for Gramine."""
    return verify_folder(folder / BUNDLE_FOLDER).fingerprint


def _source(schedule: Schedule, generation: Generation) -> str:
    """What the order that scheduled a generation says of its bundle."""
    try:
        entry = schedule.entry(generation)
    except NoGenerationError:
        return ""
    said = "" if entry.bundle is None else f", SHA-256 {entry.bundle.hex()}"
    return f"{said}, from {entry.source}" if entry.source else said
