"""``balances``: incognito tokens, in the account records of ``system``."""

from typing import Annotated, Protocol

import msgspec

from sealift.base import AccountId, Amount, InvariantError, Message
from sealift.frame import (
    Context,
    Event,
    GenesisError,
    Pallet,
    PalletError,
    StorageValue,
    call,
    ensure_signed,
)
from sealift.protocol import Unshield

from ._accounts import Account, Accounts
from ._effects import EffectsPort
from ._escapes import escape
from ._getters import getter

_MAX = 2**63 - 1
_Something = Annotated[int, msgspec.Meta(ge=1, le=_MAX)]


class Transferred(Event, kw_only=True):
    """Tokens went from one account to another."""

    source: AccountId
    dest: AccountId
    amount: Amount


class Deposited(Event, kw_only=True):
    """Tokens came from L1."""

    beneficiary: AccountId
    amount: Amount


class Unshielded(Event, kw_only=True):
    """Tokens left for an account on L1, which is paid once L1 has the effect."""

    source: AccountId
    beneficiary: AccountId
    amount: Amount


class InsufficientFundsError(PalletError):
    """The account has less free than the amount."""


class InsufficientReserveError(PalletError):
    """The account has less reserved than the amount."""


class IssuanceOverflowError(PalletError):
    """There would be more tokens than an amount can count."""


class NegativeAmountError(PalletError):
    """A pallet asked for less than nothing."""


class Endowment(Message, kw_only=True, tag=False):
    """What an account has from the beginning."""

    account: AccountId
    free: Amount


class BalancesGenesis(Message, kw_only=True, tag=False):
    """Who has what from the beginning."""

    endowments: tuple[Endowment, ...] = ()


class Funds(Message, kw_only=True, tag=False):
    """What an account has: free to spend, and reserved by pallets."""

    free: Amount
    reserved: Amount


class Currency(Protocol):
    """Port: the shard's tokens, for application pallets.

    Every method keeps the total issuance. Amounts are not negative.
    """

    def funds(self, ctx: Context, who: AccountId) -> Funds:
        """What an account has."""
        ...

    def move(
        self, ctx: Context, source: AccountId, dest: AccountId, amount: int
    ) -> None:
        """Move free tokens.

        Raises:
            InsufficientFundsError: ``source`` has less free.
        """
        ...

    def reserve(self, ctx: Context, who: AccountId, amount: int) -> None:
        """Set free tokens aside; only :meth:`unreserve` and :meth:`pay` use them.

        Raises:
            InsufficientFundsError: The account has less free.
        """
        ...

    def unreserve(self, ctx: Context, who: AccountId, amount: int) -> None:
        """Make reserved tokens free again.

        Raises:
            InsufficientReserveError: The account has less reserved.
        """
        ...

    def pay(
        self, ctx: Context, source: AccountId, dest: AccountId, amount: int
    ) -> None:
        """Move reserved tokens of ``source`` to what ``dest`` has free.

        Raises:
            InsufficientReserveError: ``source`` has less reserved.
        """
        ...


class Issuance(Currency, Protocol):
    """Port: the shard's tokens and how many there are."""

    def issuance(self, ctx: Context) -> Amount:
        """How many tokens there are."""
        ...

    def burn(self, ctx: Context, who: AccountId, amount: int) -> None:
        """Destroy reserved tokens; the issuance falls.

        Raises:
            InsufficientReserveError: The account has less reserved.
        """
        ...


class TotalWatcher(Protocol):
    """Port: whoever must know of every change of what an account has."""

    def total_changed(self, ctx: Context, who: AccountId, old: int, new: int) -> None:
        """Told after a change of free and reserved tokens together."""
        ...


class Balances(Pallet):
    """Tokens of the shard; nobody outside sees who has or moves what.

    Law: the sum of all that is free and reserved is ``issuance``, which only
    genesis and deposits raise, and only unshielding and burning lower.

    Args:
        accounts: The account records.
        effects: Where what leaves for L1 is issued.
        watcher: Who is told of every change of what an account has.
    """

    name = "balances"
    storage_version = 1
    events = (Transferred, Deposited, Unshielded)
    errors = (
        InsufficientFundsError,
        InsufficientReserveError,
        IssuanceOverflowError,
        NegativeAmountError,
    )

    total: StorageValue[Amount] = StorageValue("total", Amount, default=Amount(0))

    def __init__(
        self,
        *,
        accounts: Accounts,
        effects: EffectsPort,
        watcher: TotalWatcher | None = None,
    ) -> None:
        self._accounts = accounts
        self._effects = effects
        self._watcher = watcher

    def genesis(self, ctx: Context, config: BalancesGenesis) -> None:
        """Endow accounts, each once."""
        owners = [endowment.account for endowment in config.endowments]
        if len(set(owners)) != len(owners):
            raise GenesisError("an account is endowed twice")
        for endowment in config.endowments:
            self._issue(ctx, endowment.account, endowment.free)

    @call(weight=30)
    def transfer(self, ctx: Context, *, dest: AccountId, amount: Amount) -> None:
        """Move free tokens of the signer."""
        source = ensure_signed(ctx.origin)
        self.move(ctx, source, dest, amount)
        ctx.emit(Transferred(source=source, dest=dest, amount=amount))

    @escape
    @call(weight=60)
    def unshield(
        self, ctx: Context, *, beneficiary: AccountId, amount: _Something
    ) -> None:
        """Move free tokens of the signer to an account on L1; also in maintenance."""
        source = ensure_signed(ctx.origin)
        self._destroy(ctx, source, free=amount)
        self._effects.issue(ctx, Unshield(beneficiary=beneficiary, amount=amount))
        ctx.emit(
            Unshielded(source=source, beneficiary=beneficiary, amount=Amount(amount))
        )

    def funds(self, ctx: Context, who: AccountId) -> Funds:
        """What an account has."""
        account = self._accounts.account(ctx, who)
        return Funds(free=account.free, reserved=account.reserved)

    def move(
        self, ctx: Context, source: AccountId, dest: AccountId, amount: int
    ) -> None:
        """Move free tokens (port :class:`Currency`)."""
        self._pass(ctx, source, dest, free=_whole(amount))

    def reserve(self, ctx: Context, who: AccountId, amount: int) -> None:
        """Set free tokens aside (port :class:`Currency`)."""
        self._change(ctx, who, free=-_whole(amount), reserved=amount)

    def unreserve(self, ctx: Context, who: AccountId, amount: int) -> None:
        """Make reserved tokens free again (port :class:`Currency`)."""
        self._change(ctx, who, free=_whole(amount), reserved=-amount)

    def pay(
        self, ctx: Context, source: AccountId, dest: AccountId, amount: int
    ) -> None:
        """Move reserved tokens to another's free ones (port :class:`Currency`)."""
        self._pass(ctx, source, dest, reserved=_whole(amount))

    def burn(self, ctx: Context, who: AccountId, amount: int) -> None:
        """Destroy reserved tokens (port :class:`Issuance`)."""
        self._destroy(ctx, who, reserved=_whole(amount))

    def deposit(self, ctx: Context, beneficiary: AccountId, amount: Amount) -> None:
        """Credit what left L1 for this shard; called by the executor.

        Raises:
            IssuanceOverflowError: More tokens than an amount can count.
        """
        self._issue(ctx, beneficiary, amount)
        ctx.emit(Deposited(beneficiary=beneficiary, amount=amount))

    def check_issuance(self, ctx: Context) -> None:
        """Compare all accounts with the issuance; reads the whole state.

        For audits, tests and migrations.

        Raises:
            InvariantError: They differ.
        """
        held = sum(
            account.free + account.reserved
            for _, account in self._accounts.all_accounts(ctx)
        )
        total = self.total.get(ctx)
        if held != total:
            raise InvariantError("issuance differs", got=held, expected=total)

    @getter(public=False)
    def free(self, ctx: Context, reader: AccountId) -> Amount:
        """What the reader has free."""
        return self._accounts.account(ctx, reader).free

    @getter(public=False)
    def account(self, ctx: Context, reader: AccountId) -> Funds:
        """What the reader has, free and reserved."""
        return self.funds(ctx, reader)

    @getter(public=True)
    def issuance(self, ctx: Context) -> Amount:
        """How many tokens there are."""
        return self.total.get(ctx)

    def _issue(self, ctx: Context, who: AccountId, amount: Amount) -> None:
        total = self.total.get(ctx) + amount
        if total > _MAX:
            raise IssuanceOverflowError(
                "too many tokens", got=total, expected=f"≤ {_MAX}"
            )
        self.total.put(ctx, Amount(total))
        self._change(ctx, who, free=amount)

    def _destroy(
        self, ctx: Context, who: AccountId, *, free: int = 0, reserved: int = 0
    ) -> None:
        self._change(ctx, who, free=-free, reserved=-reserved)
        self.total.put(ctx, Amount(self.total.get(ctx) - free - reserved))

    def _pass(
        self,
        ctx: Context,
        source: AccountId,
        dest: AccountId,
        *,
        free: int = 0,
        reserved: int = 0,
    ) -> None:
        """Move tokens to what ``dest`` has free; to oneself, nothing leaves."""
        if source == dest:
            self._require(self._accounts.account(ctx, source), -free, -reserved)
            self._change(ctx, source, free=reserved, reserved=-reserved)
            return
        self._change(ctx, source, free=-free, reserved=-reserved)
        self._change(ctx, dest, free=free + reserved)

    def _change(
        self, ctx: Context, who: AccountId, *, free: int = 0, reserved: int = 0
    ) -> None:
        old: Account = self._accounts.account(ctx, who)
        self._require(old, free, reserved)
        new_free, new_reserved = old.free + free, old.reserved + reserved
        self._accounts.put_account(
            ctx,
            who,
            msgspec.structs.replace(
                old, free=Amount(new_free), reserved=Amount(new_reserved)
            ),
        )
        if self._watcher is not None and free + reserved:
            self._watcher.total_changed(
                ctx, who, old.free + old.reserved, new_free + new_reserved
            )

    @staticmethod
    def _require(old: Account, free: int, reserved: int) -> None:
        if old.free + free < 0:
            raise InsufficientFundsError(
                "not enough free", got=old.free, expected=f"≥ {-free}"
            )
        if old.reserved + reserved < 0:
            raise InsufficientReserveError(
                "not enough reserved", got=old.reserved, expected=f"≥ {-reserved}"
            )


def _whole(amount: int) -> int:
    if amount < 0:
        raise NegativeAmountError("amount is negative", got=amount)
    return amount
