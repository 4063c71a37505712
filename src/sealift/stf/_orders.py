"""What every order said inside the shard is asked first (DESIGN §4.5).

L1 judges it again; what is checked here only spares a useless journey.
"""

from typing import TypeVar, cast

from sealift.base import DecodeError, TooLargeError, canonical_decode
from sealift.frame import MAX_ARGUMENT_DEPTH, BlockInfo, PalletError, depth_exceeds
from sealift.protocol import Order, Schedule, SignedOrder

T = TypeVar("T")


class OrderKindError(PalletError):
    """The order is not of the kind that this call carries."""


class OrderElsewhereError(PalletError):
    """The order is for another shard or another chain."""


class OrderExpiredError(PalletError):
    """The order has expired, or will have before it can take effect."""


class OrderStaleError(PalletError):
    """The order's serial is not the schedule's current one."""


class OrderHeightsError(PalletError):
    """The heights that the order names lie behind, too near, or in no order."""


def parse_order(raw: bytes) -> Order:
    """The order that these bytes are the canonical encoding of.

    Raises:
        OrderKindError: They are not that of any order.
    """
    return _parse(cast("type[Order]", Order), raw)


def parse_signed_order(raw: bytes) -> SignedOrder:
    """The order with its endorsements; these are not verified here.

    Raises:
        OrderKindError: The bytes are not the canonical encoding of one.
    """
    return _parse(SignedOrder, raw)


def check_place(order: Order, block: BlockInfo) -> None:
    """Return if an order is for this shard of this chain, and has not expired.

    Raises:
        OrderElsewhereError: It is for another one.
        OrderExpiredError: It has.
    """
    if order.chain_id != block.chain_id or order.shard != block.shard:
        raise OrderElsewhereError("order is for another shard or chain")
    if order.expiry < block.height:
        raise OrderExpiredError("order has expired", got=order.expiry)


def check_serial(order: Order, schedule: Schedule) -> None:
    """Return if no other act has overtaken an order.

    Raises:
        OrderStaleError: One has, or it is from ahead.
    """
    if order.serial != schedule.serial:
        raise OrderStaleError(
            "serial is not current", got=order.serial, expected=schedule.serial
        )


def _parse(kind: type[T], raw: bytes) -> T:
    # The bound comes first: how deep a decoder can recurse depends on the stack.
    if depth_exceeds(raw, MAX_ARGUMENT_DEPTH):
        raise OrderKindError("order is nested too deep")
    try:
        return canonical_decode(kind, raw)
    except (DecodeError, TooLargeError) as error:
        raise OrderKindError("not the canonical encoding of an order") from error
