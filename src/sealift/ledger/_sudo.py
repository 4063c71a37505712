"""`sudo`: the root key of L1."""

from sealift.base import AccountId, Message
from sealift.frame import (
    ROOT,
    Context,
    Event,
    Pallet,
    RuntimeCall,
    StorageValue,
    call,
    ensure_signed,
)

from ._errors import NotRootKeyError


class SudoGenesis(Message, kw_only=True):
    """The first root key."""

    key: AccountId


class Sudone(Event, kw_only=True):
    """Root has called."""

    call: str


class RootKeyChanged(Event, kw_only=True):
    """The root key has changed."""

    key: AccountId


class Sudo(Pallet):
    """One key acts as root of the L1 runtime; of shards only what they say.

    A wrapped call is dispatched as ``Root``, never as an account: what must be
    signed by an account (``invoke``, ``shield_funds``, ``transfer``) cannot be
    wrapped. A wrapper fails with its inner call.
    """

    name = "sudo"
    events = (Sudone, RootKeyChanged)
    errors = (NotRootKeyError,)

    key = StorageValue("key", AccountId)

    def genesis(self, ctx: Context, config: SudoGenesis) -> None:
        """Set the first root key."""
        self.key.put(ctx, config.key)

    @call(weight=50)
    def sudo(self, ctx: Context, *, call: RuntimeCall) -> None:
        """Dispatch a call as root."""
        self._require_key(ctx)
        ctx.dispatch(call, ROOT)
        ctx.emit(Sudone(call=call.name))

    @call(weight=50)
    def set_key(self, ctx: Context, *, key: AccountId) -> None:
        """Hand the root key over."""
        self._require_key(ctx)
        self.key.put(ctx, key)
        ctx.emit(RootKeyChanged(key=key))

    def _require_key(self, ctx: Context) -> None:
        signer = ensure_signed(ctx.origin)
        key = self.key.get(ctx)
        if signer != key:
            raise NotRootKeyError("not the root key", got=signer, expected=key)
