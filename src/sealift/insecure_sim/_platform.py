"""Starting an enclave process, and being its CPU.

The process gets two descriptors and nothing else: one end of the host channel,
one end of the platform channel. The platform answers only on the other end of
the latter, so whoever was not started here from a measured folder has nobody
to ask.
"""

import asyncio
import contextlib
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from sealift.base import (
    FrameReader,
    SealiftError,
    encode,
    frame,
)
from sealift.bundle import VerifiedBundle
from sealift.crypto import sha256
from sealift.protocol.ecall import MAX_FRAME_BYTES
from sealift.protocol.platform import (
    MAX_PLATFORM_FRAME_BYTES,
    SEAL_TO_MRENCLAVE,
    IdentityReply,
    IdentityRequest,
    PlatformRefusal,
    PlatformReply,
    QuoteReply,
    QuoteRequest,
    SealKeyReply,
    SealKeyRequest,
    parse_platform_request,
)
from sealift.transport.build import running_target
from sealift.transport.bundle_folder import verify_folder
from sealift.transport.enclave_process import RunningEnclave, spawn

from ._errors import EgetkeyError, TargetMismatchError
from ._machine import SimIdentity, SimMachine

PLATFORM_KIND = "insecure-sim"
_NO_PYCACHE = "no-pycache"
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """How an enclave process is started; none of it changes what it checks.

    ``memory_limit`` is the most bytes of address space (0: no limit),
    ``frame_limit`` the most bytes of one reply, ``diagnostics`` a file that
    gets what the process writes to stderr (default: nobody).
    """

    memory_limit: int = 0
    frame_limit: int = MAX_FRAME_BYTES
    diagnostics: Path | None = None


class SimPlatform:
    """Starts enclaves on one simulated machine.

    Args:
        machine: Its CPU.
        python: The interpreter; it must fit the bundles' target.
    """

    kind = PLATFORM_KIND

    def __init__(self, machine: SimMachine, *, python: str = sys.executable) -> None:
        self.machine = machine
        self._python = python

    async def start(
        self, folder: Path, options: StartOptions | None = None
    ) -> RunningEnclave:
        """Measure an unpacked bundle, EINIT, and run it from its folder alone.

        1. Every file of the folder is read; what is there is exactly a bundle
           whose SIGSTRUCT names its measurement.
        2. The bundle's target fits this interpreter.
        3. EINIT.
        4. ``boot.py`` starts isolated, with two descriptors, no environment.

        Raises:
            BundleFormatError, FolderDiffersError, SigstructError,
            BundleFolderError: Step 1.
            TargetMismatchError: Step 2.
            EinitError: Step 3.
            EnclaveDiedError: No process can be started.
        """
        options = options or StartOptions()
        folder = await asyncio.to_thread(folder.resolve)
        bundle = await asyncio.to_thread(verify_folder, folder)  # 1
        target = bundle.bundle.manifest.target
        if target != running_target():  # 2
            raise TargetMismatchError(
                "bundle is built for another target",
                got=target,
                expected=running_target(),
                hint="Build it again, or run it under that Python.",
            )
        signed = bundle.bundle.sigstruct or b""
        identity = self.machine.einit(bundle.measurement, signed)  # 3
        return await self._spawn(folder, bundle, identity, options)  # 4

    async def _spawn(
        self,
        folder: Path,
        bundle: VerifiedBundle,
        identity: SimIdentity,
        options: StartOptions,
    ) -> RunningEnclave:
        host, child_host = socket.socketpair()
        own, child_platform = socket.socketpair()
        own.settimeout(0)
        descriptors = (child_host.fileno(), child_platform.fileno())
        command = [
            self._python, "-I", "-S", "-B",
            "-X", f"pycache_prefix={folder / _NO_PYCACHE}", "-u",
            str(folder / "boot.py"),
            *(str(number) for number in (*descriptors, options.memory_limit)),
        ]  # fmt: skip
        with contextlib.ExitStack() as spared, contextlib.ExitStack() as inherited:
            spared.callback(own.close)
            inherited.callback(child_host.close)
            inherited.callback(child_platform.close)
            streams = await asyncio.open_connection(sock=host)
            spared.callback(streams[1].close)
            stderr = None
            if options.diagnostics is not None:
                stderr = inherited.enter_context(
                    options.diagnostics.open("ab")
                ).fileno()
            process = spawn(command, descriptors, folder, stderr)
            spared.pop_all()
        return RunningEnclave(
            bundle=bundle,
            process=process,
            host=streams,
            platform_task=asyncio.create_task(self._serve(own, identity)),
            frame_limit=options.frame_limit,
        )

    async def _serve(self, own: socket.socket, identity: SimIdentity) -> None:
        loop = asyncio.get_running_loop()
        reader = FrameReader(limit=MAX_PLATFORM_FRAME_BYTES)
        with contextlib.closing(own), contextlib.suppress(OSError, SealiftError):
            while data := await loop.sock_recv(own, _READ_BYTES):
                for request in reader.feed(data):
                    reply = encode(self.answer(identity, request))
                    await loop.sock_sendall(own, frame(reply))

    def answer(self, identity: SimIdentity, payload: bytes) -> PlatformReply:
        """The reply to one platform request of this enclave; never raises ours."""
        try:
            request = parse_platform_request(payload)
            if isinstance(request, IdentityRequest):
                return self._identify(identity)
            if isinstance(request, QuoteRequest):
                quote = self.machine.quote(identity, request.report_data)
                return QuoteReply(quote=quote)
            return self._seal_key(identity, request)
        except SealiftError as error:
            return PlatformRefusal(code=error.code, message=str(error)[:1000])

    def _identify(self, identity: SimIdentity) -> IdentityReply:
        return IdentityReply(
            kind=PLATFORM_KIND,
            mrenclave=identity.mrenclave,
            mrsigner=identity.mrsigner,
            isv_prod_id=identity.isv_prod_id,
            isv_svn=identity.isv_svn,
            cpu_svn=self.machine.cpu_svn,
        )

    def _seal_key(self, identity: SimIdentity, request: SealKeyRequest) -> SealKeyReply:
        if request.policy != SEAL_TO_MRENCLAVE:
            raise EgetkeyError(
                "sealing policy is not offered",
                got=request.policy,
                expected=SEAL_TO_MRENCLAVE,
            )
        got = self.machine.egetkey(
            identity,
            policy=request.policy,
            key_id=sha256(request.label),
            isv_svn=request.isv_svn,
            cpu_svn=request.cpu_svn,
        )
        return SealKeyReply(key=got.key, cpu_svn=got.cpu_svn, isv_svn=got.isv_svn)
