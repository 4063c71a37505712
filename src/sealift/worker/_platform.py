"""The platform under a worker: starts the enclave, has its collateral."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from sealift.attestation import parse_collateral
from sealift.base import UnixSeconds, canonical_decode, encode
from sealift.crypto import system_entropy
from sealift.insecure_sim import (
    RunningEnclave,
    SimIntel,
    SimMachine,
    SimPlatform,
    StartOptions,
)
from sealift.protocol import CollateralRecord, collateral_key
from sealift.transport.bundle_folder import install_bundle, read_bundle_file
from sealift.transport.clock import Clock, unix_seconds
from sealift.transport.rpc import L1Client

from ._config import WorkerConfig
from ._errors import StalledError
from ._outbox import Outbox

#: Collateral on L1 that is older than this is renewed, in seconds.
_RENEW_SECONDS = 7 * 24 * 3600
#: The block time lags the wall clock: what we issue must not seem to come early.
_BACKDATE_SECONDS = 120


class _Issued(msgspec.Struct, frozen=True, kw_only=True):
    tcbEvaluationDataNumber: int  # noqa: N815 - Intel's name


class InsecureSim:
    """The insecure simulator, as one worker uses it. It protects nobody.

    Args:
        config: Which machine of which simulated Intel, which bundle.
        clock: For the issue date of simulated collateral.
    """

    def __init__(self, config: WorkerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.intel = SimIntel(config.sim)
        self.machine = SimMachine(self.intel, config.machine, entropy=system_entropy)

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
            diagnostics=self._config.home / "enclave.log",
        )
        async with await SimPlatform(self.machine).start(folder, options) as running:
            yield running

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
