"""What surrounds a worker, and what of it survives."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Protocol

from sealift.base import Digest, Height
from sealift.crypto import Entropy
from sealift.protocol import BlockEffects, SealedReceipt

from ._chain import WorldChain


class Surroundings(Protocol):
    """What a worker needs of the world around it."""

    chain: WorldChain
    confirm_every: int

    def block(self) -> Height:
        """Make a block, and let every worker follow."""
        ...

    def secret(self, name: str) -> bytes:
        """The seed of a named account."""
        ...

    def entropy(self, label: str) -> Entropy:
        """A seeded stream of bytes."""
        ...


@dataclass(slots=True, kw_only=True)
class WorldDisk:
    """All that survives the host; a copy of an earlier one is a rollback."""

    key_store: bytes | None = None
    checkpoint: bytes | None = None
    genesis: bytes | None = None
    snapshot: tuple[Height, bytes, tuple[bytes, ...]] | None = None
    diffs: dict[Height, bytes] = field(default_factory=dict)
    receipts: dict[Digest, SealedReceipt] = field(default_factory=dict)
    effects: dict[Height, BlockEffects] = field(default_factory=dict)

    def copy(self) -> "WorldDisk":
        """The disk as it is now."""
        return deepcopy(self)
