"""What a runtime is made of: pallets, storage, calls, migrations, state.

Both the L1 ledger and the confidential STF are runtimes made with it; they
differ in the commitment behind the ``StateStore`` port.
"""

from ._calls import (
    MAX_ARGUMENT_DEPTH,
    CallFailure,
    EmittedEvent,
    HooksOutcome,
    Outcome,
    RuntimeCall,
    depth_exceeds,
)
from ._context import MAX_DISPATCH_DEPTH, Context, WeightMeter
from ._errors import (
    BadOriginError,
    CallArgumentsError,
    CallPanickedError,
    DispatchDepthError,
    ForeignStateError,
    GenesisError,
    MigrationCheckError,
    MigrationFailedError,
    MigrationGapError,
    MigrationRefusedError,
    PalletError,
    RuntimeDefinitionError,
    StateTooNewError,
    StorageMissingError,
    StorageValueError,
    UndeclaredEventError,
    UnknownCallError,
    WeightExceededError,
)
from ._migration import MigrationReport, PalletMigration
from ._origin import (
    NOBODY,
    ROOT,
    BlockInfo,
    Nobody,
    Origin,
    Root,
    Signed,
    ensure_root,
    ensure_signed,
)
from ._pages import DEFAULT_PAGE_BITS, PageStore
from ._pallet import Event, Pallet, call
from ._runtime import UNLIMITED, Runtime
from ._simple_tree import SimpleTreeStore
from ._state import Changes, Overlay, StateReader, StateStore
from ._storage import StorageMap, StorageValue, encode_key, storage_key

__all__ = [
    "DEFAULT_PAGE_BITS",
    "MAX_ARGUMENT_DEPTH",
    "MAX_DISPATCH_DEPTH",
    "NOBODY",
    "ROOT",
    "UNLIMITED",
    "BadOriginError",
    "BlockInfo",
    "CallArgumentsError",
    "CallFailure",
    "CallPanickedError",
    "Changes",
    "Context",
    "DispatchDepthError",
    "EmittedEvent",
    "Event",
    "ForeignStateError",
    "GenesisError",
    "HooksOutcome",
    "MigrationCheckError",
    "MigrationFailedError",
    "MigrationGapError",
    "MigrationRefusedError",
    "MigrationReport",
    "Nobody",
    "Origin",
    "Outcome",
    "Overlay",
    "PageStore",
    "Pallet",
    "PalletError",
    "PalletMigration",
    "Root",
    "Runtime",
    "RuntimeCall",
    "RuntimeDefinitionError",
    "Signed",
    "SimpleTreeStore",
    "StateReader",
    "StateStore",
    "StateTooNewError",
    "StorageMap",
    "StorageMissingError",
    "StorageValue",
    "StorageValueError",
    "UndeclaredEventError",
    "UnknownCallError",
    "WeightExceededError",
    "WeightMeter",
    "call",
    "depth_exceeds",
    "encode_key",
    "ensure_root",
    "ensure_signed",
    "storage_key",
]
