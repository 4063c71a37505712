"""Who speaks in a call, in which block."""

from sealift.base import AccountId, ChainId, Height, Message, ShardId, UnixSeconds

from ._errors import BadOriginError


class Origin(Message, kw_only=True):
    """Who dispatches a call; pallets may add kinds of their own by subclassing."""


class Signed(Origin, kw_only=True):
    """An account whose signature was verified before dispatch."""

    account: AccountId


class Root(Origin, kw_only=True):
    """The runtime itself: governance, hooks, ``sudo``."""


class Nobody(Origin, kw_only=True):
    """No one in particular: carried by a block, signed by nobody."""


#: The one ``Root`` and the one ``Nobody``, so that nobody has to build them.
ROOT = Root()
NOBODY = Nobody()


def ensure_signed(origin: Origin) -> AccountId:
    """The account that signed.

    Raises:
        BadOriginError: The origin is not ``Signed``.
    """
    if type(origin) is not Signed:
        raise BadOriginError(
            "call needs a signature", got=type(origin).__name__, expected="Signed"
        )
    return origin.account


def ensure_root(origin: Origin) -> None:
    """Return if the origin is ``Root``.

    Raises:
        BadOriginError: It is not.
    """
    if type(origin) is not Root:
        raise BadOriginError(
            "call needs root", got=type(origin).__name__, expected="Root"
        )


class BlockInfo(Message, kw_only=True):
    """The L1 block in which a runtime is executing.

    ``time`` is verified block time; there is no other clock. ``shard`` is
    ``None`` on L1.
    """

    chain_id: ChainId
    height: Height
    time: UnixSeconds
    shard: ShardId | None = None
