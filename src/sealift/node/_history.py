"""Every past state, provable: trees that move along the recorded changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sealift.base import Height
from sealift.frame import Changes, SimpleTreeStore, prove_ics23

from ._errors import HeightUnknownError

#: Trees kept in memory besides the newest: one each for so many readers that
#: walk the chain at places far apart.
_CURSORS: Final = 3
#: A reader further away than this from every tree gets a tree of its own.
_FAR: Final = 64


class ChangeRecord(Protocol):
    """What blocks changed; the store's part of the history."""

    def changes_between(
        self, low: Height, high: Height
    ) -> Mapping[bytes, bytes | None]:
        """Net changes that lead from the state after ``low`` to after ``high``."""
        ...

    def reversal_between(
        self, low: Height, high: Height
    ) -> Mapping[bytes, bytes | None]:
        """Net changes that lead from the state after ``high`` back to ``low``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenEntry:
    """What stands under a key after a block.

    Attributes:
        height: The block; header ``height + 1`` commits to its state.
        key: The key.
        value: The value, ``None`` if nothing stands there.
        proof: ICS23 proof of existence or absence; ``None`` if not asked for.
    """

    height: Height
    key: bytes
    value: bytes | None
    proof: bytes | None


@dataclass(slots=True)
class _Cursor:
    tree: SimpleTreeStore
    height: Height
    used: int = 0


class StateHistory:
    """Answers for the state after any block, cheaply for heights in sequence.

    The newest state is one tree; a few more move up and down the recorded
    changes, so that a reader who asks for ``h``, ``h + 1``, … pays for the
    changes of one block and one rebuild of the inner nodes each.

    Args:
        record: What blocks changed.
        entries: The newest state.
        height: The block it is the state after.
        first: The lowest height that can be asked for (genesis: one below the
            first block).
    """

    def __init__(
        self,
        *,
        record: ChangeRecord,
        entries: Changes,
        height: Height,
        first: Height,
    ) -> None:
        self._record = record
        self._first = first
        newest = SimpleTreeStore()
        newest.apply(entries)
        self._newest = _Cursor(newest, height)
        self._cursors: list[_Cursor] = []
        self._clock = 0

    @property
    def height(self) -> Height:
        """The newest state's block."""
        return self._newest.height

    @property
    def root(self) -> bytes:
        """The newest state's root."""
        return self._newest.tree.root()

    def advance(self, changes: Changes, height: Height) -> None:
        """A block was made durable: take its changes over."""
        self._newest.tree.apply(changes)
        self._newest.height = height

    def read(self, key: bytes, *, height: Height | None, prove: bool) -> ProvenEntry:
        """What stands under a key after a block.

        Args:
            key: Any bytes.
            height: The block; ``None`` for the newest.
            prove: Whether a proof is wanted.

        Raises:
            HeightUnknownError: No state after that block.
        """
        at = self._newest.height if height is None else height
        if not self._first <= at <= self._newest.height:
            raise HeightUnknownError(
                "no state of that height",
                got=at,
                expected=f"{self._first} … {self._newest.height}",
            )
        tree = self._tree_at(at)
        return ProvenEntry(
            height=at,
            key=key,
            value=tree.get(key),
            proof=prove_ics23(tree, key) if prove else None,
        )

    def _tree_at(self, height: Height) -> SimpleTreeStore:
        if height == self._newest.height:
            return self._newest.tree
        self._clock += 1
        cursor = self._nearest(height)
        if height > cursor.height:
            move = self._record.changes_between(cursor.height, height)
        elif height < cursor.height:
            move = self._record.reversal_between(height, cursor.height)
        else:
            move = {}
        if move:
            cursor.tree.apply(move)
        cursor.height = height
        cursor.used = self._clock
        return cursor.tree

    def _nearest(self, height: Height) -> _Cursor:
        nearest = min(
            self._cursors, key=lambda one: abs(one.height - height), default=None
        )
        if nearest is not None and abs(nearest.height - height) <= _FAR:
            return nearest
        if len(self._cursors) >= _CURSORS:
            self._cursors.remove(min(self._cursors, key=_last_used))
        source = min(
            [self._newest, *self._cursors], key=lambda one: abs(one.height - height)
        )
        tree = SimpleTreeStore()
        tree.apply(dict(source.tree.items(b"")))
        fresh = _Cursor(tree, source.height)
        self._cursors.append(fresh)
        return fresh


def _last_used(cursor: _Cursor) -> int:
    return cursor.used
