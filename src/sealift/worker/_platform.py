"""The platform under a worker: starts the enclave, has its collateral."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from sealift.attestation import (
    Collateral,
    TrustAnchor,
    parse_collateral,
    verify_collateral,
)
from sealift.base import SealiftError, UnixSeconds, canonical_decode, encode
from sealift.crypto import system_entropy
from sealift.insecure_sim import (
    RunningEnclave,
    SimIntel,
    SimMachine,
    SimPlatform,
    SimStateError,
    StartOptions,
)
from sealift.protocol import CollateralRecord, collateral_key
from sealift.transport.bundle_folder import install_bundle, read_bundle_file
from sealift.transport.clock import Clock, unix_seconds
from sealift.transport.rpc import L1Client

from ._channel import GONE_HINT
from ._config import WorkerConfig
from ._errors import EnclaveGoneError, StalledError
from ._outbox import Outbox

#: Collateral on L1 that is older than this is renewed, in seconds.
_RENEW_SECONDS = 7 * 24 * 3600
#: The block time lags the wall clock: what we issue must not seem to come early.
_BACKDATE_SECONDS = 120


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


def seconds_left(
    known: CollateralRecord, *, root_der: bytes, now: UnixSeconds
) -> int | None:
    """Until collateral under a simulated root expires; ``None``: it does not hold."""
    anchor = TrustAnchor(root_der=root_der, kind="insecure-sim")
    try:
        collateral = canonical_decode(Collateral, known.collateral)
        verified = verify_collateral(collateral, root=anchor, now=now)
    except SealiftError:
        return None
    return verified.earliest_expiration - now


class _Issued(msgspec.Struct, frozen=True, kw_only=True):
    tcbEvaluationDataNumber: int  # noqa: N815 - Intel's name


class InsecureSim:
    """The insecure simulator, as one worker uses it. It protects nobody.

    Args:
        config: Which machine of which simulated Intel, which bundle.
        clock: For the issue date of simulated collateral.

    Raises:
        SimStateError: There is no such Intel or machine; none is made.
    """

    def __init__(self, config: WorkerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._log = config.home / "enclave.log"
        self._log_begins = 0
        self.machine = existing_machine(config.sim, config.machine)
        self.intel = self.machine.intel

    @asynccontextmanager
    async def enclave(self) -> AsyncIterator[RunningEnclave]:
        """Unpack the bundle, measure it, start it; killed when the block ends."""
        folder = await asyncio.to_thread(
            lambda: install_bundle(
                read_bundle_file(self._config.bundle), self._config.unpacked
            )
        )
        options = StartOptions(
            memory_limit=self._config.memory_limit,
            diagnostics=self._log,
        )
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        async with await SimPlatform(self.machine).start(folder, options) as running:
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

    async def collateral_seconds_left(self, l1: L1Client) -> int | None:
        """Until L1's collateral of this platform expires; ``None``: none holds."""
        entry = await l1.abci_query(collateral_key(self.intel.fmspc), prove=False)
        if entry.value is None:
            return None
        known = canonical_decode(CollateralRecord, entry.value)
        return seconds_left(
            known, root_der=self.intel.root_der, now=unix_seconds(self._clock)
        )

    async def ensure_collateral(self, outbox: Outbox, l1: L1Client) -> None:
        """Register this platform's collateral on L1 where L1's own is older.

        Raises:
            StalledError: L1 refused it, by name.
        """
        now = unix_seconds(self._clock)
        fresh = parse_collateral(
            self.intel.collateral_json(now=UnixSeconds(now - _BACKDATE_SECONDS))
        )
        number = msgspec.json.decode(fresh.tcb_info, type=_Issued)
        entry = await l1.abci_query(collateral_key(self.intel.fmspc), prove=False)
        if entry.value is not None:
            known = canonical_decode(CollateralRecord, entry.value)
            current = known.tcb_evaluation_number >= number.tcbEvaluationDataNumber
            if current and now - known.tcb_issued_at < _RENEW_SECONDS:
                return
        outcome = await outbox.act(
            "teerex.register_collateral", {"collateral": encode(fresh)}
        )
        # Another worker of the same platform family may have been faster.
        if outcome.code and "older" not in outcome.log.lower():
            raise StalledError("L1 refused the platform's collateral", got=outcome.log)
