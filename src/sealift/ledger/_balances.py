"""`balances`: free balances, transfers, the fee."""

from sealift.base import AccountId, Amount, Message
from sealift.frame import (
    Context,
    Event,
    Pallet,
    StorageMap,
    StorageValue,
    call,
    ensure_signed,
)

from ._errors import ExistentialDepositError, FeeError, InsufficientFundsError


class BalancesGenesis(Message, kw_only=True):
    """First balances; the fee in smallest units a byte; the least balance."""

    accounts: tuple[tuple[AccountId, Amount], ...]
    fee_per_byte: int
    existential_deposit: int


class Transferred(Event, kw_only=True):
    """Funds have moved."""

    source: AccountId
    dest: AccountId
    amount: Amount


class Burned(Event, kw_only=True):
    """Funds are gone; fees are not told one by one."""

    source: AccountId
    amount: Amount


class Balances(Pallet):
    """Accounts and what they hold; an account with nothing does not exist.

    Fees and prices are burned, so the sum of all balances is ``issuance``.
    """

    name = "balances"
    events = (Transferred, Burned)
    errors = (InsufficientFundsError, ExistentialDepositError, FeeError)

    accounts = StorageMap("accounts", key=AccountId, value=Amount, default=Amount(0))
    issuance = StorageValue("issuance", Amount, default=Amount(0))
    fee_per_byte = StorageValue("fee_per_byte", int)
    existential_deposit = StorageValue("existential_deposit", int)

    def genesis(self, ctx: Context, config: BalancesGenesis) -> None:
        """Give everybody what the genesis says."""
        self.fee_per_byte.put(ctx, config.fee_per_byte)
        self.existential_deposit.put(ctx, config.existential_deposit)
        for account, amount in config.accounts:
            self._put(ctx, account, self.accounts.get(ctx, account) + amount)
        self.issuance.put(ctx, Amount(sum(amount for _, amount in config.accounts)))

    def fee(self, ctx: Context, size: int) -> Amount:
        """The fee of a transaction of so many bytes."""
        return Amount(self.fee_per_byte.get(ctx) * size)

    def require_fee(
        self, ctx: Context, payer: AccountId, amount: int, *, already: int
    ) -> None:
        """Return if the account can pay ``amount`` after ``already``.

        Raises:
            FeeError: It has less.
        """
        free = self.accounts.get(ctx, payer) - already
        if free < amount:
            raise FeeError(
                "account cannot pay the fee",
                got=f"{max(free, 0)} free",
                expected=f"≥ {amount}",
            )

    def move(
        self, ctx: Context, source: AccountId, dest: AccountId, amount: Amount
    ) -> None:
        """Move funds from one account to another.

        Raises:
            InsufficientFundsError: The source has less.
            ExistentialDepositError: Too little for the destination to exist.
        """
        free = self._require(ctx, source, amount)
        held = self.accounts.get(ctx, dest)
        least = self.existential_deposit.get(ctx)
        if source != dest and held + amount < least:
            raise ExistentialDepositError(
                "too little for the account to exist",
                got=held + amount,
                expected=f"≥ {least}",
            )
        self._put(ctx, source, free - amount)
        self._put(ctx, dest, self.accounts.get(ctx, dest) + amount)

    def burn(self, ctx: Context, source: AccountId, amount: Amount) -> None:
        """Destroy funds: fees and prices.

        Raises:
            InsufficientFundsError: The source has less.
        """
        free = self._require(ctx, source, amount)
        self._put(ctx, source, free - amount)
        self.issuance.put(ctx, Amount(self.issuance.get(ctx) - amount))

    @call(weight=200)
    def transfer(self, ctx: Context, *, dest: AccountId, amount: Amount) -> None:
        """Give funds to another account."""
        source = ensure_signed(ctx.origin)
        self.move(ctx, source, dest, amount)
        ctx.emit(Transferred(source=source, dest=dest, amount=amount))

    def _require(self, ctx: Context, source: AccountId, amount: int) -> int:
        free = self.accounts.get(ctx, source)
        if free < amount:
            raise InsufficientFundsError("not enough funds", got=free, expected=amount)
        return free

    def _put(self, ctx: Context, account: AccountId, amount: int) -> None:
        if amount:
            self.accounts.put(ctx, account, Amount(amount))
        else:
            self.accounts.delete(ctx, account)
