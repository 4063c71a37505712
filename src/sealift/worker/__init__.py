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
from ._control import INSTANCE_FIELDS, Progress, stage_in_running, worker_listens
from ._errors import (
    BundleChainError,
    BundleFetchError,
    BundleHashError,
    BundleNotScheduledError,
    BundleRefusedError,
    BundleVersionError,
    CarryOffError,
    CarryRateError,
    CarryReserveError,
    ConfigError,
    ControlError,
    CrowdedError,
    CrowdOfPeerError,
    EnclaveGoneError,
    EnclaveRefusedError,
    EnvelopeSizeError,
    KeyStoreMissingError,
    SealingKeyChangedError,
    SessionSilentError,
    SessionsOfPeerError,
    SnapshotTooSoonError,
    StalledError,
    StoreError,
    StoreMismatchError,
    SwitchingError,
    UpstreamError,
    WorkerError,
    WrongChainError,
)
from ._forecast import Risk, collateral_risk, forecast
from ._gramine import GramineMissingError
from ._instances import (
    Judged,
    home_chain,
    judge_bundle,
    put_bundle,
    staged_instances,
)
from ._platform import existing_machine
from ._run import open_worker, request_keys_once
from ._service import Ready, run_worker
from ._store import WorkerStore
from ._witnesses import few_witnesses

__all__ = [
    "CONFIG_FILE",
    "GRAMINE_TEMPLATE",
    "INSTANCE_FIELDS",
    "TEMPLATE",
    "BundleChainError",
    "BundleFetchError",
    "BundleHashError",
    "BundleNotScheduledError",
    "BundleRefusedError",
    "BundleVersionError",
    "CarryOffError",
    "CarryRateError",
    "CarryReserveError",
    "ConfigError",
    "ControlError",
    "CrowdOfPeerError",
    "CrowdedError",
    "EnclaveGoneError",
    "EnclaveRefusedError",
    "EnvelopeSizeError",
    "GramineMissingError",
    "Judged",
    "KeyStoreMissingError",
    "Platform",
    "Progress",
    "Ready",
    "Risk",
    "SealingKeyChangedError",
    "SessionSilentError",
    "SessionsOfPeerError",
    "SnapshotTooSoonError",
    "StalledError",
    "StoreError",
    "StoreMismatchError",
    "SwitchingError",
    "UpstreamError",
    "WorkerConfig",
    "WorkerError",
    "WorkerStore",
    "WrongChainError",
    "collateral_risk",
    "existing_machine",
    "few_witnesses",
    "forecast",
    "home_chain",
    "judge_bundle",
    "load_config",
    "open_worker",
    "put_bundle",
    "request_keys_once",
    "run_worker",
    "seconds_left",
    "stage_in_running",
    "staged_instances",
    "worker_listens",
]
