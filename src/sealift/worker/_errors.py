"""What stops a worker, or what it refuses."""

from typing import Final

from sealift.base import InvariantError, SealiftError
from sealift.transport.files import FileError


class WorkerError(SealiftError):
    """The root of the worker's own refusals."""


class EnclaveRefusedError(WorkerError):
    """The enclave refused a request, by name; it goes on."""

    def __init__(self, refused: str, message: str) -> None:
        super().__init__(f"the enclave refused ({refused}): {message}")
        self.refused = refused


class EnclaveGoneError(WorkerError):
    """The enclave process has ended, or its channel is broken."""


class StoreError(WorkerError):
    """The worker's database cannot be used; it is kept as it is."""


class KeyStoreMissingError(StoreError):
    """The database has an instance's state, and its sealed keys are gone."""


class SealingKeyChangedError(StoreError):
    """The platform has no key for what was sealed here: its level has changed."""


class StoreMismatchError(StoreError):
    """The database belongs to another shard or another enclave."""


class ConfigError(WorkerError):
    """``worker.toml`` is missing, unreadable or wrong."""


class UpstreamError(WorkerError):
    """The worker that keys or state were asked of answers otherwise."""


class UpstreamBusyError(UpstreamError):
    """The other worker serves as many as it can: it is to be asked again."""


class SessionSilentError(UpstreamError):
    """The other end of a mu-ra session says nothing that leads on."""


class SessionsOfPeerError(WorkerError):
    """As many mu-ra sessions of one address are open as a worker carries."""


class CrowdedError(WorkerError):
    """As many strangers are being served as a worker serves at once."""


class CrowdOfPeerError(WorkerError):
    """As many of one address are being served as a worker serves at once."""


class StalledError(WorkerError):
    """The worker cannot go on without its operator."""


class SnapshotTooSoonError(WorkerError):
    """The newest snapshot is too young for another to be made for a peer."""


class SnapshotManifestError(WorkerError):
    """What should describe a snapshot does not, or describes another one."""


class SnapshotDamagedError(WorkerError):
    """A piece of a snapshot is missing or altered; it is kept as it is."""


class SnapshotNotKeptError(WorkerError):
    """The disk did not take a snapshot; the older ones and the worker go on."""


class NoSnapshotError(WorkerError):
    """There is no such snapshot here."""


class CarryOffError(WorkerError):
    """This worker carries nobody's calls to L1."""


class CarryRateError(WorkerError):
    """More calls a minute than this worker carries."""


class CarryReserveError(WorkerError):
    """The operator's account keeps what is left for the worker's own duties."""


class EnvelopeSizeError(WorkerError):
    """No sealed call has this size: nobody could open it."""


class WrongChainError(WorkerError):
    """The L1 node follows another chain than the one the bundle was built for."""


class SwitchingError(WorkerError):
    """The next enclave does not answer yet, and the one before does not any more."""


class BundleRefusedError(WorkerError):
    """A bundle that this worker does not stage."""


class BundleChainError(BundleRefusedError):
    """The bundle was built for another chain."""


class BundleHashError(BundleRefusedError):
    """The file is not the one whose hash the order names."""


class BundleNotScheduledError(BundleRefusedError):
    """The shard's schedule does not name this code."""


class BundleVersionError(BundleRefusedError):
    """The bundle speaks no version of the ECALL table that this host speaks."""


class BundleFetchError(BundleRefusedError):
    """The bundle cannot be had from where the order says."""


class ControlError(WorkerError):
    """The running worker cannot be told anything, or answers otherwise."""


#: What ends a worker. Anything else is waited out, and said in its health.
FATAL: Final[tuple[type[SealiftError], ...]] = (
    EnclaveGoneError,
    StoreError,
    FileError,
    InvariantError,
)


class AuditError(WorkerError):
    """The root of what ends an audit without a verdict."""


class AuditRangeError(AuditError):
    """A proven frontier to which no confirmations lead."""


class AuditBundleMissingError(AuditError):
    """The bundle of a former generation is not among those at hand."""


class AuditBundleTooOldError(AuditError):
    """A bundle of a release whose enclaves can't be audited."""


class AuditKeysError(AuditError):
    """This home has no sealed keys that an auditor could start with."""


class AuditUnfinishedError(AuditError):
    """The enclaves came to an end before all that is confirmed was compared."""
