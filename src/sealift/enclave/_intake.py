"""Snapshots of every format on their way in: to be taken over, or only checked."""

from typing import Protocol, TypeAlias, cast

from sealift.base import canonical_decode
from sealift.crypto import constant_time_equal
from sealift.frame import PageStore
from sealift.protocol.ecall import MAX_FRAME_BYTES

from . import _snapshot as v2
from . import _snapshot_v1 as v1
from ._epochs import check_epoch
from ._errors import ForeignSnapshotError, SnapshotForgedError
from ._keystore import KeyStore
from ._state import (
    GENESIS_HEIGHT,
    SealedSnapshotHeader,
    ShardState,
    SnapshotBody,
    SnapshotFacts,
    page_key,
)
from ._view import BIRTH_EPOCH, ChainView

_Facts: TypeAlias = SnapshotBody | SnapshotFacts
_MAX_BITS = 24


class Intake(Protocol):
    """A snapshot whose header is authentic, and as much of it as has come."""

    @property
    def header(self) -> bytes:
        """What names it."""
        ...

    @property
    def facts(self) -> _Facts:
        """What its header says."""
        ...

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        ...

    @property
    def missing(self) -> int:
        """How many chunks have not come."""
        ...

    @property
    def next_missing(self) -> int | None:
        """The first chunk that has not come."""
        ...

    def take(self, keys: KeyStore, index: int, data: bytes) -> None:
        """Take a chunk in; a refused one has changed nothing."""
        ...

    def check_whole(self) -> None:
        """Return only if all chunks together lead to the header's root."""
        ...

    def state(self) -> ShardState:
        """The state that all chunks together are."""
        ...


def begin_intake(
    keys: KeyStore, header: bytes, *, view: ChainView, keep: bool
) -> Intake:
    """Authenticate a snapshot's header.

    1. It is a header of this shard and chain, of a known format. 2. It is made
    under the epoch of its height. 3. A holder of that epoch's state key made it.
    4. Its chunks cover the shard's pages. 5. Its root is its height's, or the
    genesis state's.

    Args:
        keys: What this instance holds.
        header: Any bytes.
        view: What is proven of the shard.
        keep: Whether pages are kept, to become the state.

    Raises:
        DecodeError: Not a header.
        ForeignSnapshotError: 1.
        WrongEpochError: 2.
        NoKeysError: Its epoch's keys are not held.
        SnapshotForgedError: 3, 4 or 5.
    """
    outer = canonical_decode(SealedSnapshotHeader, header, limit=MAX_FRAME_BYTES)
    kind = cast("type[_Facts]", _Facts)
    facts = canonical_decode(kind, outer.body, limit=MAX_FRAME_BYTES)
    # 1.
    known = v1.FORMAT if isinstance(facts, SnapshotBody) else v2.FORMAT
    ours = (known, keys.chain_id, keys.shard)
    if (facts.format, facts.chain_id, facts.shard) != ours:
        raise ForeignSnapshotError(
            "snapshot of another shard or format",
            got=f"{facts.chain_id} {facts.shard.hex()} v{facts.format}",
            expected=f"{keys.chain_id} {keys.shard.hex()} v{known}",
        )
    # 2.
    check_epoch(view, facts.epoch, facts.height, what="snapshot")
    # 3.
    if isinstance(facts, SnapshotBody):
        mac = v1.header_mac(keys, facts.epoch, outer.body)
    else:
        mac = v2.header_mac(keys, facts.epoch, outer.body)
    if not constant_time_equal(mac, outer.mac):
        raise SnapshotForgedError(
            "header of the snapshot is not authentic",
            expected="made by a holder of the state key",
            hint="It is kept as it is; nothing was overwritten.",
        )
    # 4.
    _check_pages(facts, view)
    # 5.
    if facts.root_height not in (facts.height, GENESIS_HEIGHT):
        raise SnapshotForgedError(
            "root of the snapshot is of another height",
            got=facts.root_height,
            expected=facts.height,
        )
    store = None
    if keep:
        page = page_key(keys.epoch(BIRTH_EPOCH))
        store = PageStore(bits=facts.page_bits, key=page)
    mine = facts.maker == keys.signing_key
    if isinstance(facts, SnapshotBody):
        own = mine and constant_time_equal(v1.own_mac(keys, facts), facts.own)
        return v1.OrderedIntake(header=header, facts=facts, own=own, store=store)
    own = mine and constant_time_equal(v2.own_mac(keys, facts), facts.own)
    return v2.ChunkedIntake(header=header, facts=facts, own=own, store=store)


def _check_pages(facts: _Facts, view: ChainView) -> None:
    """4: as many pages as the shard has, and no chunk without its pages."""
    bits = facts.page_bits
    if view.schedule is not None and bits != view.schedule.rules.page_bits:
        raise SnapshotForgedError(
            "snapshot with another number of pages than the shard has",
            got=f"{bits} page bits",
            expected=view.schedule.rules.page_bits,
        )
    pages = 1 << bits if 0 < bits <= _MAX_BITS else 0
    ascending = list(facts.starts) == sorted(set(facts.starts))
    covered = bool(facts.starts) and facts.starts[0] == 0 and facts.starts[-1] < pages
    if not (ascending and covered):
        raise SnapshotForgedError("chunks of the snapshot do not cover its pages")
