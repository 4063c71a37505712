"""Starting an enclave under Gramine: a folder that was signed, the standard streams.

Gramine hands on descriptors 0, 1 and 2 alone, so frames go over stdin and stdout.
There is no platform to be: the enclave asks Gramine's own files.
"""

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from sealift.bundle import VerifiedBundle, measure, parse_bundle
from sealift.protocol.ecall import MAX_FRAME_BYTES
from sealift.transport.bundle_folder import read_bundle_file, verify_folder
from sealift.transport.enclave_process import RunningEnclave, spawn
from sealift.transport.gramine import (
    BUNDLE_FOLDER,
    ENCLAVE_NAME,
    GramineFolderError,
    read_gramine_sigstruct,
)

from ._config import WorkerConfig
from ._errors import WorkerError
from ._platform import EnclaveHost

#: The program, as Gramine installs it.
GRAMINE_SGX: Final = "gramine-sgx"


class GramineMissingError(WorkerError):
    """There is no Gramine on this machine."""


class GramineSgxHost(EnclaveHost):
    """Gramine on this machine, as one worker uses it.

    Args:
        config: Which signed folder, which bundle.

    Raises:
        GramineMissingError: Gramine is not installed.
    """

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        found = shutil.which(GRAMINE_SGX)
        if found is None:
            raise GramineMissingError(
                "Gramine is not installed here",
                got=f"no {GRAMINE_SGX} on PATH",
                expected="Gramine with SGX, or the container of deploy/gramine",
                hint="docs/real-hardware.md has the steps.",
            )
        self._program = str(Path(found).resolve())

    async def _start(self, log: Path) -> RunningEnclave:
        """Start what was signed, if it is this worker's bundle.

        1. The folder is signed. 2. Its bundle is unchanged, and is the worker's.
        3. ``gramine-sgx`` starts with two pipes. What runs then is what Gramine
           measures: these checks only tell an operator's mistakes early.

        Raises:
            GramineFolderError: Steps 1, 2.
            EnclaveDiedError: Step 3.
        """
        folder = await asyncio.to_thread(self._config.gramine.resolve)
        await asyncio.to_thread(read_gramine_sigstruct, folder)  # 1
        bundle = await asyncio.to_thread(self._verified, folder)  # 2
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as own, contextlib.ExitStack() as inherited:
            stdin, to_enclave = os.pipe()  # 3
            inherited.callback(os.close, stdin)
            writing = own.enter_context(os.fdopen(to_enclave, "wb", buffering=0))
            from_enclave, stdout = os.pipe()
            inherited.callback(os.close, stdout)
            reading = own.enter_context(os.fdopen(from_enclave, "rb", buffering=0))
            errors = inherited.enter_context(log.open("ab"))
            process = spawn(
                [self._program, ENCLAVE_NAME],
                (),
                folder,
                errors.fileno(),
                streams=(stdin, stdout),
            )
            reader = asyncio.StreamReader()
            replies, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), reading
            )
            transport, protocol = await loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), writing
            )
            own.pop_all()
        return RunningEnclave(
            bundle=bundle,
            process=process,
            host=(reader, asyncio.StreamWriter(transport, protocol, None, loop)),
            frame_limit=MAX_FRAME_BYTES,
            reading=replies,
        )

    def _verified(self, folder: Path) -> VerifiedBundle:
        found = verify_folder(folder / BUNDLE_FOLDER)
        wanted = measure(parse_bundle(read_bundle_file(self._config.bundle)).files)
        if found.measurement != wanted:
            raise GramineFolderError(
                f"{folder} was made for another bundle",
                got=found.measurement.mrenclave,
                expected=wanted.mrenclave.hex(),
                hint="`sealift gramine manifest` makes one anew.",
            )
        return found
