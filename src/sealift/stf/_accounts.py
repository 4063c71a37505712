"""The account record and the port to it."""

from typing import Protocol

from sealift.base import AccountId, Amount, Message, Nonce
from sealift.frame import Context


class Account(Message, kw_only=True, tag=False):
    """All that is kept of an account, in one record (facts/performance §8.10)."""

    nonce: Nonce = Nonce(0)
    free: Amount = Amount(0)
    reserved: Amount = Amount(0)


class Accounts(Protocol):
    """Port: the account records, for pallets that keep something in them."""

    def account(self, ctx: Context, who: AccountId) -> Account:
        """The record of an account; all zero if there is none."""
        ...

    def put_account(self, ctx: Context, who: AccountId, account: Account) -> None:
        """Write the record of an account."""
        ...

    def all_accounts(self, ctx: Context) -> list[tuple[AccountId, Account]]:
        """Every account, in order; reads the whole state."""
        ...
