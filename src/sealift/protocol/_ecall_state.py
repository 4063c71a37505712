"""State in and out, as the ECALL table has it: genesis, snapshots, diffs."""

from typing import Literal

from sealift.base import Epoch, Height, Message, StateRoot


class Genesis(Message):
    """The shard's genesis blob, public data (map of pallet to genesis config)."""

    blob: bytes


class SnapshotBegin(Message):
    """Start exporting the state as it is now, or offer one for import."""

    header: bytes | None = None


class SnapshotHeader(Message):
    """An authenticated header (opaque bytes), and what it says.

    Chunk 0 of format 2 is its head and comes first; the others are verified one
    by one against it, in any order, repeats do no harm. Chunks of format 1 come in
    order, and are verified together when the last is in. A header that is offered
    again while it is being imported goes on where it was.
    """

    header: bytes
    height: Height
    chunks: int
    format: int = 1
    root: StateRoot | None = None
    epoch: Epoch | None = None


class SnapshotGet(Message):
    """Ask for chunk ``index`` of the snapshot that was begun."""

    index: int


class SnapshotChunk(Message):
    """One encrypted chunk; to the enclave on import, from it on export."""

    index: int
    data: bytes


class DiffApply(Message):
    """An encrypted diff of the block after the state's height."""

    diff: bytes


class SnapshotCheck(Message):
    """Begin to check a snapshot, beside any export and import; it replaces nothing.

    Its chunks come by :class:`SnapshotCheckChunk`, in the order that its format
    wants (:class:`SnapshotHeader`). Since version 2 of the table.
    """

    header: bytes


class SnapshotCheckChunk(Message):
    """One chunk of the snapshot that is being checked. Since version 2."""

    index: int
    data: bytes


class SnapshotChecked(Message):
    """How far the check of a snapshot is; it is whole when nothing is ``missing``.

    ``next_missing`` is the first chunk that has not come. ``confirmed``: L1 is
    proven to have confirmed this root after this block. If not, this enclave has
    not seen what L1 confirmed for it; if it saw another root there, it refuses.
    """

    format: int
    height: Height
    root: StateRoot
    epoch: Epoch
    chunks: int
    missing: int
    next_missing: int | None
    confirmed: bool


class SnapshotDrop(Message):
    """Forget an export, an import or a check, done or not, and free its memory.

    The state is as it was. Since version 2.
    """

    what: Literal["export", "import", "check"]


class StateReply(Message):
    """Where the state stands now (``None``: there is no state yet).

    ``missing`` chunks of the snapshot that is being imported have not come
    (``None``: none is being imported).
    """

    height: Height | None
    root: StateRoot | None
    missing: int | None = None
