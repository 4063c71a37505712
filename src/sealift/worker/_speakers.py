"""Who speaks for a shard on L1, by the confirmations that stand in its blocks.

A hint of whom to ask for keys or state: whoever confirms holds both. L1's node may
leave some out; what it makes up leads to a peer that an enclave would refuse.
"""

from collections.abc import Iterable
from typing import Final

from sealift.base import AccountId, DecodeError, Message, ShardId, decode
from sealift.protocol import Confirmation, Transaction, TransactionBody
from sealift.relay import TxResult

CONFIRM: Final = "enclave_bridge.confirm"
#: So many are remembered.
KEPT: Final = 8


class _ConfirmArgs(Message, tag=False):
    """Arguments of ``enclave_bridge.confirm``, as far as they are needed."""

    confirmation: Confirmation


def confirmation_of(body: TransactionBody) -> Confirmation | None:
    """What a transaction confirms; ``None``: it is of another call.

    Raises:
        DecodeError: Its arguments are not those of a confirmation.
    """
    if body.call != CONFIRM:
        return None
    return decode(_ConfirmArgs, body.args).confirmation


class Speakers:
    """The instances whose confirmations came last.

    Args:
        shard: Only its confirmations count.
    """

    def __init__(self, shard: ShardId) -> None:
        self._shard = shard
        self._seen: dict[AccountId, None] = {}

    def note(self, txs: Iterable[bytes], results: Iterable[TxResult]) -> None:
        """Look through a block."""
        for tx, result in zip(txs, results, strict=False):
            if result.code == 0:
                self._note(tx)
        while len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]

    def _note(self, tx: bytes) -> None:
        try:
            said = confirmation_of(decode(Transaction, tx).body)
        except DecodeError:
            return
        if said is not None and said.shard == self._shard:
            self._seen.pop(said.signing_key, None)
            self._seen[said.signing_key] = None

    def newest(self) -> tuple[AccountId, ...]:
        """Their signing keys, who spoke last first."""
        return tuple(reversed(self._seen))
