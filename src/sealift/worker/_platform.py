"""The platform under a worker: it starts the enclave, and says how it ended."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from sealift.crypto import system_entropy
from sealift.insecure_sim import (
    SimIntel,
    SimMachine,
    SimPlatform,
    SimStateError,
    StartOptions,
)
from sealift.transport.bundle_folder import install_bundle, read_bundle_file
from sealift.transport.enclave_process import RunningEnclave

from ._channel import GONE_HINT
from ._config import WorkerConfig
from ._errors import EnclaveGoneError

#: A process whose channel broke is seen to have ended within this time.
_REAPING_SECONDS = 1.0


def existing_machine(folder: Path, name: str) -> SimMachine:
    """A simulated machine that was made before.

    A new one in its place would have other fuses: what was sealed on the right one
    would seem lost.

    Raises:
        SimStateError: There is no such Intel or machine; none is made.
    """
    if not (folder / "intel.json").is_file():
        raise SimStateError(
            "no simulated Intel is here",
            got=str(folder),
            expected="the folder of one",
            hint="Correct the path; `sealift insecure-sim init` makes one.",
        )
    intel = SimIntel(folder)
    known = intel.machines()
    if name not in known:
        raise SimStateError(
            "no such simulated machine",
            got=name,
            expected=f"one of {', '.join(known) or 'none'}",
            hint="Correct the name; `sealift insecure-sim platform` makes one.",
        )
    return SimMachine(intel, name, entropy=system_entropy)


class EnclaveHost(ABC):
    """Starts a worker's enclave on some platform, and watches it.

    Args:
        config: The worker's home.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._log = config.base / "enclave.log"
        self._log_begins = 0

    @abstractmethod
    async def _start(self, log: Path) -> RunningEnclave:
        """Start it; what it writes to stderr goes to a file."""

    @asynccontextmanager
    async def enclave(self) -> AsyncIterator[RunningEnclave]:
        """Unpack the bundle, start it; killed when the block ends."""
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        async with await self._start(self._log) as running:
            try:
                yield running
            except EnclaveGoneError as error:
                raise await self._explained(error, running) from error

    async def watch(self, running: RunningEnclave) -> NoReturn:
        """Notice the end of the enclave process, also while nobody asks it.

        Raises:
            EnclaveGoneError: It has ended.
        """
        code = await running.wait()
        raise self.gone(code)

    async def _explained(
        self, error: EnclaveGoneError, running: RunningEnclave
    ) -> EnclaveGoneError:
        """Why the channel broke: the process's end, if it has ended."""
        try:
            async with asyncio.timeout(_REAPING_SECONDS):
                return self.gone(await running.wait())
        except TimeoutError:  # it runs, and talks nonsense or refuses for good
            return error

    def gone(self, code: int) -> EnclaveGoneError:
        """The end of the enclave process, in its own last words."""
        got = f"exit code {code}" if code >= 0 else f"signal {-code}"
        last = self._last_words()
        limit = self._config.memory_limit // (1024 * 1024)
        starved = limit and "MemoryError" in last
        return EnclaveGoneError(
            "the enclave process has ended",
            got=f"{got}{', ' if last else ''}{last}",
            hint=(
                f"memory_limit is {limit} MiB: raise it under [enclave]."
                if starved
                else GONE_HINT
            ),
        )

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as log:
                log.seek(max(self._log_begins, self._log.stat().st_size - 4096))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class InsecureSim(EnclaveHost):
    """The insecure simulator, as one worker uses it. It protects nobody.

    Args:
        config: Which machine of which simulated Intel, which bundle.

    Raises:
        SimStateError: There is no such Intel or machine; none is made.
    """

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        self.machine = existing_machine(config.sim, config.machine)
        self.intel = self.machine.intel

    async def _start(self, log: Path) -> RunningEnclave:
        folder = await asyncio.to_thread(
            lambda: install_bundle(
                read_bundle_file(self._config.bundle), self._config.unpacked
            )
        )
        options = StartOptions(memory_limit=self._config.memory_limit, diagnostics=log)
        return await SimPlatform(self.machine).start(folder, options)
