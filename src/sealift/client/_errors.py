"""What the client refuses, or was refused, by name."""

from collections.abc import Mapping
from typing import Final

from sealift.base import CallId, SealiftError

#: What to do about refusals that say nothing against the call itself.
_HINTS: Final[Mapping[str, str]] = {
    "BlockFullError": "Make it again",
    "MaintenanceError": "Make it again when the shard runs normally",
    "NonceAheadError": "Another call of this account is on its way: make it again",
    "NonceConsumedError": "Another call of this account came first: make it again",
}


class ClientError(SealiftError):
    """The root of the client's own refusals."""


class CardError(ClientError):
    """A shard card that cannot be read, or contradicts itself."""


class UnknownShardOnChainError(ClientError):
    """The chain proves that it has no such shard."""


class EvidenceExportError(ClientError):
    """A lineage that can't be exported: the node does not show its beginning."""


class ShardUnbornError(ClientError):
    """The shard has no keys yet: no worker has brought it to life."""


class EnclaveNotTrustedError(ClientError):
    """An enclave that the registry does not know, or the schedule does not name."""


class WorkerUnreachableError(ClientError):
    """No worker of the shard answers."""


class WorkerBusyError(WorkerUnreachableError):
    """A worker serves as many as it can; it was asked again in vain.

    Args:
        url: The worker.
        message: Its sentence.
        seconds: After which it may serve again, as it says.
    """

    def __init__(self, url: str, *, message: str, seconds: float) -> None:
        super().__init__(
            f"the worker at {url} is busy",
            got=message,
            expected="a place for one more",
            hint="Try again soon, or name another worker.",
        )
        self.seconds = seconds


class WorkerRefusedError(ClientError):
    """A worker answered with a refusal.

    Args:
        url: The worker.
        refused: The stable name of the refusal.
        message: Its sentence.
        status: The HTTP status.
    """

    def __init__(self, url: str, *, refused: str, message: str, status: int) -> None:
        super().__init__(f"{url} refused ({refused})", got=message)
        self.refused = refused
        self.status = status


class WorkerAnswerError(ClientError):
    """A worker answered something else than it was asked for."""


class ReceiptTimeoutError(ClientError):
    """No receipt came in time; the call may still be executed.

    Args:
        call_id: The call.
        seconds: How long was waited.
    """

    def __init__(self, call_id: CallId, *, seconds: float) -> None:
        super().__init__(
            f"no receipt within {seconds:g} s",
            got=call_id,
            hint="The call may still be executed: look at its nonce before sending "
            "another",
        )
        self.call_id = call_id


class ReceiptMismatchError(ClientError):
    """A receipt that opens, but is not of this call."""


class CallFailedError(ClientError):
    """The shard refused the call, or it failed; ``outcome`` names why.

    Args:
        outcome: The error's name in the receipt.
        message: Its sentence.
        call_id: The call.
        hint: What the caller can do, if more is known than the outcome says.
    """

    def __init__(
        self, outcome: str, *, message: str, call_id: CallId, hint: str = ""
    ) -> None:
        reason = f" ({message.rstrip('.')})" if message else ""
        super().__init__(
            f"the call failed: {outcome}{reason}", hint=hint or _HINTS.get(outcome, "")
        )
        self.outcome = outcome
        self.call_id = call_id


class NotConfirmedError(ClientError):
    """The block of a call was not confirmed on L1 in time."""


class StaleReplyError(ClientError):
    """An answer about a state that is older than asked for."""


class ReplyContradictedError(ClientError):
    """An answer that the proven state of L1 contradicts."""
