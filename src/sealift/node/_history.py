"""Every past state, provable: trees made along the recorded changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sealift.base import Height
from sealift.frame import Changes, SimpleTreeStore, prove_ics23

from ._errors import HeightUnknownError

#: So many of the last states can be proven at once: workers, enclaves and
#: clients ask for these. Each is made once and kept.
NEAR: Final = 8
#: Older states kept besides: one each for so many readers that walk the chain
#: at places far apart.
_FAR_KEPT: Final = 3


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


class StateHistory:
    """Answers for the state after any block, cheaply for heights in sequence.

    The newest state is one tree. A past one is made from the nearest tree there
    is by the recorded changes between, so that a reader who asks for ``h``,
    ``h + 1``, … pays for the changes of one block and one rebuild of the inner
    nodes each. Those of the last :data:`NEAR` blocks that were asked for are
    kept, of older ones a few, the last used; a kept tree changes no more.

    Args:
        record: What blocks changed.
        past: The same, for one other thread that takes its time; ``None``:
            ``record``.
        entries: The newest state.
        height: The block it is the state after.
        first: The lowest height that can be asked for (genesis: one below the
            first block).
    """

    def __init__(
        self,
        *,
        record: ChangeRecord,
        past: ChangeRecord | None = None,
        entries: Changes,
        height: Height,
        first: Height,
    ) -> None:
        self._record = record
        self._past = record if past is None else past
        self._first = first
        self._newest = SimpleTreeStore()
        self._newest.apply(entries)
        self._height = height
        #: In the order of their last use.
        self._kept: dict[Height, SimpleTreeStore] = {}

    @property
    def height(self) -> Height:
        """The newest state's block."""
        return self._height

    @property
    def root(self) -> bytes:
        """The newest state's root."""
        return self._newest.root()

    def advance(self, changes: Changes, height: Height) -> None:
        """A block was made durable: take its changes over."""
        self._newest.apply(changes)
        self._height = height
        self._forget()

    def read(self, key: bytes, *, height: Height | None, prove: bool) -> ProvenEntry:
        """What stands under a key after a block; made on the spot if need be.

        Args:
            key: Any bytes.
            height: The block; ``None`` for the newest.
            prove: Whether a proof is wanted.

        Raises:
            HeightUnknownError: No state after that block.
            ProofUnavailableError: The state or the key is empty.
        """
        at = self.checked(height)
        tree = self._newest if at == self._height else self.kept(at)
        if tree is None:
            tree = self.begin(at, near=self.is_near(at))()
            self.keep(at, tree)
        return entry_in(tree, key, height=at, prove=prove)

    def checked(self, height: Height | None) -> Height:
        """The height that is meant.

        Raises:
            HeightUnknownError: No state after that block.
        """
        at = self._height if height is None else height
        if not self._first <= at <= self._height:
            raise HeightUnknownError(
                "no state of that height",
                got=at,
                expected=f"{self._first} … {self._height}",
            )
        return at

    def is_near(self, height: Height) -> bool:
        """Whether it is one of the last states."""
        return height > self._height - NEAR

    def kept(self, height: Height) -> SimpleTreeStore | None:
        """The state after a block, if it is kept; do not change it."""
        tree = self._kept.pop(height, None)
        if tree is not None:
            self._kept[height] = tree
        return tree

    def begin(self, height: Height, *, near: bool) -> Callable[[], SimpleTreeStore]:
        """What makes the state after a block, for :meth:`keep`.

        It touches nothing of this object, so that a thread may run it: two at
        once where one of them is ``near``.

        Args:
            height: The block.
            near: Read the changes now; else it is done by what is returned.
        """
        source = min((self._height, *self._kept), key=lambda one: abs(one - height))
        tree = (self._newest if source == self._height else self._kept[source]).copy()
        if near:
            move = _move(self._record, source, height)
            return lambda: _moved(tree, move)
        past = self._past
        return lambda: _moved(tree, _move(past, source, height))

    def keep(self, height: Height, tree: SimpleTreeStore) -> None:
        """Keep a state that was made."""
        self._kept[height] = tree
        self._forget()

    def _forget(self) -> None:
        """Of those no longer near, keep the last used."""
        far = [height for height in self._kept if not self.is_near(height)]
        for height in far[: max(0, len(far) - _FAR_KEPT)]:
            del self._kept[height]


def entry_in(
    tree: SimpleTreeStore, key: bytes, *, height: Height, prove: bool
) -> ProvenEntry:
    """What stands under a key in the state after a block.

    Raises:
        ProofUnavailableError: The state or the key is empty.
    """
    return ProvenEntry(
        height=height,
        key=key,
        value=tree.get(key),
        proof=prove_ics23(tree, key) if prove else None,
    )


def _move(
    record: ChangeRecord, source: Height, target: Height
) -> Mapping[bytes, bytes | None]:
    if target > source:
        return record.changes_between(source, target)
    if target < source:
        return record.reversal_between(target, source)
    return {}


def _moved(
    tree: SimpleTreeStore, move: Mapping[bytes, bytes | None]
) -> SimpleTreeStore:
    if move:
        tree.apply(move)
    tree.levels()  # now: whoever keeps the tree must not have to
    return tree
