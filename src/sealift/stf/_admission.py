"""Whether a call may consume its nonce in this block."""

from collections.abc import Collection

from sealift.base import Fingerprint, Height, Nonce
from sealift.protocol import MAX_VALIDITY, TrustedCallBody

from ._errors import (
    BlockFullError,
    CallExpiredError,
    FingerprintPinError,
    MaintenanceError,
    NonceAheadError,
    NonceConsumedError,
    ValidityTooLongError,
)


def check_admission(
    body: TrustedCallBody,
    *,
    nonce: Nonce,
    height: Height,
    maintenance: bool,
    code: Collection[Fingerprint],
    escapes: Collection[str] = (),
) -> None:
    """Return if the call may run; a copy of a remembered call never comes here.

    1. Its nonce is the account's.
    2. The shard is not in maintenance, or the call is one of the escapes from it.
    3. It is still valid, and for no longer than receipts are remembered.
    4. It is pinned to code of the running generation or to none. A generation
    has one MRENCLAVE on each kind of platform; which of them executes here must
    not matter, or instances would part.

    Args:
        body: The opened call.
        nonce: Nonce of the signer's account.
        height: The block.
        maintenance: Whether the shard is in maintenance.
        code: Every MRENCLAVE of the generation that runs the block.
        escapes: Calls that maintenance does not refuse; the runtime's own.

    Raises:
        NonceConsumedError: Step 1: lower.
        NonceAheadError: Step 1: higher.
        MaintenanceError: Step 2.
        CallExpiredError: Step 3.
        ValidityTooLongError: Step 3.
        FingerprintPinError: Step 4.
    """
    if body.nonce < nonce:  # 1
        raise NonceConsumedError(
            "nonce is consumed, and this call is not remembered",
            got=body.nonce,
            expected=nonce,
        )
    if body.nonce > nonce:
        raise NonceAheadError("nonce is ahead", got=body.nonce, expected=nonce)
    if maintenance and body.call not in escapes:  # 2
        raise MaintenanceError("shard is in maintenance", hint="Send it again later")
    if body.valid_until < height:  # 3
        raise CallExpiredError(
            "call has expired", got=f"block {height}", expected=f"≤ {body.valid_until}"
        )
    if body.valid_until > height + MAX_VALIDITY:
        raise ValidityTooLongError(
            "call is valid for too long",
            got=body.valid_until,
            expected=f"≤ {height + MAX_VALIDITY}",
        )
    if body.pin is not None and body.pin not in code:  # 4
        raise FingerprintPinError(
            "call is pinned to another MRENCLAVE",
            got=", ".join(sorted(one.hex() for one in code)),
            expected=body.pin,
        )


def check_room(weight: int, *, left: int) -> None:
    """Return if the block has room for a call of this weight.

    Raises:
        BlockFullError: It has not; in an emptier block it would have run.
    """
    if weight > left:
        raise BlockFullError(
            "block is full", got=weight, expected=f"≤ {left}", hint="Send it again"
        )
