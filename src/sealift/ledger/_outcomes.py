"""What the L1 state machine says of transactions and blocks."""

from dataclasses import dataclass

from sealift.base import AccountId, Digest, Height, Message, Nonce, SealiftError
from sealift.frame import CallFailure, Changes, EmittedEvent
from sealift.relay import Validator

from ._codes import CODESPACE


class TxCheck(Message, kw_only=True):
    """What the mempool is told. ``code`` 0: take it; ``log`` is for people."""

    code: int
    log: str = ""
    codespace: str = CODESPACE
    gas_wanted: int = 0
    sender: AccountId | None = None
    nonce: Nonce | None = None


class LedgerTxResult(Message, kw_only=True):
    """What became of a transaction in a block.

    ``code``, ``data``, ``gas_wanted`` and ``gas_used`` are consensus: ``data``
    is the encoding of the events, so that light clients can prove them. ``log``
    is a sentence for people, ``error`` the name of the refusal.
    """

    code: int
    data: bytes = b""
    log: str = ""
    codespace: str = CODESPACE
    gas_wanted: int = 0
    gas_used: int = 0
    events: tuple[EmittedEvent, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the call took effect."""
        return self.code == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizedBlock:
    """A block that was executed and awaits its commit.

    ``changes`` is every entry that differs from the block before, for the
    node's database; ``hook_failures`` names pallets whose hook failed, which is
    a bug and worth a loud word. ``version`` of the runtime executed it;
    ``upgraded`` if it took over in this block, ``upgrade_failure`` if another one
    was to, and could not. ``validator_updates``: new powers,
    0 removes.
    """

    height: Height
    results: tuple[LedgerTxResult, ...]
    app_hash: Digest
    changes: Changes
    events: tuple[EmittedEvent, ...]
    hook_failures: tuple[tuple[str, CallFailure], ...]
    version: int
    upgraded: bool = False
    upgrade_failure: SealiftError | None = None
    validator_updates: tuple[Validator, ...] = ()
