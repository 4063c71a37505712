"""``enclave_update``: decisions about the shard's code, said inside the shard.

The sudo key's order travels in a TrustedCall and leaves the enclave with that
key's own signature, for anybody to carry to L1 (DESIGN §4.5).
"""

from typing import Protocol

from sealift.base import AccountId, decode, encode
from sealift.frame import (
    Context,
    Event,
    Pallet,
    PalletError,
    StorageValue,
    call,
)
from sealift.protocol import (
    CancelOrder,
    KeyEndorsement,
    Order,
    Schedule,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    leaves,
)

from ._getters import getter
from ._orders import (
    OrderElsewhereError,
    OrderExpiredError,
    OrderHeightsError,
    OrderKindError,
    OrderStaleError,
    check_place,
    check_serial,
    parse_signed_order,
)
from ._sudo import SudoKey


class OrderIssued(Event, kw_only=True):
    """A signed order leaves for L1, encoded."""

    order: bytes


#: What verifying one endorsement beyond the first costs.
_ENDORSEMENT_WEIGHT = 150


class NotAuthorityError(PalletError):
    """The sudo key has not signed, or is no member of the authority on L1."""


class ScheduleView(Protocol):
    """Port: the shard's schedule as the enclave last saw it proven."""

    def schedule(self, ctx: Context) -> Schedule | None:
        """The schedule; ``None`` before any was seen."""
        ...


class EnclaveUpdate(Pallet):
    """The schedule as the enclave sees it, and orders on their way to L1.

    Args:
        sudo: Who may decide.
    """

    name = "enclave_update"
    storage_version = 1
    events = (OrderIssued,)
    errors = (
        OrderKindError,
        OrderElsewhereError,
        OrderExpiredError,
        OrderStaleError,
        OrderHeightsError,
        NotAuthorityError,
    )

    seen: StorageValue[bytes] = StorageValue("schedule", bytes)

    def __init__(self, *, sudo: SudoKey) -> None:
        self._sudo = sudo

    @call(weight=200)
    def update_mrenclave(self, ctx: Context, *, order: bytes) -> None:
        """Send an encoded :class:`SignedOrder` of an ``UpgradeOrder`` to L1.

        1. The signer holds the sudo key.
        2. The order is canonical, of its kind, for this chain and shard, and
           has not expired.
        3. The same key signed the order.
        4. If the schedule is known: the key is the authority, the serial is
           current.
        5. The heights are ahead and in order.
        """
        key = self._sudo.ensure_sudo(ctx)  # 1
        wanted = self._checked(ctx, key, order, UpgradeOrder)  # 2, 3, 4
        if isinstance(wanted, UpgradeOrder) and not (
            ctx.block.height < wanted.release_from < wanted.upgrade_at
        ):  # 5
            raise OrderHeightsError(
                "heights of the order do not fit",
                got=f"release {wanted.release_from}, upgrade {wanted.upgrade_at}",
                expected=f"{ctx.block.height} < release_from < upgrade_at",
            )
        ctx.emit(OrderIssued(order=order))

    @call(weight=200)
    def cancel_update(self, ctx: Context, *, order: bytes) -> None:
        """Send an encoded :class:`SignedOrder` of a ``CancelOrder`` to L1."""
        key = self._sudo.ensure_sudo(ctx)
        self._checked(ctx, key, order, CancelOrder)
        ctx.emit(OrderIssued(order=order))

    @call(weight=200)
    def set_status(self, ctx: Context, *, order: bytes) -> None:
        """Send an encoded :class:`SignedOrder` of a ``StatusOrder`` to L1."""
        key = self._sudo.ensure_sudo(ctx)
        self._checked(ctx, key, order, StatusOrder)
        ctx.emit(OrderIssued(order=order))

    @call(weight=200)
    def send_order(self, ctx: Context, *, order: bytes) -> None:
        """Send an encoded :class:`SignedOrder` of any kind to L1."""
        key = self._sudo.ensure_sudo(ctx)
        self._checked(ctx, key, order, None)
        ctx.emit(OrderIssued(order=order))

    def observe(self, ctx: Context, schedule: Schedule) -> None:
        """Note the proven schedule, if it is another; called by the executor."""
        raw = encode(schedule)
        if self.seen.find(ctx) != raw:
            self.seen.put(ctx, raw)

    @getter(public=True)
    def schedule(self, ctx: Context) -> Schedule | None:
        """The shard's schedule as the enclave last saw it proven."""
        raw = self.seen.find(ctx)
        return None if raw is None else decode(Schedule, raw)

    def _checked(
        self,
        ctx: Context,
        key: AccountId,
        raw: bytes,
        kind: type[Order] | None,
    ) -> Order:
        signed = parse_signed_order(raw)
        order = signed.order
        if kind is not None and type(order) is not kind:
            raise OrderKindError(
                "another kind of order",
                got=type(order).__name__,
                expected=kind.__name__,
            )
        check_place(order, ctx.block)
        ctx.charge(_ENDORSEMENT_WEIGHT * max(0, len(signed.endorsements) - 1))
        signed.verify_endorsements()
        if not any(
            isinstance(one, KeyEndorsement) and one.key == key
            for one in signed.endorsements
        ):
            raise NotAuthorityError("order is not signed by the sudo key")
        self._check_current(ctx, key, order)
        return order

    def _check_current(
        self,
        ctx: Context,
        key: AccountId,
        order: Order,
    ) -> None:
        schedule = self.schedule(ctx)
        if schedule is None:
            return
        members = schedule.rules.authority, schedule.rules.emergency
        keys = [
            leaf.key
            for member in members
            if member is not None
            for leaf in leaves(member)
            if isinstance(leaf, SudoAuthority)
        ]
        if key not in keys:
            raise NotAuthorityError("sudo key is no member of the authority on L1")
        check_serial(order, schedule)
