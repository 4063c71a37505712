"""The instances that lived in a home, one after another.

Under Gramine a key store opens only on the level that it was sealed on (facts §3.8).
After new microcode what is there stays as it is, and another instance begins beside
it, with an identity of its own, and is provisioned by a peer. Should the old level
come back, so does the old instance.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from sealift.base import AccountId, Fingerprint
from sealift.protocol.ecall import Started
from sealift.transport.files import make_folder

from ._config import WorkerConfig
from ._errors import SealingKeyChangedError
from ._feed import L1Source
from ._fetch import record_of
from ._store import WorkerStore

#: How the enclave names a key store of a level that the platform has no key for.
KEY_STORE_LEVEL: Final = "KeyStoreLevelError"
_FOLDER_MODE: Final = 0o700
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_SELF: Final = "signing_key"
_PEER: Final = "begun_from"
_LOG: Final = logging.getLogger(__name__)

Start = Callable[[WorkerConfig, WorkerStore], Awaitable[Started]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunLife:
    """The instance that runs now; the caller closes its store."""

    config: WorkerConfig
    store: WorkerStore
    started: Started
    upstream: str


async def begin_life(
    config: WorkerConfig,
    l1: L1Source,
    *,
    fingerprint: Fingerprint,
    start: Start,
    upstream: str,
) -> BegunLife:
    """Start the newest instance that opens here, else a new one beside them.

    1. The newest first. Only that the platform has no key of its level leads to the
       one before; whatever else is wrong with it is an error. 2. If none opens, and a
       peer is known that may have the keys, a new one begins. Nothing that is there
       is read for writing, moved or removed.

    Args:
        config: The home.
        l1: The chain, where peers have announced themselves.
        fingerprint: The enclave's.
        start: Starts the enclave from an instance's folder.
        upstream: The peer that was named, or nothing.

    Raises:
        SealingKeyChangedError: None opens, and no peer is known.
        StoreError: As ``start``, for any other reason.
    """
    refused: SealingKeyChangedError | None = None
    holders: dict[AccountId, None] = {}
    for one in lives(config):  # 1.
        store = _open(one, fingerprint)
        try:
            started = await start(one, store)
            store.put_meta(_SELF, started.signing_key)
            found = store.meta(_PEER) or b""  # it may have ended before it had keys
        except SealingKeyChangedError as error:
            refused = refused or error
            holders |= dict.fromkeys(_others(store))
            store.close()
        except BaseException:
            store.close()
            raise
        else:
            return BegunLife(
                config=one,
                store=store,
                started=started,
                upstream=upstream or found.decode(),
            )
    peer = upstream or await _announced(holders, l1)
    if refused is not None and not peer:
        raise refused
    fresh = replace(config, life=_newest(config) + 1)  # 2.
    _LOG.warning(
        "%s A new instance begins in %s and asks %s for the keys.",
        refused,
        fresh.folder,
        peer,
    )
    make_folder(fresh.folder, mode=_FOLDER_MODE)
    store = _open(fresh, fingerprint)
    try:
        store.put_meta(_PEER, peer.encode())
        started = await start(fresh, store)
        store.put_meta(_SELF, started.signing_key)
        store.add_holders(*holders)  # where that peer is away, it asks them
    except BaseException:
        store.close()
        raise
    return BegunLife(config=fresh, store=store, started=started, upstream=peer)


def _open(config: WorkerConfig, fingerprint: Fingerprint) -> WorkerStore:
    return WorkerStore(config.database, shard=config.shard, fingerprint=fingerprint)


def _newest(config: WorkerConfig) -> int:
    names = (path.name for path in (config.base / "lives").glob("*"))
    return max((int(one) for one in names if _NUMBER.fullmatch(one)), default=0)


def lives(config: WorkerConfig) -> Iterator[WorkerConfig]:
    """Those of one code, newest first; the first of all is in the base folder."""
    for number in range(_newest(config), -1, -1):
        one = replace(config, life=number)
        if number == 0 or one.folder.is_dir():
            yield one


def _others(store: WorkerStore) -> list[AccountId]:
    """Those that an instance knew to hold the keys, without itself."""
    return [key for key in store.holder_keys() if key != store.meta(_SELF)]


async def _announced(holders: Iterable[AccountId], l1: L1Source) -> str:
    """Where the first of some instances is announced that has an address."""
    height = await l1.wait_for_height(1) - 1
    for key in holders:
        record = await record_of(l1, key, max(height, 1))
        if record is not None and record.url:
            return record.url
    return ""
