"""The worker: an untrusted host service that runs an enclave.

It feeds the enclave L1's blocks, keeps what the enclave seals, speaks for it
on L1, carries mu-ra and serves users. It is trusted for availability only.
"""

from ._collateral import seconds_left
from ._config import (
    CONFIG_FILE,
    GRAMINE_TEMPLATE,
    TEMPLATE,
    Platform,
    WorkerConfig,
    load_config,
)
from ._errors import (
    CarryOffError,
    CarryRateError,
    CarryReserveError,
    ConfigError,
    CrowdedError,
    CrowdOfPeerError,
    EnclaveGoneError,
    EnclaveRefusedError,
    EnvelopeSizeError,
    KeyStoreMissingError,
    NoSnapshotError,
    SealingKeyChangedError,
    SessionSilentError,
    SessionsOfPeerError,
    SnapshotDamagedError,
    SnapshotManifestError,
    SnapshotNotKeptError,
    SnapshotTooSoonError,
    StalledError,
    StoreError,
    StoreMismatchError,
    UpstreamBusyError,
    UpstreamError,
    WorkerError,
    WrongChainError,
)
from ._forecast import Risk, collateral_risk, forecast
from ._gramine import GramineMissingError
from ._platform import existing_machine
from ._run import Ready, open_worker, request_keys_once, run_worker
from ._store import WorkerStore
from ._witnesses import few_witnesses

__all__ = [
    "CONFIG_FILE",
    "GRAMINE_TEMPLATE",
    "TEMPLATE",
    "CarryOffError",
    "CarryRateError",
    "CarryReserveError",
    "ConfigError",
    "CrowdOfPeerError",
    "CrowdedError",
    "EnclaveGoneError",
    "EnclaveRefusedError",
    "EnvelopeSizeError",
    "GramineMissingError",
    "KeyStoreMissingError",
    "NoSnapshotError",
    "Platform",
    "Ready",
    "Risk",
    "SealingKeyChangedError",
    "SessionSilentError",
    "SessionsOfPeerError",
    "SnapshotDamagedError",
    "SnapshotManifestError",
    "SnapshotNotKeptError",
    "SnapshotTooSoonError",
    "StalledError",
    "StoreError",
    "StoreMismatchError",
    "UpstreamBusyError",
    "UpstreamError",
    "WorkerConfig",
    "WorkerError",
    "WorkerStore",
    "WrongChainError",
    "collateral_risk",
    "existing_machine",
    "few_witnesses",
    "forecast",
    "load_config",
    "open_worker",
    "request_keys_once",
    "run_worker",
    "seconds_left",
]
