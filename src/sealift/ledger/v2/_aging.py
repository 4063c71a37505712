"""Where version 2 of `teerex` keeps what will be forgotten, and what is left of it."""

from sealift.base import AccountId, Height, Message, ShardId
from sealift.frame import Event, StorageMap, StorageValue
from sealift.ledger._teerex_storage import TeerexStorage

#: What ``longest_age`` is at first: 115 days of blocks of one second.
FIRST_LONGEST_AGE = 10_000_000
#: It is never lowered below this, which policies accept that say nothing else: L1's
#: root has no means to keep shards from upgrading. It is far above the number of block
#: hashes that are kept: the statement of a forgotten one cannot be shown again.
LEAST_LONGEST_AGE = 100_000
#: So many places of the queue are looked at in each block.
FORGOTTEN_PER_BLOCK = 16


class Binding(Message, kw_only=True):
    """To whom a forgotten instance's key belongs, for as long as the chain lives."""

    shard: ShardId
    operator: AccountId


class Waiting(Message, kw_only=True):
    """A place in the queue: waits for ``longest_age`` blocks from ``since`` on."""

    signing_key: AccountId
    since: Height


class LongestAgeLowered(Event, kw_only=True):
    """From this block on, new generations accept no older attestations."""

    blocks: int


class EnclaveForgotten(Event, kw_only=True):
    """An instance that can never count again has left the registry by rule."""

    shard: ShardId
    signing_key: AccountId


class AgingStorage(TeerexStorage):
    """The registry's storage of version 1, and what version 2 adds.

    ``queue`` holds the instances by number, in the order in which they are looked
    at: ``queue_first`` is the next, ``queue_end`` the number of the next to come.
    ``places`` is each one's number; nobody has two.
    """

    longest_age = StorageValue("longest_age", int)
    queue = StorageMap("queue", key=int, value=Waiting)
    queue_first: StorageValue[int] = StorageValue("queue_first", int, default=0)
    queue_end: StorageValue[int] = StorageValue("queue_end", int, default=0)
    places = StorageMap("places", key=AccountId, value=int)
    bindings = StorageMap("bindings", key=AccountId, value=Binding)
