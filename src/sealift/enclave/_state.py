"""The shard's state in this enclave, its root, and the trail to the frontier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealift.base import (
    AccountId,
    Bytes32,
    Digest,
    Epoch,
    Generation,
    Height,
    Message,
    ShardId,
    StateRoot,
    UnixSeconds,
    encode,
)
from sealift.crypto import hkdf, hmac_sha256
from sealift.frame import PageStore
from sealift.protocol import EffectsFact, EpochKeys
from sealift.relay import merkle_root

#: The height that the root of the genesis state is made for.
GENESIS_HEIGHT: Final = Height(0)


class TrailEntry(Message, kw_only=True):
    """What executing one block left, until the block is confirmed.

    ``leaves`` are those of the receipts tree, in order; ``maker`` is the
    instance that executed it. ``effects`` is the digest of the block's effects,
    if it had any.
    """

    maker: AccountId
    height: Height
    time: UnixSeconds
    block_hash: Digest
    generation: Generation
    prev_root: StateRoot
    root: StateRoot
    leaves: tuple[Bytes32, ...]
    effects: Digest | None = None


class LastBlock(Message, kw_only=True):
    """What remains known of the last executed block when it has left the trail."""

    generation: Generation
    block_hash: Digest
    prev_root: StateRoot


@dataclass(slots=True, kw_only=True)
class ShardState:
    """The state after ``height``.

    Attributes:
        store: All entries.
        height: The last block that is in it.
        root: Its keyed root.
        root_height: The height that the root was made for: ``height``, or
            :data:`GENESIS_HEIGHT` while no block was executed.
        epoch: The key epoch that the root was made under.
        time: Time of the block ``height``; 0 at genesis.
        trail: The executed blocks above the frontier, ascending, without gaps.
        trusted: Whether this instance made it, or L1 was seen to confirm it.
        diverged: Why nothing may be built on it; empty: nothing is wrong.
        last: The block ``height`` once it has left the trail; ``None`` at genesis, and
            where a snapshot of format 1 did not say it.
    """

    store: PageStore
    height: Height
    root: StateRoot
    root_height: Height
    epoch: Epoch
    time: UnixSeconds
    trail: list[TrailEntry]
    trusted: bool
    diverged: str = ""
    last: LastBlock | None = None

    def last_block(self) -> LastBlock | None:
        """Which block ``height`` was, as far as it is known."""
        if self.trail and self.trail[-1].height == self.height:
            entry = self.trail[-1]
            return LastBlock(
                generation=entry.generation,
                block_hash=entry.block_hash,
                prev_root=entry.prev_root,
            )
        return self.last


def page_key(first: EpochKeys) -> bytes:
    """The secret that spreads entries over pages; the same in all epochs."""
    return hkdf(first.root_key, info=b"sealift/page-key/v1")


def keyed_root(
    keys: EpochKeys, shard: ShardId, height: Height, accumulator: bytes
) -> StateRoot:
    """What leaves as root: HMAC over height and accumulator (DESIGN §9).

    Nobody without the shard's root key can test a guess of the state by it.
    """
    message = encode((shard, keys.epoch, height, accumulator))
    return StateRoot(hmac_sha256(keys.root_key, b"sealift/state-root/v1\x00" + message))


def receipts_root(trail: Sequence[TrailEntry]) -> Digest:
    """The Merkle root over the receipts of consecutive blocks, in order."""
    return merkle_root([leaf for entry in trail for leaf in entry.leaves])


def effects_facts(trail: Sequence[TrailEntry]) -> tuple[EffectsFact, ...]:
    """Which of consecutive blocks have effects, and which effects, in order."""
    return tuple(
        EffectsFact(height=entry.height, effects=entry.effects)
        for entry in trail
        if entry.effects is not None
    )


class DiffHeader(Message, kw_only=True):
    """The public part of a sealed diff; it authenticates the rest.

    ``own`` is a MAC over the header with 32 zero bytes in this place, that only
    its maker can make: others have the state key too, also some whose time is
    over, so it does not say whose a diff is.
    """

    format: int
    chain_id: str
    shard: ShardId
    epoch: Epoch
    entry: TrailEntry
    salt: Bytes32
    own: Bytes32 = bytes(32)


class SealedDiff(Message, kw_only=True):
    """A block's changed entries, as the host keeps and passes them on."""

    header: bytes
    sealed: bytes


class SnapshotFacts(Message, kw_only=True):
    """What a snapshot's header says; chunk 0 is its head, the others hold the pages.

    ``last`` is the block ``height``; ``starts`` the first page of every chunk of
    pages, the first of them 0; ``trusted`` what the maker held of the state
    (:class:`ShardState`); ``own`` is as in a :class:`DiffHeader`.
    """

    format: int
    chain_id: str
    shard: ShardId
    epoch: Epoch
    maker: AccountId
    height: Height
    last: LastBlock | None
    root: StateRoot
    root_height: Height
    time: UnixSeconds
    page_bits: int
    starts: tuple[int, ...]
    trail: tuple[TrailEntry, ...]
    trusted: bool
    salt: Bytes32
    own: Bytes32 = bytes(32)


class SnapshotBody(Message, kw_only=True):
    """The same in format 1, where all chunks hold pages.

    ``starts`` is the first page of every chunk, the first of them 0;
    ``trusted`` what the maker held of the state (:class:`ShardState`); ``own`` is
    as in a :class:`DiffHeader`.
    """

    format: int
    chain_id: str
    shard: ShardId
    epoch: Epoch
    maker: AccountId
    height: Height
    root: StateRoot
    root_height: Height
    time: UnixSeconds
    page_bits: int
    starts: tuple[int, ...]
    trail: tuple[TrailEntry, ...]
    trusted: bool
    salt: Bytes32
    own: Bytes32 = bytes(32)


class SealedSnapshotHeader(Message, kw_only=True):
    """A snapshot's header and its MAC under the state key."""

    body: bytes
    mac: Bytes32


def loaded_state(
    facts: SnapshotFacts | SnapshotBody,
    store: PageStore,
    *,
    last: LastBlock | None,
    own: bool,
) -> ShardState:
    """The state that a whole snapshot is; ``own``: this very instance made it."""
    return ShardState(
        store=store,
        height=facts.height,
        root=facts.root,
        root_height=facts.root_height,
        epoch=facts.epoch,
        time=facts.time,
        trail=list(facts.trail),
        trusted=facts.trusted and own,
        last=last,
    )
