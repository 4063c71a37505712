"""``sudo``: one key of the shard that may call as root."""

from typing import Protocol

from sealift.base import AccountId, Message
from sealift.frame import (
    ROOT,
    Context,
    Event,
    Pallet,
    PalletError,
    RuntimeCall,
    StorageValue,
    call,
    ensure_signed,
)

from ._getters import getter


class SudoKeyChanged(Event, kw_only=True):
    """Another key has sudo now."""

    key: AccountId


class NotSudoError(PalletError):
    """The signer does not hold the sudo key."""


class SudoGenesis(Message, kw_only=True, tag=False):
    """Who has sudo from the beginning."""

    key: AccountId


class SudoKey(Protocol):
    """Port: who has sudo."""

    def ensure_sudo(self, ctx: Context) -> AccountId:
        """The signer, who holds the sudo key.

        Raises:
            BadOriginError: Nobody signed.
            NotSudoError: Another one signed.
        """
        ...


class Sudo(Pallet):
    """One key that may call as root; a wrapper fails with its inner call."""

    name = "sudo"
    storage_version = 1
    events = (SudoKeyChanged,)
    errors = (NotSudoError,)

    current: StorageValue[AccountId] = StorageValue("key", AccountId)

    def genesis(self, ctx: Context, config: SudoGenesis) -> None:
        """Give sudo to the first key."""
        self.current.put(ctx, config.key)

    def ensure_sudo(self, ctx: Context) -> AccountId:
        """The signer, who holds the sudo key (port :class:`SudoKey`)."""
        signer = ensure_signed(ctx.origin)
        if signer != self.current.get(ctx):
            raise NotSudoError("not the sudo key", got=signer)
        return signer

    @call(weight=20)
    def sudo(self, ctx: Context, *, call: RuntimeCall) -> None:
        """Run a call as root."""
        self.ensure_sudo(ctx)
        ctx.dispatch(call, ROOT)

    @call(weight=20)
    def set_key(self, ctx: Context, *, key: AccountId) -> None:
        """Hand sudo over."""
        self.ensure_sudo(ctx)
        self.current.put(ctx, key)
        ctx.emit(SudoKeyChanged(key=key))

    @getter(public=True)
    def key(self, ctx: Context) -> AccountId:
        """Who has sudo."""
        return self.current.get(ctx)
