"""The worker: an untrusted host service that runs an enclave.

It feeds the enclave L1's blocks, keeps what the enclave seals, speaks for it
on L1, carries mu-ra and serves users. It is trusted for availability only.
"""

from ._archive import (
    FetchProgress,
    ListedSnapshot,
    check_snapshot,
    copy_snapshot,
    create_snapshot,
    fetch_snapshot,
    list_snapshots,
    prune_snapshots,
    verify_snapshot,
)
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
from ._join import JoinProgress, join
from ._platform import existing_machine
from ._run import Ready, open_worker, request_keys_once, run_worker
from ._snapshots import Manifest
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
    "FetchProgress",
    "GramineMissingError",
    "JoinProgress",
    "KeyStoreMissingError",
    "ListedSnapshot",
    "Manifest",
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
    "check_snapshot",
    "collateral_risk",
    "copy_snapshot",
    "create_snapshot",
    "existing_machine",
    "fetch_snapshot",
    "few_witnesses",
    "forecast",
    "join",
    "list_snapshots",
    "load_config",
    "open_worker",
    "prune_snapshots",
    "request_keys_once",
    "run_worker",
    "seconds_left",
    "verify_snapshot",
]
