"""Which transactions' signatures the mempool has verified before."""

from collections import OrderedDict
from typing import Final

from sealift.base import Digest
from sealift.crypto import sha256

#: Twice what waits in a mempool of CometBFT's default size, so that a recheck
#: of all of it finds all of it.
REMEMBERED: Final = 10_000


class KnownSignatures:
    """Hashes of accepted transactions; the least recently asked for goes first.

    A signature's validity depends on the transaction's bytes alone, never on
    the state, so that remembering it cannot change a verdict.

    Args:
        most: How many hashes are kept.
    """

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._hashes: OrderedDict[Digest, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hashes)

    def knows(self, tx: bytes) -> bool:
        """Whether exactly these bytes were noted, not too long ago."""
        digest = sha256(tx)
        if digest not in self._hashes:
            return False
        self._hashes.move_to_end(digest)
        return True

    def note(self, tx: bytes) -> None:
        """Remember a transaction whose signature was verified."""
        self._hashes[sha256(tx)] = None
        while len(self._hashes) > self._most:
            self._hashes.popitem(last=False)
